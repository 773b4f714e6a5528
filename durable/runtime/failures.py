"""What an exception that left a handler or a step means: terminal, or to be retried; and how it is shown.

Exceptions are the user's: their attributes and methods may raise, and a group may hold itself. Nothing here raises.
"""

import asyncio
import os
import traceback
from types import CodeType, TracebackType
from typing import Any

from durable import log
from durable.core.duration import parse
from durable.core.invocation import Problem
from durable.core.journal import Failure, Outcome
from durable.core.reasons import Reason
from durable.errors import (
    AttemptEnded,
    DurableError,
    RetryableError,
    UsageError,
    ValueTooLargeError,
)
from durable.outcomes import CAUSE, CHAIN_MAX, MEMBERS, causes, clip, members, outcome_of, terminal_in

#: See `CAUSE`.
_CONTEXT: Any = vars(BaseException)["__context__"]
_FRAMES: Any = vars(BaseException)["__traceback__"]
#: What is below is the engine's code, and nobody's who reads a traceback.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Stacks as text, by the places they go through: where one handler fails, thousands may fail at the same line.
_shown: dict[tuple[tuple[CodeType, int, int], ...], str] = {}
SHOWN = 64


def failure_of_exception(error: BaseException) -> Outcome | None:
    """The terminal outcome an exception stands for, or None where the attempt is to be retried: see `terminal_in`."""
    try:
        terminal = terminal_in(error)
    except BaseException:  # nothing can be said of it: it is retried, as whatever is not terminal
        return None
    if terminal is None:
        return None
    try:
        return outcome_of(terminal)
    except BaseException:
        return Failure(describe(terminal), 500).outcome()


def contains_end(error: BaseException) -> bool:
    """Whether it is the end of the attempt, or a group that carries it out of a task group."""
    try:
        if isinstance(error, BaseExceptionGroup):
            return any(contains_end(one) for one in members(error))
        return isinstance(error, AttemptEnded)
    except BaseException:
        return False


def problem_of(error: BaseException, entry: int, name: str, reason: str) -> Problem:
    """An exception as an operator reads it."""
    return Problem(
        message=clip(describe(error)),
        type=clip(_name(error), 200),
        stacktrace=clip(_stacktrace(error), both_ends=True),
        entry=entry,
        name=name,
        reason=reason,
    )


def cause_of(error: BaseException, problem: Problem) -> log.Cause:
    """What the log shows of an exception that became this problem."""
    try:
        safe = type(error).__getattribute__ is BaseException.__getattribute__ and _can_be_formatted(error)
    except BaseException:
        safe = False
    return log.Cause(error, _own_frames(error), problem.stacktrace, safe)


def reason_of(error: BaseException) -> str:
    """Why no further try of a handler that ended with this could help; empty where one may. Of a group: the first."""
    try:
        if isinstance(error, DurableError):
            return error.reason
        if isinstance(error, BaseExceptionGroup):
            return next(filter(None, map(reason_of, members(error))), "")
    except BaseException:
        return ""
    return ""


def reason_of_step(error: BaseException, *, returned: bool) -> str:
    """The same for a step: its function has returned, and what it gave cannot be kept; or it misuses the context.

    Whatever else a function raises is its own affair, and may be gone the next time.
    """
    if returned:
        return Reason.VALUE_TOO_LARGE if issubclass(type(error), ValueTooLargeError) else Reason.RESULT_NOT_STORABLE
    return reason_of(error) if issubclass(type(error), UsageError) else ""


def retry_after_ms(error: BaseException, about: log.About) -> int | None:
    """When a `RetryableError`, or what was raised `from` one, is to be retried, if that can be read.

    A group with several of them is retried after the longest time.
    """
    try:
        return _retry_after_ms(error)
    except BaseException as bad:
        log.invocation.warning(
            "%s %s: RetryableError(retry_after=...): %s",
            about.target,
            about.invocation_id,
            clip(describe(bad)),
            about=about,
        )
        return None


def _retry_after_ms(error: BaseException) -> int | None:
    for one in causes(error):
        if issubclass(type(one), RetryableError) and getattr(one, "retry_after", None) is not None:
            return parse(one.retry_after)  # type: ignore[attr-defined]
        if issubclass(type(one), BaseExceptionGroup):
            found = [ms for ms in map(_retry_after_ms, members(one)) if ms is not None]  # type: ignore[arg-type]
            if found:
                return max(found)
    return None


def _name(error: BaseException) -> str:
    return str(type.__getattribute__(type(error), "__name__"))


def describe(error: BaseException) -> str:
    """Its class and message."""
    name = clip(_name(error), 200)
    try:
        text = _plain(str(error))
    except BaseException as worse:
        text = f"<its message cannot be shown: {_name(worse)}>"
    if not text and issubclass(type(error), asyncio.CancelledError):
        text = "the handler or step was cancelled by its own code"
    return f"{name}: {text}" if text else name


def _can_be_formatted(error: BaseException) -> bool:
    """Whether `traceback` would come to an end: it follows causes and members, which may go in a circle."""
    left: list[Any] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if len(seen) > CHAIN_MAX:
            return False
        kind: Any = type(one)
        if issubclass(kind, BaseExceptionGroup):
            if kind.exceptions is not MEMBERS:
                return False
            left += MEMBERS.__get__(one)
        left += [CAUSE.__get__(one), _CONTEXT.__get__(one)]
    return True


def _alone(error: BaseException) -> str:
    """The traceback of one that has no other in it."""
    places: list[tuple[CodeType, int, int]] = []
    own = here = _own_frames(error)
    while here is not None:
        places.append((here.tb_frame.f_code, here.tb_lasti, here.tb_lineno))
        here = here.tb_next
    ends = _plain("".join(traceback.format_exception_only(error)))
    if not places:
        return ends
    text = _shown.get(key := tuple(places))
    if text is None:
        if len(_shown) >= SHOWN:
            _shown.clear()
        text = _shown[key] = _plain("".join(traceback.format_tb(own)))
    return f"Traceback (most recent call last):\n{text}{ends}"


def _stacktrace(error: BaseException) -> str:
    try:
        chained = CAUSE.__get__(error) is not None or _CONTEXT.__get__(error) is not None
        if not chained and not issubclass(type(error), BaseExceptionGroup):
            return _alone(error)
        if not _can_be_formatted(error):
            frames = traceback.format_tb(_own_frames(error))
            return _plain("".join([*frames, describe(error)]))
        whole = traceback.TracebackException.from_exception(error)
        _leave_ours_out(whole)
        return _plain("".join(whole.format()))
    except BaseException as worse:
        return f"<its traceback cannot be shown: {_name(worse)}>"


def forget_frames(error: BaseException) -> None:
    """Nobody is told of it, and its frames may hold what holds it: a task group, or what `gather` returned."""
    following, left = error, CHAIN_MAX  # what came before it may go in a circle
    while following is not None and left:
        _FRAMES.__set__(following, None)
        following, left = _CONTEXT.__get__(following), left - 1


def _own_frames(error: BaseException) -> TracebackType | None:
    """From the first that is not the engine's on; all of them where none is another's."""
    here: TracebackType | None
    frames: TracebackType | None
    here = frames = _FRAMES.__get__(error)
    while here is not None and here.tb_frame.f_code.co_filename.startswith(_OURS):
        here = here.tb_next
    return here or frames


def _leave_ours_out(error: traceback.TracebackException) -> None:
    """The same, for it and for whatever it was raised from or beside."""
    left = [error]
    while left:
        one = left.pop()
        ours = next((at for at, frame in enumerate(one.stack) if not frame.filename.startswith(_OURS)), 0)
        del one.stack[:ours]
        left += filter(None, [one.__cause__, one.__context__, *(one.exceptions or ())])


def _plain(text: str) -> str:
    """Without lone surrogates, to be stored. `str(x)` may be of a subclass, whose methods are the user's again."""
    return str.encode(text, "utf-8", "replace").decode()
