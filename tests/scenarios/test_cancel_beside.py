"""A step beside something else that is awaited: it ends first, or is interrupted at once if it may be."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from durable import (
    Context,
    DurableFuture,
    InvocationCancelled,
    as_completed,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.testing import Sim, check
from tests.scenarios.controls import cancel, once, order

# ---- a step beside something that can be interrupted ----

Beside = Callable[[Context, DurableFuture[str]], Awaitable[Any]]


async def each(ctx: Context, step: DurableFuture[str]) -> None:
    async for future in as_completed(step, ctx.sleep("1000d")):
        await future


async def task_group(ctx: Context, step: DurableFuture[str]) -> None:
    async def flow(future: Awaitable[Any]) -> None:
        await future

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(flow(step))
            group.create_task(flow(ctx.sleep("1000d")))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


BESIDE: dict[str, Beside] = {
    "left to itself": lambda ctx, step: ctx.sleep("1000d"),
    "gather": lambda ctx, step: gather(step, ctx.sleep("1000d")),
    "gather of outcomes": lambda ctx, step: gather(step, ctx.sleep("1000d"), return_exceptions=True),
    "select": lambda ctx, step: select(sleep=ctx.sleep("1000d"), step=step),
    "wait_completed": lambda ctx, step: wait_completed(step, ctx.awakeable()),
    "time-out": lambda ctx, step: step.with_timeout("1000d"),
    "as_completed": each,
    "asyncio.gather": lambda ctx, step: asyncio.gather(step, ctx.sleep("1000d")),
    "TaskGroup": task_group,
}


@pytest.mark.parametrize("name", BESIDE)
def test_no_compensation_runs_while_a_step_still_does(name: str) -> None:
    """The cancel is raised once the steps that had started have ended; their values can still be had."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> str:
            sim.effect("begin")
            try:
                await asyncio.sleep(2)
                return "worked"
            finally:
                sim.effect("end")

        async def undo() -> None:
            sim.effect("undo" if sim.effects["begin"] == sim.effects["end"] else "undo too early")

        @handler(service="Busy")
        async def busy(ctx: Context) -> list[str]:
            heard = []
            step = ctx.run(work)
            try:
                await BESIDE[name](ctx, step)
                await ctx.sleep("1000d")
            except InvocationCancelled as error:
                heard.append(str(error))
            await ctx.run(undo)
            await ctx.sleep("1s")
            try:
                heard.append(await step)
            except InvocationCancelled:
                heard.append("lost")
            return heard

        return [busy]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Busy/busy")
        await asyncio.sleep(1)
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        told, value = await sim.result(handle.id)
        elapsed_ms = sim.clock.now_ms() - since_ms
        assert elapsed_ms < 60_000
        if not sim.interruptions:
            assert 2000 <= elapsed_ms < 2100
            assert sim.trace == ["begin", "end", "undo"]
            assert value == "worked"
        once(sim, "undo")
        assert sim.effects["begin"] <= 1 + sim.log.crashes
        assert "undo too early" not in sim.effects
        return str(told)

    assert check(services, scenario) == "cancelled"


# ---- steps that are open to interruption ----


@pytest.mark.parametrize("name", ["alone", *BESIDE])
def test_an_interruptible_step_is_interrupted_at_once(name: str) -> None:
    """Design 4.1: its coroutine gets a CancelledError, the handler one InvocationCancelled; it is not run again."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> str:
            sim.effect("begin")
            try:
                await asyncio.sleep(3600)
                return "worked"
            except asyncio.CancelledError:
                sim.effect("interrupted")
                raise

        async def undo() -> None:
            sim.effect("undo")

        @handler(service="Busy")
        async def busy(ctx: Context) -> int:
            heard = 0
            try:
                step = ctx.with_options(interruptible=True).run(work)
                await (step if name == "alone" else BESIDE[name](ctx, step))
            except InvocationCancelled:
                heard += 1
            await ctx.run(undo)
            await ctx.sleep("1s")
            return heard

        return [busy]

    async def scenario(sim: Sim) -> int:
        handle = await sim.send("Busy/busy")
        await asyncio.sleep(60)
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        result: int = await sim.result(handle.id)
        elapsed_ms = sim.clock.now_ms() - since_ms
        assert elapsed_ms < 60_000
        if not sim.interruptions:
            assert elapsed_ms == 1000
            assert sim.trace == ["begin", "interrupted", "undo"]
        assert 1 <= sim.effects["begin"] <= 1 + sim.interruptions
        once(sim, "undo")
        return result

    assert check(services, scenario) == 1


@pytest.mark.parametrize("together", ["gather", "asyncio.gather", "left to itself"])
def test_an_interruptible_step_does_not_wait_for_the_call_beside_it_to_compensate(together: str) -> None:
    """The step gets its CancelledError at once, the handler is told once, when the call has ended."""
    interrupted_at: list[int] = []

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> None:
            sim.effect("begin")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                interrupted_at.append(sim.clock.now_ms())
                raise

        async def note(what: str) -> None:
            sim.effect(what)

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            try:
                await ctx.awakeable()
            except InvocationCancelled:
                await ctx.sleep("1h")
                await ctx.run(note, "child undone")
                raise

        @handler(service="Parent")
        async def parent(ctx: Context) -> int:
            heard = 0
            step = ctx.with_options(interruptible=True).run(work)
            call = ctx.call(child)
            try:
                match together:
                    case "gather":
                        await gather(call, step)
                    case "asyncio.gather":
                        await asyncio.gather(call, step)
                    case _:
                        await call
            except InvocationCancelled:
                heard += 1
            await ctx.run(note, "parent undone")
            await ctx.sleep("1s")
            return heard

        return [child, parent]

    async def scenario(sim: Sim) -> int:
        interrupted_at.clear()
        handle = await sim.send("Parent/parent")
        await asyncio.sleep(60)
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        result: int = await sim.result(handle.id)
        elapsed_ms = sim.clock.now_ms() - since_ms
        if not sim.interruptions:
            assert [at - since_ms for at in interrupted_at] == [0]
            assert elapsed_ms == 3_601_000
            assert sim.effects["begin"] == 1
        assert order(sim, "parent") + order(sim, "child") == ["parent undone", "child undone"]
        assert sim.trace.index("child undone") < sim.trace.index("parent undone")
        once(sim, "child undone", "parent undone")
        return result

    assert check(services, scenario) == 1
