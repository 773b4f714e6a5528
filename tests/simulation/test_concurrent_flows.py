"""Handlers made of several concurrent flows take their entries in the same order in every replay."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

import pytest

from durable import Context, RetryPolicy, gather, handler
from durable.runtime import rest
from durable.testing import Scenario, Services, Sim, check, simulate

OPERATIONS = ("sleep", "step", "step", "call", "started early", "now", "two at once")
Plan = list[list[tuple[str, int]]]


def plan_of(seed: int) -> Plan:
    """Two or three flows of one to three operations, each with a time in seconds."""
    chance = random.Random(seed)
    return [
        [(chance.choice(OPERATIONS), chance.choice((0, 1, 1, 2))) for _ in range(chance.randint(1, 3))]
        for _ in range(chance.randint(2, 3))
    ]


def expected_of(plan: Plan) -> list[list[str]]:
    return [
        [f"{i}.{j}a {i}.{j}b" if operation == "two at once" else f"{i}.{j}" for j, (operation, _) in enumerate(flow)]
        for i, flow in enumerate(plan)
    ]


def program(plan: Plan) -> tuple[Services, Scenario[Any]]:
    def services(sim: Sim) -> Iterable[object]:
        async def work(label: str, seconds: int) -> str:
            if seconds:
                await asyncio.sleep(seconds)
            return label

        @handler(service="S")
        async def child(ctx: Context, label: str) -> str:
            return label

        @handler(service="S", retry=RetryPolicy(max_attempts=1, on_max_attempts="kill"))
        async def parent(ctx: Context) -> list[list[str]]:
            async def flow(number: int) -> list[str]:
                done = []
                for place, (operation, seconds) in enumerate(plan[number]):
                    label = f"{number}.{place}"
                    match operation:
                        case "sleep":
                            await ctx.sleep(seconds)
                        case "step":
                            label = await ctx.run(work, label, seconds)
                        case "call":
                            label = await ctx.call(child, label)
                        case "started early":
                            early = ctx.run(work, label, seconds)
                            await ctx.sleep(1)
                            label = await early
                        case "two at once":
                            pair = await gather(ctx.run(work, f"{label}a", seconds), ctx.call(child, f"{label}b"))
                            label = " ".join(pair)
                        case "now":
                            ctx.now()
                    done.append(label)
                return done

            if len(plan) == 2:
                return list(await asyncio.gather(*[flow(number) for number in range(2)]))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(flow(number)) for number in range(len(plan))]
            return [task.result() for task in tasks]

        return [parent, child]

    async def scenario(sim: Sim) -> object:
        return await sim.call("S/parent")

    return services, scenario


@pytest.mark.parametrize("seed", range(60))
def test_flows_replay_in_every_mode(seed: int) -> None:
    plan = plan_of(seed)
    assert check(*program(plan), most=20) == expected_of(plan), f"seed {seed}: {plan}"


async def nested(depth: int, work: Callable[[], Awaitable[str]]) -> str:
    """The work, in so many task groups and gathers within each other."""
    if not depth:
        return await work()
    if depth % 2:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(nested(depth - 1, work))
        return task.result()
    (found,) = await asyncio.gather(asyncio.gather(nested(depth - 1, work)))
    return found[0]


@pytest.mark.parametrize("depth", [1, 6, 25])
def test_flows_replay_however_deep_they_are_in_groups_and_nothing_they_begin_is_cut_off(depth: int) -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def work(label: str) -> str:
            sim.effect(label)
            await asyncio.sleep(0.05)
            return label

        @handler(service="S")
        async def child(ctx: Context, label: str) -> str:
            await ctx.sleep(0.01)
            return label

        @handler(service="S", retry=RetryPolicy(max_attempts=1, on_max_attempts="kill"))
        async def parent(ctx: Context) -> list[str]:
            async def flow(label: str) -> str:
                first = await ctx.call(child, label)
                return await nested(depth, lambda: ctx.run(work, f"{first} done"))

            near, deep, far = await asyncio.gather(
                flow("near"),
                nested(depth, lambda: ctx.run(work, "deep")),
                nested(2 * depth, lambda: flow("far")),
            )
            return [near, deep, far, await nested(depth, lambda: ctx.run(work, "last"))]

        return [parent, child]

    async def scenario(sim: Sim) -> list[str]:
        found: list[str] = await sim.call("S/parent")
        for label, times in sim.effects.items():
            assert times <= 1 + sim.interruptions, f"{label} ran {times} times"
        return found

    assert check(services, scenario) == ["near done", "deep", "far done", "last"]


def test_a_flow_that_never_stops_running_holds_up_no_other() -> None:
    """It is left out of account after a while: it asks for nothing."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def child(ctx: Context, label: str) -> str:
            return label

        @handler(service="S")
        async def parent(ctx: Context) -> str:
            found: list[str] = []

            async def spin() -> None:
                while not found:  # noqa: ASYNC110 (that is what it is about)
                    await asyncio.sleep(0)

            async def wait() -> None:
                found.append(await ctx.call(child, await ctx.run(str, "found")))

            await asyncio.gather(spin(), wait())
            return found[0]

        return [parent, child]

    assert simulate(services, lambda sim: sim.call("S/parent"))[0] == "found"


@pytest.mark.parametrize("seed", range(100, 110))
def test_flows_replay_where_the_event_loop_does_not_show_what_is_about_to_run(seed: int) -> None:
    plan = plan_of(seed)
    with patch.object(rest, "about_to_run", lambda loop: None):
        assert check(*program(plan), most=20) == expected_of(plan), f"seed {seed}: {plan}"


def test_what_is_about_to_run_can_be_seen_on_the_event_loops_of_asyncio() -> None:
    """Not on that of uvloop."""

    async def main() -> set[object] | None:
        asyncio.get_running_loop().call_soon(lambda: None)
        return rest.about_to_run(asyncio.get_running_loop())

    assert asyncio.run(main()) == {None}


def test_a_step_runs_in_the_context_of_the_flow_that_asked_for_it() -> None:
    """Whoever makes it start: the flow itself, one beside it, or the engine, for several handlers at once."""
    who = ContextVar("who", default="nobody")

    def services(sim: Sim) -> Iterable[object]:
        async def look() -> str:
            return who.get()

        @handler(service="S")
        async def parent(ctx: Context, name: str) -> list[str]:
            async def flow(number: int) -> list[str]:
                who.set(f"{name}{number}")
                return [await ctx.run(look), *await gather(ctx.run(look), ctx.run(look))]

            who.set(name)
            left = ctx.run(look)
            await asyncio.sleep(0)
            found = await asyncio.gather(flow(1), flow(2))
            return [await left, *found[0], *found[1]]

        return [parent]

    async def scenario(sim: Sim) -> list[list[str]]:
        return list(await asyncio.gather(sim.call("S/parent", "a"), sim.call("S/parent", "b")))

    assert check(services, scenario) == [[name] + [f"{name}1"] * 3 + [f"{name}2"] * 3 for name in "ab"]
