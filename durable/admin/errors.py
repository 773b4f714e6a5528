"""Errors as the admin API tells them."""

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from durable.admin.operations import Operation, json
from durable.web.errors import refusal_for
from durable.web.security import Refusal


class Problem(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    message: str
    #: Restate's code, where the error is one that has a code there.
    restate_code: str | None = None
    #: The class of the error, where the status does not tell; and more about it.
    kind: str | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


def problem(refusal: Refusal) -> Response:
    """An error as an answer."""
    said = Problem(refusal.message, None, refusal.kind or UNSET, dict(refusal.metadata) or UNSET)
    return json(said, refusal.status, refusal.headers)


def answer_to(error: Exception, operation: Operation) -> Response:
    """The answer to what an operation raised."""
    return problem(refusal_for(error, f"{operation.method} {operation.path}"))
