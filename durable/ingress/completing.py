"""What somebody outside brings to an end: awakeables, promises, signals."""

from durable.core.ids import parse_awakeable_id
from durable.core.journal import EMPTY, Outcome
from durable.errors import NotFoundError, TerminalError
from durable.ingress.answers import Answer
from durable.ingress.asks import Complete, Settle, Signal
from durable.ingress.bodies import completion_of
from durable.ingress.calls import Call
from durable.outcomes import outcome_of
from durable.remote.envelope import REJECTED
from durable.web.errors import BadRequest

DONE = Answer(202)
#: What the code of a rejection may be, as it is written.
_CODES = frozenset(map(str, range(400, 600)))
_ALLOWED = "create_app(%s=True), or 'durable serve --%s', allows it"


async def awakeable(asked: Complete, call: Call) -> Answer:
    """Complete an awakeable; one that is completed, or whose invocation has ended, stays as it is.

    To who has sent an idempotency key, that is a 409, unless the key is that of its completion.
    """
    if parse_awakeable_id(asked.id) is None:
        raise BadRequest(400, f"bad awakeable id '{asked.id[:100]}': those start with sign_1")
    await call.ingress.raw.complete_awakeable(asked.id, await _outcome(call, asked.ok), call.idempotency_key)
    return DONE


async def promise(asked: Settle, call: Call) -> Answer:
    """Settle a promise of a public workflow; 409 where it was settled before, with another key or none."""
    check_promise(asked, call)
    outcome = await _outcome(call, asked.ok)
    await call.ingress.raw.settle_promise(asked.workflow, asked.key, asked.name, outcome, call.idempotency_key)
    return DONE


def check_promise(asked: Settle, call: Call) -> None:
    """Whether it may be settled here. Raises `BadRequest`, `NotFoundError`, `InvalidRequestError`."""
    raw = call.ingress.raw
    if not call.ingress.promises:
        raise BadRequest(404, f"promises cannot be settled here: {_ALLOWED % ('promises', 'promises')}")
    if call.ingress.local:
        return  # private ones, too; the engine knows which there are, also where it rests and has no code
    run = raw.handler(asked.workflow, "run")
    if run is None:
        raise NotFoundError(f"this engine has no workflow {asked.workflow[:1000]}")
    raw.check_public(run)


async def signal(asked: Signal, call: Call) -> Answer:
    """Hand a signal to an invocation, unless that has ended; with an idempotency key, once, and that is a 409."""
    check_signals(call)
    await call.ingress.raw.signal(asked.id, asked.name, await _outcome(call, asked.ok), call.idempotency_key)
    return DONE


def check_signals(call: Call) -> None:
    """Whether signals may be sent here. Raises `BadRequest`."""
    if not call.ingress.signals:
        raise BadRequest(404, f"signals cannot be sent here: {_ALLOWED % ('signals', 'signals')}")


def code_of(call: Call) -> int:
    """The code that a rejection has. Raises `BadRequest`."""
    given = [value for name, value in call.query() if name == "code"]
    if not given:
        return REJECTED
    if len(given) > 1 or given[0] not in _CODES:
        raise BadRequest(400, f"bad code query parameter: expected one, 400 to 599, found {', '.join(given)[:60]!r}")
    return int(given[0])


async def _outcome(call: Call, ok: bool) -> Outcome:
    code = REJECTED if ok else code_of(call)
    body = await call.body()
    if not ok:
        return outcome_of(TerminalError(body.decode("utf-8", "replace"), code))
    data = completion_of(call.facts.content_type, body, local=call.ingress.local)
    return Outcome(True, data) if data else EMPTY
