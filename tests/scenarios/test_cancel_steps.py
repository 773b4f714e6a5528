"""Steps are leaves too: one that runs ends before the handler is told, unless it is open to interruption."""

import asyncio
import threading
from collections.abc import Iterable

import pytest

from durable import (
    Context,
    InvocationCancelled,
    RetryPolicy,
    TerminalError,
    handler,
)
from durable.testing import Mode, Sim, check, simulate
from tests.scenarios.controls import CANCELLED, cancel, once, told, waits
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of

UNDISTURBED = pytest.mark.parametrize(
    "mode",
    [Mode("default"), Mode("always-suspend", always_suspend=True), Mode("minimal memory", minimal=True)],
    ids=lambda mode: mode.name,
)
ONE_DAY = RetryPolicy(initial_interval="1d", max_interval="1d")


def test_a_handler_that_asks_for_nothing_after_its_step_succeeds() -> None:
    """Design 4.1: the step ran when the cancel came, its outcome is not lost, and there was no place to raise."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> str:
            await asyncio.sleep(2)
            return "worked"

        @handler(service="Quick")
        async def quick(ctx: Context) -> str:
            return await ctx.run(work)

        return [quick]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Quick/quick")
        await asyncio.sleep(1)
        await cancel(sim, handle.id)
        try:
            return str(await sim.result(handle.id))
        except InvocationCancelled:
            assert sim.log.crashes, "only a step that a crash lost may not be done"
            return "worked"

    assert check(services, scenario) == "worked"


@UNDISTURBED
@pytest.mark.parametrize("retry", [None, RetryPolicy(max_attempts=5)], ids=["plain", "with a policy"])
def test_a_running_step_that_fails_terminally_is_heard_before_the_cancel(
    mode: Mode, retry: RetryPolicy | None
) -> None:
    """Design 4.1: an outcome is never lost."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> None:
            await asyncio.sleep(2)
            raise TerminalError("sold out", 410)

        @handler(service="Unlucky")
        async def unlucky(ctx: Context) -> list[str]:
            heard = []
            try:
                await ctx.with_options(retry=retry).run(work)
            except TerminalError as error:
                heard.append(str(error))
            try:
                await ctx.sleep("1d")
            except InvocationCancelled as error:
                heard.append(str(error))
            return heard

        return [unlucky]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Unlucky/unlucky")
        await asyncio.sleep(1)
        await cancel(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        return result

    assert simulate(services, scenario, mode)[0] == ["sold out", "cancelled"]


@pytest.mark.parametrize("retry", [None, ONE_DAY], ids=["by the handler's policy", "by its own"])
@pytest.mark.parametrize("when", ["while it runs", "while it backs off"])
def test_a_step_that_failed_is_not_tried_again(when: str, retry: RetryPolicy | None) -> None:
    """Design 4.1, 4.2: a step that does not run is not started; the handler wakes at once and is told."""

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> None:
            sim.effect("try")
            await asyncio.sleep(2)
            raise RuntimeError("not yet")

        async def undo() -> None:
            sim.effect("undo")

        @handler(service="Failing", retry=ONE_DAY)
        async def failing(ctx: Context) -> None:
            try:
                await ctx.with_options(retry=retry).run(fail)
            except InvocationCancelled:
                await ctx.run(undo)
                raise

        return [failing]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Failing/failing")
        if when == "while it runs":
            await sim.until(lambda: sim.effects["try"] > 0)
        else:
            await reaches(sim, handle.id, "backing-off")
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - since_ms < 60_000
        once(sim, "try", "undo")
        return told(error)

    assert check(services, scenario) == CANCELLED


@UNDISTURBED
@pytest.mark.parametrize("interruptible", [True, False])
def test_a_function_in_a_thread_ends_first_too(mode: Mode, interruptible: bool) -> None:
    """Nothing can stop it; but if it is interruptible it is not waited for."""
    began, may_end = asyncio.Event(), threading.Event()

    def services(sim: Sim) -> Iterable[object]:
        loop = asyncio.get_running_loop()

        def work() -> str:
            loop.call_soon_threadsafe(began.set)
            return "worked" if may_end.wait(5) else "never told to end"

        @handler(service="Busy")
        async def busy(ctx: Context) -> list[str]:
            heard = []
            try:
                heard.append(await ctx.with_options(interruptible=interruptible).run(work))
                await ctx.sleep("1000d")
            except InvocationCancelled:
                heard.append("told")
            return heard

        return [busy]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Busy/busy")
        await began.wait()
        await cancel(sim, handle.id)
        if not interruptible:
            may_end.set()
        result: list[str] = await sim.result(handle.id)
        may_end.set()
        return result

    expected = ["told"] if interruptible else ["worked", "told"]
    assert simulate(services, scenario, mode)[0] == expected


def test_what_was_recorded_before_the_cancel_is_still_delivered() -> None:
    """Design 4.1: awaiting what has its outcome already neither starts nor waits."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> None:
            await asyncio.sleep(3)

        @handler(service="Busy")
        async def busy(ctx: Context) -> list[str]:
            seen = []
            nap, call = ctx.sleep("1s"), ctx.call(double, "ab")
            try:
                await ctx.run(work)
                await nap
                seen += ["slept", await call]
                await ctx.sleep("1s")
            except InvocationCancelled:
                seen.append("told")
            return seen

        @handler(service="Double")
        async def double(ctx: Context, text: str) -> str:
            return 2 * text

        return [busy, double]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Busy/busy")
        await waits(sim, handle.id, "sleep", 0)
        await asyncio.sleep(2)
        await cancel(sim, handle.id)
        *seen, last = await sim.result(handle.id)
        assert seen == ["slept", "abab"] or sim.interruptions or sim.mode.minimal
        return str(last)

    assert check(services, scenario) == "told"
