"""asyncio's functions take durable futures as they are, and all goes on as it would with a task for each.

A seed draws flows that hand steps, sleeps, calls and awakeables to `asyncio.gather`, `shield`, `wait` and
`as_completed`. In every other attempt each future is awaited by a task of its own, which is what asyncio would make
of anything else. What an attempt notes, and the journal that it replays, must not tell which of the two it was.
"""

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from durable import ConflictError, Context, DurableFuture, InvocationCancelled, RetryPolicy, TerminalError, handler
from durable.testing import Scenario, Services, Sim, simulate
from tests.scenarios.controls import cancels
from tests.simulation.test_flow_order import TICK_S, mode_of

KINDS = ["sleep", "step", "step", "call", "fails", "awakeable"]
WAYS = ["gather", "gather", "gather all", "shield", "wait", "first", "each", "await", "given up"]


class Part(NamedTuple):
    """Futures, and what is done with them."""

    way: str
    #: Of what kind each is, after how many ticks it comes, and whether it is one that another part has, too.
    leaves: list[tuple[str, int, int | None]]


class Plan(NamedTuple):
    """Flows, the parts of each one after the other; and when the invocation is cancelled, if it is."""

    flows: list[list[Part]]
    shared: list[tuple[str, int]]
    cancelled: int | None


def plan_of(seed: int) -> Plan:
    draw = random.Random(seed)
    ticks = [1, 2, 3] if draw.random() < 0.3 else range(30)
    shared = [(draw.choice(KINDS), draw.choice(ticks)) for _ in range(draw.choice([0, 0, 1, 2]))]

    def leaf() -> tuple[str, int, int | None]:
        other = draw.randrange(len(shared)) if shared and draw.random() < 0.3 else None
        return draw.choice(KINDS), draw.choice(ticks), other

    def part() -> Part:
        way = draw.choice(WAYS)
        leaves = [leaf() for _ in range(1 if way in ("shield", "await") else draw.choice([1, 2, 3]))]
        if way in ("wait", "first", "each"):  # asyncio puts them into a set: who begins to wait first is chance
            leaves = [(kind, ticks, None) for kind, ticks, _ in leaves]
        return Part(way, leaves)

    flows = [[part() for _ in range(draw.choice([1, 2, 3]))] for _ in range(draw.choice([1, 2, 2, 3]))]
    return Plan(flows, shared, draw.choice([None, None, None, *range(1, 30, 4)]))


async def through(future: DurableFuture[Any]) -> Any:
    return await future


def program(seed: int, attempts: dict[str, list[list[str]]], *, mixed: bool = True) -> tuple[Services, Scenario[Any]]:
    """What each attempt noted is kept in `attempts`, by invocation. `mixed`: every other one makes tasks."""
    plan = plan_of(seed)

    def services(sim: Sim) -> Iterable[object]:
        async def work(ticks: int) -> int:
            await asyncio.sleep(ticks * TICK_S)
            return ticks

        async def fail(ticks: int) -> None:
            await asyncio.sleep(ticks * TICK_S)
            raise TerminalError(f"after {ticks}")

        @handler(service="S")
        async def child(ctx: Context, ticks: int) -> int:
            await ctx.sleep(ticks * TICK_S)
            return ticks

        @handler(service="S")
        async def settle(ctx: Context, id: str) -> None:
            ctx.resolve_awakeable(id, 1)

        @handler(service="S", retry=RetryPolicy("10ms", max_attempts=None))
        async def parent(ctx: Context) -> list[str]:
            noted: list[str] = []
            attempts.setdefault(ctx.request.id, []).append(noted)
            in_tasks = mixed and len(attempts[ctx.request.id]) % 2 == seed % 2

            def note(what: str) -> None:
                if not ctx._operations.ending:  # what flows do when their attempt has ended is no matter
                    noted.append(what)

            def ask(kind: str, ticks: int) -> DurableFuture[Any]:
                match kind:
                    case "sleep":
                        return ctx.sleep(ticks * TICK_S)
                    case "call":
                        return ctx.call(child, ticks)
                    case "awakeable":
                        awakeable = ctx.awakeable(int)
                        ctx.send(settle, awakeable.id, delay=ticks * TICK_S)
                        return awakeable
                    case "fails":
                        return ctx.run(fail, ticks)
                return ctx.run(work, ticks)

            shared = [ask(*one) for one in plan.shared]

            def taken(future: DurableFuture[Any]) -> Any:
                if not in_tasks:
                    return future
                task = asyncio.ensure_future(through(future))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # as gather does
                return task

            async def one_part(name: str, part: Part) -> None:
                futures = [ask(kind, ticks) if other is None else shared[other] for kind, ticks, other in part.leaves]
                futures = list(dict.fromkeys(futures))
                match part.way:
                    case "gather":
                        note(f"{name}: {await asyncio.gather(*map(taken, futures))}")
                    case "gather all":
                        found = await asyncio.gather(*map(taken, futures), return_exceptions=True)
                        note(f"{name}: {[repr(one) for one in found]}")
                    case "shield":
                        note(f"{name}: {await asyncio.shield(taken(futures[0]))}")
                    case "wait" | "first":
                        tasks = [taken(one) for one in futures]
                        until = asyncio.ALL_COMPLETED if part.way == "wait" else asyncio.FIRST_COMPLETED
                        done, _ = await asyncio.wait(tasks, return_when=until)
                        errors = [repr(one.exception()) if one in done else "pending" for one in tasks]
                        note(f"{name}: {errors}")
                        for one, future in zip(tasks, futures, strict=True):
                            if one in done and one.exception() is None:
                                note(f"{name} had {one.result()}, {await future}")
                    case "each":
                        for each in asyncio.as_completed([taken(one) for one in futures]):
                            note(f"{name} next: {await each}")
                    case "await":
                        note(f"{name}: {await futures[0]}")
                    case "given up":
                        together = asyncio.gather(*map(taken, futures))
                        together.add_done_callback(lambda done: done.cancelled() or done.exception())
                        await ctx.sleep(5 * TICK_S)
                        together.cancel()
                        try:
                            note(f"{name} in time: {await together}")
                        except asyncio.CancelledError:
                            note(f"{name} given up")

            async def flow(number: int) -> None:
                for place, part in enumerate(plan.flows[number]):
                    name = f"{number}.{place} {part.way}"
                    try:
                        await one_part(name, part)
                    except (TerminalError, InvocationCancelled) as error:
                        note(f"{name} failed: {error!r}")

            await asyncio.gather(*map(flow, range(len(plan.flows))))
            note(f"{[repr(one) for one in await asyncio.gather(*map(taken, shared), return_exceptions=True)]}")
            return noted

        return [parent, child, settle]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("S/parent")
        if plan.cancelled is not None:
            await asyncio.sleep(plan.cancelled * TICK_S)
            if not cancels(sim, handle.id):
                with suppress(ConflictError):  # it has ended
                    await sim.repeat(lambda engine: engine.cancel(handle.id))
        try:
            await sim.result(handle.id)
        except InvocationCancelled:
            assert plan.cancelled is not None
        *earlier, whole = attempts[handle.id]
        if (
            plan.cancelled is not None
        ):  # it may be told elsewhere if nothing was recorded since: only the journal counts
            return
        for noted in earlier:
            assert noted == whole[: len(noted)], (
                f"seed {seed}: an attempt noted {noted}, the last one {whole}: {plan}"
            )

    return services, scenario


def check_seed(seed: int, *, mixed: bool = True) -> None:
    """One plan, in two random modes."""
    for mode in (mode_of(2 * seed), mode_of(2 * seed + 1)):
        attempts: dict[str, list[list[str]]] = {}
        try:
            simulate(*program(seed, attempts, mixed=mixed), mode)
        except BaseException as error:
            error.add_note(f"in mode {mode}, of check_seed({seed}, {mixed=})")
            raise


@pytest.mark.parametrize("first", range(0, 180, 60))
def test_what_asyncio_takes_as_it_is_goes_on_as_with_a_task_for_each(first: int) -> None:
    """I2."""
    for seed in range(first, first + 60):
        check_seed(seed)


def test_it_goes_on_in_the_same_order_in_every_attempt() -> None:
    """I2: without a task in any of them."""
    for seed in range(180, 240):
        check_seed(seed, mixed=False)
