"""Plain flows go on in one order, live and in every replay, also in what they do between two operations.

A seed draws a tree of flows (`asyncio.gather`, task groups of asyncio and anyio, tasks of their own) that wait for
steps, sleeps, calls, signals and awakeables, made where they are awaited or before the flows began. Each notes what
it has come to in a list of its attempt, which is in no journal. (`check_seed` takes any other number, too.)
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anyio
import pytest

from durable import Context, DurableFuture, InvocationCancelled, RetryPolicy, TerminalError, gather, handler
from durable.core.limits import Limits
from durable.testing import Fault, Mode, Scenario, Services, Sim, check, run, simulate
from tests.runtime.support import engine_on

TICK_S = 0.01
HOWS: list[Literal["before", "after", "restart"]] = ["before", "after", "restart"]


class Leaf(NamedTuple):
    """One durable wait."""

    kind: str
    ticks: int
    #: Whether it is asked for before any flow begins.
    early: bool


class Flow(NamedTuple):
    """A flow: waits, and groups of other flows between them."""

    name: str
    parts: "list[Leaf | Group]"


class Group(NamedTuple):
    """Flows beside each other."""

    how: str
    flows: list[Flow]


def tree_of(seed: int) -> Flow:
    draw = random.Random(seed)
    names = iter(range(1000))
    tick = [1, 2, 3] if draw.random() < 0.3 else range(40)

    def leaf() -> Leaf:
        kind = draw.choice(["sleep", "step", "step", "call", "signal", "awakeable", "pair", "fails", "now"])
        return Leaf(kind, draw.choice(tick), draw.random() < 0.4)

    def flow(depth: int) -> Flow:
        parts: list[Leaf | Group] = [leaf() for _ in range(draw.choice([0, 1, 1, 2]))]
        if depth:
            parts.insert(draw.randint(0, len(parts)), group(depth - 1))
        return Flow(f"f{next(names)}", parts)

    def group(depth: int) -> Group:
        how = draw.choice(["gather", "group", "anyio", "beside"])
        return Group(how, [flow(draw.randint(0, depth)) for _ in range(draw.choice([1, 2, 2, 3]))])

    root = flow(2)
    return Flow("root", [*root.parts, group(draw.choice([0, 1, 2])), leaf()])


async def together(how: str, flows: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run them beside each other."""
    match how:
        case "gather":
            await asyncio.gather(*[flow() for flow in flows])
        case "group":
            async with asyncio.TaskGroup() as group:
                for flow in flows:
                    group.create_task(awaited(flow))
        case "anyio":
            async with anyio.create_task_group() as tasks:
                for flow in flows:
                    tasks.start_soon(flow)
        case "beside":  # the last one goes on in the flow that made the others
            others = [asyncio.create_task(awaited(flow)) for flow in flows[:-1]]
            for other in others:  # nobody awaits them when the attempt ends
                other.add_done_callback(lambda task: task.cancelled() or task.exception())
            await flows[-1]()
            for other in others:
                await other


async def awaited(flow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await flow()


def program(seed: int, attempts: dict[str, list[list[str]]]) -> tuple[Services, Scenario[Any]]:
    """Runs the tree; what each attempt of it noted is kept in `attempts`, by invocation."""
    tree = tree_of(seed)

    def services(sim: Sim) -> Iterable[object]:
        async def work(name: str, ticks: int) -> str:
            if ticks > 3:
                await asyncio.sleep(ticks * TICK_S)
            return name

        async def fail(ticks: int) -> None:
            await asyncio.sleep(ticks * TICK_S)
            raise TerminalError("as planned")

        @handler(service="S")
        async def child(ctx: Context, ticks: int) -> int:
            await ctx.sleep(ticks * TICK_S)
            return ticks

        @handler(service="S")
        async def settle(ctx: Context, what: tuple[str, str]) -> None:
            kind, id = what
            if kind == "signal":
                ctx.send_signal(id.split()[0], id, 1)
            else:
                ctx.resolve_awakeable(id, 1)

        @handler(service="S", retry=RetryPolicy("10ms", max_attempts=None))
        async def parent(ctx: Context) -> list[str]:
            noted: list[str] = []
            attempts.setdefault(ctx.request.id, []).append(noted)
            early: dict[tuple[str, int], Any] = {}

            def note(what: str) -> None:
                if not ctx._operations.ending:  # what flows do when their attempt has ended is no matter
                    noted.append(what)

            def ask(place: tuple[str, int], leaf: Leaf) -> Any:
                name, delay = f"{ctx.request.id} {place}", leaf.ticks * TICK_S
                match leaf.kind:
                    case "sleep":
                        return ctx.sleep(delay)
                    case "call":
                        return ctx.call(child, leaf.ticks)
                    case "signal":
                        ctx.send(settle, ("signal", name), delay=delay)
                        return ctx.signal(name, int)
                    case "awakeable":
                        awakeable = ctx.awakeable(int)
                        ctx.send(settle, ("awakeable", awakeable.id), delay=delay)
                        return awakeable
                    case "pair":
                        return gather(ctx.run(work, name, leaf.ticks), ctx.sleep(delay))
                    case "fails":
                        return ctx.run(fail, leaf.ticks)
                return ctx.run(work, name, leaf.ticks)

            def ask_early(flow: Flow) -> None:
                for number, part in enumerate(flow.parts):
                    if isinstance(part, Group):
                        for inner in part.flows:
                            ask_early(inner)
                    elif part.early and part.kind != "now":
                        early[flow.name, number] = ask((flow.name, number), part)

            async def run(flow: Flow) -> None:
                note(f"{flow.name} begins")
                for number, part in enumerate(flow.parts):
                    place = flow.name, number
                    if isinstance(part, Group):
                        await together(part.how, [lambda inner=inner: run(inner) for inner in part.flows])  # type: ignore[misc]
                    elif part.kind == "now":
                        ctx.now()
                    else:
                        try:
                            await (early[place] if part.early else ask(place, part))
                        except TerminalError:
                            note(f"{flow.name} failed")
                    note(f"{flow.name} {number}")

            ask_early(tree)
            await run(tree)
            return noted

        return [parent, child, settle]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("S/parent")
        whole = await sim.result(handle.id)
        for noted in attempts[handle.id]:
            assert noted == whole[: len(noted)], (
                f"seed {seed}: an attempt noted {noted}, the last one {whole}: {tree}"
            )

    return services, scenario


def mode_of(seed: int) -> Mode:
    draw = random.Random(seed)
    return Mode(
        f"random {seed}",
        always_suspend=draw.random() < 0.6,
        minimal=draw.random() < 0.3,
        faults=tuple(Fault(draw.randint(1, 40), draw.choice(HOWS)) for _ in range(draw.choice([0, 1, 2]))),
        every=draw.choice([0, 0, 0, 4, 7]),
        how=draw.choice(HOWS),
    )


def check_seed(seed: int) -> None:
    """One tree, in two random modes."""
    for mode in (mode_of(2 * seed), mode_of(2 * seed + 1)):
        attempts: dict[str, list[list[str]]] = {}
        try:
            simulate(*program(seed, attempts), mode)
        except BaseException as error:
            error.add_note(f"in mode {mode}, of check_seed({seed})")
            raise


@pytest.mark.parametrize("first", range(0, 150, 50))
def test_a_random_tree_of_flows_goes_on_in_the_same_order_in_every_attempt(first: int) -> None:
    """I2."""
    for seed in range(first, first + 50):
        check_seed(seed)


async def behind(*flows: Coroutine[Any, Any, None]) -> None:
    """Each is begun by the one before, which goes on beside it."""
    async with asyncio.TaskGroup() as group:
        if flows:
            group.create_task(behind(*flows[1:]))
            await flows[0]


@pytest.mark.parametrize("how", ["gather", "group", "anyio", "behind"])
@pytest.mark.parametrize("early", [True, False], ids=["asked before", "asked by the flow"])
def test_flows_go_on_in_the_order_of_their_outcomes_in_every_mode(how: str, early: bool) -> None:
    """I2: what they note is no operation, so only the order of the outcomes tells it."""
    times = {"slow": 3, "fast": 1, "middle": 2}

    def services(sim: Sim) -> Iterable[object]:
        async def work(seconds: int) -> int:
            await asyncio.sleep(seconds)
            return seconds

        @handler(service="S")
        async def notes(ctx: Context) -> list[str]:
            noted: list[str] = []

            async def flow(name: str, future: DurableFuture[Any] | None) -> None:
                noted.append(f"{name} begins")
                await (future or ctx.sleep(times[name]))
                noted.append(f"{name} ends")

            made = {name: ctx.run(work, seconds) if early else None for name, seconds in times.items()}
            if how == "behind":
                await behind(*(flow(name, future) for name, future in made.items()))
            else:
                await together(how, [lambda one=one: flow(*one) for one in made.items()])  # type: ignore[misc]
            await ctx.sleep("1s")
            return noted

        return [notes]

    begins, ends = ["slow begins", "fast begins", "middle begins"], ["fast ends", "middle ends", "slow ends"]
    assert check(services, lambda sim: sim.call("S/notes"), most=5) == [*begins, *ends]


@pytest.mark.parametrize("begun", [1, 100], ids=["in line", "at once"])
def test_flows_that_await_the_same_step_go_on_in_the_order_in_which_they_came(begun: int) -> None:
    """I2: the first of them executes it, and began to wait for its outcome after the others had."""

    def services(sim: Sim) -> Iterable[object]:
        async def work() -> None:
            await asyncio.sleep(2)

        @handler(service="S")
        async def notes(ctx: Context) -> list[str]:
            noted: list[str] = []
            steps: list[DurableFuture[None]] = []

            async def first() -> None:
                steps.append(ctx.run(work))
                await other("first")

            async def other(name: str) -> None:
                await steps[0]
                noted.append(name)
                await (ctx.sleep(1) if len(noted) % 2 else ctx.run(work))  # in another order, another journal

            async def apart() -> None:
                await ctx.sleep(1)
                await other("late")

            await asyncio.gather(first(), other("second"), apart(), other("third"))
            return noted

        return [notes]

    found = check(services, lambda sim: sim.call("S/notes"), limits=Limits(begun=begun))
    assert found == ["first", "second", "third", "late"]


def test_a_cancel_is_told_to_the_flow_that_was_told_before_and_not_to_the_one_that_asked_for_the_same() -> None:
    """I2: it was told where it asked for something, which left no entry; the next entry was another flow's, alike."""

    def services(sim: Sim) -> Iterable[object]:
        async def long() -> None:
            await asyncio.sleep(30)

        @handler(service="S")
        async def hog(ctx: Context) -> None:
            await ctx.run(long)

        @handler(service="S")
        async def two(ctx: Context) -> list[str]:
            noted: list[str] = []

            async def a() -> None:
                await ctx.sleep(1)
                try:
                    await ctx.sleep(5)
                except InvocationCancelled:
                    noted.append("a cancelled")
                    return
                noted.append("a slept")

            async def b() -> None:
                try:
                    await ctx.sleep(60)
                except InvocationCancelled:
                    noted.append("b cancelled")
                await ctx.sleep(7)
                noted.append("b slept")

            await asyncio.gather(a(), b())
            return noted

        return [two, hog]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("S/two")
        await asyncio.sleep(0.5)
        await sim.send("S/hog")
        await asyncio.sleep(2)  # the first sleep is over, and its handler waits for a slot
        await sim.repeat(lambda engine: engine.cancel(handle.id))
        found: list[str] = await sim.result(handle.id)
        return found

    found = check(services, scenario, inactivity_timeout=0, max_concurrent_invocations=1)
    assert found == ["a cancelled", "b cancelled", "b slept"]


def test_a_flow_that_awaits_what_came_before_it_began_goes_on_as_it_did(tmp_path: Path) -> None:
    """Also where outcomes came while the handler was busy with something that is in no journal."""
    noted: list[list[str]] = []

    @handler(service="S")
    async def parent(ctx: Context) -> None:
        notes: list[str] = []
        noted.append(notes)

        async def flow(name: str, future: DurableFuture[None]) -> None:
            notes.append(f"{name} begins")
            await future
            notes.append(f"{name} ends")

        futures = {"slow": ctx.sleep("2s"), "fast": ctx.sleep("1s")}
        if len(noted) == 1:
            await asyncio.sleep(5)
        await asyncio.gather(*(flow(*one) for one in futures.items()))
        await ctx.signal("end")

    async def story() -> None:
        for _ in range(2):
            async with engine_on(tmp_path / "a.db", parent, inactivity_timeout="1h") as engine:
                if not noted:
                    await engine.send(parent)
                await asyncio.sleep(20)
                engine.abandon()

    run(story)
    assert noted == 2 * [["slow begins", "fast begins", "fast ends", "slow ends"]]
