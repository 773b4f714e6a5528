"""Where the engine gets the time from."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Milliseconds since the epoch, never going backwards."""

    #: How long a wait may be before the clock is read again, in case it has jumped.
    look_again_s: float

    def now_ms(self) -> int:
        """The time."""
        ...


class SystemClock:
    """The wall clock, made monotonic.

    Forward jumps (a suspended laptop, a corrected clock) are followed, so timers that became due fire. A backward
    jump is ignored until the next start: due times that are already stored would otherwise be late by the jump.
    """

    look_again_s = 60.0

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        """`wall` and `steady` give seconds: since the epoch, and since any moment, but never going backwards."""
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()

    def now_ms(self) -> int:
        """The time."""
        wall, steady = self._wall(), self._steady() + self._offset
        if wall > steady:
            self._offset += wall - steady
            return int(wall * 1000)
        return int(steady * 1000)
