"""Invocations as a person reads them."""

from collections.abc import Iterator, Sequence

import msgspec

from durable.core.ids import awakeable_id
from durable.core.invocation import Invocation, Problem, Status
from durable.core.journal import COMMAND, COMPLETION, DETACHED, OPTIONAL, Kind, Row
from durable.core.reasons import advice
from durable.core.sealed import Sealed, SealedText, shown
from durable.core.topics import JOINED


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry. Entry 0 is the input; the output has the number after the last entry."""

    entry: int
    kind: str
    name: str = ""
    #: "open" while there is no outcome, "done" if there is none to wait for, "success" or "failure".
    result: str
    #: The outcome as the serializer wrote it; a failure is JSON. None if there is none, or if nothing was found.
    value: bytes | None = None
    #: When a sleep ends, the id of a called or sent invocation, the id of an awakeable, a topic.
    detail: str | None = None
    recorded_at: int
    completed_at: int | None = None


class ChildView(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation that a handler asked for."""

    entry: int
    #: "call" or "send".
    kind: str
    id: str
    target: str
    #: How the call ended: "open", "success" or "failure"; "done" for a send, which nobody waits for.
    result: str


class WaitView(msgspec.Struct, frozen=True, kw_only=True):
    """What an invocation waits for before it goes on.

    `kind` is that of an entry ("sleep", "call", "awakeable", "promise", …); or "start" (when it is due), "key"
    (`detail` is the invocation that holds it), "slot" (others are running), "retry" (when it is due), "resume" (by an
    operator; `name` is the reason, if it was paused at once).
    """

    kind: str
    entry: int = 0
    name: str = ""
    #: The id of the invocation that was called or holds the key, the id that completes an awakeable, a topic.
    detail: str | None = None
    due_at: int | None = None


class TimerView(msgspec.Struct, frozen=True, kw_only=True):
    """When something is due for an invocation: entry 0 is its own start or retry, others are sleeps."""

    entry: int
    due_at: int


class InvocationView(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation as `invocations()` and `describe()` show it. Times are ms since the epoch.

    A listing leaves `input`, `output`, `waits_for`, `children`, `timers` and `journal` empty; `describe` does not.
    """

    seq: int
    id: str
    service: str
    handler: str
    key: str | None
    target: str
    status: str
    created_at: int
    modified_at: int
    completed_at: int | None = None
    #: When it starts, if it is scheduled; when it is retried, if it is backing off.
    due_at: int | None = None
    attempt: int = 0
    failures: int = 0
    last_failure: Problem | None = None
    #: What it needs, if it is paused.
    advice: str = ""
    #: "success" or "failure" once it is completed.
    completion_result: str | None = None
    idempotency_key: str | None = None
    caller_id: str | None = None
    caller_target: str | None = None
    #: The invocation of which this one is a restart.
    restarted_from: str | None = None
    #: A cancel was accepted, and waits until its calls and steps have ended.
    cancelling: bool = False
    #: A pause was accepted, and waits until its steps have ended.
    pausing: bool = False
    headers: dict[str, str] = {}

    # Only `describe` fills in the following fields: they are empty in a listing.
    #: The raw input and output, as the serializer wrote them.
    input: bytes | None = None
    output: bytes | None = None
    waits_for: tuple[WaitView, ...] = ()
    #: What it called and sent, in order.
    children: tuple[ChildView, ...] = ()
    #: What is due, earliest first.
    timers: tuple[TimerView, ...] = ()
    #: Empty if it was purged, or its retention is over.
    journal: tuple[EntryView, ...] = ()


class InvocationPage(msgspec.Struct, frozen=True):
    """A page of a listing, newest first."""

    invocations: list[InvocationView]
    #: What to give as `cursor` for the next page; None where there is none.
    next: str | None
    #: How many there are of each status, on all pages.
    counts: dict[str, int] | None = None
    #: Whether those are all; where counting would have taken too long, there may be more.
    counts_complete: bool = True


class JournalPage(msgspec.Struct, frozen=True):
    """Some of a journal, in its order; empty where it was purged."""

    id: str
    entries: tuple[EntryView, ...]
    #: What to give as `after` for the next page; None where there is none.
    next: int | None = None


def view_of(invocation: Invocation) -> InvocationView:
    """The view of an invocation that is in memory or was just read."""
    submission, caller, outcome = invocation.submission, invocation.submission.caller, invocation.outcome
    return InvocationView(
        seq=invocation.seq,
        id=submission.id,
        service=submission.service,
        handler=submission.handler,
        key=submission.key,
        target=submission.target,
        status=str(invocation.status),
        created_at=invocation.created_at,
        modified_at=invocation.modified_at,
        completed_at=invocation.completed_at,
        due_at=invocation.due_at,
        attempt=invocation.attempt,
        failures=max(
            [invocation.failures, *[count for entry, count in invocation.step_failures.items() if entry > 0]]
        )
        + invocation.crashes,
        last_failure=_failure(invocation.problem),
        advice=_advice(invocation),
        completion_result=None if outcome is None else ("success" if outcome.ok else "failure"),
        idempotency_key=submission.idempotency_key,
        caller_id=None if caller is None else caller.id,
        caller_target=None if caller is None else caller.target,
        restarted_from=submission.restarted_from,
        cancelling=invocation.cancelling > 0,
        pausing=invocation.pausing and invocation.status is Status.RUNNING,
        headers=submission.headers if invocation.sealed is None else _plain(submission.headers),
        input=shown(submission.input),
        output=None if outcome is None else shown(outcome.value),
    )


def _failure(problem: Problem | None) -> Problem | None:
    """With texts of which nobody here has the key told as such."""
    if problem is None or not (isinstance(problem.message, SealedText) or isinstance(problem.stacktrace, SealedText)):
        return problem
    return msgspec.structs.replace(problem, message=str(problem.message), stacktrace=str(problem.stacktrace))


def _plain(headers: dict[str, str]) -> dict[str, str]:
    return {name: str(value) for name, value in headers.items()}


def _advice(invocation: Invocation) -> str:
    problem = invocation.problem
    if invocation.status is not Status.PAUSED:
        return ""
    reason = "" if problem is None else problem.reason
    unseen = (problem is not None and problem.cancel_waits) or invocation.cancelling > 0
    return advice(reason, cancelling=unseen, held=problem is None or invocation.pausing)


def describe(
    invocation: Invocation, rows: Sequence[Row], awaited: Sequence[int], holder: str | None
) -> InvocationView:
    """All that is known of one. The entries `awaited` are as of now; `holder` holds its key."""
    view = view_of(invocation)
    journal = entries_of(view, rows, run=invocation.run_number) if invocation.journal_kept else ()
    return msgspec.structs.replace(
        view,
        journal=journal,
        children=tuple(_child(one) for one in journal if one.kind in (Kind.CALL, Kind.SEND)),
        timers=tuple(sorted(_timers(view, journal), key=lambda timer: (timer.due_at, timer.entry))),
        waits_for=tuple(_waits(view, journal, awaited, holder)),
    )


def journal_page(invocation: Invocation, rows: Sequence[Row], after: int | None, limit: int) -> JournalPage:
    """Up to `limit` entries above `after`; `rows` has those of one more, where there is one."""
    if not invocation.journal_kept:
        return JournalPage(invocation.id, ())
    last = (after or 0) + limit
    some = [row for row in rows if row.entry <= last]
    more = len(some) < len(rows)
    return JournalPage(
        invocation.id,
        entries_of(view_of(invocation), some, run=invocation.run_number, after=after, to_end=not more),
        last if more else None,
    )


def _child(entry: EntryView) -> ChildView:
    id = (entry.detail or "").removeprefix(JOINED)
    return ChildView(entry=entry.entry, kind=entry.kind, id=id, target=entry.name, result=entry.result)


def _timers(view: InvocationView, journal: Sequence[EntryView]) -> Iterator[TimerView]:
    if view.completed_at is not None:
        return
    if view.due_at is not None:
        yield TimerView(entry=0, due_at=view.due_at)
    for one in journal:
        if one.kind == Kind.SLEEP and one.result == "open":
            yield TimerView(entry=one.entry, due_at=int(one.detail or 0))


def _waits(
    view: InvocationView, journal: Sequence[EntryView], awaited: Sequence[int], holder: str | None
) -> Iterator[WaitView]:
    match view.status:
        case Status.SCHEDULED:
            yield WaitView(kind="start", due_at=view.due_at)
        case Status.PENDING:
            yield WaitView(kind="key", name=f"{view.service}/{view.key}", detail=holder)
        case Status.BACKING_OFF:
            yield WaitView(kind="retry", due_at=view.due_at)
        case Status.PAUSED:
            reason = view.last_failure.reason if view.last_failure is not None else ""
            yield WaitView(kind="resume", name=reason)
        case Status.READY:
            yield WaitView(kind="slot")
    for one in journal:
        if one.entry in awaited and one.result == "open":
            due_at = int(one.detail) if one.kind == Kind.SLEEP and one.detail else None
            yield WaitView(kind=one.kind, entry=one.entry, name=one.name, detail=one.detail, due_at=due_at)


def _detail(id: str, row: Row, run: int) -> str | None:
    """What the entry hangs on. An awakeable's id follows from its place; where it was copied, it is recorded."""
    if row.kind == Kind.AWAKEABLE and row.detail is None:
        return awakeable_id(id, row.entry, run)
    return row.detail


def _value(kind: str, ended: Row) -> bytes | None:
    """What came of an entry; None where it found nothing."""
    if isinstance(ended.value, Sealed):
        return bytes(shown(ended.value))
    if kind in OPTIONAL and ended.ok:
        return ended.value[1:] if ended.value and ended.value.startswith(b"1") else None
    return ended.value


def entries_of(
    invocation: InvocationView, rows: Sequence[Row], *, run: int = 0, after: int | None = None, to_end: bool = True
) -> tuple[EntryView, ...]:
    """A journal as a person reads it: the input, what the handler did, the output. `run`: `Invocation.run_number`.

    Of a part of it, the input comes with its beginning (`after` is None), the output `to_end`.
    """
    completions = {row.entry: row for row in rows if row.part == COMPLETION and row.entry and row.ordinal is not None}
    shown: list[EntryView] = []
    if after is None:
        at = invocation.created_at
        shown.append(EntryView(entry=0, kind="input", result="done", value=invocation.input, recorded_at=at))
    last = after or 0
    for row in rows:
        if row.entry == 0:
            shown.append(EntryView(entry=0, kind=row.kind, result="done", recorded_at=row.at))
        if row.part != COMMAND or row.entry == 0:
            continue
        last = max(last, row.entry)
        ended = completions.get(row.entry, row if row.ok is not None else None)
        if ended is not None:
            result = "success" if ended.ok else "failure"
        else:
            result = "done" if row.kind in DETACHED else "open"
        shown.append(
            EntryView(
                entry=row.entry,
                kind=row.kind,
                name=row.name or "",
                result=result,
                value=None if ended is None else _value(row.kind, ended),
                detail=_detail(invocation.id, row, run),
                recorded_at=row.at,
                completed_at=None if ended is None else ended.at,
            )
        )
    if to_end and invocation.completed_at is not None:
        shown.append(
            EntryView(
                entry=last + 1,
                kind="output",
                result=invocation.completion_result or "",
                value=invocation.output,
                recorded_at=invocation.completed_at,
                completed_at=invocation.completed_at,
            )
        )
    return tuple(shown)
