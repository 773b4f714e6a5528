"""C-093: what has charged is restarted as new: `ctx.request.origin` stays what it was, over attempts and restarts."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from durable import Context, Engine, RetryPolicy, handler
from durable.testing import Sim, check


def test_origin_is_the_first_ones_id_over_attempts_and_restarts() -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S", retry=RetryPolicy(initial_interval="1s"))
        async def charge(ctx: Context) -> list[str]:
            if ctx.request.attempt == 1:
                raise ValueError("the process dies here")
            return [ctx.request.id, ctx.request.origin]

        return [charge]

    async def scenario(sim: Sim) -> Any:
        first = await sim.send("S/charge", idempotency_key="k")
        assert await sim.result(first.id) == [first.id, first.id]
        id = first.id
        for _ in range(2):
            id = await again(sim, id)
            assert id != first.id
            assert await sim.result(id) == [id, first.id]
        return True

    assert check(services, scenario)


async def again(sim: Sim, id: str) -> str:
    return (await sim.repeat(lambda engine: engine.restart_as_new(id))).id


async def _charge(ctx: Context) -> list[str]:
    return [ctx.request.id, ctx.request.origin]


def test_it_is_stored(tmp_path: Path) -> None:
    charge = handler(service="S")(_charge)

    async def story() -> None:
        async with Engine(tmp_path / "db", services=[charge], max_concurrent_invocations=1) as engine:
            first = await engine.send(charge)
            await first.result()
            second = await engine.restart_as_new(first.id)
            await second.result()
        async with Engine(tmp_path / "db", services=[charge]) as engine:
            third = await engine.restart_as_new(second.id)
            assert await third.result() == [third.id, first.id]
            assert not engine.damage

    asyncio.run(story())
