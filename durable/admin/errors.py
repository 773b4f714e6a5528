"""Errors as the admin API tells them."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from durable.admin.operations import Operation, json
from durable.web.errors import refusal_for


class Problem(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    message: str
    #: Restate's code, where the error is one that has a code there.
    restate_code: str | None = None


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer."""
    return json(Problem(message), status, headers)


def answer_to(error: Exception, operation: Operation) -> Response:
    """The answer to what an operation raised."""
    refusal = refusal_for(error, f"{operation.method} {operation.path}")
    return problem(refusal.status, refusal.message, refusal.headers)
