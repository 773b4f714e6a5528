"""HTTP/1.1 connections that are kept and used again, each for one request at a time.

There is no limit to how many are open: a request may wait for days, and must not keep others from being sent.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from durable.errors import InvalidRequestError, UsageError

if TYPE_CHECKING:  # it comes with the extra `http`
    import h11

#: The most bytes of an answer's status and headers, or of a request's.
HEAD_BYTES_MAX = 1024 * 1024
#: How many connections are kept while nothing is asked.
IDLE_MAX = 64
_CHUNK = 256 * 1024

Headers = list[tuple[bytes, bytes]]

#: Connections of parent processes, which are not closed here.
_inherited: list[object] = []


class Lost(Exception):
    """No answer came. `sent` says whether the request may have arrived."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request, with all its headers."""

    method: str
    target: bytes
    headers: Headers
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came back; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


def require_http() -> None:
    """Raise a `UsageError` where the extra `http` is missing."""
    try:
        import h11  # noqa: F401
    except ImportError:
        raise UsageError("durable.connect needs the extra 'http': pip install 'durable-engine[http]'") from None


class Connection:
    """One connection. Raises `Lost`, whatever goes wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        #: When it was used last, by the event loop's clock.
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether it can be asked something now."""
        import h11

        return not (self._reader.at_eof() or self._writer.is_closing()) and self._http.our_state is h11.IDLE

    async def ask(self, request: Request) -> Answer:
        """Send a request; the status and the headers of its answer."""
        import h11

        http = self._http
        try:
            data = (
                http.send(h11.Request(method=request.method, target=request.target, headers=request.headers)) or b""
            )
            if request.body:
                data += http.send(h11.Data(data=request.body)) or b""
            data += http.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:
            raise InvalidRequestError(f"this cannot be sent over HTTP: {error}") from None
        try:
            self._writer.write(data)
            if len(data) > _CHUNK:
                await self._writer.drain()
        except OSError:
            pass  # what the other end has said before it closed may be an answer all the same
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
                return Answer(event.status_code, headers)

    async def part(self) -> bytes | None:
        """The next part of the answer's body; None at its end."""
        import h11

        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                return bytes(event.data)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return None

    async def _next(self) -> "h11.Event":
        import h11

        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Lost(f"the connection was closed, or is no HTTP: {error}", sent=True) from None
            if event is h11.NEED_DATA:
                try:
                    data = await self._reader.read(_CHUNK)
                except OSError as error:
                    raise Lost(f"the connection broke: {error}", sent=True) from None
                self._http.receive_data(data)
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise Lost("the connection was closed before an answer came", sent=True)
            else:
                assert not isinstance(event, type)
                return event

    async def closed(self) -> None:
        """Wait until the other end closes it; nothing is asked on it meanwhile."""
        with suppress(OSError):
            while await self._reader.read(_CHUNK):
                pass

    def close(self) -> None:
        """Let it go."""
        self._writer.transport.abort()


class Pool:
    """The connections to one place: `dial` opens another one, and raises `Lost`.

    `idle_s`: how long a connection may have been idle and still be used; the other end must keep it longer.
    """

    def __init__(self, dial: Callable[[], Awaitable[Connection]], idle_s: float) -> None:
        self._dial = dial
        self._idle_s = idle_s
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    async def request(self, request: Request) -> Answer:
        """Ask, and read the whole answer. Raises `Lost`."""
        parts = []
        async with self.stream(request) as (answer, next_part):
            while (part := await next_part()) is not None:
                parts.append(part)
        return msgspec.structs.replace(answer, body=parts[0] if len(parts) == 1 else b"".join(parts))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[tuple[Answer, Callable[[], Awaitable[bytes | None]]]]:
        """Ask; in the block the answer's body is read part by part, until there is None. Raises `Lost`."""
        connection = self._kept() or await self._dial()
        self._busy.add(connection)
        try:
            yield await connection.ask(request), connection.part
        finally:
            self._busy.discard(connection)
            if connection.usable and len(self._idle) < IDLE_MAX:
                connection.idle_since = asyncio.get_running_loop().time()
                self._idle.append(connection)
            else:
                connection.close()

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Connection]:
        """A connection that tells how long the other end is there: see `Connection.closed`. Raises `Lost`."""
        connection = await self._dial()
        self._busy.add(connection)
        try:
            yield connection
        finally:
            self._busy.discard(connection)
            connection.close()

    def _kept(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - self._idle_s
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.close()
        return None

    def __del__(self) -> None:
        if self._process != os.getpid():  # in a forked child they share the event loop's descriptors with the parent
            _inherited.extend((*self._idle, *self._busy))

    def close(self) -> None:
        """Close all of them, also those that wait for an answer."""
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
