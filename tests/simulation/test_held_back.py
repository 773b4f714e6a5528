"""R-37: a step that the journal has as running begins again only once the handler has asked for all that is recorded.

Code that has changed asks for something else before that. So no step runs in an attempt that ends as a mismatch.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from durable import Context, DurableTimeoutError, InvocationView, RetryPolicy, TerminalError, gather, handler
from durable.runtime.current import CURRENT, InStep
from durable.testing import Mode, Sim, check, simulate

Code = Callable[[Sim, Context], Awaitable[object]]
PAUSING = RetryPolicy("10ms", max_attempts=3)


async def work(sim: Sim, name: str, seconds: float) -> str:
    """A step's function: it counts that it has begun, and in which attempt."""
    here = CURRENT.get()
    assert isinstance(here, InStep)
    sim.effect(name)
    sim.effect(f"in attempt {here.attempt}")
    await asyncio.sleep(seconds)
    return name


def step(sim: Sim, ctx: Context, name: str, seconds: float) -> Any:
    return ctx.with_options(name=name).run(work, sim, name, seconds)


def services_of(code: list[Code]) -> Callable[[Sim], list[object]]:
    def services(sim: Sim) -> list[object]:
        @handler(service="S", retry=PAUSING)
        async def run(ctx: Context) -> str:
            await code[0](sim, ctx)
            return "done"

        return [run]

    return services


async def over(sim: Sim, id: str) -> bool:
    return await sim.status(id) in ("paused", "completed")


async def changed_at(sim: Sim, code: list[Code], changed: Code, at: float) -> InvocationView:
    """The process dies, and the next one has other code: how that ends."""
    handle = await sim.send("S/run")
    await asyncio.sleep(at)
    code[0] = changed
    await sim.restart(crash=True)
    if (await sim.status(handle.id)) == "suspended":
        await sim.engine.resume(handle.id)
    await sim.until(lambda: over(sim, handle.id), within=3600)
    return await sim.engine.describe(handle.id)


# ---- code that has changed ----


async def two_flows(sim: Sim, ctx: Context, other: str = "quick") -> None:
    async def first() -> None:
        await step(sim, ctx, "slow", 10)

    async def second() -> None:
        await step(sim, ctx, other, 0)
        await ctx.sleep(100)

    await asyncio.gather(first(), second())


async def a_flow_renamed(sim: Sim, ctx: Context) -> None:
    await two_flows(sim, ctx, "renamed")


async def a_flow_gone(sim: Sim, ctx: Context) -> None:
    await step(sim, ctx, "slow", 10)


async def one_after_the_other(sim: Sim, ctx: Context) -> None:
    await step(sim, ctx, "slow", 10)
    await step(sim, ctx, "quick", 0)
    await ctx.sleep(100)


async def beside(sim: Sim, ctx: Context) -> None:
    one = step(sim, ctx, "slow", 10)
    two = ctx.with_options(interruptible=True, name="open").run(work, sim, "open", 10)
    await ctx.sleep(100)
    await gather(one, two)


async def awaited_at_once(sim: Sim, ctx: Context) -> None:
    await step(sim, ctx, "slow", 10)
    await ctx.with_options(interruptible=True, name="open").run(work, sim, "open", 10)
    await ctx.sleep(100)


async def something_else_beside_it(sim: Sim, ctx: Context) -> None:
    one = step(sim, ctx, "slow", 10)
    two = ctx.with_options(interruptible=True, name="open").run(work, sim, "open", 10)
    await step(sim, ctx, "new", 0)
    await gather(one, two)


async def ended_early(sim: Sim, ctx: Context) -> None:
    step(sim, ctx, "slow", 10).made = None
    await asyncio.sleep(0)


CHANGES: dict[str, tuple[Code, Code]] = {
    "a flow does something else": (two_flows, a_flow_renamed),
    "a flow is gone": (two_flows, a_flow_gone),
    "flows are one": (two_flows, one_after_the_other),
    "steps are awaited at once": (beside, awaited_at_once),
    "something comes before": (beside, something_else_beside_it),
    "the handler ends": (beside, ended_early),
}


@pytest.mark.parametrize(
    "mode", [Mode("default"), Mode("always-suspend", always_suspend=True)], ids=lambda mode: mode.name
)
@pytest.mark.parametrize("what", CHANGES)
def test_no_step_runs_in_an_attempt_whose_code_does_something_else(what: str, mode: Mode) -> None:
    was, changed = CHANGES[what]
    code = [was]

    async def scenario(sim: Sim) -> None:
        view = await changed_at(sim, code, changed, 5)
        assert view.last_failure is not None
        assert view.last_failure.reason == "journal-mismatch"
        assert sim.effects[f"in attempt {view.attempt}"] == 0
        assert sim.effects["slow"] == 1

        code[0] = was
        await sim.engine.resume(view.id)
        assert await sim.result(view.id) == "done"
        assert sim.effects["slow"] == 2

    simulate(services_of(code), scenario, mode)


# ---- code that has not ----


async def one_flow_is_late(sim: Sim, ctx: Context) -> None:
    async def late() -> None:
        await asyncio.sleep(3)
        await step(sim, ctx, "late", 2)
        await ctx.sleep(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(late())
        group.create_task(one_after_another(sim, ctx))


async def one_after_another(sim: Sim, ctx: Context) -> None:
    for name in "abc":
        await step(sim, ctx, name, 2)


async def an_undoing_beside_a_step(sim: Sim, ctx: Context) -> None:
    async def undone() -> None:
        async with ctx.saga() as saga:
            saga.with_options(name="undo").add_compensation(work, sim, "undo", 3)
            await ctx.call("S/fails")

    results = await asyncio.gather(undone(), one_after_another(sim, ctx), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["TerminalError", "NoneType"]


async def steps_left_behind(sim: Sim, ctx: Context) -> None:
    steps = [step(sim, ctx, f"step {number}", number) for number in range(4)]
    steps += [
        ctx.with_options(interruptible=True, name=f"open {number}").run(work, sim, "open", number)
        for number in range(3)
    ]
    await ctx.sleep(1)
    for one in reversed(steps):
        await one


UNCHANGED: list[Code] = [
    *(two_flows, beside, one_after_the_other, one_flow_is_late, an_undoing_beside_a_step, steps_left_behind),
]


@pytest.mark.parametrize("code", UNCHANGED, ids=lambda code: str(code.__name__))
def test_whatever_happens_the_same_code_comes_to_its_end(code: Code) -> None:
    @handler(service="S")
    async def fails(ctx: Context) -> None:
        await ctx.sleep(1)
        raise TerminalError("as planned")

    async def scenario(sim: Sim) -> None:
        assert await sim.call("S/run") == "done"

    check(lambda sim: [*services_of([code])(sim), fails], scenario)


@pytest.mark.parametrize("where", ["in a flow", "beside"])
def test_a_step_is_not_held_back_from_a_flow_that_waits_for_what_it_does(where: str) -> None:
    """No journal knows of that; but the step has begun before what the flow asked for then."""

    async def code(sim: Sim, ctx: Context) -> None:
        begun = asyncio.Event()

        async def begins() -> None:
            begun.set()
            await work(sim, "begins", 5)

        async def second() -> None:
            await begun.wait()
            await ctx.sleep(10)

        running = ctx.run(begins)
        if where == "in a flow":
            await asyncio.gather(running, second())
        else:
            await second()
            await running

    async def scenario(sim: Sim) -> None:
        view = await changed_at(sim, [code], code, 2)
        assert (view.status, view.failures) == ("completed", 0)
        assert sim.effects["begins"] == 2

    simulate(services_of([code]), scenario)


# ---- any code, changed in any way ----

Operation = tuple[str, str, int]
Flows = list[list[Operation]]


class Programs:
    """Draws programs of several flows, and changes of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0

    def operation(self) -> Operation:
        self.names += 1
        kind = self.random.choice(
            ["step", "step", "step", "beside", "beside", "open", "sleep", "now", "signal", "pause"]
        )
        return kind, f"{kind} {self.names}", self.random.randrange(6)

    def flow(self) -> list[Operation]:
        return [self.operation() for _ in range(self.random.randint(1, 4))]

    def flows(self) -> Flows:
        return [self.flow() for _ in range(self.random.randint(1, 4))]

    def changed(self, flows: Flows) -> Flows:
        changed = [[*flow] for flow in flows]
        flow = self.random.choice(changed)
        place = self.random.randrange(len(flow))
        match self.random.choice(["replace", "insert", "remove", "swap", "another order", "another flow", "awaited"]):
            case "replace":
                flow[place] = self.operation()
            case "insert":
                flow.insert(place, self.operation())
            case "remove":
                del flow[place]
            case "swap":
                other = self.random.randrange(len(flow))
                flow[place], flow[other] = flow[other], flow[place]
            case "another order":
                self.random.shuffle(changed)
            case "another flow":
                changed.insert(self.random.randint(0, len(changed)), self.flow())
            case "awaited":
                kind, name, seconds = flow[place]
                flow[place] = {"step": "beside", "beside": "step"}.get(kind, kind), name, seconds
        return changed


def code_of(flows: Flows) -> Code:
    async def run(sim: Sim, ctx: Context) -> None:
        async def go(flow: list[Operation]) -> None:
            beside: list[Awaitable[object]] = []
            for kind, name, seconds in flow:
                match kind:
                    case "step":
                        await step(sim, ctx, name, seconds)
                    case "beside":
                        beside.append(step(sim, ctx, name, seconds))
                    case "open":
                        beside.append(ctx.with_options(interruptible=True, name=name).run(work, sim, name, seconds))
                    case "sleep":
                        await ctx.sleep(seconds)
                    case "now":
                        ctx.now()
                    case "signal":
                        beside.append(ctx.signal(name).with_timeout(seconds))
                    case "pause":
                        await asyncio.sleep(0)
            for one in beside:
                with suppress(DurableTimeoutError):
                    await one

        await asyncio.gather(*map(go, flows))

    return run


def run_changed(seed: int) -> InvocationView:
    """One program, changed while some of its steps run; in an attempt that ends as a mismatch none has run again."""
    programs = Programs(seed)
    flows = programs.flows()
    code = [code_of(flows)]

    async def scenario(sim: Sim) -> InvocationView:
        view = await changed_at(sim, code, code_of(programs.changed(flows)), programs.random.uniform(0, 8))
        if view.status == "paused":
            assert view.last_failure is not None
            assert view.last_failure.reason == "journal-mismatch", view.last_failure.message
            assert sim.effects[f"in attempt {view.attempt}"] == 0, view.last_failure.message
        return view

    return simulate(services_of(code), scenario)[0]


SEEDS = range(50)


def test_no_step_of_a_random_program_runs_in_an_attempt_that_ends_as_a_mismatch() -> None:
    found = 0
    for seed in SEEDS:
        try:
            view = run_changed(seed)
        except AssertionError as error:
            error.add_note(f"run_changed({seed}) shows it again")
            raise
        running = [entry for entry in view.journal if (entry.kind, entry.result) == ("run", "open")]
        found += view.status == "paused" and bool(running)
    assert found >= 10, f"only {found} of them changed before what was recorded, while steps ran"
