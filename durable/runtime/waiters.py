"""What the flows of one handler wait for, each in a future of the event loop that somebody completes."""

import asyncio
from typing import Any

from durable.callbacks import DoneCallback, Waker
from durable.core.waiting import Group
from durable.errors import AttemptEnded
from durable.futures import DurableFuture
from durable.runtime.tasks import current_task

Waiter = asyncio.Future[None]
#: What stands for a flow: its task, or a callback that nothing but waits.
Flow = asyncio.Task[Any] | DoneCallback | None

#: Most handlers have no flow that only waits for the end.
_NOBODY: list[Waker] = []


class Waiters:
    """Who waits for what, and who only for the end of the attempt."""

    __slots__ = ("_for_the_end", "_loop", "blocked", "flow_of")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.blocked: dict[Waker, DurableFuture[Any]] = {}
        self.flow_of: dict[Waker, Flow] = {}
        self._for_the_end = _NOBODY

    def begin(self, future: DurableFuture[Any]) -> Waiter:
        """The flow of now waits for this, until `end`."""
        waiter: Waiter = asyncio.Future(loop=self._loop)
        self.blocked[waiter] = future
        self.flow_of[waiter] = current_task(self._loop)
        future.wake(waiter)
        return waiter

    def listen(self, one: DoneCallback, future: DurableFuture[Any]) -> None:
        """A flow that is no more than a callback waits for this, until `end`."""
        one.stage = "waits"
        self.blocked[one] = future
        self.flow_of[one] = one
        future.wake(one)

    def place(self, future: DurableFuture[Any]) -> Waiter:
        """A place behind those that wait for this by now: see `DurableFuture.move_up`."""
        waiter: Waiter = asyncio.Future(loop=self._loop)
        future.wake(waiter)
        return waiter

    def end(self, waiter: Waker, *, keeps_place: bool = False) -> None:
        """It waits no longer. `keeps_place`: its flow will wait again, see `DurableFuture.move_up`."""
        del self.flow_of[waiter]
        future = self.blocked.pop(waiter)
        if future.outcome is None and not keeps_place:
            future.forget(waiter)

    def woken(self, flow: Flow) -> bool:
        """Whether what this flow waits for has come, or an error in its place."""
        return any(waiter.done() for waiter, one in self.flow_of.items() if one is flow)

    def until_unwound(self) -> Waiter:
        """A flow waits for nothing but the end of the attempt."""
        waiter: Waiter = self._loop.create_future()
        self.at_the_end(waiter)
        return waiter

    def at_the_end(self, waiter: Waker) -> None:
        """Raise `AttemptEnded` in this one, too, when the attempt is over."""
        self._for_the_end = self._for_the_end if self._for_the_end is not _NOBODY else []
        self._for_the_end.append(waiter)

    def unwind(self) -> None:
        """Raise `AttemptEnded` in every flow that waits."""
        for waiter in [*self.blocked, *self._for_the_end]:
            if not waiter.done():
                waiter.set_exception(AttemptEnded())
                waiter.exception()  # retrieved: nobody may be left to await it
        self._for_the_end = _NOBODY

    @property
    def some_wait(self) -> bool:
        """Whether a flow waits that was not woken."""
        return any(not waiter.done() for waiter in self.blocked)

    @property
    def all_wait(self) -> bool:
        """Whether some wait, and none of them was woken."""
        return bool(self.blocked) and not any(waiter.done() for waiter in self.blocked)

    def expression(self) -> int | Group:
        """What would let one go on."""
        nodes = tuple(future.waiting_for() for waiter, future in self.blocked.items() if not waiter.done())
        return nodes[0] if len(nodes) == 1 else Group("any", nodes)
