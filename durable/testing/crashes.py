"""A process that dies at given commits: what a mode does to the store of one engine after the other."""

from collections.abc import Callable
from typing import Any

import msgspec

from durable.core.invocation import Status
from durable.store import CommitRefused
from durable.store.memory import Tables
from durable.store.rows import invocation_of
from durable.testing.modes import Mode

#: At so many faults in a row somebody has got nowhere: from then on there is more and more time between two.
NOWHERE_MAX = 8
#: Who may have been kept from getting anywhere.
BEGUN = (Status.RUNNING, Status.READY, Status.BACKING_OFF)


class SimulatedCrash(Exception):
    """The process died here."""


class CommitLog(msgspec.Struct):
    """What happened to the commits of one scenario, over all its engines."""

    commits: int = 0
    crashes: int = 0
    restarts: int = 0
    #: Of faults that come again and again: when there was one, and the commits to the next.
    fault_at: int = 0
    between: int = 0
    #: Who ran at the last of them: how long its journal was, and at how many of them in a row that.
    nowhere: dict[int, tuple[int, int]] = {}


class Faults:
    """What happens to the calls of one engine's store: it dies, or asks for a restart, at given commits."""

    def __init__(
        self, mode: Mode, log: CommitLog, on_restart: Callable[[], None], tables: Tables | None = None
    ) -> None:
        self._mode = mode
        self._log = log
        self._on_restart = on_restart
        self._tables = tables
        self._dead = False

    def __call__(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """See `durable.testing.faults.around`. A dead process can do nothing but let its file go."""
        if name in ("open", "close", "abandon"):
            return method(*arguments)
        if name == "commit":
            return self._commit(method, arguments)
        return self._alive(method, arguments)

    async def _alive(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self._check()
        return await method(*arguments)

    async def _commit(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._check()
        self._log.commits += 1
        how = self._fault()
        if how == "before":
            self._die()
        if how == "refused":
            raise CommitRefused(f"commit {self._log.commits} is refused by the simulation; nothing was written")
        await method(*arguments)
        if how == "after":
            self._die()
        if how == "restart":
            self._log.restarts += 1
            self._on_restart()

    def _fault(self) -> str | None:
        log = self._log
        for fault in self._mode.faults:
            if fault.commit == log.commits:
                return fault.how
        if not self._mode.every or log.commits < log.fault_at + (log.between or self._mode.every):
            return None
        log.between = 2 * (log.between or self._mode.every) if self._starves() else self._mode.every
        log.fault_at = log.commits
        return self._mode.how

    def _starves(self) -> bool:
        """Whether some handler was under way at each of the last faults, and got nowhere."""
        tables, before = self._tables, self._log.nowhere
        if tables is None:
            return False
        stands: dict[int, tuple[int, int]] = {}
        for seq, row in tables.invocations.items():
            if invocation_of(row).status in BEGUN:
                length = len(tables.journal.get(seq, ()))
                then, times = before.get(seq, (length, 0))
                stands[seq] = (length, times + 1 if then == length else 1)
        self._log.nowhere = stands
        return any(times >= NOWHERE_MAX for _, times in stands.values())

    def _die(self) -> None:
        self._dead = True
        self._log.crashes += 1
        raise SimulatedCrash(f"at commit {self._log.commits}")

    def _check(self) -> None:
        if self._dead:
            raise SimulatedCrash("the process is dead")
