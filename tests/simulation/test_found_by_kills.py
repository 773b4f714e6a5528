"""Programs that real kills, or a random program, once found broken: kept as they were found."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import Context, gather, handler
from durable.testing import Fault, Mode, Sim, check, simulate


@pytest.mark.parametrize("slow", ["nobody", "x1", "y1"])
def test_two_flows_of_two_steps_each_go_on_in_the_order_in_which_their_first_steps_ended(slow: str) -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def work(label: str) -> str:
            sim.effect(label)
            await asyncio.sleep(0.001)
            if label == slow:
                await asyncio.sleep(0)
            return label

        @handler(service="S")
        async def flows(ctx: Context) -> list[str]:
            async def flow(name: str) -> str:
                first = await ctx.with_options(name=f"{name}1").run(work, f"{name}1")
                second = await ctx.with_options(name=f"{name}2").run(work, f"{name}2")
                return first + second

            return list(await asyncio.gather(flow("x"), flow("y")))

        return [flows]

    async def scenario(sim: Sim) -> object:
        return await sim.call("S/flows")

    assert check(services, scenario) == ["x1x2", "y1y2"]


def test_branches_that_sleep_equally_long_call_in_their_order() -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def parent(ctx: Context) -> list[int]:
            async def branch(number: int) -> int:
                await ctx.sleep("100ms")
                return await ctx.call(child, number)

            return list(await asyncio.gather(*[branch(number) for number in range(4)]))

        @handler(service="S")
        async def child(ctx: Context, number: int) -> int:
            return number

        return [parent, child]

    async def scenario(sim: Sim) -> object:
        return await sim.call("S/parent")

    assert check(services, scenario) == [0, 1, 2, 3]


@pytest.mark.parametrize("fault", [Fault(2, "after"), Fault(3, "before"), Fault(3, "after")])
def test_of_several_steps_that_ran_at_a_crash_every_one_is_started_again(fault: Fault) -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def work(label: str) -> str:
            await asyncio.sleep(0.005)
            return label

        @handler(service="S")
        async def steps(ctx: Context) -> str:
            first, _, second = await gather(ctx.run(work, "d"), ctx.sleep(0.006), ctx.run(work, "e"))
            return first + second

        return [steps]

    async def scenario(sim: Sim) -> object:
        return await sim.call("S/steps")

    assert simulate(services, scenario, Mode("one crash", faults=(fault,)))[0] == "de"


def test_a_cancel_of_a_call_cycle_by_idempotency_key_ends() -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def me(ctx: Context) -> None:
            await ctx.call("S/me", idempotency_key="x")

        return [me]

    async def scenario(sim: Sim) -> object:
        handle = await sim.send("S/me", idempotency_key="x")
        await asyncio.sleep(1)
        await sim.engine.cancel(handle.id)
        await sim.until(lambda: _completed(sim, handle.id))
        return "ended"

    assert simulate(services, scenario)[0] == "ended"


async def _completed(sim: Sim, id: str) -> bool:
    return await sim.status(id) == "completed"
