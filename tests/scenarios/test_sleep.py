"""C-020 to C-024: timers are due at a moment that is stored once, and fire once, in their order."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import Context, gather, handler
from durable.core.limits import Limits
from durable.testing import Sim, VirtualLoop, check
from tests.scenarios.support import once


def sleeper(sim: Sim) -> Iterable[object]:
    """A handler that sleeps for so many seconds."""

    @handler(service="Sleeper")
    async def sleep(ctx: Context, seconds: float) -> str:
        await ctx.sleep(seconds)
        return "awake"

    return [sleep]


def test_a_sleep_takes_its_time() -> None:
    """C-020: a sleep of 10 ms takes at least 10 ms."""

    async def scenario(sim: Sim) -> str:
        started_at = sim.clock.now_ms()
        result: str = await sim.call("Sleeper/sleep", 0.01)
        assert sim.clock.now_ms() - started_at >= 10
        return result

    assert check(sleeper, scenario) == "awake"


def test_sleeps_of_zero_or_less_return_at_once_and_are_journaled() -> None:
    """C-020: sleeps of 0, -1 and -3600 seconds take no time, and each has its entry."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Sleeper")
        async def nap(ctx: Context) -> str:
            for seconds in (0, -1, -3600):
                await ctx.sleep(seconds)
            return "awake"

        return [nap]

    async def scenario(sim: Sim) -> list[tuple[str, str]]:
        started_at = sim.clock.now_ms()
        handle = await sim.send("Sleeper/nap")
        assert await sim.result(handle.id) == "awake"
        # a client that asks again after a crash waits a millisecond before it does
        assert sim.clock.now_ms() - started_at <= 10 * sim.interruptions
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        return [(entry.kind, entry.result) for entry in view.journal]

    assert check(services, scenario) == [
        ("input", "done"),
        ("sleep", "success"),
        ("sleep", "success"),
        ("sleep", "success"),
        ("output", "success"),
    ]


def test_a_thousand_concurrent_sleeps_all_end() -> None:
    """C-021: fifty invocations of twenty sleeps each, of 10 to 50 ms; with one timer in memory, too."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Sleeper")
        async def many(ctx: Context, number: int) -> int:
            await gather(*(ctx.sleep(f"{10 + (number * 20 + one) * 7 % 41}ms") for one in range(20)))
            return number

        return [many]

    async def scenario(sim: Sim) -> list[int]:
        started_at = sim.clock.now_ms()
        handles = await asyncio.gather(*(sim.send("Sleeper/many", number) for number in range(50)))
        results: list[int] = await asyncio.gather(*(sim.result(handle.id) for handle in handles))
        assert sim.clock.now_ms() - started_at >= 50
        assert not sim.tables.timers
        return results

    assert check(services, scenario, most=3) == list(range(50))


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "stopped"])
def test_a_sleep_goes_on_through_a_restart_and_is_not_begun_again(crash: bool) -> None:
    """C-022: a sleep of 4 s, interrupted after 1.5 s and continued at once, is over after 4 s."""

    async def scenario(sim: Sim) -> str:
        started_at = sim.clock.now_ms()
        handle = await sim.send("Sleeper/sleep", 4)
        await asyncio.sleep(1.5)
        await sim.restart(crash=crash)
        result: str = await sim.result(handle.id)
        assert 4000 <= sim.clock.now_ms() - started_at < 4100
        return result

    assert check(sleeper, scenario) == "awake"


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "stopped"])
def test_a_sleep_that_ended_while_the_process_was_down_is_over_at_once(crash: bool) -> None:
    """C-023: a sleep of 2 s; the process is down from 1 s to 10 s."""

    async def scenario(sim: Sim) -> str:
        started_at = sim.clock.now_ms()
        handle = await sim.send("Sleeper/sleep", 2)
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.jump(9)  # no callback runs between this and the end of the engine: it sleeps through its timer
        await sim.restart(crash=crash)
        result: str = await sim.result(handle.id)
        assert 10_000 <= sim.clock.now_ms() - started_at < 10_100
        return result

    assert check(sleeper, scenario) == "awake"


@pytest.mark.parametrize("in_memory", [1, 2, 100])
def test_timers_fire_in_the_order_of_their_moments_and_only_once(in_memory: int) -> None:
    """C-024: due in 5, 2, 9 and then 0 s; when some have fired, earlier ones than those left are added."""

    def services(sim: Sim) -> Iterable[object]:
        async def note(name: str) -> None:
            sim.effect(name)

        @handler(service="Alarm")
        async def ring(ctx: Context, name: str) -> None:
            await ctx.run(note, name)

        return [ring]

    async def scenario(sim: Sim) -> list[str]:
        handles = [await sim.send("Alarm/ring", f"{due} s", delay=due) for due in (5, 2, 9, 0)]
        await asyncio.sleep(3)
        handles += [await sim.send("Alarm/ring", f"{3 + due} s", delay=due) for due in (1, 0)]
        for handle in handles:
            await sim.result(handle.id)
        once(sim, "0 s", "2 s", "3 s", "4 s", "5 s", "9 s")
        await asyncio.sleep(60)
        once(sim, "0 s", "2 s", "3 s", "4 s", "5 s", "9 s")
        return list(dict.fromkeys(sim.trace))

    fired = check(services, scenario, limits=Limits(timers=in_memory))
    assert fired == ["0 s", "2 s", "3 s", "4 s", "5 s", "9 s"]
