"""One engine per file, by an operating-system lock that dies with its process.

A POSIX record lock on a side file: it is not inherited by forked children, so an orphan cannot keep it. Such a lock
is lost when *any* descriptor of the side file is closed in the process, so a second opener in the same process is
told apart before the file is touched.
"""

import fcntl
import os
from contextlib import suppress

from durable.errors import EngineLockedError

_held: set[str] = set()


class FileLock:
    """The lock of one database file."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._path = os.path.realpath(database) + ".lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or say at once who has it. Raises `EngineLockedError` and what `os.open` raises."""
        if self._path in _held:
            raise EngineLockedError(
                f"{self._database} is already open in this process (pid {os.getpid()}): one engine per file. "
                "Use the engine you have, or give the second one a file of its own."
            )
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise EngineLockedError(
                f"{self._database} is in use by another engine (pid {holder}): one engine per file. Stop that "
                "process, or talk to its engine (several uvicorn workers need one engine each, on their own files)."
            ) from None
        self._descriptor = descriptor
        _held.add(self._path)
        with suppress(OSError):  # only for the message above; a full disk is named when something needs it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the lock go. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self._path)
