"""Room for those that wait for a slot: what only waits lends its slot, or is unloaded.

A handler that waits for other invocations lends its slot to them and stays in memory, so that it need not be replayed
when they end. It is unloaded where more of them wait than are to be kept, or where it waits for something else, which
may take days.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from durable.core.commands import Command, Lend
from durable.runtime.attempt import Attempt
from durable.runtime.steps import CURRENT, Steps

#: Slots are lent a little before somebody waits for one, a few at a time: up to so many free ones, or a tenth.
SPARE = 64


class Room:
    """Which attempts only wait, and which of them give their slot to others."""

    def __init__(self, submit: Callable[[Command], None], slots: int, most: int) -> None:
        self._submit = submit
        self._spare = min(SPARE, slots // 10)
        #: How many lend their slot at a time.
        self._most = most
        #: Whether others wait for a slot: then whoever only waits makes room at once.
        self.crowded = False
        #: Attempts that seemed to do nothing but wait, for other invocations, or for something else; those first that
        #: began to first. Some have gone on since.
        self._calling: dict[Attempt, None] = {}
        self._idle: dict[Attempt, None] = {}
        #: Those that make room, until they have.
        self._leaving: set[Attempt] = set()
        #: Those that lend their slots, those first that did first; and of how many a step waits.
        self._lent: dict[Attempt, None] = {}
        self._in_steps = 0

    def waits(self, attempt: Attempt) -> None:
        """An attempt seems only to wait."""
        if not self.crowded:
            (self._calling if attempt.calls else self._idle)[attempt] = None
        elif attempt.calls:
            self._lend(attempt)
        else:
            self.leave(attempt)

    def leave(self, attempt: Attempt) -> None:
        """Unload it, if it only waits."""
        self._leaving.add(attempt)
        attempt.give_way()

    def make(self, waiting: int, free: int) -> None:
        """So many others wait for a slot, and so many are free: make room for them, longest idle first."""
        self.crowded = waiting > 0
        lend = max(waiting, self._spare - free if free < self._spare // 2 else 0)
        if lend:
            self._leaving = {attempt for attempt in self._leaving if attempt.giving_way or not attempt.active}
            self._make(lend, waiting)

    def _make(self, lend: int, unload: int) -> None:
        while len(self._leaving) < lend and self._calling:
            attempt = _first(self._calling)
            if attempt.idle:
                self._lend(attempt)
        while len(self._leaving) < unload and self._idle:
            attempt = _first(self._idle)
            if attempt.idle:
                self.leave(attempt)

    def _lend(self, attempt: Attempt) -> None:
        self._leaving.add(attempt)
        attempt.lend()

    def lends(self, attempt: Attempt) -> None:
        """It only waits: others may have its slot. Where too many do so, the longest idle of them is unloaded."""
        self._lent.pop(attempt, None)
        while len(self._lent) >= self._most:
            oldest = _first(self._lent)
            if oldest.idle:
                oldest.give_way()
        self._lent[attempt] = None
        self._submit(Lend(attempt.seq, attempt.number, attempt.notified))

    def goes_on(self, attempt: Attempt) -> None:
        """There was news for it."""
        self._lent.pop(attempt, None)

    def forget(self, attempt: Attempt) -> None:
        """It is over."""
        for kept in (self._calling, self._idle, self._lent):
            kept.pop(attempt, None)
        self._leaving.discard(attempt)

    def clear(self) -> None:
        """All are over."""
        for kept in (self._calling, self._idle, self._lent, self._leaving):
            kept.clear()

    @contextmanager
    def during(self, id: str, host: object) -> Iterator[None]:
        """Whoever asks waits for an invocation: where that is a step's function, its handler's slot is lent."""
        here = CURRENT.get()
        if not isinstance(here, Steps) or not here.belongs_to(host):
            yield
            return
        self._in_steps += 1
        try:
            with here.waiting_for(id, lend=self._in_steps <= self._most):
                yield
        finally:
            self._in_steps -= 1


def _first(attempts: dict[Attempt, None]) -> Attempt:
    attempt = next(iter(attempts))
    del attempts[attempt]
    return attempt
