"""Whose code runs here: a handler's (its attempt stands for it), or a step's. Tasks and threads inherit it."""

from contextvars import ContextVar, Token
from typing import Any

import msgspec

from durable.core.invocation import Submission
from durable.runtime.lending import Lending

#: The attempt whose handler runs here, or `InStep` where a step's function does.
CURRENT: ContextVar[object] = ContextVar("durable_current", default=None)


def leave(mark: Token[object]) -> None:
    """Undo what was set in `CURRENT`, at the end of a coroutine.

    One that nobody waits for any more ends where garbage is collected, in whose context ever that is: there, nothing
    is undone.
    """
    try:  # noqa: SIM105 (each step comes here)
        CURRENT.reset(mark)
    except ValueError:  # another context
        pass


class Gone:
    """Takes the place of an attempt that is over, where something may still ask whether it is."""

    active = False


GONE: Any = Gone()


class InStep(msgspec.Struct, eq=False):
    """Marks what a step's function does, and tasks that it leaves behind: it holds nothing of the attempt."""

    submission: Submission
    attempt: int
    seq: int
    #: What it lends while it waits for the engine.
    lending: Lending
    #: The step's.
    name: str
    #: Whether it has a thread, by now.
    in_thread: bool = False

    def __str__(self) -> str:
        return f"the step {self.name!r} of {self.submission.target} {self.submission.id}"
