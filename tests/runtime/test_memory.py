"""What is over is freed at once: without the garbage collector, which comes late after a burst."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from durable import Context, DurableFuture, Engine, RetryPolicy, gather, handler
from durable.core.limits import Limits
from durable.runtime.attempt import Attempt
from durable.testing import MemoryStore, VirtualClock, run


async def one() -> int:
    return 1


@handler(service="Memory")
async def sleeps(ctx: Context) -> None:
    await ctx.sleep("1d")


@handler(service="Memory")
async def works_and_sleeps(ctx: Context) -> None:
    assert await ctx.run(one) == 1
    await ctx.sleep("1d")


@handler(service="Memory")
async def sleeps_in_flows(ctx: Context) -> None:
    await gather(ctx.sleep("1d"), ctx.sleep("2d"))


@handler(service="Memory")
async def calls(ctx: Context) -> None:
    await ctx.call(sleeps)


@handler(service="Memory")
async def returns(ctx: Context) -> int:
    return await ctx.run(one)


@handler(service="Memory", retry=RetryPolicy(initial_interval="1d"))
async def fails(ctx: Context) -> None:
    await ctx.run(one)
    raise ValueError("no")


@contextmanager
def uncollected() -> Iterator[None]:
    """What is freed meanwhile is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def attempts() -> set[int]:
    return {id(found) for found in gc.get_objects() if isinstance(found, Attempt)}


@pytest.mark.parametrize("target", [sleeps, works_and_sleeps, sleeps_in_flows, calls, returns, fails])
def test_an_attempt_that_is_over_is_freed_without_the_garbage_collector(
    target: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("durable.invocation"), "propagate", False)  # pytest keeps the exceptions

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        services = [sleeps, works_and_sleeps, sleeps_in_flows, calls, returns, fails]
        async with Engine(services=services, store=MemoryStore(), clock=clock, inactivity_timeout=0) as engine:
            for _ in range(20):
                await engine.send(f"Memory/{target.name}")  # type: ignore[attr-defined]
            await asyncio.sleep(1)
            assert await engine.invocations(status=["running", "ready"]) == []
            assert attempts() <= before

    gc.collect()
    before = attempts()  # of other tests, whose exceptions somebody keeps
    with uncollected():
        run(story)


@pytest.mark.parametrize("flows", ["a gather that a variable holds", "a task group", "steps in flows"])
def test_the_flows_of_a_suspended_handler_are_freed_without_the_garbage_collector(flows: str) -> None:
    """Ten thousand of them were 170,000 objects that held each other, and for so long the event loop stood still."""

    @handler(service="Memory")
    async def many(ctx: Context) -> None:
        async def flow() -> None:
            await ctx.run(one)
            await ctx.sleep("1d")

        if flows == "a task group":
            async with asyncio.TaskGroup() as group:
                for _ in range(100):
                    group.create_task(flow())
        all_of_them = asyncio.gather(*(flow() if flows == "steps in flows" else ctx.sleep("1d") for _ in range(100)))
        await all_of_them

    def futures() -> int:
        return sum(issubclass(type(found), DurableFuture) for found in gc.get_objects())

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[many], store=MemoryStore(), clock=clock, inactivity_timeout=0) as engine:
            before = futures()
            handle = await engine.send(many)
            await asyncio.sleep(1)
            assert (await handle.describe()).status == "suspended"
            assert futures() <= before

    with uncollected():
        run(story)


def test_a_wide_gather_that_is_cancelled_is_freed_without_the_garbage_collector() -> None:
    """The error that it raises has the handler's frame, which has the futures: they must not have that error."""

    @handler(service="Memory")
    async def many(ctx: Context) -> None:
        timers = [ctx.sleep("1d") for _ in range(100)]
        await asyncio.gather(*timers)

    def futures() -> int:
        return sum(issubclass(type(found), DurableFuture) for found in gc.get_objects())

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[many], store=MemoryStore(), clock=clock) as engine:
            before = futures()
            handle = await engine.send(many)
            await asyncio.sleep(1)
            await engine.cancel(handle.id)
            await asyncio.sleep(1)
            assert (await handle.describe()).status == "completed"
            assert futures() <= before

    with uncollected():
        run(story)


def test_a_handler_may_do_to_the_error_that_unloads_it_what_it_likes() -> None:
    class Odd(BaseException):
        def __setattr__(self, name: str, value: object) -> None:
            raise AssertionError(name)

    @handler(service="Memory")
    async def odd(ctx: Context, how: str) -> str:
        try:
            await ctx.sleep("1d")
        except BaseException as error:
            other = ValueError("beside it")
            other.__context__ = error
            error.__context__ = other
            raise (Odd() if how == "another error" else error)  # noqa: B904
        return "slept"

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[odd], store=MemoryStore(), clock=clock, inactivity_timeout=0) as engine:
            for how in ("a circle", "another error"):
                assert await engine.call(odd, how) == "slept"

    run(story)


def test_a_burst_is_taken_a_few_at_a_time_and_in_its_order() -> None:
    order: list[int] = []

    @handler(service="Memory")
    async def note(ctx: Context, number: int) -> None:
        order.append(number)

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        limits = Limits(door=10, turn=7, ready=5)
        engine = Engine(
            services=[note], store=MemoryStore(), clock=clock, limits=limits, max_concurrent_invocations=3
        )
        async with engine:
            loop = engine._running()
            most = in_memory = 0

            async def send(number: int) -> None:
                nonlocal most, in_memory
                await engine.send(note, number)
                most = max(most, loop.queued)
                in_memory = max(in_memory, len(loop.world.invocations))

            await asyncio.gather(*(send(number) for number in range(500)))
            await asyncio.sleep(10)
            assert await engine.count_invocations(status="completed") == {"completed": 500}
            assert most <= 2 * limits.door + 2 * 3, "what is under way, and what waits to be taken"
            assert in_memory <= limits.turn + limits.ready + 3 + 3

    run(story)
    assert order == list(range(500))


def test_who_waits_at_the_door_when_the_engine_closes_is_told() -> None:
    from durable import EngineNotRunningError

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        engine = Engine(services=[returns], store=MemoryStore(), clock=clock, limits=Limits(door=1, turn=1))
        await engine.start()
        sent = [asyncio.ensure_future(engine.send(returns)) for _ in range(50)]
        await asyncio.sleep(0)
        await engine.close()
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert {type(answer) for answer in answers if isinstance(answer, BaseException)} == {EngineNotRunningError}

    run(story)
