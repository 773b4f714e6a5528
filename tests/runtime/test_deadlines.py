"""R-12: a time-out of asyncio or anyio around a durable wait is refused when the wait begins, however long it is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import Any

import anyio
import pytest

from durable import Context, Engine, RetryPolicy, handler
from durable.runtime.deadlines import around
from durable.testing import MemoryStore, Sim, simulate
from tests.runtime.support import settled

LONG = 3600.0
Way = Callable[[Context], Awaitable[object]]
REFUSED: dict[str, Way] = {}
ACCEPTED: dict[str, Way] = {}


def refused(way: Way) -> Way:
    REFUSED[str(getattr(way, "__name__", "")).replace("_", " ")] = way
    return way


def accepted(way: Way) -> Way:
    ACCEPTED[str(getattr(way, "__name__", "")).replace("_", " ")] = way
    return way


async def work() -> str:
    await asyncio.sleep(0.01)
    return "worked"


async def waits(ctx: Context) -> None:
    await ctx.sleep("1d")


@refused
async def a_timeout_around_a_step(ctx: Context) -> None:
    async with asyncio.timeout(LONG):
        await ctx.run(work)


@refused
async def a_timeout_around_an_awakeable(ctx: Context) -> None:
    async with asyncio.timeout(LONG):
        await ctx.awakeable()


@refused
async def a_timeout_around_a_call_deep_below(ctx: Context) -> None:
    async def inner() -> None:
        async with ctx.saga():
            await waits(ctx)

    async with asyncio.timeout(LONG):
        await inner()


@refused
async def wait_for(ctx: Context) -> None:
    await asyncio.wait_for(ctx.awakeable(), LONG)


@refused
async def wait_for_a_coroutine(ctx: Context) -> None:
    await asyncio.wait_for(waits(ctx), LONG)


@refused
async def wait_for_gathered_flows(ctx: Context) -> None:
    await asyncio.wait_for(asyncio.gather(waits(ctx), waits(ctx)), LONG)


@refused
async def wait_for_a_shielded_flow(ctx: Context) -> None:
    await asyncio.wait_for(asyncio.shield(waits(ctx)), LONG)


@refused
async def a_timeout_around_gathered_flows(ctx: Context) -> None:
    async with asyncio.timeout(LONG):
        await asyncio.gather(waits(ctx), waits(ctx))


@refused
async def a_timeout_around_a_group(ctx: Context) -> None:
    async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
        group.create_task(waits(ctx))


@refused
async def a_timeout_around_flows_of_flows(ctx: Context) -> None:
    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits(ctx))

    async with asyncio.timeout(LONG):
        await asyncio.gather(flow())


@refused
async def a_timeout_around_a_task(ctx: Context) -> None:
    task = asyncio.create_task(waits(ctx))
    async with asyncio.timeout(LONG):
        await task


@refused
async def wait_with_a_timeout(ctx: Context) -> None:
    await asyncio.wait([asyncio.create_task(waits(ctx))], timeout=LONG)


@refused
async def as_completed_with_a_timeout(ctx: Context) -> None:
    for one in asyncio.as_completed([waits(ctx)], timeout=LONG):
        await one


@asynccontextmanager
async def limited() -> AsyncIterator[None]:
    async with asyncio.timeout(LONG):
        yield


@refused
async def a_manager_with_a_timeout(ctx: Context) -> None:
    async with limited():
        await waits(ctx)


@refused
async def a_stack_with_a_timeout(ctx: Context) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limited())
        await waits(ctx)


@refused
async def a_generator_in_between(ctx: Context) -> None:
    async def each() -> AsyncIterator[int]:
        await waits(ctx)
        yield 1

    async with asyncio.timeout(LONG):
        async for _ in each():
            pass


@refused
async def fail_after(ctx: Context) -> None:
    with anyio.fail_after(LONG):
        await waits(ctx)


@refused
async def move_on_after(ctx: Context) -> None:
    with anyio.move_on_after(LONG):
        await waits(ctx)


@refused
async def fail_after_around_a_group(ctx: Context) -> None:
    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            group.start_soon(waits, ctx)


@accepted
async def a_timeout_without_an_end(ctx: Context) -> None:
    async with asyncio.timeout(None):
        await ctx.run(work)
    await asyncio.wait_for(ctx.run(work), None)


@accepted
async def a_timeout_that_is_over(ctx: Context) -> None:
    limit = asyncio.timeout(LONG)
    async with limit:
        await asyncio.sleep(0)
    await ctx.run(work)


@accepted
async def a_timeout_in_a_step(ctx: Context) -> None:
    async def limited_work() -> None:
        async with asyncio.timeout(LONG):
            await asyncio.wait_for(work(), LONG)

    async with ctx.saga():
        await ctx.run(limited_work)
    await ctx.with_options(timeout="1h").run(work)


@accepted
async def a_timeout_around_something_else_beside_a_flow_that_waits(ctx: Context) -> None:
    flow = asyncio.create_task(one_step(ctx))
    async with asyncio.timeout(LONG):
        await asyncio.sleep(0.03)
    await flow


@accepted
async def a_timeout_inside_of_a_group_with_a_flow_that_waits(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(one_step(ctx))
        async with asyncio.timeout(LONG):
            await asyncio.sleep(0.03)


async def one_step(ctx: Context) -> None:
    with nullcontext():
        await ctx.run(work)


@accepted
async def a_cancel_scope_without_a_deadline(ctx: Context) -> None:
    with anyio.CancelScope():
        await ctx.run(work)


@contextmanager
def plain() -> Any:
    yield


@accepted
async def managers_that_limit_nothing(ctx: Context) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(plain())
        await ctx.run(work)


@handler(service="S", retry=RetryPolicy(max_attempts=1))
async def go(ctx: Context, name: str) -> None:
    await (REFUSED | ACCEPTED)[name](ctx)


#: What it is called, by a word in the name of the way.
KINDS = {
    "wait for": "an asyncio.wait_for(timeout=…)",
    "wait with": "an asyncio.wait(timeout=…)",
    "as completed": "an asyncio.as_completed(timeout=…)",
    "fail after": "a deadline of anyio",
    "move on": "a deadline of anyio",
}


def lines_of(way: Way) -> set[int]:
    """The lines of its body."""
    code = way.__code__
    return {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}


@pytest.mark.parametrize("name", REFUSED)
def test_a_time_out_is_refused_at_once_and_named(name: str) -> None:
    async def story() -> None:
        async with Engine(services=[go], store=MemoryStore()) as engine:
            view = await settled(engine, (await engine.send(go, name)).id)
            failure = view.last_failure
            assert view.status == "paused"
            assert failure is not None
            assert failure.reason == "misuse"
            assert "with_timeout" in failure.message
            kind = next((kind for word, kind in KINDS.items() if word in name), "a Timeout")
            said = f"(It is {kind} at {__file__}:"
            assert said in failure.message
            line = int(failure.message.partition(said)[2].removesuffix(".)"))
            assert line in lines_of(REFUSED[name])

    asyncio.run(story())


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_limits_no_durable_wait_is_accepted(name: str) -> None:
    async def story() -> None:
        async with Engine(services=[go], store=MemoryStore()) as engine:
            await engine.call(go, name)

    asyncio.run(story())


def test_the_step_that_had_begun_is_recorded_and_does_not_run_again() -> None:
    async def story() -> None:
        async with Engine(services=[go], store=MemoryStore()) as engine:
            id = (await engine.send(go, "a timeout around a step")).id
            view = await settled(engine, id)
            assert [(one.name, one.value) for one in view.journal if one.kind == "run"] == [("work", b'"worked"')]

    asyncio.run(story())


def test_a_time_out_that_is_longer_than_the_inactivity_timeout_is_refused_too() -> None:
    """It is set when the flow waits already, and would be gone with the handler's memory."""

    @handler(service="S", inactivity_timeout="1s")
    async def late(ctx: Context) -> None:
        task = asyncio.create_task(waits(ctx))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with asyncio.timeout(LONG):
            await task

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("S/late")
        await sim.until(lambda: sim_paused(sim, handle.id))
        return (await sim.repeat(lambda engine: engine.describe(handle.id))).last_failure

    async def sim_paused(sim: Sim, id: str) -> bool:
        return (await sim.repeat(lambda engine: engine.describe(id))).status == "paused"

    failure, _ = simulate(lambda sim: [late], scenario)
    assert failure.reason == "misuse"


def test_nothing_is_found_around_tasks_that_do_not_wait_for_the_engine() -> None:
    async def story() -> None:
        other = asyncio.create_task(limited_sleep())
        await asyncio.sleep(0)
        assert around([other, None], other) is None
        other.cancel()

    async def limited_sleep() -> None:
        async with asyncio.timeout(LONG):
            await asyncio.sleep(LONG)

    asyncio.run(story())
