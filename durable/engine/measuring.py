"""How an engine fares: its metrics, and a verdict. Computed when somebody asks; nothing is polled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyio import to_thread

from durable import log
from durable.core.invocation import PATCH_STATE, Status
from durable.engine.control import Control
from durable.engine.roles import Role
from durable.engine.standby import Standby
from durable.errors import DurableError
from durable.release import package_version
from durable.runtime.loop import Loop
from durable.runtime.observer import Observer, together
from durable.runtime.resting import RestingLoop
from durable.store.filter import Backlog
from durable.telemetry import metrics as of
from durable.telemetry.exposition import exposition
from durable.telemetry.families import Distribution, Labels, Measured
from durable.telemetry.instruments import Instruments, provider
from durable.telemetry.metrics import Metrics, Targets
from durable.views.health import BLOCKED_WITHIN_S, Health, judged

#: Of which commits a median is told.
RECENT_S = 60.0


class Measuring(Control):
    """What an engine tells of itself in numbers."""

    #: Counts what happens, once somebody wants to know.
    _metrics: Metrics | None = None
    _telemetry: bool | None
    #: Who is told besides, in this life.
    _told: tuple[Observer, ...] = ()

    @property
    def failure(self) -> BaseException | None:
        """Why the engine stopped by itself, if it did: an `EngineFailedError`."""
        return None if self._life is None else self._life.failure

    @property
    def role(self) -> Role | None:
        """`Role.HOLDER` while this engine runs the handlers; `Role.STANDBY` while another process does; or None."""
        return None if self._life is None else self._life.role

    def measure(self) -> None:
        """Start counting what `metrics` and `GET /metrics` show. Idempotent.

        `durable.admin.create_app(engine)`, a meter provider of OpenTelemetry, and the first call of `metrics` start
        it, too.
        """
        if self._metrics is None:
            handlers = [(one.service, one.name) for one in self._registry if one.name != PATCH_STATE]
            self._metrics = Metrics(self._gauges, handlers)
            loop = self._own_loop
            if loop is not None and not loop.over:
                loop.observe(self._all_told())

    def metrics(self) -> str:
        """The metrics of this engine, in Prometheus' format: see `docs/metrics.md`. Raises nothing."""
        self.measure()
        assert self._metrics is not None, "it is made once"
        return exposition(self._metrics.measured())

    async def health(self) -> Health:
        """How this engine is doing: a verdict (ok, degraded, failing) and its reasons. See `docs/metrics.md`.

        It also works if the engine is not running or has failed. An engine on standby reports on itself, not on the
        holder. Raises `ForkedEngineError`, `WrongLoopError`.
        """
        if self._life is not None:
            self._life.check_place()
        path = self.path
        loop = self._own_loop if self.role is Role.HOLDER else None
        facts: dict[str, Any] = {"role": None if isinstance(loop, RestingLoop) else self.role}
        if self.failure is not None:
            facts["failure"] = str(self.failure)
        elif loop is not None:
            facts |= _of_the_loop(loop)
            backlog = None
            try:
                backlog = await to_thread.run_sync(loop.store.backlog)
            except DurableError as error:
                facts["failure"] = f"the file cannot be read: {error}"
            if backlog is not None:
                facts |= _of_the_backlog(backlog, self.now_ms())
            facts["damage"] = self.damage
            facts["subscriptions"] = tuple(self._not_reading())
        elif isinstance(self._life, Standby):
            facts["holder_silent_s"] = self._life.holder_silent_s
            if self.role is Role.STANDBY:
                facts["take_over"] = (await self._life.look_ahead()).words
        if path is not None:
            facts |= await to_thread.run_sync(_of_the_file, path)
        return judged(Health(**facts))

    # ---- what is counted ----

    def _counting(self, others: Iterable[Observer]) -> Observer | None:
        """Whoever is told in the life that begins."""
        self._told = tuple(others)
        if self._telemetry is not False:
            try:
                self._export()
            except Exception as error:  # of the SDK: it costs its metrics, and nothing else
                log.engine.warning("the meter provider takes no metrics: %s: %s", type(error).__qualname__, error)
        return self._all_told()

    def _export(self) -> None:
        found = provider()
        if found is not None:
            self.measure()
            if self._metrics is not None and self._metrics.record is None:
                Instruments(self._metrics, found, self.path or "")

    def _all_told(self) -> Observer | None:
        return together([*self._told, *([] if self._metrics is None else [self._metrics])])

    @property
    def _own_loop(self) -> Loop | None:
        """Of its own life, if that has one."""
        life = self._life
        if life is None or life.forked or life.elsewhere is not None or life.over:
            return None
        with suppress(DurableError):
            return life.loop
        return None

    # ---- what is computed ----

    def _gauges(self, targets: Targets) -> Iterator[Measured]:
        """On whatever thread asks. What cannot be told at this moment is left out."""
        role = None if isinstance(self._own_loop, RestingLoop) else self.role
        yield Measured(of.ENGINE, {(package_version(), str(role or "stopped")): 1})
        loop = self._own_loop if role is Role.HOLDER else None
        if loop is None:
            return
        for told in (_of_the_store, _of_memory, _of_the_disk, self._of_topics):
            tell: Callable[..., Iterator[Measured]] = told
            with suppress(Exception):
                yield from list(tell(self, loop, targets))

    def _of_topics(self, engine: Measuring, loop: Loop, targets: Targets) -> Iterator[Measured]:
        views = [] if not loop.world.subscriptions else self._views()
        yield Measured(of.LAG, {(one.id, one.source): one.lag for one in views if one.lag is not None})
        yield Measured(of.TAKEN, {(one.id, one.source): one.taken for one in views})

    def _views(self) -> list[Any]:
        life = self._life
        reading: Any = life.reading() if life is not None else None
        return list(reading.views(None, None)) if reading is not None else []

    def _not_reading(self) -> Iterator[str]:
        loop = self._own_loop
        for one in self._views() if loop is not None and loop.world.subscriptions else ():
            if one.state in ("retrying", "failed"):
                yield f"{one.id} ({one.source}) is {one.state}: {one.reason}: {one.cause}"


def _of_the_store(engine: Measuring, loop: Loop, targets: Targets) -> Iterator[Measured]:
    backlog, now = loop.store.backlog(), engine.now_ms()
    points: dict[Labels, float | Distribution] = {}
    for (service, handler, status), waiting in backlog.invocations.items():
        labels = (targets.name(service, handler), status)
        before = points.get(labels, 0)
        assert not isinstance(before, Distribution)
        points[labels] = before + waiting.number
    yield Measured(of.OPEN, points)
    yield Measured(of.OLDEST, {(status,): max(0, now - at) / 1000 for status, at in _oldest(backlog).items()})
    yield Measured(of.TIMERS, {(): backlog.timers})


def _of_memory(engine: Measuring, loop: Loop, targets: Targets) -> Iterator[Measured]:
    yield Measured(of.QUEUED, {(): loop.queued})
    running, slots = len(loop.world.running), loop.world.slots
    yield Measured(of.SLOTS, {("used",): running, ("free",): max(0, slots - running)})
    yield Measured(of.THREADS, {(state,): number for state, number in loop.lending.threads.numbers.items()})


def _of_the_disk(engine: Measuring, loop: Loop, targets: Targets) -> Iterator[Measured]:
    if engine.path is not None:
        found = _of_the_file(engine.path)
        for family, name in ((of.WAL, "wal_size"), (of.FILE, "database_size"), (of.DISK, "disk_free")):
            yield Measured(family, {(): found[name]} if name in found else {})


def _of_the_file(path: str) -> dict[str, int]:
    found: dict[str, int] = {}
    with suppress(OSError):
        found["database_size"] = os.path.getsize(path)
        found["wal_size"] = 0
        with suppress(FileNotFoundError):
            found["wal_size"] = os.path.getsize(f"{path}-wal")
    with suppress(OSError):
        from shutil import disk_usage  # dear to import, for what few ask

        found["disk_free"] = disk_usage(Path(path).parent).free
    return found


def _of_the_loop(loop: Loop) -> dict[str, Any]:
    now = loop.time()
    took = [seconds for at, seconds in loop.commits if at > now - RECENT_S]
    since = loop.committing_since
    return {
        "commit_s": sorted(took)[len(took) // 2] if took else None,
        "commit_s_max": max(took, default=None),
        "committing_s": None if since is None else now - since,
        "queued": loop.queued,
        "blocked_s": max((seconds for at, seconds in loop.roster.stalls if at > now - BLOCKED_WITHIN_S), default=0.0),
    }


def _of_the_backlog(backlog: Backlog, now: int) -> dict[str, Any]:
    numbers = dict.fromkeys(map(str, Status), 0)
    for (_, _, status), waiting in backlog.invocations.items():
        numbers[status] += waiting.number
    oldest = {status: max(0, now - at) / 1000 for status, at in _oldest(backlog).items()}
    return {
        **{name: numbers[name] for name in ("running", "ready", "pending", "paused")},
        "oldest_ready_s": oldest.get("ready"),
        "oldest_paused_s": oldest.get("paused"),
        "timers": backlog.timers,
    }


def _oldest(backlog: Backlog) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, _, status), waiting in backlog.invocations.items():
        found[status] = min(found.get(status, waiting.oldest), waiting.oldest)
    return found
