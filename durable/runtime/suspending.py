"""How an attempt makes room: one that only waits ends itself, and what it waits for starts its invocation again."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from durable.core.commands import Suspend
from durable.core.invocation import Invocation
from durable.core.journal import Kind
from durable.core.waiting import entries
from durable.runtime import waits
from durable.runtime.listening import Listening
from durable.runtime.registry import Registered

#: What waits for another invocation.
CALLS = (Kind.CALL, Kind.ATTACH)
#: A handler that is kept counts once more for so many bytes that it was handed.
WEIGHED = 8 * 1024


class Host(waits.Host, Protocol):
    """What making room needs of the runtime."""

    def when_settled(self, then: Callable[[], None]) -> None:
        """Call `then` when what was submitted so far is committed and has been acted upon."""
        ...


class Suspending(Listening):
    """The part of an `Attempt` that suspends it."""

    __slots__ = ("_keep", "_received", "calls", "giving_way", "notified")
    host: Host

    def __init__(
        self, host: Host, invocation: Invocation, number: int, handler: Registered, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(host, invocation, number, handler, loop)
        #: Completions from outside that were handed to it: see `Invocation.notified`.
        self.notified = 0
        #: Whether it ends as soon as its handler is at rest, if that only waits by then.
        self.giving_way = False
        #: Whether its handler may stay in memory then.
        self._keep = False
        #: How many other invocations its handler may wait for.
        self.calls = 0
        #: How many bytes it was handed.
        self._received = len(invocation.submission.input)

    @property
    def idle(self) -> bool:
        """Whether the handler only waits, for things that can come while it is unloaded."""
        return (
            self.active
            and self._steps.quiet
            and self._waiters.all_wait
            and self._arrivals.none_left
            and self._steps.left_over is None
            and self._failure is None
        )

    @property
    def may_stay(self) -> bool:
        """Whether its handler waits in its one flow, and for other invocations: not for what may take days."""
        blocked, flow_of, pending = self._waiters.blocked, self._waiters.flow_of, self._pending
        if not self.calls or self._arrivals.concurrent or len(blocked) != 1:
            return False
        [(waiter, future)] = blocked.items()
        awaited = (pending.get(entry) for entry in entries(future.waiting_for()))
        return flow_of[waiter] is self.task and any(one is not None and one.kind in CALLS for one in awaited)

    def give_way(self, *, warm: bool = False) -> None:
        """End if its handler only waits: once what was asked for is durable, and it is at rest.

        By then immediate answers have arrived, no step is cut off, and no flow could still continue. `warm`: others
        need its slot, and its handler may stay in memory.
        """
        self._keep = warm and (self._keep or not self.giving_way)
        if not self.giving_way:
            self.giving_way = True
            self.host.when_settled(lambda: self.when_at_rest(self._unload))

    def _unload(self) -> None:
        self.giving_way = False
        if self._steps.holds:
            self._end_if_stuck()
        elif self.is_stuck:
            self._stuck()
        elif self.idle and not self._limited():
            weight = 1 + self._received // WEIGHED if self._keep and self.may_stay else 0
            self.submit(Suspend(self.seq, self.number, self.waiting_for(), self.notified, weight))
            self._over("suspended", keep=weight > 0)

    def _limited(self) -> bool:
        """Whether a limit was set since its flows wait: then it has failed."""
        timers = self._alarms.of(self)
        return timers != [] and self.refuse_limits(self._waiters.flow_of.values(), timers or ())
