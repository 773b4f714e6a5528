"""Many at once: the same result in every mode, and each costs the same, however many they are."""

import asyncio
import contextvars
import gc
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Literal

import pytest

from durable import (
    Context,
    DurableFuture,
    DurableTimeoutError,
    Engine,
    InvocationCancelled,
    RetryPolicy,
    TerminalError,
    UsageError,
    as_completed,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.core.ids import awakeable_id
from durable.core.limits import Limits
from durable.core.world import WIDE
from durable.store.memory import MemoryStore
from durable.testing import Sim, VirtualClock, check, run
from tests.scenarios.support import engine_with, failure_of

Futures = Sequence[DurableFuture[int]]


async def by_gather(futures: Futures) -> list[int]:
    return list(await gather(*futures))


async def by_asyncio(futures: Futures) -> list[int]:
    return list(await asyncio.gather(*futures))


async def by_as_completed(futures: Futures) -> list[int]:
    return [await future async for future in as_completed(futures)]


async def by_as_completed_in_a_plain_for(futures: Futures) -> list[int]:
    return [await future for future in as_completed(*futures)]


async def by_wait_completed(futures: Futures) -> list[int]:
    found, left = [], list(futures)
    while left:
        [done], left = await wait_completed(*left)
        found.append(await done)
    return found


async def by_select(futures: Futures) -> list[int]:
    name, value = await select(**{f"f{place}": future for place, future in enumerate(futures)})
    others = await gather(*(future for place, future in enumerate(futures) if f"f{place}" != name))
    return [value, *others]


async def by_time_outs(futures: Futures) -> list[int]:
    return list(await gather(*(future.with_timeout("1h") for future in futures)))


HOW: dict[str, Callable[[Futures], Awaitable[list[int]]]] = {
    "gather": by_gather,
    "asyncio.gather": by_asyncio,
    "as_completed": by_as_completed,
    "a plain for": by_as_completed_in_a_plain_for,
    "wait_completed": by_wait_completed,
    "select": by_select,
    "time-outs": by_time_outs,
}
ways = pytest.mark.parametrize("how", HOW)


async def number_of(number: int) -> int:
    return number


def asked(ctx: Context, what: str, width: int) -> list[DurableFuture[int]]:
    if what == "steps":
        return [ctx.run(number_of, number) for number in range(width)]
    return [ctx.call("Wide/one", number) for number in range(width)]


@handler(service="Wide")
async def one(ctx: Context, number: int) -> int:
    return number


# ---- what comes out ----


@pytest.mark.parametrize("what", ["steps", "calls"])
def test_many_are_waited_for_in_every_way(what: str) -> None:
    """C-016: all in one scenario; each way must see each of them once, and a replay the same order."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Wide")
        async def all_ways(ctx: Context) -> int:
            total = 0
            for wait in HOW.values():
                order = await wait(asked(ctx, what, 5))
                assert sorted(order) == list(range(5))
                total += sum(place * number for place, number in enumerate(order, 1))  # the order counts
                assert await ctx.run(number_of, total) == total, "a replay saw another order"
            return len(HOW)

        return [all_ways, one]

    async def scenario(sim: Sim) -> int:
        found: int = await sim.call("Wide/all_ways")
        return found

    assert check(services, scenario) == len(HOW)


def test_a_suspended_handler_with_more_open_entries_than_are_read_again_wakes_with_the_last() -> None:
    """It stays in the core's memory meanwhile, but where that is full; a crash loses nothing."""
    width = WIDE + 2

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Wide")
        async def waits(ctx: Context) -> int:
            awakeables = [ctx.awakeable(int) for _ in range(width)]
            return sum(await gather(*awakeables))

        return [waits]

    async def scenario(sim: Sim) -> int:
        handle = await sim.send("Wide/waits")
        await asyncio.sleep(1)
        for number in (*range(2, width + 1), 1):
            id = awakeable_id(handle.id, number)
            await sim.repeat(lambda engine, id=id, number=number: engine.resolve_awakeable(id, number))  # type: ignore[misc]
        found: int = await sim.result(handle.id)
        return found

    assert check(services, scenario, most=4) == width * (width + 1) // 2


# ---- as asyncio's ----


def test_as_completed_takes_what_asyncios_does() -> None:
    """Futures, a list or a generator of them; `async for` gives the futures, a plain `for` their results."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Wide")
        async def takes(ctx: Context) -> list[Any]:
            futures = {name: ctx.sleep(seconds) for name, seconds in (("b", 2), ("a", 1), ("c", 3))}
            names = {future: name for name, future in futures.items()}
            seen: list[Any] = [names[future] async for future in as_completed(list(futures.values()))]
            seen += [names[future] async for future in as_completed(future for future in futures.values())]
            seen += [await result for result in as_completed([ctx.run(number_of, 7)])]
            nothing: list[DurableFuture[int]] = []
            seen += [one async for one in as_completed(nothing)]
            seen += list(as_completed())
            both = [ctx.run(number_of, 1), ctx.run(number_of, 2)]
            seen.append(await gather(*as_completed(both)))  # all that a plain `for` gives, at once
            return seen

        return [takes]

    async def scenario(sim: Sim) -> list[Any]:
        found: list[Any] = await sim.call("Wide/takes")
        return found

    assert check(services, scenario) == ["a", "b", "c", "a", "b", "c", 7, [1, 2]]


@pytest.mark.parametrize("loop", ["async for", "for"])
def test_a_time_out_of_as_completed_is_durable(loop: Literal["async for", "for"]) -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Wide")
        async def hurries(ctx: Context) -> tuple[int, str]:
            futures = [ctx.sleep(seconds) for seconds in (1, 2, 30, 40)]
            seen = 0
            try:
                if loop == "async for":
                    async for _ in as_completed(futures, timeout="10s"):
                        seen += 1
                else:
                    for result in as_completed(*futures, timeout="10s"):
                        await result
                        seen += 1
            except TimeoutError as error:
                return seen, type(error).__name__
            return seen, ""

        @handler(service="Wide")
        async def all_late(ctx: Context) -> list[str]:
            late = await gather(
                *as_completed([ctx.sleep(1), ctx.sleep(30), ctx.sleep(40)], timeout=2), return_exceptions=True
            )
            return [type(one).__name__ for one in late]

        return [hurries, all_late]

    async def scenario(sim: Sim) -> Any:
        return await sim.call("Wide/hurries"), await sim.call("Wide/all_late")

    late = ["NoneType", DurableTimeoutError.__name__, DurableTimeoutError.__name__]
    assert check(services, scenario) == ((2, DurableTimeoutError.__name__), late)


@pytest.mark.parametrize("wrong", [7, "text", ["text"], [None]])
def test_as_completed_refuses_what_is_no_future(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"as_completed\(\) takes what ctx.run\(\)"):
        as_completed(wrong)


def test_an_error_among_many_comes_out_of_each_way() -> None:
    async def fails_at_three(number: int) -> int:
        if number == 3:
            raise TerminalError("three")
        return number

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Wide")
        async def fails(ctx: Context, how: str) -> list[int]:
            return await HOW[how]([ctx.run(fails_at_three, number) for number in range(6)])

        return [fails]

    async def scenario(sim: Sim) -> list[str]:
        return [(await failure_of(sim.call("Wide/fails", how))).message for how in HOW if how != "select"]

    assert check(services, scenario, most=6) == ["three"] * (len(HOW) - 1)


# ---- what each costs ----


class Calls:
    """How many functions are called meanwhile: a measure that no load changes."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "Calls":
        gc.collect()
        gc.disable()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        self.count += 1


def calls_of(width: int, how: str, what: str) -> int:
    """From the request to its answer."""
    calls = Calls()

    @handler(service="Wide", inactivity_timeout="1h")
    async def many(ctx: Context) -> int:
        return len(await HOW[how](asked(ctx, what, width)))

    async def story() -> None:
        async with engine_with(many, one) as engine:
            with calls:
                assert await engine.call(many) == width

    run(story)
    return calls.count


@pytest.mark.parametrize("what", ["steps", "calls"])
@ways
def test_each_of_many_costs_the_same(how: str, what: str) -> None:
    few, many = 60, 360
    assert calls_of(many, how, what) / many < 1.1 * calls_of(few, how, what) / few


def calls_of_a_cancel(width: int, what: str, inactivity_timeout: str | int) -> int:
    """From the cancel to the end of all that it reaches."""
    calls = Calls()

    async def long(number: int) -> int:
        await asyncio.sleep(1000)
        return number

    @handler(service="Wide")
    async def sleeps(ctx: Context, number: int) -> int:
        await ctx.sleep("1h")
        return number

    @handler(service="Wide")
    async def many(ctx: Context) -> None:
        options = ctx.with_options(interruptible=what == "interruptible steps")
        work = [ctx.call(sleeps, n) if what == "calls" else options.run(long, n) for n in range(width)]
        await gather(*work)

    async def story() -> None:
        async with engine_with(many, sleeps, inactivity_timeout=inactivity_timeout) as engine:
            handle = await engine.send(many)
            await asyncio.sleep(10)
            with calls:
                await engine.cancel(handle.id)
                with suppress(InvocationCancelled):  # not where its steps end, and with them all that it does
                    await handle.result()

    run(story)
    return calls.count


@pytest.mark.parametrize("what", ["calls", "steps", "interruptible steps"])
@pytest.mark.parametrize("inactivity_timeout", [0, "1h"])
def test_a_cancel_of_many_costs_each_the_same(what: str, inactivity_timeout: str | int) -> None:
    few, many = 60, 240
    each_of_few = calls_of_a_cancel(few, what, inactivity_timeout) / few
    assert calls_of_a_cancel(many, what, inactivity_timeout) / many < 1.1 * each_of_few


def callbacks_of_gathers(future: Any, width: int) -> list[Callable[[], object]]:
    gathers = [asyncio.gather(future) for _ in range(width)]
    for one in gathers:
        one.add_done_callback(lambda done: done.cancelled() or done.exception())
    return [one.cancel for one in gathers]


def callbacks_of_ones_own(future: Any, width: int) -> list[Callable[[], object]]:
    functions: list[Callable[[object], object]] = [lambda one: None for _ in range(width)]
    for one in functions:
        future.add_done_callback(one)
    return [partial(future.remove_done_callback, one) for one in functions]


def calls_of_callbacks(width: int, add: Callable[[Any, int], list[Callable[[], object]]], *, told: bool) -> int:
    """So many are added to one future; it completes, or each of them is taken back."""
    calls = Calls()

    @handler(service="Wide", inactivity_timeout="1h")
    async def waits(ctx: Context) -> None:
        shared = ctx.sleep(10)
        ends = add(shared, width)
        await ctx.sleep(1)
        with calls:
            for end in ends:
                if not told:
                    end()
            await shared
            await ctx.sleep(1)  # they are told after those that await it

    async def story() -> None:
        async with engine_with(waits) as engine:
            await engine.call(waits)

    run(story)
    return calls.count


@pytest.mark.parametrize("told", [True, False], ids=["told", "taken back"])
@pytest.mark.parametrize("add", [callbacks_of_gathers, callbacks_of_ones_own], ids=["gathers", "one's own"])
def test_each_of_many_callbacks_of_one_future_costs_the_same(
    add: Callable[[Any, int], list[Callable[[], object]]], told: bool
) -> None:
    """Two thousand that were cancelled one by one held up the event loop for seconds."""
    few, many = 100, 400
    assert calls_of_callbacks(many, add, told=told) / many < 1.1 * calls_of_callbacks(few, add, told=told) / few


def test_futures_of_futures_have_hashes_of_their_own_that_cost_little() -> None:
    """All of `as_completed` had the same one, so a gather of them took long; nested ones asked each member again."""

    @handler(service="Wide")
    async def many(ctx: Context) -> list[bool]:
        timers = [ctx.sleep(1) for _ in range(100)]
        each = list(as_completed(timers))
        nested: DurableFuture[Any] = ctx.sleep("1d")
        for _ in range(12):
            nested = gather(nested, nested, return_exceptions=True)
        with Calls() as calls:
            hash(nested)
        return [len(set(map(hash, each))) == 100, calls.count < 200, len(await asyncio.gather(*each)) == 100]

    async def story() -> None:
        async with engine_with(many) as engine:
            assert await engine.call(many) == [True, True, True]

    run(story)


def calls_of_arrivals(width: int) -> int:
    """Half of what a suspended handler waits for comes, one by one."""
    calls = Calls()

    @handler(service="Wide", inactivity_timeout=0)
    async def waits(ctx: Context) -> None:
        await gather(*(ctx.awakeable(int).with_timeout("1d") for _ in range(width)))

    async def story() -> None:
        async with engine_with(waits) as engine:
            handle = await engine.send(waits)
            await asyncio.sleep(1)
            assert (await handle.describe()).status == "suspended"
            await engine.resolve_awakeable(awakeable_id(handle.id, 1), 1)  # read, and kept in memory from now on
            with calls:
                for number in range(3, width, 2):
                    await engine.resolve_awakeable(awakeable_id(handle.id, number), number)

    run(story)
    return calls.count


def test_what_arrives_costs_a_suspended_handler_the_same_however_much_it_waits_for() -> None:
    few, many = 4 * WIDE, 16 * WIDE
    assert calls_of_arrivals(many) / many < 1.1 * calls_of_arrivals(few) / few


# ---- a crowd that has not begun yet ----


@pytest.mark.parametrize("how", ["cancel", "kill", "pause", "fails", "close"])
@pytest.mark.parametrize("what", ["steps", "interruptible steps", "flows"])
def test_a_crowd_of_steps_that_is_about_to_begin_meets_an_end(how: str, what: str) -> None:
    """One of them begins in each round of the event loop here: most have not when the end comes."""
    width, begun = 200, Counter[int]()

    async def note(number: int) -> int:
        begun[number] += 1
        await asyncio.sleep(0.01)
        if how == "fails" and number == 3 and begun[3] == 1:
            raise ConnectionError("once")
        return number

    @handler(service="Wide", retry=RetryPolicy(initial_interval="1s"))
    async def many(ctx: Context) -> int:
        steps = ctx.with_options(interruptible=what == "interruptible steps")
        if what == "flows":

            async def flow(number: int) -> int:
                return await steps.run(note, number)

            return sum(await asyncio.gather(*(flow(number) for number in range(width))))
        return sum(await gather(*(steps.run(note, number) for number in range(width))))

    async def story() -> None:
        store, clock = MemoryStore(), VirtualClock(asyncio.get_running_loop())
        options: dict[str, Any] = {"services": [many], "store": store, "clock": clock, "limits": Limits(begun=1)}
        engine = await Engine(**options).start()
        handle = await engine.send(many)
        while len(begun) < 5:  # noqa: ASYNC110 (a step says so)
            await asyncio.sleep(0)
        ran = len(begun)
        assert ran < width // 2
        if how in ("cancel", "kill"):
            await engine.cancel(handle.id, kill=how == "kill")
            with suppress(
                TerminalError
            ):  # a cancel lets steps end that cannot be interrupted, and with them all is done
                await handle.result()
            assert (len(begun) < width) == (what == "interruptible steps" or how == "kill")
        elif how == "pause":
            await engine.pause(handle.id)
            await asyncio.sleep(10)
            assert (await handle.describe()).status == "paused"
            assert len(begun) < width, "those that had not begun wait"
            await engine.resume(handle.id)
        elif how == "close":
            await engine.close()
            engine = await Engine(**options | {"store": MemoryStore(store.tables)}).start()
            handle = engine.invocation(handle.id, int)
        if how not in ("cancel", "kill"):
            assert await handle.result() == width * (width - 1) // 2
            assert max(begun.values()) <= 2
            assert sum(begun.values()) <= width + 1, "what was done is not done again"
        await engine.close()

    run(story)


def test_flows_that_are_cancelled_before_their_step_began_never_begin_it() -> None:
    """As those whose step runs by then: what the task group gives up is cancelled in the journal, and in a replay."""

    def services(sim: Sim) -> Iterable[object]:
        async def work(number: int) -> int:
            sim.effect(str(number))
            if number == 0:
                raise TerminalError("no")
            await asyncio.sleep(1)
            return number

        @handler(service="Wide", retry=RetryPolicy(max_attempts=1, on_max_attempts="kill"))
        async def many(ctx: Context) -> str:
            async def flow(number: int) -> None:
                await ctx.run(work, number)

            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(6):
                        group.create_task(flow(number))
            except ExceptionGroup as errors:
                return str(errors.exceptions[0])
            return "all"

        return [many]

    async def scenario(sim: Sim) -> str:
        found: str = await sim.call("Wide/many")
        return found

    assert check(services, scenario) == "no"


@pytest.mark.parametrize("at_once", [1, 100])
def test_a_time_out_that_fires_before_the_step_of_a_flow_began_is_refused_as_any_other(at_once: int) -> None:
    width = 20

    @handler(service="Wide")
    async def many(ctx: Context) -> None:
        async def flow(number: int) -> int:
            async with asyncio.timeout(0 if number == width - 1 else None):
                return await ctx.run(number_of, number)

        await asyncio.gather(*(flow(number) for number in range(width)))

    async def story() -> None:
        async with engine_with(many, limits=Limits(begun=at_once)) as engine:
            handle = await engine.send(many)
            await asyncio.sleep(0.01)
            found = await handle.describe()
            assert found.status == "paused"
            assert "with_timeout" in str(found.last_failure)

    run(story)


def test_of_a_crowd_of_flows_so_many_execute_their_step_in_one_round() -> None:
    width, at_once = 50, 10
    begun: list[int] = []
    most = 0

    async def note(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(100)
        return number

    @handler(service="Wide")
    async def many(ctx: Context) -> int:
        async def flow(number: int) -> int:
            return await ctx.run(note, number)

        return sum(await asyncio.gather(*(flow(number) for number in range(width))))

    async def story() -> None:
        nonlocal most
        async with engine_with(many, limits=Limits(begun=at_once)) as engine:
            handle = await engine.send(many)
            while len(begun) < width:
                before = len(begun)
                await asyncio.sleep(0)
                most = max(most, len(begun) - before)
            assert await handle.result() == width * (width - 1) // 2

    run(story)
    assert begun == list(range(width))
    assert most <= 2 * at_once, "some before this task has its turn in a round, and some after it"


@pytest.mark.parametrize(
    ("limits", "turns"),
    [(Limits(), 1), (Limits(replayed=10), 5), (Limits(replayed_s=-1), 50)],
    ids=["all in one", "so many at once", "for so long"],
)
def test_a_long_replay_gives_the_event_loop_its_turn(limits: Limits, turns: int) -> None:
    """Where the handler's own code takes 2 ms between two steps, 100 of them held up everybody else for 200 ms."""
    seen: list[set[int]] = []

    @handler(service="Wide", inactivity_timeout=0)
    async def long(ctx: Context) -> None:
        loop, rounds, goes_on = asyncio.get_running_loop(), 0, True

        def count() -> None:
            nonlocal rounds
            rounds += 1
            if goes_on:
                loop.call_soon(count, context=contextvars.Context())  # it is none of its flows

        count()
        seen.append(set())
        for number in range(50):
            await ctx.run(number_of, number)
            seen[-1].add(rounds)
        goes_on = False
        await ctx.sleep(1)

    async def story() -> None:
        async with engine_with(long, limits=limits) as engine:
            await engine.call(long)

    run(story)
    assert len(seen) == 2
    assert len(seen[1]) == turns
