"""An engine in another process, asked as if it ran in this one."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from durable.api import EngineApi, Invokes, typed_as
from durable.client import Applied, Handle, value_of
from durable.core.duration import Duration, parse, render_iso
from durable.core.ids import claimed_id
from durable.core.journal import Outcome
from durable.errors import InvalidRequestError, NotFoundError, OutcomeUnknownError
from durable.remote.asking import read
from durable.remote.connections import Answer, Headers
from durable.remote.envelope import EXACT, INPUT_DIFFERS, Envelope
from durable.remote.operating import checked, decoder, key_header
from durable.remote.subscribing import Subscribing
from durable.remote.targets import Target, target_of
from durable.remote.wire import check, encoded_path
from durable.runtime.registry import check_headers, check_idempotency_key, check_text
from durable.serde import serde_for
from durable.service import Handler
from durable.telemetry import carry_on
from durable.views.invocations import InvocationView

O = TypeVar("O")  # noqa: E741

#: How many bytes of headers a control socket takes; a server on the network may take less.
_HEADERS_MAX = 512 * 1024
#: Headers that are HTTP's own.
_OF_HTTP = frozenset({
    "accept", "authorization", "connection", "content-length", "content-type", "expect", "host", "idempotency-key",
    "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


class _Sent(NamedTuple):
    id: str
    accepted: bool
    input_differs: bool


class Client(Subscribing):
    """An engine that runs in another process: made by `connect`.

        async with durable.connect("orders.db") as client:
            receipt = await client.call(checkout, order, idempotency_key=order.id)

    It has the methods of `Engine`, with the same types and errors (see `EngineApi`). A decorated function as the
    target says how its values are written and read; with a name as the target, values are plain JSON (bytes stay
    bytes).

    It reconnects by itself. While the engine is gone, it keeps asking for at most `reconnect_for`; whoever waits for
    a result goes on waiting for it. A client belongs to the event loop that opened it.
    """

    #: Whether it may invoke public handlers only, over a control socket too.
    _outside = False

    def _find(self, target: Handler[Any, Any] | str) -> Target:
        """What a target names."""
        return target_of(target)

    # ---- invoking ----

    @typed_as(Invokes.call)
    async def call(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """See `Engine.call`. It is repeated safely while the engine is gone, for at most `reconnect_for`.

        Over a URL, it is repeated only with an idempotency key. Without one, it raises `OutcomeUnknownError` if the
        connection breaks before the invocation's id is known.
        """
        found = self._find(target)
        outcome = await self._called(found, arg, key, idempotency_key, headers)
        return value_of(outcome, decoder(found.output), f"the result of {found}")

    @typed_as(Invokes.send)
    async def send(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Handle[Any]:
        """See `Engine.send`. It is repeated as `call` is; `accepted` may then be False for what it did itself."""
        found = self._find(target)
        sent = await self._sent(found, arg, key, idempotency_key, headers, delay)
        return Handle(self, sent.id, decoder(found.output), accepted=sent.accepted, input_differs=sent.input_differs)

    async def _called(
        self,
        target: Target,
        arg: Any,
        key: str | None,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
    ) -> Outcome:
        answer = await self._asked("call", target, arg, key, idempotency_key, headers, {})
        if answer.status != _UNAVAILABLE:
            return self._outcome(answer)
        try:  # it was accepted, or was about to be
            return await self.outcome(answer.headers["x-restate-id"])
        except NotFoundError as error:
            raise OutcomeUnknownError(
                f"the engine closed while {target} was called, whether that was accepted is unknown: {error}"
            ) from None

    async def _sent(
        self,
        target: Target,
        arg: Any,
        key: str | None,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        delay: Duration | None,
    ) -> _Sent:
        query = {}
        if delay is not None:
            try:
                query["delay"] = render_iso(parse(delay))
            except ValueError as error:
                raise InvalidRequestError(f"delay: {error}") from None
        answer = await self._asked("send", target, arg, key, idempotency_key, headers, query)
        told = read(check(answer), dict[str, str])
        return _Sent(told["invocationId"], told["status"] == "Accepted", INPUT_DIFFERS in answer.headers)

    async def _asked(
        self,
        way: str,
        target: Target,
        arg: Any,
        key: str | None,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        query: Mapping[str, str],
    ) -> Answer:
        """Have the ingress invoke it. Over a URL, the answer may be a 503 that names the invocation."""
        target.check_key(key)
        if idempotency_key is not None:
            check_idempotency_key(idempotency_key)
        path = invocation_path(way, target.service, key, target.name)
        sent = check_headers(headers, _HEADERS_MAX)
        carry_on(sent)
        return await self.post(path, *target.body(arg), sent, idempotency_key, query)

    async def post(
        self,
        path: str,
        media: str,
        body: bytes,
        sent: dict[str, str],
        idempotency_key: str | None,
        query: Mapping[str, str],
        accept: str = EXACT,
    ) -> Answer:
        """Have the ingress invoke what is encoded already: what `call` and `send` are made of."""
        id = self._new_id() if self._local and idempotency_key is None else ""
        plain = [] if self._local else _plain(sent, idempotency_key)

        async def ask(after_ms: int | None) -> Answer:
            said = Envelope(
                id=id,
                headers=sent,
                idempotency_key=idempotency_key,
                repeated_after_ms=after_ms,
                outside=self._outside,
            )
            return await self._ingress.request(
                "POST",
                self._prefixes[0] + path,
                query=query,
                headers=self._said(said) or plain,
                body=body,
                content_type=media,
                accept=accept,
            )

        return await self._repeated(ask, safe=self._local or idempotency_key is not None)

    # ---- finding again ----

    @typed_as(EngineApi.invocation)
    def invocation(self, id: str, type: Any = Any, /) -> Handle[Any]:
        """See `Engine.invocation`."""
        return Handle(self, checked(id), decoder(serde_for(type)))

    def workflow(self, target: Handler[Any, O] | str, key: str) -> Handle[O]:
        """See `Engine.workflow`."""
        check_text("key", key)
        found = self._find(target)
        return self._claimed(
            found, key, "run", "", {"target": "workflow", "workflowName": found.service, "workflowKey": key}
        )

    def idempotent(self, target: Handler[Any, O] | str, idempotency_key: str, *, key: str | None = None) -> Handle[O]:
        """See `Engine.idempotent`."""
        check_idempotency_key(idempotency_key)
        if key is not None:
            check_text("key", key)
        found = self._find(target)
        named = {"target": "idempotentInvocation", "service": found.service, "handler": found.name, "key": key}
        return self._claimed(found, key, found.name, idempotency_key, {**named, "idempotencyKey": idempotency_key})

    @typed_as(EngineApi.attach)
    async def attach(self, id: str, type: Any = Any, /) -> Any:
        """See `Engine.attach`. Waits on, however often the connection breaks."""
        return await self.invocation(id, type).result()

    @typed_as(EngineApi.output)
    async def output(self, id: str, type: Any = Any, /) -> Any:
        """See `Engine.output`."""
        return await self.invocation(id, type).output()

    def _claimed(
        self, target: Target, key: str | None, handler: str, idempotency_key: str, named: Mapping[str, str | None]
    ) -> Handle[Any]:
        id = claimed_id(target.service, key, handler, idempotency_key)
        return _Sought(self, id, decoder(target.output), named)

    async def _look_up(self, named: Mapping[str, str | None]) -> str:
        """The id of what is named: Restate's ingress has another one, and so has a very old file."""
        body = {name: value for name, value in named.items() if value is not None}
        return str(
            read(check(await self._invoke("POST", "/restate/lookup", json=body)), dict[str, str])["invocationId"]
        )


class _Sought(Handle[Any]):
    """A handle of what a key names: its id, as it is here, is certain once it has been used."""

    def __init__(
        self, client: Client, id: str, decode: Callable[[bytes], Any], named: Mapping[str, str | None]
    ) -> None:
        super().__init__(client, id, decode)
        self._client = client
        self._named: Mapping[str, str | None] | None = named

    async def _seek(self) -> None:
        if self._named is not None:
            self.id, self._named = await self._client._look_up(self._named), None

    async def result(self) -> Any:
        await self._seek()
        return await super().result()

    async def output(self) -> Any:
        await self._seek()
        return await super().output()

    async def cancel(self, *, kill: bool = False, idempotency_key: str | None = None) -> Applied:
        await self._seek()
        return await super().cancel(kill=kill, idempotency_key=idempotency_key)

    async def describe(self) -> InvocationView:
        await self._seek()
        return await super().describe()


_UNAVAILABLE = 503


def invocation_path(way: str, service: str, key: str | None, handler: str) -> str:
    """Where a handler is invoked; `way` is "call" or "send"."""
    return encoded_path("restate", way, service, *(() if key is None else (key,)), handler)


def _plain(headers: Mapping[str, str], idempotency_key: str | None) -> Headers:
    """Headers as HTTP has them. Raises `InvalidRequestError` for what it has not."""
    sent: list[tuple[bytes, bytes]] = []
    for name, value in headers.items():
        if not _is_token(name) or not (value.isascii() and value.isprintable()) or name.lower() in _OF_HTTP:
            raise InvalidRequestError(
                f"the header {name[:100]!r} cannot be sent over HTTP: give names of letters, digits and hyphens that "
                "HTTP has no other use for, and values in printable ASCII"
            )
        sent.append((name.lower().encode(), value.strip().encode()))
    if idempotency_key is not None:
        sent.append(key_header(idempotency_key))
    return sent


def _is_token(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def connect(
    where: str | os.PathLike[str],
    *,
    admin: str | None = None,
    token: str | None = None,
    reconnect_for: Duration = "1m",
) -> Client:
    """A client of an engine that runs in another process; `async with` opens it.

        async with durable.connect("orders.db") as client: ...
        async with durable.connect("https://shop.example.com/invoke", token="…") as client: ...

    - `where` is the path of a database: the client asks the engine that runs on it, through its control socket. This
      is for programs of the same user on the same machine, and needs the extra `http`.
    - Or `where` is the URL of an ingress (`durable.ingress`, or Restate's own). `admin` is then the URL of its admin
      API, which is needed for everything except invoking handlers, attaching, and completing awakeables. `token` is
      the bearer token of both.
    - `reconnect_for` (1 minute): how long the engine may be gone, for instance between two releases.

    Raises `UsageError`. Opening the client raises an `EngineUnreachableError`, which says what is there instead.
    """
    return Client(where, admin=admin, token=token, reconnect_for=reconnect_for)
