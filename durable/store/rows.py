"""Invocations and rows: the two directions of the mapping, and nothing else."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from durable.core import waiting
from durable.core.invocation import DAMAGED, Caller, Flavor, Invocation, Open, Problem, Status, Submission
from durable.core.journal import COMMAND, COMPLETION, DETACHED, Kind, Outcome, Row
from durable.core.turn import JOINED, output_topic

_json = msgspec.json.Encoder()
_headers = msgspec.json.Decoder(dict[str, str])
_counts = msgspec.json.Decoder(dict[int, int])
_problem = msgspec.json.Decoder(Problem)

FIXED = (
    "seq, id, service, handler, key, flavor, input, headers, idempotency_key, caller_seq, caller_id, caller_entry,"
    " caller_target, caller_waits, completion_retention_ms, journal_retention_ms, created_at, restarted_from, seed"
)
MOVING = (
    "status, attempt, failures, step_failures, last_failure, due_at, queued, waiting_for, cancelling, listened,"
    " modified_at, completed_at, ok, output, expires_at, pausing, journal_until"
)
FIXED_COUNT = FIXED.count(",") + 1
MOVING_NAMES = tuple(name.strip() for name in MOVING.split(","))


def fixed(invocation: Invocation) -> tuple[Any, ...]:
    """What never changes, in the order of `FIXED`."""
    submission = invocation.submission
    caller = submission.caller
    return (
        invocation.seq,
        submission.id,
        submission.service,
        submission.handler,
        submission.key,
        submission.flavor,
        submission.input,
        _text(submission.headers) if submission.headers else None,
        submission.idempotency_key,
        *((None,) * 5 if caller is None else (caller.seq, caller.id, caller.entry, caller.target, caller.waits)),
        submission.completion_retention_ms,
        submission.journal_retention_ms,
        invocation.created_at,
        submission.restarted_from,
        submission.seed,
    )


def moving(invocation: Invocation) -> tuple[Any, ...]:
    """Where it stands, in the order of `MOVING`."""
    outcome, completed_at = invocation.outcome, invocation.completed_at
    return (
        invocation.status,
        invocation.attempt,
        invocation.failures,
        _text(invocation.step_failures) if invocation.step_failures else None,
        _text(invocation.problem) if invocation.problem is not None else None,
        invocation.due_at,
        invocation.queued,
        waiting.encode(invocation.waiting).decode() if invocation.waiting is not None else None,
        invocation.cancelling,
        invocation.listened,
        invocation.modified_at,
        completed_at,
        None if outcome is None else outcome.ok,
        None if outcome is None else outcome.value,
        None if completed_at is None else completed_at + invocation.submission.completion_retention_ms,
        invocation.pausing,
        None if completed_at is None else _journal_until(invocation, completed_at),
    )


def _journal_until(invocation: Invocation, completed_at: int) -> int:
    """Until when a completed invocation's journal is kept; 0 where it is gone."""
    return completed_at + invocation.submission.journal_retention_ms if invocation.journal_kept else 0


def without_journal(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row of an invocation whose journal is gone."""
    place = FIXED_COUNT + MOVING_NAMES.index("journal_until")
    return (*row[:place], 0, *row[place + 1 :])


def invocation_of(row: Sequence[Any]) -> Invocation:
    """The invocation of a row that selects `FIXED, MOVING`.

    A row that cannot be read is a paused invocation that says so: it can be listed and killed, and stops nobody else.
    """
    try:
        return _read(row)
    except Exception as error:
        problem = Problem(f"its stored row is damaged: {type(error).__name__}: {error}", DAMAGED)
        seq, id, service, handler, key = row[:5]
        submission = Submission(str(id), str(service), str(handler), key, Flavor.SERVICE, b"")
        queued = row[FIXED_COUNT + MOVING_NAMES.index("queued")]
        return Invocation(seq, submission, 0, Status.PAUSED, problem=problem, queued=queued)


def _read(row: Sequence[Any]) -> Invocation:
    """The same, where nothing is damaged."""
    (
        seq, id, service, handler, key, flavor, input, headers, idempotency_key,
        caller_seq, caller_id, caller_entry, caller_target, caller_waits,
        completion_retention_ms, journal_retention_ms, created_at, restarted_from, seed,
        status, attempt, failures, step_failures, problem, due_at, queued, waiting_for, cancelling, listened,
        modified_at, completed_at, ok, output, _expires_at, pausing, journal_until,
    ) = row  # fmt: skip
    caller = None
    if caller_id is not None:
        caller = Caller(caller_seq, caller_id, caller_entry, caller_target, bool(caller_waits))
    return Invocation(
        seq,
        Submission(
            id,
            service,
            handler,
            key,
            Flavor(flavor),
            input,
            _headers.decode(headers) if headers else {},
            idempotency_key,
            caller,
            None,
            completion_retention_ms,
            journal_retention_ms,
            restarted_from,
            seed,
        ),
        created_at,
        Status(status),
        attempt,
        failures,
        _counts.decode(step_failures) if step_failures else {},
        _problem.decode(problem) if problem else None,
        due_at,
        queued,
        waiting.decode(waiting_for.encode()) if waiting_for else None,
        cancelling,
        bool(pausing),
        bool(listened),
        None if ok is None else Outcome(bool(ok), output),
        completed_at,
        modified_at,
        journal_until != 0,
    )


def attach_journal(invocation: Invocation, rows: Iterable[Row]) -> None:
    """Read off a journal what the core keeps in memory: the last entry, what is open or came early, the cancels."""
    invocation.open, invocation.early, invocation.kept, invocation.cancels = {}, {}, {}, 0
    for row in rows:
        if row.entry == 0:
            invocation.cancels += 1
            continue
        if row.part == COMMAND:
            invocation.last_entry = max(invocation.last_entry, row.entry)
            if row.ok is None and row.kind not in DETACHED:
                joined = row.kind == Kind.CALL and (row.detail or "").startswith(JOINED)
                invocation.open[row.entry] = Open(Kind.ATTACH if joined else Kind(row.kind), _ref(row))
                if row.kind == Kind.SLEEP and invocation.open[row.entry].ref is None:
                    message = f"its journal is damaged: entry {row.entry} sleeps until {row.detail!r}"
                    invocation.status, invocation.problem = Status.PAUSED, Problem(message, DAMAGED)
        elif row.part == COMPLETION:
            if row.ordinal is not None:
                invocation.open.pop(row.entry, None)
            elif row.kind == Kind.CALL:
                invocation.kept[row.entry] = Outcome(bool(row.ok), row.value or b"")
            else:
                invocation.early[row.entry] = Outcome(bool(row.ok), row.value or b"")


def _ref(row: Row) -> str | int | None:
    if row.kind == Kind.SLEEP:
        return int(row.detail) if row.detail is not None and row.detail.isdecimal() else None
    if row.kind == Kind.SIGNAL:
        return row.name
    if row.kind == Kind.ATTACH:
        return output_topic(row.detail or "")
    return row.detail


def _text(value: Any) -> str:
    return _json.encode(value).decode()
