"""Replacing a database with a backup, so that nothing of the old one gets into it and nothing of the old one is lost.

A log belongs to one database and is found by its name alone, so if a backup is copied over a database, the old log
may be replayed into it. A restore sets the old log aside with the old file. If it is cut short between the two, the
next start finishes it, because the restored file says which log it replaces (`finish`).
"""

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from durable.errors import EngineLockedError, StorageCorruptError, StorageError
from durable.store import disk
from durable.store.faults import explain
from durable.store.format import check_soundness
from durable.store.lock import FileLock
from durable.store.paths import MEMORY, check_files, database_path
from durable.store.presence import ROLLBACK, mode_of
from durable.store.wal import refuse_log_elsewhere

#: What a restored file is called until it is whole.
_UNFINISHED = ".restoring"
#: The row of `meta` that says which log the restored file replaces.
_REPLACES = "replaces_log"


def restore(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path | None:
    """Replace a database with a copy of a backup. No engine may be running on either.

    The replaced file stays beside it, with its log, as `PATH.replaced-DATE`; that path is returned, or None if there
    was no file. The backup itself is not changed, and it is checked before anything is touched. Once this has
    returned, the restored database survives a power cut. If it is interrupted, the path names the old database or
    the restored one, and restoring can be repeated.

    Needs no engine and no event loop. Takes as long as copying and reading the whole backup. Raises
    `EngineLockedError` if an engine has one of the files, `StorageCorruptError` if the backup is damaged or not a
    database of this package, `StorageVersionError` if it was written by a newer version, and other `StorageError`s.
    """
    source, target = database_path(backup), database_path(path)
    if MEMORY in (source, target):
        raise StorageError("':memory:' is not a file: restore(backup, path) takes the paths of two files")
    target = os.path.realpath(target)
    try:
        return _restore(source, target)
    except (sqlite3.Error, OSError) as error:
        raise explain(error, target) from error


def _restore(source: str, target: str) -> Path | None:
    try:
        os.stat(source)
    except FileNotFoundError:
        raise StorageError(f"there is no backup {source}") from None
    except OSError as error:
        raise StorageError(f"the backup {source} cannot be read: {error.strerror}") from error
    check_files(source)
    check_files(target)
    if os.path.exists(target) and os.path.samefile(source, target):
        raise StorageError(f"{source} and {target} are the same file: a backup is restored to another place")
    there = FileLock(target)
    unfinished = FileLock(target + _UNFINISHED)
    try:
        if os.path.exists(target):
            try:
                there.acquire(create=False)
            except EngineLockedError as error:
                raise EngineLockedError(f"{error} To restore a backup, stop that engine first.") from None
        try:
            unfinished.acquire()
        except EngineLockedError:
            raise StorageError(f"another restore to {target} is under way") from None
        try:
            _copy(source, target, unfinished)
            if not there.held and os.path.exists(target):  # an engine was started meanwhile
                there.acquire(create=False)
            return _replace(target, unfinished)
        except BaseException:
            for left in ("", disk.JOURNAL):
                disk.remove(target + _UNFINISHED + left)
            raise
    finally:
        unfinished.release()
        there.release()


def _copy(source: str, target: str, copy: FileLock) -> None:
    """A sound copy, durable, in rollback mode, that says which log it replaces."""
    lock = FileLock(source)
    lock.acquire(create=False, shared=True)
    try:
        for beside in (disk.WAL, disk.JOURNAL):
            if disk.size(os.path.realpath(source) + beside):
                raise StorageError(
                    f"{source} has a {beside} file beside it, so it is not a backup but a database that was not "
                    "closed: start an engine on it and let that write one with engine.backup(path)"
                )
        refuse_log_elsewhere(source, lock.descriptor)
        os.ftruncate(copy.descriptor, 0)
        os.fchmod(copy.descriptor, 0o600)
        from shutil import copyfileobj  # dear to import

        with open(lock.descriptor, "rb", closefd=False) as read, open(copy.descriptor, "wb", closefd=False) as write:
            os.lseek(lock.descriptor, 0, os.SEEK_SET)
            copyfileobj(read, write, 1 << 20)
    finally:
        lock.release()
    name = target + _UNFINISHED
    disk.remove(name + disk.JOURNAL)
    with closing(sqlite3.connect(name, isolation_level=None)) as database:
        try:
            check_soundness(database, source)
        except sqlite3.Error as error:
            problem = explain(error, source)
            if isinstance(problem, StorageCorruptError):
                raise StorageCorruptError(
                    f"the backup {source} is damaged, or no database of this package: nothing was replaced, use "
                    f"another backup. (SQLite says: {error})"
                ) from error
            raise problem from error
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM meta WHERE name = ?", (_REPLACES,))
        log = _mark_of(target + disk.WAL)
        if log is not None:
            database.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (_REPLACES, log))
        database.execute("COMMIT")
    if mode_of(copy.descriptor) != ROLLBACK:
        raise StorageCorruptError(f"{source} is not a sound backup: it cannot be written without a log")
    disk.sync(copy.descriptor)
    disk.sync_folder(target)


def _replace(target: str, copy: FileLock) -> Path | None:
    there = os.path.exists(target)
    aside = _name_aside(target)
    if there and disk.size(target + disk.JOURNAL):  # the power was cut when an engine began or ended: finish that
        with suppress(sqlite3.Error), closing(sqlite3.connect(target)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    for beside in ("", disk.WAL, disk.JOURNAL):
        if os.path.exists(target + beside):
            _link(target + beside, aside + beside)
    disk.sync_folder(target)
    # a journal would be played back into whatever database has this name
    disk.remove(target + disk.JOURNAL)
    disk.sync_folder(target)
    os.rename(target + _UNFINISHED, target)
    disk.sync_folder(target)
    _remove_log(target)
    return Path(aside) if there else None


def finish(path: str, lock: FileLock) -> None:
    """Remove the log that a restore has set aside and was kept from removing."""
    real = os.path.realpath(path)
    if mode_of(lock.descriptor) != ROLLBACK or not disk.size(real + disk.WAL):
        return
    with suppress(sqlite3.Error):
        # immutable: without its log, and without a look at who has it locked
        uri = f"{Path(real).as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            row = database.execute("SELECT value FROM meta WHERE name = ?", (_REPLACES,)).fetchone()
        if row is not None and row[0] == _mark_of(real + disk.WAL):
            _remove_log(real)


def _remove_log(path: str) -> None:
    for beside in (disk.WAL, disk.SHM):
        disk.remove(path + beside)
    disk.sync_folder(path)


def _mark_of(log: str) -> int | None:
    """The salt in the header of a log, which SQLite chooses anew whenever it begins one."""
    try:
        with open(log, "rb") as file:
            header = file.read(32)
    except FileNotFoundError:
        return None
    return int.from_bytes(header[16:24], "big", signed=True) if len(header) == 32 else None


def _name_aside(target: str) -> str:
    moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    name, number = f"{target}.replaced-{moment}", 1
    while os.path.lexists(name):
        number += 1
        name = f"{target}.replaced-{moment}.{number}"
    return name


def _link(file: str, name: str) -> None:
    """A second name for a file, or a copy where the file system has none."""
    try:
        os.link(file, name)
    except OSError:
        from shutil import copyfile  # dear to import

        copyfile(file, name)
        os.chmod(name, 0o600)
        disk.sync_file(name)
