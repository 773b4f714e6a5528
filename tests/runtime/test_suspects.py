"""After two crashes in a row what was running is started one at a time: whoever only waits holds nobody up."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import durable
from durable import Context, DurableTimeoutError, Engine, handler
from durable.core.turn import TRIAL_MS
from durable.testing import Sim, simulate

MANY = 20
#: (service/handler, number): in the order in which attempts began after the second crash.
Begun = list[tuple[str, int]]


def services(begun: Begun) -> Callable[[Sim], Iterable[object]]:
    async def answer(number: int) -> int:
        return number

    async def forever(number: int) -> int:
        await asyncio.sleep(3600)
        return number

    @handler(service="Waits")
    async def sleeps(ctx: Context, number: int) -> int:
        begun.append(("sleeps", number))
        await ctx.sleep("1h")
        return number

    @handler(service="Waits")
    async def calls(ctx: Context, number: int) -> int:
        begun.append(("calls", number))
        return await ctx.call(sleeps, number)

    @handler(service="Waits")
    async def in_flows(ctx: Context, number: int) -> int:
        begun.append(("in_flows", number))
        await ctx.run(answer, number)

        async def flow() -> None:
            with suppress(DurableTimeoutError):
                await ctx.awakeable(int).with_timeout("1h")

        await asyncio.gather(flow(), flow())
        await durable.gather(ctx.sleep("1h"), ctx.sleep("2h"))
        return number

    @handler(service="Waits")
    async def works(ctx: Context, number: int) -> int:
        begun.append(("works", number))
        await ctx.run(forever, number)
        return number

    return lambda sim: [sleeps, calls, in_flows, works]


async def crash_twice(sim: Sim, begun: Begun, name: str) -> float:
    """Start many, crash twice, and return when all have been tried again after that."""
    for number in range(MANY):
        await sim.send(f"Waits/{name}", number, idempotency_key=str(number))
    await sim.until(lambda: len(begun) >= MANY)
    await sim.restart(crash=True)
    await sim.until(lambda: len(begun) >= 2 * MANY)
    begun.clear()
    start = asyncio.get_running_loop().time()
    await sim.restart(crash=True)
    await sim.until(lambda: {number for _, number in begun} == set(range(MANY)))
    return asyncio.get_running_loop().time() - start


@pytest.mark.parametrize("name", ["sleeps", "calls", "in_flows"])
def test_suspects_that_only_wait_are_tried_in_no_time(name: str) -> None:
    begun: Begun = []

    async def scenario(sim: Sim) -> Any:
        took = await crash_twice(sim, begun, name)
        assert took < TRIAL_MS / 1000, f"{MANY} of them took {took} s"
        return [await sim.call(f"Waits/{name}", number, idempotency_key=str(number)) for number in range(MANY)]

    result, _ = simulate(services(begun), scenario)
    assert result == list(range(MANY))


def test_suspects_that_work_are_tried_one_after_the_other() -> None:
    begun: Begun = []

    async def scenario(sim: Sim) -> Any:
        took = await crash_twice(sim, begun, "works")
        assert took >= (MANY - 1) * TRIAL_MS / 1000
        for view in await sim.repeat(lambda engine: engine.invocations(status=["running", "suspended"])):
            await sim.repeat(partial(Engine.kill, id=view.id))

    simulate(services(begun), scenario)
