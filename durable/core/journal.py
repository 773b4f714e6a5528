"""What a journal is made of: numbered entries, their outcomes, and the failures that travel.

An invocation's entries are numbered 1, 2, 3 … in the order in which its handler asked for them; entry 0 is the
invocation itself (its input, and whatever is addressed to it as a whole, such as a cancel). An entry is stored as a
*command* row, and, when its outcome comes later, a *completion* row. Completion rows carry an `ordinal`, a number
that only grows: it is the order in which the handler learned of them, and a replay repeats it.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from durable.core.sealed import Sealed, marker_text

#: Which half of an entry a row holds.
COMMAND, COMPLETION = 0, 1


class Kind(StrEnum):
    """What a handler can ask for."""

    RUN = "run"
    SLEEP = "sleep"
    CALL = "call"
    SEND = "send"
    AWAKEABLE = "awakeable"
    COMPLETE_AWAKEABLE = "complete-awakeable"
    SIGNAL = "signal"
    SEND_SIGNAL = "send-signal"
    PROMISE = "promise"
    PEEK_PROMISE = "peek-promise"
    COMPLETE_PROMISE = "complete-promise"
    ATTACH = "attach"
    OUTPUT = "output"
    GET = "get"
    SET = "set"
    CLEAR = "clear"
    CLEAR_ALL = "clear-all"
    STATE_KEYS = "state-keys"
    NOW = "now"
    CANCEL = "cancel"


#: Kinds of entries that have no outcome to wait for.
DETACHED = frozenset({Kind.SEND, Kind.CANCEL, Kind.SEND_SIGNAL, Kind.COMPLETE_AWAKEABLE})

#: Kinds of entries that may find nothing: a success is then `0`, or else `1` and the value.
OPTIONAL = frozenset({Kind.GET, Kind.PEEK_PROMISE, Kind.OUTPUT})


_CALLED = {
    Kind.RUN: "the result of step {!r}",
    Kind.CALL: "the result of {}",
    Kind.ATTACH: "the result of the invocation",
    Kind.OUTPUT: "the result of the invocation",
    Kind.AWAKEABLE: "the value of the awakeable",
    Kind.SIGNAL: "the value of signal {!r}",
    Kind.PROMISE: "the value of promise {!r}",
    Kind.PEEK_PROMISE: "the value of promise {!r}",
    Kind.GET: "the state value {!r}",
}


def value_called(kind: Kind, name: str, entry: int) -> str:
    """What an error calls the value of an entry; `entry` is 0 if its number is not known."""
    called = _CALLED.get(kind, "the value").format(name)
    return f"{called} (entry {entry})" if entry else called


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How something ended: a value, or an encoded `Failure`."""

    ok: bool
    value: bytes


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A terminal failure as it is stored and as it travels."""

    message: str
    code: int = 500
    metadata: dict[str, str] = {}
    kind: Literal["terminal", "cancelled", "killed", "timeout"] = "terminal"
    #: Of a cancellation: how the call ended that was cancelled first.
    cause: "Failure | None" = None
    #: The subclass that it was raised as, `module:Class`; its attributes as JSON, and those that are none.
    type: str = ""
    attributes: dict[str, msgspec.Raw] = {}
    raw_attributes: dict[str, bytes] = {}

    def outcome(self) -> Outcome:
        """This failure as an outcome."""
        return Outcome(False, _encode(self))


_encode = msgspec.json.Encoder().encode
_decode_failure = msgspec.json.Decoder(Failure).decode

#: The success that carries nothing.
EMPTY = Outcome(True, b"")
CANCELLED = Failure("cancelled", 409, kind="cancelled").outcome()
#: Outcome of an operation that a cancel prevented: a failed step before its retry, a call asked for too late,
#: anything asked for while steps end.
GIVEN_UP = Failure("not executed: the invocation had been cancelled", 409, kind="cancelled").outcome()
#: The same, as earlier versions worded it in the files they wrote.
_GIVEN_UP_BEFORE = Failure("given up: a cancel came before", 409, kind="cancelled").outcome()


def given_up(value: bytes | None) -> bool:
    """Whether this is the stored outcome of an operation that a cancel prevented."""
    return value in (GIVEN_UP.value, _GIVEN_UP_BEFORE.value)


#: The detail of a step that a cancel stops at once.
INTERRUPTIBLE = "interruptible"
KILLED = Failure("killed", 409, kind="killed").outcome()


def failure_of(outcome: Outcome) -> Failure:
    """The failure inside a failed outcome, or a stand-in if it cannot be decoded."""
    if isinstance(outcome.value, Sealed):
        return Failure(marker_text(outcome.value.why.key_id))
    return _decode_failure(outcome.value)


class Row(NamedTuple):
    """One journal row, in the order of the table's columns."""

    invocation: int
    entry: int
    part: int
    kind: str
    name: str | None
    #: What the entry hangs on: a due time, a child's id, a topic, a signal's name; in a row with an outcome, the
    #: fingerprint of what was passed on.
    detail: str | None
    #: How many outcomes the handler had seen when it asked for this entry.
    seen: int
    #: The place of this row's outcome among all completions; None where nothing was waited for.
    ordinal: int | None
    #: None while there is no outcome in this row.
    ok: bool | None
    #: The outcome; in a command row without one, the fingerprint of what was passed on.
    value: bytes | None
    at: int

    @staticmethod
    def completion(invocation: int, entry: int, kind: Kind, outcome: Outcome, ordinal: int | None, at: int) -> "Row":
        """The row for the outcome of an entry, or of something addressed to the invocation itself (entry 0)."""
        part = COMPLETION if entry else ordinal or 0
        return row_of((invocation, entry, part, kind, None, None, 0, ordinal, outcome.ok, outcome.value, at))


_Values = tuple[int, int, int, str, str | None, str | None, int, int | None, bool | None, bytes | None, int]
#: A `Row` of its values in their order: the hot path, as `Row(...)` is a function written in Python.
row_of: Callable[[_Values], Row] = partial(tuple.__new__, Row)
