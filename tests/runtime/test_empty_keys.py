"""An empty idempotency key is what a variable holds that was never set: it is refused, and names nobody's request."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import Context, Engine, InvalidRequestError, Workflow, WorkflowContext, admin, connect, handler, ingress
from durable.api import EngineApi
from durable.runtime import registry
from durable.testing import run
from tests.runtime.support import engine_on, settled

ID, AWAKEABLE = "inv_1" + "0" * 33, "sign_1" + "0" * 33 + "1"


@handler(service="Shop")
async def buy(ctx: Context, what: str) -> str:
    return what


class Wedding(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> None: ...


async def _idempotent(api: EngineApi) -> None:
    api.idempotent(buy, "")


OUTSIDE: dict[str, Callable[[EngineApi], Awaitable[Any]]] = {
    "call": lambda api: api.call(buy, "x", idempotency_key=""),
    "send": lambda api: api.send(buy, "x", idempotency_key=""),
    "idempotent": _idempotent,
    "cancel": lambda api: api.cancel(ID, idempotency_key=""),
    "kill": lambda api: api.kill(ID, idempotency_key=""),
    "pause": lambda api: api.pause(ID, idempotency_key=""),
    "resume": lambda api: api.resume(ID, idempotency_key=""),
    "restart": lambda api: api.restart_as_new(ID, idempotency_key=""),
    "purge": lambda api: api.purge(ID, idempotency_key=""),
    "purge journal": lambda api: api.purge_journal(ID, idempotency_key=""),
    "awakeable": lambda api: api.resolve_awakeable(AWAKEABLE, idempotency_key=""),
    "rejected awakeable": lambda api: api.reject_awakeable(AWAKEABLE, "no", idempotency_key=""),
    "signal": lambda api: api.send_signal(ID, "go", idempotency_key=""),
    "rejected signal": lambda api: api.reject_signal(ID, "go", "no", idempotency_key=""),
    "promise": lambda api: api.resolve_promise("Wedding", "k", "p", idempotency_key=""),
    "rejected promise": lambda api: api.reject_promise("Wedding", "k", "p", "no", idempotency_key=""),
    "state": lambda api: api.patch_state("Wedding", "k", {}, idempotency_key=""),
    "unsubscribe": lambda api: api.unsubscribe("sub_1" + "0" * 22, idempotency_key=""),
}


def test_from_outside_it_is_a_bad_request_of_the_engine_and_of_a_client(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "shop.db"
        async with Engine(path, services=[buy, Wedding()]) as engine, connect(path) as client:
            for api in (engine, client):
                for what, ask in OUTSIDE.items():
                    with pytest.raises(
                        InvalidRequestError, match="the idempotency key is empty: give one"
                    ) as refusal:
                        await ask(api)
                    assert refusal.value.code == 400, what
            assert await engine.invocations() == []

    asyncio.run(story())


@pytest.mark.parametrize("how", ["call", "send"])
def test_from_a_handler_it_is_refused_before_anything_is_recorded(tmp_path: Path, how: str) -> None:
    @handler(service="Shop")
    async def order(ctx: Context) -> None:
        if how == "call":
            await ctx.call(buy, "x", idempotency_key="")
        else:
            ctx.send(buy, "x", idempotency_key="")

    async def story() -> None:
        async with engine_on(tmp_path / "shop.db", order, buy) as engine:
            view = await settled(engine, (await engine.send(order)).id)
            assert view.last_failure is not None
            assert (view.status, view.last_failure.type) == ("paused", "InvalidRequestError")
            assert len(view.journal) == 1 and len(await engine.invocations()) == 1

    run(story)


def test_over_http_it_is_a_400(tmp_path: Path) -> None:
    async def story() -> None:
        async with Engine(tmp_path / "shop.db", services=[buy]) as engine:
            for app, method, path, body in (
                (ingress.create_app(engine), "POST", "/Shop/buy", "x"),
                (ingress.create_app(engine), "POST", "/restate/send/Shop/buy", "x"),
                (ingress.create_app(engine), "POST", f"/restate/awakeables/{AWAKEABLE}/resolve", "x"),
                (admin.create_app(engine), "PATCH", f"/invocations/{ID}/cancel", None),
                (admin.create_app(engine), "POST", "/invocations", {"target": "Shop/buy", "input": "x"}),
            ):
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                    for key in ("", "  "):  # what is around the value of a header is not in it
                        answer = await http.request(method, path, json=body, headers={"idempotency-key": key})
                        assert (answer.status_code, "it is empty" in answer.text) == (400, True), path
                    if isinstance(body, dict):
                        answer = await http.request(method, path, json={**body, "idempotency_key": ""})
                        assert (answer.status_code, "is empty" in answer.text) == (400, True)
            assert await engine.invocations() == []

    asyncio.run(story())


def test_what_an_older_file_has_with_one_is_found_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @handler(service="Shop")
    async def order(ctx: Context) -> str:
        called = await ctx.call(buy, "called", idempotency_key="")
        return called + await ctx.signal("go", str)

    async def before() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(registry, "check_idempotency_key", lambda key, *, recorded=False: None)
            async with engine_on(tmp_path / "shop.db", order, buy) as engine:
                await engine.send(order)
                await asyncio.sleep(1)

    async def now() -> None:
        async with engine_on(tmp_path / "shop.db", order, buy) as engine:
            [old] = await engine.invocations(idempotency_key="")
            assert await engine.attach(old.id) == "called"
            [waiting] = await engine.invocations(handler="order")
            await engine.send_signal(waiting.id, "go", " and gone on")
            assert await engine.attach(waiting.id) == "called and gone on"

    run(before)
    run(now)
