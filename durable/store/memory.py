"""The store that forgets: the same rows in dictionaries, for tests and for engines that do not have to survive."""

import asyncio
import copy
import sys
from collections import deque
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from durable.core.effects import Need, Timer, Writes
from durable.core.invocation import Flavor, Invocation, KeyedObject, Signal, Status
from durable.core.journal import Outcome, Row
from durable.core.once import NOBODY, Answered, Place
from durable.core.sources import Cluster, GroupPartition, Position, Subscription
from durable.core.topics import JOINED, promise_topic
from durable.core.world import Loaded
from durable.errors import EngineFailedError, EngineLockedError, EngineNotRunningError, StorageError
from durable.store import CommitRefused, Expired, Opened, Sources
from durable.store.answered import owners_gone
from durable.store.filter import Backlog, Counts, Filter, Page, backlog_of, counts_of, page_of
from durable.store.rows import (
    FIXED_COUNT,
    FIXED_NAMES,
    MOVING_NAMES,
    complete,
    fixed,
    invocation_of,
    journal_of,
    moving,
    take_journal,
    without_journal,
)

#: Where a row has what it is looked up by: it is read as an invocation only where that fits, as a file's index does.
SERVICE, KEY = FIXED_NAMES.index("service"), FIXED_NAMES.index("key")
STATUS, PLACE, COMPLETED_AT = (FIXED_COUNT + MOVING_NAMES.index(name) for name in ("status", "place", "completed_at"))

K = TypeVar("K")
V = TypeVar("V")


class Tables(msgspec.Struct):
    """What a file would contain. Give it to another `MemoryStore` to start again after a crash."""

    invocations: dict[int, tuple[object, ...]] = {}
    ids: dict[str, int] = {}
    journal: dict[int, dict[tuple[int, int], Row]] = {}
    state: dict[tuple[str, str], dict[str, bytes]] = {}
    promises: dict[tuple[str, str], dict[str, Outcome]] = {}
    timers: set[Timer] = set()
    listeners: dict[str, set[tuple[int, int]]] = {}
    signals: dict[int, dict[int, Signal]] = {}
    settings: dict[str, str] = {}
    declared: dict[str, tuple[int, str]] = {}
    subscriptions: dict[str, Subscription] = {}
    positions: dict[GroupPartition, Position] = {}
    clusters: dict[str, Cluster] = {}
    keys: dict[str, bytes] = {}
    answered: dict[str, dict[Place, Answered]] = {}
    ordinals: int = 16
    #: Whether the engine that wrote last has ended in order.
    clean: bool = True
    in_use: bool = False

    def copy(self) -> "Tables":
        """What a crash at this moment would leave."""
        return copy.deepcopy(self)


def _replace(table: dict[K, V], writes: dict[K, V | None]) -> None:
    for key, value in writes.items():
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


class MemoryStore:
    """A `Store` in this process's memory."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables = tables if tables is not None else Tables()
        self._open = False
        self._failed = False

    async def open(self) -> Opened:
        """Take the tables for one engine alone."""
        if self.tables.in_use:
            raise EngineLockedError("these tables are in use by another engine: one engine per file")
        self.tables.in_use = True
        self._open, self._failed = True, False
        return Opened(
            next_ordinal=self.tables.ordinals,
            next_seq=max(self.tables.invocations, default=0) + 1,
            settings=dict(self.tables.settings),
            declared=dict(self.tables.declared),
            ready=bool(self._in(Status.READY)),
            crashed=not self.tables.clean,
            sources=Sources(dict(self.tables.subscriptions), dict(self.tables.clusters), dict(self.tables.positions)),
            keys=dict(self.tables.keys),
        )

    async def sign_off(self) -> None:
        """Note that the engine ends in order."""
        if self._open and not self._failed:
            self.tables.clean = True

    async def close(self) -> None:
        """Let the tables go."""
        self.abandon()

    def abandon(self) -> None:
        """Let the tables go."""
        if self._open:
            self._open = False
            self.tables.in_use = False

    async def lost(self) -> None:
        """Memory is always there."""
        await asyncio.get_running_loop().create_future()

    async def commit(self, writes: Writes) -> None:
        """Write a turn."""
        self._check()
        writes = writes.with_all()
        for invocation in writes.created.values():
            taken = self.tables.ids.get(invocation.id)
            if invocation.seq in self.tables.invocations or (taken is not None and taken not in writes.purged):
                raise CommitRefused(f"the invocation {invocation.seq} {invocation.id} exists; nothing was written")
        try:
            self._write(writes)
        except Exception as error:
            self._failed = True
            raise EngineFailedError(f"a commit failed and the engine stopped: {error!r}") from error

    def _write(self, writes: Writes) -> None:
        tables = self.tables
        tables.clean = False
        self._forget([seq for seq in writes.purged if seq not in writes.created])
        for row in writes.journal:
            tables.journal.setdefault(row.invocation, {})[row.entry, row.part] = row
        for invocation in writes.created.values():
            tables.invocations[invocation.seq] = fixed(invocation) + moving(invocation)
            tables.ids[invocation.id] = invocation.seq
        for seq, invocation in writes.changed.items():
            if seq in tables.invocations:
                tables.invocations[seq] = tables.invocations[seq][:FIXED_COUNT] + moving(invocation)
        tables.timers -= writes.timers_removed
        tables.timers |= writes.timers_added
        for key in writes.state_cleared:
            tables.state.pop(key, None)
        for key in writes.promises_cleared:
            tables.promises.pop(key, None)
        for (service, key_, name), value in writes.state.items():
            values = tables.state.setdefault((service, key_), {})
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
        for (service, key_, name), outcome in writes.promises.items():
            tables.promises.setdefault((service, key_), {})[name] = outcome
        for topic, seq, entry in writes.listeners_removed:
            tables.listeners.get(topic, set()).discard((seq, entry))
        for topic, seq, entry in writes.listeners_added:
            tables.listeners.setdefault(topic, set()).add((seq, entry))
        for seq, ordinal in writes.signals_removed:
            tables.signals.get(seq, {}).pop(ordinal, None)
        for seq, signal in writes.signals_added:
            tables.signals.setdefault(seq, {})[signal.ordinal] = signal
        self._write_answered(writes)
        self._forget([seq for seq in writes.purged if seq in writes.created])
        for seq in writes.purged:
            tables.journal.pop(seq, None)
            tables.signals.pop(seq, None)
        for seq in writes.journals_purged:
            tables.journal.pop(seq, None)
            if seq in tables.invocations:
                tables.invocations[seq] = without_journal(tables.invocations[seq])
        tables.settings |= writes.settings
        tables.declared |= writes.declared
        _replace(tables.subscriptions, writes.subscriptions)
        _replace(tables.positions, writes.positions)
        _replace(tables.clusters, writes.clusters)
        if writes.ordinals_reserved is not None:
            tables.ordinals = writes.ordinals_reserved
        _replace(tables.keys, writes.keys)

    def _write_answered(self, writes: Writes) -> None:
        answered = self.tables.answered
        for (owner,) in owners_gone(writes):
            answered.pop(owner, None)
        if writes.answered_until is not None:
            kept = answered.get(NOBODY, {})
            answered[NOBODY] = {place: one for place, one in kept.items() if one.until > writes.answered_until}
        for place, one in writes.answered.items():
            answered.setdefault(place.owner, {})[place] = one

    def _forget(self, seqs: list[int]) -> None:
        for seq in seqs:
            gone = self.tables.invocations.pop(seq, None)
            if gone is not None:
                del self.tables.ids[str(gone[1])]

    async def load(self, need: Need) -> Loaded:
        """Invocations, objects and listeners."""
        self._check()
        tables = self.tables
        loaded = Loaded()
        seqs = {*need.seqs, *(tables.ids[id] for id in need.ids if id in tables.ids)}
        if need.ready is not None:
            loaded.ready = self._ready(*need.ready)
            seqs |= {seq for _, seq in loaded.ready}
        for seq in sorted(seqs & tables.invocations.keys()):
            invocation = self._invocation(seq)
            loaded.invocations.append(invocation)
            if invocation.completed_at is None:
                complete(invocation, self._stored(seq), partly=False)
                if tables.signals.get(seq):
                    loaded.signals[seq] = [signal for _, signal in sorted(tables.signals[seq].items())]
        loaded.keys = [self._object(*key) for key in need.keys]
        for seq in need.journals:
            take_journal(seq, self._stored(seq), loaded)
        for key in need.waiting:
            start = promise_topic(*key, "")
            topics = sorted(topic for topic in tables.listeners if topic.startswith(start))
            loaded.waiting[key] = [(topic, *one) for topic in topics for one in sorted(tables.listeners[topic])]
        for place in need.answered:
            if (one := tables.answered.get(place.owner, {}).get(place)) is not None:
                loaded.answered[place] = one
        loaded.topics = {topic: sorted(tables.listeners.get(topic, ())) for topic in need.topics}
        return loaded

    async def journal(self, seq: int) -> Sequence[Row]:
        """An invocation's journal, in order."""
        self._check()
        return journal_of(self._stored(seq))

    async def entries(self, seq: int, after: int = -1, limit: int | None = None) -> Sequence[Row]:
        """Some of a journal."""
        self._check()
        before = max(after, 0)
        upto = sys.maxsize if limit is None else before + limit
        some = [row for row in self._stored(seq) if isinstance(row[1], int) and after < row[1] <= upto]
        return journal_of(some, after=before)

    async def running(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Invocations that had a slot when the engine stopped."""
        self._check()
        return [(one.seq, one.crashes) for one in self._in(Status.RUNNING) if one.seq > after][:limit]

    async def timers(self, after: Timer | None, limit: int) -> Sequence[Timer]:
        """The next timers."""
        self._check()
        return sorted(timer for timer in self.tables.timers if after is None or timer > after)[:limit]

    async def expired(self, now: int, limit: int) -> Sequence[Expired]:
        """What is past its retention; then journals that are past theirs."""
        self._check()
        records, journals = [], []
        completed = [seq for seq, row in self.tables.invocations.items() if row[COMPLETED_AT] is not None]
        for seq in sorted(completed):
            invocation = self._invocation(seq)
            submission, completed_at = invocation.submission, invocation.completed_at
            if completed_at is None:
                continue
            workflow = submission.flavor is Flavor.WORKFLOW
            if completed_at + submission.completion_retention_ms <= now:
                records.append(Expired(seq, workflow, False))
            elif invocation.journal_kept and completed_at + submission.journal_retention_ms <= now:
                journals.append(Expired(seq, workflow, True))
        return (records or journals)[:limit]

    async def holder(self, service: str, key: str) -> int | None:
        """The first in a key's queue."""
        self._check()
        return next(iter(self._object(service, key).queue), None)

    async def contended(self, after: tuple[str, str] | None, limit: int) -> Sequence[tuple[str, str]]:
        """Keys that somebody waits for."""
        self._check()
        keys = {(one.submission.service, one.submission.key or "") for one in self._in(Status.PENDING)}
        return sorted(key for key in keys if after is None or key > after)[:limit]

    async def attached(self, after: str, limit: int) -> Sequence[str]:
        """Invocations somebody is attached to."""
        self._check()
        topics = [topic for topic, who in self.tables.listeners.items() if who and topic.startswith(JOINED)]
        ids = sorted(topic.removeprefix(JOINED) for topic in topics)
        return [id for id in ids if id > after][:limit]

    async def find(self, where: Filter) -> Page:
        """A page of a listing, newest first."""
        self._check()
        return page_of(map(self._invocation, self.tables.invocations), where)

    async def count(self, where: Filter) -> Counts:
        """How many there are of each status."""
        self._check()
        return counts_of(map(self._invocation, self.tables.invocations), where)

    def backlog(self) -> Backlog:
        """How much is open."""
        self._check()
        rows = [invocation_of(row) for row in list(self.tables.invocations.values())]
        return backlog_of(rows, len(self.tables.timers))

    async def backup(self, path: str) -> None:
        """There is no file to copy."""
        raise StorageError("everything is kept in memory: there is no file to copy")

    def _check(self) -> None:
        if not self._open:
            raise EngineNotRunningError("the store is closed")
        if self._failed:
            raise EngineFailedError("a commit failed before: the store takes no further one")

    def _invocation(self, seq: int) -> Invocation:
        return invocation_of(self.tables.invocations[seq])

    def _in(self, status: Status) -> list[Invocation]:
        """Those in a status, in order of their numbers."""
        seqs = sorted(seq for seq, row in self.tables.invocations.items() if row[STATUS] == status)
        return [one for one in map(self._invocation, seqs) if one.status is status]

    def _stored(self, seq: int) -> list[tuple[object, ...]]:
        """A journal's rows, none of which has a checksum here."""
        return [(*row, None) for _, row in sorted(self.tables.journal.get(seq, {}).items())]

    def _ready(self, after: int, limit: int) -> list[tuple[int, int]]:
        stored = self.tables.invocations.items()
        waiting = [(row[PLACE], seq) for seq, row in stored if row[STATUS] == Status.READY]
        return sorted((one, seq) for one, seq in waiting if isinstance(one, int) and one > after)[:limit]

    def _object(self, service: str, key: str) -> KeyedObject:
        queue = sorted(
            (invocation.queued, seq)
            for seq, row in self.tables.invocations.items()
            if row[SERVICE] == service
            and row[KEY] == key
            and (invocation := invocation_of(row)).queued is not None
            and (invocation.submission.service, invocation.submission.key) == (service, key)
        )
        return KeyedObject(
            service,
            key,
            deque(seq for _, seq in queue),
            dict(self.tables.state.get((service, key), {})),
            dict(self.tables.promises.get((service, key), {})),
        )
