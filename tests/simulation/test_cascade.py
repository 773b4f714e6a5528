"""A cancel that goes down three levels and comes up again, and a crash or another moment at every point of it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import pytest

from durable import (
    ConflictError,
    Context,
    ObjectContext,
    Service,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    gather,
    handler,
)
from durable.testing import Fault, Mode, Sim, check, simulate
from tests.scenarios.controls import CANCELLED, KILLED, cancel, kill, once, order, sent, told, unfinished, waits
from tests.scenarios.support import failure_of

PARTS = ("hotel", "flight")


def services(sim: Sim) -> Iterable[object]:
    """A trip books a hotel and a flight, and for each the bank authorises and charges; all of them post letters."""

    async def act(what: str) -> None:
        sim.effect(what)

    class Trip(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> None:
            ctx.send(Post.deliver, "trip begun")
            async with ctx.saga() as saga:
                saga.add_compensation(act, "undo trip")
                await ctx.run(act, "do trip")
                saga.add_compensation(act, "undo plan")
                await gather(ctx.call(Booking.book, key="hotel"), ctx.call(Booking.book, key="flight"))

    class Booking(VirtualObject):
        @handler
        async def book(self, ctx: ObjectContext) -> None:
            ctx.set("booked", True)
            ctx.send(Post.deliver, f"{ctx.key} begun", delay="1h")
            try:
                async with ctx.saga() as saga:
                    saga.add_compensation(act, f"undo {ctx.key}")
                    await ctx.run(act, f"do {ctx.key}")
                    await ctx.call(Bank.charge, ctx.key)
            except TerminalError:
                ctx.clear("booked")
                raise

        @handler
        async def is_free(self, ctx: ObjectContext) -> bool:
            return await ctx.get("booked", bool) is None

    class Bank(Service):
        @handler
        async def charge(self, ctx: Context, what: str) -> None:
            ctx.send(Post.deliver, f"{what} charged")
            async with ctx.saga() as saga:
                for name in ("authorise", "charge"):
                    saga.add_compensation(act, f"undo {name} {what}")
                    await ctx.run(act, f"do {name} {what}")
                await ctx.awakeable()

    class Post(Service):
        @handler
        async def deliver(self, ctx: Context, letter: str) -> str:
            await ctx.sleep("10m")
            await ctx.run(act, f"letter: {letter}")
            return letter

    return [Trip(), Booking(), Bank(), Post()]


async def send_trip(sim: Sim) -> str:
    return str((await sim.repeat(lambda engine: engine.send("Trip/run", key="bonn"))).id)


def check_unwound(sim: Sim) -> None:
    """I2, I8: what was done is undone, once, and below before above."""
    undone = order(sim, "undo")
    for effect in order(sim, "do "):
        assert f"un{effect}" in undone, f"{effect} was not undone"
    assert undone[-2:] in (["undo plan", "undo trip"], ["undo trip"], [])
    for part in PARTS:
        below = [effect for effect in undone if effect.endswith(part)]
        expected = [f"undo charge {part}", f"undo authorise {part}", f"undo {part}"]
        assert below == [effect for effect in expected if effect in below]
    once(sim, *undone, *order(sim, "do "))


async def settled(sim: Sim, id: str) -> list[Any]:
    """What everybody sees once the trip is cancelled and the letters are out."""
    error = await failure_of(sim.result(id))
    free = [await sim.call("Booking/is_free", key=part) for part in PARTS]
    assert await unfinished(sim, "Trip", "Booking", "Bank") == []
    check_unwound(sim)
    seen = dict(sim.effects)
    await asyncio.sleep(2 * 3600)
    assert await unfinished(sim) == []
    letters = await sim.repeat(lambda engine: engine.invocations(service="Post"))
    assert all(letter.completion_result == "success" for letter in letters), "a send was cancelled"
    assert len(order(sim, "letter")) == len(letters)
    once(sim, *order(sim, "letter"))
    more = [name for name, times in sim.effects.items() if times != seen.get(name) and not name.startswith("letter")]
    assert not more, f"ran after the trip had ended: {more}"
    return [told(error), free, [await booked(sim, part) for part in PARTS]]


async def booked(sim: Sim, part: str) -> dict[str, Any]:
    """The state of a booking."""
    return await sim.repeat(lambda engine: engine.get_state("Booking", part))


SETTLED: list[Any] = [CANCELLED, [True, True], [{}, {}]]
LETTERS = {"trip begun", "hotel begun", "flight begun", "hotel charged", "flight charged"}


async def cancelled_in_the_middle(sim: Sim) -> list[Any]:
    """Cancelled when both leaves wait."""
    id = await send_trip(sim)
    for number in (0, 1):
        await waits(sim, (await sent(sim, "Bank", number)).id, "awakeable")
    await cancel(sim, id)
    result = await settled(sim, id)
    assert set(order(sim, "letter")) == {f"letter: {letter}" for letter in LETTERS}
    assert len(order(sim, "undo")) == 8
    return result


def test_a_cascade_survives_a_crash_before_and_after_every_commit() -> None:
    """I2, I4, I8: in every mode, without sampling: the same outcome, the same order, each effect once."""
    assert check(services, cancelled_in_the_middle, most=10_000) == SETTLED


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_cascade_of_suspended_handlers_survives_a_crash_at_every_commit(how: Any) -> None:
    """The same where every await unloads the handler, so that each exception meets a replay."""
    result, undisturbed = simulate(services, cancelled_in_the_middle, Mode("always-suspend", always_suspend=True))
    assert result == SETTLED
    for commit in range(1, undisturbed.log.commits + 1):
        mode = Mode(f"{how} {commit}", always_suspend=True, faults=(Fault(commit, how),))
        try:
            assert simulate(services, cancelled_in_the_middle, mode)[0] == SETTLED
        except BaseException as error:
            error.add_note(f"to rerun: simulate(services, cancelled_in_the_middle, {mode!r})")
            raise


EVERY_MODE = pytest.mark.parametrize(
    "mode",
    [
        Mode("default"),
        Mode("always-suspend", always_suspend=True),
        Mode("minimal memory", minimal=True),
        Mode("crash after every 5th commit", every=5, how="after"),
        Mode("crash before every 7th commit", every=7, how="before"),
        Mode("restart at every 4th commit", every=4, how="restart"),
    ],
    ids=lambda mode: mode.name,
)

#: Disturbs a scenario after so many rounds of the event loop; tells whether there was still something to disturb.
AtMoment = Callable[[int, Sim], Coroutine[Any, Any, bool]]


def at_every_moment(mode: Mode, disturb: AtMoment) -> None:
    """Run until the moment comes too late."""
    for rounds in count():
        try:
            in_time, _ = simulate(services, partial(disturb, rounds), mode)
        except BaseException as error:
            error.add_note(f"{rounds} rounds of the event loop later, in {mode!r}")
            raise
        if not in_time:
            assert rounds > 20 or mode.every, "there were hardly any moments"
            return


async def later(rounds: int) -> None:
    """So many rounds of the event loop; after a hundred, what is left waits for time to pass, as a retry does."""
    for number in range(rounds):
        await asyncio.sleep(0 if number < 100 else 1)


def leaves(sim: Sim) -> int:
    """How many leaves wait."""
    return sum(row.kind == "awakeable" for rows in sim.tables.journal.values() for row in rows.values())


@EVERY_MODE
def test_a_cascade_can_be_cancelled_at_every_moment_of_its_growth(mode: Mode) -> None:
    """Whatever was done is undone, leaf first, and nothing is left running."""

    async def disturb(rounds: int, sim: Sim) -> bool:
        id = await send_trip(sim)
        await later(rounds)
        growing = leaves(sim) < 2
        await cancel(sim, id)
        assert await settled(sim, id) == SETTLED
        return growing

    at_every_moment(mode, disturb)


@EVERY_MODE
def test_a_cascade_can_be_cancelled_again_at_every_moment_of_its_unwinding(mode: Mode) -> None:
    """No compensation is lost, and the outcome stays what it was."""

    async def disturb(rounds: int, sim: Sim) -> bool:
        id = await send_trip(sim)
        await sim.until(lambda: leaves(sim) == 2)
        await cancel(sim, id)
        await later(rounds)
        unwinding = await sim.status(id) != "completed"
        with suppress(ConflictError):
            await cancel(sim, id)
        assert await settled(sim, id) == SETTLED
        assert len(order(sim, "undo")) == 8
        return unwinding

    at_every_moment(mode, disturb)


@EVERY_MODE
@pytest.mark.parametrize("when", ["growing", "unwinding"])
def test_a_cascade_can_be_killed_at_every_moment(when: str, mode: Mode) -> None:
    """Not a step more is executed, the keys are free, what was written stays, the letters go out."""

    async def disturb(rounds: int, sim: Sim) -> bool:
        id = await send_trip(sim)
        if when == "unwinding":
            await sim.until(lambda: leaves(sim) == 2)
            await cancel(sim, id)
        await later(rounds)
        in_time = leaves(sim) < 2 if when == "growing" else await sim.status(id) != "completed"
        try:
            await kill(sim, id)
        except ConflictError:
            return in_time
        if told(await failure_of(sim.result(id))) == CANCELLED:
            assert sim.log.crashes, "only while the engine is down it may end before it is killed"
            return in_time
        done = {name: times for name, times in sim.effects.items() if not name.startswith("letter")}
        assert await unfinished(sim, "Trip", "Booking", "Bank") == []
        for part in PARTS:
            state = await booked(sim, part)
            assert await sim.call("Booking/is_free", key=part) == (not state)
        assert told(await failure_of(sim.result(id))) == KILLED
        await asyncio.sleep(2 * 3600)
        assert done == {name: times for name, times in sim.effects.items() if not name.startswith("letter")}
        assert await unfinished(sim) == []
        assert len(order(sim, "letter")) == len(await sim.engine.invocations(service="Post"))
        return in_time

    at_every_moment(mode, disturb)
