"""The engine's clock in virtual time: it follows an event loop, and can be moved."""

import asyncio
import threading
from collections.abc import Callable

from durable.core.duration import Duration, parse
from durable.errors import UsageError
from durable.testing.virtual import PATIENCE_S, VirtualLoop, VirtualTime

#: Virtual clocks start here: 2030-01-01 00:00 UTC, in ms since the epoch.
EPOCH_MS = 1_893_456_000_000


class MovableClock:
    """What both kinds of clock have."""

    look_again_s = float("inf")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._time: VirtualTime | None = None
        #: What had passed on the event loops before this one.
        self._before_ms = 0

    def now_ms(self) -> int:
        """`EPOCH_MS` and what has passed since."""
        return EPOCH_MS + self._before_ms + (0 if self._time is None else round(self._time.passed * 1000))

    def follow(self, loop: asyncio.AbstractEventLoop, time: VirtualTime) -> None:
        """From now on go as the time of this event loop."""
        self.loop, self._time = loop, time

    def leave(self) -> None:
        """Stand still."""
        self._before_ms = self.now_ms() - EPOCH_MS
        self.loop = self._time = None

    def _move(self, duration: Duration, then: Callable[[], None]) -> None:
        if self._time is None:
            raise UsageError("this clock stands still: its time can be moved while an engine runs that has it")
        self._time.move(parse(duration) / 1000, then)


class VirtualClock(MovableClock):
    """The clock of a `VirtualLoop`, or of the event loop that it follows."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__()
        if isinstance(loop, VirtualLoop):
            self.follow(loop, loop.virtual)
        elif loop is not None:
            raise UsageError("VirtualClock(loop) takes a VirtualLoop: run the test with durable.testing.run(main)")

    async def advance(self, duration: Duration) -> None:
        """Let time pass ("2 days", seconds, a `timedelta`): what is due happens in order, each at its time.

        Returns when all of that has happened, and whatever follows from it at once. With 0, everything happens that
        can happen now.
        """
        there = asyncio.Event()
        self._move(duration, there.set)
        await there.wait()


class ClockByHand(MovableClock):
    """A clock on which time passes as usual, and which a test can also move, from its own thread."""

    def advance(self, duration: Duration) -> None:
        """Let time pass ("2 days", seconds, a `timedelta`): what is due happens in order, each at its time.

        Returns when all of that has happened, and whatever follows from it at once. With 0, everything happens that
        can happen now.
        """
        if not self._advance(duration, PATIENCE_S):
            raise UsageError(
                f"nothing came to rest within {PATIENCE_S} s. (Was advance() called on the engine's event loop? It "
                "waits for that loop, so call it from the thread of the test.)"
            )

    def settle(self, within_s: float) -> bool:
        """Wait, for so long, until everything has happened that can happen now; whether it has."""
        return self.loop is None or not self.loop.is_running() or self._advance(0, within_s)

    def _advance(self, duration: Duration, within_s: float) -> bool:
        if self.loop is None:
            raise UsageError("this clock stands still: start the engine first, by entering your app's TestClient")
        there, failed = threading.Event(), list[BaseException]()

        def move() -> None:
            try:
                self._move(duration, there.set)
            except BaseException as error:
                failed.append(error)
                there.set()

        self.loop.call_soon_threadsafe(move)
        arrived = there.wait(within_s)
        if failed:
            raise failed[0]
        return arrived
