"""Errors on their way through the journal: an exception as it is stored, and what is stored as an exception."""

from typing import Literal

from durable.core.journal import Failure, Outcome, failure_of
from durable.errors import DurableTimeoutError, InvocationCancelled, InvocationKilled, TerminalError

#: How many bytes of an error's text are kept, and of all the metadata of one.
TEXT_SIZE_MAX = 8 * 1024
METADATA_SIZE_MAX = 64 * 1024


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
    error = _CLASSES[failure.kind](failure.message, failure.code, failure.metadata)
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
    return Failure(_text(error.message) or _text(error), _code(error.code), _metadata(error), kind).outcome()


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
    try:
        return int(code)  # type: ignore[call-overload, no-any-return]
    except BaseException:
        return 500


def _text(value: object) -> str:
    """Text that can be stored: cut, without lone surrogates, and whatever the value's own methods do."""
    try:
        return clip(str(value))
    except BaseException:
        return f"<{type(value).__name__}>"
