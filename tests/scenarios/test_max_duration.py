"""C-092: tries go on for as long as their policy says, over restarts, too; a step's own policy can pause."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest

from durable import ConflictError, Context, RetryPolicy, TerminalError, handler
from durable.core.retry import DEFAULT
from durable.testing import Sim, check
from tests.scenarios.support import failure_of


@pytest.mark.parametrize("of", ["handler", "step"])
def test_no_try_begins_later_than_the_duration_after_the_first_failure(of: str) -> None:
    policy = RetryPolicy(
        initial_interval="10s", factor=1, max_attempts=None, max_duration="35s", on_max_attempts="kill"
    )

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> None:
            sim.effect("tried")
            raise ValueError("no")

        @handler(service="S", retry=policy if of == "handler" else RetryPolicy())
        async def go(ctx: Context) -> None:
            if of == "handler":
                await fail()
            else:
                await ctx.with_options(retry=policy).run(fail)

        return [go]

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("S/go")
        failure = await failure_of(sim.result(handle.id))
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.completed_at is not None
        assert view.completed_at - view.created_at < 45_000
        assert 1 < sim.effects["tried"] <= 4 + sim.interruptions
        return failure.message

    assert "ValueError: no" in check(services, scenario)


def test_a_step_that_recovers_has_all_its_time_again() -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def fail(times: int, name: str) -> None:
            sim.effect(name)
            if sim.effects[name] <= times:
                raise ValueError("not yet")

        @handler(service="S")
        async def go(ctx: Context) -> str:
            limited = ctx.with_options(retry=RetryPolicy(initial_interval="10s", factor=1, max_duration="25s"))
            await limited.run(fail, 2, "first")
            await limited.run(fail, 2, "second")
            return "done"

        return [go]

    async def scenario(sim: Sim) -> Any:
        return await sim.call("S/go")

    assert check(services, scenario) == "done"


@pytest.mark.parametrize("says", [True, False])
def test_a_step_whose_own_policy_says_pause_is_paused_and_has_all_its_tries_after_a_resume(says: bool) -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> str:
            sim.effect("tried")
            if not sim.effects["resumed"]:
                raise ValueError("no")
            return "paid"

        @handler(service="S")
        async def go(ctx: Context) -> str:
            policy = RetryPolicy(max_attempts=2, initial_interval="1s")
            if says:
                policy = RetryPolicy(max_attempts=2, initial_interval="1s", on_max_attempts="pause")
            try:
                return await ctx.with_options(retry=policy).run(fail)
            except TerminalError:
                return "given up"

        return [go]

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("S/go")

        async def paused() -> bool:
            view = await sim.repeat(lambda engine: engine.describe(handle.id))
            return view.status in ("paused", "completed")

        await sim.until(paused)
        if says:
            sim.effect("resumed")
            with suppress(ConflictError):  # a resume before it was not told of
                await sim.repeat(lambda engine: engine.resume(handle.id))
        return await sim.result(handle.id)

    assert check(services, scenario) == ("paid" if says else "given up")


def test_a_duration_is_checked_and_merged_as_other_fields_are() -> None:
    with pytest.raises(ValueError, match="max_duration"):
        RetryPolicy(max_duration="soon")
    unlimited, limited = RetryPolicy(max_duration=None), RetryPolicy(max_duration="1h")
    assert (unlimited.timed, limited.timed, DEFAULT.timed, RetryPolicy().timed) == (False, True, False, False)
    assert not unlimited.merged_over(limited).timed
    assert limited.exhausted(1, 3_600_001)
    assert not limited.exhausted(1, 3_600_000)
