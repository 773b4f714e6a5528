"""An error about a value says whose value it is."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from durable import Context, ObjectContext, SerializationError, VirtualObject, Workflow, WorkflowContext, handler
from durable.core.journal import Kind, value_called
from durable.testing import Sim, simulate


def services(sim: Sim) -> Iterable[object]:
    async def number() -> int:
        return "seven"  # type: ignore[return-value]

    @handler(service="S")
    async def ok(ctx: Context, value: int) -> int:
        return value

    @handler(service="S")
    async def wrong(ctx: Context) -> int:
        return "seven"  # type: ignore[return-value]

    @handler(service="S")
    async def step(ctx: Context) -> None:
        await ctx.run(number)

    @handler(service="S")
    async def caller(ctx: Context) -> None:
        await ctx.call("S/ok", "seven")

    @handler(service="S")
    async def told(ctx: Context) -> None:
        await ctx.signal("go", int)

    class Box(VirtualObject):
        @handler
        async def look(self, ctx: ObjectContext) -> None:
            ctx.set("size", "seven")
            await ctx.get("size", int)

        @handler
        async def put(self, ctx: ObjectContext) -> None:
            ctx.set("size", object())

    class Deal(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> None:
            await ctx.promise("decision", int)

    return [ok, wrong, step, caller, told, Box(), Deal()]


async def text_of(sim: Sim, target: str, key: str | None = None) -> str:
    """How an invocation fails for now, and the one attempt it makes."""
    handle = await sim.engine.send(target, key=key)
    if target == "S/told":
        await sim.engine.send_signal(handle.id, "go", "seven")
    if target == "Deal/run":
        await sim.engine.resolve_promise("Deal", key or "", "decision", "seven")

    async def failed() -> bool:
        return (await sim.engine.describe(handle.id)).last_failure is not None

    await sim.until(failed)
    failure = (await sim.engine.describe(handle.id)).last_failure
    assert failure is not None
    return failure.message


READ = "cannot read `int`: ValidationError: Expected `int`, got `str`"


@pytest.mark.parametrize(
    ("target", "key", "text"),
    [
        ("S/wrong", None, f"the result of S/wrong: {READ}"),
        ("S/step", None, f"the result of step 'number': {READ}"),
        ("S/caller", None, f"the argument of S/ok: {READ}"),
        ("S/told", None, f"the value of signal 'go' (entry 1): {READ}"),
        ("Box/look", "a", f"the state value 'size': {READ}"),
        ("Box/put", "a", "the state value 'size': cannot write a value of type `object`"),
        ("Deal/run", "a", f"the value of promise 'decision' (entry 1): {READ}"),
    ],
)
def test_a_handler_that_fails_for_a_value_says_which(target: str, key: str | None, text: str) -> None:
    async def scenario(sim: Sim) -> str:
        return await text_of(sim, target, key)

    message, _ = simulate(services, scenario)
    assert message.startswith(f"SerializationError: {text}")


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda sim: sim.engine.call("S/ok", "seven"), f"the argument of S/ok: {READ}"),
        (lambda sim: sim.engine.send("S/ok", "seven"), f"the argument of S/ok: {READ}"),
        (
            lambda sim: sim.engine.resolve_promise("Deal", "a", "decision", object()),
            "the value of promise 'decision': ",
        ),
    ],
)
def test_who_asks_with_a_wrong_value_is_told_which(ask: Callable[[Sim], Awaitable[Any]], text: str) -> None:
    async def scenario(sim: Sim) -> str:
        with pytest.raises(SerializationError) as caught:
            await ask(sim)
        return str(caught.value)

    message, _ = simulate(services, scenario)
    assert message.startswith(text)


def test_a_result_that_is_read_as_another_type_names_its_invocation() -> None:
    async def scenario(sim: Sim) -> None:
        handle = await sim.engine.send("S/ok", 7)
        with pytest.raises(SerializationError, match=f"^the result of invocation {handle.id}: cannot read `str`"):
            await sim.engine.attach(handle.id, str)

    simulate(services, scenario)


def test_every_kind_of_entry_has_a_name_for_its_value() -> None:
    for kind in Kind:
        assert value_called(kind, "x", 3).startswith("the ")
        assert value_called(kind, "x", 3).endswith(" (entry 3)")
