"""What of a row is a value, where it belongs, and how it looks encoded: the whole list of what a codec is over.

Encoded are inputs, headers, results, failures (with their metadata and attributes), messages and stack traces of
failed attempts, outcomes in journals, what stands for arguments (there, and beside idempotency keys), state,
promises, signals. In clear stay names (services, handlers, keys, steps, promises, signals, states), ids, idempotency
keys, times, numbers, statuses, whether something ended well, the class of an error and the reason of a pause, what
code declares, what operators set.

A place is a text that follows from columns that never change; what ended well and what did not are different places.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from durable.codec import Sealing
from durable.core.effects import Writes
from durable.core.invocation import Invocation, KeyedObject, Problem, Signal
from durable.core.journal import COMMAND, COMPLETION, Outcome, Row
from durable.core.once import Answered, Place
from durable.core.sealed import Sealed, SealedText, Why, shown
from durable.errors import CodecError

#: The one header that stands for all of them, in a row that is encoded.
HEADERS = "(headers)"
_encode = msgspec.json.Encoder().encode
_new_row = tuple.__new__
_decode = msgspec.json.Decoder(dict[str, str]).decode
#: What is stored of a failure whose text the codec could not encode: that it is paused must be stored all the same.
UNSTORED = "(the codec could not encode this text, so it was not stored)"


# ---- places ----


#: What the outcome of an invocation is called, by whether it ended well.
_ENDED = ("the failure of invocation", "the result of invocation")


def _place(what: str, seq: int, id: str) -> bytes:
    return f"{what}\0{seq}\0{id}".encode("utf-8", "replace")


def _of(invocation: Invocation, what: str) -> bytes:
    return _place(what, invocation.seq, invocation.submission.id)


def _output(invocation: Invocation, ok: bool) -> bytes:
    return _of(invocation, _ENDED[ok])


def _entry(row: Row) -> bytes:
    ok = row[8]
    return f"entry\0{row[0]}\0{row[1]}\0{row[2]}\0{-1 if ok is None else int(ok)}".encode()


def _argument(row: Row) -> bytes:
    return b"the argument of entry\0%d\0%d" % (row[0], row[1])


def _named(what: str, *names: str) -> bytes:
    return "\0".join((what, *names)).encode("utf-8", "replace")


def state_place(service: str, key: str, name: str) -> bytes:
    """Of a state value."""
    return _named("state", service, key, name)


def promise_place(service: str, key: str, name: str, ok: bool) -> bytes:
    """Of a settled promise."""
    return _named("promise" if ok else "rejected promise", service, key, name)


def signal_place(seq: int, signal: Signal) -> bytes:
    """Of a signal that nobody waited for yet."""
    return b"signal\0%d\0%d\0%d" % (seq, signal.ordinal, signal.outcome.ok)


def asked_place(place: Place) -> bytes:
    """Of the fingerprint of what was asked with an idempotency key."""
    return _named("what was asked with a key", *place)


_PLACES: dict[str, Callable[..., bytes]] = {
    "input": lambda seq, id: _place("the input of invocation", seq, id),
    "output": lambda seq, id, ok: _place(_ENDED[bool(ok)], seq, id),
    "message": lambda seq, id: _place("the message of invocation", seq, id),
    "stacktrace": lambda seq, id: _place("the stack trace of invocation", seq, id),
    "entry": lambda seq, entry, part, ok: b"entry\0%d\0%d\0%d\0%d" % (seq, entry, part, -1 if ok is None else ok),
    "state": state_place,
    "promise": lambda service, key, name, ok: promise_place(service, key, name, bool(ok)),
}


def decoded(sealing: Sealing, what: str, *columns: Any) -> Any:
    """A value as SQL shows it: `what` it is, the columns that its place is of, and what is stored."""
    *place, stored = columns
    try:
        if isinstance(stored, str):
            return str(sealing.open_text(stored, _PLACES[what](*place)))
        return shown(sealing.open(stored, _PLACES[what](*place))) if isinstance(stored, bytes) else stored
    except (TypeError, ValueError):  # a row that is damaged
        return None


# ---- what is written ----


def sealed_writes(sealing: Sealing, writes: Writes) -> Writes:
    """A turn's writes with every value encoded. Raises `CodecError`, and has changed nothing then."""
    writes = writes.with_all()
    out = copy.copy(writes)
    if writes.journal:
        out.journal = [sealed_row(sealing, row) for row in writes.journal]
    if writes.created:
        out.created = {seq: sealed_invocation(sealing, new, asked=True) for seq, new in writes.created.items()}
    if writes.changed:
        out.changed = {seq: sealed_invocation(sealing, one) for seq, one in writes.changed.items()}
    if writes.state:
        seal = sealing.seal
        out.state = {
            name: None if value is None else seal(value, state_place(*name)) for name, value in writes.state.items()
        }
    if writes.promises:
        out.promises = {
            name: _sealed(sealing, outcome, promise_place(*name, outcome.ok))
            for name, outcome in writes.promises.items()
        }
    if writes.answered:
        out.answered = {
            place: msgspec.structs.replace(one, print=sealing.seal(one.print, asked_place(place)))
            for place, one in writes.answered.items()
        }
    if writes.signals_added:
        out.signals_added = [(seq, sealed_signal(sealing, seq, signal)) for seq, signal in writes.signals_added]
    return out


def sealed_row(sealing: Sealing, row: Row) -> Row:
    """A journal row as it is stored."""
    detail, value = row[5], row[9]
    if detail is not None and _has_argument(row):
        row = row._replace(detail=sealing.seal_text(detail, _argument(row)))
    return row if value is None else _new_row(Row, (*row[:9], sealing.seal(value, _entry(row)), row[10]))


def sealed_invocation(sealing: Sealing, invocation: Invocation, *, asked: bool = False) -> Invocation:
    """An invocation as it is stored; `asked`: with what was asked, too."""
    outcome, problem = invocation.outcome, invocation.problem
    if outcome is None and problem is None and not asked:
        return invocation
    out = copy.copy(invocation)
    if asked:
        out.submission = submission = copy.copy(invocation.submission)
        force_setattr(submission, "input", sealing.seal(submission.input, _of(invocation, "the input of invocation")))
        if submission.headers:
            force_setattr(submission, "headers", _sealed_headers(sealing, invocation))
    if outcome is not None:
        out.outcome = _sealed(sealing, outcome, _output(invocation, outcome.ok))
    if problem is not None:
        out.problem = _sealed_problem(sealing, invocation, problem)
    return out


def sealed_signal(sealing: Sealing, seq: int, signal: Signal) -> Signal:
    """A signal as it is stored."""
    return Signal(signal.ordinal, signal.name, _sealed(sealing, signal.outcome, signal_place(seq, signal)))


def _sealed(sealing: Sealing, outcome: Outcome, place: bytes) -> Outcome:
    return Outcome(outcome.ok, sealing.seal(outcome.value, place))


def _sealed_headers(sealing: Sealing, invocation: Invocation) -> dict[str, str]:
    headers, place = invocation.submission.headers, _of(invocation, "the headers of invocation")
    text = headers.get(HEADERS)
    if not isinstance(text, SealedText):
        text = _encode(headers).decode()
    return {HEADERS: sealing.seal_text(text, place)}


def _sealed_problem(sealing: Sealing, invocation: Invocation, problem: Problem) -> Problem:
    texts = []
    for what, text in (("message", problem.message), ("stack trace", problem.stacktrace)):
        try:
            texts.append(sealing.seal_text(text, _of(invocation, f"the {what} of invocation")) if text else "")
        except CodecError:
            texts.append(UNSTORED)
    return msgspec.structs.replace(problem, message=texts[0], stacktrace=texts[1])


def _has_argument(row: Row) -> bool:
    """Whether its detail stands for an argument: `replay.fingerprint_of`."""
    return row[5] is not None and row[8] is not None and row[2] == COMMAND


# ---- what is read ----


def open_row(sealing: Sealing, row: Row) -> Row:
    """A journal row with its values decoded, as far as they can be."""
    detail, value = row[5], row[9]
    if value is None and detail is None:
        return row
    if _has_argument(row):
        assert detail is not None
        row = row._replace(detail=sealing.open_text(detail, _argument(row)))
    return row if value is None else _new_row(Row, (*row[:9], sealing.open(value, _entry(row)), row[10]))


def why_sealed(row: Row) -> Why | None:
    """Why a row that was decoded cannot be read."""
    for part in (row[9], row[5]):
        if isinstance(part, Sealed | SealedText):
            return part.why
    return None


def open_invocation(sealing: Sealing, invocation: Invocation) -> None:
    """Decode what was just read of an invocation, in place; note why it cannot run where something cannot be."""
    submission = invocation.submission
    input = sealing.open(submission.input, _of(invocation, "the input of invocation"))
    force_setattr(submission, "input", input)
    why = input.why if isinstance(input, Sealed) else None
    if HEADERS in submission.headers:
        headers, cause = _opened_headers(sealing, invocation)
        force_setattr(submission, "headers", headers)
        why = why or cause
    if invocation.outcome is not None:
        outcome = invocation.outcome
        invocation.outcome = _opened(sealing, outcome, _output(invocation, outcome.ok))
    if invocation.problem is not None:
        invocation.problem = _opened_problem(sealing, invocation, invocation.problem)
    for entries in (invocation.early, invocation.kept):
        for entry, outcome in entries.items():
            place = b"entry\0%d\0%d\0%d\0%d" % (invocation.seq, entry, COMPLETION, outcome.ok)
            entries[entry] = opened = _opened(sealing, outcome, place)
            if isinstance(opened.value, Sealed):
                why = why or opened.value.why
    invocation.sealed = why


def open_signals(sealing: Sealing, seq: int, signals: Iterable[Signal]) -> tuple[list[Signal], Why | None]:
    """An invocation's kept signals, and why one of them cannot be read."""
    found, why = [], None
    for signal in signals:
        outcome = _opened(sealing, signal.outcome, signal_place(seq, signal))
        if isinstance(outcome.value, Sealed):
            why = why or outcome.value.why
        found.append(Signal(signal.ordinal, signal.name, outcome))
    return found, why


def open_answered(sealing: Sealing, answered: dict[Place, Answered]) -> None:
    """Decode the fingerprints of what was asked with idempotency keys, in place, as far as they can be."""
    for place, one in answered.items():
        if not one.damage:
            answered[place] = msgspec.structs.replace(one, print=sealing.open(one.print, asked_place(place)))


def open_object(sealing: Sealing, keyed: KeyedObject) -> None:
    """Decode a key's state and promises, in place; those that cannot be are noted with the cause."""
    service, key = keyed.service, keyed.key
    for name, stored in list(keyed.state.items()):
        value = sealing.open(stored, state_place(service, key, name))
        if isinstance(value, Sealed):
            del keyed.state[name]
            keyed.damaged_state[name] = value.why
        else:
            keyed.state[name] = value
    for name, settled in list(keyed.promises.items()):
        outcome = _opened(sealing, settled, promise_place(service, key, name, settled.ok))
        if isinstance(outcome.value, Sealed):
            del keyed.promises[name]
            keyed.damaged_promises[name] = outcome.value.why
        else:
            keyed.promises[name] = outcome


def _opened(sealing: Sealing, outcome: Outcome, place: bytes) -> Outcome:
    return Outcome(outcome.ok, sealing.open(outcome.value, place))


def _opened_headers(sealing: Sealing, invocation: Invocation) -> tuple[dict[str, str], Why | None]:
    stored = invocation.submission.headers[HEADERS]
    text = sealing.open_text(stored, _of(invocation, "the headers of invocation"))
    if isinstance(text, SealedText):
        return {HEADERS: text}, text.why
    if text is stored:  # the user has one of that name, from before there was a codec
        return invocation.submission.headers, None
    return _decode(text), None


def _opened_problem(sealing: Sealing, invocation: Invocation, problem: Problem) -> Problem:
    message = sealing.open_text(problem.message, _of(invocation, "the message of invocation"))
    stacktrace = sealing.open_text(problem.stacktrace, _of(invocation, "the stack trace of invocation"))
    return msgspec.structs.replace(problem, message=message, stacktrace=stacktrace)


def open_rows(sealing: Sealing, rows: Sequence[Row]) -> list[Row]:
    """Some rows of a journal."""
    return [open_row(sealing, row) for row in rows]


def first_why(rows: Iterable[Row]) -> Why | None:
    """Why a journal that was decoded cannot be replayed."""
    return next((why for row in rows if (why := why_sealed(row)) is not None), None)
