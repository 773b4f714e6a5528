"""R-12: a time-out of asyncio or anyio around a durable wait is refused when the wait begins, however long it is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from types import CodeType
from typing import Any

import anyio
import pytest
import uvloop

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
async def a_timeout_around_each_that_comes(ctx: Context) -> None:
    async with asyncio.timeout(LONG):
        for one in asyncio.as_completed([ctx.sleep("1d"), ctx.sleep("2d")]):
            await one


@refused
async def wait_for_each_that_comes(ctx: Context) -> None:
    for one in asyncio.as_completed([ctx.sleep("1d"), ctx.awakeable()]):
        await asyncio.wait_for(one, LONG)


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


class Limited:
    """A manager whose time-out stands in no frame: it is entered by a method that has returned since."""

    def __init__(self, seconds: float | None = LONG) -> None:
        self.timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self.timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self.timeout.__aexit__(*error)


class LimitedByAnyio:
    def __enter__(self) -> None:
        self.scope = anyio.move_on_after(LONG)
        self.scope.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.scope.__exit__(*error)


class Cancelling:
    """A time-out of somebody's own making."""

    def __enter__(self) -> None:
        self.task = asyncio.current_task()
        self.timer = asyncio.get_running_loop().call_later(LONG, self.end)

    def end(self) -> None:
        assert self.task is not None
        self.task.cancel()

    def __exit__(self, *error: Any) -> None:
        self.timer.cancel()


@refused
async def a_timeout_in_a_class_of_ones_own(ctx: Context) -> None:
    async with Limited():
        await ctx.run(work)


@refused
async def a_timeout_in_a_class_around_gathered_flows(ctx: Context) -> None:
    async with Limited():
        await asyncio.gather(waits(ctx), waits(ctx))


@refused
async def a_timeout_in_a_class_around_a_group(ctx: Context) -> None:
    async with Limited(), asyncio.TaskGroup() as group:
        group.create_task(waits(ctx))


@refused
async def a_timeout_in_a_class_in_a_flow(ctx: Context) -> None:
    async def flow() -> None:
        async with Limited():
            await waits(ctx)

    await asyncio.gather(waits(ctx), flow())


@refused
async def a_timeout_in_a_class_in_a_stack(ctx: Context) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Limited())
        await waits(ctx)


@refused
async def a_timeout_in_a_class_in_a_manager(ctx: Context) -> None:
    @asynccontextmanager
    async def managed() -> AsyncIterator[None]:
        async with Limited():
            yield

    async with managed():
        await waits(ctx)


@refused
async def a_timeout_in_a_class_in_a_decorator(ctx: Context) -> None:
    def limiting(way: Way) -> Way:
        async def within_a_limit(ctx: Context) -> None:
            async with Limited():
                await way(ctx)

        return within_a_limit

    await limiting(waits)(ctx)


@refused
async def a_timeout_that_is_entered_by_hand(ctx: Context) -> None:
    limit = asyncio.timeout(LONG)
    await limit.__aenter__()
    await waits(ctx)


@refused
async def fail_after_in_a_class(ctx: Context) -> None:
    with LimitedByAnyio():
        await waits(ctx)


@refused
async def cancelled_by_a_class_of_ones_own(ctx: Context) -> None:
    with Cancelling():
        await waits(ctx)


@refused
async def cancelled_by_a_timer_of_the_event_loop(ctx: Context) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(LONG, task.cancel)
    await ctx.sleep("1d")


@refused
async def cancelled_by_a_function(ctx: Context) -> None:
    async def flow() -> None:
        await ctx.sleep("1d")

    task = asyncio.create_task(flow())
    asyncio.get_running_loop().call_later(LONG, lambda: task.cancel("too late"))
    await task


@refused
async def a_timeout_in_a_class_around_what_was_asked_for_before(ctx: Context) -> None:
    answer = ctx.awakeable()
    await ctx.run(work)
    async with Limited():
        await answer


@accepted
async def a_timeout_in_a_class_without_an_end(ctx: Context) -> None:
    async with Limited(None):
        await ctx.run(work)


@accepted
async def a_timeout_in_a_class_around_something_else_beside_a_flow_that_waits(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(one_step(ctx))
        async with Limited():
            await asyncio.sleep(0.03)


@accepted
async def a_timeout_in_a_class_in_a_step(ctx: Context) -> None:
    async def limited_work() -> None:
        async with Limited():
            await work()

    await ctx.run(limited_work)
    await asyncio.gather(ctx.run(limited_work), ctx.run(limited_work))


@accepted
async def a_deadline_that_an_inner_scope_is_shielded_from(ctx: Context) -> None:
    with LimitedByAnyio(), anyio.CancelScope(shield=True):
        await ctx.run(work)


@accepted
async def a_timer_for_something_else(ctx: Context) -> None:
    async def beat() -> None:
        await asyncio.sleep(LONG)

    beating = asyncio.create_task(beat())
    asyncio.get_running_loop().call_later(LONG, beating.cancel)
    await ctx.run(work)
    beating.cancel()


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
    "cancelled": "a timer that cancels it",
}


def lines_of(way: Way) -> set[int]:
    """The lines of its body, and of the functions in it."""
    code = way.__code__
    within = [code]
    for outer in within:
        within += [one for one in outer.co_consts if isinstance(one, CodeType)]
    return {
        line for one in within for _, _, line in one.co_lines() if line is not None and line > code.co_firstlineno
    }


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


def test_it_is_found_among_thousands_of_timers() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        others = [loop.call_later(LONG, print) for _ in range(5000)]
        async with Engine(services=[go], store=MemoryStore()) as engine:
            for name in ("a timeout around an awakeable", "a timeout in a class around gathered flows"):
                assert (await settled(engine, (await engine.send(go, name)).id)).status == "paused"
        for other in others:
            other.cancel()

    asyncio.run(story())


#: What no frame shows.
HIDDEN = ("in a class", "by hand", "cancelled")


def test_on_an_event_loop_that_does_not_show_its_timers_frames_show_it() -> None:
    async def story() -> None:
        async with Engine(services=[go], store=MemoryStore()) as engine:
            shown = [name for name in REFUSED if not any(word in name for word in HIDDEN)]
            for name, handle in [(name, await engine.send(go, name)) for name in shown]:
                assert (await settled(engine, handle.id)).status == "paused", name
            await asyncio.gather(*(engine.call(go, name) for name in ACCEPTED))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


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
