"""Requests to an engine in another process, and what their answers mean: over the socket beside its file, or a URL.

    async with Session(place_of("app.db")) as session:
        answer = await session.request("GET", "/admin/health")
        check(answer)

Over a socket, the admin API answers under `/admin`, the ingress under `/ingress`.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from durable.core.journal import Failure
from durable.errors import (
    CodecError,
    ConflictError,
    DurableError,
    EngineFailedError,
    EngineNotRunningError,
    EngineUnreachableError,
    GoneError,
    InvalidRequestError,
    KeyMissingError,
    NotFoundError,
    OutcomeUnknownError,
    OutputNotReadyError,
    RequestError,
    SerializationError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    TooEarlyError,
    UnsupportedError,
    UsageError,
    ValueTooLargeError,
)
from durable.remote.beside import address, peer_pid, peer_uid, socket_path
from durable.remote.connections import HEAD_BYTES_MAX, Answer, Connection, Headers, Lost, Pool, Request
from durable.store.paths import MEMORY, database_path, unlike_a_file

#: How long a connection over the network may have been idle and still be used: servers keep theirs for 2 s at least.
IDLE_URL_S = 1.5
#: The same of a control socket, whose server keeps them longer.
IDLE_SOCKET_S = 300.0
#: How long a connection over the network may take to be opened.
DIAL_S = 10.0


#: Whether an event loop stands still until the answer comes: it cannot be the one that gives it.
HOLDS_UP_A_LOOP: ContextVar[bool] = ContextVar("durable_holds_up_a_loop", default=False)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine answers: the database whose control socket it is, or a host."""

    database: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    #: What every path begins with.
    prefix: str = ""

    def __str__(self) -> str:
        """As people write it."""
        return self.database or f"http{'s' if self.tls else ''}://{self.authority}{self.prefix}"

    @property
    def authority(self) -> str:
        """Host and port, as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def place_of(where: str | os.PathLike[str]) -> Place:
    """A place, given as the path of a database or as a URL. Raises `UsageError`."""
    if isinstance(where, str) and where.lower().startswith(("http://", "https://")):
        try:
            url = urlsplit(where)
            port, host = url.port, (url.hostname or "").encode("idna").decode("ascii")
        except ValueError as error:
            raise UsageError(f"{where!r} is not a URL: {error}") from None
        if not host or url.username or url.query or url.fragment:
            raise UsageError(f"{where!r}: expected a URL such as 'http://localhost:8080' or 'https://host/prefix'")
        tls = url.scheme == "https"
        path = quote(url.path, safe="/%").rstrip("/")
        return Place(host=host, port=port or (443 if tls else 80), tls=tls, prefix=path)
    path = database_path(where)
    if path == MEMORY:
        raise UsageError("an engine in memory (':memory:') can be reached from its own process only")
    return Place(database=path)


class Options(TypedDict, total=False):
    """What a request has besides its path; without any of it, it has no body."""

    query: Mapping[str, str]
    headers: Headers
    body: bytes
    content_type: str
    #: A body that is written as JSON.
    json: Any
    accept: str


class Session:
    """Asks one place, over connections that are kept. It belongs to the event loop that uses it first."""

    def __init__(self, place: Place, *, token: str | None = None) -> None:
        self.place = place
        #: The process that listens at the socket; 0 where that is not known.
        self.answering = 0
        local = bool(place.database)
        self._dial, self._idle_s = (self._dial_socket, IDLE_SOCKET_S) if local else (self._dial_url, IDLE_URL_S)
        self.begin()
        self._always = [(b"host", b"localhost" if local else place.authority.encode("ascii"))]
        if token is not None:
            if not token.isascii() or not token.isprintable():
                raise UsageError("the token has characters that no HTTP header can have")
            self._always.append((b"authorization", f"Bearer {token}".encode()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self) -> None:
        """Use new connections from now on: what there was belongs to another event loop, or to a parent process."""
        self._pool = Pool(self._dial, self._idle_s)

    def close(self) -> None:
        """Close all connections: who still waits for an answer gets an `EngineUnreachableError`."""
        self._pool.close()

    async def request(self, method: str, path: str, **options: Unpack[Options]) -> Answer:
        """Ask, and read the whole answer, whatever its status: see `check`. `path` is encoded already.

        Raises `EngineUnreachableError` where it certainly did not arrive, `OutcomeUnknownError` where it may have.
        """
        request = self._request(method, path, options)
        try:
            return await self._pool.request(request)
        except Lost as lost:
            raise self._unreachable(lost) from lost.__cause__

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, **options: Unpack[Options]
    ) -> AsyncIterator[tuple[Answer, Callable[[], Awaitable[bytes | None]]]]:
        """Ask; in the block the answer's body is read part by part, until there is None. Raises as `request`."""
        request = self._request(method, path, options)
        try:
            async with self._pool.stream(request) as (answer, part):
                yield answer, part
        except Lost as lost:
            raise self._unreachable(lost) from lost.__cause__

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Connection]:
        """A connection that tells how long the engine is there: see `Connection.closed`. Raises as `request`."""
        try:
            async with self._pool.line() as connection:
                yield connection
        except Lost as lost:
            raise self._unreachable(lost) from lost.__cause__

    def _request(self, method: str, path: str, options: Options) -> Request:
        query, body = options.get("query"), options.get("body", b"")
        content_type, accept = options.get("content_type", ""), options.get("accept", "")
        if "json" in options:
            body, content_type = msgspec.json.encode(options["json"]), "application/json"
        self._check_self()
        target = f"{self.place.prefix}{path}{'?' + urlencode(query) if query else ''}"
        sent = [*self._always, *options.get("headers", ())]
        if content_type:
            sent.append((b"content-type", content_type.encode("ascii")))
        if accept:
            sent.append((b"accept", accept.encode("ascii")))
        if body or method not in ("GET", "HEAD"):
            sent.append((b"content-length", b"%d" % len(body)))
        request = Request(method, target.encode("ascii"), sent, body)
        size = len(request.target) + sum(len(name) + len(value) for name, value in sent)
        if size > HEAD_BYTES_MAX - 1024:
            raise InvalidRequestError(
                f"the key, the idempotency key and the headers of a request have {size} bytes as they are sent; at "
                f"most {HEAD_BYTES_MAX - 1024} are"
            )
        return request

    def _check_self(self) -> None:
        if self.answering == os.getpid() and HOLDS_UP_A_LOOP.get():
            raise UsageError(
                "this would wait for itself: the engine runs on an event loop of this process, and one stands still "
                "here until it answers; await the engine's own methods, or ask from another thread"
            )

    def _unreachable(self, lost: Lost) -> EngineUnreachableError:
        if lost.sent:
            return OutcomeUnknownError(f"no answer came from {self.place}, whether it took effect is unknown: {lost}")
        return EngineUnreachableError(str(lost))

    # ---- dialling ----

    async def _dial_socket(self) -> Connection:
        path = socket_path(self.place.database)
        try:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:  # so many are open
            raise Lost(f"{path} cannot be connected to: {error.strerror}", sent=False) from error
        try:
            connected.setblocking(False)
            await _connect(connected, path, self.place.database)
            _check_peer(connected, self.place.database)
            self.answering = peer_pid(connected)
            self._check_self()
            reader, writer = await asyncio.open_unix_connection(sock=connected)
        except BaseException:
            connected.close()
            raise
        return Connection(reader, writer)

    async def _dial_url(self) -> Connection:
        place = self.place
        try:
            async with asyncio.timeout(DIAL_S):
                reader, writer = await asyncio.open_connection(place.host, place.port, ssl=place.tls or None)
        except TimeoutError:
            raise Lost(f"nothing answers at {place}: no connection within {DIAL_S:g} s", sent=False) from None
        except (OSError, ValueError) as error:
            raise Lost(f"nothing answers at {place}: {error}", sent=False) from error
        keep_alive(writer.get_extra_info("socket"))
        return Connection(reader, writer)


def keep_alive(connected: socket.socket) -> None:
    """Have the system look whether the other end is still there while nothing is heard of it, for days if need be."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _connect(connected: socket.socket, path: str, database: str) -> None:
    while True:
        try:
            with address(path) as short:
                connected.connect(short)
        except BlockingIOError:  # so many are connecting at this very moment
            await asyncio.sleep(0.01)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise Lost(_nobody(path, database), sent=False) from None
        except PermissionError:
            raise Lost(
                f"{path} belongs to another user: the control socket is for the user whose engine it is", sent=False
            ) from None
        except OSError as error:
            raise Lost(f"{path} cannot be connected to: {error.strerror or error}", sent=False) from None
        else:
            return


def _nobody(path: str, database: str) -> str:
    try:
        os.stat(database)
    except FileNotFoundError:
        return f"there is no file {database}"
    except OSError as error:
        return f"{database} cannot be reached: {error.strerror}"
    if wrong := unlike_a_file(database):
        return f"{wrong}, so no engine is running on it"
    return (
        f"no engine is running on {database}: nobody listens at {path}. Start it first; one that runs has no control "
        "socket where the extra 'http' is missing, with control_socket=False, and where its log says so"
    )


def _check_peer(connected: socket.socket, database: str) -> None:
    """Whether who listens there is whom the file belongs to, or root, or this user."""
    uid = peer_uid(connected)
    known = {os.geteuid(), 0}
    with suppress(OSError):
        known.add(os.stat(database).st_uid)
    if uid is not None and uid not in known:
        raise Lost(f"the socket of {database} is served by another user (uid {uid}): it is not asked", sent=False)


# ---- paths, and what answers mean ----


def encoded_path(*parts: str) -> str:
    """A path of these parts, each of which may have any character."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


class Problem(msgspec.Struct, frozen=True):
    """The body of an answer that is an error, of the ingress or of the admin API."""

    message: str
    code: int = 0
    source: str = ""
    metadata: dict[str, str] = {}
    #: The class of the error, where the status does not tell; of an invocation's failure: what `Failure.kind` is.
    kind: str = ""
    #: See `Failure.cause`.
    cause: Failure | None = None
    #: All that is stored of an invocation's failure, where it is of a class of the user's.
    failure: Failure | None = None


_problem = msgspec.json.Decoder(Problem).decode

_BY_STATUS: dict[int, type[RequestError]] = {
    one.code: one
    for one in (
        InvalidRequestError,
        NotFoundError,
        ConflictError,
        GoneError,
        UnsupportedError,
        TooEarlyError,
        OutputNotReadyError,
    )
}
_BY_KIND: dict[str, type[DurableError]] = {
    one.__name__: one
    for one in (
        *_BY_STATUS.values(),
        CodecError,
        EngineFailedError,
        EngineNotRunningError,
        KeyMissingError,
        OutcomeUnknownError,
        SerializationError,
        StorageBusyError,
        StorageCorruptError,
        StorageError,
        UsageError,
    )
}


def problem_in(answer: Answer) -> Problem:
    """What an answer says went wrong, whoever gave it."""
    try:
        return _problem(answer.body)
    except (msgspec.MsgspecError, ValueError):
        text = answer.body[:200].decode("utf-8", "replace").strip()
        return Problem(f"the answer was {answer.status}{': ' + text if text else ''}")


def error_in(answer: Answer) -> DurableError:
    """The error that an answer of 400 or more stands for: what the engine itself would have raised."""
    told = problem_in(answer)
    if told.kind == ValueTooLargeError.__name__ and "limit" in told.metadata:
        return ValueTooLargeError(told.metadata["door"], int(told.metadata["size"]), int(told.metadata["limit"]))
    known = _BY_KIND.get(told.kind) or _BY_STATUS.get(answer.status)
    if known is not None:
        return known(told.message)
    if answer.status == 503:
        return EngineNotRunningError(told.message)
    if 400 <= answer.status < 500:
        error = RequestError(told.message)
        error.code = answer.status
        return error
    return DurableError(told.message)


def check(answer: Answer) -> Answer:
    """The same answer, where it is no error. Raises the error that it is."""
    if answer.status >= 400:
        raise error_in(answer)
    return answer
