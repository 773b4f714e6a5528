"""What goes wrong, as HTTP says it: the one place where errors become a status and a message."""

from collections.abc import Mapping

from durable import log
from durable.errors import (
    DurableError,
    EngineFailedError,
    EngineNotRunningError,
    OutcomeUnknownError,
    RequestError,
    SerializationError,
    StorageBusyError,
    ValueTooLargeError,
)
from durable.errors import __all__ as public
from durable.store import CommitRefused
from durable.web.security import Refusal


class BadRequest(Exception):
    """Refused before the engine was asked: a body or parameter that cannot be read, or is not understood."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def refusal_for(error: Exception, where: str) -> Refusal:
    """What to answer to an error that was raised while `where` was asked. What nobody is to blame for is logged."""
    match error:
        case BadRequest():
            return Refusal(error.status, error.message, error.headers)
        case ValueTooLargeError():
            details = {"door": error.door, "size": str(error.size), "limit": str(error.limit)}
            return Refusal(error.code, str(error), kind=_kind(error), metadata=details)
        case RequestError():
            return Refusal(error.code, str(error))
        case SerializationError():
            return Refusal(400, str(error), kind=_kind(error))
        case OutcomeUnknownError():
            return Refusal(409, str(error), kind=_kind(error))
        case EngineNotRunningError() | EngineFailedError() | StorageBusyError():
            return Refusal(503, str(error), {"retry-after": "1"}, kind=_kind(error))
        case CommitRefused():  # by what is stored already: a key that an invocation has whose id is damaged
            return Refusal(409, str(error))
        case DurableError():
            log.http.error("%s: %s", where, error)
            return Refusal(500, str(error), kind=_kind(error))
    log.http.error("%s failed", where, cause=error)
    return Refusal(500, "an internal error, whose details are in the log")


def _kind(error: Exception) -> str:
    """The class that clients know it by."""
    return next((one.__name__ for one in type(error).__mro__ if one.__name__ in public), "")
