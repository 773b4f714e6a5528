"""A cancel reaches a handler at whatever it waits for, or would wait for next, and whatever its status is."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

import pytest

from durable import (
    Context,
    DurableFuture,
    InvocationCancelled,
    RetryPolicy,
    Service,
    Workflow,
    WorkflowContext,
    as_completed,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.testing import Sim, check
from tests.scenarios.controls import WHOEVER_ASKS, Asker, Canceller, cancel, once
from tests.scenarios.keyed import reaches

# ---- every kind of await; none of them ever ends by itself ----


class Other(Service):
    """Somebody to call, or to attach to."""

    @handler
    async def wait(self, ctx: Context) -> None:
        await ctx.awakeable()


async def forever(sim: Sim) -> None:
    sim.effect("step")
    await asyncio.Event().wait()


def interruptible(ctx: Context, sim: Sim) -> DurableFuture[None]:
    return ctx.with_options(interruptible=True).run(forever, sim)


async def each(ctx: Context) -> None:
    async for _ in as_completed(ctx.sleep("1000d"), ctx.awakeable(), ctx.call(Other.wait)):
        raise AssertionError("nothing has completed")


async def task_group(*waits: Awaitable[Any]) -> None:
    async def flow(wait: Awaitable[Any]) -> None:
        await wait

    try:
        async with asyncio.TaskGroup() as group:
            for wait in waits:
                group.create_task(flow(wait))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


AWAITS: dict[str, Callable[[WorkflowContext, Sim], Awaitable[Any]]] = {
    "interruptible run": interruptible,
    "sleep": lambda ctx, sim: ctx.sleep("1000d"),
    "call": lambda ctx, sim: ctx.call(Other.wait),
    "awakeable": lambda ctx, sim: ctx.awakeable(),
    "signal": lambda ctx, sim: ctx.signal("never"),
    "promise": lambda ctx, sim: ctx.promise("never"),
    "attach": lambda ctx, sim: ctx.attach(ctx.request.headers["other"]),
    "attach to a send": lambda ctx, sim: ctx.send(Other.wait).attach(),
    "gather": lambda ctx, sim: gather(ctx.sleep("1000d"), ctx.awakeable()),
    "gather with a call": lambda ctx, sim: gather(ctx.awakeable(), ctx.call(Other.wait)),
    "gather of outcomes": lambda ctx, sim: gather(ctx.signal("a"), ctx.signal("b"), return_exceptions=True),
    "select": lambda ctx, sim: select(sleep=ctx.sleep("1000d"), promise=ctx.promise("never").future()),
    "as_completed": lambda ctx, sim: each(ctx),
    "wait_completed": lambda ctx, sim: wait_completed(ctx.awakeable(), ctx.signal("never")),
    "time-out": lambda ctx, sim: ctx.awakeable().with_timeout("1000d"),
    "time-out of a call": lambda ctx, sim: ctx.call(Other.wait).with_timeout("1000d"),
    "time-out of a run": lambda ctx, sim: interruptible(ctx, sim).with_timeout("1000d"),
    "asyncio.gather": lambda ctx, sim: asyncio.gather(ctx.sleep("1000d"), ctx.awakeable()),
    "asyncio.gather with a call": lambda ctx, sim: asyncio.gather(ctx.sleep("1000d"), ctx.call(Other.wait)),
    "TaskGroup": lambda ctx, sim: task_group(ctx.sleep("1000d"), ctx.awakeable()),
    "TaskGroup with a call": lambda ctx, sim: task_group(ctx.call(Other.wait), ctx.signal("never")),
}
EVERY_AWAIT = pytest.mark.parametrize("name", AWAITS)


async def number(sim: Sim) -> int:
    return sim.effect("number")


def services(sim: Sim) -> Iterable[object]:
    class Waiter(Workflow):
        """Waits, is cancelled once, and works on with the same context."""

        @handler
        async def run(self, ctx: WorkflowContext, name: str) -> str:
            ctx.set("waits", True)
            heard = "nothing"
            try:
                await AWAITS[name](ctx, sim)
            except InvocationCancelled as error:
                heard = f"{error.message} {error.code}"
            await ctx.sleep("1s")
            await gather(ctx.run(number, sim), ctx.sleep("1s"))
            return heard

    return [Waiter(), Other(), Canceller()]


async def waiter(sim: Sim, name: str) -> str:
    """A `Waiter` that waits; its id."""
    other = await sim.send(Other.wait)
    handle = await sim.repeat(lambda engine: engine.send("Waiter/run", name, key="k", headers={"other": other.id}))
    await asyncio.sleep(60)
    return str(handle.id)


@EVERY_AWAIT
@WHOEVER_ASKS
def test_a_wait_is_interrupted_and_the_context_works_on(name: str, asker: Asker) -> None:
    """Design 4.1, C-056: at once, whatever is awaited; calls end with it, what it is attached to does not."""

    async def scenario(sim: Sim) -> str:
        id = await waiter(sim, name)
        since_ms = sim.clock.now_ms()
        crowded = sim.mode.minimal and sim.effects["step"]  # it has the only room for a handler
        await cancel(sim, id, "engine" if crowded else asker)
        result: str = await sim.result(id)
        assert 2000 <= sim.clock.now_ms() - since_ms < (60_000 if sim.interruptions else 3000)
        once(sim, "number")
        others = await sim.repeat(lambda engine: engine.invocations(service="Other"))
        for other in others:
            cancelled = other.status == "completed"
            assert cancelled == (other.caller_id == id and name != "attach to a send")
        return result

    assert check(services, scenario, most=60 if asker == "engine" else 6) == "cancelled 409"


# ---- what would start or wait next ----


async def never(sim: Sim) -> None:
    sim.effect("never")


NEXT: dict[str, Callable[[WorkflowContext, Sim], Awaitable[Any]]] = {
    **AWAITS,
    "run": lambda ctx, sim: ctx.run(never, sim),
    "run with options": lambda ctx, sim: ctx.with_options(name="named", timeout="1s").run(never, sim),
    "gather of runs": lambda ctx, sim: gather(ctx.run(never, sim), ctx.run(never, sim)),
    "asyncio.gather of runs": lambda ctx, sim: asyncio.gather(ctx.run(never, sim), ctx.run(never, sim)),
    "output": lambda ctx, sim: ctx.output(ctx.request.headers["other"]),
    "peek": lambda ctx, sim: ctx.promise("never").peek(),
    "resolve": lambda ctx, sim: ctx.promise("never").resolve(1),
}


@pytest.mark.parametrize("name", NEXT)
def test_a_running_step_delivers_its_value_and_the_next_operation_raises(name: str) -> None:
    """Design 4.1: what neither starts nor waits goes on in between; what is asked for then never starts."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> str:
            await asyncio.sleep(2)
            return "worked"

        class Busy(Workflow):
            @handler
            async def run(self, ctx: WorkflowContext) -> list[str | None]:
                seen: list[str | None] = []
                try:
                    seen.append(await ctx.run(work))
                    ctx.set("seen", seen[0])
                    seen.append(await ctx.get("seen", str))
                    assert ctx.now() is not None
                    await NEXT[name](ctx, sim)
                except InvocationCancelled:
                    await ctx.sleep("1s")
                    return [*seen, "told"]
                return seen

        return [Busy(), Other()]

    async def scenario(sim: Sim) -> str:
        other = await sim.send(Other.wait)
        handle = await sim.repeat(lambda engine: engine.send("Busy/run", key="k", headers={"other": other.id}))
        await asyncio.sleep(1)
        await cancel(sim, handle.id)
        *seen, last = await sim.result(handle.id)
        assert seen == ["worked", "worked"] or sim.log.crashes  # what was lost in a crash is not tried again
        assert not {"never", "step"} & sim.effects.keys()
        others = await sim.repeat(lambda engine: engine.invocations(service="Other"))
        assert len(others) == 1 or name == "attach to a send"
        return str(last)

    assert check(services, scenario) == "told"


# ---- in every status ----

Status = Literal["backing-off", "paused"]


@EVERY_AWAIT
@pytest.mark.parametrize("status", ["backing-off", "paused"])
def test_one_that_backs_off_or_is_paused_is_woken_and_told_where_it_would_wait(name: str, status: Status) -> None:
    """Design 4.2: it wakes at once; what it would have started or waited for never starts."""
    policies = {
        "backing-off": RetryPolicy(initial_interval="30d", max_interval="30d"),
        "paused": RetryPolicy(max_attempts=1, on_max_attempts="pause"),
    }

    def services(sim: Sim) -> Iterable[object]:
        class Failing(Workflow):
            @handler(retry=policies[status])
            async def run(self, ctx: WorkflowContext) -> str:
                if not sim.effects["mended"]:
                    raise RuntimeError("not yet")
                try:
                    await AWAITS[name](ctx, sim)
                except InvocationCancelled:
                    await ctx.sleep("1s")
                    return "told"
                return "not told"

        return [Failing(), Other(), Canceller()]

    async def scenario(sim: Sim) -> str:
        other = await sim.send(Other.wait)
        handle = await sim.repeat(lambda engine: engine.send("Failing/run", key="k", headers={"other": other.id}))
        await reaches(sim, handle.id, status)
        sim.effect("mended")
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        result: str = await sim.result(handle.id)
        assert sim.clock.now_ms() - since_ms < 60_000
        assert not sim.effects["step"]
        others = await sim.repeat(lambda engine: engine.invocations(service="Other"))
        assert {one.id for one in others if one.caller_id != handle.id} == {other.id}
        assert len(others) == 1 + (name == "attach to a send")  # a send neither waits nor is awaited
        return result

    assert check(services, scenario) == "told"


@pytest.mark.parametrize("asker", ["engine", "handle"])
@pytest.mark.parametrize("status", ["backing-off", "paused"])
def test_one_whose_step_failed_beside_its_call_is_told_when_the_call_has_ended(status: Status, asker: Asker) -> None:
    """Design 4.1, 4.2: the call compensates first; the step that failed is not tried again; then it wakes."""
    policies = {
        "backing-off": RetryPolicy(initial_interval="30d", max_interval="30d"),
        "paused": RetryPolicy(max_attempts=1, on_max_attempts="pause"),
    }

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> None:
            sim.effect("failing step")
            raise RuntimeError("never works")

        async def undo(who: str) -> None:
            sim.effect(f"{who} undone")

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "child")
                await ctx.sleep("1000d")

        @handler(service="Parent", retry=policies[status])
        async def parent(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "parent")
                await gather(ctx.call(child), ctx.run(fail))

        return [child, parent]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Parent/parent")
        await reaches(sim, handle.id, status)
        await asyncio.sleep(60)
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id, asker)
        with pytest.raises(InvocationCancelled):
            await sim.result(handle.id)
        assert sim.clock.now_ms() - since_ms < 60_000
        once(sim, "failing step", "child undone", "parent undone")
        return list(dict.fromkeys(sim.trace))

    assert check(services, scenario) == ["failing step", "child undone", "parent undone"]
