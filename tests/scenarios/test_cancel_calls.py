"""What a cancelled caller hears of its calls: one exception, why, and afterwards each call's own end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from durable import (
    Call,
    Context,
    InvocationCancelled,
    TerminalError,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.testing import Sim, check
from tests.scenarios.controls import (
    CANCELLED,
    WHOEVER_ASKS,
    Asker,
    Canceller,
    cancel,
    cancels,
    once,
    order,
    sent,
    waits,
)
from tests.scenarios.controls import told as told_of
from tests.scenarios.support import failure_of


def children(sim: Sim) -> list[object]:
    """Callees that end in their own way when they are cancelled."""

    async def act(what: str) -> None:
        sim.effect(what)

    @handler(service="Child")
    async def child(ctx: Context, end: str) -> str:
        try:
            await ctx.awakeable()
        except InvocationCancelled as error:
            await ctx.sleep("1s")
            await ctx.run(act, f"{end} ended")
            if end.startswith("succeeds"):
                return end
            if end.startswith("fails"):
                raise TerminalError(end, 422, {"why": "cannot be undone"}) from error
            raise
        return "not cancelled"

    return [child, Canceller()]


def test_a_call_that_succeeds_under_a_cancel_delivers_its_value_first() -> None:
    """Design 4.1: the outcome is not lost; the cancellation is raised at the next operation that would wait."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            heard = []
            try:
                heard.append(await ctx.call("Child/child", "succeeds"))
                await ctx.sleep("1000d")
            except InvocationCancelled as error:
                heard.append(f"told because of {error.__cause__}")
            await ctx.sleep("1s")
            return heard

        return [parent, *children(sim)]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Parent/parent")
        await waits(sim, (await sent(sim, "Child")).id, "awakeable")
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        assert sim.clock.now_ms() - since_ms < 60_000
        return result

    assert check(services, scenario) == ["succeeds", "told because of None"]


@WHOEVER_ASKS
@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_the_failure_of_the_call_is_the_cause_of_the_cancellation(end: str, asker: Asker) -> None:
    """Design 4.1: with its message, code and metadata; the same live and in a replay a day later."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Parent")
        async def parent(ctx: Context) -> tuple[str, str, int, dict[str, str]]:
            try:
                await ctx.call("Child/child", end)
            except InvocationCancelled as error:
                cause = error.__cause__
                assert isinstance(cause, TerminalError)
                sim.effect(f"heard {error} because of {cause} {cause.code}")
                await ctx.sleep("1d")
                return *told_of(cause), cause.metadata
            raise AssertionError("not cancelled")

        return [parent, *children(sim)]

    async def scenario(sim: Sim) -> tuple[str, str, int, dict[str, str]]:
        handle = await sim.send("Parent/parent")
        await waits(sim, (await sent(sim, "Child")).id, "awakeable")
        await cancel(sim, handle.id, asker)
        await waits(sim, handle.id, "sleep")
        await sim.restart()
        kind, message, code, metadata = await sim.result(handle.id)
        assert len(order(sim, "heard")) == 1
        assert sim.effects[order(sim, "heard")[0]] >= 2, "there was no replay"
        once(sim, f"{end} ended")
        return kind, message, code, metadata

    expected: dict[str, tuple[str, str, int, dict[str, str]]] = {
        "fails": ("TerminalError", "fails", 422, {"why": "cannot be undone"}),
        "is cancelled": (*CANCELLED, {}),
    }
    assert check(services, scenario) == expected[end]


def test_where_no_call_was_open_there_is_no_cause() -> None:
    """Design 4.1: a cancelled sleep is nobody's fault, and a call that had failed before is none either."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Refuse")
        async def refuse(ctx: Context) -> None:
            raise TerminalError("no", 403)

        @handler(service="Parent")
        async def parent(ctx: Context) -> str:
            await failure_of(ctx.call(refuse))
            try:
                await ctx.sleep("1000d")
            except InvocationCancelled as error:
                await ctx.sleep("1s")
                return f"because of {error.__cause__}"
            return "not cancelled"

        return [parent, refuse]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Parent/parent")
        await waits(sim, handle.id, "sleep")
        await cancel(sim, handle.id)
        result: str = await sim.result(handle.id)
        return result

    assert check(services, scenario) == "because of None"


# ---- several calls ----

Calls = list[Call[Any]]


async def one_after_the_other(calls: Calls) -> None:
    for call in calls:
        await call


async def task_group(calls: Calls) -> None:
    async def flow(call: Call[Any]) -> None:
        await call

    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(flow(call))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__


SEVERAL: dict[str, Callable[[Calls], Awaitable[Any]]] = {
    "gather": lambda calls: gather(*calls),
    "gather of outcomes": lambda calls: gather(*calls, return_exceptions=True),
    "gather of time-outs": lambda calls: gather(*(call.with_timeout("1000d") for call in calls)),
    "select": lambda calls: select(first=calls[0], second=calls[1]),
    "wait_completed": lambda calls: wait_completed(*calls),
    "one after the other": one_after_the_other,
    "asyncio.gather": lambda calls: asyncio.gather(*calls),
    "TaskGroup": task_group,
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_cancelled_calls_are_one_exception_and_each_keeps_its_own_failure(name: str) -> None:
    """One InvocationCancelled; then compensations run undisturbed, and calls can be asked again."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[Any]:
            calls = [ctx.call("Child/child", end) for end in ("fails first", "fails second", "is cancelled")]
            heard: list[Any] = []
            try:
                await SEVERAL[name](calls)
            except InvocationCancelled as error:
                assert isinstance(error.__cause__, TerminalError)
                heard.append("told")
            for what in ("a", "b"):
                await ctx.run(undo, what)
                await ctx.sleep("1s")
            return [*heard, *[told_of(await failure_of(call)) for call in calls]]

        return [parent, *children(sim)]

    async def scenario(sim: Sim) -> list[Any]:
        handle = await sim.send("Parent/parent")
        await sent(sim, "Child", 2)
        await asyncio.sleep(60)
        await cancel(sim, handle.id)
        told, *failures = await sim.result(handle.id)
        once(sim, "fails first ended", "fails second ended", "is cancelled ended", "undo a", "undo b")
        assert order(sim)[3:] == ["undo a", "undo b"]
        return [told, *map(tuple, failures)]

    assert check(services, scenario, most=20) == [
        "told",
        ("TerminalError", "fails first", 422),
        ("TerminalError", "fails second", 422),
        CANCELLED,
    ]


@pytest.mark.parametrize("name", ["gather", "gather of outcomes", "gather of time-outs", "asyncio.gather"])
def test_calls_that_all_succeed_under_a_cancel_deliver_their_values_first(name: str) -> None:
    """Design 4.1: the gather has its results; the next wait raises."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            heard: list[str] = []
            try:
                heard += await SEVERAL[name]([ctx.call("Child/child", f"succeeds {which}") for which in "ab"])
                await ctx.awakeable()
            except InvocationCancelled:
                heard.append("told")
            await ctx.sleep("1s")
            return heard

        return [parent, *children(sim)]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Parent/parent")
        await sent(sim, "Child", 1)
        await asyncio.sleep(60)
        await cancel(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        return result

    assert check(services, scenario, most=20) == ["succeeds a", "succeeds b", "told"]


@pytest.mark.parametrize("fails_first", [True, False], ids=["the first fails", "the last fails"])
def test_of_several_calls_the_one_that_succeeds_keeps_its_value(fails_first: bool) -> None:
    """Design 4.1: the gather raises the one cancellation; the value can still be had."""
    ends = ["fails", "succeeds"] if fails_first else ["succeeds", "fails"]

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            calls = {end: ctx.call("Child/child", end) for end in ends}
            heard = []
            try:
                await gather(*calls.values())
            except InvocationCancelled as error:
                heard.append(f"told because of {error.__cause__}")
            await ctx.sleep("1s")
            return [*heard, await calls["succeeds"], str(await failure_of(calls["fails"]))]

        return [parent, *children(sim)]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Parent/parent")
        await sent(sim, "Child", 1)
        await asyncio.sleep(60)
        await cancel(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        return result

    assert check(services, scenario, most=20) == ["told because of fails", "succeeds", "fails"]


# ---- a part of the tree; and twice ----


def test_the_caller_of_a_cancelled_call_is_not_cancelled_itself() -> None:
    """Design 4.1: its call has failed with 409, which it may handle; nothing else of it is interrupted."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Middle")
        async def middle(ctx: Context) -> None:
            await ctx.call("Child/child", "is cancelled")

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[Any]:
            nap, call = ctx.sleep("1h"), ctx.call(middle)
            failure = await failure_of(call)
            await nap
            await ctx.sleep("1h")
            return list(told_of(failure))

        return [parent, middle, *children(sim)]

    async def scenario(sim: Sim) -> tuple[Any, ...]:
        handle = await sim.send("Parent/parent")
        await waits(sim, (await sent(sim, "Child")).id, "awakeable")
        since_ms = sim.clock.now_ms()
        await cancel(sim, (await sent(sim, "Middle")).id)
        result = await sim.result(handle.id)
        assert sim.clock.now_ms() - since_ms >= 3_600_000
        once(sim, "is cancelled ended")
        return tuple(result)

    assert check(services, scenario) == CANCELLED


@WHOEVER_ASKS
def test_a_second_cancel_interrupts_the_leaf_that_compensates(asker: Asker) -> None:
    """Design 4.1, 4.2: it goes down the tree as the first did, and finds the leaf in its compensation."""

    def services(sim: Sim) -> Iterable[object]:
        async def note(what: str) -> None:
            sim.effect(what)

        @handler(service="Leaf")
        async def leaf(ctx: Context) -> None:
            for what in ("work", "compensation"):
                try:
                    await ctx.sleep("1000d")
                except InvocationCancelled:
                    await ctx.run(note, f"{what} interrupted")
            raise TerminalError("gave up", 422)

        @handler(service="Parent")
        async def parent(ctx: Context) -> str:
            try:
                await ctx.call(leaf)
            except InvocationCancelled as error:
                await ctx.run(note, "parent told")
                return f"cancelled because of {error.__cause__}"
            return "not cancelled"

        return [leaf, parent, Canceller()]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Parent/parent")
        child = await sent(sim, "Leaf")
        await waits(sim, child.id, "sleep")
        await cancel(sim, handle.id, asker)
        await sim.until(lambda: sim.effects["work interrupted"] > 0)
        await waits(sim, child.id, "sleep", 2)
        assert cancels(sim, child.id) == 1

        async def again() -> None:  # the parent's own cancel is not stored twice, but the child's is
            if cancels(sim, child.id) == 1:
                await sim.engine.cancel(handle.id)

        await (sim.repeat(lambda _: again()) if asker == "engine" else cancel(sim, handle.id, "handler"))
        result: str = await sim.result(handle.id)
        once(sim, "work interrupted", "compensation interrupted", "parent told")
        assert order(sim) == ["work interrupted", "compensation interrupted", "parent told"]
        return result

    assert check(services, scenario, most=20) == "cancelled because of gave up"
