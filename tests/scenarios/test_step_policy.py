"""A step's policy over its handler's, field by field, seen in the waits; and a failure that overtakes a cancel."""

import asyncio
from typing import Any

import pytest

from durable import Context, InvocationCancelled, RetryPolicy, TerminalError, handler
from durable.testing import Mode, Sim, check, simulate
from tests.scenarios.controls import cancel
from tests.scenarios.test_retries import UNINTERRUPTED, gaps

OF_HANDLER = RetryPolicy(initial_interval="7s", factor=3, max_interval="100s", max_attempts=6, on_max_attempts="kill")


@UNINTERRUPTED
@pytest.mark.parametrize(
    ("own", "waits_s"),
    [
        (RetryPolicy(), [7, 21, 63, 100, 100]),
        (RetryPolicy(max_attempts=3), [7, 21]),
        (RetryPolicy(factor=1, max_attempts=4), [7, 7, 7]),
        (RetryPolicy(initial_interval="1s", max_attempts=5), [1, 3, 9, 27]),
        (RetryPolicy(max_interval="10s", max_attempts=4), [7, 10, 10]),
        (RetryPolicy(initial_interval="2s", factor=2, max_interval="5s", max_attempts=5), [2, 4, 5, 5]),
    ],
    ids=["nothing", "tries", "factor", "first wait", "longest wait", "all"],
)
def test_what_a_steps_policy_leaves_open_its_handlers_decides(
    mode: Mode, own: RetryPolicy, waits_s: list[int]
) -> None:
    tries: list[int] = []

    def services(sim: Sim) -> list[object]:
        async def fail() -> None:
            tries.append(sim.clock.now_ms())
            raise RuntimeError("no")

        @handler(service="Shop", retry=OF_HANDLER)
        async def work(ctx: Context) -> str:
            try:
                await ctx.with_options(retry=own).run(fail)
            except TerminalError as error:
                return error.message
            return "impossible"

        return [work]

    result, _ = simulate(services, lambda sim: sim.call("Shop/work"), mode)
    assert result == "RuntimeError: no", "the step gives up, not the handler"
    assert gaps(tries) == [seconds * 1000 for seconds in waits_s]


def test_tries_of_a_step_are_counted_apart_from_the_handlers() -> None:
    """Two of the step's own, and then all of the handler's: neither takes from the other."""
    tries: dict[str, list[int]] = {"step": [], "handler": []}

    def services(sim: Sim) -> list[object]:
        async def fail() -> None:
            tries["step"].append(sim.clock.now_ms())
            raise RuntimeError("no")

        @handler(service="Shop", retry=OF_HANDLER)
        async def work(ctx: Context) -> None:
            try:
                await ctx.with_options(retry=RetryPolicy(initial_interval="1s", max_attempts=2)).run(fail)
            except TerminalError:
                tries["handler"].append(sim.clock.now_ms())
                raise RuntimeError("neither") from None

        return [work]

    async def scenario(sim: Sim) -> str:
        with pytest.raises(TerminalError) as failure:
            await sim.call("Shop/work")
        return failure.value.message

    assert simulate(services, scenario)[0] == "RuntimeError: neither"
    assert gaps(tries["step"]) == [1000]
    assert gaps(tries["handler"]) == [7000, 21_000, 63_000, 100_000, 100_000]


# ---- a failure that overtakes a cancel ----


@pytest.mark.parametrize("where", ["step", "step with a policy", "handler"])
def test_an_attempt_that_fails_before_it_saw_its_cancel_is_told_at_once(where: str) -> None:
    """Not after the wait of its retry, here an hour: the cancel was acknowledged before the failure."""
    policy = RetryPolicy(initial_interval="1h", max_interval="1h")

    def services(sim: Sim) -> list[object]:
        async def fails_late() -> None:
            sim.effect("begun")
            await asyncio.sleep(1)
            raise RuntimeError("too late")

        @handler(service="Shop", retry=policy)
        async def work(ctx: Context) -> str:
            try:
                match where:
                    case "step":
                        await ctx.run(fails_late)
                    case "step with a policy":
                        await ctx.with_options(retry=policy).run(fails_late)
                    case _ if not sim.effects["begun"]:
                        await fails_late()  # the cancel is on its way, and nothing durable is asked for meanwhile
                    case _:
                        await ctx.sleep("2h")
            except InvocationCancelled:
                sim.effect("undone")
                await ctx.run(lambda: None)
                raise
            return "finished"

        return [work]

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("Shop/work")
        await sim.until(lambda: sim.effects["begun"] > 0)
        cancelled_at = sim.clock.now_ms()
        await cancel(sim, handle.id)
        with pytest.raises(InvocationCancelled):
            await sim.result(handle.id)
        if not sim.interruptions:
            assert sim.clock.now_ms() - cancelled_at <= 1100
        assert sim.clock.now_ms() - cancelled_at < 3_600_000
        assert sim.effects["undone"] >= 1
        return "cancelled"

    assert check(services, scenario, most=15) == "cancelled"


def test_a_failure_beside_a_cancel_that_is_being_committed_is_no_reason_to_wait() -> None:
    """The attempt has not even heard of the cancel when it reports its failure, in the same turn or in the next."""
    policy = RetryPolicy(initial_interval="1h", max_interval="1h")

    def services(sim: Sim) -> list[object]:
        @handler(service="Shop", retry=policy)
        async def work(ctx: Context) -> None:
            if ctx.request.attempt == 1:
                sim.effect("begun")
                await go_on.wait()
                raise RuntimeError("at the same moment")
            await ctx.sleep("2h")

        return [work]

    async def scenario(sim: Sim) -> int:
        handle = await sim.send("Shop/work")
        await sim.until(lambda: sim.effects["begun"] > 0)
        before = sim.clock.now_ms()
        cancelling = asyncio.ensure_future(sim.engine.cancel(handle.id))
        for _ in range(rounds):
            await asyncio.sleep(0)
        go_on.set()
        await cancelling
        with pytest.raises(InvocationCancelled):
            await sim.result(handle.id)
        return sim.clock.now_ms() - before

    for rounds in range(6):
        go_on = asyncio.Event()
        assert simulate(services, scenario)[0] < 1000, f"{rounds} rounds of the event loop between them"
