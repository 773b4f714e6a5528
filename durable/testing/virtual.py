"""An event loop on which time passes only when there is nothing else to do.

Everything that waits for the loop's clock, the engine's timers as well as `asyncio.sleep` in a handler, is over at
once: when no callback is ready, the clock jumps to the next one that is scheduled. A loop that is there already (that
of an asynchronous test, of an application) can have such a time for a while, or one that is moved by hand.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import Any, TypeVar, cast

from anyio.to_thread import current_default_thread_limiter

from durable.errors import UsageError
from durable.runtime import threads
from durable.runtime.forgotten import NOTES

T = TypeVar("T")
Events = list[tuple[selectors.SelectorKey, int]]
Select = Callable[[float | None], Events]

#: A scenario that is not over after this much virtual time never will be, in seconds: five years.
LIFETIME_S = 5 * 365 * 86_400
#: The same after so many jumps of the clock: somebody looks again and again for what never comes.
JUMPS_MAX = 1_000_000
#: After how many jumps it is asked whether anything can still happen.
LOOK_EACH = 64
#: How long real threads and sockets may take before a simulation is given up, in seconds.
PATIENCE_S = 10.0
#: Set where nobody waits any longer for the simulation that runs in this context.
GIVEN_UP: ContextVar[Event | None] = ContextVar("durable_simulation_given_up", default=None)


class ForgottenAwait(AssertionError):
    """A handler ended without awaiting something it began; the message names the line."""


class SimulationStuck(Exception):
    """Nothing can happen any more: no callback is ready, no timer set, no thread busy. Or it would go on for ever."""


#: What is said where time cannot jump.
SOCKETS = (
    f"nothing has happened for {PATIENCE_S} s, and sockets are open, so time is not moved by itself: close them, or "
    "move it by hand, `await clock.advance(...)`"
)


class VirtualTime:
    """What the clock of one event loop says, and when it jumps."""

    def __init__(self, now: Callable[[], float], *, by_hand: bool = False) -> None:
        #: The real clock, where time passes by itself as well.
        self._real = now
        self._by_hand = by_hand
        self._began = now()
        #: How far it has jumped.
        self._jumped = 0.0
        self._jumps = 0
        #: Whether something outside the loop (a thread) is at work, so that it has to be waited for.
        self.outside: list[Callable[[], bool]] = []
        self._executing = 0
        #: Up to where somebody moves it, and who is to be told when all that is due by then has happened.
        self._target: tuple[float, Callable[[], None]] | None = None
        #: Asked now and then: whether nothing is left to happen but what the engine does by the hour.
        self.only_chores: Callable[[], bool] = lambda: False
        self._chores = 0
        #: Asked where nothing can happen any more: whether somebody takes the error.
        self.on_stuck: Callable[[SimulationStuck], bool] = lambda error: False
        self._given_up = GIVEN_UP.get()
        self._waited = 0.0

    def now(self) -> float:
        """Seconds, on the scale of the loop's own clock."""
        return (self._real() if self._by_hand else self._began) + self._jumped

    @property
    def passed(self) -> float:
        """Seconds since it began."""
        return self.now() - self._began

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._jumped += seconds

    def move(self, seconds: float, then: Callable[[], None]) -> None:
        """On the loop: let so much time pass, from timer to timer, then call `then` when nothing is left to do."""
        if self._target is not None:
            raise UsageError("the clock is being moved already: await one `advance` before the next")
        self._target = (self.now() + seconds, then)

    def executing(self, work: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """A thread works on this."""
        self._executing += 1
        work.add_done_callback(self._executed)
        return work

    def _executed(self, work: object) -> None:
        self._executing -= 1

    def select(self, timeout: float | None, real: Select, sockets: Callable[[], bool]) -> Events:
        """What a selector does: `real` waits for events, which is done only where there is something to wait for."""
        if self._given_up is not None and self._given_up.is_set():
            self._given_up = None
            raise SimulationStuck("nobody waits for this simulation any longer")
        events = real(0)
        if events or timeout == 0:
            self._waited = 0.0
            return events
        if self._by_hand and self._target is None:
            return real(timeout)
        if self._executing or any(busy() for busy in self.outside):
            return self._wait(real, 0.01, f"a thread did not come back within {PATIENCE_S} s")
        if self._target is not None:
            return self._on_the_way(timeout)
        if timeout is not None and sockets():
            return self._wait(real, min(timeout, 0.01), SOCKETS, passes=True)
        return self._next(timeout)

    def _wait(self, real: Select, seconds: float, why: str, *, passes: bool = False) -> Events:
        self._waited += seconds
        if self._waited > PATIENCE_S:
            return self._stuck(why)
        began = self._real()
        events = real(seconds)
        if passes:
            self._jumped += self._real() - began
        return events

    def _on_the_way(self, timeout: float | None) -> Events:
        assert self._target is not None
        target, then = self._target
        left = max(0.0, target - self.now())
        if timeout is not None and timeout <= left:
            self._jumped += timeout
        else:
            self._jumped += left
            self._target = None
            then()
        return []

    def _next(self, timeout: float | None) -> Events:
        if timeout is None:
            return self._stuck("nothing is ready, no timer is set, and no thread is at work")
        if self.passed > LIFETIME_S:
            return self._stuck(f"the scenario was not over after {LIFETIME_S} virtual seconds")
        self._jumps += 1
        if self._jumps > JUMPS_MAX:
            return self._stuck(
                f"the clock has jumped {JUMPS_MAX} times in {self.passed:.0f} virtual seconds: somebody looks again "
                "and again for what never comes"
            )
        if self._jumps % LOOK_EACH == 0:
            self._chores = self._chores + 1 if self.only_chores() else 0
            if self._chores == 3:
                return self._stuck("nobody has anything to do any more, and no timer is set that could change that")
        self.jump(timeout)
        return []

    def _stuck(self, why: str) -> Events:
        self._waited = 0.0
        self._jumps = self._chores = 0
        error = SimulationStuck(why)
        if not self.on_stuck(error):
            raise error
        return []


def _threads() -> Callable[[], bool]:
    """Whether a plain step runs, or something else in anyio's threads. Made on the event loop."""
    limiter = current_default_thread_limiter()
    return lambda: threads.at_work() or limiter.borrowed_tokens > 0


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock, which jumps to whatever is due next."""

    def __init__(self) -> None:
        self.virtual = VirtualTime(lambda: 0.0)
        super().__init__(cast(selectors.BaseSelector, _Jumping(self.virtual, selectors.SelectSelector(), alone=True)))
        # after months of virtual time a float cannot tell nanoseconds apart: a jump could fall short of its timer
        self._clock_resolution = 1e-6

    @property
    def outside(self) -> list[Callable[[], bool]]:
        """Whether something outside the loop (a thread) is at work, so that it has to be waited for."""
        return self.virtual.outside

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.virtual.now()

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self.virtual.jump(seconds)

    def run_in_executor(  # type: ignore[override]  # its types are those of a later Python
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """As ever; meanwhile time stands still."""
        return self.virtual.executing(super().run_in_executor(executor, func, *args))


class _Jumping:
    """A selector that waits for nothing but what `VirtualTime` says."""

    def __init__(self, virtual: VirtualTime, inner: selectors.BaseSelector, *, alone: bool = False) -> None:
        self._virtual = virtual
        self.inner = inner
        #: Whether sockets do not matter: it is a simulation's own loop.
        self._alone = alone

    def select(self, timeout: float | None = None) -> Events:
        return self._virtual.select(timeout, self.inner.select, self._sockets)

    def _sockets(self) -> bool:
        return not self._alone and len(self.inner.get_map()) > 1  # one is the loop's own, by which threads wake it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def virtual(loop: asyncio.AbstractEventLoop, *, by_hand: bool = False) -> Iterator[VirtualTime]:
    """Give the event loop that runs here a virtual time, until the block ends. Raises `UsageError` if it cannot be.

    Where sockets are open on it, somebody may wait for an answer: then time passes as it does.
    """
    if isinstance(loop, VirtualLoop):
        yield loop.virtual
        return
    own: Any = loop
    selector = getattr(own, "_selector", None)
    if not isinstance(selector, selectors.BaseSelector):
        raise UsageError(
            f"virtual time needs asyncio's own event loop, not {type(loop).__module__}.{type(loop).__qualname__}"
        )
    time = VirtualTime(loop.time, by_hand=by_hand)
    time.outside.append(_threads())
    resolution, execute = own._clock_resolution, loop.run_in_executor
    own._selector, own.time, own._clock_resolution = _Jumping(time, selector), time.now, 1e-6
    own.run_in_executor = lambda *args: time.executing(execute(*args))
    try:
        yield time
    finally:
        own._selector, own._clock_resolution = selector, resolution
        del own.time, own.run_in_executor


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `await main()` on a `VirtualLoop` of its own.

    Raises `ForgottenAwait` if a handler ended without awaiting something it began; an engine only logs a warning.
    """
    outside_a_loop("run(main) runs an event loop of its own, and one is running here: call it from a plain function")
    loop = VirtualLoop()
    forgotten: list[str] = []

    async def with_threads() -> T:
        loop.outside.append(_threads())
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


def outside_a_loop(instead: str) -> None:
    """Whether an event loop can be run here. Raises `UsageError` with this text."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(instead)
