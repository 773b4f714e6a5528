"""From a path to a database that may be read: what is found belongs together and is durable before it is told."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from durable.errors import EngineNotRunningError, StaleWalError, StorageError
from durable.store import disk
from durable.store.faults import is_busy
from durable.store.lock import FileLock
from durable.store.presence import ROLLBACK, mode_of

T = TypeVar("T")

#: How long a start waits between two tries, while another program has the file.
_TRY_EVERY_S = 0.05


def make_durable(path: str, lock: FileLock) -> bool:
    """Sync the database that is found, its log or journal, and their folder, before SQLite reads any of it.

    Returns whether there is a log.

    An engine that was killed has written what it never synced. A start that told it without this could tell what a
    power cut then takes back.
    """
    real = os.path.realpath(path)
    for beside in (disk.WAL, disk.JOURNAL):
        if disk.size(real + beside):
            disk.sync_file(real + beside)
    disk.sync(lock.descriptor)
    disk.sync_folder(real)
    return disk.size(real + disk.WAL) > 0


def refuse_lonely_log(path: str) -> None:
    """Raise `StaleWalError` where there is a log and no database. SQLite would begin anew and delete the log."""
    real = os.path.realpath(path)
    if disk.size(real + disk.WAL) and not disk.size(real):
        raise StaleWalError(
            f"{real}{disk.WAL} is there and {path} is not (removed, renamed, emptied?): the log has what was written "
            "last, and is of no use without its database. Put that back, or a backup with "
            "durable.restore(backup, path); to begin anew, remove the log."
        )


def refuse_stale_log(path: str, lock: FileLock) -> None:
    """Raise `StaleWalError` if the log beside the database was written for another one.

    SQLite would replay it over this one. While a database has a log its header says so; an engine that closes, and a
    backup, leave one that has none. So such a file and a log that is not empty do not belong together.
    """
    wal = os.path.realpath(path) + disk.WAL
    if mode_of(lock.descriptor) == ROLLBACK and disk.size(wal):
        raise StaleWalError(
            f"{path} and {wal} do not belong together: the log was written for another database, which this one "
            "replaced (a backup that was copied over it?). Nothing was changed. Put the backup in place with "
            "durable.restore(backup, path): it sets the old log aside. (If it is the log that is wanted, put the "
            "database it belongs to back beside it.)"
        )


def patiently(
    connect: Callable[[], sqlite3.Connection],
    prepare: Callable[[sqlite3.Connection], T],
    patience_s: float,
    stopping: threading.Event,
) -> tuple[sqlite3.Connection, T]:
    """Connect and prepare; where another program has the file locked, again and again for that long.

    Raises SQLite's error, then; `EngineNotRunningError` where `stopping` is set meanwhile.
    """
    deadline = time.monotonic() + patience_s
    while True:
        database = connect()
        try:
            return database, prepare(database)
        except BaseException as error:
            database.close()
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        if stopping.wait(_TRY_EVERY_S):
            raise EngineNotRunningError("the engine was closed while it waited for another program's lock")


def begin_log(database: sqlite3.Connection, path: str, synchronous: str) -> None:
    """Have the database written with a log from now on, and the log's name durable before anything is in it.

    Also takes the write lock once, so that another program that has it is noticed by the start. Idempotent.
    """
    mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StorageError(
            f"{path} cannot have a write-ahead log (SQLite stays at {mode!r}): the engine needs a local file system "
            "with shared memory"
        )
    database.execute(f"PRAGMA synchronous = {synchronous}")
    database.execute("PRAGMA fullfsync = ON")  # macOS: elsewhere every sync is a full one
    database.execute("PRAGMA checkpoint_fullfsync = ON")
    database.execute("PRAGMA wal_autocheckpoint = 4000")
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute("BEGIN IMMEDIATE")
    database.execute("ROLLBACK")
    disk.sync_folder(os.path.realpath(path))


def end_log(database: sqlite3.Connection, path: str) -> None:
    """Write the log's content into the database and go without one, unless somebody else has the database open.

    The log is emptied, durably, before the database says that it has none: SQLite does not mind a log that it cannot
    delete, but the next start would take it for another database's.
    """
    try:
        database.execute("PRAGMA busy_timeout = 0")
        if _empty(database, path):
            database.execute("PRAGMA journal_mode = DELETE")
    except (sqlite3.Error, OSError):
        pass  # it stays as it is, and closing does what can be done


def empty_found_log(database: sqlite3.Connection, path: str) -> None:
    """Have the content of a log that was found written into the database, if there is room for it.

    Syncing the log is not enough where a sync has failed before: some systems forget then which pages they have not
    written, and the next sync finds nothing to do. What is written anew is synced anew. The log has to be empty then:
    if the disk has only its first commits, they would be replayed over what is newer.
    """
    room = os.statvfs(path)
    if room.f_bavail * room.f_frsize > 2 * disk.size(os.path.realpath(path) + disk.WAL):
        _empty(database, path)


def _empty(database: sqlite3.Connection, path: str) -> bool:
    """Write the log's content into the database and cut it to nothing, durably. False where somebody reads it."""
    busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if not busy:
        disk.sync_file(os.path.realpath(path) + disk.WAL)
    return not busy
