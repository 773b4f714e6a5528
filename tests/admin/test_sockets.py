"""The admin API behind a real server and real sockets: what no library would send, and what only sockets do."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from durable import Engine
from durable.admin import Limits, QueryLimits, create_app
from tests.admin.hostile import GREEDY, HIDDEN, MADE, STATEMENTS
from tests.admin.support import UNKNOWN, Desk, services


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listening:
    """A served engine."""

    def __init__(self, engine: Engine, port: int) -> None:
        self.engine = engine
        self.port = port

    async def say(self, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
        """What is answered to these bytes, which need not be a request; status 0 where the connection is cut."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await answer(reader, pieces[0].startswith(b"HEAD"))
        except ConnectionError:
            return 0, {}, b""
        finally:
            writer.close()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """A request as it should be."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", "accept: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if content:
            lines += [f"content-length: {len(content)}", "content-type: application/json"]
        status, _, text = await self.say("\r\n".join([*lines, "", ""]).encode() + content)
        return status, json.loads(text) if text else None


async def answer(reader: asyncio.StreamReader, bare: bool = False) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    length = 0 if bare else int(headers.get("content-length", 0))
    return int(head[0].split(" ")[1]), headers, await reader.readexactly(length)


@contextlib.asynccontextmanager
async def listening(path: Path, **options: Any) -> AsyncIterator[Listening]:
    desk = Desk()
    async with Engine(path / "app.db", services=services(desk), synchronous="NORMAL") as engine:
        app = Starlette(
            routes=[Mount("/ops", create_app(engine, **options)), Mount("/", create_app(engine, **options))]
        )
        server = Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", access_log=False))
        serving = asyncio.ensure_future(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        try:
            yield Listening(engine, server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True
            await serving
            desk.gate.set()


def story(path: Path, tell: Callable[[Listening], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with listening(path, **options) as served:
            await tell(served)

    asyncio.run(main())


def get(target: str = "/services", *lines: str, host: str = "localhost", version: str = "1.1") -> bytes:
    head = [f"GET {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def patch(
    *lines: str, target: str = f"/invocations/{UNKNOWN}/kill", body: bytes = b"", method: str = "PATCH"
) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def sent(
    body: bytes, kind: str = "application/json", method: str = "PATCH", target: str = "/services/Greeter"
) -> bytes:
    return patch(f"Content-Length: {len(body)}", f"Content-Type: {kind}", target=target, body=body, method=method)


CHUNKED = ("Transfer-Encoding: chunked", "Content-Type: application/json")
GOOD = b'{"public": true}'
#: What is sent, and the statuses that are right.
TABLE: dict[str, tuple[bytes, set[int]]] = {
    "as it should be": (get(), {200}),
    "no Host": (get(host=""), {400, 421}),
    "no Host in HTTP/1.0": (get(host="", version="1.0"), {421}),
    "HTTP/1.0": (get(version="1.0"), {200}),
    "HTTP/0.9": (b"GET /services\r\n\r\n", {400, 421}),
    "two Hosts": (get("/services", "Host: evil.example"), {400, 421}),
    "two equal Hosts": (get("/services", "Host: localhost"), {400, 421}),
    "an empty Host": (b"GET /services HTTP/1.1\r\nHost:\r\n\r\n", {421}),
    "a foreign Host": (get(host="evil.example"), {421}),
    "a foreign Host at our port": (get(host="evil.example:80"), {421}),
    "a Host with a port": (get(host="localhost:9070"), {200}),
    "a Host in capitals": (get(host="LOCALHOST:9070"), {200}),
    "an IPv6 Host": (get(host="[::1]:9070"), {200}),
    "an IPv6 Host that is another": (get(host="[::2]"), {421}),
    "an IPv6 Host without brackets": (get(host="::1"), {421}),
    "a Host with a trailing dot": (get(host="localhost."), {421}),
    "a Host with two ports": (get(host="localhost:80:80"), {421}),
    "a Host with a user": (get(host="localhost@evil.example"), {421}),
    "a Host with a password": (get(host="localhost:80@evil.example"), {421}),
    "a Host with a path": (get(host="localhost/evil.example"), {421}),
    "a Host with a comma": (get(host="localhost, evil.example"), {421}),
    "a Host with a space": (get(host="localhost evil.example"), {421}),
    "a Host with a tab": (get(host="localhost\tevil.example"), {400, 421}),
    "a Host with a letter that is folded": (get(host="loc\u00e0lhost"), {400, 421}),
    "a decimal Host": (get(host="2130706433"), {421}),
    "a short Host": (get(host="127.1"), {421}),
    "all addresses": (get(host="0.0.0.0"), {421}),
    "a Host that goes on in the next line": (get("/services", " evil.example"), {400, 421}),
    "a forwarded Host": (get("/services", "X-Forwarded-Host: localhost", host="evil.example"), {421}),
    "a target with another host": (get("http://evil.example/services"), {400, 404, 421}),
    "a target with a scheme": (get("gopher://localhost/services"), {400, 404, 421}),
    "a target that is no path": (get("services"), {400, 404}),
    "a target that is a star": (get("*"), {400, 404}),
    "a path with a NUL": (get("/services/%00"), {400}),
    "a path with a line end": (get("/services/%0d%0aSet-Cookie:%20a=b"), {400, 404}),
    "a path with an escape": (get("/services/%1b[2J"), {400}),
    "an encoded slash": (get("/services%2FGreeter"), {200, 404}),
    "a folder up": (get("/ops/../services/../../etc/passwd"), {404}),
    "an encoded folder up": (get("/ops/%2e%2e/%2e%2e/etc/passwd"), {404}),
    "two slashes": (get("//services"), {404}),
    "two slashes inside": (get("/services//Greeter"), {404}),
    "a backslash": (get("/services\\Greeter"), {400, 404}),
    "below the prefix": (get("/ops/services"), {200}),
    "below the prefix twice": (get("/ops/ops/services"), {404}),
    "below an encoded prefix": (get("/%6fps/services"), {200, 404}),
    "below a prefix that only begins so": (get("/opsservices"), {404}),
    "below the prefix from a foreign Host": (get("/ops/services", host="evil.example"), {421}),
    "invalid UTF-8 in a path": (get("/services/%ff%fe"), {404}),
    "invalid UTF-8 in a query": (get("/invocations?service=%ff"), {400}),
    "raw bytes in a path": (get("/services/\u00ff"), {400, 404}),
    "a very long path": (get("/" + "a" * 20_000), {400, 414, 431}),
    "a header of a megabyte": (get("/services", "X-Long: " + "a" * 1_000_000), {0, 400, 431}),
    "ten thousand headers": (get("/services", *(f"X-{number}: 1" for number in range(10_000))), {0, 400, 431}),
    "two hundred headers": (get("/services", *(f"X-{number}: 1" for number in range(200))), {431}),
    "a header with a NUL": (get("/services", "X: a\x00b"), {400}),
    "a header with a bare CR": (get("/services", "X: a\rSet-Cookie: b"), {400}),
    "a header name with a space": (get("/services", "X Y: a"), {400}),
    "a header without a name": (get("/services", ": a"), {400}),
    "a body of a GET": (get("/services", "Content-Length: 3") + b"abc", {200}),
    "an override of the method": (get(f"/invocations/{UNKNOWN}/kill", "X-HTTP-Method-Override: PATCH"), {405}),
    "HEAD": (patch(method="HEAD", target="/version"), {200}),
    "OPTIONS": (patch(method="OPTIONS", target="/services"), {405}),
    "a preflight": (
        patch("Origin: http://evil.example", "Access-Control-Request-Method: PATCH", method="OPTIONS"), {403},
    ),
    "TRACE": (patch("Cookie: secret", method="TRACE", target="/services"), {405}),
    "CONNECT": (patch(method="CONNECT", target="localhost:22"), {400, 404, 405}),
    "a method that nobody knows": (patch(method="EXPLODE"), {405}),
    "a method in small letters": (patch(method="patch"), {404, 405}),
    "an upgrade to a websocket": (
        get("/services", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), {200, 403, 400, 426},
    ),
    "an upgrade to HTTP/2": (get("/services", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"), {200}),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 421, 505}),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "a change": (patch(), {404}),
    "a change from elsewhere": (patch("Origin: http://evil.example"), {403}),
    "a change from nowhere": (patch("Origin: null"), {403}),
    "a change from two places": (patch("Origin: http://localhost", "Origin: http://evil.example"), {403}),
    "a change from another site": (patch("Sec-Fetch-Site: cross-site"), {403}),
    "a change from a sibling": (patch("Sec-Fetch-Site: same-site"), {403}),
    "a read by a page of another site": (get("/services", "Origin: http://evil.example"), {403}),
    "a link on another site": (get("/services", "Sec-Fetch-Site: cross-site"), {200}),
    "a change from here": (patch("Origin: http://localhost", "Sec-Fetch-Site: same-origin"), {404}),
    "a good body": (sent(GOOD), {200}),
    "a body without a type": (patch("Content-Length: 16", target="/services/Greeter", body=GOOD), {415}),
    "a form": (sent(b"public=true", "application/x-www-form-urlencoded"), {415}),
    "plain text": (sent(GOOD, "text/plain"), {415}),
    "plain text that says JSON": (sent(GOOD, "text/plain; application/json"), {415}),
    "two types": (patch("Content-Length: 16", "Content-Type: text/plain", "Content-Type: application/json",
                        target="/services/Greeter", body=GOOD), {415}),
    "a POST with nothing": (patch("Content-Length: 0", method="POST", target="/deployments"), {415}),
    "a chunked body": (patch(*CHUNKED, target="/services/Greeter", body=b"10\r\n" + GOOD + b"\r\n0\r\n\r\n"), {200}),
    "a chunked body with a length": (
        patch(*CHUNKED, "Content-Length: 5", target="/services/Greeter", body=b"10\r\n" + GOOD + b"\r\n0\r\n\r\n"),
        {200, 400},
    ),
    "a chunk without a size": (patch(*CHUNKED, target="/services/Greeter", body=b"zz\r\n" + GOOD), {400}),
    "two lengths": (patch("Content-Length: 16", "Content-Length: 5", target="/services/Greeter", body=GOOD), {400}),
    "a negative length": (patch("Content-Length: -1", target="/services/Greeter"), {400}),
    "a length that is no number": (patch("Content-Length: 1e1", target="/services/Greeter"), {400}),
    "a length beyond the limit": (patch("Content-Length: 99999999999", "Content-Type: application/json"), {413}),
    "an unknown encoding": (patch("Transfer-Encoding: gzip", "Content-Type: application/json"), {400, 501}),
    "deep JSON": (sent(b"[" * 100_000 + b"]" * 100_000), {400}),
    "duplicate keys": (sent(b'{"public": 1, "public": true}'), {200, 422}),
    "JSON that is no UTF-8": (sent(b'{"public": "\xff"}'), {400, 422}),
    "JSON of UTF-16": (sent('{"public": true}'.encode("utf-16")), {400}),
    "JSON behind a byte order mark": (sent(b"\xef\xbb\xbf" + GOOD), {200, 400}),
    "beyond floats": (sent(b'{"public": 1e400}'), {400, 422}),
    "NaN": (sent(b'{"public": NaN}'), {400}),
    "a long number": (sent(b'{"public": ' + b"9" * 50_000 + b"}"), {400, 422}),
}  # fmt: skip


def test_what_no_library_would_send_is_answered_and_leaves_no_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R-13, R-14, R-17."""

    async def tell(served: Listening) -> None:
        for name, (request, right) in TABLE.items():
            status, headers, body = await served.say(request)
            assert status in right, (name, status, body[:200])
            assert not {"set-cookie", "access-control-allow-origin"} & headers.keys(), name
            assert b"secret" not in body, name
            if headers.get("content-type") == "application/json" and body:
                assert headers["x-content-type-options"] == "nosniff"
                assert (status < 400) == ("message" not in json.loads(body)), name
        assert await served.engine.count_invocations() == {}

    with caplog.at_level(logging.DEBUG):
        story(tmp_path, tell)
    ours = [record for record in caplog.records if record.name.startswith(("durable", "uvicorn"))]
    assert [record.getMessage() for record in ours if record.exc_info] == []
    assert [line for record in ours if not (line := record.getMessage()).isprintable()] == []


def test_a_body_that_is_too_long_is_cut_off_while_it_comes(tmp_path: Path) -> None:
    """R-18: before the rest of it was sent."""

    async def tell(served: Listening) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(patch(*CHUNKED, target="/services/Greeter"))
        answered, pieces = asyncio.ensure_future(answer(reader)), 0
        while not answered.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
                await writer.drain()
            pieces += 1
            await asyncio.sleep(0.001)
        assert (await answered)[0] == 413
        assert 97 < pieces < 1000, "about 100 KB of it, though it has no end"
        writer.close()
        began = time.monotonic()
        head = patch("Content-Type: application/json", "Content-Length: 20", target="/services/Greeter")
        assert (await served.say(head + b'{"pub'))[0] == 408
        assert time.monotonic() - began < 30

    story(tmp_path, tell, limits=Limits(body_bytes=100_000, body_seconds=1))


def test_what_is_left_of_a_refused_body_is_no_request(tmp_path: Path) -> None:
    async def tell(served: Listening) -> None:
        waiting = await served.engine.send("Greeter/wait")
        smuggled = patch(target=f"/invocations/{waiting.id}/kill")
        for head in (
            patch("Content-Type: text/plain", f"Content-Length: {len(smuggled)}"),
            patch(
                "Origin: http://evil.example", "Content-Type: application/json", f"Content-Length: {len(smuggled)}"
            ),
            patch("Content-Type: application/json", "Content-Length: 99999999"),
            get("/services", f"Content-Length: {len(smuggled)}"),
            get("/services", f"Content-Length: {len(smuggled)}", host="evil.example"),
            get("/no/such/route", f"Content-Length: {len(smuggled)}"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(head + smuggled)
            await answer(reader)
            writer.write(get())
            writer.write_eof()
            rest = await asyncio.wait_for(reader.read(), 10)
            assert rest.count(b"HTTP/1.1") <= 1, "at most that of the next request"
            assert b"404" not in rest.partition(b"\r\n")[0]
            writer.close()
        assert (await waiting.describe()).completion_result is None

    story(tmp_path, tell)


def test_a_client_that_goes_away_has_started_what_it_asked_for(tmp_path: Path) -> None:
    async def tell(served: Listening) -> None:
        for number, whole in enumerate((True, False)):
            body = json.dumps({"target": "Greeter/wait", "idempotency_key": str(number)}).encode()
            request = sent(body, method="POST", target="/invocations")
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request if whole else request[:-3])
            await writer.drain()
            writer.transport.abort()
        while not await served.engine.invocations():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await served.ask("GET", "/version"))[0] == 200
        assert [one.idempotency_key for one in await served.engine.invocations()] == ["0"]

    story(tmp_path, tell)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_hostile_statements_hold_up_no_event_loop_and_write_nothing(tmp_path: Path) -> None:
    """R-15: over HTTP, one after another; the loop is never held up for 100 ms."""

    async def tell(served: Listening) -> None:
        await served.engine.call("Cart/add", "shoe", key="k")
        longest = 0.0

        async def beat() -> None:
            """How long the loop stood still while this process worked: other processes hold it up, too."""
            nonlocal longest
            last, used = time.perf_counter(), time.process_time()
            while True:
                await asyncio.sleep(0.002)
                longest = max(longest, min(time.perf_counter() - last, time.process_time() - used))
                last, used = time.perf_counter(), time.process_time()

        beating = asyncio.ensure_future(beat())
        before = names(tmp_path)
        for statement in [*(f"SELECT * FROM {name}" for name in HIDDEN), *STATEMENTS, *MADE, *GREEDY.values()]:
            for _ in range(5):  # a busy machine holds it up as well, though not again and again
                longest = 0.0
                status, answered = await served.ask("POST", "/query", {"query": statement})
                if longest < 0.1:
                    break
            assert longest < 0.1, (longest, statement[:200])
            assert status in (200, 400, 408, 413, 422), (status, statement[:200])
            assert status == 200 or answered["message"]
        assert names(tmp_path) == before
        assert await served.engine.get_state("Cart", "k") == {"items": ["shoe"]}
        beating.cancel()

    story(tmp_path, tell, query_limits=QueryLimits(seconds=1.0))
