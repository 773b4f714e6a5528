"""Steered while no engine runs, with a crash at every commit, also of the one that steers: the rules hold."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from durable import (
    ConflictError,
    Context,
    EngineFailedError,
    InvocationCancelled,
    InvocationKilled,
    NotFoundError,
    ObjectContext,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.engine.resting import RestingEngine
from durable.store.memory import MemoryStore
from durable.testing import Sim, check
from durable.testing.checkers import check_tables
from durable.testing.crashes import Faults, SimulatedCrash
from durable.testing.faults import around

Steer = Callable[[RestingEngine], Awaitable[None]]


def services(sim: Sim) -> list[object]:
    async def note(what: str) -> None:
        sim.effect(what)

    @handler(service="Trips")
    async def flight(ctx: Context) -> str:
        try:
            return await ctx.awakeable(str)
        except InvocationCancelled:
            await ctx.run(note, "flight undone")
            raise

    @handler(service="Trips")
    async def trip(ctx: Context) -> str:
        await ctx.run(note, "hotel")
        try:
            return await ctx.call(flight)
        except InvocationCancelled:
            await ctx.run(note, "hotel undone")
            raise

    class Door(VirtualObject):
        @handler
        async def hold(self, ctx: ObjectContext) -> str:
            return await ctx.awakeable(str)

        @handler
        async def knock(self, ctx: ObjectContext) -> str:
            await ctx.run(note, "knock")
            return "let in"

    return [trip, flight, Door()]


async def at_rest(sim: Sim, steer: Steer, *, crash: bool) -> None:
    """Stop the engine, steer, and start the next one. What is done has to be idempotent: whoever does it may die."""
    start = sim._next

    async def rest_first() -> None:
        sim._next = start  # type: ignore[method-assign]
        while True:
            sim.tables.in_use = False
            store = around(MemoryStore(sim.tables), Faults(sim.mode, sim.log, lambda: None))
            resting = RestingEngine(store=store, clock=sim.clock)
            before = dict(sim.effects)
            try:
                async with resting:
                    await steer(resting)
            except (EngineFailedError, SimulatedCrash):
                resting.abandon()
                continue
            break
        assert sim.effects == before, "no code has run"
        check_tables(sim.tables)
        await start()

    sim._next = rest_first  # type: ignore[method-assign]
    await sim.restart(crash=crash)


async def begun(sim: Sim) -> tuple[str, str, str]:
    trip = (await sim.send("Trips/trip")).id
    hold = (await sim.send("Door/hold", key="a")).id
    knock = (await sim.send("Door/knock", key="a")).id

    async def called() -> bool:
        return bool((await sim.engine.describe(trip)).children)

    await sim.until(called)
    return trip, hold, knock


@pytest.mark.parametrize("crash", [False, True])
def test_a_cancel_undoes_everything_after_the_next_start(crash: bool) -> None:
    async def scenario(sim: Sim) -> list[str]:
        trip, hold, knock = await begun(sim)

        async def steer(resting: RestingEngine) -> None:
            seen = await resting.describe(trip)
            if not seen.cancelling and not any(one.kind == "cancel" for one in seen.journal):
                await resting.cancel(trip)

        await at_rest(sim, steer, crash=crash)
        with pytest.raises(InvocationCancelled):
            await sim.result(trip)
        assert (await sim.status(hold), await sim.status(knock)) in (("running", "pending"), ("suspended", "pending"))
        order = list(dict.fromkeys(sim.trace))
        assert order.index("flight undone") < order.index("hotel undone")
        await sim.repeat(lambda engine: done(engine.kill(hold)))
        await sim.result(knock)
        return sorted({*sim.trace})

    assert check(services, scenario, most=12) == ["flight undone", "hotel", "hotel undone", "knock"]


async def done(act: Awaitable[object]) -> None:
    """However often."""
    with suppress(ConflictError, NotFoundError):
        await act


@pytest.mark.parametrize("crash", [False, True])
def test_kill_pause_and_purge_hold_over_the_next_start(crash: bool) -> None:
    async def scenario(sim: Sim) -> list[str]:
        trip, hold, knock = await begun(sim)

        async def steer(resting: RestingEngine) -> None:
            await done(resting.kill(trip))
            await done(resting.purge(trip))
            await done(resting.pause(hold))

        await at_rest(sim, steer, crash=crash)
        with pytest.raises((NotFoundError, InvocationKilled)):
            await sim.repeat(lambda engine: engine.output(trip))

        async def paused() -> bool:
            return await sim.status(hold) == "paused"

        await sim.until(paused)
        assert await sim.status(knock) == "pending"
        await sim.repeat(lambda engine: done(engine.kill(hold)))
        with pytest.raises(TerminalError):
            await sim.result(hold)
        await sim.result(knock)
        return sorted(dict.fromkeys(sim.trace))

    assert check(services, scenario, most=12) == ["hotel", "knock"]
