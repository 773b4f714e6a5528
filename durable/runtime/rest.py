"""When is a handler at rest? When each of its flows waits, and none will go on by itself.

asyncio does not tell what belongs to whom, but it can be seen: a task that is about to run waits for no future, or
for one that is done; and a task inherits the context of whoever made it, so `CURRENT` names its handler. Between two
tasks (one has ended, and its group has not heard of it yet) there are moments in which nothing can be seen. So a
handler is at rest after some rounds of the event loop in which it did nothing.
"""

import asyncio
import gc
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from durable.runtime.steps import CURRENT

#: For how many rounds of the event loop a handler must have asked for nothing; in the last of them its tasks are
#: looked at. A finished task wakes whoever gathers it after two rounds.
REST = 8
LOOKS = 4
#: How often a handler with a task that never stops running is looked at before it counts as being at rest.
PATIENCE = 100


class Resting(Protocol):
    """What can come to rest: an attempt."""

    active: bool
    #: Counts what its handler does.
    activity: int


class _Watched:
    __slots__ = ("activity", "one", "patience", "rounds", "then")

    def __init__(self, one: Resting, then: Callable[[], None]) -> None:
        self.one = one
        self.then = then
        self.activity = one.activity
        self.rounds = REST
        self.patience = PATIENCE


class Rest:
    """Watches handlers, all of them with one callback a round, until they are at rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: list[_Watched] = []

    def when_at_rest(self, one: Resting, then: Callable[[], None]) -> None:
        """Call `then` when it is at rest; never, if its attempt is over by then."""
        if not self._watched:
            self._loop.call_soon(self._round)
        self._watched.append(_Watched(one, then))

    def _round(self) -> None:
        rested = []
        moving: set[object] | None = None
        for watched in self._watched:
            one = watched.one
            if not one.active:
                continue
            if one.activity != watched.activity:
                watched.activity, watched.rounds = one.activity, REST
            elif watched.rounds <= LOOKS and watched.patience:
                if moving is None:
                    moving = owners_about_to_run(self._loop)
                if one in moving:
                    watched.patience -= 1
                    watched.rounds = REST
            watched.rounds -= 1
            rested.append(watched)
        self._watched = [watched for watched in rested if watched.rounds]
        if self._watched:
            self._loop.call_soon(self._round)
        for watched in rested:
            if not watched.rounds:
                watched.then()


def owners_about_to_run(loop: asyncio.AbstractEventLoop) -> set[object]:
    """What `CURRENT` holds in the tasks that run as soon as the event loop comes to them."""
    owners = set()
    for task in asyncio.all_tasks(loop):
        waits_for = getattr(task, "_fut_waiter", None)
        if waits_for is None or waits_for.done():
            owners.add(context_of(task).get(CURRENT))
    return owners


def context_of(task: "asyncio.Task[Any]") -> Context:
    """The context a task runs in, which it shows only from Python 3.12 on."""
    if hasattr(task, "get_context"):
        return task.get_context()  # type: ignore[no-any-return]
    return next((found for found in gc.get_referents(task) if type(found) is Context), Context())
