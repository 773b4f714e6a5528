"""A handler that only waits is unloaded; one that does not yield is interrupted."""

import asyncio
from typing import Literal

import pytest

from durable import Context, ObjectContext, RetryPolicy, TerminalError, VirtualObject, handler
from durable.testing import Mode, Sim, check, simulate
from tests.scenarios.keyed import assert_ran, awakeable_of, reaches


class Holder(VirtualObject):
    """Does something, waits for an awakeable, and notes when its coroutine is unwound."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def hold(self, ctx: ObjectContext) -> str:
        greeting = await ctx.run(self._greet)
        answer = ctx.awakeable(str)
        ctx.set("id", answer.id)
        try:
            return greeting + await answer
        finally:
            self.sim.effect("unwound")

    async def _greet(self) -> str:
        self.sim.effect("greet")
        return "hello, "


def test_a_handler_that_waits_is_unloaded_after_its_inactivity_timeout_and_goes_on_when_resolved() -> None:
    """C-083: suspended after 0.2 s, its task gone; the resolve brings it back, and no step runs again."""

    async def scenario(sim: Sim) -> str:
        await asyncio.sleep(0.1)  # the engine is at rest
        tasks = len(asyncio.all_tasks())
        handle = await sim.send(Holder.hold, key="a")
        since_ms = sim.clock.now_ms()
        id = await awakeable_of(sim, "a")
        if not sim.interruptions and not sim.mode.always_suspend:
            assert await sim.status(handle.id) == "running"
            assert len(asyncio.all_tasks()) == tasks + 1
        await reaches(sim, handle.id, "suspended")
        if not sim.interruptions and not sim.mode.always_suspend:
            assert 200 <= sim.clock.now_ms() - since_ms <= 220
        assert sim.effects["unwound"] >= 1
        await asyncio.sleep(0.1)
        if not sim.interruptions:
            assert len(asyncio.all_tasks()) == tasks
        await asyncio.sleep(3600)
        await sim.repeat(lambda engine: engine.resolve_awakeable(id, "world"))
        result = await sim.result(handle.id)
        assert_ran(sim, "greet")
        return str(result)

    assert check(lambda sim: [Holder(sim)], scenario, inactivity_timeout=0.2) == "hello, world"


def test_a_handler_that_something_happens_to_is_not_unloaded() -> None:
    """C-083: the timeout counts from the last event, and not from the start."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Busy")
        async def work(ctx: Context) -> int:
            try:
                for _ in range(20):
                    await ctx.sleep(0.15)
            finally:
                sim.effect("unwound")
            return sim.effects["unwound"]

        return [work]

    async def scenario(sim: Sim) -> int:
        return int(await sim.call("Busy/work"))

    assert simulate(services, scenario, inactivity_timeout=0.2)[0] == 1
    suspended, _ = simulate(services, scenario, inactivity_timeout=0.1)
    assert suspended == 21


STUCK = RetryPolicy(initial_interval="1s", max_interval="1s")
Where = Literal["handler", "step"]


def stuck(sim: Sim, where: Where, times: list[int], policy: RetryPolicy, stuck_tries: int) -> list[object]:
    """The first tries wait for something that is not durable and never comes."""

    async def work() -> str:
        times.append(sim.clock.now_ms())
        if sim.effect("tries") <= stuck_tries:
            try:
                await asyncio.Event().wait()
            finally:
                sim.effect("interrupted")
        return "done"

    @handler(service="Stuck", retry=policy, inactivity_timeout="200ms", abort_timeout="300ms")
    async def get_stuck(ctx: Context) -> str:
        return await (ctx.run(work) if where == "step" else work())

    return [get_stuck]


WHERE = pytest.mark.parametrize("where", ["handler", "step"])


@WHERE
def test_a_stuck_handler_is_interrupted_after_inactivity_and_abort_timeout_and_tried_again(where: Where) -> None:
    """C-084: interrupted after 0.2 + 0.3 s, backed off for 1 s like after any failure, then done."""
    times: list[int] = []

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Stuck/get_stuck")
        if not sim.interruptions:
            await reaches(sim, handle.id, "backing-off")
            view = await sim.repeat(lambda engine: engine.describe(handle.id))
            assert view.failures == 1
            assert view.last_failure is not None
            assert "abort timeout" in view.last_failure.message
            assert sim.effects["interrupted"] == 1
        result = await sim.result(handle.id)
        assert_ran(sim, "tries", 2)
        return str(result)

    result, _ = simulate(lambda sim: stuck(sim, where, times, STUCK, 1), scenario)
    assert result == "done"
    assert times[1] - times[0] == 1500


@WHERE
def test_a_stuck_handler_gets_to_its_end_through_crashes_as_well(where: Where) -> None:
    """C-084: the same in every mode."""

    async def scenario(sim: Sim) -> str:
        result = await sim.call("Stuck/get_stuck")
        assert_ran(sim, "tries", 3)
        return str(result)

    assert check(lambda sim: stuck(sim, where, [], STUCK, 2), scenario) == "done"


@WHERE
def test_being_interrupted_counts_towards_the_retry_policy(where: Where) -> None:
    """C-084: two tries are allowed, both get stuck: the invocation fails, and says why."""
    times: list[int] = []
    policy = RetryPolicy(initial_interval="1s", max_attempts=2, on_max_attempts="kill")

    async def scenario(sim: Sim) -> str:
        with pytest.raises(TerminalError, match="abort timeout"):
            await sim.call("Stuck/get_stuck")
        assert_ran(sim, "tries", 2)
        return "failed"

    result, sim = simulate(lambda sim: stuck(sim, where, times, policy, 9), scenario)
    assert result == "failed"
    assert (sim.effects["tries"], sim.effects["interrupted"]) == (2, 2)
    assert times[1] - times[0] == 1500


@pytest.mark.parametrize("mode", [Mode("default"), Mode("minimal memory", minimal=True)], ids=lambda mode: mode.name)
def test_a_stuck_handler_does_not_hold_up_the_others(mode: Mode) -> None:
    """C-084: with room for one handler in memory, the next one starts when the stuck one was interrupted."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Quick")
        async def quick(ctx: Context) -> int:
            return sim.clock.now_ms()

        return [*stuck(sim, "handler", [], STUCK, 1), quick]

    async def scenario(sim: Sim) -> int:
        since_ms = sim.clock.now_ms()
        handle = await sim.send("Stuck/get_stuck")
        elapsed_ms = int(await sim.call("Quick/quick")) - since_ms
        assert await sim.result(handle.id) == "done"
        return elapsed_ms

    assert simulate(services, scenario, mode)[0] == (500 if mode.minimal else 0)
