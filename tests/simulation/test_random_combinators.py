"""Combinators of combinators over what completes in any order: as a model says, and in every replay as it was live.

Each seed is a handler: a few leaves (steps, sleeps, calls, awakeables, each with its own moment), and trees of
`gather`, `select`, `wait_completed` and `with_timeout` over them, which may share leaves. The id of a test is what
runs it again.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
import pytest

from durable import (
    Context,
    DurableFuture,
    DurableTimeoutError,
    TerminalError,
    as_completed,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.core.ids import awakeable_id
from durable.testing import Mode, Scenario, Services, Sim, simulate

#: One tick of the moments below, in seconds.
TICK_S = 0.01


class Leaf(msgspec.Struct, frozen=True):
    """Something that completes at its own moment (in ticks)."""

    kind: Literal["step", "sleep", "call", "awakeable"]
    number: int
    at: int
    fails: bool

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number}"


class Tree(msgspec.Struct, frozen=True):
    """A combinator over others; `at` is the moment of a time-out."""

    kind: Literal["gather", "gather all", "select", "wait_completed", "with_timeout"]
    name: str
    members: "tuple[Tree | Leaf, ...]"
    at: int = 0


class Program(msgspec.Struct, frozen=True):
    leaves: tuple[Leaf, ...]
    trees: tuple[Tree, ...]


def program_of(seed: int) -> Program:
    """All moments differ, so that what is first is never a matter of chance."""
    chance = random.Random(seed)
    moments = iter(chance.sample(range(1, 300), 200))
    numbers = itertools.count()
    leaves = []
    for number in range(chance.randint(2, 6)):
        kind: Any = chance.choice(("step", "sleep", "call", "awakeable"))
        leaves.append(Leaf(kind, number, next(moments), kind != "sleep" and chance.random() < 0.35))

    def combined(depth: int) -> Tree:
        kind: Any = chance.choice(("gather", "gather all", "select", "wait_completed", "with_timeout"))
        members = tuple(one(depth - 1) for _ in range(1 if kind == "with_timeout" else chance.randint(1, 3)))
        return Tree(kind, f"tree {next(numbers)}", members, next(moments) if kind == "with_timeout" else 0)

    def one(depth: int) -> Tree | Leaf:
        return chance.choice(leaves) if depth == 0 or chance.random() < 0.2 else combined(depth)

    return Program(tuple(leaves), tuple(combined(chance.randint(1, 3)) for _ in range(3)))


# ---- what must come out ----

#: When something completes, whether it fails, and what it says.
End = tuple[int, bool, Any]


def model(one: Tree | Leaf) -> End:
    if isinstance(one, Leaf):
        return one.at, one.fails, f"{one.name} failed" if one.fails else None if one.kind == "sleep" else one.name
    ends = [model(member) for member in one.members]
    first = min(range(len(ends)), key=lambda place: ends[place][0])  # of equals the one that is named first
    failed = [end for end in ends if end[1]]
    match one.kind:
        case "gather" if failed:
            return min(failed, key=lambda end: end[0])
        case "gather" | "gather all":
            return max(end[0] for end in ends), False, [end[2] for end in ends]
        case "select":
            at, fails, said = ends[first]
            return at, fails, said if fails else [f"m{first}", said]
        case "wait_completed":
            others = [member.name for member in one.members if member != one.members[first]]
            return ends[first][0], False, [[one.members[first].name], others]
        case _:
            return ends[0] if ends[0][0] < one.at else (one.at, True, "timed out")


def expected_of(program: Program) -> list[Any]:
    order = sorted(program.leaves, key=lambda leaf: leaf.at)
    return [*(model(tree)[2] for tree in program.trees), [leaf.name for leaf in order]]


# ---- how it is run ----


class Built:
    """The futures of a program, by name."""

    def __init__(
        self, ctx: Context, work: Callable[[Any], Any], program: Program, argument: Callable[[int], Any] = int
    ) -> None:
        """`argument` makes of a leaf's number what its step or its call is given."""
        self._names: dict[DurableFuture[Any], str] = {}
        self._leaves: dict[str, DurableFuture[Any]] = {}
        for leaf in program.leaves:
            asks: dict[str, Callable[[], DurableFuture[Any]]] = {
                "step": lambda leaf=leaf: ctx.run(work, argument(leaf.number)),  # type: ignore[misc]
                "sleep": lambda leaf=leaf: ctx.sleep(leaf.at * TICK_S),  # type: ignore[misc]
                "call": lambda leaf=leaf: ctx.call("S/child", argument(leaf.number)),  # type: ignore[misc]
                "awakeable": lambda: ctx.awakeable(str),
            }
            self._leaves[leaf.name] = self._named(leaf.name, asks[leaf.kind]())
        self.leaves = list(self._leaves.values())

    def _named(self, name: str, future: DurableFuture[Any]) -> DurableFuture[Any]:
        self._names[future] = name
        return future

    def combined(self, one: Tree | Leaf) -> DurableFuture[Any]:
        """A tree, made now: some of its leaves may have completed."""
        if isinstance(one, Leaf):
            return self._leaves[one.name]
        members = [self.combined(member) for member in one.members]
        future: DurableFuture[Any]
        match one.kind:
            case "gather":
                future = gather(*members)
            case "gather all":
                future = gather(*members, return_exceptions=True)
            case "select":
                future = select(**{f"m{place}": member for place, member in enumerate(members)})
            case "wait_completed":
                future = wait_completed(*members)
            case _:
                future = members[0].with_timeout(one.at * TICK_S)
        return self._named(one.name, future)

    def plain(self, value: Any) -> Any:
        """What a combinator gave or raised, as the model says it."""
        if isinstance(value, DurableFuture):
            return self._names[value]
        if isinstance(value, DurableTimeoutError):
            return "timed out"
        if isinstance(value, TerminalError):
            return value.message
        return [self.plain(one) for one in value] if isinstance(value, list | tuple) else value


#: What each attempt saw: its number, at which place, and what.
Reports = list[tuple[int, int, Any]]


def services_of(program: Program, reports: Reports) -> Services:
    def services(sim: Sim) -> Iterable[object]:
        async def work(number: int) -> str:
            leaf = program.leaves[number]
            await asyncio.sleep(leaf.at * TICK_S)
            if leaf.fails:
                raise TerminalError(f"{leaf.name} failed")
            return leaf.name

        @handler(service="S")
        async def child(ctx: Context, number: int) -> str:
            leaf = program.leaves[number]
            await ctx.sleep(leaf.at * TICK_S)
            if leaf.fails:
                raise TerminalError(f"{leaf.name} failed")
            return leaf.name

        @handler(service="S")
        async def parent(ctx: Context) -> list[Any]:
            built = Built(ctx, work, program)
            trees = [built.combined(tree) for tree in program.trees]
            results: list[Any] = []

            def report(result: Any) -> None:
                reports.append((ctx.request.attempt, len(results), result))
                results.append(result)

            for future in trees:
                try:
                    report(built.plain(await future))
                except TerminalError as error:
                    report(built.plain(error))
            report([built.plain(future) async for future in as_completed(*built.leaves)])
            await ctx.signal("end")
            return results

        return [parent, child]

    return services


def scenario_of(program: Program) -> Scenario[Any]:
    async def scenario(sim: Sim) -> list[Any]:
        handle = await sim.send("S/parent")
        started = asyncio.get_running_loop().time()
        for leaf in sorted(program.leaves, key=lambda leaf: leaf.at):
            if leaf.kind == "awakeable":
                await asyncio.sleep(max(0.0, started + leaf.at * TICK_S - asyncio.get_running_loop().time()))
                await settle_awakeable(sim, handle.id, program, leaf)
        await asyncio.sleep(max(0.0, started + 100 - asyncio.get_running_loop().time()))
        await sim.restart()  # another engine: what follows begins with a replay of everything
        await sim.repeat(lambda engine: engine.send_signal(handle.id, "end"))
        found: list[Any] = await sim.result(handle.id)
        return found

    return scenario


async def settle_awakeable(sim: Sim, parent: str, program: Program, leaf: Leaf) -> None:
    """Its entry is its place among the leaves: each takes one."""
    id = awakeable_id(parent, leaf.number + 1)
    if leaf.fails:
        await sim.repeat(lambda engine: engine.reject_awakeable(id, f"{leaf.name} failed"))
    else:
        await sim.repeat(lambda engine: engine.resolve_awakeable(id, leaf.name))


def runs_alike(seed: int, mode: Mode) -> tuple[Program, list[Any]]:
    """Run a program; every attempt must have seen the same at every place."""
    program = program_of(seed)
    reports: Reports = []
    found, _ = simulate(services_of(program, reports), scenario_of(program), mode)
    for attempt, place, seen in reports:
        assert seen == found[place], f"attempt {attempt} saw {seen} at place {place}; {program}"
    seen = Counter(place for _, place in {(attempt, place) for attempt, place, _ in reports})
    assert max(seen.values()) > 1, "it was never replayed"
    return program, found


SEEDS = range(100)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_completes_in_any_order_comes_out_as_the_model_says(seed: int) -> None:
    for mode in (Mode("default"), Mode("always-suspend", always_suspend=True)):
        program, found = runs_alike(seed, mode)
        assert found == expected_of(program), f"{mode.name}: {program}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_replay_decides_as_the_run_that_was_interrupted(seed: int) -> None:
    """A crash changes what is first, and so what comes out, but never from one attempt to the next."""
    hows: tuple[Literal["before", "after", "restart"], ...] = ("before", "after", "restart")
    chance = random.Random(seed)
    runs_alike(seed, Mode("interrupted", every=chance.randint(5, 9), how=chance.choice(hows)))
    runs_alike(seed, Mode("one at a time", minimal=True))
