"""Who may have killed the process is tried apart from the others, half of them at a time.

A *suspect* was running in two processes, one after the other, that ended without a clean close. A crash is laid to
those that were started last: the others had run for a while without harm. So of a thousand, ten crashes leave one,
and nobody waits for longer than two trials.
"""

from collections.abc import Sequence, Set
from typing import NamedTuple

#: After how many crashes in a row an invocation is a suspect.
SUSPECT = 2
#: How long a trial lasts, if nothing is heard of those on trial: as long as it took to the last crash, within these.
TRIAL_MS, TRIAL_MS_MAX = 1_000, 3_600_000


class Blame(NamedTuple):
    """To whom a crash is laid: to all that were running, but those that are spared."""

    #: Suspects that had run for a while without harm when the last ones were put on trial.
    spared: Set[int]
    #: The only one that it can have been; 0 where it can have been several.
    alone: int


def blame(ran: Sequence[tuple[int, int, int]]) -> Blame:
    """Of those that were running when the process ended: (seq, crashes laid to it before, when it was started)."""
    everybody = [seq for seq, _, _ in ran]
    started = {seq: at for seq, crashes, at in ran if crashes >= SUSPECT}
    last = max(started.values(), default=0)
    on_trial = [seq for seq, at in started.items() if at == last]
    suspects = on_trial or everybody
    return Blame(started.keys() - set(on_trial), suspects[0] if len(suspects) == 1 else 0)


class Trials:
    """Suspects that wait for their trial, and those that are on trial."""

    def __init__(self) -> None:
        #: How many crashes are laid to each of those that wait.
        self.waiting: dict[int, int] = {}
        #: Who is on trial, as long as nothing is heard of it; and how many trials there were.
        self.on_trial: set[int] = set()
        self.number = 0
        #: How long it took to the last crash, as far as known.
        self._took_ms = 0
        #: How many crashes are laid to the worst of them, once one half of those had its trial.
        self._worst: int | None = None

    @property
    def due(self) -> bool:
        """Whether somebody waits and can be tried."""
        return bool(self.waiting) and not self.on_trial

    def took(self, ms: int) -> None:
        """One of those that may have killed the process did so after this time, at most."""
        self._took_ms = max(self._took_ms, ms)

    def next(self, free: int) -> list[int]:
        """Who is tried next: of those to whom most crashes are laid one half, then the other; then all others."""
        worst = max(self.waiting.values()) if self._worst is None else self._worst
        batch = sorted(seq for seq, crashes in self.waiting.items() if crashes >= worst) or sorted(self.waiting)
        return batch[: min(free, (len(batch) + 1) // 2 if self._worst is None else len(batch))]

    def begin(self, batch: list[int]) -> None:
        """These are tried."""
        if self._worst is None:
            self._worst = max(self.waiting.values())
        for seq in batch:
            del self.waiting[seq]
        self.on_trial = set(batch)
        self.number += 1
        if not self.waiting:
            self._worst = None

    def lasts_ms(self, crashes: int) -> int:
        """How long the trial of one to whom so many crashes are laid lasts."""
        longest = min(TRIAL_MS << (crashes - SUSPECT), TRIAL_MS_MAX)
        return max(TRIAL_MS, min(self._took_ms, longest))

    def heard_of(self, seq: int) -> None:
        """It has ended, or got further, or only waits, or will not run: it is tried no more."""
        self.waiting.pop(seq, None)
        self.on_trial.discard(seq)

    def over(self, number: int) -> None:
        """The trial has lasted long enough."""
        if number == self.number:
            self.on_trial.clear()
