"""What Restate's server has and an embedded engine has not: what is asked of it says what to do instead."""

from typing import Any

from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation
from durable.web.errors import BadRequest

_LIMITS = "this engine has no limit rules: give Engine(max_concurrent_invocations=...)"


async def set_limit_rules(call: Call) -> Response:
    """Refused."""
    raise BadRequest(501, _LIMITS)


async def steer_queue(call: Call) -> Response:
    """Refused."""
    raise BadRequest(501, "this engine has no virtual queues: pause and resume invocations")


_REFUSED = {501: Answer("It cannot be done; the message says what to do instead.")}


def _absent(method: str, path: str, run: object, answers: object, name: str = "") -> Operation:
    return Operation(
        method=method, path=path, run=run, tag="not here", answers=answers, name=name,  # type: ignore[arg-type]
        summary="Not in an embedded engine", body=Any if method in ("POST", "PUT") else None, body_optional=True,
    )  # fmt: skip


OPERATIONS = (
    _absent("PUT", "/limits/rules", set_limit_rules, _REFUSED),
    _absent("POST", "/limits/rules/bulk-delete", set_limit_rules, _REFUSED, "delete_limit_rules"),
    _absent("POST", "/vqueues/{queue}/pause", steer_queue, _REFUSED, "pause_queue"),
    _absent("POST", "/vqueues/{queue}/resume", steer_queue, _REFUSED, "resume_queue"),
)
