"""Clients that misbehave, over real sockets and a real server: those who behave are answered meanwhile."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn

from durable import Engine
from durable.ingress import App, Limits, create_app
from durable.testing import MemoryStore
from tests.ingress.services import services


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listening:
    """A server on a port of this machine, in this process."""

    def __init__(self, engine: Engine, app: App, server: Server, port: int) -> None:
        self.engine = engine
        self.server = server
        self.app = app
        self._port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def ask(self, path: str, body: bytes = b"", *, head: str = "") -> tuple[int, bytes]:
        """One request by a client that behaves."""
        reader, writer = await self.connect()
        try:
            writer.write(request(path, body, head=head))
            return await answer(reader)
        finally:
            writer.close()

    async def awakeable(self) -> str:
        while not (id := await self.engine.call("Cart/read", key="id")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return str(id)

    async def idle(self) -> None:
        """Until nobody is being answered any more."""
        while self.app._requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def request(path: str, body: bytes = b"", *, method: str = "POST", head: str = "") -> bytes:
    length = f"content-length: {len(body)}\r\n" if body else ""
    kind = "content-type: application/json\r\n" if body and "content-type" not in head else ""
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{kind}{length}{head}\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    fields = head.lower().split(b"\r\n")
    lengths = [int(field.partition(b":")[2]) for field in fields if field.startswith(b"content-length:")]
    body = await reader.readexactly(lengths[0]) if lengths else await reader.read()
    return int(head.split(b" ")[1]), body


@contextlib.asynccontextmanager
async def listening(**options: object) -> AsyncIterator[Listening]:
    async with Engine(services=services(), store=MemoryStore()) as engine:
        app = create_app(engine, limits=Limits(**options))  # type: ignore[arg-type]
        config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none", access_log=False)
        server = Server(config)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield Listening(engine, app, server, server.servers[0].sockets[0].getsockname()[1])
        server.should_exit = server.force_exit = True
        await serving


def test_clients_that_trickle_hold_nobody_up_and_are_given_up() -> None:
    async def main() -> None:
        async with listening(body_seconds=0.5) as served:
            heads = [await served.connect() for _ in range(50)]
            for _, writer in heads:
                writer.write(b"POST /Echo/greet HTTP/1.1\r\nhost: loc")
            bodies = [await served.connect() for _ in range(50)]
            for _, writer in bodies:
                writer.write(request("/Echo/greet", b'"slow"')[:-3])
            assert await served.ask("/Echo/greet", b'"you"') == (200, b'"Hello, you!"')
            for reader, _ in bodies:
                assert (await answer(reader))[0] == 408
            assert await served.ask("/Echo/count") == (200, b"7")
            for _, writer in heads + bodies:
                writer.close()
            await served.idle()
            assert await served.engine.count_invocations() == {"completed": 2}

    asyncio.run(main())


def test_a_client_that_closes_its_half_or_vanishes_leaves_the_invocation_alone() -> None:
    async def main() -> None:
        async with listening() as served:
            for number, leave in enumerate(("half", "close", "abort")):
                key = f"idempotency-key: {number}\r\n"
                _, writer = await served.connect()
                writer.write(request("/Echo/waiter", head=key))
                id = await served.awakeable()
                if leave == "half":
                    writer.write_eof()
                elif leave == "close":
                    writer.close()
                else:
                    writer.transport.abort()
                await served.idle()
                await served.engine.resolve_awakeable(id, leave)
                assert await served.ask("/Echo/waiter", head=key) == (200, f'"{leave}"'.encode())
                await served.engine.call("Cart/put", "", key="id")
                writer.close()
            assert len(await served.engine.invocations(handler="waiter")) == 3

    asyncio.run(main())


def test_requests_in_one_piece_are_answered_in_their_order() -> None:
    async def main() -> None:
        async with listening() as served:
            reader, writer = await served.connect()
            writer.write(b"".join(request("/Cart/k/add", b"%d" % 1) for _ in range(20)))
            assert [await answer(reader) for _ in range(20)] == [(200, b"%d" % n) for n in range(1, 21)]
            writer.close()

    asyncio.run(main())


def test_what_is_too_large_is_refused_and_the_next_client_is_answered() -> None:
    async def main() -> None:
        async with listening(body_bytes=100_000) as served:
            octets = "content-type: application/octet-stream\r\n"
            reader, writer = await served.connect()
            writer.write(
                f"POST /Echo/raw HTTP/1.1\r\nhost: localhost\r\n{octets}content-length: 100001\r\n\r\n".encode()
            )
            status, body = await answer(reader)
            assert (status, b"longer than 100000 bytes" in body) == (413, True), "before anything of it was sent"
            writer.close()

            reader, writer = await served.connect()
            chunked = f"POST /Echo/raw HTTP/1.1\r\nhost: localhost\r\n{octets}transfer-encoding: chunked\r\n\r\n"
            writer.write(chunked.encode())
            for _ in range(11):
                writer.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            assert (await answer(reader))[0] == 413
            writer.close()

            for large in (
                request(f"/Cart/{'k' * 300_000}/key"),
                request("/Echo/count", head=f"x-large: {'x' * 300_000}\r\n"),
            ):
                reader, writer = await served.connect()
                with contextlib.suppress(ConnectionError):  # the server need not read all of it
                    writer.write(large)
                    assert (await answer(reader))[0] in (400, 414, 431)
                writer.close()
            for nonsense in (b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /Echo/count HTTP/1.1\r\n\r\n"):
                reader, writer = await served.connect()
                writer.write(nonsense)
                assert (await answer(reader))[0] in (400, 421)
                writer.close()
            assert await served.ask("/Echo/raw", b"x" * 100_000, head=octets) == (200, b"x" * 100_000)
            assert await served.engine.count_invocations() == {"completed": 1}

    asyncio.run(main())


def test_several_hundred_connections_wait_at_once() -> None:
    async def main() -> None:
        async with listening() as served:
            opened = [await served.connect() for _ in range(300)]
            for _, writer in opened:
                writer.write(request("/Echo/waiter", head="idempotency-key: k\r\n"))
            id = await served.awakeable()
            while served.app._requests < 300:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await served.ask("/Echo/count") == (200, b"7")
            await served.engine.resolve_awakeable(id, "done")
            assert {await answer(reader) for reader, _ in opened} == {(200, b'"done"')}
            for _, writer in opened:
                writer.close()

    asyncio.run(main())


def test_a_server_that_stops_tells_those_who_wait_where_to_ask_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening() as served:
            reader, writer = await served.connect()
            writer.write(request("/Echo/waiter"))
            id = await served.awakeable()
            caplog.set_level("ERROR", logger="uvicorn.error")
            logging.getLogger("uvicorn.error").addHandler(caplog.handler)
            served.server.config.timeout_graceful_shutdown = 0.1  # type: ignore[assignment]
            served.server.should_exit = True
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode().split("\r\n")
            assert head[0].split(" ")[1] == "503"
            assert "retry-after: 1" in head
            [waits] = [line.partition(": ")[2] for line in head if line.startswith("x-restate-id")]
            await served.engine.resolve_awakeable(id, "done")
            assert await served.engine.attach(waits) == "done"
            writer.close()

    asyncio.run(main())
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert [one.getMessage() for one in caplog.records if one.name == "uvicorn.error"] == [
        "Cancel 1 running task(s), timeout graceful shutdown exceeded"
    ]
