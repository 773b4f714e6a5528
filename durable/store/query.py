"""Read models: invocations as a person reads them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from durable.core.invocation import Invocation, Problem, Status
from durable.core.journal import COMMAND, COMPLETION, DETACHED, Row


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which invocations to list, newest first."""

    id: str | None = None
    service: str | None = None
    handler: str | None = None
    key: str | None = None
    status: frozenset[str] = frozenset()
    limit: int = 100
    #: Only those accepted before this one (the `seq` of the last of the page before).
    before: int | None = None


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry. Entry 0 is the input; the output has the number after the last one."""

    entry: int
    kind: str
    name: str = ""
    #: "open" while there is no outcome, "done" for what has none to wait for, "success" or "failure".
    result: str
    #: As the serializer wrote it; a failure is JSON.
    value: bytes | None = None
    #: A sleep's due time, a callee's id, a topic.
    detail: str | None = None
    recorded_at: int
    completed_at: int | None = None


class InvocationView(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation as `invocations()` and `describe()` show it. Times are ms since the epoch."""

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
    #: The start of a scheduled one, the next retry of one that is backing off.
    due_at: int | None = None
    attempt: int = 0
    failures: int = 0
    last_failure: Problem | None = None
    #: "success" or "failure" once it is completed.
    completion_result: str | None = None
    idempotency_key: str | None = None
    caller_id: str | None = None
    caller_target: str | None = None
    #: What a suspended one waits for, as entry numbers.
    waiting_for: tuple[int, ...] = ()
    headers: dict[str, str] = {}
    #: The raw input and output, as the serializer wrote them; only `describe` fills them in.
    input: bytes | None = None
    output: bytes | None = None
    journal: tuple[EntryView, ...] = ()


def view_of(invocation: Invocation, **more: Any) -> InvocationView:
    """The view of an invocation that is in memory or was just read."""
    from durable.core.waiting import entries

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
        failures=max([invocation.failures, *invocation.step_failures.values()]),
        last_failure=invocation.problem,
        completion_result=None if outcome is None else ("success" if outcome.ok else "failure"),
        idempotency_key=submission.idempotency_key,
        caller_id=None if caller is None else caller.id,
        caller_target=None if caller is None else caller.target,
        waiting_for=() if invocation.waiting is None else tuple(entries(invocation.waiting)),
        headers=submission.headers,
        input=submission.input,
        output=None if outcome is None else outcome.value,
        **more,
    )


def matches(where: Filter, invocation: Invocation) -> bool:
    """Whether a filter selects an invocation."""
    submission = invocation.submission
    return (
        (where.id is None or submission.id == where.id)
        and (where.service is None or submission.service == where.service)
        and (where.handler is None or submission.handler == where.handler)
        and (where.key is None or submission.key == where.key)
        and (not where.status or Status(invocation.status) in where.status)
        and (where.before is None or invocation.seq < where.before)
    )


def entries_of(invocation: InvocationView, rows: Sequence[Row]) -> tuple[EntryView, ...]:
    """A journal as a person reads it: the input, what the handler did, the output."""
    completions = {row.entry: row for row in rows if row.part == COMPLETION and row.entry}
    shown = [
        EntryView(entry=0, kind="input", result="done", value=invocation.input, recorded_at=invocation.created_at)
    ]
    last = 0
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
                value=None if ended is None else ended.value,
                detail=row.detail,
                recorded_at=row.at,
                completed_at=None if ended is None else ended.at,
            )
        )
    if invocation.completed_at is not None:
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
