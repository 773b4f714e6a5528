"""Engines die behind the ingress: a client that repeats its request with the same key has asked once."""

from contextlib import suppress
from typing import Any

import msgspec

from durable import (
    ConflictError,
    Engine,
    EngineNotRunningError,
    ObjectContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.ingress import create_app
from durable.testing import Sim, check
from tests.ingress.support import JSON, Asked


async def ask(sim: Sim, path: str, body: Any = None, *, method: str = "POST", **headers: str) -> tuple[int, Any]:
    """Ask until an engine lives long enough to answer."""

    async def once(engine: Engine) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = Asked(path, method=method, headers={**({} if body is None else JSON), **named})
        await asked.part(b"" if body is None else msgspec.json.encode(body)).of(create_app(engine))
        assert asked.status is not None
        if asked.status == 503:
            assert asked.headers["retry-after"] == "1"
            raise EngineNotRunningError(asked.body.decode())
        return asked.status, msgspec.json.decode(asked.body) if asked.body else None

    return await sim.repeat(once)


def test_a_repeated_call_takes_effect_once() -> None:
    def services(sim: Sim) -> list[object]:
        async def note() -> None:
            sim.effect("deposit")

        class Account(VirtualObject):
            @handler
            async def deposit(self, ctx: ObjectContext, amount: int) -> int:
                await ctx.run(note)
                await ctx.sleep("1m")
                total = (await ctx.get("total", int) or 0) + amount
                ctx.set("total", total)
                return total

        return [Account()]

    async def scenario(sim: Sim) -> list[Any]:
        first = await ask(sim, "/Account/a%2Fb/deposit", 5, idempotency_key="one")
        again = await ask(sim, "/Account/a%2Fb/deposit", 7, idempotency_key="one")
        second = await ask(sim, "/Account/a%2Fb/deposit", 2, idempotency_key="two")
        found = await ask(sim, "/restate/invocation/Account/a%2Fb/deposit/one/attach", method="GET")
        assert 2 <= sim.effects["deposit"] <= 2 + sim.interruptions
        return [first, again, second, found]

    assert check(services, scenario) == [(200, 5), (200, 5), (200, 7), (200, 5)]


def test_a_workflow_started_over_http_runs_once_and_is_found_by_its_key() -> None:
    def services(sim: Sim) -> list[object]:
        class Order(Workflow):
            @handler
            async def run(self, ctx: WorkflowContext, item: str) -> str:
                paid: str = await ctx.promise("paid", str)
                return f"{item} {paid}"

        return [Order()]

    async def scenario(sim: Sim) -> list[Any]:
        sent = await ask(sim, "/restate/send/Order/o/run", "shoe")
        assert sent[0] == 202
        waits = await ask(sim, "/restate/workflow/Order/o/output", method="GET")
        await sim.repeat(pay)
        status, twice = await ask(sim, "/Order/o/run", "hat")
        found = await ask(sim, "/restate/workflow/Order/o/attach", method="GET")
        return [waits[0], status, twice["message"], found]

    async def pay(engine: Engine) -> None:
        with suppress(ConflictError):  # paid by an engine that died before it could say so
            await engine.resolve_promise("Order", "o", "paid", "paid")

    assert check(services, scenario) == [470, 409, "the workflow method was already invoked", (200, "shoe paid")]
