"""A database whose engine is stopped: read without changing it, or changed without a trace of an engine."""

import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from durable.core.effects import Writes
from durable.errors import EngineLockedError, StorageError, StorageReplacedError, StorageVersionError
from durable.store import CommitRefused, Opened
from durable.store.file import DatabaseFile
from durable.store.format import check_version, migrations
from durable.store.lock import FileLock
from durable.store.paths import check_files
from durable.store.soundness import id_span, keys
from durable.store.sqlite import SqliteStore
from durable.store.wal import refuse_log_elsewhere, refuse_lonely_log, refuse_stale_log

T = TypeVar("T")


def check_current(database: sqlite3.Connection, path: str) -> None:
    """Raise a `StorageError` unless this is a database of ours with the schema of this version."""
    version, newest = check_version(database, path), max(number for number, _ in migrations())
    if version == 0:
        raise StorageError(f"{path} is empty: no engine has ever started on it")
    if version < newest:
        raise StorageVersionError(
            f"{path} has schema version {version}, and this durable works with {newest}: the next start of its "
            "engine with this version brings it up to date. Until then, use the version that wrote it"
        )


class StoppedStore(SqliteStore):
    """The file under its lock, for changes that run no handler.

    The note whether the last engine ended in order stays as it is, because the next one has to know whom to charge
    with a crash. The file is not brought up to date either, because its service may be of an older version.
    """

    def _prepare(self, database: sqlite3.Connection) -> Opened:
        check_current(database, self.path)
        opened = super()._prepare(database)
        self._marked = True  # so `commit` notes nothing
        return opened

    async def sign_off(self) -> None:
        """Nothing ran, so nothing has ended."""


class ReadOnlyStore(SqliteStore):
    """The file as it is, with its log if it has one. Nothing is written, not even what a start would repair.

    Others may open it meanwhile, engines too. If an engine has it already, that is an `EngineLockedError`, unless it
    is read `beside` that engine.
    """

    def __init__(self, path: str | os.PathLike[str], *, beside: bool = False) -> None:
        self._beside = beside
        super().__init__(path)

    def _new_file(self) -> DatabaseFile:
        return ReadOnlyFile(self.path, self._prepare, self._busy_timeout_s, self._let_go, beside=self._beside)

    def _prepare(self, database: sqlite3.Connection) -> Opened:
        check_current(database, self.path)
        self._marked = True
        # nothing is numbered, and no service looks for its options
        return Opened(0, 0, id_span=id_span(database), keys=keys(database))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Whatever is read by `work`. Raises `StorageError`."""
        return await self._read(work)

    def _look_after_indexes(self) -> None:
        """They are left as they are."""

    def commit(self, writes: Writes) -> Awaitable[None]:
        """Refused."""
        raise CommitRefused(f"{self.path} is open for reading only: nothing was changed")

    async def sign_off(self) -> None:
        """Nothing ran, so nothing has ended."""


class ReadOnlyFile(DatabaseFile):
    """One opening of a file, to read it."""

    def __init__(self, *arguments: Any, beside: bool) -> None:
        super().__init__(*arguments)
        self._beside = beside
        self._identity = (0, 0)

    def opening(self, stopping: threading.Event) -> tuple[sqlite3.Connection, Opened]:
        """See that file and log belong together, and open them. The lock is held for that moment only."""
        check_files(self.path)
        refuse_lonely_log(self.path)
        if not os.path.exists(self.path):
            raise StorageError(f"there is no file {self.path}")
        lock = FileLock(self.path)
        try:
            try:
                lock.acquire(create=False, shared=True)
                refuse_stale_log(self.path, lock)
                refuse_log_elsewhere(self.path, lock.descriptor)
            except EngineLockedError:  # its engine has looked
                if not self._beside:
                    raise
            self._identity = self._named()
            return self._connected()
        finally:
            lock.release()

    def _connected(self) -> tuple[sqlite3.Connection, Opened]:
        uri = f"{Path(os.path.realpath(self.path)).as_uri()}?mode=ro"
        database = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=self._busy_timeout_s
        )
        try:
            return database, self._prepare(database)
        except BaseException:
            database.close()
            raise

    def look(self) -> None:
        """Whatever becomes of the file, what is read of it was there."""

    def check_same(self) -> None:
        """Raise a `StorageReplacedError` if the path names another file by now."""
        if self._named() != self._identity:
            raise StorageReplacedError(f"{self.path} was replaced by another file while it was read: do it again")

    def _named(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def closing(self, database: sqlite3.Connection) -> None:
        """Leave file and log as they are."""
        database.close()
