"""What goes wrong, as HTTP says it: one place where errors become answers."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from durable import log
from durable.admin.operations import Operation, json
from durable.errors import (
    DurableError,
    EngineFailedError,
    EngineNotRunningError,
    RequestError,
    SerializationError,
    StorageBusyError,
)
from durable.web.security import printable


class Problem(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    message: str
    #: Restate's code, where the error is one that has a code there.
    restate_code: str | None = None


class BadRequest(Exception):
    """Refused before the engine was asked: a body or parameter that cannot be read, or is not understood."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer."""
    return json(Problem(message), status, headers)


def answer_to(error: Exception, operation: Operation) -> Response:
    """The answer to what an operation raised."""
    match error:
        case BadRequest():
            return problem(error.status, error.message, error.headers)
        case RequestError():
            return problem(error.code, str(error))
        case SerializationError():
            return problem(400, str(error))
        case EngineNotRunningError() | EngineFailedError() | StorageBusyError():
            return problem(503, str(error), {"retry-after": "1"})
        case DurableError():
            log.error("%s %s: %s", operation.method, operation.path, printable(str(error)))
            return problem(500, str(error))
    log.error("%s %s failed", operation.method, operation.path, cause=error)
    return problem(500, "an internal error, whose details are in the log")
