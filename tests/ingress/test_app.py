"""The app as part of another one: where it is mounted, how much it takes, what becomes of clients that go away."""

import asyncio
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.routing import Mount

from durable import Context, Engine, handler
from durable.ingress import Limits, create_app
from durable.ingress.clients import LISTEN_AFTER_S
from durable.testing import MemoryStore, VirtualClock, run
from tests.ingress.services import services
from tests.ingress.support import JSON, Asked, Served, served, story


def engine(**options: Any) -> Engine:
    clock = VirtualClock(asyncio.get_running_loop())
    return Engine(services=services(), store=MemoryStore(), clock=clock, inactivity_timeout=0, **options)


def in_fastapi(engine: Engine) -> Any:
    app = FastAPI(lifespan=engine.lifespan)
    app.mount("/my invoke", create_app(engine))
    return app


def in_starlette(engine: Engine) -> Any:
    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    inner = Mount("/my invoke", create_app(engine))
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=passes)]
    return Starlette(routes=[Mount("/", routes=[inner])], middleware=middleware)


@pytest.mark.parametrize("mount", [in_fastapi, in_starlette])
def test_it_answers_below_any_prefix_before_and_after_the_engine_starts(mount: Any) -> None:
    async def main() -> None:
        durable = engine()
        transport = httpx.ASGITransport(mount(durable))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost/my%20invoke") as http:
            for path in ("/restate/health", "/Echo/count", "/restate/openapi/Echo"):
                answer = await http.get(path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
                assert answer.json()["source"] == "ingress"
                assert "FastAPI(lifespan=engine.lifespan)" in answer.json()["message"]
            async with durable:
                assert (await http.get("/Echo/count")).json() == 7
                assert (await http.post("/Cart/a%2Fb/key")).json() == "a/b"
                assert (await http.post("/Cart/my%20invoke/key")).json() == "my invoke"
                answer = await http.post("/Echo/headers")
                assert answer.json()["x-restate-ingress-path"] == "/Echo/headers"
            assert (await http.get("/restate/health")).status_code == 503

    run(main)


def test_a_server_may_serve_it_alone() -> None:
    async def main() -> None:
        app, sent = create_app(engine()), list[str]()
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        await app({"type": "websocket"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]

    run(main)


# ---- who is let in ----


def test_a_browser_is_answered_as_the_policy_says() -> None:
    """The table is in test_policy."""

    async def shut(ingress: Served) -> None:
        answer = await ingress.post("/Echo/nothing", origin="https://shop.example.com")
        assert (answer.status_code, answer.json()["source"]) == (403, "ingress")
        assert (await ingress.http.get("/Echo/nothing", headers={"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await ingress.post("/Echo/nothing", host="evil.example")).status_code == 421
        assert await ingress.engine.count_invocations() == {}

    async def opened(ingress: Served) -> None:
        origin = {"origin": "https://shop.example.com"}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        answer = await ingress.http.options("/Echo/nothing", headers={**origin, **asked})
        assert answer.status_code == 204, "without the token, which a browser does not send here"
        assert answer.headers["access-control-allow-headers"] == "*, authorization"
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        answer = await ingress.http.post("/Echo/nothing", headers={**origin, "authorization": "Bearer s3cret"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin["origin"])
        answer = await ingress.http.post("/Echo/nothing", headers=origin)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.headers["access-control-allow-origin"] == origin["origin"], "so that the page can read why"

    story(shut)
    story(opened, cors="https://shop.example.com", token="s3cret")


def test_the_application_may_decide_who_is_let_in() -> None:
    async def decide(request: Request) -> bool:
        return request.headers.get("x-user") == "ada"

    async def tell(ingress: Served) -> None:
        assert (await ingress.post("/Echo/count")).status_code == 403
        assert (await ingress.post("/no/such/route/at/all")).status_code == 403, "before anything is looked at"
        assert (await ingress.post("/Echo/count", x_user="ada")).json() == 7

    story(tell, authorize=decide)


def test_every_answer_says_that_nothing_is_guessed_or_kept() -> None:
    async def tell(ingress: Served) -> None:
        for path in ("/Echo/count", "/Nope/x", "/restate/health", "/Echo/refuse", "/"):
            answer = await ingress.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert int(answer.headers["content-length"]) == len(answer.content)

    story(tell)


# ---- how much ----


def test_a_body_that_is_too_long_is_refused_before_and_while_it_is_read() -> None:
    """C-085: nothing of it reaches the handler."""
    octets = {"content-type": "application/octet-stream"}

    async def tell(ingress: Served) -> None:
        announced = await Asked("/Echo/raw", headers={**octets, "content-length": "101"}).of(ingress.app)
        assert (announced.status, announced.events.qsize()) == (413, 0), "without a look at the body"
        streamed = Asked("/Echo/raw", headers=octets).part(b"x" * 60, more=True).part(b"x" * 60, more=True)
        assert (await streamed.of(ingress.app)).status == 413
        lying = Asked("/Echo/raw", headers={**octets, "content-length": "5"}).part(b"x" * 101)
        assert (await lying.of(ingress.app)).status == 413
        for asked in (streamed, lying):
            assert b"longer than 100 bytes" in asked.body and asked.headers["x-restate-error-source"] == "ingress"
        whole = Asked("/Echo/raw", headers=octets).part(b"x" * 60, more=True).part(b"x" * 40)
        assert (await whole.of(ingress.app)).status == 200
        assert len(await ingress.engine.invocations()) == 1

    story(tell, limits=Limits(body_bytes=100))


def test_a_body_that_trickles_in_is_given_up() -> None:
    async def tell(ingress: Served) -> None:
        asked = Asked("/Echo/raw", headers={"content-type": "application/octet-stream"}).part(b"x", more=True)
        answering = asyncio.ensure_future(asked.of(ingress.app))
        for _ in range(4):
            await asyncio.sleep(4)
            asked.part(b"x", more=True)
        assert (await answering).status == 408
        steady = Asked("/Echo/raw", headers={"content-type": "application/octet-stream"})
        answering = asyncio.ensure_future(steady.of(ingress.app))
        for _ in range(5):
            steady.part(b"x" * 65_536, more=True)
            await asyncio.sleep(9)
        steady.part()
        assert (await answering).status == 200, "slow, but not too slow"

    story(tell, limits=Limits(body_seconds=10))


def test_bodies_that_arrive_at_the_same_time_have_a_limit_together() -> None:
    octets = {"content-type": "application/octet-stream"}

    async def tell(ingress: Served) -> None:
        first = Asked("/Echo/raw", headers=octets).part(b"x" * 600, more=True)
        answering = asyncio.ensure_future(first.of(ingress.app))
        await asyncio.sleep(0)
        second = await Asked("/Echo/raw", headers=octets).part(b"x" * 600, more=True).of(ingress.app)
        assert (second.status, second.headers["retry-after"]) == (429, "1")
        first.part()
        assert (await answering).status == 200
        assert (
            await Asked("/Echo/raw", headers=octets).part(b"x" * 900, more=True).part().of(ingress.app)
        ).status == 200

    story(tell, limits=Limits(receiving_bytes=1000))


def test_too_many_who_wait_are_told_to_come_again() -> None:
    async def tell(ingress: Served) -> None:
        waiting = [asyncio.ensure_future(ingress.post("/Echo/waiter", idempotency_key="w")) for _ in range(5)]
        id = await ingress.awakeable()
        for answer in (await ingress.post("/Echo/count"), await ingress.get("/restate/attach/inv_1")):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["source"] == "ingress"
        assert (await ingress.get("/restate/health")).status_code == 200, "for whoever would start it again"
        await ingress.engine.resolve_awakeable(id, "done")
        assert {one.status_code for one in await asyncio.gather(*waiting)} == {200}
        assert (await ingress.post("/Echo/count")).status_code == 200

    story(tell, limits=Limits(requests=5))


# ---- clients that go away ----


async def settled(ingress: Served) -> None:
    await asyncio.sleep(LISTEN_AFTER_S + 0.1)


def test_a_client_that_goes_away_cancels_nothing_and_waits_no_more() -> None:
    async def tell(ingress: Served) -> None:
        called = Asked("/Echo/waiter", headers={"idempotency-key": "k"}).part()
        attached = Asked(method="GET", path="/restate/invocation/Echo/waiter/k/attach").part()
        answering = [asyncio.ensure_future(called.of(ingress.app))]
        id = await ingress.awakeable()
        answering.append(asyncio.ensure_future(attached.of(ingress.app)))
        await settled(ingress)
        for asked in (called, attached):
            asked.leave()
        await asyncio.wait(answering, timeout=1)
        assert all(one.done() and not one.cancelled() for one in answering)
        assert called.answers == attached.answers == []
        await ingress.engine.resolve_awakeable(id, "done")
        again = await ingress.post("/Echo/waiter", idempotency_key="k")
        assert (again.json(), again.headers["x-restate-id"]) == ("done", again.headers["x-restate-id"])
        assert len(await ingress.engine.invocations(handler="waiter")) == 1

    story(tell, limits=Limits(requests=4))


def test_a_server_that_cancels_the_request_cancels_no_invocation() -> None:
    async def tell(ingress: Served) -> None:
        called = Asked("/Echo/waiter", headers={"idempotency-key": "k"}).part()
        attached = Asked(method="GET", path="/restate/invocation/Echo/waiter/k/attach").part()
        answering = [asyncio.ensure_future(called.of(ingress.app))]
        id = await ingress.awakeable()
        answering.append(asyncio.ensure_future(attached.of(ingress.app)))
        await settled(ingress)
        for one in answering:
            one.cancel()
        await asyncio.gather(*answering)
        [view] = await ingress.engine.invocations(handler="waiter")
        for asked in (called, attached):
            assert (asked.status, asked.headers["retry-after"]) == (503, "1")
            assert asked.headers["x-restate-id"] == view.id
        await ingress.engine.resolve_awakeable(id, "done")
        assert await ingress.engine.attach(view.id) == "done"

    story(tell)


def test_a_client_that_goes_away_before_its_request_is_complete_has_asked_nothing() -> None:
    async def tell(ingress: Served) -> None:
        for asked in (
            Asked("/Echo/raw", headers={"content-type": "application/octet-stream"}).part(b"half", more=True).leave(),
            Asked("/Echo/count").leave(),
        ):
            await asked.of(ingress.app)
            assert asked.answers == []
        assert await ingress.engine.invocations() == []

    story(tell)


def test_whoever_waits_when_the_engine_closes_is_told_to_attach_again() -> None:
    async def main() -> None:
        tables = MemoryStore().tables
        async with served(tables=tables) as ingress:
            waiting = asyncio.ensure_future(ingress.post("/Echo/waiter", idempotency_key="k"))
            id = await ingress.awakeable()
            await ingress.engine.close()
            answer = await waiting
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            told = answer.headers["x-restate-id"]
        async with served(tables=tables) as ingress:
            waiting = asyncio.ensure_future(ingress.post("/Echo/waiter", idempotency_key="k"))
            await ingress.engine.resolve_awakeable(id, "done")
            assert ((await waiting).json(), (await waiting).headers["x-restate-id"]) == ("done", told)

    run(main)


def test_those_who_left_are_forgotten_however_many_they_are() -> None:
    """They wait for what may take days: the engine keeps nothing of them."""

    async def tell(ingress: Served) -> None:
        await ingress.post("/Echo/waiter/send", idempotency_key="k")
        id = await ingress.awakeable()
        for _ in range(40):
            asked = [Asked(method="GET", path="/restate/invocation/Echo/waiter/k/attach").part() for _ in range(100)]
            answering = [asyncio.ensure_future(one.of(ingress.app)) for one in asked]
            await settled(ingress)
            for one in asked:
                one.leave()
            await asyncio.wait(answering)
        loop = ingress.engine._loop
        assert loop is not None
        assert sum(map(len, loop.replies._waiters.values())) <= 2000
        await ingress.engine.resolve_awakeable(id, "done")
        assert (await ingress.get("/restate/invocation/Echo/waiter/k/attach")).json() == "done"

    story(tell)


# ---- what goes wrong ----


def test_a_bug_of_ours_is_in_the_log_and_tells_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(ingress: Served) -> None:
        async def fails(*arguments: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr("durable.engine.raw.Raw.call", fails)
        answer = await ingress.http.post("/Echo/greet", content=b'"a\\nb"', headers=JSON)
        assert (answer.status_code, answer.json()["message"]) == (
            500, "an internal error, whose details are in the log",
        )  # fmt: skip

    with caplog.at_level(logging.ERROR, "durable"):
        story(tell)
    [record] = caplog.records
    assert record.getMessage() == "ingress: POST /Echo/greet failed"


def test_two_thousand_clients_wait_at_once() -> None:
    """Each for an awakeable of its own, in a handler that is not in memory any more."""

    @handler(service="Crowd")
    async def wait(ctx: Context, number: int) -> int:
        awakeable = ctx.awakeable(int)
        awakeables[number] = awakeable.id
        return await awakeable

    awakeables: dict[int, str] = {}
    count = 2000

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        durable = Engine(services=[wait], store=MemoryStore(), clock=clock, inactivity_timeout=0)
        async with durable:
            app = create_app(durable)
            asked = [Asked("/Crowd/wait", headers=JSON).part(b"%d" % number) for number in range(count)]
            answering = [asyncio.ensure_future(one.of(app)) for one in asked]
            while len(awakeables) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            await asyncio.sleep(LISTEN_AFTER_S + 1)
            for one in asked[::10]:
                one.leave()
            for number, id in awakeables.items():
                await durable.resolve_awakeable(id, number)
            await asyncio.gather(*answering)
            answered = {number for number, one in enumerate(asked) if one.status == 200}
            assert all(int(asked[number].body) == number for number in answered)
            assert len(answered) >= count * 0.9
            assert len(await durable.count_invocations()) == 1, "all of them completed"

    run(main)
