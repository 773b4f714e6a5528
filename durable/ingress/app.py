"""The app: what happens to every request before and after what it asks for is done."""

import asyncio
import os
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from durable.engine import Engine
from durable.engine.raw import Raw
from durable.ingress import completing, finding, invoking
from durable.ingress.answers import Answer, Services, json, problem
from durable.ingress.asks import (
    Ask,
    Complete,
    Describe,
    Health,
    Invoke,
    Lookup,
    Result,
    Settle,
    Signal,
    parse,
)
from durable.ingress.calls import Call, Ingress
from durable.ingress.clients import Waiting
from durable.ingress.passing import pass_on
from durable.ingress.policy import Limits, Policy, cors_headers, is_preflight, origins_of, refusal_of
from durable.web.access import Authorize, allowed, token_of
from durable.web.errors import BadRequest, refusal_for
from durable.web.requests import ClientGone, Receiving, acknowledge, envelope_of, facts_of, raw_route_path
from durable.web.security import LOOPBACK, Facts, Refusal, host_names
from durable.web.service_openapi import document_of


def create_app(
    engine: Engine,
    *,
    allowed_hosts: Iterable[str] = LOOPBACK,
    cors: Iterable[str] = (),
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    token_variable: str | None = None,
    authorize: Authorize | None = None,
    limits: Limits | None = None,
    withheld_headers: Iterable[str] = (),
    promises: bool = False,
    signals: bool = False,
    url: str | None = None,
) -> "App":
    """The HTTP ingress of an engine as an ASGI app: Restate's paths, headers and answers, under any prefix.

        app = FastAPI(lifespan=engine.lifespan)
        app.mount("/invoke", create_app(engine, allowed_hosts=["shop.example.com"]))

        curl localhost:8000/invoke/Greeter/greet -H 'content-type: application/json' -d '"Ada"'

    The app neither starts nor closes the engine; until it runs, every answer is a 503. A client that goes away never
    cancels what it has asked for.

    - `allowed_hosts`: names under which the app is reached, as in `Host`; by default only those of this machine.
      "*" allows every name.
    - `cors`: origins whose pages may invoke handlers from a browser, such as "https://shop.example.com"; "*" allows
      everybody's. By default no page of another site gets through.
    - `token`, or a file or environment variable that has it: asked for as `Authorization: Bearer ...`. Handlers do
      not see it.
    - `authorize`: called with every request (a `starlette.requests.Request`); where it returns False, the answer is
      403.
    - `limits`: see `Limits`.
    - `withheld_headers`: names of headers that handlers do not see, and that are not stored.
    - `promises`, `signals`: whether clients may also settle promises of public workflows, and send signals. Both are
      found by names that can be guessed, unlike awakeables.
    - `url`: where clients reach the app, for the OpenAPI documents.

    Raises `ValueError` for an empty token, a token that is given twice, what is no host name, or no origin.
    """
    limits = limits or Limits()
    policy = Policy(
        hosts=host_names([allowed_hosts] if isinstance(allowed_hosts, str) else allowed_hosts),
        token=token_of(token, token_file, token_variable),
        limits=limits,
        origins=origins_of([cors] if isinstance(cors, str) else cors),
    )
    withheld = {name.lower() for name in withheld_headers}
    if policy.token is not None:
        withheld.add("authorization")
    ingress = Ingress(
        engine=engine,
        raw=Raw(engine),
        limits=limits,
        receiving=Receiving(limits.receiving_bytes),
        waiting=Waiting(),
        withheld=invoking.NOT_FOR_HANDLERS | {name.encode("latin-1", "replace") for name in withheld},
        promises=promises,
        signals=signals,
        url=url,
    )
    return App(ingress, policy, authorize)


def create_local_app(engine: Engine, limits: Limits) -> "App":
    """The ingress of the control socket, whose clients may do everything, and say more: see `remote.envelope`."""
    ingress = Ingress(
        engine=engine,
        raw=Raw(engine, private=True),
        limits=limits,
        receiving=Receiving(limits.receiving_bytes),
        waiting=Waiting(),
        withheld=invoking.NOT_FOR_HANDLERS,
        promises=True,
        signals=True,
        url=None,
        local=True,
    )
    return App(ingress, Policy(limits=limits), None)


class App:
    """An ASGI app; see `create_app`."""

    def __init__(self, ingress: Ingress, policy: Policy, authorize: Authorize | None) -> None:
        self._ingress = ingress
        self._policy = policy
        self._authorize = authorize
        #: How many requests are being answered.
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; acknowledge the start and end of a server, which change nothing here."""
        if scope["type"] != "http":
            await acknowledge(scope, receive, send)
            return
        facts = facts_of(scope)
        self._requests += 1
        try:
            answer = await self._respond(scope, receive, facts)
        except ClientGone:
            return
        finally:
            self._requests -= 1
        headers = [*answer.headers, *_ALWAYS, (b"content-length", b"%d" % len(answer.body))]
        headers += cors_headers(facts, self._policy, preflight=answer is _PREFLIGHT)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if facts.method == "HEAD" else answer.body})

    async def _respond(self, scope: Scope, receive: Receive, facts: Facts) -> Answer:
        if is_preflight(facts, self._policy):
            return _PREFLIGHT
        refusal = refusal_of(facts, self._policy)
        if refusal is not None:
            return problem(refusal)
        if self._authorize is not None and not await allowed(self._authorize, Request(scope)):
            return problem(Refusal(403, "not allowed"))
        path = raw_route_path(scope)
        call = Call(self._ingress, scope, receive, facts, path)
        status = 0
        try:
            answer = await self._answer(call)
            status = answer.status
            return answer
        finally:
            call.answered(status)

    async def _answer(self, call: Call) -> Answer:
        facts = call.facts
        try:
            if self._ingress.local:
                call.envelope = envelope_of(call.scope)
            asked = parse(call.path, self._ingress.raw.keyed)
            if facts.method not in asked.methods:
                return problem(Refusal(405, "method not allowed", {"allow": ", ".join(asked.methods)}))
            if self._requests > self._ingress.limits.requests and not isinstance(asked, Health):
                return problem(_TOO_MANY)  # an engine that is crowded is alive all the same
            return await _do(asked, call)
        except ClientGone:
            raise
        except asyncio.CancelledError:  # by the server, which is ending and sends what is answered now
            return problem(_ENDING, call.invocation)
        except Exception as error:
            refusal = refusal_for(error, f"ingress: {facts.method} {call.path[:1000]}")
            return problem(refusal, call.invocation if refusal.status == 503 else None)


async def _do(asked: Ask, call: Call) -> Answer:
    holder = call.ingress.raw.elsewhere
    if holder is not None and not isinstance(asked, Health | Describe):
        return await pass_on(asked, call, holder)
    match asked:
        case Invoke():
            return await (invoking.send if asked.send else invoking.call)(asked, call)
        case Result():
            return await finding.result(asked, call)
        case Lookup():
            return await finding.lookup(call)
        case Complete():
            return await completing.awakeable(asked, call)
        case Settle():
            return await completing.promise(asked, call)
        case Signal():
            return await completing.signal(asked, call)
        case Health():
            return json(Services(call.ingress.raw.services()))
        case Describe():
            return json(await _document(call, asked.service))


async def _document(call: Call, service: str) -> dict[str, Any]:
    for view in await call.ingress.engine.services():
        if view.name == service:
            document = document_of(view, call.ingress.url)
            if document["paths"]:
                return document
    raise BadRequest(404, f"there is no public service '{service[:1000]}'")


_PREFLIGHT = Answer(204)
_ENDING = Refusal(
    503, "the server is stopping: what was accepted goes on after the next start; attach to it then, or repeat the "
    "request with the same idempotency key", {"retry-after": "1"},
)  # fmt: skip
_TOO_MANY = Refusal(429, "too many requests are being answered here: try again", {"retry-after": "1"})
#: On every answer: nothing is guessed from a body, and nothing of it is kept on the way.
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
