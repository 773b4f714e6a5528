"""Which invocations to find, in the form that every store understands."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from durable.core.invocation import Invocation, Status
from durable.core.journal import failure_of
from durable.core.sealed import Sealed

#: Where a page begins: the moment of acceptance and the number of the invocation before it.
Cursor = tuple[int, int]
#: A moment after all others: invocations whose moment is damaged are listed there.
NEVER = 2**63 - 1


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which invocations to list, newest first."""

    id: str | None = None
    service: str | None = None
    handler: str | None = None
    key: str | None = None
    status: frozenset[str] = frozenset()
    #: Accepted at this moment or later; before this moment.
    created_after: int | None = None
    created_before: int | None = None
    #: Text in the last failure, or in the failure that it ended with.
    failure: str | None = None
    #: The id of the invocation that asked for it.
    caller: str | None = None
    idempotency_key: str | None = None
    #: The reason of the last failure.
    reason: str | None = None
    limit: int = 100
    #: Only those behind this one: the last of the page before (`cursor_of`).
    before: Cursor | None = None
    #: Only those whose retention is not over by then, in ms since the epoch.
    now: int | None = None
    #: At most how many rows are looked at, beyond what an index selects by itself; None is all of them.
    examine: int | None = None

    @property
    def failure_as_stored(self) -> str:
        """That text as it stands in JSON."""
        return msgspec.json.encode(self.failure or "").decode()[1:-1]


class Page(msgspec.Struct, frozen=True):
    """A page of a listing."""

    found: Sequence[Invocation]
    #: Where the next page begins; None where there is none. Where `examine` ended this one, it may hold less than
    #: was wanted, or nothing, and there is a next one.
    next: Cursor | None


class Waiting(msgspec.Struct):
    """How many invocations of one handler are in one status."""

    number: int
    #: When the oldest of them was accepted, in ms since the epoch.
    oldest: int


class Backlog(msgspec.Struct, frozen=True):
    """What is open."""

    #: By service, handler and status.
    invocations: dict[tuple[str, str, str], Waiting]
    timers: int


class Counts(msgspec.Struct, frozen=True):
    """How many invocations there are."""

    by_status: dict[str, int]
    #: False where `examine` ended the counting: there may be more.
    complete: bool = True


def cursor_of(invocation: Invocation) -> Cursor:
    """Where the next page begins, after a page that ends with this invocation."""
    return cursor_at(invocation.created_at, invocation.seq)


def cursor_at(created_at: int, seq: int) -> Cursor:
    """The same of its moment and number; a moment that cannot be read was taken for 0."""
    return created_at or NEVER, seq


def page_of(invocations: Iterable[Invocation], where: Filter) -> Page:
    """The page of a listing, out of all invocations."""
    wanted = sorted((one for one in invocations if matches(where, one)), key=cursor_of, reverse=True)
    found, limit = wanted[: where.limit], where.limit
    return Page(found, None if len(wanted) <= limit else cursor_of(found[-1]) if found else where.before)


def backlog_of(invocations: Iterable[Invocation], timers: int) -> Backlog:
    """The open ones of these invocations, counted."""
    found: dict[tuple[str, str, str], Waiting] = {}
    for one in invocations:
        if one.status is not Status.COMPLETED:
            of = (one.submission.service, one.submission.handler, str(one.status))
            waiting = found.setdefault(of, Waiting(0, one.created_at))
            waiting.number += 1
            waiting.oldest = min(waiting.oldest, one.created_at)
    return Backlog(found, timers)


def counts_of(invocations: Iterable[Invocation], where: Filter) -> Counts:
    """How many of all invocations a filter selects; `limit` and `before` do not count."""
    everything = msgspec.structs.replace(where, before=None)
    counted = Counter(str(one.status) for one in invocations if matches(everything, one))
    return Counts(dict(sorted(counted.items())))


def matches(where: Filter, invocation: Invocation) -> bool:
    """Whether a filter selects an invocation."""
    submission = invocation.submission
    return (
        (where.id is None or submission.id == where.id)
        and (where.service is None or submission.service == where.service)
        and (where.handler is None or submission.handler == where.handler)
        and (where.key is None or submission.key == where.key)
        and (not where.status or Status(invocation.status) in where.status)
        and (where.reason is None or (invocation.problem is not None and invocation.problem.reason == where.reason))
        and (where.before is None or cursor_of(invocation) < where.before)
        and (where.created_after is None or invocation.created_at >= where.created_after)
        and (where.created_before is None or invocation.created_at < where.created_before)
        and (where.caller is None or (submission.caller is not None and submission.caller.id == where.caller))
        and (where.idempotency_key is None or submission.idempotency_key == where.idempotency_key)
        and (where.failure is None or _failed_with(where.failure, invocation))
        and (where.now is None or not invocation.expired(where.now))
    )


def _failed_with(text: str, invocation: Invocation) -> bool:
    problem, outcome = invocation.problem, invocation.outcome
    if not text:
        return problem is not None or (outcome is not None and not outcome.ok)
    texts = [] if problem is None else [problem.message, problem.type, problem.stacktrace, problem.name]
    if outcome is not None and not outcome.ok and not isinstance(outcome.value, Sealed):
        failure = failure_of(outcome)
        texts += [failure.message, *failure.metadata.values()]
    return any(text in one for one in texts)
