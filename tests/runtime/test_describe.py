"""What `describe()` tells: enough to know at three in the morning what an invocation does and what it waits for."""

import asyncio
import contextlib
from collections.abc import Iterable

from durable import (
    Context,
    Engine,
    InvocationView,
    ObjectContext,
    OutputNotReadyError,
    RetryPolicy,
    VirtualObject,
    WaitView,
    Workflow,
    WorkflowContext,
    gather,
    handler,
)
from durable.store.memory import MemoryStore
from durable.testing import Mode, Sim, VirtualClock, run, simulate

SUSPENDED = Mode("always-suspend", always_suspend=True)


@handler(service="S")
async def child(ctx: Context, name: str) -> str:
    await ctx.sleep("1h")
    return name


@handler(service="S")
async def waits_for_all(ctx: Context) -> None:
    ctx.send(child, "sent")
    await gather(
        ctx.sleep("30m"),
        ctx.call(child, "called"),
        ctx.awakeable(str),
        ctx.signal("go", str),
        ctx.attach(ctx.send(child, "attached", delay="2h").id),
    )


@handler(service="S", retry=RetryPolicy(initial_interval="30s"))
async def fails(ctx: Context) -> None:
    async def charge() -> None:
        raise OSError("no route to the bank")

    await ctx.run(charge)


class Gate(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> None:
        await ctx.promise("open", str)


class Box(VirtualObject):
    @handler
    async def look(self, ctx: ObjectContext) -> None:
        await ctx.get("count", int)
        ctx.set("count", 5)
        await ctx.get("count", int)
        sent = ctx.send(child, "c").id
        with contextlib.suppress(OutputNotReadyError):
            await ctx.output(sent, str)
        await ctx.attach(sent)
        await ctx.output(sent, str)

    @handler
    async def hold(self, ctx: ObjectContext) -> None:
        await ctx.awakeable(str)


def services(sim: Sim) -> Iterable[object]:
    return [child, waits_for_all, fails, Gate(), Box()]


async def described(sim: Sim, id: str, status: str) -> InvocationView:
    async def reached() -> bool:
        return await sim.status(id) == status

    await sim.until(reached)
    return await sim.repeat(lambda engine: engine.describe(id))


def check_waits_for_all(view: InvocationView) -> None:
    assert [(one.kind, one.target, one.result) for one in view.children] == [
        ("send", "S/child", "done"),
        ("call", "S/child", "open"),
        ("send", "S/child", "done"),
    ]
    now = view.created_at
    assert [(one.kind, one.name) for one in view.waits_for] == [
        ("sleep", ""),
        ("call", "S/child"),
        ("awakeable", ""),
        ("signal", "go"),
        ("attach", ""),
    ]
    [timer] = view.timers
    assert timer.due_at == view.waits_for[0].due_at == now + 30 * 60_000
    assert view.waits_for[1].detail == view.children[1].id
    assert [entry.kind for entry in view.journal][:3] == ["input", "send", "sleep"]


def test_one_that_waits_tells_for_what_whether_it_is_in_memory_or_not() -> None:
    async def scenario(sim: Sim) -> None:
        handle = await sim.send(waits_for_all)
        await asyncio.sleep(1)
        check_waits_for_all(await sim.engine.describe(handle.id))

    simulate(services, scenario)
    simulate(services, scenario, SUSPENDED)


def test_a_child_names_its_caller() -> None:
    async def scenario(sim: Sim) -> None:
        parent = await sim.send(waits_for_all)
        await asyncio.sleep(1)
        view = await sim.engine.describe(parent.id)
        called = await sim.engine.describe(view.children[1].id)
        assert (called.caller_id, called.caller_target) == (parent.id, "S/waits_for_all")
        assert called.timers[0].due_at == called.created_at + 3_600_000

    simulate(services, scenario)


def test_one_that_backs_off_tells_its_last_failure_the_step_and_the_next_try() -> None:
    async def scenario(sim: Sim) -> None:
        handle = await sim.send(fails)
        view = await described(sim, handle.id, "backing-off")
        assert view.last_failure is not None
        assert (view.last_failure.name, view.last_failure.type) == ("charge", "OSError")
        assert "no route to the bank" in view.last_failure.message
        assert view.failures == 1
        assert view.due_at == view.last_failure.at + 30_000
        assert view.waits_for == (WaitView(kind="retry", due_at=view.due_at),)
        assert view.timers[0].entry == 0

    simulate(services, scenario)


def test_one_that_waits_for_its_key_names_the_holder() -> None:
    async def scenario(sim: Sim) -> None:
        holder = await sim.send(Box.hold, key="k")
        second = await sim.send(Box.hold, key="k")
        view = await described(sim, second.id, "pending")
        assert view.waits_for == (WaitView(kind="key", name="Box/k", detail=holder.id),)

    simulate(services, scenario)
    simulate(services, scenario, SUSPENDED)


def test_a_workflow_tells_its_promise_and_a_scheduled_one_its_start() -> None:
    async def scenario(sim: Sim) -> None:
        gate = await sim.send(Gate.run, key="g")
        await asyncio.sleep(1)
        [wait] = (await sim.engine.describe(gate.id)).waits_for
        assert (wait.kind, wait.name) == ("promise", "open")
        later = await sim.send(child, "later", delay="1d")
        view = await sim.engine.describe(later.id)
        assert view.waits_for == (WaitView(kind="start", due_at=view.created_at + 86_400_000),)

    simulate(services, scenario)


def test_pausing_and_cancelling_show_until_they_are_done() -> None:
    def slow(sim: Sim) -> Iterable[object]:
        async def work() -> None:
            await asyncio.sleep(10)

        @handler(service="S")
        async def steps(ctx: Context) -> None:
            await gather(ctx.run(work), ctx.sleep("1h"))

        return [steps]

    async def scenario(sim: Sim) -> None:
        one, two = await sim.send("S/steps"), await sim.send("S/steps")
        await asyncio.sleep(1)
        await sim.engine.pause(one.id)
        await sim.engine.cancel(two.id)
        paused, cancelled = await sim.engine.describe(one.id), await sim.engine.describe(two.id)
        assert (paused.status, paused.pausing) == ("running", True)
        assert (cancelled.status, cancelled.cancelling) == ("running", True)
        await asyncio.sleep(20)
        paused, cancelled = await sim.engine.describe(one.id), await sim.engine.describe(two.id)
        assert (paused.status, paused.pausing, paused.waits_for) == ("paused", False, (WaitView(kind="resume"),))
        assert (cancelled.status, cancelled.cancelling) == ("completed", False)
        assert not cancelled.waits_for
        assert not cancelled.timers

    simulate(slow, scenario)


def test_one_without_a_slot_waits_for_one() -> None:
    def busy(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def computes(ctx: Context) -> None:
            await asyncio.sleep(100)

        return [computes]

    async def scenario(sim: Sim) -> None:
        await sim.send("S/computes")
        second = await sim.send("S/computes")
        view = await sim.engine.describe(second.id)
        assert (view.status, view.waits_for) == ("ready", (WaitView(kind="slot"),))

    simulate(busy, scenario, max_concurrent_invocations=1)


def test_a_completed_one_shows_its_journal_until_that_is_purged() -> None:
    async def scenario(sim: Sim) -> None:
        handle = await sim.send(child, "c")
        await handle.result()
        view = await sim.engine.describe(handle.id)
        assert [(one.kind, one.result) for one in view.journal] == [
            ("input", "done"),
            ("sleep", "success"),
            ("output", "success"),
        ]
        assert (view.input, view.output) == (b'"c"', b'"c"')
        await sim.engine.purge_journal(handle.id)
        view = await sim.engine.describe(handle.id)
        assert view.journal == ()
        assert view.output == b'"c"'

    simulate(services, scenario)


def test_what_an_entry_found_is_shown_as_it_was_written() -> None:
    async def scenario(sim: Sim) -> None:
        handle = await sim.send(Box.look, key="k")
        await handle.result()
        journal = (await sim.engine.describe(handle.id)).journal
        assert [(one.kind, one.value) for one in journal if one.kind in ("get", "set")] == [
            ("get", None),
            ("set", b"5"),
            ("get", b"5"),
        ]
        assert [one.value for one in journal if one.kind == "output"][:2] == [None, b'"c"']

    simulate(services, scenario)
    simulate(services, scenario, SUSPENDED)


# ---- what an operator needs to go on ----


def engine_with(*services: object) -> Engine:
    return Engine(services=services, store=MemoryStore(), clock=VirtualClock(asyncio.get_running_loop()))


def test_an_awakeable_shows_the_id_that_completes_it() -> None:
    """In what is waited for and in the journal, in every run of an idempotency key."""

    @handler(service="S", idempotency_retention="1s")
    async def waits(ctx: Context) -> str:
        return await ctx.awakeable(str)

    async def story() -> None:
        async with engine_with(waits) as engine:
            for key in (None, "one", "one"):  # the same key again is another run of the same id
                handle = await engine.send(waits, idempotency_key=key)
                await asyncio.sleep(1)
                view = await handle.describe()
                [waiting] = view.waits_for
                assert waiting.detail == view.journal[1].detail
                assert (await engine.journal(handle.id)).entries[1].detail == waiting.detail
                assert waiting.detail is not None
                await engine.resolve_awakeable(waiting.detail, "done")
                assert await handle.result() == "done"
                await asyncio.sleep(2)

    run(story)


def test_what_a_paused_one_needs_is_said_whatever_it_was_paused_for() -> None:
    @handler(service="S", retry=RetryPolicy(max_attempts=1))
    async def breaks(ctx: Context) -> None:
        raise ValueError("no")

    @handler(service="S")
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep("1h")

    async def story() -> None:
        async with engine_with(breaks, sleeps) as engine:
            failed, slept = await engine.send(breaks), await engine.send(sleeps)
            await asyncio.sleep(1)
            assert (await slept.describe()).advice == ""
            await engine.pause(slept.id)
            await asyncio.sleep(1)
            assert "no tries left" in (await failed.describe()).advice
            assert "An operator has paused it: resume it" in (await slept.describe()).advice
            [listed] = await engine.invocations(handler="sleeps")
            assert listed.advice == (await slept.describe()).advice

    run(story)


def test_a_listing_says_what_it_leaves_out() -> None:
    for said in (Engine.invocations.__doc__, InvocationView.__doc__):
        for field in ("input", "output", "waits_for", "children", "timers", "journal"):
            assert f"`{field}`" in str(said)
