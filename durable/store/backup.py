"""A consistent copy of a database while work goes on. It is complete or does not exist."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from durable.errors import EngineLockedError, StorageError
from durable.store import disk
from durable.store.faults import explain
from durable.store.lock import FileLock
from durable.store.paths import MEMORY, database_path

#: What a backup is called until it is whole. One that is left over belongs to a backup that was killed.
UNFINISHED = ".unfinished"
#: What SQLite calls the files beside a database, and takes for a part of it wherever it finds them.
_BESIDE = ("-journal", "-wal", "-shm")


async def write_backup(database: str, target: str, check_same: Callable[[], None]) -> None:
    """Copy an open database to a new file. Raises a `StorageError`, for instance if `target` exists.

    The database is opened by its name again; `check_same` raises if that names another file by now. Once this has
    returned, the copy survives a power cut. Until then there is nothing under its name.
    """
    path = database_path(target)
    if path == MEMORY:
        raise StorageError("a backup is written to a file, not to ':memory:'")
    try:  # a thread of its own: the pool of threads may be full of steps that block
        await to_thread.run_sync(_write, database, path, check_same, limiter=CapacityLimiter(1))
    except (sqlite3.Error, OSError) as error:
        raise explain(error, path) from error


def unfit(path: str) -> str:
    """Why a backup cannot have this name; "" if it can."""
    for suffix in (*_BESIDE, UNFINISHED):
        if path.endswith(suffix):
            return f"{path} is no name for a backup: what ends with {suffix} belongs to another file"
    if os.path.lexists(path):
        return f"{path} exists: a backup is written to a new file"
    for suffix in _BESIDE:
        if os.path.lexists(path + suffix):
            return f"{path}{suffix} exists, and would be taken for a part of the backup: choose another name"
    return ""


def _write(database: str, path: str, check_same: Callable[[], None]) -> None:
    _refuse_unfit(path)
    unfinished = path + UNFINISHED
    lock = FileLock(unfinished)
    try:
        lock.acquire()
    except EngineLockedError:
        raise StorageError(f"another backup to {path} is under way") from None
    try:
        os.ftruncate(lock.descriptor, 0)  # what a backup that was killed has left
        os.fchmod(lock.descriptor, 0o600)
        disk.remove(unfinished + disk.JOURNAL)
        try:
            check_same()
            _copy(database, unfinished)
            check_same()
            disk.sync(lock.descriptor)
            disk.sync_folder(path)
            _refuse_unfit(path)
            os.rename(unfinished, path)
        except BaseException:
            for left in (unfinished, unfinished + disk.JOURNAL):
                disk.remove(left)
            raise
        disk.sync_folder(path)
    finally:
        lock.release()


def _copy(database: str, target: str) -> None:
    source = sqlite3.connect(f"{Path(database).as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        source.execute("VACUUM INTO ?", (target,))
    finally:
        source.close()


def _refuse_unfit(path: str) -> None:
    reason = unfit(path)
    if reason:
        raise StorageError(reason)
