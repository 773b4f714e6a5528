"""A request as a server hands it over: what it says of itself, and its body."""

import asyncio
import re
from collections import Counter
from itertools import chain
from urllib.parse import parse_qsl, quote, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from durable.remote import envelope
from durable.remote.envelope import REQUEST, Envelope
from durable.web.errors import BadRequest
from durable.web.security import Facts, Limits, too_long

#: Within how many bytes a body has to show progress, each `Limits.body_seconds`.
PROGRESS = 64 * 1024
#: How many parts the path may have that an app is mounted under, for an encoded slash to be told from one.
_PREFIX_PARTS = 16
_SLASHES = re.compile("//+")


class ClientGone(Exception):
    """The client went away before its request was complete."""


async def acknowledge(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what is no request: the start and end of a server, which change nothing here; a websocket."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": f"{message['type']}.complete"})
    else:
        await send({"type": "websocket.close", "code": 1000})


def route_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted under."""
    path, root = str(scope["path"]), scope.get("root_path", "").rstrip("/")
    outer = scope.get("app_root_path", "").rstrip("/")  # Starlette's: the part of it that a proxy may have taken off
    for prefix in (root, root.removeprefix(outer)):
        if prefix and path.startswith(f"{prefix}/"):
            path = path[len(prefix) :]
            break
    raw = (scope.get("raw_path") or b"/").partition(b"?")[0]
    if path.endswith("/") and path != "/" and not raw.endswith((b"/", b"%2F", b"%2f")):
        return path[:-1]  # Litestar ends each path with a slash that was not there
    return path


def raw_route_path(scope: Scope) -> str:
    """The same as it was sent, in which an encoded slash is no slash."""
    below, raw = route_path(scope), (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    if "%" not in raw and raw.endswith(below):
        return below
    start = 0
    for _ in range(_PREFIX_PARTS):  # below the same prefix, which may be encoded too; not every framework names it
        if _SLASHES.sub("/", unquote(raw[start:])) == _SLASHES.sub("/", below):  # Litestar makes one of several
            return raw[start:]
        start = raw.find("/", start + 1)
        if start < 0:
            break
    return quote(below)


class Receiving:
    """How many bytes of bodies are being received at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def take(self, length: int) -> None:
        """Count what has come. Raises `BadRequest`."""
        self._held += length
        if self._held > self._most:
            raise BadRequest(429, "too much is being sent here at the same time: try again", {"retry-after": "1"})

    def give_back(self, length: int) -> None:
        """A body is complete, or given up."""
        self._held -= length


async def body_of(receive: Receive, limits: Limits, receiving: Receiving | None = None) -> bytes:
    """The body, of limited length and in limited time. Raises `BadRequest`, `ClientGone`."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limits.body_bytes:
            raise _too_long(limits)
        return body
    loop = asyncio.get_running_loop()
    chunks, length, progress = [], 0, 0
    try:
        async with asyncio.timeout(limits.body_seconds) as deadline:
            while message["type"] == "http.request":
                chunk = message.get("body", b"")
                length += len(chunk)
                if receiving is not None:
                    receiving.take(len(chunk))
                if length > limits.body_bytes:
                    raise _too_long(limits)
                if length - progress >= PROGRESS:
                    progress = length
                    deadline.reschedule(loop.time() + limits.body_seconds)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
                message = await receive()
    except TimeoutError:
        raise BadRequest(
            408, f"{length} bytes of the body came, and then fewer than {PROGRESS} within {limits.body_seconds:g} s"
        ) from None
    finally:
        if receiving is not None:
            receiving.give_back(length)
    raise ClientGone


def _too_long(limits: Limits) -> BadRequest:
    refusal = too_long(limits)
    return BadRequest(refusal.status, refusal.message)


def facts_of(scope: Scope) -> Facts:
    """What is looked at before anything else."""
    headers = scope["headers"]
    found: dict[bytes, tuple[str, ...]] = {}
    for name, value in headers:
        if name in _LOOKED_AT:
            text = value.decode("latin-1")
            found[name] = (*found[name], text) if name in found else (text,)
    given = found.get
    length = found[b"content-length"][0] if b"content-length" in found else ""
    return Facts(
        method=scope["method"],
        scheme=str(scope.get("scheme", "http")),
        path=scope["path"],
        target_bytes=len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")),
        host=given(b"host", ()),
        origin=given(b"origin", ()),
        fetch_site=given(b"sec-fetch-site", ()),
        content_type=given(b"content-type", ()),
        authorization=given(b"authorization", ()),
        content_length=int(length) if length.isdecimal() and length.isascii() and len(length) < 20 else None,
        has_body=length not in ("", "0") or b"transfer-encoding" in found,
        header_bytes=sum(map(len, chain.from_iterable(headers))),
        headers=len(headers),
    )


_LOOKED_AT = frozenset({
    b"host", b"origin", b"sec-fetch-site", b"content-type", b"authorization", b"content-length", b"transfer-encoding",
})  # fmt: skip


def key_of(scope: Scope) -> str | None:
    """The idempotency key that a request has, if it has one. Raises `BadRequest`."""
    found = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if not found:
        return None
    text = str(found[0], "latin-1").strip(" ")  # what is around the value of a header is not in it
    if len(found) > 1 or not text.isascii() or not text.isprintable():
        raise BadRequest(400, "bad header idempotency-key: give one, in printable ASCII")
    if not text:
        raise BadRequest(400, "bad header idempotency-key: it is empty, so give one, or leave it out")
    return text


def envelope_of(scope: Scope) -> Envelope | None:
    """What a client of ours says besides, if it does. Raises `BadRequest`."""
    for name, value in scope["headers"]:
        if name == REQUEST:
            try:
                return envelope.decode(value)
            except (msgspec.MsgspecError, ValueError) as error:
                raise BadRequest(400, f"the header {REQUEST.decode()} cannot be read: {error}") from None
    return None


def query_of(scope: Scope) -> dict[str, str]:
    """The parameters of the query, each given once. Raises `BadRequest`."""
    query = scope.get("query_string", b"")
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise BadRequest(400, "the query string is no valid UTF-8, or too long") from None
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise BadRequest(400, f"the query parameter {twice[0]!r} is given twice")
    return dict(pairs)
