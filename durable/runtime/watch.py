"""Attempts that wait too long are unloaded, kept handlers let go; those that do not yield are interrupted."""

import asyncio
from collections.abc import Mapping

from durable.runtime.attempt import Attempt

#: A look that comes later than this was held up by an event loop that stood still; and for so long nobody is judged
#: after that, so that what waited behind has its turn.
LATE_S = 0.25
#: Those that are kept are looked at so seldom: they are many.
COOL_S = 1.0


class Watch:
    """One timer for all attempts: it looks when the first of them can have been inactive for too long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, attempts: Mapping[int, Attempt]) -> None:
        self._loop = loop
        self._attempts = attempts
        self._handle: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._closed = False

    def begin(self, attempt: Attempt) -> None:
        """An attempt has started."""
        due = attempt.touched + _inactivity_s(attempt)
        if self._handle is None or due < self._look_at:
            self._look_later(due)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    def stalled(self, seconds: float) -> None:
        """The event loop stood still: that is charged to nobody."""
        for attempt in self._attempts.values():
            attempt.stalled(seconds)
        if self._handle is not None and not self._closed:
            self._look_later(self._loop.time() + LATE_S)

    def _look_later(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._look_at = at
        self._handle = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        now, next_look = self._loop.time(), float("inf")
        if now - self._look_at > LATE_S:
            self.stalled(now - self._look_at)
            return
        self._handle = None
        for attempt in list(self._attempts.values()):
            next_look = min(next_look, self._judge(attempt, now))
        if next_look != float("inf") and not self._closed:
            self._look_later(max(next_look, now + 0.01))

    def _judge(self, attempt: Attempt, now: float) -> float:
        """Do what is due for one attempt; returns when to look at it again."""
        inactive_at = attempt.touched + _inactivity_s(attempt)
        if attempt.warm:
            if now < inactive_at:
                return max(inactive_at, now + COOL_S)
            attempt.host.cool(attempt)
            return float("inf")
        if not attempt.active or attempt.task is None:
            return now + _inactivity_s(attempt)
        if now < inactive_at:
            return inactive_at
        abort_s = (attempt.handler.settings.abort_timeout_ms or 0) / 1000
        attempt.give_way()
        if attempt.idle or attempt.is_stuck:
            return now + (_inactivity_s(attempt) or abort_s)
        abort_at = inactive_at + abort_s
        if now < abort_at:
            return min(abort_at, now + _inactivity_s(attempt)) if _inactivity_s(attempt) else abort_at
        attempt.abort()
        return float("inf")


def _inactivity_s(attempt: Attempt) -> float:
    return (attempt.handler.settings.inactivity_timeout_ms or 0) / 1000
