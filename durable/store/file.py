"""The database file while an engine has it: opened, watched, written and closed on the store's thread."""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from durable.errors import EngineFailedError, StorageError, StorageFullError
from durable.store import CommitRefused, Opened, disk
from durable.store.faults import explain, is_busy, is_damage, only_the_batch
from durable.store.lock import FileLock
from durable.store.pages import Concerned
from durable.store.paths import check_files
from durable.store.presence import Presence
from durable.store.restore import finish
from durable.store.wal import (
    empty_found_log,
    end_log,
    lost_its_log,
    make_durable,
    patiently,
    refuse_log_elsewhere,
    refuse_lonely_log,
    refuse_stale_log,
    warn_of_lost_log,
)

#: How many of those that are on a damaged page an error names.
_NAMED_MAX = 5
Prepare = Callable[[sqlite3.Connection], Opened]


class DatabaseFile:
    """One opening of a file, from the lock to its release. See `store.thread.Keeper`."""

    def __init__(self, path: str, prepare: Prepare, busy_timeout_s: float, let_go: Callable[[], bool]) -> None:
        self.path = path
        #: Why nothing may be written any more.
        self.failed: str | None = None
        self._spoilt = False
        self._prepare = prepare
        self._busy_timeout_s = busy_timeout_s
        self._lock = FileLock(path, let_go=let_go)
        self._presence: Presence | None = None

    def opening(self, stopping: threading.Event) -> tuple[sqlite3.Connection, Opened]:
        """Lock the file, make durable what is found, open it, and bring it up to date."""
        check_files(self.path)
        refuse_lonely_log(self.path)
        self._lock.acquire()
        try:
            log_found = make_durable(self.path, self._lock)
            finish(self.path, self._lock)
            refuse_stale_log(self.path, self._lock)
            refuse_log_elsewhere(self.path, self._lock.descriptor)
            log_is_gone = lost_its_log(self.path, self._lock.descriptor)
            database, opened = patiently(self._connect, self._prepare, self._busy_timeout_s, stopping)
            try:
                if log_found:
                    empty_found_log(database, self.path)
                if log_is_gone and opened.crashed:
                    warn_of_lost_log(self.path)
                self._presence = Presence(self.path, self._lock)
            except BaseException:
                database.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        return database, opened

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=0
        )

    def look(self) -> None:
        """Raise a `StorageReplacedError`, and write nothing more, if the file is gone."""
        assert self._presence is not None
        try:
            self._presence.check()
        except StorageError as error:
            self.fail(f"the engine stopped: {error}")
            raise

    def check_same(self) -> None:
        """Raise a `StorageReplacedError` if the path names another file by now. From any thread."""
        assert self._presence is not None
        self._presence.check_same()

    def fail(self, why: str, *, spoilt: bool = True) -> None:
        """Write nothing more. `spoilt`: at the close, too, SQLite leaves file and log as they are."""
        self.failed = self.failed or why
        self._spoilt = self._spoilt or spoilt

    def closing(self, database: sqlite3.Connection) -> None:
        """Leave one file without a log or, if writing has failed, everything as it is."""
        try:
            with suppress(StorageError):
                self.look()
            if self._spoilt:
                self._lock.keep_the_log()
            else:
                end_log(database, self.path)
            database.close()
            if not self._spoilt:
                disk.sync_folder(os.path.realpath(self.path))
        finally:
            self._lock.release()

    def write(
        self,
        database: sqlite3.Connection,
        batch: Sequence[tuple[str, Sequence[Any]]],
        concerned: Callable[[], Concerned],
    ) -> None:
        """Write statements in one transaction.

        Raises SQLite's error if another program's lock is in the way: nothing was written, and it can be tried again.
        Raises `CommitRefused` and `EngineFailedError` like `Store.commit`.
        """
        if self.failed is not None:
            raise EngineFailedError(self.failed)
        undecided = certain = False
        try:
            if len(batch) == 1:  # one statement is a transaction by itself, and two round trips less
                database.execute(*batch[0])
                undecided = True
            else:
                database.execute("BEGIN IMMEDIATE")
                for text, values in batch:
                    database.execute(text, values)
                undecided = True
                database.execute("COMMIT")
            assert self._presence is not None
            self._presence.check()
        except Exception as error:
            if not undecided and _rolled_back(database):
                if is_busy(error):
                    raise
                if only_the_batch(error):
                    cause = explain(error, self.path)
                    raise CommitRefused(f"a turn was not stored; nothing of it was written: {cause}") from cause
                if is_damage(error) and (unread := concerned().unread(database)):
                    cause = explain(error, self.path)
                    whose = "; ".join(unread[:_NAMED_MAX])
                    raise CommitRefused(
                        f"a turn was not stored; nothing of it was written: {whose}: {cause}"
                    ) from cause
                certain = len(batch) > 1  # a statement without BEGIN commits, too
            cause = explain(error, self.path)
            known = "nothing of it was written, what was being submitted was certainly not accepted"
            known = known if certain else "whether it took effect is unknown"
            why = f"a commit failed and the engine stopped; {known}: {cause}"
            # emptying the log into the file is what makes room on a full disk
            self.fail(why, spoilt=not isinstance(cause, StorageFullError))
            raise EngineFailedError(why) from cause


def _rolled_back(database: sqlite3.Connection) -> bool:
    """Whether nothing is left of what was begun. A statement without BEGIN has undone itself."""
    if not database.in_transaction:
        return True
    try:
        database.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return not database.in_transaction
