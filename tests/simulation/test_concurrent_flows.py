"""Handlers made of several concurrent flows take their entries in the same order in every replay."""

import asyncio
import random
from collections.abc import Iterable

import pytest

from durable import Context, RetryPolicy, gather, handler
from durable.testing import Scenario, Services, Sim, check

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


def program(plan: Plan) -> tuple[Services, Scenario]:
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
