"""Faults that are planted to see that the harness finds them, and the smaller pages of the workload's engine."""

import asyncio
import functools
import hashlib
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from durable.core.effects import Writes
from durable.store.sqlite import SqliteStore
from tests.powerloss.shim import Lie

#: The file of the engine under test.
DATABASE = "app.db"
#: So few pages that the workload crosses a checkpoint often.
CHECKPOINT = 40


class Plant(NamedTuple):
    """What is planted."""

    #: Syncs that are left out always, and while an engine starts.
    lie: Lie = Lie.NOTHING
    lie_at_start: Lie = Lie.NOTHING
    synchronous_off: bool = False
    acknowledged_early: bool = False


#: Each is what the store would do if a line of it were missing.
PLANTS = {
    "synchronous-off": Plant(synchronous_off=True),
    "acknowledged-before-the-commit": Plant(acknowledged_early=True),
    "no-sync-at-start": Plant(lie_at_start=Lie.NO_SYNC),
    "no-folder-sync": Plant(lie=Lie.NO_FOLDER_SYNC),
    "no-database-sync": Plant(lie=Lie.NO_DATABASE_SYNC),
    "no-wal-sync": Plant(lie=Lie.NO_WAL_SYNC),
}


def of(names: Sequence[str]) -> Plant:
    """One of them, or none."""
    return PLANTS[names[0]] if names else Plant()


def instrument(plant: Plant, mark: Callable[..., None] | None) -> None:
    """Open databases of this process as this module says; with `mark`, what is in it is marked when it is opened
    and after each commit."""
    pragmas = {"PRAGMA wal_autocheckpoint = 4000": f"PRAGMA wal_autocheckpoint = {CHECKPOINT}"}
    if plant.synchronous_off:
        pragmas |= {f"PRAGMA synchronous = {mode}": "PRAGMA synchronous = OFF" for mode in ("FULL", "NORMAL")}

    class Connection(sqlite3.Connection):
        _changes = -1

        def __init__(self, database: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(database, *arguments, **options)
            #: A backup has a connection of its own, in another thread: what it commits is no commit of the engine's.
            self._engines = Path(str(database).partition("?")[0]).name == DATABASE

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            cursor = super().execute(pragmas.get(sql, sql), *values)
            self._committed()
            return cursor

        def executescript(self, sql: str, /) -> sqlite3.Cursor:
            cursor = super().executescript(sql)
            self._changes = -1  # a table that is renamed is another one, and SQLite counts no change
            self._committed()
            return cursor

        def _committed(self) -> None:
            if mark is not None and self._engines and not self.in_transaction and self.total_changes != self._changes:
                self._changes = self.total_changes
                mark("commit", digest(self))

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]
    if plant.acknowledged_early:
        commit = SqliteStore.commit

        def early(self: SqliteStore, writes: Writes) -> Awaitable[None]:
            working = commit(self, writes)
            assert isinstance(working, asyncio.Future)
            working.add_done_callback(lambda done: done.cancelled() or done.exception())
            answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            answered.set_result(None)
            return answered

        SqliteStore.commit = early  # type: ignore[method-assign]


def digest_of_nothing() -> str:
    """The digest of a database without tables."""
    with closing(sqlite3.connect(":memory:")) as database:
        return digest(database)


def digest_of(path: Path) -> str:
    """The digest of a file that nobody has open and that no log belongs to, read off a copy elsewhere."""
    with tempfile.TemporaryDirectory(prefix="digest-") as folder:
        copy = shutil.copyfile(path, Path(folder, "copy"))
        with closing(sqlite3.connect(copy)) as database:
            return digest(database)


def digest(database: sqlite3.Connection) -> str:
    """All that the tables hold."""
    text = hashlib.blake2b(digest_size=12)
    execute = functools.partial(sqlite3.Connection.execute, database)
    theirs, database.text_factory = database.text_factory, bytes
    try:
        for (table,) in execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
            text.update(table)
            for row in execute(f"SELECT * FROM {table.decode()} ORDER BY 1, 2").fetchall():
                text.update(repr(row).encode())
    finally:
        database.text_factory = theirs
    return text.hexdigest()
