"""Whose code runs here: a handler's (its attempt stands for it), or a step's. Tasks and threads inherit it."""

from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Protocol

from durable.core.invocation import Submission
from durable.runtime.lending import Lending

#: The attempt whose handler runs here, or `InStep` where a step's function does.
CURRENT: ContextVar[object] = ContextVar("durable_current", default=None)


def leave(mark: Token[object]) -> None:
    """Undo what was set in `CURRENT`, at the end of a coroutine.

    One that nobody waits for any more ends where garbage is collected, in whose context ever that is: there, nothing
    is undone.
    """
    with suppress(ValueError):  # another context
        CURRENT.reset(mark)


class Executes(Protocol):
    """Whoever has the step executed: an attempt."""

    submission: Submission
    number: int
    seq: int
    #: What is lent while the step waits for the engine.
    lending: Lending


class InStep:
    """Marks what a step's function does, and tasks that it leaves behind: it holds nothing of the attempt."""

    __slots__ = ("attempt", "in_thread", "lending", "name", "seq", "submission")

    def __init__(self, owner: Executes, name: str) -> None:
        self.submission = owner.submission
        self.attempt = owner.number
        self.seq = owner.seq
        self.lending = owner.lending
        self.name = name
        #: Whether it has a thread, by now.
        self.in_thread = False

    def __str__(self) -> str:
        return f"the step {self.name!r} of {self.submission.target} {self.submission.id}"
