"""Who cancelled a durable wait is counted, and only where the counts do not tell, a time-out is searched for."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import Context, InvocationCancelled, gather, handler
from durable.runtime import timeouts
from durable.testing import Sim, simulate
from tests.runtime.support import settled
from tests.scenarios.controls import cancel


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """For whom all objects of the process were searched."""
    searched: list[object] = []

    def among_all_objects(error: object, tasks: object) -> bool:
        searched.append(tasks)
        return False

    monkeypatch.setattr(timeouts, "_among_all_objects", among_all_objects)
    return searched


async def forever(sim: Sim) -> None:
    sim.effect("step")
    await asyncio.Event().wait()


def test_a_hundred_steps_that_a_cancel_interrupts_cost_no_search(searches: list[object]) -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Work")
        async def work(ctx: Context) -> None:
            step = ctx.with_options(interruptible=True)
            await gather(*(step.run(forever, sim) for _ in range(100)))

        return [work]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["step"] == 100)
        await cancel(sim, handle.id)
        with pytest.raises(InvocationCancelled):
            await sim.result(handle.id)

    simulate(services, scenario)
    assert searches == []


@pytest.mark.parametrize("where", ["in the group", "after it"])
def test_what_a_task_group_gives_up_costs_no_search(where: str, searches: list[object]) -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Work")
        async def work(ctx: Context) -> str:
            async def fails() -> None:
                await ctx.sleep("1s")
                raise ValueError

            async def waits() -> None:
                await ctx.sleep("1d")

            try:
                async with asyncio.TaskGroup() as group:
                    for flow in (waits(), waits(), fails()):
                        group.create_task(flow)
                    if where == "in the group":
                        await asyncio.Event().wait()
            except* ValueError:
                pass
            await ctx.sleep("1s")
            return "gone on"

        return [work]

    async def scenario(sim: Sim) -> None:
        assert await sim.call("Work/work") == "gone on"

    simulate(services, scenario)
    assert searches == []


@pytest.mark.parametrize("whose", ["its own", "the handler's"])
def test_a_time_out_is_found_beside_a_group_that_gives_up(whose: str) -> None:
    """One cancel of a flow is the group's, the other the time-out's: both are counted."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Work")
        async def work(ctx: Context) -> str:
            async def waits() -> None:
                await ctx.sleep("1d")

            async def timed() -> None:
                async with asyncio.timeout(1):
                    await waits()

            async with asyncio.timeout(None if whose == "its own" else 1):
                async with asyncio.TaskGroup() as group:
                    group.create_task(timed() if whose == "its own" else waits())
                    group.create_task(waits())
            return "gone on"

        return [work]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Work/work")
        await sim.until(lambda: paused(sim, handle.id))
        view = await sim.engine.describe(handle.id)
        assert view.last_failure is not None
        assert view.last_failure.reason == "misuse"

    async def paused(sim: Sim, id: str) -> bool:
        return await sim.status(id) == "paused"

    simulate(services, scenario)


def test_a_time_out_that_fires_while_a_known_outcome_waits_for_its_turn_is_refused() -> None:
    """Other flows wait, so this one gives way for a moment."""

    def services(sim: Sim) -> Iterable[object]:
        async def number() -> int:
            return 1

        @handler(service="Work")
        async def work(ctx: Context) -> None:
            async def flow() -> None:
                step = ctx.run(number)
                await step
                async with asyncio.timeout(0):
                    await step

            await asyncio.gather(flow(), ctx.sleep("1d"), return_exceptions=True)

        return [work]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Work/work")
        found = await settled(sim.engine, handle.id)
        assert found.last_failure is not None
        assert (found.status, found.last_failure.reason) == ("paused", "misuse")

    simulate(services, scenario)
