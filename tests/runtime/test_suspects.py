"""After two crashes in a row one half of what was running is tried after the other: nobody is held up for long."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

import durable
from durable import Context, DurableTimeoutError, Engine, handler
from durable.core.reasons import Reason
from durable.core.trials import TRIAL_MS
from durable.testing import Fault, Mode, Sim, simulate
from durable.testing.simulation import How

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


def test_suspects_that_work_are_tried_in_two_halves() -> None:
    begun: Begun = []

    async def scenario(sim: Sim) -> Any:
        took = await crash_twice(sim, begun, "works")
        assert TRIAL_MS / 1000 <= took < 2 * TRIAL_MS / 1000
        for view in await sim.repeat(lambda engine: engine.invocations(status=["running", "suspended"])):
            await sim.repeat(partial(Engine.kill, id=view.id))

    simulate(services(begun), scenario)


def killing(sim: Sim) -> Iterable[object]:
    loop = asyncio.get_running_loop()
    killing: list[asyncio.Task[None]] = []

    async def slow(number: int) -> int:
        await asyncio.sleep(20)
        return number

    @handler(service="Killing")
    async def killer(ctx: Context) -> None:
        await asyncio.sleep(0.2)
        killing.append(loop.create_task(sim.restart(crash=True)))
        await asyncio.sleep(10)

    @handler(service="Killing")
    async def innocent(ctx: Context, number: int) -> int:
        return await ctx.run(slow, number)

    return [killer, innocent]


async def paused(sim: Sim, id: str) -> None:
    for _ in range(10_000):
        if await sim.status(id) == "paused":
            return
        await asyncio.sleep(1)
    raise AssertionError("it was never paused")


async def one_kills(sim: Sim) -> Any:
    """Seven whose steps take longer than a process lives, and one that kills it."""
    for number in range(7):
        await sim.send("Killing/innocent", number, idempotency_key=str(number))
    killer = await sim.send("Killing/killer", idempotency_key="killer")

    await paused(sim, killer.id)
    view = await sim.repeat(lambda engine: engine.describe(killer.id))
    assert view.last_failure is not None
    assert view.failures >= 10
    results = [await sim.call("Killing/innocent", number, idempotency_key=str(number)) for number in range(7)]
    return view.last_failure.reason, results


def test_a_killer_is_found_and_paused_and_its_neighbours_get_their_work_done_wherever_the_engine_dies() -> None:
    _, baseline = simulate(killing, one_kills)
    commits = range(1, baseline.log.commits, baseline.log.commits // 6)
    hows: list[How] = ["before", "after", "restart"]
    modes = [Mode("undisturbed"), Mode("always-suspend", always_suspend=True), Mode("minimal memory", minimal=True)]
    modes += [Mode(f"{how} {commit}", faults=(Fault(commit, how),)) for commit in commits for how in hows]
    for mode in modes:
        (reason, results), _ = simulate(killing, one_kills, mode)
        assert (reason, results) == (Reason.ENDS_PROCESS, list(range(7))), mode


def test_who_is_resumed_has_a_budget_of_its_own() -> None:
    async def scenario(sim: Sim) -> None:
        await one_kills(sim)
        [killer] = await sim.repeat(lambda engine: engine.invocations(reason=Reason.ENDS_PROCESS))
        crashes = sim.log.crashes
        await sim.repeat(lambda engine: engine.resume(killer.id))
        await paused(sim, killer.id)
        assert sim.log.crashes == crashes + 10

    simulate(killing, scenario)
