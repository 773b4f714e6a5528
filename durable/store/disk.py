"""Making files and names durable: what a power cut cannot take back."""

import errno
import fcntl
import os
from contextlib import suppress

#: What SQLite keeps beside a database: the write-ahead log, the rollback journal, the log's index in shared memory.
WAL, JOURNAL, SHM = "-wal", "-journal", "-shm"

_FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)


def sync(descriptor: int) -> None:
    """Make the content of a descriptor's file or directory durable."""
    if _FULL_SYNC is not None:  # macOS: fsync leaves it in the drive's cache
        with suppress(OSError):
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
    os.fsync(descriptor)


def sync_file(path: str) -> None:
    """Make the content of a file durable. Never use it on a database itself: see `store/lock.py`."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: str) -> None:
    """Make the names in the folder of `path` durable, if the file system supports that."""
    try:
        _sync(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def size(path: str) -> int:
    """The size of a file; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)
