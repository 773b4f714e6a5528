"""Workflows: `run` once per key, durable promises between its handlers, all of it kept for a while and then gone."""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from durable import (
    Context,
    NotFoundError,
    OutputNotReadyError,
    SharedWorkflowContext,
    TerminalError,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.testing import Sim, check
from tests.scenarios.keyed import assert_at_once, assert_ran, reaches


class Visit(Workflow):
    """Waits until somebody unblocks it."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def run(self, ctx: WorkflowContext, guest: str) -> str:
        ctx.set("guest", guest)
        await ctx.run(self._arrive)
        return await ctx.promise("host", str)

    async def _arrive(self) -> None:
        self.sim.effect("arrive")

    @handler
    async def guest(self, ctx: SharedWorkflowContext) -> str | None:
        return await ctx.get("guest", str)

    @handler
    async def unblock(self, ctx: SharedWorkflowContext, host: str) -> None:
        await ctx.promise("host", str).resolve(host)

    @handler
    async def turn_away(self, ctx: SharedWorkflowContext, reason: str) -> None:
        await ctx.promise("host", str).reject(reason, 403)

    @handler
    async def host(self, ctx: SharedWorkflowContext) -> str | None:
        return await ctx.promise("host", str).peek()


async def result_of(sim: Sim, key: str) -> str:
    return await sim.repeat(lambda engine: engine.workflow(Visit.run, key).result())


async def output_of(sim: Sim, key: str) -> str:
    return await sim.repeat(lambda engine: engine.workflow(Visit.run, key).output())


async def call_run(sim: Sim, guest: str, key: str) -> str:
    return await sim.repeat(lambda engine: engine.call(Visit.run, guest, key=key))


async def waits(sim: Sim, key: str) -> None:
    """Until the run of this key has come to its promise."""

    async def waiting() -> bool:
        view = await sim.engine.workflow(Visit.run, key).describe()
        return any(entry.kind == "promise" and entry.result == "open" for entry in view.journal)

    await sim.until(waiting)


def test_a_workflow_is_queried_while_it_waits_unblocked_and_never_run_twice() -> None:
    """C-044: state read by another handler, result by attach and output, a second submission joins the first."""

    async def scenario(sim: Sim) -> list[Any]:
        first = await sim.send(Visit.run, "Ada", key="w")
        await waits(sim, "w")
        seen = [await sim.call(Visit.guest, key="w"), await sim.call(Visit.host, key="w")]
        await sim.call(Visit.unblock, "Till", key="w")
        seen += [await sim.result(first.id), await result_of(sim, "w"), await output_of(sim, "w")]
        seen += [await sim.call(Visit.host, key="w"), await sim.call(Visit.guest, key="w")]
        again = await sim.send(Visit.run, "Bob", key="w")
        assert not again.accepted
        assert again.id == first.id
        assert first.accepted or sim.interruptions
        seen += [await sim.result(again.id), await sim.call(Visit.guest, key="w")]
        assert_ran(sim, "arrive")
        return seen

    expected = ["Ada", None, "Till", "Till", "Till", "Till", "Ada", "Till", "Ada"]
    assert check(lambda sim: [Visit(sim)], scenario) == expected


def test_calling_run_again_is_refused_while_it_runs_and_after_it_ended() -> None:
    """C-045: 409 both times, from outside and from a handler; the one that runs is not disturbed."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Door")
        async def knock(ctx: Context, guest: str) -> tuple[int, str]:
            try:
                return 200, await ctx.call(Visit.run, guest, key="w")
            except TerminalError as error:
                return error.code, error.message

        return [Visit(sim), knock]

    async def refused(sim: Sim) -> None:
        with pytest.raises(TerminalError, match="already started") as refusal:
            await call_run(sim, "Bob", "w")
        assert refusal.value.code == 409
        code, message = await sim.call("Door/knock", "Carl")
        assert code == 409
        assert "already started" in message

    async def scenario(sim: Sim) -> tuple[str, str | None]:
        first = await sim.send(Visit.run, "Ada", key="w")
        await waits(sim, "w")
        await refused(sim)
        await sim.call(Visit.unblock, "Till", key="w")
        result = await sim.result(first.id)
        await refused(sim)
        assert_ran(sim, "arrive")
        return result, await sim.call(Visit.guest, key="w")

    assert check(services, scenario, most=25) == ("Till", "Ada")


def test_a_workflow_called_by_a_handler_runs_once_however_often_the_handler_is_retried() -> None:
    """C-045: a replayed call is the same call, and not a second one that is refused."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Door")
        async def knock(ctx: Context, guest: str) -> str:
            visit = ctx.call(Visit.run, guest, key="w")
            await ctx.call(Visit.unblock, "Till", key="w")
            if sim.effect("tries") < 3:
                raise RuntimeError("knock again")
            return await visit

        return [Visit(sim), knock]

    async def scenario(sim: Sim) -> str:
        result = await sim.call("Door/knock", "Ada")
        assert_ran(sim, "arrive")
        return str(result)

    assert check(services, scenario, most=25) == "Till"


def test_attaching_by_the_workflows_key_waits_for_the_end_and_output_does_not() -> None:
    """C-046: output is "not ready" (470) while it runs; an attach after the end returns at once."""

    async def scenario(sim: Sim) -> list[str]:
        with pytest.raises(NotFoundError):
            await output_of(sim, "w")
        await sim.send(Visit.run, "Ada", key="w")
        attached = asyncio.create_task(result_of(sim, "w"))
        await waits(sim, "w")
        await asyncio.sleep(1)
        assert not attached.done()
        with pytest.raises(OutputNotReadyError) as early:
            await output_of(sim, "w")
        assert early.value.code == 470
        await sim.call(Visit.unblock, "Till", key="w")
        results = [await attached]
        before_ms = sim.clock.now_ms()
        results += [await result_of(sim, "w"), await output_of(sim, "w")]
        assert_at_once(sim, before_ms)
        return results

    assert check(lambda sim: [Visit(sim)], scenario) == ["Till", "Till", "Till"]


class Patient(Workflow):
    """Comes to its promise late."""

    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        await ctx.sleep("1h")
        return await ctx.promise("result", str)

    @handler
    async def resolve(self, ctx: SharedWorkflowContext, value: str) -> int:
        """200, or the code it was refused with."""
        try:
            await ctx.promise("result", str).resolve(value)
        except TerminalError as error:
            return error.code
        return 200


def test_a_promise_resolved_before_run_awaits_it_gives_its_value_immediately() -> None:
    """C-047: run returns in the very moment it comes to the promise; a second resolve is refused with 409."""

    async def scenario(sim: Sim) -> list[Any]:
        handle = await sim.send(Patient.run, key="w")
        started_ms = sim.clock.now_ms()
        codes = [await sim.call(Patient.resolve, "early", key="w"), await sim.call(Patient.resolve, "late", key="w")]
        result = await sim.result(handle.id)
        assert sim.interruptions or sim.clock.now_ms() - started_ms == 3_600_000
        return [*codes, result]

    assert check(lambda sim: [Patient()], scenario) == [200, 409, "early"]


def test_a_promise_resolved_before_the_workflow_was_even_started_is_kept_for_it() -> None:
    """C-047: the same, one step earlier."""

    async def scenario(sim: Sim) -> str:
        await sim.call(Visit.unblock, "Till", key="w")
        before_ms = sim.clock.now_ms()
        handle = await sim.send(Visit.run, "Ada", key="w")
        result = await sim.result(handle.id)
        assert_at_once(sim, before_ms)
        return str(result)

    assert check(lambda sim: [Visit(sim)], scenario) == "Till"


@pytest.mark.parametrize("early", [False, True], ids=["while run waits", "before run waits"])
def test_a_rejected_promise_raises_its_message_in_run_and_in_a_peek(early: bool) -> None:
    """C-048: the same message and code reach run, who waits for run, and who peeks."""

    async def scenario(sim: Sim) -> list[tuple[int, str]]:
        if early:
            await sim.call(Visit.turn_away, "we are full", key="w")
            handle = await sim.send(Visit.run, "Ada", key="w")
        else:
            handle = await sim.send(Visit.run, "Ada", key="w")
            await waits(sim, "w")
            await sim.call(Visit.turn_away, "we are full", key="w")
        failures = []
        for ask in (sim.result(handle.id), sim.call(Visit.host, key="w"), output_of(sim, "w")):
            with pytest.raises(TerminalError) as failure:
                await ask
            failures.append((failure.value.code, failure.value.message))
        return failures

    assert check(lambda sim: [Visit(sim)], scenario) == [(403, "we are full")] * 3


def test_after_its_retention_a_workflow_is_gone_and_its_key_begins_anew() -> None:
    """C-049: status, journal, state and promises are forgotten; the key is accepted as new and starts empty."""

    async def scenario(sim: Sim) -> list[Any]:
        first = await sim.send(Visit.run, "Ada", key="w")
        await sim.call(Visit.unblock, "Till", key="w")
        seen = [await sim.result(first.id), await sim.call(Visit.guest, key="w")]
        await asyncio.sleep(3 * 3600)
        for ask in (output_of, result_of):
            with pytest.raises(NotFoundError):
                await ask(sim, "w")
        with pytest.raises(NotFoundError):
            await sim.repeat(lambda engine: engine.describe(first.id))
        assert await sim.repeat(lambda engine: engine.get_state("Visit", "w")) == {}
        seen += [await sim.call(Visit.guest, key="w"), await sim.call(Visit.host, key="w")]

        second = await sim.send(Visit.run, "Bob", key="w")
        assert second.accepted or sim.interruptions
        await waits(sim, "w")
        seen += [await sim.call(Visit.guest, key="w"), await sim.call(Visit.host, key="w")]
        await sim.call(Visit.unblock, "Tom", key="w")
        seen.append(await sim.result(second.id))
        assert_ran(sim, "arrive", 2)
        return seen

    expected = ["Till", "Ada", None, None, "Bob", None, "Tom"]
    assert check(lambda sim: [Visit(sim)], scenario, most=25, workflow_completion_retention="1h") == expected


def test_a_key_is_free_from_the_moment_its_retention_is_over_even_before_the_clean_up() -> None:
    """C-049: nobody has to wait for the clean-up, which comes once an hour."""

    async def scenario(sim: Sim) -> list[str | None]:
        await sim.call(Visit.unblock, "Till", key="w")
        results: list[str | None] = [await call_run_as_new(sim, "Ada")]
        await asyncio.sleep(61)
        with pytest.raises(NotFoundError):
            await output_of(sim, "w")
        handle = await sim.send(Visit.run, "Bob", key="w")
        await waits(sim, "w")  # the promise of the run before is gone too
        await sim.call(Visit.unblock, "Tom", key="w")
        results += [await sim.result(handle.id), await sim.call(Visit.guest, key="w")]
        return results

    async def call_run_as_new(sim: Sim, guest: str) -> str:
        handle = await sim.send(Visit.run, guest, key="w")
        return str(await sim.result(handle.id))

    expected = ["Till", "Tom", "Bob"]
    assert check(lambda sim: [Visit(sim)], scenario, workflow_completion_retention="1m") == expected


@dataclass
class Name:
    first: str
    last: str


class Point(msgspec.Struct):
    x: int
    y: int


class Typed(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        # None is a value like any other: all four have to be resolved
        text, name = await ctx.promise("text", str), await ctx.promise("name", Name)
        point, nothing = await ctx.promise("point", Point), await ctx.promise("nothing")
        return f"{text!r} {name!r} {point!r} {nothing!r}"

    @handler
    async def resolve(self, ctx: SharedWorkflowContext, name: str) -> None:
        match name:
            case "text":
                await ctx.promise(name, str).resolve("Ω")
            case "name":
                await ctx.promise(name, Name).resolve(Name("Ada", "Lovelace"))
            case "point":
                await ctx.promise(name, Point).resolve(Point(3, 4))
            case "nothing":
                await ctx.promise(name).resolve(None)

    @handler
    async def peek(self, ctx: SharedWorkflowContext) -> tuple[str | None, Name | None, Point | None, None]:
        return (
            await ctx.promise("text", str).peek(),
            await ctx.promise("name", Name).peek(),
            await ctx.promise("point", Point).peek(),
            await ctx.promise("nothing").peek(),
        )


def test_promises_carry_typed_values_and_a_peek_never_blocks() -> None:
    """C-050: text, a dataclass, a struct and None arrive as they were sent; an unresolved promise peeks as None."""

    async def scenario(sim: Sim) -> tuple[Any, Any, str]:
        handle = await sim.send(Typed.run, key="w")
        before_ms = sim.clock.now_ms()
        unresolved = await sim.call(Typed.peek, key="w")
        assert_at_once(sim, before_ms)
        for name in ("point", "text", "name"):
            await sim.call(Typed.resolve, name, key="w")
        await reaches(sim, handle.id, "running", "suspended")
        assert await sim.status(handle.id) != "completed"
        await sim.call(Typed.resolve, "nothing", key="w")
        return unresolved, await sim.call(Typed.peek, key="w"), await sim.result(handle.id)

    nothing, peeked, result = check(lambda sim: [Typed()], scenario, most=25)
    assert nothing == (None, None, None, None)
    assert peeked == ("Ω", Name("Ada", "Lovelace"), Point(3, 4), None)
    assert result == "'Ω' Name(first='Ada', last='Lovelace') Point(x=3, y=4) None"
