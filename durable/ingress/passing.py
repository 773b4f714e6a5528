"""Where the engine is on standby: what was looked through here is passed on to the holder, which answers.

All that this app refuses is refused here; what its clients then hear is what they would hear from the holder.
"""

from urllib.parse import quote

from durable.core.duration import render_iso
from durable.engine.follower import Follower
from durable.ingress import completing, invoking
from durable.ingress.answers import Answer, without_class
from durable.ingress.asks import Ask, Complete, Invoke, Settle, Signal
from durable.ingress.calls import Call
from durable.remote import connections
from durable.remote.client import invocation_path
from durable.remote.envelope import INPUT_DIFFERS
from durable.web.requests import ClientGone

#: What is told of the holder's answer; everything else belongs to its connection.
_TOLD = (
    "content-type", "x-restate-id", "x-restate-error-source", "idempotency-expires", INPUT_DIFFERS, "retry-after",
)  # fmt: skip


async def pass_on(asked: Ask, call: Call, holder: Follower) -> Answer:
    """The holder's answer. Raises what asking it raises, and `BadRequest` for what this app refuses."""
    match asked:
        case Invoke():
            return await _invoke(asked, call, holder)
        case Settle():
            completing.check_promise(asked, call)
        case Signal():
            completing.check_signals(call)
    path = quote(call.path, safe="/%:@!$&'()*+,;=~", encoding="latin-1")
    rejected = isinstance(asked, Complete | Settle | Signal) and not asked.ok
    query = {"code": str(completing.code_of(call))} if rejected else {}
    body = await call.body() if call.facts.method == "POST" else b""
    media = call.facts.content_type[0] if call.facts.content_type and body else ""
    given = call.idempotency_key if isinstance(asked, Complete | Settle | Signal) else None
    key = given
    if given is None and isinstance(asked, Settle | Signal):
        key = holder.new_key()  # this app's own: it may have to ask twice
    with call.ingress.waiting(call.receive):
        answer = await holder.pass_on(call.facts.method, path, body, media, key, call.accept, query)
        if given is None and isinstance(asked, Signal) and answer.status == 409:
            return completing.DONE  # too late, which is no error for who has no key
        return _told(answer)
    raise ClientGone


async def _invoke(asked: Invoke, call: Call, holder: Follower) -> Answer:
    request = await invoking.request_of(asked, call)
    handler = request.handler
    path = invocation_path("send" if asked.send else "call", handler.service, request.key, handler.name)
    media = handler.input.content_type if request.input else ""
    query = {} if request.delay_ms is None else {"delay": render_iso(request.delay_ms)}
    headers = dict(request.headers or {})
    with call.ingress.waiting(call.receive):
        return _told(
            await holder.post(path, media, request.input, headers, request.idempotency_key, query, call.accept)
        )
    raise ClientGone


def _told(answer: connections.Answer) -> Answer:
    known = [(name.encode(), answer.headers[name].encode("latin-1")) for name in _TOLD if name in answer.headers]
    body = answer.body
    if answer.headers.get("x-restate-error-source") == "invocation":
        body = without_class(body)
    return Answer(answer.status, body, known)
