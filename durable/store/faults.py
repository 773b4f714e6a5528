"""Turns SQLite's errors into ours. They are recognized by their code, never by their text, which can say anything."""

import errno
import sqlite3

from durable.errors import (
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
)

_BY_CODE: dict[int, tuple[type[StorageError], str]] = {
    sqlite3.SQLITE_FULL: (
        StorageFullError,
        "no space is left for {path}. Free space and start the engine again: nothing acknowledged is lost.",
    ),
    sqlite3.SQLITE_READONLY: (
        StorageReadOnlyError,
        "{path} cannot be written. The engine needs write access to the file and to its directory.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StorageReadOnlyError,
        "{path} cannot be opened or created. Does its directory exist, and may this user write to it?",
    ),
    sqlite3.SQLITE_PERM: (StorageReadOnlyError, "{path}: permission denied."),
    sqlite3.SQLITE_BUSY: (
        StorageBusyError,
        "{path} is locked by another program (a database browser, a copy, a backup?). Close it and start again.",
    ),
    sqlite3.SQLITE_LOCKED: (StorageBusyError, "{path} is locked by another program."),
    sqlite3.SQLITE_NOTADB: (
        StorageCorruptError,
        "{path} is no SQLite database, or is damaged. It was left as it is: use durable.restore(backup, path).",
    ),
    sqlite3.SQLITE_ERROR: (
        StorageCorruptError,
        "{path} has not the tables that it should have. It was left as it is: use durable.restore(backup, {path!r}).",
    ),
    sqlite3.SQLITE_CORRUPT: (
        StorageCorruptError,
        "{path} is damaged. It was left as it is: use durable.restore(backup, path), or `sqlite3 {path} .recover`.",
    ),
}


#: What SQLite says of one statement and its values: the file is as sound as before, and so is the next transaction.
_OF_THE_BATCH = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
}


def is_busy(error: BaseException) -> bool:
    """Whether another program's lock was in the way. That may pass."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_BUSY


def is_damage(error: BaseException) -> bool:
    """Whether a page cannot be read: SQLite finds nonsense on it, or the disk does not return it."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and (code & 0xFF == sqlite3.SQLITE_CORRUPT or code == sqlite3.SQLITE_IOERR_READ)


def only_the_batch(error: Exception) -> bool:
    """Whether an error before COMMIT is only about what was to be written, not about the disk or the database.

    This includes what sqlite3 raises by itself, without a code of SQLite, about values that it cannot bind.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in _OF_THE_BATCH
    return not isinstance(error, OSError | MemoryError)


def explain(error: Exception, path: str) -> StorageError:
    """The `StorageError` for what sqlite3 or the operating system raised."""
    if isinstance(error, StorageError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # no room for the log's index: SQLite calls that an I/O error
            code = sqlite3.SQLITE_FULL
        known = _BY_CODE.get(code & 0xFF)
        if known is not None:
            kind, text = known
            return kind(f"{text.format(path=path)} (SQLite says: {error})")
        name = getattr(error, "sqlite_errorname", code)
        return StorageError(f"{path}: SQLite failed with {name}: {error}")
    if isinstance(error, UnicodeDecodeError):  # sqlite3 could not even say what SQLite said
        kind, text = _BY_CODE[sqlite3.SQLITE_CORRUPT]
        return kind(text.format(path=path))
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageReadOnlyError(f"{path} cannot be written ({error.strerror}): the engine needs write access.")
    if isinstance(error, PermissionError | IsADirectoryError | FileNotFoundError | NotADirectoryError):
        return StorageReadOnlyError(
            f"{path} cannot be opened for writing ({error.strerror}). The engine needs an existing directory in "
            "which it may create files."
        )
    if isinstance(error, OSError):
        kind = StorageFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
        return kind(f"{path}: {error.strerror or error}")
    return StorageError(f"{path}: {error}")
