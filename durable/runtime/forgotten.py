"""What a handler made and never used: somewhere an `await` was forgotten.

Python warns of a coroutine that nobody awaited. A durable future has begun by then, and what is lost depends on its
kind and on chance: a step may not have run, and an error of it is told to nobody.

Where a future was made is noted as its code and a place in it, which takes a fraction of a microsecond; its line and
the words are looked up when it was forgotten.
"""

import asyncio
import dis
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType
from typing import Protocol

from durable import log

#: Frames of this package are no user code.
OURS = f"{Path(__file__).parents[1]}{os.sep}"
#: How many places are named of one handler.
NAMED_MAX = 10
#: Who wants to know beside the log: see `durable.testing`.
NOTES: ContextVar[list[str] | None] = ContextVar("durable_forgotten", default=None)

#: The code that made it, the instruction, and in which flow, where the handler has several.
Made = tuple[CodeType, int, "asyncio.Task[object] | None"]


class Usable(Protocol):
    """A durable future, or a promise."""

    #: Until it is used.
    made: Made | None

    @property
    def operation(self) -> str:
        """What made it, as a handler writes it."""
        ...

    @property
    def lost(self) -> str:
        """What is lost if nobody uses it."""
        ...

    @property
    def acts(self) -> bool:
        """Whether it does something, and not only waits."""
        ...


class Flows(Protocol):
    """The flows of the handler."""

    #: Whether it ever had several.
    concurrent: bool


class Unused:
    """What one handler has made and not used."""

    __slots__ = ("_flows", "_many", "_newest", "_others", "raised")

    def __init__(self, flows: Flows) -> None:
        self._flows = flows
        #: Most are used before the next one is made.
        self._newest: Usable | None = None
        self._others: Sequence[Usable] = ()
        #: When the others are looked through for those that were used.
        self._many = 32
        #: Whether an error was raised in the handler: what it never came to was not forgotten.
        self.raised = False

    def made(self, one: Usable, depth: int) -> None:
        """The handler made this, `depth` frames above, or more."""
        frame: FrameType | None = sys._getframe(depth)
        while frame is not None and frame.f_code.co_filename.startswith(OURS):
            frame = frame.f_back
        if frame is None:
            return
        before = self._newest
        if before is not None and before.made is not None:
            self._keep(before)
        self._newest = one
        one.made = frame.f_code, frame.f_lasti, asyncio.current_task() if self._flows.concurrent else None

    def _keep(self, one: Usable) -> None:
        others = self._others if isinstance(self._others, list) else []
        others.append(one)
        if len(others) > self._many:
            others = [other for other in others if other.made is not None]
            self._many = max(32, 2 * len(others))
        self._others = others

    def clear(self) -> None:
        """The attempt is over."""
        for one in self._others:
            one.made = None
        if self._newest is not None:
            self._newest.made = None
        self._newest, self._others = None, ()

    def _all(self) -> Iterator[Usable]:
        yield from self._others
        if self._newest is not None:
            yield self._newest

    def forgotten(self, *, returned: bool) -> list[str]:
        """The handler has ended: what was forgotten, a text for each place.

        What was thrown away where it was made certainly was. What was kept may have been left on purpose: it counts
        only if it acts, the handler returned and met no error on its way, and the flow that made it has returned.
        """
        if not self._others and (self._newest is None or self._newest.made is None):
            return []  # the usual
        places: dict[tuple[CodeType, int], list[Usable]] = {}
        handler = asyncio.current_task()
        for one in self._all():
            if one.made is None:
                continue
            code, at, flow = one.made
            given_up = flow is not handler and flow is not None and (not flow.done() or flow.cancelled())
            if thrown_away(code, at) or (one.acts and returned and not self.raised and not given_up):
                places.setdefault((code, at), []).append(one)
        return [_text(code, at, made) for (code, at), made in list(places.items())[:NAMED_MAX]]


def thrown_away(code: CodeType, at: int) -> bool:
    """Whether what this instruction gave was let go at once: a line that is nothing but `ctx.run(…)`."""
    following = (one for one in dis.get_instructions(code) if one.offset > at)
    return next((one.opname for one in following), "") == "POP_TOP"


def _text(code: CodeType, at: int, made: list[Usable]) -> str:
    line = next((line for begin, end, line in code.co_lines() if begin <= at < end), None)
    times = f", {len(made)} times" if len(made) > 1 else ""
    return (
        f"{made[0].operation} at {code.co_filename}:{line or code.co_firstlineno}{times}: did you forget `await`? "
        f"{made[0].lost}"
    )


def tell(about: log.About, forgotten: list[str]) -> None:
    """Say so in the log, and to whoever else wants to know."""
    target, id = about.target, about.invocation_id
    notes = NOTES.get()
    for text in forgotten:
        log.invocation.warning("%s %s: the handler ended and never awaited %s", target, id, text, about=about)
        if notes is not None:
            notes.append(f"{target}: the handler ended and never awaited {text}")
