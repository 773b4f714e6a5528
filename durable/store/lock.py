"""One engine per file, ensured by a lock of the operating system on the database file itself.

It is an *open file description* lock on bytes that no file ever reaches, far from the bytes SQLite locks. So it
belongs to the inode (links of both kinds are the same file, and there is no side file that could be deleted), it dies
with its process, and closing another descriptor of the file does not lose it. Two things follow from where it is:

- Whoever closes *any* descriptor of a file loses all classic POSIX locks of the process on it: those are SQLite's. So
  the descriptor is opened before SQLite opens the file and closed after SQLite has closed it; and where the process
  has the file open elsewhere still, it is unlocked, kept, and used again (`_discard`).
- A forked child inherits descriptor and lock. It closes the descriptor at once, so no orphan keeps the file.

How far the lock reaches tells the holder's process id to whoever is refused.
"""

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from durable.errors import EngineLockedError, StorageBusyError, StorageError, StorageReadOnlyError
from durable.store.paths import unlike_a_file

#: The first byte of the lock. SQLite locks bytes from 2^30 on, and no database is longer than 2^48 bytes.
_FAR = 1 << 62
#: What SQLite locks exclusively before it checkpoints and deletes the log at the end of the last connection.
_SQLITES_SHARED = (0x40000002, 510)
#: macOS has these under the same name with other numbers, which Python does not tell everywhere.
_SET = getattr(fcntl, "F_OFD_SETLK", 90)
_GET = getattr(fcntl, "F_OFD_GETLK", 92)
_IN_THE_WAY = (errno.EAGAIN, errno.EACCES)

Identity = tuple[int, int]

_mutex = threading.Lock()
_held: dict[Identity, "FileLock"] = {}
#: Descriptors that could not be closed yet, without a lock.
_kept: dict[int, Identity] = {}


class FileLock:
    """The lock of one database file.

    `let_go` is called when somebody else in this process wants the file: a holder that nobody can use any more
    releases it and returns True.
    """

    def __init__(self, path: str, *, let_go: Callable[[], bool] | None = None) -> None:
        self._path = path
        self._let_go = let_go
        self._descriptor: int | None = None
        self._identity: Identity = (0, 0)

    @property
    def descriptor(self) -> int:
        """The file, open for reading and writing (for reading only, where the lock is shared)."""
        assert self._descriptor is not None
        return self._descriptor

    @property
    def held(self) -> bool:
        """Whether it has the lock."""
        return self._descriptor is not None

    @property
    def identity(self) -> Identity:
        """Device and inode of the file that is locked."""
        return self._identity

    def acquire(self, *, create: bool = True, shared: bool = False) -> None:
        """Take the lock, or say at once who has it.

        Creates the file if there is none, unless `create` is false. A `shared` lock only keeps engines away. Raises
        `EngineLockedError`, `StorageError` for what is not a file, and what `os.open` raises.
        """
        for _ in range(100):
            there = self._look()
            if there is not None:
                self._ask_for(there)
            with _mutex:
                if there is not None and there in _held:
                    continue  # somebody was quicker
                if self._take(there, create, shared):
                    return
        raise StorageError(f"{self._path} is replaced again and again while it is being opened")

    def release(self) -> None:
        """Release the lock. Idempotent."""
        with _mutex:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                _held.pop(self._identity, None)
                _discard(descriptor, self._identity)

    def keep_the_log(self) -> None:
        """Have SQLite end without touching the file any more: no checkpoint, and no log deleted by its name.

        For a file that is not ours any more, or whose disk has failed. SQLite wants these bytes for itself before it
        does either.
        """
        if self._descriptor is not None:
            with suppress(OSError):
                _lock(self._descriptor, fcntl.F_RDLCK, *_SQLITES_SHARED)

    def _look(self) -> Identity | None:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return None
        if wrong := unlike_a_file(self._path):
            raise StorageReadOnlyError(wrong)
        return (there.st_dev, there.st_ino)

    def _ask_for(self, there: Identity) -> None:
        holder = _held.get(there)
        if holder is not None and not (holder._let_go is not None and holder._let_go()):
            raise EngineLockedError(
                f"{self._path} is already open in this process (pid {os.getpid()}): one engine per file. "
                "Use the engine you have, or give the second one a file of its own."
            )

    def _take(self, there: Identity | None, create: bool, shared: bool) -> bool:
        """Whether what the path names now is locked."""
        found = (one for one, identity in _kept.items() if identity == there and _writable(one))
        kept = None if shared else next(found, None)
        if kept is not None:
            del _kept[kept]
            descriptor = kept
        else:
            flags = (os.O_RDONLY if shared else os.O_RDWR) | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            descriptor = os.open(self._path, flags | os.O_NONBLOCK, 0o600)  # it may have become a named pipe
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino)
        try:
            _lock(descriptor, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, _FAR, os.getpid() + 1)
        except OSError as error:
            refusal = self._refusal(descriptor, error)
            _discard(descriptor, identity)
            raise refusal from None
        if self._look() != identity:  # it was replaced after it had been opened
            _discard(descriptor, identity)
            return False
        self._descriptor, self._identity = descriptor, identity
        _held[identity] = self
        return True

    def _refusal(self, descriptor: int, error: OSError) -> StorageError:
        if error.errno not in _IN_THE_WAY:
            return StorageError(
                f"{self._path} cannot be locked ({error.strerror}): the engine needs a local file system with "
                "open-file-description locks (Linux, macOS)"
            )
        try:
            reach, process = _holder(descriptor)
        except OSError:
            reach = process = 0
        if process > 0:  # a lock of the classic kind, on the whole file
            return StorageBusyError(f"{self._path} is locked by another program (pid {process}). Let it end first.")
        holder = str(reach - 1) if reach > 1 else "unknown"
        return EngineLockedError(
            f"{self._path} is in use by another engine (pid {holder}): one engine per file. Ask that one, "
            f"durable.connect({self._path!r}), or stop its process. Several workers have one each with "
            "Engine(..., standby=True)."
        )


def _writable(descriptor: int) -> bool:
    """Whether it can have a lock that is not shared."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _discard(descriptor: int, identity: Identity) -> None:
    """Close a descriptor, unless that would take the locks of somebody else's SQLite connection in this process."""
    with suppress(OSError):
        _lock(descriptor, fcntl.F_UNLCK, 0, 0)
    _kept[descriptor] = identity
    elsewhere = _open_elsewhere(set(_kept.values()))
    for kept, of in list(_kept.items()):
        if of not in elsewhere:
            del _kept[kept]
            os.close(kept)


def _open_elsewhere(files: set[Identity]) -> set[Identity]:
    """Which of these files the process has open by other descriptors than those that are kept here."""
    found: set[Identity] = set()
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return found
    for number in numbers:
        if number not in _kept:
            with suppress(OSError):
                status = os.fstat(number)
                found.add((status.st_dev, status.st_ino))
    return found & files


# ---- struct flock ----

_BSD = hasattr(fcntl, "F_FULLFSYNC")


def _packed(kind: int, start: int, length: int) -> bytes:
    if _BSD:
        return struct.pack("qqihh", start, length, 0, kind, os.SEEK_SET)
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def _lock(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, _SET, _packed(kind, start, length))


def _holder(descriptor: int) -> tuple[int, int]:
    """How many bytes the lock in the way reaches, and whose it is, where it is a classic one."""
    told = fcntl.fcntl(descriptor, _GET, _packed(fcntl.F_WRLCK, _FAR, 1))
    if _BSD:
        _, length, process, _, _ = struct.unpack("qqihh", told)
    else:
        _, _, _, length, process = struct.unpack("hhqqi4x", told)
    return int(length), int(process)


# ---- forks ----


def _forked() -> None:
    """In a child: the locks are the parent's, and are not to outlive it here."""
    global _mutex
    _mutex = threading.Lock()
    for lock in _held.values():
        if lock._descriptor is not None:
            with suppress(OSError):
                os.close(lock._descriptor)
            lock._descriptor = None
    _held.clear()


os.register_at_fork(after_in_child=_forked)
