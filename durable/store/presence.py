"""Whether the open database is still the file under its name.

SQLite goes on happily in a file that was deleted or renamed, and what it commits there is gone with the process. So
the names are looked up again after each commit, and every second in between: two calls of `stat`, one of `pread`.
"""

import os

from durable.errors import StorageReplacedError
from durable.store import disk
from durable.store.lock import FileLock, Identity

#: Where the header of a database says how it is written: 1 with a rollback journal, 2 with a write-ahead log.
_MODE_AT = 18
ROLLBACK, LOGGED = b"\x01\x01", b"\x02\x02"


def mode_of(descriptor: int) -> bytes:
    """How the database in this file is written; empty for an empty file."""
    return os.pread(descriptor, 2, _MODE_AT)


class Presence:
    """A database that is open, with its log."""

    def __init__(self, path: str, lock: FileLock) -> None:
        self._path = path
        self._wal = os.path.realpath(path) + disk.WAL
        self._lock = lock
        self._logged_in = _identity(self._wal)

    def check_same(self) -> None:
        """Raise `StorageReplacedError` if the path names another file, or none. From any thread."""
        if _identity(self._path) != self._lock.identity:
            self._lost(self._path)

    def check(self) -> None:
        """Raise `StorageReplacedError` if the file, or its log, is not there any more or is another one."""
        try:
            file, log = _identity(self._path), _identity(self._wal)
        except OSError:
            return  # the directory was made unreadable, say: SQLite has its files open, and goes on
        if file != self._lock.identity:
            self._lost(self._path)
        if log != self._logged_in:
            self._lost(self._wal)
        if mode_of(self._lock.descriptor) != LOGGED:
            raise StorageReplacedError(
                f"{self._path} was overwritten while the engine ran (with a copy of a database?). Stop the engine; "
                "what it acknowledged last may be in the -wal file only. durable.restore(backup, path) puts a backup "
                "in the place of a file that no engine uses"
            )

    def _lost(self, name: str) -> None:
        what = "replaced by another file" if os.path.exists(name) else "removed or renamed"
        raise StorageReplacedError(
            f"{name} was {what} while the engine ran: what is written now would be lost. Put the file back (with the "
            "-wal file beside it), or restore a backup with durable.restore(backup, path), and start again"
        )


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_dev, found.st_ino)
