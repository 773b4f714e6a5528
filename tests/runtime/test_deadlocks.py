"""R-21: handlers that wait for each other in a circle are found, named once with their path, freed by any of them.

Most circles here are routes through rooms: "aba" is a visit of room a that visits room b, which visits room a again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import (
    Context,
    DurableFuture,
    Engine,
    EngineFailedError,
    EngineNotRunningError,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedObjectContext,
    TerminalError,
    VirtualObject,
    as_completed,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.core.effects import Need
from durable.core.world import Loaded
from durable.runtime import deadlocks
from durable.runtime.deadlocks import BATCH, Deadlock, circles
from durable.store.memory import MemoryStore
from durable.testing import Sim, VirtualClock, check, run, simulate
from tests.runtime.support import complaints, engine_on

#: How long (in virtual seconds) a circle may stay unnoticed.
SOON = 5.0
#: Handlers that wait stay in memory, or are unloaded at once, or only one of them is in memory.
IN_MEMORY: dict[str, Any] = {"inactivity_timeout": "30d"}
SUSPENDED: dict[str, Any] = {"inactivity_timeout": 0}
ONE_AT_A_TIME: dict[str, Any] = {"max_concurrent_invocations": 1, "inactivity_timeout": "30d"}
WHEREVER_THEY_WAIT = pytest.mark.parametrize(
    "options", [IN_MEMORY, SUSPENDED, ONE_AT_A_TIME], ids=["in memory", "suspended", "one at a time"]
)
ROUTES = ("aa", "aba", "abca")


class Room(VirtualObject):
    @handler
    async def visit(self, ctx: ObjectContext, route: str) -> str:
        """Alone in the room, go on to the next."""
        return ctx.key + (await ahead(ctx, route) if route else "")

    @handler(shared=True)
    async def pass_through(self, ctx: SharedObjectContext, route: str) -> str:
        return ctx.key + (await ahead(ctx, route) if route else "")


class Pair(VirtualObject):
    @handler
    async def meet(self, ctx: ObjectContext, other: str) -> str:
        """Each calls the other."""
        return await ctx.call(Pair.meet, ctx.key, key=other)


class Hall(Service):
    @handler
    async def cross(self, ctx: Context, route: str) -> str:
        return "-" + (await ahead(ctx, route) if route else "")


def ahead(ctx: Context, route: str) -> DurableFuture[str]:
    """Call who is next: "a" is room a, "A" is the same but shared, "-" is a plain service."""
    first, rest = route[0], route[1:]
    if first == "-":
        return ctx.call(Hall.cross, rest)
    return ctx.call(Room.pass_through if first.isupper() else Room.visit, rest, key=first.lower())


def house(sim: Sim) -> Iterable[object]:
    return [Room(), Hall()]


async def walk(sim: Sim, route: str) -> str:
    """Begin a route that comes back to where it was, and let it get stuck; returns the id of its first visit."""
    first = await sim.send(Room.visit, route[1:], key=route[0])
    await asyncio.sleep(SOON)
    return str(first.id)


@pytest.fixture(autouse=True)
def no_search_fails_by_itself(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    failed = [line for line in warnings(caplog) if line.startswith("the search for deadlocks")]
    assert not [line for line in failed if "OSError" not in line and "EngineFailedError" not in line]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of deadlocks."""
    records = [record for record in caplog.records if record.getMessage().startswith("deadlock")]
    assert all((record.name, record.levelname) == ("durable.invocation", "ERROR") for record in records)
    return [record.getMessage() for record in records]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Whatever else there was to complain of."""
    return [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]


def targets(deadlock: Deadlock) -> list[str]:
    return [member.target for member in deadlock.members]


def ids(deadlock: Deadlock) -> list[str]:
    return [member.id for member in deadlock.members]


async def all_over(sim: Sim) -> bool:
    return all(view.status == "completed" for view in await sim.engine.invocations())


# ---- what is found ----


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize("route", ROUTES)
def test_a_circle_is_logged_once_with_its_path(
    route: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(sim: Sim) -> None:
        await walk(sim, route)
        assert len(told(caplog)) == 1
        [deadlock] = await sim.engine.deadlocks()
        views = sorted(await sim.engine.invocations(), key=lambda view: view.seq)
        assert [(member.id, member.target) for member in deadlock.members] == [(one.id, one.target) for one in views]
        assert [member.status for member in deadlock.members][-1] == "pending"
        [marked] = [one for one in caplog.records if one.getMessage() == told(caplog)[0]]
        assert getattr(marked, "invocation_id", None) == views[0].id
        await asyncio.sleep(3600)
        assert [ids(one) for one in await sim.engine.deadlocks()] == [ids(deadlock)]
        [message] = told(caplog)
        assert message == f"deadlock: {deadlock}; cancel or kill any of them to free the others"
        assert all(f"{view.target} {view.id}" in message for view in views)

    simulate(house, scenario, **options)


def test_the_path_says_who_waits_for_what(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> None:
        await walk(sim, "aba")
        a, b, again = sorted(await sim.engine.invocations(), key=lambda view: view.seq)
        [message] = told(caplog)
        assert message == (
            f"deadlock: Room/a/visit {a.id}, which waits for Room/b/visit {b.id}, which waits for "
            f"Room/a/visit {again.id}, whose key is held by Room/a/visit {a.id}; "
            "cancel or kill any of them to free the others"
        )

    simulate(house, scenario)


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize(
    "route", ["a-a", "aBa", "ab-Ca", "a--b-a"], ids=lambda route: route.replace("-", "plain ").replace("B", "shared ")
)
def test_a_circle_may_lead_through_plain_services_and_shared_handlers(
    route: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(sim: Sim) -> None:
        await walk(sim, route)
        [deadlock] = await sim.engine.deadlocks()
        assert len(deadlock.members) == len(route)
        assert len(told(caplog)) == 1

    simulate(house, scenario, **options)


def test_who_leads_to_a_circle_is_no_part_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> None:
        await walk(sim, "cdaba")
        [deadlock] = await sim.engine.deadlocks()
        assert targets(deadlock) == ["Room/a/visit", "Room/b/visit", "Room/a/visit"]
        late = await sim.send(Room.visit, "b", key="e")
        await asyncio.sleep(60)
        assert [ids(one) for one in await sim.engine.deadlocks()] == [ids(deadlock)]
        assert len(told(caplog)) == 1
        await sim.engine.kill(deadlock.members[-1].id)
        assert await late.result() == "eb"

    simulate(house, scenario, **SUSPENDED)


def test_a_hundred_circles_at_once_are_a_hundred_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> None:
        for number in range(100):
            await sim.send(Pair.meet, f"{number} right", key=f"{number} left")
        await asyncio.sleep(SOON)
        deadlocks = await sim.engine.deadlocks()
        assert len({frozenset(targets(deadlock)) for deadlock in deadlocks}) == 100
        assert sorted(told(caplog)) == sorted(
            f"deadlock: {deadlock}; cancel or kill any of them to free the others" for deadlock in deadlocks
        )
        await sim.engine.kill(deadlocks[17].members[1].id)
        left = await sim.engine.deadlocks()
        assert left == deadlocks[:17] + deadlocks[18:]
        await asyncio.sleep(60)
        assert len(told(caplog)) == 100

    simulate(lambda sim: [Pair()], scenario, **SUSPENDED)


# ---- how it ends ----


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize("how", ["cancel", "kill"])
@pytest.mark.parametrize("route", [*ROUTES, "a-Bca"])
def test_any_member_frees_all(
    route: str, how: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Design 4.8. Nobody else had to wait meanwhile, and whoever came for one of the keys gets his turn."""

    async def scenario(sim: Sim, member: int) -> None:
        await walk(sim, route)
        [deadlock] = await sim.engine.deadlocks()
        assert await asyncio.wait_for(sim.call(Room.visit, "yz", key="x"), 1) == "xyz"
        behind = [await sim.send(Room.visit, "x", key=key) for key in sorted(set(route.lower()) - {"-"})]
        await asyncio.sleep(SOON)
        assert [ids(one) for one in await sim.engine.deadlocks()] == [ids(deadlock)]
        chosen = deadlock.members[member].id
        await (sim.engine.cancel(chosen) if how == "cancel" else sim.engine.kill(chosen))
        await asyncio.sleep(1)
        assert await sim.engine.deadlocks() == []
        assert await all_over(sim)
        assert [await one.result() for one in behind] == [f"{key}x" for key in sorted(set(route.lower()) - {"-"})]
        assert len(told(caplog)) == 1

    for member in range(len(route)):
        caplog.clear()
        simulate(house, partial(scenario, member=member), **options)


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize("after", [SOON, 100_000.0], ids=["soon", "late"])
def test_behind_a_circle_that_was_broken_there_may_be_another(
    after: float, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Twice(VirtualObject):
        @handler
        async def both(self, ctx: ObjectContext) -> list[str]:
            found = await gather(
                ctx.call(Twice.one, key=ctx.key), ctx.call(Twice.one, key=ctx.key), return_exceptions=True
            )
            return [str(one) for one in found]

        @handler
        async def one(self, ctx: ObjectContext) -> str:
            return "one"

    async def scenario(sim: Sim) -> None:
        both = await sim.send(Twice.both, key="k")
        for turn in (1, 2):
            await asyncio.sleep(SOON)
            [deadlock] = await sim.engine.deadlocks()
            assert len(told(caplog)) == turn
            assert str(deadlock) in told(caplog)[-1]
            await asyncio.sleep(after)
            [other] = [member.id for member in deadlock.members if member.id != both.id]
            await sim.engine.cancel(other)
        assert await both.result() == ["cancelled", "cancelled"]
        await asyncio.sleep(60)
        assert len(told(caplog)) == 2

    simulate(lambda sim: [Twice()], scenario, **options)


def test_a_compensation_that_gets_stuck_too_is_another_circle(caplog: pytest.LogCaptureFixture) -> None:
    class Shop(VirtualObject):
        @handler
        async def sell(self, ctx: ObjectContext) -> None:
            try:
                await ctx.call(Shop.undo, key=ctx.key)
            except TerminalError:
                await ctx.call(Shop.undo, key=ctx.key)

        @handler
        async def undo(self, ctx: ObjectContext) -> None: ...

    async def scenario(sim: Sim) -> None:
        sell = await sim.send(Shop.sell, key="k")
        await asyncio.sleep(SOON)
        await sim.engine.cancel(sell.id)
        await asyncio.sleep(SOON)
        [deadlock] = await sim.engine.deadlocks()
        assert len(set(told(caplog))) == len(told(caplog)) == 2
        assert str(deadlock) in told(caplog)[1]
        await sim.engine.cancel(sell.id)
        await asyncio.sleep(SOON)
        assert await sim.engine.deadlocks() == []

    simulate(lambda sim: [Shop()], scenario)


# ---- ways to wait ----


async def plainly(ctx: Context, call: DurableFuture[str]) -> str:
    return await call


async def by_gather(ctx: Context, call: DurableFuture[str]) -> str:
    return (await gather(ctx.sleep(1), gather(call, ctx.sleep(2))))[1][0]


async def by_select(ctx: Context, call: DurableFuture[str]) -> str:
    return str((await select(call=call, signal=ctx.signal("never")))[1])


async def by_wait_completed(ctx: Context, call: DurableFuture[str]) -> str:
    [done], _ = await wait_completed(call)
    return await done


async def by_as_completed(ctx: Context, call: DurableFuture[str]) -> str:
    return "".join([str(await one) async for one in as_completed(call, ctx.sleep(1))])


async def by_gather_of_asyncio(ctx: Context, call: DurableFuture[str]) -> str:
    return (await asyncio.gather(call, ctx.sleep(1)))[0]


async def in_a_task_group(ctx: Context, call: DurableFuture[str]) -> str:
    async def wait() -> str:
        return await call

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait())
        await ctx.sleep(1)
    return waiting.result()


async def later(ctx: Context, call: DurableFuture[str]) -> str:
    await ctx.sleep("1h")
    return await call


Wait = Callable[[Context, DurableFuture[str]], Awaitable[str]]


def waiter(wait: Wait) -> Callable[[Sim], Iterable[object]]:
    class Waiter(VirtualObject):
        @handler
        async def begin(self, ctx: ObjectContext) -> str:
            return await wait(ctx, ctx.call(Waiter.end, key=ctx.key))

        @handler
        async def end(self, ctx: ObjectContext) -> str:
            return "end"

    return lambda sim: [Waiter()]


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize(
    "wait",
    [plainly, by_gather, by_select, by_wait_completed, by_as_completed, by_gather_of_asyncio, in_a_task_group],
    ids=lambda wait: wait.__name__,
)
def test_however_a_handler_waits(wait: Wait, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> None:
        begun = await sim.send("Waiter/begin", key="k")
        await asyncio.sleep(2 + SOON)
        [deadlock] = await sim.engine.deadlocks()
        assert targets(deadlock) == ["Waiter/k/begin", "Waiter/k/end"]
        assert len(told(caplog)) == 1
        await sim.engine.cancel(deadlock.members[1].id)
        with pytest.raises(TerminalError):
            await begun.result()
        assert await sim.engine.deadlocks() == []

    simulate(waiter(wait), scenario, **options)


@WHEREVER_THEY_WAIT
def test_a_wait_with_a_timeout_is_a_circle_until_the_timeout(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def with_timeout(ctx: Context, call: DurableFuture[str]) -> str:
        try:
            return await call.with_timeout("1h")
        except TimeoutError:
            return "in vain"

    async def scenario(sim: Sim) -> None:
        begun = await sim.send("Waiter/begin", key="k")
        await asyncio.sleep(SOON)
        [deadlock] = await sim.engine.deadlocks()
        assert len(told(caplog)) == 1
        assert await begun.result() == "in vain"
        assert await sim.engine.deadlocks() == []
        assert await sim.engine.attach(deadlock.members[1].id) == "end"
        assert len(told(caplog)) == 1

    simulate(waiter(with_timeout), scenario, **options)


# ---- not yet, or not at all ----


@WHEREVER_THEY_WAIT
def test_an_open_call_to_its_own_key_is_no_circle_until_the_handler_waits_for_it(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(sim: Sim) -> None:
        await sim.send("Waiter/begin", key="k")
        await asyncio.sleep(3590)
        assert await sim.engine.deadlocks() == []
        assert told(caplog) == []
        await asyncio.sleep(10 + SOON)
        assert len(await sim.engine.deadlocks()) == len(told(caplog)) == 1

    simulate(waiter(later), scenario, **options)


@WHEREVER_THEY_WAIT
def test_a_call_to_its_own_key_that_is_never_waited_for_is_no_circle(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def never(ctx: Context, call: DurableFuture[str]) -> str:
        await ctx.sleep("1h")
        return call.id

    async def scenario(sim: Sim) -> None:
        id = await sim.call("Waiter/begin", key="k")
        assert await sim.engine.attach(id) == "end"
        assert told(caplog) == []

    simulate(waiter(never), scenario, **options)


def test_a_step_beside_the_wait_may_still_do_something(caplog: pytest.LogCaptureFixture) -> None:
    """A handler is not reported before it does nothing but wait."""

    async def beside_a_step(ctx: Context, call: DurableFuture[str]) -> str:
        return (await asyncio.gather(call, ctx.run(asyncio.sleep, 600)))[0]

    async def scenario(sim: Sim) -> None:
        await sim.send("Waiter/begin", key="k")
        await asyncio.sleep(590)
        assert (await sim.engine.deadlocks(), told(caplog)) == ([], [])
        await asyncio.sleep(10 + SOON)
        assert len(await sim.engine.deadlocks()) == len(told(caplog)) == 1

    simulate(waiter(beside_a_step), scenario)


def test_who_backs_off_or_is_paused_waits_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def services(sim: Sim) -> Iterable[object]:
        async def flaky() -> None:
            if sim.effect("flaky") < 3:
                raise OSError("not now")

        async def after_a_step(ctx: Context, call: DurableFuture[str]) -> str:
            await ctx.run(flaky)
            return await call

        return waiter(after_a_step)(sim)

    async def scenario(sim: Sim) -> None:
        begun = await sim.send("Waiter/begin", key="k")
        await asyncio.sleep(60)
        assert await sim.status(begun.id) == "backing-off"
        assert (await sim.engine.deadlocks(), told(caplog)) == ([], [])
        await asyncio.sleep(50)
        await sim.engine.pause(begun.id)
        await asyncio.sleep(3600)
        assert (await sim.engine.deadlocks(), told(caplog)) == ([], [])
        await sim.engine.resume(begun.id)
        await asyncio.sleep(SOON)
        assert len(await sim.engine.deadlocks()) == len(told(caplog)) == 1

    simulate(services, scenario, retry=RetryPolicy(initial_interval="100s", factor=1))


def test_a_pause_of_a_member_is_no_news_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> None:
        first = await walk(sim, "aba")
        [deadlock] = await sim.engine.deadlocks()
        await sim.engine.pause(first)
        await asyncio.sleep(600)
        assert await sim.engine.deadlocks() == [], "it waits for an operator now"
        await sim.engine.resume(first)
        await asyncio.sleep(600)
        assert [targets(one) for one in await sim.engine.deadlocks()] == [targets(deadlock)]
        assert len(told(caplog)) == 1

    simulate(house, scenario)


@WHEREVER_THEY_WAIT
def test_a_hot_key_is_no_circle(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    class Hot(VirtualObject):
        @handler
        async def work(self, ctx: ObjectContext, seconds: float) -> float:
            await ctx.sleep(seconds)
            await ctx.call(Hot.work, 0.0, key=f"beside {ctx.key}") if seconds else None
            return seconds

    @handler(service="Caller")
    async def caller(ctx: Context, number: int) -> float:
        return await ctx.call(Hot.work, 0.1 + number % 3, key="hot")

    async def scenario(sim: Sim) -> None:
        calls = [await sim.send(caller, number) for number in range(200)]
        while not await all_over(sim):
            assert await sim.engine.deadlocks() == []
            await asyncio.sleep(7)
        assert [await call.result() for call in calls] == [0.1 + number % 3 for number in range(200)]
        assert warnings(caplog) == []

    simulate(lambda sim: [Hot(), caller], scenario, **options)


def test_a_walk_that_takes_its_time_does_not_mix_up_what_never_was_at_once() -> None:
    """The caller gives up, and only then does its callee wait for the caller's key."""

    class Hasty(VirtualObject):
        @handler
        async def ask(self, ctx: ObjectContext) -> None:
            with suppress(TimeoutError):
                await ctx.call(Hasty.think, ctx.key, key="slow").with_timeout(1)
            await ctx.sleep(2)

        @handler
        async def think(self, ctx: ObjectContext, back: str) -> None:
            await ctx.sleep(1.1)
            await ctx.call(Hasty.thanks, key=back)

        @handler
        async def thanks(self, ctx: ObjectContext) -> None: ...

    async def main() -> None:
        store = Counting(seconds=0.2, slow_for="with_threads")
        async with engine_with(store, Hasty(), **SUSPENDED) as engine:
            looks = 0
            for start in range(20):
                await engine.send(Hasty.ask, key="hasty")
                behind = asyncio.ensure_future(engine.call(Hasty.thanks, key="hasty"))
                await asyncio.sleep(start * 0.03)
                while not behind.done():
                    assert await engine.deadlocks() == []
                    looks += 1
                    await asyncio.sleep(0.07)
            assert looks > 40
            assert store.slow_reads > looks, "its own reads are the slow ones"

    run(main)


# ---- attached, joined, sent for later ----


class Desk(VirtualObject):
    """Sends, and attaches to what was sent."""

    @handler
    async def ask_itself(self, ctx: ObjectContext, delay: float) -> str:
        sent = ctx.send(Desk.answer, key=ctx.key, delay=delay)
        return str(await ctx.attach(sent.id))

    @handler
    async def answer(self, ctx: ObjectContext) -> str:
        return "answer"

    @handler
    async def ask_other(self, ctx: ObjectContext, after: float) -> str:
        sent = ctx.send(Desk.ask_back, ctx.key, key="other")
        await ctx.sleep(after)
        return str(await ctx.attach(sent.id))

    @handler
    async def ask_back(self, ctx: ObjectContext, key: str) -> str:
        return await ctx.call(Desk.answer, key=key)

    @handler
    async def attach_mutually(self, ctx: ObjectContext) -> str:
        sent = ctx.send(Desk.attach_to, ctx.request.id, key="other")
        return str(await ctx.attach(sent.id))

    @handler
    async def attach_to(self, ctx: ObjectContext, id: str) -> str:
        return str(await ctx.attach(id))

    @handler
    async def attach_to_itself(self, ctx: ObjectContext) -> str:
        return str(await ctx.attach(ctx.request.id))

    @handler
    async def join_itself(self, ctx: ObjectContext) -> str:
        return await ctx.call(Desk.answer, key=ctx.key, idempotency_key="once")

    @handler
    async def join_other(self, ctx: ObjectContext, after: float) -> str:
        await ctx.sleep(after)
        return await ctx.call(Desk.ask_back, ctx.key, key="other", idempotency_key="once")


def desk(sim: Sim) -> Iterable[object]:
    return [Desk()]


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize("how", ["cancel", "kill"])
@pytest.mark.parametrize(
    ("handler", "arg", "members"),
    [
        pytest.param("ask_itself", 0.0, ["ask_itself", "answer"], id="to a send to its own key"),
        pytest.param("ask_itself", 600.0, ["ask_itself", "answer"], id="to a delayed send, when that is due"),
        pytest.param("ask_other", 0.0, ["ask_other", "ask_back", "answer"], id="to a send that calls back"),
        pytest.param("ask_other", 600.0, ["ask_other", "ask_back", "answer"], id="to one that called back long ago"),
        pytest.param("attach_mutually", None, ["attach_mutually", "attach_to"], id="to each other"),
        pytest.param("attach_to_itself", None, ["attach_to_itself"], id="to itself"),
    ],
)
def test_attached_in_a_circle(
    handler: str,
    arg: float | None,
    members: list[str],
    how: str,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Sim, member: int) -> None:
        await sim.send(f"Desk/{handler}", arg, key="k")
        if arg:
            await asyncio.sleep(arg - 1)
            assert (await sim.engine.deadlocks(), told(caplog)) == ([], [])
        await asyncio.sleep(1 + SOON)
        [deadlock] = await sim.engine.deadlocks()
        assert [target.split("/")[-1] for target in targets(deadlock)] == members
        [message] = told(caplog)
        assert str(deadlock) in message
        chosen = deadlock.members[member].id
        await (sim.engine.cancel(chosen) if how == "cancel" else sim.engine.kill(chosen))
        await asyncio.sleep(SOON)
        assert await sim.engine.deadlocks() == []
        assert await all_over(sim)
        assert len(told(caplog)) == 1

    for member in range(len(members)):
        caplog.clear()
        simulate(desk, partial(scenario, member=member), **options)


@WHEREVER_THEY_WAIT
def test_a_call_that_joined_one_that_waits_for_its_key(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(sim: Sim) -> None:
        holder = await sim.send(Desk.attach_to, (await sim.send(Desk.answer, key="free", delay="1h")).id, key="k")
        joins = await sim.send(Desk.join_itself, key="k")
        answer = await sim.send(Desk.answer, key="k", idempotency_key="once")
        await asyncio.sleep(SOON)
        assert (await sim.engine.deadlocks(), told(caplog)) == ([], []), "so far everybody waits for the holder"
        assert await holder.result() == "answer"
        await asyncio.sleep(SOON)
        [deadlock] = await sim.engine.deadlocks()
        assert [member.id for member in deadlock.members] == [joins.id, answer.id]
        assert len(told(caplog)) == 1
        await sim.engine.cancel(joins.id)
        assert await answer.result() == "answer", "it was joined, not called: the cancel spares it"
        assert await sim.engine.deadlocks() == []

    simulate(desk, scenario, **options)


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize("after", [0.0, 600.0])
def test_a_call_that_joined_one_that_runs(
    after: float, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(sim: Sim) -> None:
        joins = await sim.send(Desk.join_other, after, key="k")
        joined = await sim.send(Desk.ask_back, "k", key="other", idempotency_key="once")
        await asyncio.sleep(after + SOON)
        [deadlock] = await sim.engine.deadlocks()
        assert [member.id for member in deadlock.members][:2] == [joins.id, joined.id]
        assert len(told(caplog)) == 1
        await sim.engine.kill(joined.id)
        await asyncio.sleep(SOON)
        assert await sim.engine.deadlocks() == []
        assert await all_over(sim)

    simulate(desk, scenario, **options)


# ---- restarts and crashes ----


@WHEREVER_THEY_WAIT
@pytest.mark.parametrize("crash", [False, True], ids=["clean", "crash"])
def test_the_next_engine_finds_it_again(
    crash: bool, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(sim: Sim) -> None:
        await walk(sim, "aba")
        await sim.send(Desk.attach_mutually, key="k")
        await asyncio.sleep(SOON)
        before = told(caplog)
        assert len(before) == 2
        caplog.clear()
        await sim.restart(crash=crash)
        await asyncio.sleep(SOON)
        assert sorted(told(caplog)) == sorted(before)
        deadlocks = await sim.engine.deadlocks()
        await asyncio.sleep(60)
        assert len(told(caplog)) == len(deadlocks) == 2
        for deadlock in deadlocks:
            await sim.engine.cancel(deadlock.members[-1].id)
        await asyncio.sleep(SOON)
        assert await all_over(sim)

    simulate(lambda sim: [*house(sim), *desk(sim)], scenario, **options)


@pytest.mark.parametrize("attached", [False, True], ids=["called", "attached"])
def test_wherever_the_engine_dies_the_circle_is_found_and_broken(attached: bool) -> None:
    async def scenario(sim: Sim) -> list[str]:
        if attached:
            first = await sim.send(Desk.attach_mutually, key="k")
        else:
            first = await sim.send(Room.visit, "b-a", key="a")
        found: list[Deadlock] = []

        async def is_found() -> bool:
            found[:] = await sim.engine.deadlocks()
            return bool(found)

        await sim.until(is_found)
        await asyncio.sleep(SOON)
        await sim.repeat(lambda engine: killed(engine, found[0].members[-1].id))
        with pytest.raises(TerminalError):
            await sim.result(first.id)
        await sim.until(lambda: all_over(sim))
        assert await sim.repeat(lambda engine: engine.deadlocks()) == []
        return targets(found[0])

    async def killed(engine: Engine, id: str) -> None:
        if (await engine.describe(id)).status != "completed":
            await engine.kill(id)

    found = check(lambda sim: [*house(sim), *desk(sim)], scenario)
    if attached:
        assert found == ["Desk/k/attach_mutually", "Desk/other/attach_to"]
    else:
        assert found == ["Room/a/visit", "Room/b/visit", "Hall/cross", "Room/a/visit"]


def test_on_a_real_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        path = tmp_path / "durable.db"
        async with engine_on(path, Room(), Hall(), Desk()) as engine:
            await engine.send(Room.visit, "B-a", key="a")
            await engine.send(Desk.attach_mutually, key="k")
            await asyncio.sleep(SOON)
            before = told(caplog)
            assert len(before) == len(await engine.deadlocks()) == 2
        caplog.clear()
        async with engine_on(path, Room(), Hall(), Desk()) as engine:
            await asyncio.sleep(SOON)
            assert sorted(told(caplog)) == sorted(before)
            for deadlock in await engine.deadlocks():
                await engine.cancel(deadlock.members[1].id)
            await asyncio.sleep(1)
            assert await engine.deadlocks() == []
            assert {view.status for view in await engine.invocations()} == {"completed"}

    run(main)


def test_in_small_portions(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(deadlocks, "BEGIN_MAX", 3)
    monkeypatch.setattr(deadlocks, "BATCH", 2)

    async def scenario(sim: Sim) -> None:
        for number in range(10):
            await sim.send(Pair.meet, f"{number} right", key=f"{number} left")
            await sim.send(Desk.attach_to_itself, key=f"{number}")
        await asyncio.sleep(SOON)
        assert len(told(caplog)) == len(await sim.engine.deadlocks()) == 20
        await sim.restart(crash=True)
        await asyncio.sleep(SOON)
        assert len(told(caplog)) == 40
        assert len(set(told(caplog))) == 20

    simulate(lambda sim: [Pair(), Desk()], scenario, **SUSPENDED)


def test_an_engine_that_failed_or_was_closed_looks_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> None:
        stopped = []
        for crash in (True, False, True):
            stopped.append(sim.engine)
            await sim.restart(crash=crash)
        await walk(sim, "aba")
        assert len(told(caplog)) == 1, "only the engine of the moment speaks"
        for engine in stopped:
            with pytest.raises(EngineNotRunningError):
                await engine.deadlocks()

    simulate(house, scenario)
    assert complaints(caplog) == []


class Broken(MemoryStore):
    """A store that cannot answer what only the search for deadlocks asks."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    async def holder(self, service: str, key: str) -> int | None:
        if self.broken:
            raise OSError("the disk is gone")
        return await super().holder(service, key)


def engine_with(store: MemoryStore, *services: object, **options: Any) -> Engine:
    return Engine(services=services, store=store, clock=VirtualClock(asyncio.get_running_loop()), **options)


def test_a_search_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = Broken()
        async with engine_with(store, Room()) as engine:
            store.broken = True
            await engine.send(Room.visit, "ba", key="a")
            await asyncio.sleep(600)
            assert warnings(caplog) == ["the search for deadlocks was broken off: OSError: the disk is gone"]
            assert await engine.call(Room.visit, "yz", key="x") == "xyz"
            store.broken = False
            await engine.send(Room.visit, "dc", key="c")
            await asyncio.sleep(SOON)
            assert len(told(caplog)) == len(await engine.deadlocks()) == 2, "the next look makes up for it"
            await asyncio.sleep(60)
            assert len(warnings(caplog)) == 3

    run(main)


@pytest.mark.parametrize("first", ["search", "commit"])
def test_a_store_that_dies_fails_the_engine_and_nobody_searches_any_more(
    first: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = Broken()
        async with engine_with(store, Room()) as engine:
            await engine.send(Room.visit, "ba", key="a")
            await asyncio.sleep(0.5)
            store.broken = store._failed = True
            if first == "search":
                await asyncio.sleep(SOON)
            assert engine.failure is None
            with pytest.raises(EngineFailedError):
                await engine.call(Room.visit, "yz", key="x")
            await asyncio.sleep(600)
            searches = [line for line in warnings(caplog) if line.startswith("the search for deadlocks")]
            assert len(searches) == (1 if first == "search" else 0)
            assert len(warnings(caplog)) == len(searches) + 1
            await engine.close()

    with pytest.raises(EngineFailedError):
        run(main)
    assert complaints(caplog) == []


# ---- what it costs ----


class Counting(MemoryStore):
    """A store that notes what is read; for some of its readers it is slow."""

    def __init__(self, seconds: float = 0, slow_for: str = "nobody") -> None:
        super().__init__()
        self.seconds = seconds
        self.slow_for = slow_for
        self.reads: list[int] = []
        self.slow_reads = 0

    async def _note(self, size: int) -> None:
        self.reads.append(size)
        if self.slow_for in repr(asyncio.current_task()):
            self.slow_reads += 1
            await asyncio.sleep(self.seconds)

    async def load(self, need: Need) -> Loaded:
        await self._note(len(need.seqs) + len(need.ids))
        return await super().load(need)

    async def holder(self, service: str, key: str) -> int | None:
        await self._note(1)
        return await super().holder(service, key)

    async def contended(self, after: tuple[str, str] | None, limit: int) -> Sequence[tuple[str, str]]:
        await self._note(0)
        return await super().contended(after, limit)


def test_nobody_looks_at_keys_that_are_free() -> None:
    async def main() -> None:
        store = Counting()
        async with engine_with(store, Room(), Hall()) as engine:
            await asyncio.sleep(60)
            for number in range(100):
                await engine.call(Room.visit, "-b-c", key=f"a{number}")
            reads = len(store.reads)
            await asyncio.sleep(3600)
            assert store.reads[reads:] == []

    run(main)


def test_nobody_looks_at_a_busy_key_whose_holders_call_nobody() -> None:
    @handler(service="Caller")
    async def caller(ctx: Context) -> str:
        return await ctx.call(Room.visit, "", key="hot")

    async def main() -> None:
        store = Counting()
        async with engine_with(store, Room(), caller) as engine:
            await engine.call(caller)
            await asyncio.sleep(60)
            store.reads.clear()
            await asyncio.gather(*(engine.call(caller) for _ in range(200)))
            await asyncio.sleep(3600)
            assert store.reads == [], "neither did anybody else"

    run(main)


def test_nobody_looks_any_more_when_all_circles_are_broken() -> None:
    async def main() -> None:
        store = Counting()
        async with engine_with(store, Room()) as engine:
            first = await engine.send(Room.visit, "ba", key="a")
            await asyncio.sleep(600)
            reads = len(store.reads)
            await asyncio.sleep(600)
            assert len(store.reads) > reads
            await engine.kill(first.id)
            await asyncio.sleep(60)
            reads = len(store.reads)
            await asyncio.sleep(600)
            assert store.reads[reads:] == []

    run(main)


def test_a_circle_that_stays_is_looked_at_ever_more_rarely() -> None:
    """A simulation that is stuck has to get through years."""

    async def main() -> None:
        store = Counting()
        async with engine_with(store, Room()) as engine:
            await engine.send(Room.visit, "ba", key="a")
            await asyncio.sleep(30 * 86_400)
            assert len(store.reads) < 30 * 24 * 10

    run(main)


def test_a_slow_search_holds_up_nobody_and_rests_most_of_the_time() -> None:
    async def main() -> None:
        store = Counting(seconds=0.5, slow_for="Deadlocks._look")
        now = asyncio.get_running_loop().time
        async with engine_with(store, Room(), Hall()) as engine:
            while now() < 900:
                before = now()
                await engine.send(Room.visit, "-a", key="a")
                assert await engine.call(Room.visit, "c", key="b") == "bc"
                assert now() == before, "nobody waits for the search"
                await asyncio.sleep(5)
                for deadlock in await engine.deadlocks():
                    await engine.kill(deadlock.members[0].id)
        assert 900 / 20 < store.seconds * store.slow_reads < 900 / 8

    run(main)


class Chain(VirtualObject):
    @handler
    async def link(self, ctx: ObjectContext, length: int) -> int:
        number = int(ctx.key)
        return await ctx.call(Chain.link, length, key=f"{(number + 1) % length}")


class Fan(VirtualObject):
    @handler
    async def out(self, ctx: ObjectContext, width: int) -> None:
        await gather(*(ctx.call(Fan.slat, ctx.key, key=f"{number}") for number in range(width)))

    @handler
    async def slat(self, ctx: ObjectContext, back: str) -> None:
        if ctx.key == "1234":
            await ctx.call(Fan.slat, back, key=back)
        await ctx.sleep("1d")


def test_a_chain_of_a_thousand_objects_is_one_circle(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with engine_with(MemoryStore(), Chain()) as engine:
            await engine.send(Chain.link, 1000, key="0")
            await asyncio.sleep(SOON)
            before = time.process_time()
            [deadlock] = await engine.deadlocks()
            assert time.process_time() - before < 2, "about 0.1 s"
            assert targets(deadlock) == [f"Chain/{number % 1000}/link" for number in range(1001)]
            [message] = told(caplog)
            assert str(deadlock) in message
            await engine.kill(deadlock.members[500].id)
            await asyncio.sleep(SOON)
            assert await engine.deadlocks() == []

    run(main)


def test_a_circle_is_found_in_a_fan_of_two_thousand_calls(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with engine_with(MemoryStore(), Fan()) as engine:
            await engine.send(Fan.out, 2000, key="fan")
            await asyncio.sleep(SOON)
            before = time.process_time()
            [deadlock] = await engine.deadlocks()
            assert time.process_time() - before < 2, "about 0.1 s"
            assert targets(deadlock) == ["Fan/fan/out", "Fan/1234/slat", "Fan/fan/slat"]
            assert len(told(caplog)) == 1

    run(main)


def test_one_read_takes_few_invocations() -> None:
    async def main() -> None:
        store = Counting()
        async with engine_with(store, Fan()) as engine:
            await engine.send(Fan.out, 1300, key="fan")
            await asyncio.sleep(SOON)
            store.reads.clear()
            assert len(await engine.deadlocks()) == 1
            assert max(store.reads) <= BATCH

    run(main)


# ---- circles of a graph ----


def reachable(graph: dict[int, list[int]], start: int) -> set[int]:
    found: set[int] = set()
    left = list(graph[start])
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left.extend(graph[node])
    return found


GRAPHS = st.fixed_dictionaries({node: st.lists(st.integers(0, 7), max_size=3) for node in range(8)})


@given(GRAPHS)
def test_circles_are_real_have_nothing_in_common_and_no_tangle_is_without(graph: dict[int, list[int]]) -> None:
    found = circles(graph)
    for circle in found:
        assert all(after in graph[one] for one, after in zip(circle, circle[1:] + circle[:1], strict=True))
    taken = [node for circle in found for node in circle]
    assert len(taken) == len(set(taken))
    for node in graph:
        if node in reachable(graph, node):
            tangle = {other for other in reachable(graph, node) if node in reachable(graph, other)}
            assert any(tangle.issuperset(circle) for circle in found), f"nothing was found around {node}"
