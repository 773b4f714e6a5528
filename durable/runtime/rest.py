"""When is a handler at rest? When each of its flows waits, and none will go on by itself.

asyncio does not tell what belongs to whom. But whatever is about to run stands in the event loop's queue with its
context, and tasks and callbacks inherit that of whoever made them: so `CURRENT` names the handler. (The engine's own
callbacks run in a context of their own.) An event loop that does not show its queue, as uvloop, is given some rounds
more: there a handler is at rest when it has asked for nothing in all of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol
from weakref import ref

from durable.runtime.current import CURRENT

#: In how many rounds of the event loop, one after the other, nothing of a handler was about to run.
REST = 2
#: Where that cannot be seen: for how many it must have asked for nothing. A finished task wakes whoever gathers it
#: after two of them, so that this is enough for task groups in task groups.
REST_UNSEEN = 8
#: A handler that always has something queued counts as resting after so many rounds of the event loop.
PATIENCE = 1000


class Resting(Protocol):
    """What can come to rest: an attempt."""

    active: bool
    #: Counts what its handler does.
    activity: int


class _Watched:
    __slots__ = ("activity", "one", "patience", "rounds", "then")

    def __init__(self, one: Resting, then: Callable[[], None], rounds: int) -> None:
        self.one = one
        self.then = then
        self.activity = one.activity
        self.rounds = rounds
        self.patience = PATIENCE


class Rest:
    """Watches handlers, all of them with one callback a round, until they are at rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._context = context
        self._watched: list[_Watched] = []
        self._rounds = REST_UNSEEN if about_to_run(loop) is None else REST
        #: The event loop's queue, if it shows it; and the mark in it: how much of it there was, up to what.
        self._ready: deque[Any] | None = getattr(loop, "_ready", None)
        self._marked = 0
        self._last: Callable[[], object] = _nothing  # weak: it may be the last that refers to an attempt

    def when_at_rest(self, one: Resting, then: Callable[[], None]) -> None:
        """Call `then` when it is at rest; never, if its attempt is over by then."""
        if not self._watched:
            self._loop.call_soon(self._round, context=self._context)
        self._watched.append(_Watched(one, then, self._rounds))

    def mark(self) -> None:
        """The flow that runs now has gone on: it is alone, but for what it puts in the queue from now on."""
        ready = self._ready
        if ready is not None:
            self._marked = len(ready)
            if ready:
                self._last = ref(ready[-1])

    def others(self, one: Resting) -> bool:
        """Whether something of it is about to run beside the flow that asks; False where that cannot be seen.

        Since the mark only that flow has run: what was in the queue before need not be looked at. If it gave way in
        between, what stands in the queue has moved, and all of it is looked at.
        """
        ready = self._ready
        if not ready:
            return False
        marked, place = self._marked, len(ready)
        if marked > place or (marked and ready[marked - 1] is not self._last()):
            marked = 0
        while place > marked:
            place -= 1
            if ready[place]._context.get(CURRENT) is one:
                return True
        if len(ready) > marked:
            self.mark()
        return False

    def _round(self) -> None:
        moving = about_to_run(self._loop) or ()
        watched, self._watched = self._watched, []
        rested: list[_Watched] = []
        for each in watched:
            one = each.one
            if not one.active:
                continue
            if one.activity != each.activity:
                each.activity, each.rounds = one.activity, self._rounds
            elif one in moving and each.patience:
                each.patience -= 1
                each.rounds = self._rounds
            else:
                each.rounds -= 1
            (self._watched if each.rounds else rested).append(each)
        if self._watched:
            self._loop.call_soon(self._round, context=self._context)
        for each in rested:
            each.then()


def _nothing() -> None:
    return None


def about_to_run(loop: asyncio.AbstractEventLoop) -> set[object] | None:
    """What `CURRENT` holds for everything in the event loop's queue; None where it does not show that."""
    ready = getattr(loop, "_ready", None)
    if ready is None:
        return None
    return {handle._context.get(CURRENT) for handle in list(ready)}  # a copy: threads may add to it meanwhile
