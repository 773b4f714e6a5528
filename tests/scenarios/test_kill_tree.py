"""What a kill does to a call tree: all of it at once, none of its code, and nothing to what does not belong to it."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from durable import (
    Context,
    InvocationKilled,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    gather,
    handler,
)
from durable.core.invocation import Status
from durable.store.rows import invocation_of
from durable.testing import Fault, Mode, Sim, check, simulate
from tests.scenarios.controls import KILLED, cancel, kill, once, order, sent, told, unfinished, waits
from tests.scenarios.keyed import assert_at_once, reaches
from tests.scenarios.support import failure_of


def tree(sim: Sim) -> Iterable[object]:
    """Three levels, each holding a key that others wait for, with a state, a compensation, and sends beside it."""

    async def act(what: str) -> None:
        sim.effect(what)

    class Level(VirtualObject):
        @handler
        async def work(self, ctx: ObjectContext, level: int) -> None:
            ctx.set("seen", level)
            ctx.send(send, f"{level} running")
            ctx.send(send, f"{level} delayed", delay="2h")
            async with ctx.saga() as saga:
                saga.add_compensation(act, f"undo {level}")
                await ctx.run(act, f"do {level}")
                if level == 3:
                    await ctx.awakeable()
                await gather(ctx.call(Level.work, level + 1, key=f"{level + 1}"), ctx.call(wait, f"{level}"))

        @handler
        async def next(self, ctx: ObjectContext) -> int | None:
            await ctx.run(act, f"next {ctx.key}")
            return await ctx.get("seen", int)

    @handler(service="Wait")
    async def wait(ctx: Context, who: str) -> None:
        try:
            await ctx.sleep("1000d")
        except TerminalError:
            await ctx.run(act, f"undo {who}")

    @handler(service="Sent")
    async def send(ctx: Context, what: str) -> str:
        await ctx.sleep("1h")
        await ctx.run(act, what)
        return what

    return [Level(), wait, send]


async def grown(sim: Sim) -> tuple[str, list[Any]]:
    """The root of the tree, once its leaf waits; and what is behind it on each key."""
    root = await sim.send("Level/work", 1, key="1")
    await waits(sim, (await sent(sim, "Level", 2)).id, "awakeable")
    await sent(sim, "Wait", 1)
    behind = [await sim.send("Level/next", key=f"{level}") for level in (1, 2, 3)]
    await asyncio.sleep(60)
    return root.id, behind


def test_a_killed_tree_keeps_its_state_frees_its_keys_and_spares_its_sends() -> None:
    """Design 4.3, I4: the next in each inbox sees what was written; every send, running or delayed, finishes."""

    async def scenario(sim: Sim) -> list[Any]:
        root, behind = await grown(sim)
        since_ms = sim.clock.now_ms()
        await kill(sim, root)
        seen = [await sim.result(one.id) for one in behind]
        assert_at_once(sim, since_ms)
        error = await failure_of(sim.result(root))
        assert await unfinished(sim, "Level", "Wait") == []
        await asyncio.sleep(80_000)
        assert await unfinished(sim) == []
        assert not order(sim, "undo")
        levels = (1, 2, 3)
        once(sim, *(f"{level} {kind}" for level in levels for kind in ("running", "delayed")))
        once(sim, *(f"next {level}" for level in levels))
        return [seen, told(error)]

    assert check(tree, scenario, most=20) == [[1, 2, 3], KILLED]


def test_a_killed_tree_ends_in_one_transaction() -> None:
    """Design 4.3: whether a crash comes before or after that commit, the tree is killed whole or not at all."""

    def ended(sim: Sim) -> set[bool]:
        """Whether the root and all that it called have ended, as stored."""
        stored = [invocation_of(row) for row in sim.tables.invocations.values()]
        members = [one for one in stored if one.submission.handler in ("work", "wait")]
        assert len(members) == 5
        return {one.status is Status.COMPLETED for one in members}

    async def scenario(sim: Sim) -> int:
        root, _ = await grown(sim)
        before = sim.log.commits
        try:
            await sim.engine.kill(root)
        except Exception:
            assert sim.log.crashes
        killed_by = sim.log.commits
        assert killed_by == before + 1
        whole = ended(sim)
        assert whole == ({False} if sim.mode.faults and sim.mode.faults[0].how == "before" else {True})
        await asyncio.sleep(60)  # by now the next engine has started, if there was a crash
        assert ended(sim) == whole
        if whole == {False}:
            await kill(sim, root)
        assert ended(sim) == {True}
        await asyncio.sleep(60)
        assert not order(sim, "undo")
        return killed_by

    killed_by, _ = simulate(tree, scenario)
    simulate(tree, scenario, Mode("before", faults=(Fault(killed_by, "before"),)))
    simulate(tree, scenario, Mode("after", faults=(Fault(killed_by, "after"),)))


def test_whoever_waits_for_a_killed_one_hears_of_it_and_may_compensate() -> None:
    """Design 4.3: its caller and an attached handler get 409 killed in the await, an attached client too."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(who: str) -> None:
            sim.effect(f"{who} undone")

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "child")
                await ctx.sleep("1000d")

        @handler(service="Parent")
        async def parent(ctx: Context, attach_to: str | None) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "caller" if attach_to is None else "attached")
                try:
                    await (ctx.call(child) if attach_to is None else ctx.attach(attach_to))
                except InvocationKilled:
                    await ctx.run(undo, "heard, so far nothing")
                    raise

        return [child, parent]

    async def scenario(sim: Sim) -> list[tuple[str, str, int]]:
        caller = await sim.send("Parent/parent")
        victim = await sent(sim, "Child")
        attached = await sim.send("Parent/parent", victim.id)
        await waits(sim, attached.id, "attach")
        client = asyncio.create_task(failure_of(sim.result(victim.id)))
        await asyncio.sleep(60)
        await kill(sim, victim.id)
        errors = [await client] + [await failure_of(sim.result(one.id)) for one in (caller, attached)]
        assert "child undone" not in sim.effects
        once(sim, "caller undone", "attached undone")
        return [told(error) for error in errors]

    assert check(services, scenario) == [KILLED, KILLED, KILLED]


def test_a_step_of_a_killed_tree_does_not_go_on() -> None:
    """Design 4.3, R-26: a running coroutine is cut off; nothing of it is recorded."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> None:
            sim.effect("began")
            await asyncio.sleep(3600)
            sim.effect("ended")

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            try:
                await ctx.run(work)
            except TerminalError:
                await ctx.run(work)

        @handler(service="Parent")
        async def parent(ctx: Context) -> None:
            await ctx.call(child)

        return [child, parent]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Parent/parent")
        await sim.until(lambda: sim.effects["began"] > 0)
        await asyncio.sleep(60)
        await kill(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        await asyncio.sleep(80_000)
        assert "ended" not in sim.effects
        assert sim.effects["began"] <= 1 + sim.interruptions
        assert [entry.kind for entry in (await sim.engine.describe((await sent(sim, "Child")).id)).journal] == [
            "input",
            "output",
        ]
        return told(error)

    assert check(services, scenario) == KILLED


@pytest.mark.parametrize("how", ["backing-off", "paused", "cancelled"])
def test_members_of_a_tree_are_killed_whatever_they_are_doing(how: str) -> None:
    """Design 4.3: one that backs off or is paused, and one that compensates because of a cancel."""
    policies = {
        "backing-off": RetryPolicy(initial_interval="1h", max_interval="1h"),
        "paused": RetryPolicy(max_attempts=1, on_max_attempts="pause"),
        "cancelled": RetryPolicy(),
    }

    def services(sim: Sim) -> Iterable[object]:
        async def note(what: str) -> None:
            sim.effect(what)

        @handler(service="Child", retry=policies[how])
        async def child(ctx: Context) -> None:
            if how != "cancelled":
                sim.effect("tried")
                raise RuntimeError("always")
            try:
                await ctx.sleep("1000d")
            except TerminalError:
                await ctx.run(note, "undoing")
                await ctx.sleep("1h")
                await ctx.run(note, "undone")

        @handler(service="Parent")
        async def parent(ctx: Context) -> None:
            try:
                await ctx.call(child)
            except TerminalError:
                await ctx.run(note, "undone")

        return [child, parent]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Parent/parent")
        victim = await sent(sim, "Child")
        if how == "cancelled":
            await waits(sim, victim.id, "sleep")
            await cancel(sim, handle.id)
            await sim.until(lambda: sim.effects["undoing"] > 0)
        else:
            await reaches(sim, victim.id, how)
        await asyncio.sleep(60)
        await kill(sim, handle.id)
        done = dict(sim.effects)
        error = await failure_of(sim.result(handle.id))
        assert told(await failure_of(sim.result(victim.id))) == KILLED
        await asyncio.sleep(80_000)
        assert sim.effects == done
        assert "undone" not in done
        return told(error)

    assert check(services, scenario) == KILLED


def test_a_call_that_joined_is_spared() -> None:
    """Decision 7: it is nobody's child, so it goes on for whoever sent it."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Shared")
        async def work(ctx: Context) -> str:
            await ctx.sleep("1h")
            return "worked"

        @handler(service="Parent")
        async def parent(ctx: Context) -> None:
            await ctx.call(work, idempotency_key="same")

        return [work, parent]

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], str]:
        shared = await sim.send("Shared/work", idempotency_key="same")
        handle = await sim.send("Parent/parent")
        await asyncio.sleep(60)
        await kill(sim, handle.id)
        return told(await failure_of(sim.result(handle.id))), await sim.result(shared.id)

    assert check(services, scenario) == (KILLED, "worked")


def test_a_killed_one_is_remembered_by_its_idempotency_key() -> None:
    """Submitted again it is killed still; it starts anew when its retention is over."""

    def services(sim: Sim) -> Iterable[object]:
        async def start() -> None:
            sim.effect("started")

        @handler(service="Work", idempotency_retention="1h")
        async def work(ctx: Context) -> str:
            if ctx.request.headers:
                await ctx.awakeable()
            await ctx.run(start)
            return "worked"

        return [work]

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], str]:
        handle = await sim.send("Work/work", idempotency_key="once", headers={"first": "time"})
        await waits(sim, handle.id, "awakeable")
        await kill(sim, handle.id)
        error = await failure_of(sim.call("Work/work", idempotency_key="once"))
        assert not sim.effects
        await asyncio.sleep(7200)
        return told(error), await sim.call("Work/work", idempotency_key="once")

    assert check(services, scenario) == (KILLED, "worked")
