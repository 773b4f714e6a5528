"""A handler that does a bit of everything, cancelled at every moment: it is told once, when nothing runs any more."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import pytest

from durable import (
    Context,
    DurableFuture,
    InvocationCancelled,
    RetryPolicy,
    as_completed,
    gather,
    handler,
    select,
)
from durable.testing import Mode, Sim, simulate
from tests.scenarios.controls import cancel, order, unfinished

MODES = pytest.mark.parametrize(
    "mode",
    [
        Mode("default"),
        Mode("always-suspend", always_suspend=True),
        Mode("minimal memory", minimal=True),
        Mode("crash after every 3rd commit", every=3, how="after"),
        Mode("crash before every 4th commit", every=4, how="before"),
        Mode("always-suspend, crash after every 5th commit", always_suspend=True, every=5, how="after"),
        Mode("restart at every 2nd commit", every=2, how="restart"),
    ],
    ids=lambda mode: mode.name,
)

Flow = Callable[["Doing"], Awaitable[Any]]


class Doing:
    """What the handler's flows are made of."""

    def __init__(self, ctx: Context, sim: Sim) -> None:
        self.ctx = ctx
        self.sim = sim

    def step(self, name: str, **options: Any) -> DurableFuture[str]:
        return self.ctx.with_options(name=name, **options).run(act, self.sim, name)

    def child(self, name: str) -> DurableFuture[str]:
        return self.ctx.call("Child/child", name)


async def act(sim: Sim, name: str) -> str:
    sim.effects["inside"] += 1
    try:
        number = sim.effect(name)
        await asyncio.sleep(0)
        if name.startswith("flaky") and number == 1:
            raise RuntimeError("only once")
        await asyncio.sleep(0)
        return name
    finally:
        sim.effects["inside"] -= 1


async def one_by_one(do: Doing) -> None:
    for name in "abc":
        assert await do.step(name) == name
        assert await do.child(name) == name


async def with_gather(do: Doing) -> None:
    found = await gather(do.step("a"), do.child("b"), do.step("c", interruptible=True), do.child("d"))
    assert list(found) == ["a", "b", "c", "d"]


async def with_select(do: Doing) -> None:
    futures = {name: do.child(name) if name in "ace" else do.step(name) for name in "abcdef"}
    _, first = await select(**futures)
    assert first in futures
    async for future in as_completed(*futures.values()):
        assert await future in futures


async def in_a_group(do: Doing) -> None:
    async def flow(name: str) -> None:
        await do.step(f"{name}1")
        await gather(do.child(f"{name}2"), do.step(f"{name}3"))

    try:
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(flow(name))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def left_behind(do: Doing) -> None:
    step, call = do.step("a"), do.child("b")
    await do.step("c")
    late = do.step("d", interruptible=True)
    await do.ctx.sleep(0)
    assert [await step, await call, await late] == ["a", "b", "d"]


async def with_failures(do: Doing) -> None:
    assert await do.step("flaky a") == "flaky a"
    await gather(do.step("flaky b", retry=RetryPolicy(initial_interval=0)), do.child("flaky c"), do.step("d"))


async def with_time_outs(do: Doing) -> None:
    await gather(do.step("a").with_timeout("1h"), do.child("b").with_timeout("1h"))
    await do.child("c").with_timeout("1h")


FLOWS: list[Flow] = [
    one_by_one,
    with_gather,
    with_select,
    in_a_group,
    left_behind,
    with_failures,
    with_time_outs,
]


def services(sim: Sim, flow: Flow) -> Iterable[object]:
    async def undo() -> None:
        sim.effect(f"undo, {sim.effects['inside']} steps run")

    @handler(service="Child", retry=RetryPolicy(initial_interval=0))
    async def child(ctx: Context, name: str) -> str:
        do = Doing(ctx, sim)
        try:
            return (await do.step(f"{name} of a child"))[: -len(" of a child")]
        except InvocationCancelled:
            await do.step(f"{name} of a cancelled child")
            raise

    @handler(service="Handler", retry=RetryPolicy(initial_interval=0))
    async def handle(ctx: Context) -> str:
        try:
            await flow(Doing(ctx, sim))
            await ctx.awakeable()
        except InvocationCancelled:
            await ctx.run(undo)
            await ctx.sleep("1s")
            return "told"
        return "not told"

    return [handle, child]


async def cancelled_after(rounds: int, sim: Sim) -> bool:
    """Cancel after so many rounds of the event loop; tells whether there was still something going on."""
    id = (await sim.send("Handler/handle")).id
    for _ in range(rounds):
        await asyncio.sleep(0)
    rows = [row for journal in sim.tables.journal.values() for row in journal.values()]
    busy = not any(row.kind == "awakeable" for row in rows)
    since_ms = sim.clock.now_ms()
    await cancel(sim, id)
    assert await sim.result(id) == "told"
    assert sim.clock.now_ms() - since_ms < 60_000
    assert await unfinished(sim) == []
    undo = sim.trace.index("undo, 0 steps run")
    assert set(sim.trace[undo:]) == {"undo, 0 steps run"}
    for name, times in sim.effects.items():
        assert times <= 1 + name.startswith("flaky") + sim.interruptions, f"{name} ran {times} times"
    assert all(sim.effects[name] <= 1 + sim.log.crashes for name in order(sim, "undo"))
    return busy


@MODES
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.__name__)
def test_it_is_told_once_after_all_it_had_begun_has_ended(flow: Flow, mode: Mode) -> None:
    """Design 4.1, I2, I8: one exception, no step beside the compensation, no call left over; every replay agrees."""
    for rounds in range(0, 150, 4 if mode.every else 1):
        try:
            busy, _ = simulate(partial(services, flow=flow), partial(cancelled_after, rounds), mode)
        except BaseException as error:
            error.add_note(f"cancelled after {rounds} rounds of the event loop, in {mode!r}")
            raise
        if not busy:
            break
