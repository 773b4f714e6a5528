"""Errors on their way through the journal: which are terminal, how they are stored, and exceptions made of that.

Exceptions are the user's: their attributes and methods may raise, and groups and causes may go in a circle.
"""

from typing import Any, Literal

from durable import subclasses
from durable.core.journal import Failure, Outcome, failure_of
from durable.errors import (
    DurableError,
    DurableTimeoutError,
    InvocationCancelled,
    InvocationKilled,
    TerminalError,
)

#: How many bytes of an error's text are kept; of all the metadata of one, and of all its attributes.
TEXT_SIZE_MAX = 8 * 1024
METADATA_SIZE_MAX = 64 * 1024


#: How many exceptions, as causes of each other, are looked at.
CHAIN_MAX = 500
#: To ask what every exception has, past what its class makes of that.
CAUSE: Any = vars(BaseException)["__cause__"]
MEMBERS: Any = vars(BaseExceptionGroup)["exceptions"]


def terminal_in(error: BaseException) -> TerminalError | None:
    """The terminal error that this one stands for; None where it is to be retried.

    Of an error and what it was raised `from`, the first of this package's decides. A group is terminal when every
    error in it is: the first one stands for all.
    """
    for one in causes(error):
        if isinstance(one, TerminalError):
            return one
        if isinstance(one, DurableError):
            return None
        if isinstance(one, BaseExceptionGroup):
            found = [terminal_in(member) for member in members(one)]
            if all(terminal is not None for terminal in found):
                return found[0]
    return None


def causes(error: BaseException) -> list[BaseException]:
    """The exception, what it was raised `from`, and so on; they may go in a circle."""
    found: dict[int, BaseException] = {}
    one: BaseException | None = error
    while one is not None and id(one) not in found and len(found) < CHAIN_MAX:
        found[id(one)] = one
        one = CAUSE.__get__(one)
    return list(found.values())


def members(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, ...]:
    """What a group was made of, whatever its class says of that."""
    found: tuple[BaseException, ...] = MEMBERS.__get__(group)
    return found


def clip(text: str, size: int = TEXT_SIZE_MAX, *, both_ends: bool = False) -> str:
    """Text of at most `size` bytes: its beginning, or its beginning and its end, with a mark where it was cut."""
    text = str.__getitem__(text, slice(None))  # of a subclass, whose methods are the user's: a plain one
    if len(text) <= size and len(text.encode("utf-8", "replace")) <= size:
        return text.encode("utf-8", "replace").decode()
    room = size - 16
    if both_ends:
        begin, end = text[: room // 2], text[-(room // 2) :]
        head = begin.encode("utf-8", "replace")[: room // 2].decode("utf-8", "ignore")
        tail = end.encode("utf-8", "replace")[-(room // 2) :].decode("utf-8", "ignore")
        return f"{head}\n… (cut)\n{tail}"
    return text[:room].encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + " … (cut)"


_CLASSES: dict[str, type[TerminalError]] = {
    "terminal": TerminalError,
    "cancelled": InvocationCancelled,
    "killed": InvocationKilled,
    "timeout": DurableTimeoutError,
}


def error_of(outcome: Outcome) -> TerminalError:
    """The exception a failed outcome stands for."""
    return _error(failure_of(outcome))


def _error(failure: Failure) -> TerminalError:
    base = kind = _CLASSES[failure.kind]
    if failure.type:
        kind = subclasses.find(failure.type, base) or base
    attributes = subclasses.Attributes(failure.attributes, failure.raw_attributes)
    error = subclasses.made(kind, failure.message, failure.code, failure.metadata, attributes)
    if failure.type and kind is base:
        error.class_name = failure.type
    if failure.cause is not None:
        error.__cause__ = _error(failure.cause)
    return error


def outcome_of(error: TerminalError) -> Outcome:
    """How a terminal error is stored."""
    kind: Literal["terminal", "cancelled", "killed", "timeout"] = "terminal"
    if isinstance(error, InvocationCancelled):
        kind = "cancelled"
    elif isinstance(error, InvocationKilled):
        kind = "killed"
    elif isinstance(error, DurableTimeoutError):
        kind = "timeout"
    name, attributes = _beyond(error, _CLASSES[kind])
    return Failure(
        message=_text(error.message) or _text(error),
        code=_code(error.code),
        metadata=_metadata(error),
        kind=kind,
        type=name,
        attributes=attributes.texts,
        raw_attributes=attributes.raw,
    ).outcome()


def _beyond(error: TerminalError, base: type[TerminalError]) -> tuple[str, subclasses.Attributes]:
    """The name of its class, where that is another one than `base`, and its attributes, whatever they do."""
    try:
        name = "" if type(error) is base else subclasses.name_of(type(error))
        return name or _text(error.class_name), subclasses.attributes_of(error, METADATA_SIZE_MAX)
    except BaseException:
        return "", subclasses.Attributes()


def _metadata(error: TerminalError) -> dict[str, str]:
    """Each text is cut as a message is; of more than `METADATA_SIZE_MAX` bytes in all, the rest is left out."""
    kept: dict[str, str] = {}
    size = 0
    try:
        for name, value in error.metadata.items():
            pair = _text(name), _text(value)
            size += sum(len(text.encode()) for text in pair)
            if size > METADATA_SIZE_MAX:
                break
            kept[pair[0]] = pair[1]
        left_out = len(error.metadata) - len(kept)
    except BaseException:  # anything can be assigned to it
        return kept
    if size > METADATA_SIZE_MAX:
        kept["(cut)"] = f"{left_out} more"
    return kept


def _code(code: object) -> int:
    """A subclass may have set it to anything."""
    try:
        number = int(code)  # type: ignore[call-overload]
    except BaseException:
        return 500
    return number if 400 <= number <= 599 else 500


def _text(value: object) -> str:
    """Text that can be stored: cut, without lone surrogates, and whatever the value's own methods do."""
    try:
        return clip(str(value))
    except BaseException:
        return f"<{type(value).__name__}>"
