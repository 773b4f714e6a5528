"""The ways in which a scenario is run, by name: what happens at which of its commits."""

import random
import re
from typing import Literal, get_args

import msgspec

from durable.errors import UsageError

How = Literal["before", "after", "restart", "refused"]


class Fault(msgspec.Struct, frozen=True):
    """What happens at the n-th commit (counted from 1 over the whole scenario)."""

    commit: int
    #: `before`: the commit is lost. `after`: it is durable, but nobody was told. `restart`: a clean restart follows.
    #: `refused`: the store says for certain that it wrote nothing, and goes on.
    how: How


class Mode(msgspec.Struct, frozen=True):
    """One way to run a scenario."""

    name: str
    #: Every await of something unresolved suspends the handler.
    always_suspend: bool = False
    faults: tuple[Fault, ...] = ()
    #: One handler at a time, and limits so small (`TINY`) that every one of them is reached.
    minimal: bool = False
    #: For repeated faults, the number of commits between two of them. If some handler made no progress in between,
    #: the number doubles, so that a fault does not come before the end of the same step for ever.
    every: int = 0
    how: How = "after"

    @property
    def group(self) -> str:
        """The group it belongs to: "every-commit", "every-restart", "every-await", or "" for a mixture."""
        if self.always_suspend and not self.every:
            return "every-await"
        if len(self.faults) != 1:
            return ""
        return "every-restart" if self.faults[0].how == "restart" else "every-commit"


#: Nothing happens.
UNDISTURBED = Mode("undisturbed")
#: What does not depend on the number of commits.
FIRST = (Mode("always-suspend", always_suspend=True), Mode("minimal memory", minimal=True))
LAST = (
    Mode("restart at every 3rd commit", every=3, how="restart"),
    Mode("crash after every 4th commit", every=4, how="after"),
    Mode("always-suspend, crash after every 5th commit", always_suspend=True, every=5, how="after"),
    Mode("minimal memory, crash after every 6th commit", minimal=True, every=6, how="after"),
)
_AT = re.compile(rf"({'|'.join(get_args(How))}) commit ([1-9]\d*)")


def at(commit: int, how: How) -> Mode:
    """One fault at one commit: "before commit 3"."""
    return Mode(f"{how} commit {commit}", faults=(Fault(commit, how),))


def refused(commit: int) -> Mode:
    """The store refuses one commit, and nothing of it was written: nobody notices."""
    return at(commit, "refused")


def modes(commits: int, *, seed: int = 0, most: int = 60) -> list[Mode]:
    """Every mode for a scenario with so many commits: the modes M2 to M7 of `docs/architecture.md`.

    If there are more than `most` commits, that many of them are drawn by `seed`.
    """
    chosen = list(range(1, commits + 1))
    if commits > most:
        chosen = sorted(random.Random(seed).sample(chosen, most))
    hows: tuple[How, ...] = ("before", "after", "restart")
    return [
        *FIRST,
        *(at(commit, how) for commit in chosen for how in hows),
        *(refused(commit) for commit in chosen[::3]),
        *LAST,
    ]


def mode_named(name: str) -> Mode:
    """The mode of that name. Raises `UsageError`, which lists the names."""
    found = _AT.fullmatch(name)
    if found is not None:
        how: How = found[1]  # type: ignore[assignment]
        return at(int(found[2]), how)
    for mode in (UNDISTURBED, *FIRST, *LAST):
        if mode.name == name:
            return mode
    known = ", ".join(repr(mode.name) for mode in (UNDISTURBED, *FIRST, *LAST))
    raise UsageError(f"there is no mode {name!r}: those are {known}, and 'before commit 3' (after, restart, refused)")
