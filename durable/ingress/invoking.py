"""Calls and sends: a handler is invoked, and its result leaves as it is stored."""

from durable.core.duration import parse
from durable.core.invocation import Flavor
from durable.core.journal import Failure, Outcome
from durable.engine.raw import Request, Standing
from durable.ingress import answers
from durable.ingress.answers import Answer
from durable.ingress.asks import Invoke
from durable.ingress.bodies import input_of, output_of
from durable.ingress.calls import Call
from durable.remote.envelope import EXACT
from durable.runtime.registry import Registered
from durable.web.errors import BadRequest
from durable.web.requests import ClientGone

#: Headers that belong to a connection, or to the ingress.
NOT_FOR_HANDLERS = frozenset({b"host", b"connection", b"idempotency-key", b"idempotency-expires"})
#: A longer path is not handed to the handler: it is there because of a long key, which the handler has anyway.
PATH_MAX = 8 * 1024
_EXACT = EXACT.encode()
_ALREADY_INVOKED = "the workflow method was already invoked"


async def call(asked: Invoke, call: Call) -> Answer:
    """Invoke a handler, and answer with its outcome. Where the client goes away, the invocation goes on."""
    request = await request_of(asked, call)
    raw = call.ingress.raw
    call.tell(request, waits=True)
    with call.ingress.waiting(call.receive):
        standing = await raw.call(request, call.names)
        if standing.known and request.handler.flavor is Flavor.WORKFLOW:
            return answers.failed(standing.id, Failure(_ALREADY_INVOKED, 409))
        return ended(request.handler, standing, standing.outcome or await raw.ended(standing.id), call)
    raise ClientGone


async def send(asked: Invoke, call: Call) -> Answer:
    """Have a handler invoked, now or after a delay; the answer comes when that is durable."""
    request = await request_of(asked, call)
    call.tell(request, waits=False)
    standing = await call.ingress.raw.send(request, call.names)
    return answers.accepted(standing)


def ended(handler: Registered | None, standing: Standing, outcome: Outcome, call: Call) -> Answer:
    """The outcome of an invocation."""
    content_type, data = output_of(handler, outcome, exact=call.exact) if outcome.ok else ("", b"")
    if outcome.ok and call.envelope is not None and call.envelope.stored:
        content_type, data = EXACT, outcome.value
    exact = call.ingress.local
    return answers.ended(standing, outcome, content_type, data, exact=exact)


async def request_of(asked: Invoke, call: Call) -> Request:
    """What is asked for, looked through as far as the code of this process can. Raises `BadRequest`, and as `Raw`."""
    raw = call.ingress.raw
    handler = raw.handler(asked.service, asked.handler)
    if handler is None:
        raise BadRequest(
            404, f"the service '{asked.service}' exists, but the handler '{asked.handler[:1000]}' was not found, "
            "check that the handler exists in the latest registered service version.",
        )  # fmt: skip
    raw.check_public(handler, outside=call.envelope is not None and call.envelope.outside)
    headers, idempotency_key = _headers(call)
    if idempotency_key is not None and handler.flavor is Flavor.WORKFLOW:
        raise BadRequest(
            400, "cannot use the idempotency key with workflow handlers. The handler invocation will already be "
            "idempotent by the workflow key itself.",
        )  # fmt: skip
    delay_ms = _delay_ms(call, asked)
    body, said = await call.body(), call.envelope
    data = input_of(handler, call.facts.content_type, body, local=said is not None)
    if said is None:
        return Request(handler, data, asked.key, headers, idempotency_key, delay_ms)
    return Request(handler, data, asked.key, headers, idempotency_key, delay_ms, said.id, said.repeated_after_ms)


def _headers(call: Call) -> tuple[dict[str, str], str | None]:
    """What the handler gets to see, and the idempotency key. A header that comes several times is joined."""
    if call.envelope is not None:
        return call.envelope.headers, call.idempotency_key
    withheld, query = call.ingress.withheld, call.scope.get("query_string", b"")
    path = f"{call.path}?{query.decode('latin-1')}" if query else call.path
    headers = {"x-restate-ingress-path": path} if len(path) <= PATH_MAX else {}
    for name, value in call.scope["headers"]:
        if name not in withheld and value != _EXACT:
            known, text = name.decode("latin-1"), value.decode("latin-1")
            if known in headers:
                text = f"{headers[known]}{'; ' if known == 'cookie' else ', '}{text}"
            headers[known] = text
    return headers, call.idempotency_key


def _delay_ms(call: Call, asked: Invoke) -> int | None:
    given = call.query()
    if any(name == "limit-key" for name, _ in given):
        raise BadRequest(400, "limit-key requires a scope to be set, and this engine has none")
    delays = [value for name, value in given if name == "delay"]
    if not delays:
        return None
    if not asked.send:
        raise BadRequest(
            400, "cannot use the delay query parameter with calls. The delay is supported only with sends"
        )
    if len(delays) > 1:
        raise BadRequest(400, "bad delay query parameter: it is given twice")
    try:
        return parse(delays[0])
    except ValueError as error:
        raise BadRequest(400, f"bad delay query parameter: {error}") from None
