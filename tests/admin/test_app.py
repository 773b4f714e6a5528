"""The app as part of another one: where it is mounted, what it refuses, what it says in the log."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.routing import Mount

from durable import Context, Engine, handler
from durable.admin import Limits, create_app
from durable.admin.app import ROUTES
from durable.testing import MemoryStore, VirtualClock, run
from tests.admin.support import JSON, UNKNOWN, Served, served, story


@handler(service="Echo")
async def echo(ctx: Context, text: str) -> str:
    return text


def engine() -> Engine:
    return Engine(services=[echo], store=MemoryStore(), clock=VirtualClock(asyncio.get_running_loop()))


@asynccontextmanager
async def asking(app: Any, base: str = "http://localhost") -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as http:
        yield http


def in_fastapi(engine: Engine, **options: Any) -> Any:
    app = FastAPI(lifespan=engine.lifespan)
    app.mount("/ops/durable", create_app(engine, **options))
    return app


def in_starlette(engine: Engine, **options: Any) -> Any:
    inner = Mount("/durable", create_app(engine, **options))
    return Starlette(routes=[Mount("/ops", routes=[inner])], lifespan=engine.lifespan)


def by_itself(engine: Engine, **options: Any) -> Any:
    """As a server mounts it that takes the prefix off the path, and says so."""
    app = create_app(engine, **options)

    async def server(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        below = str(scope["path"]).removeprefix("/ops/durable")
        await app({**scope, "path": below, "root_path": "/ops/durable"}, receive, send)

    return server


def behind_a_proxy(engine: Engine, **options: Any) -> Any:
    """Mounted below /durable, behind a proxy that takes /ops off the path; the application knows of it."""
    inner = Starlette(routes=[Mount("/durable", create_app(engine, **options))])

    async def proxy(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        path = str(scope["path"]).removeprefix("/ops")
        await inner({**scope, "path": path, "raw_path": path.encode(), "root_path": "/ops"}, receive, send)

    return proxy


def as_litestar_does(engine: Engine, **options: Any) -> Any:
    """It takes the prefix off without a word, and ends each path with a slash."""
    app = create_app(engine, **options)

    async def server(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        below = str(scope["path"]).removeprefix("/ops/durable")
        await app({**scope, "path": f"{below.rstrip('/')}/", "root_path": ""}, receive, send)

    return server


@pytest.mark.parametrize("mount", [in_fastapi, in_starlette, by_itself, behind_a_proxy, as_litestar_does])
def test_it_answers_below_any_prefix_before_and_after_the_engine_starts(mount: Callable[..., Any]) -> None:
    async def main() -> None:
        durable = engine()
        app = mount(durable)
        async with asking(app) as http:
            before = await http.get("/ops/durable/services")
            assert (before.status_code, before.headers["retry-after"]) == (503, "1")
            assert "not running" in before.json()["message"]
            assert (await http.get("/ops/durable/health")).status_code == 503
            assert (await http.get("/ops/durable/version")).status_code == 200
            async with durable:
                assert (await http.get("/ops/durable/health")).content == b""
                for version in ("", "/v2", "/v3", "/v4"):
                    answer = await http.get(f"/ops/durable{version}/services/Echo")
                    assert answer.json()["name"] == "Echo", version
                for path in ("/v1/services", "/v5/services", "/services/", "/v2", "/", "", "/v2/v2/services"):
                    assert (await http.get(f"/ops/durable{path}")).status_code in (404, 307), path
            assert (await http.get("/ops/durable/services")).status_code == 503

    run(main)


def test_a_server_may_serve_it_alone() -> None:
    async def main() -> None:
        app = create_app(engine())
        sent: list[Any] = []
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        await app({"type": "websocket"}, receive, send)
        assert sent[-1] == "websocket.close"

    run(main)


def test_the_version_is_one_that_restates_command_line_knows() -> None:
    async def tell(admin: Served) -> None:
        version = (await admin.http.get("/version")).json()
        assert (version["min_admin_api_version"], version["max_admin_api_version"]) == (2, 4)
        assert version["features"] == {}
        assert version["ingress_endpoint"] == "https://api.example.com"

    story(tell, ingress_url="https://api.example.com")


def test_a_wrong_method_is_told_the_right_ones() -> None:
    async def tell(admin: Served) -> None:
        for method in ("POST", "PUT", "OPTIONS", "TRACE"):
            for headers in (JSON, {}):
                answer = await admin.http.request(method, "/services", headers=headers)
                assert answer.status_code == 405
                assert answer.headers["allow"] == "GET, HEAD"
        assert (await admin.http.head("/services")).status_code == 200
        override = {"x-http-method-override": "PATCH"}
        assert (await admin.http.get(f"/invocations/{UNKNOWN}/kill", headers=override)).status_code == 405
        answer = await admin.http.get("/services", headers={"origin": "http://localhost:9070"})
        assert not [name for name in answer.headers if name.startswith("access-control")]

    story(tell)


def test_a_token_comes_as_a_value_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("ADMIN_TOKEN", "s3cret")
    for options in ({"token": "s3cret"}, {"token_file": tmp_path / "token"}, {"token_variable": "ADMIN_TOKEN"}):

        async def tell(admin: Served) -> None:
            assert (await admin.http.get("/health")).status_code == 401
            right = {"authorization": "Bearer s3cret"}
            assert (await admin.http.get("/health", headers=right)).status_code == 200

        story(tell, **options)


def test_a_token_that_cannot_be_right_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    async def main() -> None:
        for options in (
            {"token": ""},
            {"token_variable": "NO_SUCH_VARIABLE"},
            {"token_file": tmp_path / "empty"},
            {"token": "a", "token_variable": "B"},
        ):
            with pytest.raises(ValueError, match="token"):
                create_app(engine(), **options)

    run(main)


@pytest.mark.parametrize("wait", [False, True])
def test_the_application_may_decide_who_is_let_in(wait: bool) -> None:
    def decide(request: Request) -> bool | Awaitable[bool]:
        allowed = request.headers.get("x-user") == "ada"

        async def later() -> bool:
            return allowed

        return later() if wait else allowed

    async def tell(admin: Served) -> None:
        assert (await admin.http.get("/health")).status_code == 403
        assert (await admin.http.get("/no/such/route")).status_code == 403, "before anything is looked at"
        assert (await admin.http.get("/health", headers={"x-user": "ada"})).status_code == 200

    story(tell, authorize=decide)


def test_an_open_door_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(app: Any, server: tuple[str, int | None]) -> None:
        transport = httpx.ASGITransport(app)

        async def served_there(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "server": server}, receive, send)

        transport.app = served_there
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            await http.get("/version")
            await http.get("/version")

    async def main() -> None:
        quiet: list[tuple[dict[str, Any], tuple[str, int | None]]] = [
            ({}, ("127.0.0.1", 9070)),
            ({}, ("::1", 9070)),
            ({}, ("/run/durable.sock", None)),
            ({"token": "t"}, ("192.0.2.7", 9070)),
            ({"authorize": lambda request: True}, ("192.0.2.7", 9070)),
            ({"token": "t", "allowed_hosts": ["ops.example.com"]}, ("127.0.0.1", 9070)),
        ]
        for options, server in quiet:
            await ask(create_app(engine(), **options), server)
            assert not caplog.records, options
        await ask(create_app(engine()), ("192.0.2.7", 9070))
        [record] = caplog.records
        assert "on 192.0.2.7:9070 without a token" in record.getMessage()
        caplog.clear()
        create_app(engine(), allowed_hosts=["localhost", "ops.example.com"])
        [record] = caplog.records
        assert "ops.example.com without a token" in record.getMessage()

    with caplog.at_level(logging.WARNING, "durable"):
        run(main)


def test_what_changes_something_is_in_the_log_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def tell(admin: Served) -> None:
        await admin.http.get("/services")
        await admin.patch(f"/invocations/{UNKNOWN}/kill")
        await admin.patch("/invocations/a%0Aforged%1B[2J/kill")

    with caplog.at_level(logging.INFO, "durable"):
        story(tell)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("admin: ")]
    assert lines == [
        f"admin: PATCH /invocations/{UNKNOWN}/kill answered 404",
        "admin: PATCH /invocations/a\\nforged\\x1b[2J/kill answered 400",
    ]


# ---- bodies ----


def test_a_body_that_is_too_long_is_refused_before_and_while_it_is_read() -> None:
    async def tell(admin: Served) -> None:
        body = b'{"public": true' + b" " * (100 - 16) + b"}"
        assert len(body) == 100
        path = "/services/Greeter"

        async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
            for start in range(0, len(data), 10):
                yield data[start : start + 10]

        for content in (body, in_pieces(body)):
            assert (await admin.http.patch(path, content=content, headers=JSON)).status_code == 200
        for content in (body + b" ", in_pieces(body + b" " * 1000)):
            answer = await admin.http.patch(path, content=content, headers=JSON)
            assert (answer.status_code, answer.json()["message"]) == (413, "the body is longer than 100 bytes")

    story(tell, limits=Limits(body_bytes=100))


BOMBS = {
    "deep arrays": b'{"object_key":' + b"[" * 1_000_000,
    "deep and closed": b"[" * 500_000 + b"]" * 500_000,
    "deep objects": b'{"a":' * 300_000 + b"1" + b"}" * 300_000,
    "just too deep": b'{"object_key":"k","new_state":{},"x":' + b"[" * 64 + b"]" * 64 + b"}",
    "a million keys": b"{" + b",".join(b'"%d":1' % number for number in range(1_000_000)) + b"}",
    "a long number": b'{"object_key":"k","new_state":{"a":[' + b"9" * 10_000_000 + b"]}}",
    "beyond floats": b'{"object_key":"k","new_state":{"a":[1e400]}}',
    "a lone surrogate": b'{"object_key":"\\ud800","new_state":{}}',
    "no UTF-8": b'{"object_key":"\xff","new_state":{}}',
    "a long string": b'{"object_key":"' + b"a" * (7 * 1024 * 1024) + b'","new_state":{"b":[1]}}',
    "empty": b"",
    "whitespace": b"  ",
    "two documents": b"{}{}",
    "NaN": b'{"object_key":"k","new_state":{"a":[NaN]}}',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_decode_bomb_is_refused(bomb: str) -> None:
    """R-17."""

    async def tell(admin: Served) -> None:
        answer = await admin.http.post("/services/Cart/state", content=BOMBS[bomb], headers=JSON)
        assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text[:200])
        assert answer.json()["message"]
        assert await admin.engine.get_state("Cart", "k") == {}

    story(tell)


def test_of_duplicate_keys_the_last_counts_as_in_python() -> None:
    async def tell(admin: Served) -> None:
        body = b'{"object_key":"k","new_state":{"a":[49],"a":[50]}}'
        assert (await admin.http.post("/services/Cart/state", content=body, headers=JSON)).status_code == 202
        assert await admin.engine.get_state("Cart", "k") == {"a": 2}

    story(tell)


# ---- hostile requests ----

HOSTILE_PARTS = [
    "..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%2F", "%00", "%0d%0aSet-Cookie:%20a=b", "%1b%5b2J", "%ff",
    "%E2%80%AE", "a" * 10_000, "'; DROP TABLE invocations; --", "${jndi:ldap://x}", "<script>alert(1)</script>",
    "inv_1", "inv_1" + "0" * 34, "inv_1" + "\u0660" * 33, "INV_1" + "0" * 33, "*", "\\", "null", "-1", "%", "%zz",
]  # fmt: skip
HOSTILE_QUERIES = [
    "", "?", "?mode=", "?mode=Kill&mode=Cancel", "?from=-1", "?from=9223372036854775808", "?from=1e3", "?from=%00",
    "?deployment=..%2f..", "?deployment=a&deployment=b", "?mode=%ff", "?" + "&".join(f"a{i}=1" for i in range(200)),
    "?limit=-1", "?cursor=%0d%0a",
]  # fmt: skip


PIECES = re.compile(r"(\{\w+\})")


def test_hostile_requests_are_answered_with_a_reason_and_change_nothing() -> None:
    """R-13: every route, with every hostile part and query in its place."""

    async def tell(admin: Served) -> None:
        id = await admin.reaches(await admin.send("Greeter/wait"), "suspended")
        before = await admin.engine.describe(id)
        asked = 0
        for operation in ROUTES.operations:
            for index, part in enumerate(HOSTILE_PARTS if "{" in operation.path else [""]):
                path = "".join(part if piece.startswith("{") else piece for piece in PIECES.split(operation.path))
                query = HOSTILE_QUERIES[index % len(HOSTILE_QUERIES)]
                body = None if operation.method == "GET" else {"invocation_ids": [part], "object_key": part}
                answer = await admin.http.request(operation.method, f"{path}{query}", json=body)
                asked += 1
                assert answer.status_code < 500 or answer.status_code == 501, (operation.path, part, query)
                if answer.status_code >= 400:
                    assert answer.headers["content-type"] == "application/json"
                    assert answer.json()["message"]
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert not set(answer.headers) - {
                    "content-type", "content-length", "x-content-type-options", "cache-control", "allow",
                }, "nothing of a request is repeated in a header"  # fmt: skip
        assert asked > 300
        assert await admin.engine.describe(id) == before

    story(tell)


def test_a_cors_middleware_of_the_application_opens_nothing() -> None:
    """R-14: what a page of another site could read without it, it could not read from here."""

    async def main() -> None:
        async with served() as admin:
            inner = Mount("/ops", create_app(admin.engine))
            app = Starlette(routes=[inner], middleware=[Middleware(CORSMiddleware, allow_origins=["*"])])
            async with asking(app) as http:
                for path in ("/ops/invocations", "/ops/services", "/ops/openapi", "/ops/no/such/route"):
                    answer = await http.get(path, headers={"origin": "http://evil.example"})
                    assert (answer.status_code, "evil.example' may not" in answer.text) == (403, True), path
                    answer = await http.get(path, headers={"origin": "http://localhost"})
                    assert answer.status_code in (200, 404)

    run(main)


def test_every_mutating_route_refuses_what_a_page_of_another_site_can_send() -> None:
    """R-14, over the app: the table is in test_policy."""

    async def main() -> None:
        async with served() as admin:
            for operation in ROUTES.operations:
                path = operation.path.replace("{id}", UNKNOWN)
                for method in {operation.method, "POST"} - {"GET"}:
                    unfit = (
                        415
                        if any((one.method, one.path) == (method, operation.path) for one in ROUTES.operations)
                        else 405
                    )
                    for headers, status in (
                        ({"host": "evil.example"}, 421),
                        ({"origin": "http://evil.example", **JSON}, 403),
                        ({"origin": "null", **JSON}, 403),
                        ({"sec-fetch-site": "cross-site", **JSON}, 403),
                        ({"content-type": "text/plain"}, unfit),
                        ({"content-type": "application/x-www-form-urlencoded"}, unfit),
                    ):
                        answer = await admin.http.request(method, path, headers=headers, content=b"{}")
                        assert answer.status_code == status, (method, path, headers)
                assert (await admin.http.get(path, headers={"host": "evil.example"})).status_code == 421

    run(main)
