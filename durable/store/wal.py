"""From a path to a database that may be read: its parts belong together, and are durable before anything is told."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from durable import log
from durable.errors import EngineNotRunningError, StaleWalError, StorageError
from durable.store import disk
from durable.store.faults import is_busy
from durable.store.lock import FileLock
from durable.store.presence import LOGGED, ROLLBACK, mode_of

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


def refuse_log_elsewhere(path: str, descriptor: int) -> None:
    """Raise `StaleWalError` if the file has another name (a hard link) and its log is beside that.

    SQLite finds a log by name: it would begin a second one, and what is in the first would be missing.
    """
    real = os.path.realpath(path)
    file = os.fstat(descriptor)
    if file.st_nlink < 2 or mode_of(descriptor) != LOGGED or disk.size(real + disk.WAL):
        return
    with os.scandir(os.path.dirname(real)) as folder:
        # the inode in a listing is free, what is another file costs nothing
        names = [entry.path for entry in folder if entry.inode() == file.st_ino and entry.path != real]
    for name in names:
        if disk.size(name + disk.WAL) and os.path.samestat(os.stat(name), file):
            raise StaleWalError(
                f"{path} is the same file as {name}, and its log is beside that name: what was written last would be "
                f"missing. Use the name {name}, or start an engine on it once and close it."
            )


def lost_its_log(path: str, descriptor: int) -> bool:
    """Whether the database says that it has a log, and there is none by its name."""
    return mode_of(descriptor) == LOGGED and not os.path.exists(os.path.realpath(path) + disk.WAL)


def warn_of_lost_log(path: str) -> None:
    """Say so. It is no error: other programs of SQLite leave such a file where they were the last to close it."""
    log.store.warning(
        "%s was not closed by its engine, and there is no %s-wal. If that was removed, or the file was moved or "
        "copied without it, what was committed last is missing: stop the engine and put the log back beside it. If "
        "another program (sqlite3, a database browser) has had the file open since, nothing is missing",
        path,
        os.path.realpath(path),
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
            # with less than this SQLite marks the header's journal as whole before it is synced: a power cut may
            # then leave a torn one, which the next start would roll back into the file
            database.execute("PRAGMA synchronous = FULL")
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
