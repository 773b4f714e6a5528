"""The store that lasts: one SQLite file in WAL mode, written by one connection on one thread."""

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from anyio import to_thread

from durable.core.effects import Need, Timer, Writes
from durable.core.ids import parse_stand_in_id
from durable.core.invocation import KeyedObject
from durable.core.journal import Row
from durable.core.topics import JOINED, promise_topic
from durable.core.world import Loaded
from durable.errors import EngineFailedError, EngineNotRunningError, StorageCorruptError, UsageError
from durable.store import CommitRefused, Expired, Opened, listing, soundness
from durable.store.answered import load_answered
from durable.store.backup import write_backup
from durable.store.claims import is_mended, mend, taken
from durable.store.faults import explain, is_damage
from durable.store.file import DatabaseFile
from durable.store.filter import Backlog, Counts, Filter, Page
from durable.store.format import check_version, migrate, migrations
from durable.store.indexes import IndexCheck, make_again
from durable.store.journals import NEAR_MAX, journal_rows, open_rows, page
from durable.store.keyed import (
    EVERYTHING,
    Moved,
    take_promises,
    take_signals,
    take_state,
    unread_promises,
    unread_state,
)
from durable.store.pages import Concerned, due, read, read_each, rows_of, without_notes
from durable.store.paths import MEMORY, database_path
from durable.store.rows import complete, invocation_of, journal_of, take_journal
from durable.store.soundness import misplaced, opening
from durable.store.statements import statements
from durable.store.thread import DatabaseThread
from durable.store.wal import begin_log

if TYPE_CHECKING:  # most engines have no codec
    from durable.store.recoding import Piece

T = TypeVar("T")
Synchronous = Literal["FULL", "NORMAL"]

#: Whether the engine that wrote last has ended in order.
_MARK = "INSERT OR REPLACE INTO meta (name, value) VALUES ('clean', ?)"


class SqliteStore:
    """A `Store` on an SQLite file.

    `synchronous="FULL"` (the default) survives power loss: every commit is fsynced before it is acknowledged.
    `"NORMAL"` survives a killed process, but a power loss may take the last commits with it. `busy_timeout` is in
    seconds: how long `open` waits for another program's lock.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 5.0,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous must be 'FULL' or 'NORMAL', not {synchronous!r}")
        self.path = database_path(path)
        if self.path == MEMORY:
            raise UsageError("a SqliteStore needs a file: Engine(':memory:') keeps everything in memory")
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout
        self._file = self._new_file()
        self._thread: DatabaseThread[Opened] | None = None
        #: The one before, which is closing or has closed.
        self._ending: DatabaseThread[Opened] | None = None
        #: Rows of state and of promises that were found under another key.
        self._moved: tuple[frozenset[int], ...] = (frozenset(), frozenset())
        #: Invocations whose own row was found on a page that cannot be read: it cannot be written either.
        self._unread: set[int] = set()
        #: Whether the file says that an engine is at work, or was and did not end in order.
        self._marked = False
        self._indexes: IndexCheck | None = None
        #: What was found wrong with the file since it was opened, beyond single invocations: for people.
        self.damage: list[str] = []

    # ---- opening and closing ----

    async def open(self) -> Opened:
        """Lock the file, open it and migrate it. An error, or a cancellation, leaves nothing open."""
        if self._thread is not None:
            raise EngineNotRunningError(f"this store of {self.path} is open already")
        self._file = self._new_file()
        thread = DatabaseThread(self._file)
        thread.start()
        self._thread = thread
        self._unread, self.damage = set(), []
        try:
            opened = await asyncio.shield(thread.opened)
            self._look_after_indexes()
            return opened
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error | OSError | UnicodeDecodeError):
                raise explain(error, self.path) from error
            raise

    def _new_file(self) -> DatabaseFile:
        """For one opening."""
        return DatabaseFile(self.path, self._prepare, self._busy_timeout_s, self._let_go)

    def _prepare(self, database: sqlite3.Connection) -> Opened:
        version = check_version(database, self.path)
        begin_log(database, self.path, self._synchronous)
        migrate(database, version)
        found = _tolerant(database, lambda database: opening(database, self.path, migrations()))
        self._moved = tuple(_tolerant(database, partial(misplaced, table=table)) for table in ("_state", "promises"))
        self._marked = found.crashed
        return found

    def _look_after_indexes(self) -> None:
        """Compare the indexes of a file that was too large for the start to look through."""
        if os.path.getsize(self.path) > soundness.LOOKED_THROUGH_MAX:
            loop, thread = asyncio.get_running_loop(), self._thread

            def found(name: str) -> None:
                with suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(self._make_again, name, thread)

            self._indexes = IndexCheck(self.path, found)
            self._indexes.start()

    def _make_again(self, name: str, thread: DatabaseThread[Opened] | None) -> None:
        if thread is not None and self._thread is thread and self._file.failed is None:
            thread.post(lambda database: self.damage.append(make_again(database, self.path, name)))

    async def sign_off(self) -> None:
        """Note that the engine ends in order, unless it has written nothing."""
        if self._thread is not None and self._marked and self._file.failed is None:
            await self._use().post(_sign_off)

    async def close(self) -> None:
        """Close the connection, which writes the log into the file, and release the lock."""
        if self._indexes is not None:
            self._indexes.stop()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ending = thread  # whoever closes may be cancelled: `abandon` ends what is left of it
        try:
            await thread.end()
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self.path) from error

    def abandon(self) -> None:
        """Release the file as a killed process would: nothing more is written, and no event loop is needed."""
        thread, self._thread = self._thread or self._ending, None
        if self._indexes is not None:
            self._indexes.stop()
        if thread is not None:
            self._file.fail(f"the store {self.path} was abandoned")
            thread.abandon()

    def _let_go(self) -> bool:
        """Let somebody else in this process have the file, if the event loop it was opened on has ended."""
        thread = self._thread or self._ending
        return thread is not None and thread.forsaken and thread.abandon()

    async def lost(self) -> None:
        """Never returns, but raises a `StorageReplacedError` once the file is gone."""
        await asyncio.shield(self._use().lost)

    # ---- writing ----

    def commit(self, writes: Writes) -> Awaitable[None]:
        """Write a turn. After any error but `CommitRefused`, its outcome is unknown, and nothing more is written."""
        file = self._file
        if file.failed is not None:
            raise EngineFailedError(file.failed)
        try:
            batch = statements(without_notes(writes, self._unread) if self._unread else writes)
        except Exception as error:
            raise CommitRefused(f"a turn cannot be written: {error!r}; nothing of it was") from error
        if not self._marked:
            batch.insert(0, (_MARK, (0,)))
        return self._use().post(lambda database: self._write(database, batch, writes))

    def _write(
        self, database: sqlite3.Connection, batch: Sequence[tuple[str, Sequence[Any]]], writes: Writes
    ) -> None:
        try:
            self._file.write(database, batch, lambda: Concerned.by(writes))
        except CommitRefused as refused:
            if why := taken(database, self.path, writes.with_all().created.values(), self.damage):
                raise CommitRefused(f"{why}; nothing of this turn was written") from refused
            raise
        self._marked = True

    async def rewrite(self, work: "Callable[[sqlite3.Connection], Piece]") -> "Piece":
        """Let `work` read and write, in one transaction. Raises what `commit` raises."""

        def whole(database: sqlite3.Connection) -> "Piece":
            piece = work(database)
            if piece.batch:
                self._file.write(database, piece.batch, lambda: Concerned.by(Writes()))
            return piece

        try:
            return await self._use().post(whole)
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    async def survey(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` reads, for as long as it takes, through a separate connection. Commits go on meanwhile."""

        def whole() -> T:
            with closing(sqlite3.connect(f"{Path(self.path).as_uri()}?mode=ro", uri=True)) as database:
                return work(database)

        return await self._look(whole)

    # ---- reading ----

    async def load(self, need: Need) -> Loaded:
        """Invocations, objects and listeners, in one hop."""
        loaded = await self._read(lambda database: _load(database, need, self._unread))
        for one in loaded.keys if any(self._moved) else ():
            state, promises = (Moved(one, rows) for rows in self._moved)
            one.moved_state = one.moved_state if one.moved_state is EVERYTHING else state
            one.moved_promises = one.moved_promises if one.moved_promises is EVERYTHING else promises
        return loaded

    async def journal(self, seq: int) -> Sequence[Row]:
        """An invocation's journal, in order."""
        return await self._read(lambda database: journal_of(journal_rows(database, seq)))

    async def entries(self, seq: int, after: int = -1, limit: int | None = None) -> Sequence[Row]:
        """Some of a journal; many entries are read through a connection of their own: commits do not wait for it."""
        near = await self._read(lambda database: page(database, seq, after, limit, NEAR_MAX))
        if near is not None:
            return near
        far = partial(page, seq=seq, after=after, limit=limit)
        found = await self._look(partial(listing.look, self.path, partial(_tolerant, work=far)))
        assert found is not None, "nothing is too much there"
        return found

    async def running(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Invocations that had a slot when the engine stopped."""
        which = "FROM _invocations INDEXED BY invocations_running WHERE status = 'running' AND seq > ?"
        order = "ORDER BY seq LIMIT ?"

        def look(database: sqlite3.Connection) -> list[tuple[int, int]]:
            try:
                sql = f"SELECT seq, CAST(crashes AS INTEGER) {which} {order}"
                return database.execute(sql, (after, limit)).fetchall()
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
            return [(row[0], 0) for row in database.execute(f"SELECT seq {which} {order}", (after, limit))]

        return await self._read(look)

    async def timers(self, after: Timer | None, limit: int) -> Sequence[Timer]:
        """The next timers."""
        sql = (
            "SELECT due_at, seq, entry FROM _timers WHERE (due_at, seq, entry) > (?, ?, ?)"
            " ORDER BY due_at, seq, entry LIMIT ?"
        )
        start = after if after is not None and after[0] >= 0 else (-(2**63), 0, 0)  # damaged ones may lie before 0
        return await self._read(lambda database: database.execute(sql, (*start, limit)).fetchall())

    async def expired(self, now: int, limit: int) -> Sequence[Expired]:
        """What is past its retention, oldest first; then journals that are past theirs."""
        records = "expires_at = completed_at + completion_retention_ms"
        journals = (
            "journal_until > 0 AND journal_until < expires_at AND journal_until = completed_at + journal_retention_ms"
        )

        def look(database: sqlite3.Connection) -> list[Expired]:
            for column, which in (("expires_at", records), ("journal_until", journals)):
                if found := due(database, column, which, now, limit):
                    return [Expired(seq, bool(workflow), which is journals) for seq, workflow in found]
            return []

        return await self._read(look)

    async def holder(self, service: str, key: str) -> int | None:
        """The first in a key's queue."""
        sql = "SELECT seq FROM _invocations WHERE service = ? AND key = ? AND queued IS NOT NULL"
        sql += " ORDER BY queued LIMIT 1"
        row = await self._read(lambda database: database.execute(sql, (service, key)).fetchone())
        return None if row is None else row[0]

    async def contended(self, after: tuple[str, str] | None, limit: int) -> Sequence[tuple[str, str]]:
        """Keys that somebody waits for: more than one invocation is in their queue."""
        sql = (
            "SELECT service, key FROM _invocations WHERE queued IS NOT NULL AND (service, key) > (?, ?)"
            " GROUP BY service, key HAVING count(*) > 1 ORDER BY service, key LIMIT ?"
        )
        return await self._read(lambda database: database.execute(sql, (*(after or ("", "")), limit)).fetchall())

    async def attached(self, after: str, limit: int) -> Sequence[str]:
        """Invocations somebody is attached to."""
        sql = (
            "SELECT DISTINCT substr(topic, ?1) FROM listeners"
            " WHERE topic > ?2 || ?3 AND topic < ?2 || char(0x10FFFF) ORDER BY topic LIMIT ?4"
        )
        values = (len(JOINED) + 1, JOINED, after, limit)
        return await self._read(lambda database: [row[0] for row in database.execute(sql, values)])

    async def find(self, where: Filter) -> Page:
        """A page of a listing, newest first, through a connection of its own."""
        mended: set[int] = set()
        look = partial(listing.find, self.path, where, mended=mended, one_by_one=bool(self._unread))
        page = await self._look(look)
        if mended:
            await self.load(Need(seqs=mended))
        return page

    async def count(self, where: Filter) -> Counts:
        """How many there are of each status, through a connection of its own."""
        return await self._look(partial(listing.count, self.path, where, one_by_one=bool(self._unread)))

    def backlog(self) -> Backlog:
        """How much is open, through a connection of its own."""
        self._use()
        try:
            return listing.backlog(self.path)
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    async def _look(self, work: Callable[[], T]) -> T:
        self._use()
        try:
            return await to_thread.run_sync(work)
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    async def backup(self, path: str) -> None:
        """A snapshot through a second, reading connection: commits go on while it is written."""
        self._use()
        await write_backup(self.path, path, self._file.check_same)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._use().post(lambda database: _tolerant(database, work))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise explain(error, self.path) from error

    def _use(self) -> DatabaseThread[Opened]:
        if self._thread is None:
            raise EngineNotRunningError(f"the store {self.path} is closed")
        return self._thread


def _tolerant(database: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Read; where text is no UTF-8, read again so that it comes as text that no checksum fits."""
    try:
        return work(database)
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) is not None:
            raise
    database.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    try:
        return work(database)
    finally:
        database.text_factory = str


def _sign_off(database: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # the next start will think that this one was cut off
        database.execute(_MARK, (1,))


def _load(database: sqlite3.Connection, need: Need, unread: set[int]) -> Loaded:
    loaded = Loaded()
    seqs = need.seqs | {seq for id in need.ids if (seq := parse_stand_in_id(id)) is not None}
    if need.ready is not None:
        sql = "SELECT place, seq FROM _invocations WHERE status = 'ready' AND place > ? ORDER BY place LIMIT ?"
        loaded.ready = database.execute(sql, need.ready).fetchall()
        seqs = seqs | {seq for _, seq in loaded.ready}
    for row in (*rows_of(database, "seq", seqs, unread), *rows_of(database, "id", need.ids, unread)):
        loaded.invocations.append(invocation := invocation_of(row))
        if is_mended(row, invocation):
            mend(database, invocation)
    _complete(database, loaded)
    for service, key in need.keys:
        loaded.keys.append(_object(database, service, key, unread))
    for topic in need.topics:
        sql = "SELECT seq, entry FROM listeners WHERE topic = ?"
        found = database.execute(sql, (topic,)).fetchall()  # what is no number waits for nothing
        loaded.topics[topic] = [row for row in found if isinstance(row[0], int) and isinstance(row[1], int)]
    for workflow in need.waiting:
        start = promise_topic(*workflow, "")
        sql = "SELECT topic, seq, entry FROM listeners WHERE topic >= ? AND topic < ?"
        waiting = database.execute(sql, (start, f"{start[:-1]}0")).fetchall()  # 0 comes after /
        loaded.waiting[workflow] = [row for row in waiting if isinstance(row[1], int) and isinstance(row[2], int)]
    for seq in need.journals:
        take_journal(seq, journal_rows(database, seq), loaded)
    loaded.answered = load_answered(database, need.answered)
    return loaded


def _complete(database: sqlite3.Connection, loaded: Loaded) -> None:
    """What the core keeps of invocations besides their rows: their open entries and their signals."""
    unfinished = [invocation for invocation in loaded.invocations if invocation.completed_at is None]
    if not unfinished:
        return
    seqs = [invocation.seq for invocation in unfinished]
    journal = open_rows(database, seqs)
    sql = "SELECT * FROM signals WHERE seq IN (VALUES {seqs}) ORDER BY seq, ordinal"
    signals = read_each(database, sql, seqs, "a signal it was sent")
    for invocation in unfinished:
        complete(invocation, journal(invocation.seq), partly=True)
        take_signals(invocation, signals(invocation.seq), loaded)


def _object(database: sqlite3.Connection, service: str, key: str, unread: Set[int]) -> KeyedObject:
    where, of_it = "WHERE service = ? AND key = ?", (service, key)
    queue = database.execute(f"SELECT seq FROM _invocations {where} AND queued IS NOT NULL ORDER BY queued", of_it)
    found = KeyedObject(service, key, deque(row[0] for row in queue if row[0] not in unread), {}, {})
    state = read(database, f"SELECT name, value, checksum FROM _state {where}", of_it, "some of it")
    promises = read(database, f"SELECT name, ok, value, checksum FROM promises {where}", of_it, "one of them")
    try:
        take_state(found, state)
    except StorageCorruptError as error:
        unread_state(found, str(error))
    try:
        take_promises(found, promises)
    except StorageCorruptError as error:
        unread_promises(found, str(error))
    return found
