"""One request on its way through the ingress, and what is fixed when an app is made."""

from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from durable.engine import Engine
from durable.engine.raw import Raw, Request
from durable.ingress.clients import Waiting
from durable.ingress.policy import Limits
from durable.remote.envelope import EXACT, Envelope
from durable.runtime.observer import Asking
from durable.web.errors import BadRequest
from durable.web.requests import Receiving, body_of, key_of
from durable.web.security import Facts


class Ingress(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is fixed when an app is made."""

    engine: Engine
    raw: Raw
    limits: Limits
    #: How much is being received.
    receiving: Receiving
    #: Who waits for an answer.
    waiting: Waiting
    #: Lower-case names of headers that handlers do not see.
    withheld: frozenset[bytes]
    #: Whether promises can be settled, and signals sent.
    promises: bool
    signals: bool
    #: Where clients reach the app, if that is known.
    url: str | None
    #: Whether its clients are those of the control socket: what they say in an envelope is heard.
    local: bool = False


class Call(msgspec.Struct, eq=False, gc=False):
    """One request that may go on."""

    ingress: Ingress
    scope: Scope
    receive: Receive
    facts: Facts
    #: Below the app's prefix, as it was sent.
    path: str
    #: The id of the invocation that it asks for, once that is known. (It may not be durable yet.)
    invocation: str | None = None
    #: What a client of the control socket says besides.
    envelope: Envelope | None = None
    #: What observers were told of it.
    asking: Asking | None = None

    @property
    def idempotency_key(self) -> str | None:
        """What makes it take effect once, if it has that. Raises `BadRequest`."""
        if self.envelope is not None:
            return self.envelope.idempotency_key
        return key_of(self.scope)

    @property
    def exact(self) -> bool:
        """Whether the client reads all that values can hold, as ours do."""
        return any(name == b"accept" and value == EXACT.encode() for name, value in self.scope["headers"])

    @property
    def accept(self) -> str:
        """The same, for whoever answers instead."""
        return EXACT if self.exact else "*/*"

    def query(self) -> list[tuple[str, str]]:
        """Names in lower case and values, in their order. Raises `BadRequest`."""
        query = self.scope.get("query_string", b"")
        if not query:
            return []
        try:
            given = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            raise BadRequest(400, "the query string has more than 1,000 parameters") from None
        return [(name.lower(), value) for name, value in given]

    def names(self, id: str) -> None:
        """It asks for this invocation."""
        self.invocation = id

    def tell(self, request: Request, *, waits: bool) -> None:
        """It asks for this, and observers are told; `answered` is due then."""
        observer = self.ingress.raw.observer
        if observer is not None:
            handler = request.handler
            client = None if self.envelope is not None else self.scope.get("client")
            peer = None if client is None else (str(client[0]), int(client[1]))
            headers = request.headers or {}
            self.asking = Asking(handler.service, handler.name, request.key, headers, waits, peer)
            observer.request_started(self.asking)

    def answered(self, status: int) -> None:
        """It is answered with this status; 0 where the client is gone."""
        observer = self.ingress.raw.observer
        if self.asking is not None and observer is not None:
            observer.request_ended(self.asking, status)

    async def body(self) -> bytes:
        """The whole body. Raises `BadRequest`, `ClientGone`."""
        return await body_of(self.receive, self.ingress.limits, self.ingress.receiving)
