"""Waiting until stored moments: the next timers are in memory, all others stay in the store."""

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Protocol

from durable.core.effects import Timer
from durable.core.limits import Limits
from durable.runtime.clock import Clock


class TimerStore(Protocol):
    """Where the others are."""

    async def timers(self, after: Timer | None, limit: int) -> "Iterable[Timer]":
        """The next `limit` timers later than `after`."""
        ...


class Timers:
    """A window over the stored timers, and one wake-up of the event loop for the earliest."""

    def __init__(
        self,
        store: TimerStore,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        fire: Callable[[list[Timer]], None],
        failed: Callable[[BaseException], None],
        limits: Limits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._loop = loop
        self._fire = fire
        self._failed = failed
        self._window = limits.timers
        self._at_once = limits.due
        self._heap: list[Timer] = []
        self._known: set[Timer] = set()
        #: Every stored timer up to here is in memory; None: all of them are.
        self._horizon: Timer | None = (-1, -1, -1)
        self._handle: asyncio.TimerHandle | None = None
        self._refill: asyncio.Task[None] | None = None
        self._later: list[asyncio.TimerHandle] = []
        self._while_loading: list[Timer] = []
        self._closed = False

    async def start(self) -> None:
        """Load the first window."""
        await self._load()

    def close(self) -> None:
        """Fire nothing any more."""
        self._closed = True
        for handle in self._later:
            handle.cancel()
        if self._handle is not None:
            self._handle.cancel()
        if self._refill is not None:
            self._refill.cancel()

    def add_later(self, timer: Timer, delay_s: float) -> None:
        """A timer that is stored, and not to be looked at for so long."""
        self._later = [handle for handle in self._later if handle.when() > self._loop.time()]
        self._later.append(self._loop.call_later(delay_s, self.add, [timer]))

    def add(self, timers: Iterable[Timer]) -> None:
        """Timers that were just committed."""
        for timer in timers:
            if self._horizon is None or timer <= self._horizon:
                self._push(timer)
            elif self._refill is not None:
                self._while_loading.append(timer)
        if len(self._heap) > 2 * self._window:
            self._trim()
        self._arm()

    def remove(self, timers: Iterable[Timer]) -> None:
        """Timers that nobody waits for any more; their places in the heap are skipped."""
        self._known.difference_update(timers)

    def _push(self, timer: Timer) -> None:
        if timer not in self._known:
            self._known.add(timer)
            heapq.heappush(self._heap, timer)

    def _trim(self) -> None:
        """Forget the latest ones: the store has them. Those that were removed leave the heap, too."""
        self._heap = sorted(self._known)
        if len(self._heap) > self._window:
            del self._heap[self._window :]
            self._known = set(self._heap)
            self._horizon = self._heap[-1]

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._closed:
            return
        if not self._heap:
            if self._horizon is not None and self._refill is None:
                self._refill = self._loop.create_task(self._load())
            return
        delay_s = max(0.0, (self._heap[0][0] - self._clock.now_ms()) / 1000)
        self._handle = self._loop.call_later(min(delay_s, self._clock.look_again_s), self._on_time)

    def _on_time(self) -> None:
        try:
            self._look()
        except Exception as error:  # the clock may be anybody's
            self._failed(error)

    def _look(self) -> None:
        now = self._clock.now_ms()
        due: list[Timer] = []
        while self._heap and self._heap[0][0] <= now and len(due) < self._at_once:
            timer = heapq.heappop(self._heap)
            if timer in self._known:
                self._known.remove(timer)
                due.append(timer)
        if due:
            self._fire(due)
        self._arm()

    async def _load(self) -> None:
        try:
            timers = list(await self._store.timers(self._horizon, self._window))
        except Exception as error:
            self._failed(error)
            return
        self._horizon = timers[-1] if len(timers) >= self._window else None
        for timer in timers:
            self._push(timer)
        self._refill = None
        waiting, self._while_loading = self._while_loading, []
        self.add(waiting)
