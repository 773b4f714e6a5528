"""An event loop on which time passes only when there is nothing else to do.

Everything that waits for the loop's clock, the engine's timers as well as `asyncio.sleep` in a handler, is over at
once: when no callback is ready, the clock jumps to the next one that is scheduled.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from anyio.to_thread import current_default_thread_limiter

from durable.runtime.forgotten import NOTES

T = TypeVar("T")

#: The virtual clock starts here: 2030-01-01 00:00 UTC, in ms since the epoch.
EPOCH_MS = 1_893_456_000_000
#: A scenario that is not over after this much virtual time never will be, in seconds: five years.
LIFETIME_S = 5 * 365 * 86_400
#: How long real threads may take before a simulation is given up, in seconds.
PATIENCE_S = 10.0


class ForgottenAwait(AssertionError):
    """A handler ended and never awaited what it had begun; the message names the line."""


class SimulationStuck(Exception):
    """Nothing can happen any more: no callback is ready, no timer is set, no thread works."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        #: Whether something outside the loop (a thread) is at work, so that it has to be waited for.
        self.outside: list[Callable[[], bool]] = []
        super().__init__(_Jumping(self))
        # after months of virtual time a float cannot tell nanoseconds apart: a jump could fall short of its timer
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._virtual_now += seconds


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._virtual_loop = loop
        self._waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            self._waited = 0.0
            return events
        if any(busy() for busy in self._virtual_loop.outside):
            self._waited += 0.01
            if self._waited > PATIENCE_S:
                raise SimulationStuck(f"a thread did not come back within {PATIENCE_S} s")
            return super().select(0.01)
        if timeout is None:
            raise SimulationStuck("nothing is ready, no timer is set, and no thread is at work")
        if self._virtual_loop.time() > LIFETIME_S:
            raise SimulationStuck(f"the scenario was not over after {LIFETIME_S} virtual seconds")
        self._virtual_loop.jump(timeout)
        return []


class VirtualClock:
    """The engine's clock on a `VirtualLoop`."""

    look_again_s = float("inf")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        """`EPOCH_MS` plus the loop's time."""
        return EPOCH_MS + round(self._loop.time() * 1000)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `await main()` on a `VirtualLoop` of its own.

    Raises `ForgottenAwait` where a handler ended without awaiting what it had begun, of which the log only warns.
    """
    loop = VirtualLoop()
    forgotten: list[str] = []

    async def with_threads() -> T:
        limiter = current_default_thread_limiter()
        loop.outside.append(lambda: limiter.borrowed_tokens > 0)
        NOTES.set(forgotten)
        result = await main()
        if forgotten:
            raise ForgottenAwait("; ".join(dict.fromkeys(forgotten)))
        return result

    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(with_threads())
    finally:
        try:
            leftovers = asyncio.all_tasks(loop)
            for task in leftovers:
                task.cancel()
            if leftovers:  # one that swallows its cancellation is left behind
                loop.run_until_complete(asyncio.wait(leftovers, timeout=1))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
