"""Room for those that wait for a slot: attempts that only wait make it for them, the longest idle first.

Those that wait for other invocations make it a little before it is asked for, a few at a time: so a chain of calls
costs the same where it is deeper than there are slots.
"""

from durable.runtime.attempt import Attempt

#: Up to so many slots are kept free in advance, or a tenth of them.
SPARE = 64


class Room:
    """Which attempts only wait, and which of them make room."""

    def __init__(self, slots: int) -> None:
        self._spare = min(SPARE, slots // 10)
        #: Whether others wait for a slot: then whoever only waits makes room at once.
        self._crowded = False
        #: Attempts that seemed to do nothing but wait, those first that began to first. Some have gone on since.
        self._idle: dict[Attempt, None] = {}
        #: Those of them that may wait for other invocations.
        self._calling: dict[Attempt, None] = {}
        #: Those that make room, until they have.
        self._leaving: set[Attempt] = set()

    def waits(self, attempt: Attempt) -> None:
        """An attempt seems only to wait."""
        if self._crowded:
            self._leave(attempt, warm=True)
            return
        self._idle[attempt] = None
        if attempt.calls:
            self._calling[attempt] = None

    def unload(self, attempt: Attempt) -> None:
        """Nobody needs its slot, but it is not to stay in memory."""
        self._leave(attempt, warm=False)

    def _leave(self, attempt: Attempt, *, warm: bool) -> None:
        self._leaving.add(attempt)
        attempt.give_way(warm=warm)

    def make(self, waiting: int, free: int) -> None:
        """So many others wait for a slot, and so many are free."""
        self._crowded = waiting > 0
        spare = self._spare - free if free < self._spare // 2 and self._calling else 0
        if not waiting and not spare:
            return
        self._leaving = {attempt for attempt in self._leaving if attempt.giving_way or not attempt.active}
        while len(self._leaving) < waiting and self._idle:
            attempt = _first(self._idle)
            self._calling.pop(attempt, None)
            if attempt.idle:
                self._leave(attempt, warm=True)
        while len(self._leaving) < spare and self._calling:
            attempt = _first(self._calling)
            if attempt.idle and attempt.may_stay:
                del self._idle[attempt]
                self._leave(attempt, warm=True)

    def forget(self, attempt: Attempt) -> None:
        """It has made room, or is over."""
        self._idle.pop(attempt, None)
        self._calling.pop(attempt, None)
        self._leaving.discard(attempt)

    def clear(self) -> None:
        """All are over."""
        for kept in (self._idle, self._calling, self._leaving):
            kept.clear()


def _first(attempts: dict[Attempt, None]) -> Attempt:
    attempt = next(iter(attempts))
    del attempts[attempt]
    return attempt
