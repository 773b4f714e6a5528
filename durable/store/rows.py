"""Invocations and rows: the two directions of the mapping, and what a damaged row is taken for.

Nothing here raises for what a row contains, but for `StorageCorruptError` with the table, the entry and the column.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from durable.core import waiting
from durable.core.alike import InLine
from durable.core.ids import FULL, READABLE, child_id, claimed_id, is_invocation_id, stand_in_id
from durable.core.invocation import (
    Caller,
    Flavor,
    Invocation,
    Open,
    Problem,
    Status,
    Submission,
    damage,
)
from durable.core.journal import COMMAND, COMPLETION, DETACHED, Kind, Outcome, Row
from durable.core.topics import JOINED, output_topic
from durable.core.world import Loaded
from durable.errors import StorageCorruptError
from durable.store.checksums import checksum, columns, complaint, differs

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder().encode
_headers = msgspec.json.Decoder(dict[str, str])
_counts = msgspec.json.Decoder(dict[int, int])
_problem = msgspec.json.Decoder(Problem)

_FIXED = columns(
    "seq id$ service$ handler$ key$? flavor$ input# headers$? idempotency_key$? caller_seq? caller_id$? caller_entry?"
    " caller_target$? caller_waits? completion_retention_ms journal_retention_ms created_at restarted_from$? seed$?"
    " origin$?"
)
_MOVING = columns(
    "status$ attempt failures step_failures$? last_failure$? due_at? queued? waiting_for$? cancelling listened"
    " modified_at completed_at? ok? output#? expires_at? pausing journal_until? place crashes"
)
FIXED_NAMES = (*(column.name for column in _FIXED), "checksum")
MOVING_NAMES = (*(column.name for column in _MOVING), "moving_checksum")
FIXED, MOVING = ", ".join(FIXED_NAMES), ", ".join(MOVING_NAMES)
FIXED_COUNT = len(FIXED_NAMES)
_INPUT, _CREATED_AT = FIXED_NAMES.index("input"), FIXED_NAMES.index("created_at")
_SPANS = (READABLE, FULL)
_OUTPUT, _EXPIRES_AT = MOVING_NAMES.index("output"), MOVING_NAMES.index("expires_at")
_STATUS, _JOURNAL_UNTIL = MOVING_NAMES.index("status"), MOVING_NAMES.index("journal_until")
JOURNAL = columns("invocation entry part kind$ name$? detail$? seen ordinal? ok? value#? at")
_KINDS = frozenset(str(kind) for kind in Kind)
#: What sqlite3 returns for a boolean.
_BOOLEAN = {0: False, 1: True}
_NO_CALLER = (None,) * 5
#: How long the record of a damaged invocation is kept after it was killed, where its own retention cannot be read.
_DAY_MS = 86_400_000


def fixed(invocation: Invocation) -> tuple[Any, ...]:
    """What never changes, in the order of `FIXED`."""
    submission = invocation.submission
    caller, input = submission.caller, submission.input
    named = (
        invocation.seq,
        submission.id,
        submission.service,
        submission.handler,
        submission.key,
        submission.flavor._value_,
    )
    rest = (
        _text(submission.headers) if submission.headers else None,
        submission.idempotency_key,
        *(_NO_CALLER if caller is None else (caller.seq, caller.id, caller.entry, caller.target, int(caller.waits))),
        submission.completion_retention_ms,
        submission.journal_retention_ms,
        invocation.created_at,
        submission.restarted_from,
        submission.seed,
    )
    origin = submission.origin
    if origin is None:  # it was added later: where it is NULL the checksum is what it was
        return (*named, input, *rest, None, checksum((named, rest), input))
    return (*named, input, *rest, origin, checksum((named, (*rest, origin)), input))


def moving(invocation: Invocation) -> tuple[Any, ...]:
    """Where it stands, in the order of `MOVING`."""
    outcome, completed_at = invocation.outcome, invocation.completed_at
    stands = (
        invocation.status._value_,
        invocation.attempt,
        invocation.failures,
        _text(invocation.step_failures) if invocation.step_failures else None,
        _text(invocation.problem) if invocation.problem is not None else None,
        invocation.due_at,
        invocation.queued,
        _waiting_for(invocation),
        invocation.cancelling,
        int(invocation.listened),
        invocation.modified_at,
        completed_at,
        None if outcome is None else int(outcome.ok),
    )
    output = None if outcome is None else outcome.value
    expires_at = None if completed_at is None else completed_at + invocation.submission.completion_retention_ms
    pausing, place, crashes = int(invocation.pausing), invocation.place, invocation.crashes
    about = (
        (invocation.seq, stands, pausing, place, crashes) if place or crashes else (invocation.seq, stands, pausing)
    )
    until = _journal_until(invocation, completed_at)
    return (*stands, output, expires_at, pausing, until, place, crashes, checksum(about, output))


#: In what those that wait in line as rows differ, in the order of `in_line`; and all else that is not NULL.
IN_LINE_OWN = ("seq", "id", "input", "headers", "place", "checksum", "moving_checksum")


def in_line(some: InLine) -> tuple[dict[str, Any], tuple[Sequence[Any], ...]]:
    """Invocations that are alike: what they have in common, by column; and the columns of `IN_LINE_OWN`.

    As columns, because a list for each row would be looked at by the garbage collector.
    """
    one, records, first = some.invocation(0), some.records, some.first
    row = (*fixed(one), *moving(one))
    shared = {
        name: str(value) if isinstance(value, str) else value
        for name, value in zip((*FIXED_NAMES, *MOVING_NAMES), row, strict=True)
        if name not in IN_LINE_OWN and value is not None
    }
    _, _, service, handler, key, flavor, *_ = row
    tail = row[_INPUT + 2 : FIXED_COUNT - 2]
    _, stands, pausing, *_ = _moved(some.seq, row[FIXED_COUNT:])
    seqs, places = range(some.seq, some.seq + len(some)), range(some.place, some.place + len(some))
    ids, inputs, headers = records.ids[first:], records.inputs[first:], records.headers[first:]
    encode, crc = _msgpack, crc32
    asked = [
        (crc(encode(((seq, id, service, handler, key, flavor), (texts, *tail)))) & 0x7FFFFFFF) << 32 | crc(value)
        for seq, id, value, texts in zip(seqs, ids, inputs, headers, strict=True)
    ]
    moved = [
        (crc(encode((seq, stands, pausing, place, 0))) & 0x7FFFFFFF) << 32 | 0xFFFFFFFF
        for seq, place in zip(seqs, places, strict=True)
    ]
    return shared, (seqs, ids, inputs, headers, places, asked, moved)


def _waiting_for(invocation: Invocation) -> str | None:
    left = None if invocation.waiting is None else invocation.waiting.node
    return None if left is None else waiting.encode(left).decode()


def _asked(row: Sequence[Any]) -> tuple[Any, ...]:
    """What the upper half of `checksum` is over."""
    rest = row[_INPUT + 1 :]  # the last one was added later: where it is NULL the checksum is what it was
    return (row[:_INPUT], rest if rest[-1] is not None else rest[:-1])


def _moved(seq: int, row: Sequence[Any]) -> tuple[Any, ...]:
    """What the upper half of `moving_checksum` is over: not the two times that follow from others."""
    waits = row[_JOURNAL_UNTIL + 1 :]  # added later: where they are 0 the checksum is what it was
    return (seq, row[:_OUTPUT], row[_EXPIRES_AT + 1], *(waits if any(waits) else ()))


def _journal_until(invocation: Invocation, completed_at: int | None) -> int | None:
    """Until when a completed invocation's journal is kept; 0 where it is gone, or must not be run over again."""
    if not invocation.journal_kept:
        return 0
    return None if completed_at is None else completed_at + invocation.submission.journal_retention_ms


def without_journal(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row of an invocation whose journal is gone (no checksum is over that column)."""
    place = FIXED_COUNT + _JOURNAL_UNTIL
    return (*row[:place], 0, *row[place + 1 :])


# ---- an invocation ----


def invocation_of(row: Sequence[Any]) -> Invocation:
    """The invocation of a row that selects `FIXED, MOVING`.

    One that cannot be read is a paused invocation that says so. Where only its moving columns are damaged it can be
    resumed, over its journal, unless it had ended; else it can be listed and killed, and stops nobody.
    """
    own, moved = row[:FIXED_COUNT], row[FIXED_COUNT:]
    cause = _why_not_fixed(own)
    if cause and (id := _id_again(own)) is not None:
        own, cause = (own[0], id, *own[2:]), ""
    if not cause:
        try:
            submission = _submission(own)
        except Exception as error:
            cause = f"invocations: {error}"
    if cause:
        submission = _what_is_left(own)
    trouble = _why_not_moving(own, moved)
    if not trouble:
        try:
            invocation = _read(own, submission, moved)
        except Exception as error:
            trouble = f"invocations: {error}"
    if trouble:
        invocation = _rebuilt(own, submission, moved, trouble)
    if cause:
        invocation.problem = None if trouble else invocation.problem  # no resume helps
        invocation.found_damaged(f"what was asked is damaged: {cause}")
        if invocation.unnoted:
            invocation.queued = None  # nobody knows on which key it runs
    return invocation


def _why_not_fixed(own: Sequence[Any]) -> str:
    stored, values = own[-1], own[:-1]
    if stored is None:
        return complaint("invocations", _FIXED, values)
    wrong = differs(stored, _asked(values), values[_INPUT])
    if not wrong:
        return ""
    return complaint("invocations", _FIXED, values) or (
        "invocations.input is not what was written"
        if wrong == "value"
        else f"one of invocations.{', '.join(FIXED_NAMES)} is not what was written"
    )


def _id_again(own: Sequence[Any]) -> str | None:
    """The id, from what determines it: an idempotency key, a workflow's key, the call. None where that was not it."""
    named = dict(zip(FIXED_NAMES, own, strict=True))
    service, handler, key, claim = (named[name] for name in ("service", "handler", "key", "idempotency_key"))
    if not isinstance(service, str) or not isinstance(handler, str) or not isinstance(key, str | None):
        return None
    try:
        if isinstance(claim, str):
            ids = [claimed_id(service, key, handler, claim, span=span) for span in _SPANS]
        elif named["flavor"] == Flavor.WORKFLOW:
            ids = [claimed_id(service, key, handler, "", span=span) for span in _SPANS]
        elif isinstance(named["caller_id"], str) and isinstance(named["caller_entry"], int):
            ids = [child_id(named["caller_id"], named["caller_entry"], span=span) for span in _SPANS]
        else:
            return None
    except UnicodeEncodeError:
        return None
    for id in ids:
        again = (own[0], id, *own[2:-1])
        if own[-1] is not None and not differs(own[-1], _asked(again), again[_INPUT]):
            return id
    return None


def _why_not_moving(own: Sequence[Any], moved: Sequence[Any]) -> str:
    stored, values = moved[-1], moved[:-1]
    wrong = "" if stored is None else differs(stored, _moved(own[0], values), values[_OUTPUT])
    if wrong or stored is None:
        trouble = complaint("invocations", _MOVING, values)
        if trouble or wrong == "value":
            return trouble or "invocations.output is not what was written"
        if wrong:
            return f"one of invocations.{', '.join(MOVING_NAMES)} is not what was written"
    return ""


def _what_is_left(own: Sequence[Any]) -> Submission:
    """What was asked, as far as it can be read: to be shown, and for whoever waits for its end."""
    _, id, service, handler, key, *_ = own

    def fits(value: Any, kind: type) -> Any:
        return value if isinstance(value, kind) else None

    named = dict(zip(FIXED_NAMES, own, strict=True))
    caller = [named[f"caller_{part}"] for part in ("seq", "id", "entry", "target", "waits")]
    known = [int, str, int, str, int] == [type(one) for one in caller]
    readable = [fits(one, str) and str(one).encode("utf-8", "replace").decode() for one in (service, handler)]
    return Submission(
        id if isinstance(id, str) and is_invocation_id(id) else stand_in_id(own[0]),
        readable[0] or "(unreadable)",
        readable[1] or "(unreadable)",
        key if isinstance(key, str) and key.isprintable() else None,
        Flavor.SERVICE,  # so that no key's state goes with it
        b"",
        caller=Caller(caller[0], caller[1], caller[2], caller[3], bool(caller[4])) if known else None,
        completion_retention_ms=fits(named["completion_retention_ms"], int) or _DAY_MS,
        journal_retention_ms=fits(named["journal_retention_ms"], int) or _DAY_MS,
    )


def _rebuilt(own: Sequence[Any], submission: Submission, moved: Sequence[Any], trouble: str) -> Invocation:
    """One whose standing is damaged: its journal says how far it came. A result that was lost comes from nowhere."""
    named = dict(zip(MOVING_NAMES, moved, strict=True))
    attempt, created_at = named["attempt"], own[FIXED_NAMES.index("created_at")]
    invocation = Invocation(
        own[0],
        submission,
        created_at if isinstance(created_at, int) else 0,
        Status.PAUSED,
        attempt if isinstance(attempt, int) and 0 <= attempt < 2**53 else 1,
        problem=damage(f"where it stands is damaged: {trouble}; resume it, and it goes on from its journal"),
        listened=True,
        unnoted=True,
    )
    ended = [named[name] for name in ("completed_at", "ok", "output", "expires_at", "journal_until")]
    if named["status"] == Status.COMPLETED or any(one is not None for one in ended):
        invocation.journal_kept = False
        invocation.problem = damage(f"its result is damaged: {trouble}")
        invocation.damaged = True
    return invocation


def _submission(own: Sequence[Any]) -> Submission:
    (
        _seq, id, service, handler, key, flavor, input, headers, idempotency_key,
        caller_seq, caller_id, caller_entry, caller_target, caller_waits,
        completion_retention_ms, journal_retention_ms, _created_at, restarted_from, seed, origin, _checksum,
    ) = own  # fmt: skip
    caller = None
    if caller_id is not None:
        caller = Caller(caller_seq, caller_id, caller_entry, caller_target, bool(caller_waits))
    return Submission(
        id=id,
        service=service,
        handler=handler,
        key=key,
        flavor=Flavor(flavor),
        input=input,
        headers=_headers.decode(headers) if headers else {},
        idempotency_key=idempotency_key,
        caller=caller,
        completion_retention_ms=completion_retention_ms,
        journal_retention_ms=journal_retention_ms,
        restarted_from=restarted_from,
        seed=seed,
        origin=origin,
    )


def _read(own: Sequence[Any], submission: Submission, moved: Sequence[Any]) -> Invocation:
    (
        status, attempt, failures, step_failures, problem, due_at, queued, waiting_for, cancelling, listened,
        modified_at, completed_at, ok, output, _expires_at, pausing, journal_until, place, crashes, _checksum,
    ) = moved  # fmt: skip
    invocation = Invocation(
        seq=own[0],
        submission=submission,
        created_at=own[_CREATED_AT],
        status=Status(status),
        attempt=attempt,
        failures=failures,
        step_failures=_counts.decode(step_failures) if step_failures else {},
        problem=_problem.decode(problem) if problem else None,
        due_at=due_at,
        queued=queued,
        waiting=waiting.Awaited(waiting.decode(waiting_for.encode())) if waiting_for else None,
        cancelling=cancelling,
        pausing=bool(pausing),
        listened=bool(listened),
        outcome=None if ok is None else Outcome(_BOOLEAN[ok], output),
        completed_at=completed_at,
        modified_at=modified_at,
        journal_kept=journal_until != 0,
        place=place,
        crashes=crashes,
    )
    if completed_at is None and journal_until == 0 and invocation.status is Status.PAUSED:
        invocation.damaged = True  # noted before: its result cannot be read
    elif (invocation.status is Status.COMPLETED) != (completed_at is not None and ok is not None):
        raise ValueError(f"the status is {status!r}, completed_at {completed_at!r} and ok {ok!r}")
    return invocation


# ---- a journal ----


def journal_of(stored: Iterable[Sequence[Any]], *, partly: bool = False, after: int = 0) -> list[Row]:
    """The rows of one journal, whose checksum follows each row's columns. Raises `StorageCorruptError`.

    `partly`: only some of the rows were selected, and values only where they may be needed; `after`: those of entries
    up to there were left out.
    """
    rows: list[Row] = []
    for *values, stored_checksum in stored:
        values[8] = _BOOLEAN.get(values[8], values[8])
        row = Row(*values)
        if stored_checksum is None:
            wrong = ""
        else:
            wrong = differs(stored_checksum, row[:9], row.value, begin=row.at, partly=partly and row.value is None)
        if wrong or stored_checksum is None:
            _check_row(row, wrong)
        rows.append(row)
    if not partly:
        check_whole(rows, after)
    return rows


def _check_row(row: Row, wrong: str) -> None:
    where = f"the journal is damaged at entry {row.entry!r}"
    stored = row._replace(ok=int(row.ok)) if isinstance(row.ok, bool) else row  # type: ignore[arg-type]
    trouble = complaint("journal", JOURNAL, stored)
    if not trouble and row.kind not in _KINDS:
        trouble = f"journal.kind is {row.kind!r}"
    if not trouble and isinstance(row.ok, int) and row.ok not in (0, 1):
        trouble = f"journal.ok is {row.ok!r}"
    if not trouble and wrong == "value":
        trouble = "journal.value is not what was written"
    if not trouble and wrong:
        names = ", ".join(column.name for column in JOURNAL if column.name != "value")
        trouble = f"one of journal.{names} is not what was written"
    if not trouble and row.kind == Kind.SLEEP and row.part == COMMAND and row.ok is None and _ref(row) is None:
        trouble = f"journal.detail is {row.detail!r}, which is no time"
    if trouble:
        raise StorageCorruptError(f"{where}: {trouble}")


def check_whole(rows: Sequence[Row], after: int = 0) -> None:
    """Entries have no holes, and what has ended was asked for. Raises `StorageCorruptError`."""
    last, asked = after, after
    for row in rows:
        if not row.entry:
            continue
        if row.part == COMMAND:
            asked, last = asked + 1, row.entry
        elif row.part != COMPLETION:
            raise StorageCorruptError(f"the journal is damaged at entry {row.entry}: journal.part is {row.part}")
        elif row.ordinal is not None and row.entry > last:
            raise StorageCorruptError(f"the journal is damaged: entry {row.entry} has ended, its command is missing")
    if asked != last:
        raise StorageCorruptError(f"the journal is damaged: it has {asked} of its {last} entries")


def complete(invocation: Invocation, stored: Iterable[Sequence[Any]], *, partly: bool) -> None:
    """Attach a journal to the invocation that was read, or note that it is damaged."""
    try:
        attach_journal(invocation, journal_of(stored, partly=partly))
    except StorageCorruptError as error:
        invocation.found_damaged(str(error))


def take_journal(seq: int, stored: Iterable[Sequence[Any]], loaded: Loaded) -> None:
    """Add a whole journal to what was loaded, or why it cannot be read."""
    try:
        loaded.journals[seq] = journal_of(stored)
    except StorageCorruptError as error:
        loaded.unreadable[seq] = str(error)


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
        elif row.part == COMPLETION:
            if row.ordinal is not None:
                invocation.open.pop(row.entry, None)
            elif row.kind == Kind.CALL:
                invocation.kept[row.entry] = Outcome(bool(row.ok), row.value or b"")
            else:
                invocation.early[row.entry] = Outcome(bool(row.ok), row.value or b"")
    if invocation.waiting is not None:
        invocation.waiting.without(invocation.open)


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
