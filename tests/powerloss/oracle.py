"""What must hold: a state machine over marks. Pure.

A mark is something that was told, done or seen, and stands in the trace at its place between the writes. Marks that a
cut leaves are all marks before it, for what was told cannot be taken back; then come the marks of whoever reads what
is left. `Facts.take` follows them and raises `Violation` at the first that cannot be.
"""

import copy
from collections import Counter
from typing import Any

Mark = list[Any]
Step = tuple[str, str]


class Violation(AssertionError):
    """A promise that was broken."""


def require(condition: bool, promise: str) -> None:
    if not condition:
        raise Violation(promise)


class Facts:
    """All that was told until now."""

    def __init__(self) -> None:
        #: Jobs somebody may have asked for, and those whose acceptance was told, by number.
        self.tried: set[int] = set()
        self.accepted: dict[int, str] = {}
        #: Outcomes that were told.
        self.told: dict[int, Any] = {}
        #: Steps whose result a handler saw, and how often each step ran.
        self.seen: dict[Step, str] = {}
        self.ran: Counter[Step] = Counter()
        #: Counters as they were told.
        self.counts: dict[str, int] = {}
        #: Awakeables by job, as they were published last, and those that must be the same for ever.
        self.awakeables: dict[int, str] = {}
        self.published: dict[int, str] = {}
        #: What was completed from outside, told or not.
        self.completing: dict[int, str] = {}
        self.completed: dict[int, str] = {}
        #: Jobs that were, or may be, forgotten.
        self.purging: set[int] = set()
        self.purged: set[int] = set()
        #: The option, as it was set last, and as it may be.
        self.option = 0
        self.option_asked = 0
        #: The key with which all was told to be encoded.
        self.encoded = ""
        #: Backups that were told to be there, with what was told before they were begun.
        self.backing_up: dict[str, Facts] = {}
        self.backups: dict[str, Facts] = {}
        #: The backup that the file may hold instead, where a restore was begun and not told.
        self.restoring: str | None = None
        #: Files that restores have put aside, with what was told of them before.
        self.replaced: dict[str, Facts] = {}
        #: How often a process ended, by itself or not.
        self.lives = 0
        #: What happened how often, for I10.
        self.count: Counter[str] = Counter()

    def copy(self) -> "Facts":
        """As far as this, and then another way."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | set):
                setattr(other, name, value.copy())
        return other

    def take(self, mark: Mark) -> None:
        """The next mark. Raises `Violation`."""
        what, *rest = mark
        self.count[what] += 1
        getattr(self, f"_{what.replace('-', '_')}")(*rest)

    # ---- what a program does ----

    def _life(self, kind: str) -> None:
        self.lives += 1
        self.count[f"life: {kind}"] += 1

    def _try(self, job: int) -> None:
        self.tried.add(job)

    def _accepted(self, job: int, id: str) -> None:
        known = self.accepted.setdefault(job, id)
        require(known == id, f"I1: job {job} was {known}, and is {id}")

    def _ran(self, id: str, label: str) -> None:
        step = (id, label)
        require(step not in self.seen, f"I2: {step} ran again, though its handler had seen {self.seen.get(step)!r}")
        self.ran[step] += 1
        require(self.ran[step] <= 1 + self.lives, f"I2: {step} ran {self.ran[step]} times in {self.lives} lives")

    def _saw(self, id: str, label: str, token: str) -> None:
        step = (id, label)
        known = self.seen.setdefault(step, token)
        require(known == token, f"I2: {step} gave {known!r}, and now {token!r}")

    def _awakeable(self, job: int, id: str) -> None:
        self.awakeables[job] = id
        known = self.published.setdefault(job, id)
        require(known == id, f"I2: the awakeable of job {job} was {known}, and is {id}")

    def _completing(self, job: int, value: str) -> None:
        self.completing[job] = value

    def _completed(self, job: int, value: str) -> None:
        self.completed[job] = value

    def _purging(self, job: int) -> None:
        self.purging.add(job)

    def _purged(self, job: int) -> None:
        self.purged.add(job)

    def _setting(self, option: int) -> None:
        self.option_asked = option

    def _set(self, option: int) -> None:
        self.option = option

    def _encoded(self, key: str) -> None:
        self.encoded = key

    def _backing_up(self, name: str) -> None:
        self.backing_up[name] = self.copy()

    def _backed_up(self, name: str) -> None:
        self.backups[name] = self.backing_up[name]

    def _restoring(self, name: str) -> None:
        self.restoring = name

    def _restored(self, name: str, aside: str) -> None:
        """From here on the backup is what holds, and what was told after it was begun may or may not be in it."""
        before = self.copy()
        self.become(name)
        self.replaced[aside] = before

    def become(self, name: str) -> None:
        """The file is that backup now."""
        now = self.copy()
        vars(self).update(vars(self.backups[name].copy()))
        self.restoring = None
        self._keep_what_is_outside(now)
        self.backing_up, self.backups, self.replaced = now.backing_up, now.backups, now.replaced

    def without_promises(self) -> "Facts":
        """What is left where commits may be lost: what somebody asked for, and what happened outside."""
        new = Facts()
        new._keep_what_is_outside(self)
        new.backing_up, new.backups = ({name: Facts() for name in some} for some in (self.backing_up, self.backups))
        return new

    def _keep_what_is_outside(self, now: "Facts") -> None:
        self.tried, self.completing, self.purging = now.tried, now.completing, now.purging
        self.awakeables, self.option_asked = now.awakeables, now.option_asked
        self.lives, self.count = now.lives, now.count

    def _commit(self, digest: str) -> None:
        pass  # for `survive`

    # ---- what somebody finds ----

    def _told(self, job: int, outcome: Any) -> None:
        """An outcome, to whomever."""
        require(job not in self.purged, f"I1: job {job} was forgotten, and answers {outcome!r}")
        known = self.told.setdefault(job, outcome)
        require(known == outcome, f"I5: the outcome of job {job} was {known!r}, and is {outcome!r}")
        given = self.completed.get(job)
        require(given is None or outcome == given, f"I3: job {job} was completed with {given!r}, and has {outcome!r}")

    def _there(self, job: int) -> None:
        """It is accepted and has no outcome yet."""
        require(job not in self.told, f"I1: job {job} had ended with {self.told.get(job)!r}, and has not ended")
        require(job not in self.purged, f"I1: job {job} was forgotten, and is there")

    def _missing(self, job: int) -> None:
        lost = job in self.accepted or job in self.told
        require(
            not lost or job in self.purging, f"I1: job {job} was accepted ({self.accepted.get(job)}), and is gone"
        )

    def _counted(self, key: str, count: int) -> None:
        known = self.counts.get(key, 0)
        require(known <= count, f"I3: the state of {key} was {known}, and is {count}")
        self.counts[key] = count

    def _option(self, option: int) -> None:
        require(self.option <= option, f"I1: the option was set to {self.option}, and is {option}")
        asked = self.option_asked
        require(option <= asked, f"I1: the option is {option}, and nobody ever asked for more than {asked}")

    # ---- when everything is done ----

    def finished(self, counts: dict[str, int], unfinished: list[str]) -> None:
        """All jobs were asked for once more and have ended: counters are as the model says, nothing is left."""
        require(not unfinished, f"I7: these do not end: {unfinished}")
        without = self.tried - self.told.keys() - self.purging
        require(not without, f"I1: the jobs {sorted(without)} have no outcome")
        for key, count in counts.items():
            require(self.counts.get(key, 0) == count, f"I3: {key} counts {self.counts.get(key, 0)}, not {count}")
