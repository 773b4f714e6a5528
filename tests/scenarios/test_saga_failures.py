"""Compensations that fail: they are retried or given up, never stop the others, and never hide the original error."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import Context, RetryableError, RetryPolicy, TerminalError, handler
from durable.testing import Sim, check, simulate
from tests.scenarios.controls import CANCELLED, cancel, kill, once, order, sent, told, waits
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of

ONE_HOUR = RetryPolicy(initial_interval="1h", max_interval="1h")


def test_a_compensation_that_fails_is_retried_by_the_handlers_policy() -> None:
    """The invocation backs off; then it goes on with that one, and none before it runs again."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            if what == "hotel" and not sim.effects["repaired"]:
                sim.effect("hotel fails")
                raise RuntimeError("the hotel does not answer")
            sim.effect(f"undo {what}")

        @handler(service="Trip", retry=ONE_HOUR)
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                for what in ("flight", "hotel", "car"):
                    saga.add_compensation(undo, what)
                raise TerminalError("no visa", 403)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await reaches(sim, handle.id, "backing-off")
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.last_failure is not None
        assert "the hotel does not answer" in view.last_failure.message
        assert order(sim) == ["undo car", "hotel fails"]
        sim.effect("repaired")
        since_ms = sim.clock.now_ms()
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - since_ms >= 3_500_000
        assert order(sim, "undo") == ["undo car", "undo hotel", "undo flight"]
        once(sim, *order(sim, "undo"))
        return told(error)

    assert check(services, scenario) == ("TerminalError", "no visa", 403)


def test_a_compensation_may_name_its_own_delay() -> None:
    """A `RetryableError` in a compensation is one like in any other step."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            if sim.effect("tries") < 3:
                raise RetryableError("busy", retry_after="10s")

        @handler(service="Trip", retry=ONE_HOUR)
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo)
                raise TerminalError("no visa", 403)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        since_ms = sim.clock.now_ms()
        error = await failure_of(sim.call("Trip/trip"))
        assert sim.clock.now_ms() - since_ms < 60_000
        assert 3 <= sim.effects["tries"] <= 3 + sim.log.crashes
        return told(error)

    assert check(services, scenario) == ("TerminalError", "no visa", 403)


#: How a compensation can fail for good, and how often it runs then.
FOR_GOOD = {"terminally": 1, "policy exhausted": 3, "time-out": 2}


@pytest.mark.parametrize("original", ["terminal error", "cancellation"])
@pytest.mark.parametrize("how", FOR_GOOD)
def test_one_that_fails_for_good_stops_no_other_and_is_noted_on_the_original_error(how: str, original: str) -> None:
    """Terminal, its own policy exhausted, or timed out again and again; the outcome stays what it was."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")

        async def undo_hotel() -> None:
            sim.effect("undo hotel")
            match how:
                case "terminally":
                    raise TerminalError("never heard of you", 404)
                case "policy exhausted":
                    raise RuntimeError("the hotel does not answer")
                case _:
                    await asyncio.sleep(3600)

        @handler(service="Trip", retry=RetryPolicy(initial_interval="30d", max_interval="30d"))
        async def trip(ctx: Context) -> list[str]:
            try:
                async with ctx.saga() as saga:
                    saga.add_compensation(undo, "flight")
                    retry = RetryPolicy(initial_interval="1s", max_attempts=FOR_GOOD[how])
                    timeout = "1m" if how == "time-out" else None
                    options = saga.with_options(name="undo the hotel", retry=retry, timeout=timeout)
                    options.add_compensation(undo_hotel)
                    saga.add_compensation(undo, "car")
                    if original == "cancellation":
                        await ctx.sleep("1000d")
                    raise TerminalError("no visa", 403)
            except TerminalError as error:
                sim.effect(f"ended with {told(error)}: {error.__notes__}")
                await ctx.sleep("1s")
                raise

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        if original == "cancellation":
            await waits(sim, handle.id, "sleep")
            await cancel(sim, handle.id)
        since_ms = sim.clock.now_ms()
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - since_ms < 3_600_000
        assert order(sim, "undo") == ["undo car", "undo hotel", "undo flight"]
        once(sim, "undo car", "undo flight")
        assert FOR_GOOD[how] <= sim.effects["undo hotel"] <= FOR_GOOD[how] + sim.interruptions
        (ended,) = order(sim, "ended")
        assert "hotel" in ended
        assert sim.effects[ended] > sim.mode.always_suspend, "the note is there in a replay too"
        return told(error)

    expected = CANCELLED if original == "cancellation" else ("TerminalError", "no visa", 403)
    assert check(services, scenario) == expected


def test_several_that_fail_for_good_are_all_noted() -> None:
    """Every compensation is tried, and every failure told, newest first, with what it said."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo_flight() -> None:
            raise TerminalError("flown already", 410)

        async def undo_hotel() -> None:
            raise TerminalError("no refund", 402)

        @handler(service="Trip")
        async def trip(ctx: Context) -> list[str]:
            try:
                async with ctx.saga() as saga:
                    saga.add_compensation(undo_flight)
                    saga.add_compensation(undo_hotel)
                    raise TerminalError("no visa", 403)
            except TerminalError as error:
                await ctx.sleep("1s")
                return [error.message, *error.__notes__]

        return [trip]

    async def scenario(sim: Sim) -> list[str]:
        result: list[str] = await sim.call("Trip/trip")
        return result

    message, first, second = check(services, scenario)
    assert message == "no visa"
    assert "undo_hotel" in first
    assert "no refund" in first
    assert "undo_flight" in second
    assert "flown already" in second


def test_the_options_of_a_compensation_are_those_of_a_step() -> None:
    """Its name is in the journal; a slow execution is given up and tried again by its own policy."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> str:
            if sim.effect("tries") == 1:
                await asyncio.sleep(3600)
            return "undone"

        @handler(service="Trip", retry=RetryPolicy(initial_interval="30d", max_interval="30d"))
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                retry = RetryPolicy(initial_interval="10s", max_attempts=2)
                saga.with_options(name="give the seat back", retry=retry, timeout="1m").add_compensation(undo)
                raise TerminalError("no visa", 403)

        return [trip]

    async def scenario(sim: Sim) -> list[tuple[str, str, str]]:
        handle = await sim.send("Trip/trip")
        since_ms = sim.clock.now_ms()
        assert told(await failure_of(sim.result(handle.id))) == ("TerminalError", "no visa", 403)
        elapsed_ms = sim.clock.now_ms() - since_ms
        assert elapsed_ms == 70_000 or (sim.interruptions and elapsed_ms < 140_000)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        return [(entry.kind, entry.name, entry.result) for entry in view.journal][1:-1]

    assert check(services, scenario) == [("run", "give the seat back", "success")]


def test_a_policy_that_kills_when_exhausted_runs_no_compensation() -> None:
    """Design 4.4: it completes with the original error; the handler is not asked any more."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            sim.effect("undone")

        @handler(service="Trip", retry=RetryPolicy(max_attempts=2, on_max_attempts="kill"))
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo)
                raise RuntimeError("always")

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, int]:
        error = await failure_of(sim.call("Trip/trip"))
        await asyncio.sleep(7200)
        assert not sim.effects
        return error.message, error.code

    assert check(services, scenario) == ("RuntimeError: always", 500)


def test_a_kill_ends_the_unwinding() -> None:
    """Design 4.3: what is not undone by then never is; what was undone stays so."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")
            if what == "b":
                await asyncio.sleep(3600)
                sim.effect("undone b")

        @handler(service="Trip")
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                for what in "abc":
                    saga.add_compensation(undo, what)
                raise TerminalError("no visa", 403)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await sim.until(lambda: sim.effects["undo b"] > 0)
        await asyncio.sleep(60)
        await kill(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        await asyncio.sleep(80_000)
        assert order(sim) == ["undo c", "undo b"]
        return told(error)

    assert check(services, scenario) == ("InvocationKilled", "killed", 409)


def test_the_unwinding_of_a_callee_is_part_of_the_callers_wait() -> None:
    """Design 4.1: the callee's compensations are over, retries and all, before the caller's begin."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            if what == "callee" and sim.effect("tries") < 3:
                raise RuntimeError("not yet")
            sim.effect(f"undo {what}")

        @handler(service="Callee", retry=ONE_HOUR)
        async def callee(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "callee")
                await ctx.awakeable()

        @handler(service="Caller")
        async def caller(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "caller")
                await ctx.call(callee)

        return [callee, caller]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Caller/caller")
        await waits(sim, (await sent(sim, "Callee")).id, "awakeable")
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert order(sim, "undo") == ["undo callee", "undo caller"]
        once(sim, "undo callee", "undo caller")
        return told(error)

    assert check(services, scenario) == CANCELLED
    _, sim = simulate(services, scenario)
    assert sim.trace == ["tries", "tries", "tries", "undo callee", "undo caller"]
