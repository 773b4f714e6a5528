"""Which invocations to find: the one description every store understands."""

import msgspec

from durable.core.invocation import Invocation, Status
from durable.core.journal import failure_of


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
    #: Only those accepted before this one (the `seq` of the last of the page before).
    before: int | None = None
    #: Only those whose retention is not over by then, in ms since the epoch.
    now: int | None = None

    @property
    def failure_as_stored(self) -> str:
        """That text as it stands in JSON."""
        return msgspec.json.encode(self.failure or "").decode()[1:-1]


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
        and (where.before is None or invocation.seq < where.before)
        and (where.created_after is None or invocation.created_at >= where.created_after)
        and (where.created_before is None or invocation.created_at < where.created_before)
        and (where.caller is None or (submission.caller is not None and submission.caller.id == where.caller))
        and (where.idempotency_key is None or submission.idempotency_key == where.idempotency_key)
        and (where.failure is None or _failed_with(where.failure, invocation))
        and (where.now is None or not invocation.expired(where.now))
    )


def _failed_with(text: str, invocation: Invocation) -> bool:
    problem, outcome = invocation.problem, invocation.outcome
    texts = [] if problem is None else [problem.message, problem.type, problem.stacktrace, problem.name]
    if outcome is not None and not outcome.ok:
        failure = failure_of(outcome)
        texts += [failure.message, *failure.metadata.values()]
    return any(text in one for one in texts)
