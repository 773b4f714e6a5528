"""A cancel goes down a tree of calls first, and comes up it from the leaves; what was only sent is left alone."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from durable import (
    Call,
    Context,
    InvocationCancelled,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    gather,
    handler,
    select,
)
from durable.testing import Sim, check
from tests.scenarios.controls import CANCELLED, WHOEVER_ASKS, Asker, Canceller, cancel, once, order, sent, told, waits
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of


@WHOEVER_ASKS
def test_three_levels_compensate_from_the_leaf_to_the_root(asker: Asker) -> None:
    """Design 4.1: each level undoes all it did, newest first, before the one above it begins to."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(what: str) -> None:
            sim.effect(f"{what}...")
            await asyncio.sleep(0.1)
            sim.effect(what)

        @handler(service="Level")
        async def work(ctx: Context, level: int) -> None:
            async with ctx.saga() as saga:
                for part in "ab":
                    saga.add_compensation(act, f"undo {level}{part}")
                    await ctx.run(act, f"do {level}{part}")
                if level < 3:
                    await ctx.call(work, level + 1)
                await ctx.awakeable()

        return [work, Canceller()]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Level/work", 1)
        await waits(sim, (await sent(sim, "Level", 2)).id, "awakeable")
        await cancel(sim, handle.id, asker)
        error = await failure_of(sim.result(handle.id))
        did = [f"{level}{part}" for level in "123" for part in "ab"]
        expected = [f"do {name}" for name in did] + [f"undo {name}" for name in reversed(did)]
        assert order(sim) == [beat for name in expected for beat in (f"{name}...", name)]
        once(sim, *expected)
        return told(error)

    assert check(services, scenario, most=15) == CANCELLED


Together = Callable[[Context, list[Call[Any]]], Awaitable[Any]]


async def task_group(calls: list[Call[Any]]) -> None:
    async def flow(call: Call[Any]) -> None:
        await call

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(flow(call))


TOGETHER: dict[str, Together] = {
    "gather": lambda ctx, calls: gather(*calls),
    "select": lambda ctx, calls: select(left=calls[0], right=calls[1]),
    "asyncio.gather": lambda ctx, calls: asyncio.gather(*calls),
    "TaskGroup": lambda ctx, calls: task_group(calls),
    "left to themselves": lambda ctx, calls: ctx.sleep("1000d"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_every_branch_ends_before_what_it_hangs_on(name: str) -> None:
    """Design 4.1: two calls in each node, three levels: seven undone, each after the two below it."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(node: str) -> None:
            sim.effect(f"undo {node}")

        @handler(service="Node")
        async def grow(ctx: Context, node: str) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, node)
                if len(node) == 3:
                    await ctx.sleep("1000d")
                else:
                    await TOGETHER[name](ctx, [ctx.call(grow, f"{node}{side}") for side in "lr"])

        return [grow]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Node/grow", "o")
        await sent(sim, "Node", 6)
        await asyncio.sleep(60)
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        undone = order(sim)
        assert len(undone) == 7
        for node in ("o", "ol", "or"):
            for side in "lr":
                assert undone.index(f"undo {node}{side}") < undone.index(f"undo {node}")
        once(sim, *undone)
        return told(error)

    assert check(services, scenario, most=12) == CANCELLED


def test_sends_are_never_cancelled() -> None:
    """Design 4.1: running, waiting for a key, delayed, or sent by a compensation: all of them finish."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(what: str) -> None:
            sim.effect(what)

        class Room(VirtualObject):
            @handler
            async def stay(self, ctx: ObjectContext, guest: str) -> str:
                await ctx.sleep("1h")
                await ctx.run(act, guest)
                return guest

        @handler(service="Level")
        async def work(ctx: Context, level: int) -> None:
            ctx.send(Room.stay, f"{level} running", key=f"{level}")
            ctx.send(Room.stay, f"{level} pending", key=f"{level}")
            ctx.send(Room.stay, f"{level} delayed", key=f"{level} later", delay="2h")
            try:
                await (ctx.call(work, level + 1) if level < 3 else ctx.sleep("1000d"))
            except InvocationCancelled:
                ctx.send(Room.stay, f"{level} sent on the way out", key=f"{level} out")
                raise

        return [Room(), work]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Level/work", 1)
        await sent(sim, "Level", 2)
        await asyncio.sleep(60)
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        await asyncio.sleep(86_000)
        rooms = await sim.repeat(lambda engine: engine.invocations(service="Room"))
        assert [(room.status, room.completion_result) for room in rooms] == [("completed", "success")] * 12
        kinds = ("running", "pending", "delayed", "sent on the way out")
        once(sim, *(f"{level} {kind}" for level in (1, 2, 3) for kind in kinds))
        return told(error)

    assert check(services, scenario, most=20) == CANCELLED


# ---- calls that are no children ----


class Shared(VirtualObject):
    """Works when it is told to, for whoever asks with the same idempotency key."""

    @handler
    async def work(self, ctx: ObjectContext) -> str:
        return await ctx.signal("go", str)


def joining(sim: Sim) -> Iterable[object]:
    @handler(service="Joiner")
    async def join(ctx: Context) -> list[str]:
        heard = []
        try:
            heard.append(await ctx.call(Shared.work, key="k", idempotency_key="same"))
        except TerminalError as error:
            heard.append(f"{type(error).__name__} {error.code}")
        await ctx.sleep("1s")
        return heard

    return [Shared(), join]


def test_a_call_that_joined_is_left_alone() -> None:
    """Decision 7: the canceller stops waiting for it at once; it goes on for those who still do."""

    async def scenario(sim: Sim) -> list[object]:
        shared = await sim.send(Shared.work, key="k", idempotency_key="same")
        joiner, other = await sim.send("Joiner/join"), await sim.send("Joiner/join")
        await asyncio.sleep(60)
        since_ms = sim.clock.now_ms()
        await cancel(sim, joiner.id)
        heard = await sim.result(joiner.id)
        assert sim.clock.now_ms() - since_ms < 60_000
        await asyncio.sleep(60)
        await sim.repeat(lambda engine: engine.send_signal(shared.id, "go", "gone"))
        return [heard, await sim.result(other.id), await sim.result(shared.id)]

    assert check(joining, scenario) == [["InvocationCancelled 409"], ["gone"], "gone"]


def test_who_joined_a_call_that_is_cancelled_hears_of_it_and_goes_on() -> None:
    """Decision 7: it is the child of the first; the second is not cancelled itself, only its call has failed."""

    async def scenario(sim: Sim) -> list[object]:
        parent = await sim.send("Joiner/join")
        await sent(sim, "Shared")
        await asyncio.sleep(60)
        joiner = await sim.send("Joiner/join")
        await asyncio.sleep(60)
        await cancel(sim, parent.id)
        return [await sim.result(parent.id), await sim.result(joiner.id)]

    assert check(joining, scenario) == [["InvocationCancelled 409"], ["InvocationCancelled 409"]]


# ---- children that do not run, and waits beside them ----


@pytest.mark.parametrize("status", ["pending", "backing-off", "paused"])
def test_a_child_that_does_not_run_is_ended_or_woken_too(status: str) -> None:
    """Design 4.1, 4.2: whatever the child's status is, it ends first, and at once."""
    policies = {
        "pending": RetryPolicy(),
        "backing-off": RetryPolicy(initial_interval="30d", max_interval="30d"),
        "paused": RetryPolicy(max_attempts=1, on_max_attempts="pause"),
    }

    def services(sim: Sim) -> Iterable[object]:
        async def undo(who: str) -> None:
            sim.effect(f"{who} undone")

        class Child(VirtualObject):
            @handler
            async def hold(self, ctx: ObjectContext) -> str:
                return await ctx.signal("open", str)

            @handler(retry=policies[status])
            async def work(self, ctx: ObjectContext) -> None:
                if not sim.effects["mended"]:
                    raise RuntimeError("not yet")
                async with ctx.saga() as saga:
                    saga.add_compensation(undo, "child")
                    await ctx.sleep("1000d")

        @handler(service="Parent")
        async def parent(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "parent")
                await ctx.call(Child.work, key="k")

        return [Child(), parent]

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], list[str]]:
        if status == "pending":
            holder = await sim.send("Child/hold", key="k")
        handle = await sim.send("Parent/parent")
        child = await sent(sim, "Child", 1 if status == "pending" else 0)
        await reaches(sim, child.id, status)
        await asyncio.sleep(60)
        sim.effect("mended")
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - since_ms < 60_000
        if status == "pending":
            await sim.repeat(lambda engine: engine.send_signal(holder.id, "open", "opened"))
            assert await sim.result(holder.id) == "opened"
        return told(error), order(sim, "child") + order(sim, "parent")

    undone = ["parent undone"] if status == "pending" else ["child undone", "parent undone"]
    assert check(services, scenario) == (CANCELLED, undone)


WAITS: dict[str, Callable[[WorkflowContext], Awaitable[Any]]] = {
    "sleep": lambda ctx: ctx.sleep("1000d"),
    "awakeable": lambda ctx: ctx.awakeable(),
    "signal": lambda ctx: ctx.signal("never"),
    "promise": lambda ctx: ctx.promise("never"),
    "attach": lambda ctx: ctx.attach(ctx.request.headers["other"]),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_beside_an_open_call_is_interrupted_when_the_call_has_ended(name: str) -> None:
    """Design 4.1: the child compensates for an hour; only then is the parent's own wait over."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Child")
        async def child(ctx: Context) -> None:
            try:
                await ctx.awakeable()
            except InvocationCancelled:
                await ctx.sleep("1h")
                raise

        class Parent(Workflow):
            @handler
            async def run(self, ctx: WorkflowContext) -> str:
                call = ctx.call(child)
                try:
                    await WAITS[name](ctx)
                except InvocationCancelled:
                    await ctx.sleep("1s")
                    return f"told; {told(await failure_of(call))}"
                return "not told"

        return [child, Parent()]

    async def scenario(sim: Sim) -> str:
        other = await sim.send("Child/child")
        handle = await sim.repeat(lambda engine: engine.send("Parent/run", key="k", headers={"other": other.id}))
        await waits(sim, (await sent(sim, "Child", 1)).id, "awakeable")
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        result: str = await sim.result(handle.id)
        elapsed_ms = sim.clock.now_ms() - since_ms
        assert 3_601_000 <= elapsed_ms < (3_660_000 if sim.interruptions else 3_601_020)
        assert await sim.status(other.id) != "completed"
        return result

    assert check(services, scenario) == f"told; {CANCELLED}"


# ---- cancels from inside the tree ----


def test_a_handler_can_cancel_what_it_called_or_sent_and_go_on() -> None:
    """Design 4.1: that is the end of those two; the handler itself is not cancelled."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Child")
        async def child(ctx: Context) -> None:
            await ctx.sleep("1000d")

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[tuple[str, str, int]]:
            call, send = ctx.call(child), ctx.send(child)
            await ctx.sleep("1s")
            ctx.cancel(call.id)
            send.cancel()
            heard = [told(await failure_of(call)), told(await failure_of(send.attach()))]
            await ctx.sleep("1s")
            return heard

        return [child, parent]

    async def scenario(sim: Sim) -> list[Any]:
        heard: list[Any] = await sim.repeat(lambda engine: engine.call("Parent/parent", idempotency_key="once"))
        return [tuple(one) for one in heard]

    assert check(services, scenario) == [CANCELLED, CANCELLED]


def test_a_child_that_cancels_its_caller_ends_first() -> None:
    """Design 4.1: the child is the leaf, so it is told before the caller is."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(who: str) -> None:
            sim.effect(f"{who} undone")

        @handler(service="Child")
        async def child(ctx: Context, caller: str) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "child")
                ctx.cancel(caller)
                await ctx.sleep("1000d")

        @handler(service="Parent")
        async def parent(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "parent")
                await ctx.call(child, ctx.request.id)

        return [child, parent]

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], list[str]]:
        error = await failure_of(sim.call("Parent/parent"))
        once(sim, "child undone", "parent undone")
        return told(error), order(sim)

    assert check(services, scenario) == (CANCELLED, ["child undone", "parent undone"])
