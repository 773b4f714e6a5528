"""C-013 to C-019: what won is read from the journal, and signals find whoever waits for them."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import (
    Context,
    ObjectContext,
    TerminalError,
    VirtualObject,
    as_completed,
    gather,
    handler,
    select,
)
from durable.testing import Sim, check
from tests.scenarios.support import failure_of, once, resolve, send_signal, state_of


def test_a_sleep_wins_over_an_awakeable_nobody_resolves() -> None:
    """C-013: any of an awakeable and a sleep of 100 ms."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Race")
        async def run(ctx: Context) -> str:
            winner, _ = await select(awakeable=ctx.awakeable(str), sleep=ctx.sleep("100ms"))
            sim.effect(f"won: {winner}")
            await ctx.sleep("1s")
            return winner

        return [run]

    async def scenario(sim: Sim) -> str:
        started_at = sim.clock.now_ms()
        handle = await sim.send("Race/run")
        await sim.until(lambda: bool(sim.effects))
        assert sim.clock.now_ms() - started_at >= 100
        winner: str = await sim.result(handle.id)
        assert set(sim.effects) == {"won: sleep"}
        return winner

    assert check(services, scenario) == "sleep"


def test_an_awakeable_that_takes_too_long_becomes_the_callers_error() -> None:
    """C-014: a time-out of 100 ms is caught and turned into a terminal error; uncaught, it is one itself."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Impatient")
        async def caught(ctx: Context) -> str:
            try:
                return await ctx.awakeable(str).with_timeout("100ms")
            except TimeoutError:
                raise TerminalError("await-timeout") from None

        @handler(service="Impatient")
        async def uncaught(ctx: Context) -> str:
            return await ctx.awakeable(str).with_timeout("100ms")

        return [caught, uncaught]

    async def scenario(sim: Sim) -> tuple[str, int, str, int]:
        started_at = sim.clock.now_ms()
        caught = await failure_of(sim.call("Impatient/caught"))
        assert sim.clock.now_ms() - started_at >= 100
        uncaught = await failure_of(sim.call("Impatient/uncaught"))
        return caught.message, caught.code, type(uncaught).__name__, uncaught.code

    assert check(services, scenario) == ("await-timeout", 500, "DurableTimeoutError", 408)


def test_an_awakeable_that_comes_in_time_beats_its_timeout() -> None:
    """C-014, the other way: resolved before the time is over; the timer that fires later changes nothing."""

    def services(sim: Sim) -> Iterable[object]:
        class Patient(VirtualObject):
            @handler
            async def wait(self, ctx: ObjectContext) -> str:
                awakeable = ctx.awakeable(str)
                ctx.set("id", awakeable.id)
                value = await awakeable.with_timeout("100s")
                await ctx.sleep("200s")
                return value

        return [Patient()]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Patient/wait", key="k")
        id = await state_of(sim, "Patient", "k", "id")
        await resolve(sim, id, "in time")
        result: str = await sim.result(handle.id)
        return result

    assert check(services, scenario) == "in time"


def test_the_first_success_of_six_ignores_the_failures_before_it() -> None:
    """C-015: three steps and one awakeable fail, and nothing happens; the awakeable resolved next is the result."""

    def services(sim: Sim) -> Iterable[object]:
        async def fail(number: int) -> str:
            sim.effect(f"step {number}")
            raise TerminalError(f"step {number} fails")

        class Six(VirtualObject):
            @handler
            async def first_success(self, ctx: ObjectContext) -> str:
                awakeables = [ctx.awakeable(str) for _ in range(3)]
                ctx.set("ids", [awakeable.id for awakeable in awakeables])
                steps = [ctx.run(fail, number) for number in range(3)]
                failed = 0
                async for first in as_completed(*awakeables, *steps):
                    try:
                        return f"{await first} after {failed} failures"
                    except TerminalError:
                        failed += 1
                raise TerminalError("none succeeded")

        return [Six()]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Six/first_success", key="k")
        ids = await state_of(sim, "Six", "k", "ids")
        await sim.repeat(lambda engine: engine.reject_awakeable(ids[0], "no"))
        await asyncio.sleep(5)
        assert await sim.status(handle.id) != "completed"
        once(sim, "step 0", "step 1", "step 2")
        await resolve(sim, ids[1], "x")
        result: str = await sim.result(handle.id)
        return result

    assert check(services, scenario) == "x after 4 failures"


def three_signals(sim: Sim) -> Iterable[object]:
    """A handler that needs three signals, and fails with the first that is rejected."""

    @handler(service="Three")
    async def signals(ctx: Context) -> str:
        return "|".join(await gather(*(ctx.signal(f"s{number}", str) for number in range(3))))

    return [signals]


def test_all_of_three_signals_give_their_values_in_order() -> None:
    """C-016: three signals, resolved in order."""

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Three/signals")
        for number in range(3):
            await asyncio.sleep(1)
            assert await sim.status(handle.id) != "completed"
            await send_signal(sim, handle.id, f"s{number}", f"v{number}")
        result: str = await sim.result(handle.id)
        return result

    assert check(three_signals, scenario) == "v0|v1|v2"


def test_all_of_three_signals_fail_with_the_first_rejection() -> None:
    """C-016: the second signal is rejected; the third is not waited for."""

    async def scenario(sim: Sim) -> tuple[str, int]:
        handle = await sim.send("Three/signals")
        await send_signal(sim, handle.id, "s0", "v0")
        await asyncio.sleep(1)
        await sim.repeat(lambda engine: engine.reject_signal(handle.id, "s1", "not today", 418))
        rejected_at = sim.clock.now_ms()
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - rejected_at < 1000
        return error.message, error.code

    assert check(three_signals, scenario) == ("not today", 418)


@pytest.mark.parametrize("order", ["signal first", "signal last"])
def test_all_settled_gives_values_and_failures_in_the_order_of_the_arguments(order: str) -> None:
    """C-017: a step that succeeds, a signal, and a step that fails terminally, whichever comes first."""

    def services(sim: Sim) -> Iterable[object]:
        async def succeed() -> str:
            await sim.until(lambda: sim.effects["gate"] > 0)
            return "runval"

        async def fail() -> str:
            await sim.until(lambda: sim.effects["gate"] > 0)
            raise TerminalError("fail")

        @handler(service="Settle")
        async def everything(ctx: Context) -> str:
            settled = await gather(ctx.run(succeed), ctx.signal("sig", str), ctx.run(fail), return_exceptions=True)
            return "|".join(f"err:{one}" if isinstance(one, TerminalError) else f"ok:{one}" for one in settled)

        return [everything]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Settle/everything")
        if order == "signal last":
            sim.effect("gate")
        await asyncio.sleep(1)
        await send_signal(sim, handle.id, "sig", "sigval")
        await asyncio.sleep(1)
        sim.effect("gate")
        result: str = await sim.result(handle.id)
        return result

    assert check(services, scenario) == "ok:runval|ok:sigval|err:fail"


def test_a_nested_expression_wakes_its_handler_only_when_all_of_it_has_come_true() -> None:
    """C-018: all of (any of (A, B), all of (C, D)); B, then D, then C are completed."""

    def services(sim: Sim) -> Iterable[object]:
        class Nested(VirtualObject):
            @handler
            async def wait(self, ctx: ObjectContext) -> str:
                sim.effect("entered")
                a, b, c, d = (ctx.awakeable(str) for _ in range(4))
                ctx.set("ids", [a.id, b.id, c.id, d.id])
                (winner, first), (third, fourth) = await gather(select(a=a, b=b), gather(c, d))
                return f"{winner}={first}, {third}, {fourth}"

        return [Nested()]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Nested/wait", key="k")
        _, b, c, d = await state_of(sim, "Nested", "k", "ids")
        suspends = sim.mode.always_suspend
        for id, value in ((b, "B"), (d, "D")):
            await resolve(sim, id, value)
            await asyncio.sleep(1)
            assert await sim.status(handle.id) == ("suspended" if suspends else "running")
            if not sim.interruptions:
                assert sim.effects["entered"] == 1
        await resolve(sim, c, "C")
        result: str = await sim.result(handle.id)
        if not sim.interruptions:
            assert sim.effects["entered"] == (2 if suspends else 1)
        return result

    assert check(services, scenario) == "b=B, C, D"


def late_listener(sim: Sim) -> Iterable[object]:
    """A handler that waits for a signal only after a sleep."""

    @handler(service="Late")
    async def listen(ctx: Context) -> str:
        await ctx.sleep("10s")
        sim.effect("listens")
        return await ctx.signal("s", str)

    return [listen]


def test_a_signal_sent_before_anybody_waits_for_it_is_kept() -> None:
    """C-019: the signal comes during a sleep, and is received after it."""

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Late/listen")
        await asyncio.sleep(1)
        await send_signal(sim, handle.id, "s", "early")
        assert sim.effects["listens"] == 0
        result: str = await sim.result(handle.id)
        return result

    assert check(late_listener, scenario) == "early"


def test_a_signal_rejected_before_anybody_waits_for_it_fails_the_invocation() -> None:
    """C-019: the rejection's reason reaches two attachers."""

    async def scenario(sim: Sim) -> list[tuple[str, int]]:
        handle = await sim.send("Late/listen")
        await asyncio.sleep(1)
        await sim.repeat(lambda engine: engine.reject_signal(handle.id, "s", "the reason"))
        assert sim.effects["listens"] == 0
        errors = await asyncio.gather(*(failure_of(sim.result(handle.id)) for _ in range(2)))
        return [(error.message, error.code) for error in errors]

    assert check(late_listener, scenario) == [("the reason", 500)] * 2
