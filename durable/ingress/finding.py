"""Results of invocations that exist: waited for, read as they are, and the ids that targets have."""

import msgspec

from durable.core.ids import is_invocation_id
from durable.core.journal import Failure
from durable.errors import NotFoundError
from durable.ingress import answers
from durable.ingress.answers import Answer, LookedUp
from durable.ingress.asks import IdempotentTarget, InvocationTarget, Result, Target, WorkflowTarget
from durable.ingress.calls import Call
from durable.ingress.invoking import ended
from durable.web.errors import BadRequest
from durable.web.requests import ClientGone

_decode = msgspec.json.Decoder(Target).decode
#: What names a target is not longer than a key, an idempotency key and two names.
_TARGET_BYTES_MAX = 512 * 1024


async def result(asked: Result, call: Call) -> Answer:
    """The result of an invocation: once it is there, or 470 where it is not there yet."""
    raw = call.ingress.raw
    id = id_of(asked.target or await _target(call), call)
    call.names(id)
    try:
        standing = await raw.find(id)
    except NotFoundError:
        if asked.wait:
            return answers.failed(id, Failure("not found", 404), NotFoundError.__name__)
        raise BadRequest(404, "invocation not found") from None
    outcome = standing.outcome
    if outcome is None and not asked.wait:
        raise BadRequest(470, "the invocation exists but has not completed yet")
    with call.ingress.waiting(call.receive):
        handler = raw.handler(standing.service, standing.handler)
        return ended(handler, standing, outcome or await raw.ended(id), call)
    raise ClientGone


async def lookup(call: Call) -> Answer:
    """The id that a target has, whether it exists or not."""
    return answers.json(LookedUp(id_of(await _target(call), call)))


def id_of(target: Target, call: Call) -> str:
    """The id that a target has. Raises `BadRequest`, `InvalidRequestError`."""
    match target:
        case InvocationTarget():
            if not is_invocation_id(target.invocation_id):
                raise BadRequest(400, f"bad invocation id '{target.invocation_id[:100]}'")
            return target.invocation_id
        case IdempotentTarget():
            _no_scope(target.scope)
            return call.ingress.raw.idempotent_id(target.service, target.key, target.handler, target.idempotency_key)
        case WorkflowTarget():
            _no_scope(target.scope)
            return call.ingress.raw.workflow_id(target.workflow_name, target.workflow_key)


def _no_scope(scope: str | None) -> None:
    if scope is not None:
        raise BadRequest(400, "scoped invocations are not supported: this engine has no limit rules")


async def _target(call: Call) -> Target:
    body = await call.body()
    if len(body) > _TARGET_BYTES_MAX:
        raise BadRequest(413, f"what names an invocation has at most {_TARGET_BYTES_MAX} bytes")
    try:
        target: Target = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(400, f"cannot read body: {error}") from None
    return target
