"""What is over is over at that moment, for everybody, at every door: swept away or not yet, or after a crash."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from durable import (
    ConflictError,
    Context,
    Engine,
    NotFoundError,
    SharedWorkflowContext,
    TerminalError,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.ids import awakeable_id, run_number
from durable.testing import Sim, check

#: The result is kept for a minute. The sweep comes once a minute too, so that after 61 s it has not yet come to what
#: ended a moment after the start, and after 200 s it has.
KEPT: dict[str, Any] = {
    "workflow_completion_retention": "1m",
    "idempotency_retention": "1m",
    "journal_retention": "1m",
}
AT_ONCE, SWEPT, CRASHED = "at once", "swept", "crashed"
WHENEVER = pytest.mark.parametrize("when", [AT_ONCE, SWEPT, CRASHED])


class Visit(Workflow):
    """A run that waits for a promise, and handlers that look at what there is of it."""

    @handler
    async def run(self, ctx: WorkflowContext, guest: str) -> str:
        ctx.set("guest", guest)
        return await ctx.promise("host", str)

    @handler
    async def guest(self, ctx: SharedWorkflowContext) -> list[Any]:
        return [await ctx.get("guest", str), await ctx.state_keys(), await ctx.promise("host", str).peek()]

    @handler
    async def looks_twice(self, ctx: SharedWorkflowContext) -> list[Any]:
        seen = [await ctx.get("guest", str), await ctx.promise("host", str).peek()]
        await ctx.sleep("61s")
        return [*seen, await ctx.get("guest", str), await ctx.state_keys(), await ctx.promise("host", str).peek()]

    @handler
    async def waits(self, ctx: SharedWorkflowContext, name: str) -> str:
        try:
            return str(await ctx.promise(name, str))
        except TerminalError as error:
            return f"{error.code}: {error.message}"

    @handler
    async def settles(self, ctx: SharedWorkflowContext, host: str) -> str:
        try:
            await ctx.promise("host", str).resolve(host)
        except TerminalError as error:
            return f"{error.code}"
        return "first"


@handler(service="Plain")
async def plain(ctx: Context) -> str:
    return "done"


@handler(service="Plain")
async def looks(ctx: Context, id: str) -> list[int]:
    """The codes of all a handler can ask about another invocation, and wait for."""
    codes = []
    for ask in (ctx.attach, ctx.output):
        try:
            await ask(id)
            codes.append(200)
        except TerminalError as error:
            codes.append(error.code)
    ctx.cancel(id)
    ctx.send_signal(id, "s")
    ctx.resolve_awakeable(awakeable_id(id, 1))
    await ctx.sleep(0.01)
    return codes


def services(sim: Sim) -> list[object]:
    return [Visit(), plain, looks]


DOORS: dict[str, Callable[[Engine, str], Awaitable[Any]]] = {
    "attach": lambda engine, id: engine.attach(id),
    "output": lambda engine, id: engine.output(id),
    "describe": lambda engine, id: engine.describe(id),
    "cancel": lambda engine, id: engine.cancel(id),
    "kill": lambda engine, id: engine.kill(id),
    "pause": lambda engine, id: engine.pause(id),
    "resume": lambda engine, id: engine.resume(id),
    "restart_as_new": lambda engine, id: engine.restart_as_new(id),
    "purge": lambda engine, id: engine.purge(id),
    "purge_journal": lambda engine, id: engine.purge_journal(id),
    "send_signal": lambda engine, id: engine.send_signal(id, "s"),
    "reject_signal": lambda engine, id: engine.reject_signal(id, "s", "no"),
    "resolve_awakeable": lambda engine, id: engine.resolve_awakeable(awakeable_id(id, 1)),
    "reject_awakeable": lambda engine, id: engine.reject_awakeable(awakeable_id(id, 1, run_number("x")), "no"),
}


async def knock(sim: Sim, door: str, id: str) -> None:
    await sim.repeat(lambda engine: DOORS[door](engine, id))


async def pass_by(sim: Sim, when: str) -> None:
    """Let the retention be over, and see that the test is about what it says."""
    if when == AT_ONCE:
        await asyncio.sleep(61)
        assert sim.tables.invocations or sim.interruptions, "it was swept away already"
        return
    await asyncio.sleep(30)
    if when == CRASHED:
        await sim.restart(crash=True)
    await asyncio.sleep(170 if when == SWEPT else 32)


async def first_run(sim: Sim) -> str:
    await asyncio.sleep(0.5)  # between two sweeps
    handle = await sim.send(Visit.run, "Ada", key="w")
    await sim.call(Visit.settles, "Till", key="w")
    assert await sim.result(handle.id) == "Till"
    return str(handle.id)


async def lists(sim: Sim, service: str, handler_name: str) -> list[str]:
    views = await sim.repeat(lambda engine: engine.invocations(service=service, handler=handler_name))
    return [view.status for view in views]


@WHENEVER
@pytest.mark.parametrize("what", ["workflow", "plain"])
def test_every_door_says_that_it_does_not_exist(when: str, what: str) -> None:
    async def scenario(sim: Sim) -> Any:
        if what == "workflow":
            id = await first_run(sim)
        else:
            await asyncio.sleep(0.5)
            handle = await sim.send(plain, idempotency_key="i")
            id, _ = handle.id, await sim.result(handle.id)
        listed = ("Visit", "run") if what == "workflow" else ("Plain", "plain")
        assert await lists(sim, *listed) == ["completed"]
        await pass_by(sim, when)
        for name in DOORS:
            with pytest.raises(NotFoundError):
                await knock(sim, name, id)
                raise AssertionError(name)
        assert await lists(sim, *listed) == []
        return await sim.call(looks, id)

    assert check(services, scenario, most=8, **KEPT) == [404, 404]


@WHENEVER
def test_state_and_promises_of_a_workflow_are_over_with_it(when: str) -> None:
    async def scenario(sim: Sim) -> Any:
        await first_run(sim)
        before = await sim.call(Visit.guest, key="w")
        await pass_by(sim, when)
        state = await sim.repeat(lambda engine: engine.get_state("Visit", "w"))
        with pytest.raises(NotFoundError):
            await sim.repeat(lambda engine: engine.workflow(Visit.run, "w").output())
        return before, state, await sim.call(Visit.guest, key="w")

    expected: Any = (["Ada", ["guest"], "Till"], {}, [None, [], None])
    assert check(services, scenario, most=20, **KEPT) == expected


@pytest.mark.parametrize("begun", ["while it runs", "while it is kept"])
def test_a_handler_that_runs_across_that_moment_sees_it(begun: str) -> None:
    """In memory all the time, too: it is not begun again, and nobody else comes."""

    async def scenario(sim: Sim) -> Any:
        await asyncio.sleep(0.5)
        run = await sim.send(Visit.run, "Ada", key="w")
        if begun == "while it runs":
            looker = await sim.send(Visit.looks_twice, key="w")
            await asyncio.sleep(0.1)
        await sim.call(Visit.settles, "Till", key="w")
        await sim.result(run.id)
        if begun == "while it is kept":
            await asyncio.sleep(0.1)
            looker = await sim.send(Visit.looks_twice, key="w")
        return (await sim.result(looker.id))[2:]

    expected: Any = [None, [], None]
    assert check(services, scenario, most=20, **KEPT, inactivity_timeout="1h") == expected


@WHENEVER
@pytest.mark.parametrize("who", ["the engine", "a handler"])
def test_a_promise_acknowledged_after_it_belongs_to_the_next_run(when: str, who: str) -> None:
    """It is not swept away with the run before."""

    async def scenario(sim: Sim) -> Any:
        await first_run(sim)
        await pass_by(sim, when)
        if who == "the engine":
            with suppress(ConflictError):  # asked again after a crash
                await sim.repeat(lambda engine: engine.resolve_promise("Visit", "w", "host", "Tim"))
        else:
            assert await sim.call(Visit.settles, "Tim", key="w") == "first"
        await asyncio.sleep(200)
        looked = await sim.call(Visit.guest, key="w")
        second = await sim.send(Visit.run, "Bob", key="w")
        return looked, await sim.result(second.id), await sim.call(Visit.guest, key="w")

    expected: Any = ([None, [], "Tim"], "Tim", ["Bob", ["guest"], "Tim"])
    assert check(services, scenario, most=20, **KEPT) == expected


@WHENEVER
def test_state_that_is_patched_after_it_stays(when: str) -> None:
    async def scenario(sim: Sim) -> Any:
        await first_run(sim)
        await pass_by(sim, when)
        patch = {"guest": "patched"}
        await sim.repeat(lambda engine: engine.patch_state("Visit", "w", patch, idempotency_key="p"))
        await asyncio.sleep(200)
        return await sim.repeat(lambda engine: engine.get_state("Visit", "w"))

    assert check(services, scenario, most=20, **KEPT) == {"guest": "patched"}


FORGOTTEN = (
    "410: the workflow Visit/w is forgotten: it was purged, or its retention is over; "
    "its promise 'never' will not be settled any more"
)


@pytest.mark.parametrize("how", ["swept", "purged", "started again", "settled", "looked at", "nothing kept"])
def test_who_waits_for_a_promise_of_a_forgotten_workflow_is_told(how: str) -> None:
    async def scenario(sim: Sim) -> Any:
        early = await sim.send(Visit.waits, "never", key="w")  # even before the run
        other = await sim.send(Visit.waits, "never", key="other")
        await asyncio.sleep(0.1)
        run = await sim.send(Visit.run, "Ada", key="w")
        late = await sim.send(Visit.waits, "never", key="w")
        await asyncio.sleep(0.1)
        await sim.call(Visit.settles, "Till", key="w")
        if how != "nothing kept":
            await sim.result(run.id)
        match how:
            case "swept":
                await asyncio.sleep(200)
            case "purged":
                with suppress(NotFoundError):  # asked again after a crash
                    await sim.repeat(lambda engine: engine.purge(run.id))
            case "started again":
                await asyncio.sleep(61)
                await sim.send(Visit.run, "Bob", key="w")
            case "settled":
                await asyncio.sleep(61)
                with suppress(ConflictError):
                    await sim.repeat(lambda engine: engine.resolve_promise("Visit", "w", "never", "mine"))
            case "looked at":
                await asyncio.sleep(61)
                await sim.call(Visit.guest, key="w")
        told = [await sim.result(early.id), await sim.result(late.id)]
        with suppress(ConflictError):
            await sim.repeat(lambda engine: engine.resolve_promise("Visit", "other", "never", "not concerned"))
        return [*told, await sim.result(other.id)]

    kept: Any = 0 if how == "nothing kept" else "1m"
    assert check(services, scenario, most=12, workflow_completion_retention=kept) == [
        FORGOTTEN,
        FORGOTTEN,
        "not concerned",
    ]


@WHENEVER
def test_who_waits_after_it_waits_for_the_next_run(when: str) -> None:
    async def scenario(sim: Sim) -> Any:
        await first_run(sim)
        await pass_by(sim, when)
        waiter = await sim.send(Visit.waits, "host", key="w")
        await asyncio.sleep(200)
        second = await sim.send(Visit.run, "Bob", key="w")
        await sim.call(Visit.settles, "Tim", key="w")
        return await sim.result(waiter.id), await sim.result(second.id)

    assert check(services, scenario, most=20, **KEPT) == ("Tim", "Tim")
