"""Everything `durable` raises, as one tree.

Exception
└── DurableError
    ├── TerminalError            ends an invocation; travels to callers with code, message and metadata
    │   ├── InvocationCancelled      409, raised by a cancel in the handler, and for those who wait for its result
    │   ├── InvocationKilled         409, raised for callers of a killed invocation
    │   └── DurableTimeoutError      408, `future.with_timeout(...)` expired (also a `TimeoutError`)
    ├── RetryableError           a failure that says when to retry
    ├── SerializationError       a value that cannot be written, or bytes that do not fit the annotation
    │   └── ValueTooLargeError       413, a value of more than `max_value_size` bytes (also a `RequestError`)
    ├── UsageError               the API was used in a way that cannot work; says what to do instead
    │   ├── NotInHandlerError        a context used outside the handler it was made for
    │   ├── WrongLoopError           an engine used from another event loop or thread
    │   ├── ForkedEngineError        an engine used in a forked child process
    │   ├── EngineNotRunningError    an engine used before it was started or after it was closed
    │   └── DeclarationError         a handler or service that cannot be registered as written
    ├── RequestError             a request that cannot be carried out; `code` is its HTTP status
    │   ├── InvalidRequestError      400
    │   ├── NotFoundError            404
    │   ├── ConflictError            409
    │   ├── GoneError                410
    │   ├── UnsupportedError         422
    │   ├── TooEarlyError            425
    │   └── OutputNotReadyError      470
    ├── EngineUnreachableError   a client found no engine where it looked (also a `ConnectionError`)
    │   └── OutcomeUnknownError      the connection broke: whether the call was accepted is unknown
    ├── JournalMismatchError     the code asked for something other than what its journal records
    └── StorageError             the database file
        ├── EngineLockedError        another engine holds the file
        ├── StorageFullError         no space left
        ├── StorageReadOnlyError     file or directory cannot be written
        ├── StorageBusyError         another program keeps the file locked
        ├── StorageVersionError      the file was written by a newer version
        ├── StorageCorruptError      the file is damaged or is no durable database
        ├── StaleWalError            the log beside the file belongs to another database
        ├── StorageReplacedError     the file was removed or replaced while an engine ran
        ├── CodecError               the codec could not encode a value, so it was not stored
        │   └── KeyMissingError          what is stored is encoded with a key that is not there
        └── EngineFailedError        a commit failed: its outcome is unknown, the engine has stopped
BaseException
└── AttemptEnded                 unwinds a handler whose attempt is over; never catch it
"""

from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = [
    "AttemptEnded",
    "CodecError",
    "ConflictError",
    "DeclarationError",
    "DurableError",
    "DurableTimeoutError",
    "EngineFailedError",
    "EngineLockedError",
    "EngineNotRunningError",
    "EngineUnreachableError",
    "ForkedEngineError",
    "GoneError",
    "InvalidRequestError",
    "InvocationCancelled",
    "InvocationKilled",
    "JournalMismatchError",
    "KeyMissingError",
    "NotFoundError",
    "NotInHandlerError",
    "OutcomeUnknownError",
    "OutputNotReadyError",
    "RequestError",
    "RetryableError",
    "SerializationError",
    "StaleWalError",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageReadOnlyError",
    "StorageReplacedError",
    "StorageVersionError",
    "TerminalError",
    "TooEarlyError",
    "UnsupportedError",
    "UsageError",
    "ValueTooLargeError",
    "WrongLoopError",
]


E = TypeVar("E", bound=BaseException)
#: To set what every exception has, past what its class makes of that.
_ARGS: Any = vars(BaseException)["args"]


def made(kind: type[E], args: tuple[Any, ...], attributes: Mapping[str, Any]) -> E:
    """An exception made without its `__init__`, whose parameters may be any, and which may be frozen."""
    builtin = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    error: E = builtin.__new__(kind, *args)
    _ARGS.__set__(error, args)  # those of an `OSError` are set by its `__init__`
    slots = slots_of(kind)
    for name, value in attributes.items():
        if name in slots:
            object.__setattr__(error, name, value)
        else:
            error.__dict__[name] = value
    return error


def slots_of(kind: type) -> set[str]:
    """The names of attributes that are not in its instances' `__dict__`."""
    found: set[str] = set()
    for one in kind.__mro__:
        slots = one.__dict__.get("__slots__", ())
        found.update((slots,) if isinstance(slots, str) else slots)
    return found - {"__dict__", "__weakref__"}


def attributes_of(error: BaseException) -> dict[str, Any]:
    """All that an exception has, besides its `args`."""
    slots = {name: getattr(error, name) for name in slots_of(type(error)) if hasattr(error, name)}
    return {**vars(error), **slots}


class DurableError(Exception):
    """The root of every ordinary error of this package."""

    #: Why an invocation whose handler ends with this is paused at once: no retry could help. Empty where one may.
    reason: str = ""


class TerminalError(DurableError):
    """Ends the invocation: it is never retried, and every caller sees the same code, message and metadata.

    Raise it in a handler or in a step. `code` is that of an HTTP error, 400 to 599 (default 500); `metadata` maps
    strings to strings. Raises `UsageError` for anything else.

    Handlers and callers get a subclass back as that class, with its attributes. Each attribute is stored by its
    annotation, and `__init__` is not called again. In a process that does not have the class, it is a
    `TerminalError`.
    """

    # for subclasses that do not call `super().__init__`
    message: str = ""
    code: int = 500
    metadata: dict[str, str] = {}  # noqa: RUF012 (only ever read)
    #: The class it was raised as, `module:Class`, if this process does not have that class; otherwise empty.
    class_name: str = ""

    def __init__(self, message: str = "", code: int = 500, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if type(code) is int and 400 <= code <= 599 else _checked_code(code)
        self.metadata = {} if metadata is None else _checked_metadata(metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        return made, (type(self), self.args, attributes_of(self))


def _checked_code(code: object) -> int:
    if isinstance(code, int) and 400 <= code <= 599:  # an `HTTPStatus`
        return int(code)
    raise UsageError(
        f"TerminalError(code={code!r}): a code is that of an HTTP error, an int from 400 to 599; put anything "
        "else into metadata"
    )


def _checked_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, Mapping):
        raise UsageError(
            f"TerminalError(metadata=...) must be a mapping of strings to strings, not {type(metadata).__name__}"
        )
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(
                f"TerminalError(metadata=...) maps strings to strings, but {name!r:.100} is mapped to a "
                f"{type(value).__name__}: write it as text, or keep it in an attribute of a subclass"
            )
    return dict(metadata)


class InvocationCancelled(TerminalError):
    """The invocation was cancelled. Raised once for each cancel; afterwards the context works normally."""

    def __init__(
        self, message: str = "cancelled", code: int = 409, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, code, metadata)


class InvocationKilled(TerminalError):
    """The invocation was killed: no more of its code ran."""

    def __init__(self, message: str = "killed", code: int = 409, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code, metadata)


class DurableTimeoutError(TerminalError, TimeoutError):
    """A durable wait timed out.

    It is terminal because the time-out is in the journal: a retry would meet it again.
    """

    def __init__(
        self, message: str = "timed out", code: int = 408, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, code, metadata)


class RetryableError(DurableError):
    """A failure that is retried after `retry_after` (a duration) instead of the policy's own delay.

    It counts as an attempt, like any other failure.
    """

    message: str = ""
    retry_after: Any = None

    def __init__(self, message: str = "", retry_after: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class SerializationError(DurableError):
    """A value that cannot be written, or bytes that do not fit the annotation they are read with."""

    reason = "value-not-storable"


class UsageError(DurableError):
    """The API was used in a way that cannot work; the message says what to do instead."""

    reason = "misuse"


class NotInHandlerError(UsageError):
    """A context was used while its handler was not running (any more)."""


class WrongLoopError(UsageError):
    """An engine belongs to the event loop that started it."""


class ForkedEngineError(UsageError):
    """An engine cannot be used in a forked child: its database connection belongs to the parent."""


class EngineNotRunningError(UsageError):
    """The engine has not been started yet, or is closed."""

    reason = ""


class DeclarationError(UsageError):
    """A handler or service cannot be registered as it is written."""


class RequestError(DurableError):
    """A request cannot be carried out. `code` is the status with which an HTTP API answers."""

    code = 400


class InvalidRequestError(RequestError):
    """The request itself is malformed: an id, a key, a duration, an argument."""

    code = 400
    reason = "misuse"


class NotFoundError(RequestError):
    """No such invocation, awakeable, promise, service or handler."""

    code = 404


class ConflictError(RequestError):
    """It exists, but its present state does not allow this."""

    code = 409


class GoneError(RequestError):
    """Something that this needs no longer exists, such as a journal."""

    code = 410


class UnsupportedError(RequestError):
    """This can never be done to this kind of invocation."""

    code = 422


class TooEarlyError(RequestError):
    """The invocation has not had its turn yet: it is scheduled, or waits for its key."""

    code = 425


class OutputNotReadyError(RequestError):
    """The invocation exists, but has not completed yet."""

    code = 470


class ValueTooLargeError(SerializationError, RequestError):
    """A value of more than `max_value_size` bytes. Nothing of it was accepted or stored.

    `door` says what it was meant for, `size` how many bytes it has, `limit` how many are allowed.
    """

    code = 413
    reason = "value-too-large"

    def __init__(self, door: str, size: int, limit: int) -> None:
        super().__init__(
            f"{door} has {size:,} bytes, at most {limit:,} are stored: keep it elsewhere and pass a reference, or "
            "raise Engine(max_value_size=...)"
        )
        self.door = door
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.door, self.size, self.limit)


class EngineUnreachableError(DurableError, ConnectionError):
    """A client found no engine where it looked; the message says what is there instead."""


class OutcomeUnknownError(EngineUnreachableError):
    """The connection broke before an answer came, and the request could not be repeated safely.

    It was accepted once, or not at all. With an idempotency key it would have been repeated.
    """


class JournalMismatchError(DurableError):
    """The handler's code no longer does what its journal records. Nothing after the mismatch was executed."""

    reason = "journal-mismatch"


class StorageError(DurableError):
    """The database file could not be used. Nothing that was acknowledged is lost."""


class EngineLockedError(StorageError):
    """Another engine holds the file: one engine per file."""


class StorageFullError(StorageError):
    """No space is left for the database."""


class StorageReadOnlyError(StorageError):
    """The database file or its directory cannot be written."""


class StorageBusyError(StorageError):
    """Another program keeps the database locked."""


class StorageVersionError(StorageError):
    """The file was written by a newer version of this package."""


class StorageCorruptError(StorageError):
    """The file is damaged, or is not a database of this package."""


class StaleWalError(StorageError):
    """The log beside the file (`-wal`) belongs to another database: a backup was copied over an older one.

    Nothing was opened or changed. `durable.restore(backup, path)` puts a backup in place and the old files aside.
    """


class StorageReplacedError(StorageError):
    """The file, or its log, was removed, renamed or replaced while the engine ran."""


class CodecError(StorageError):
    """The codec (`Engine(codec=...)`) could not encode a value, so it was not stored; or it is no codec at all."""

    reason = "not-encodable"


class KeyMissingError(CodecError):
    """What is stored is encoded with a key that this engine does not have, or has another one by its id.

    Nothing is lost: start the engine with a codec that has the key.
    """

    reason = "key-missing"

    #: The ids of the keys.
    key_ids: tuple[str, ...]

    def __init__(self, message: str = "", key_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key_ids = key_ids


class EngineFailedError(StorageError):
    """A commit failed, so its outcome is unknown, and the engine stopped.

    A request that was under way may or may not have been accepted: start the engine again and repeat the request
    with the same idempotency key.
    """


class AttemptEnded(BaseException):
    """Unwinds a handler whose attempt is over (suspended, paused, killed, failed or fenced off).

    It is a `BaseException` so that `except Exception` in a handler does not swallow it.
    """
