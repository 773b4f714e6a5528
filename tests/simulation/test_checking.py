"""`check` finds what it promises to find, in whichever mode it is seen, says where, and comes to an end."""

import asyncio
import itertools
import logging
import random
from contextlib import suppress
from typing import Any

import pytest

from durable import (
    Context,
    ObjectContext,
    RetryPolicy,
    SharedObjectContext,
    UsageError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.effects import Writes
from durable.core.journal import COMMAND, Kind
from durable.store.memory import MemoryStore
from durable.testing import (
    NotDeterministic,
    Sim,
    SimulationStuck,
    StepRanAgain,
    acheck,
    check,
    mode_named,
    modes,
    run,
    simulate,
    virtual,
)
from durable.testing.findings import ATTEMPTS_MAX


async def work(number: int = 0) -> int:
    return number


class Coin:
    """A handler that decides by a coin which no journal knows of."""

    def __init__(self, seed: int = 1) -> None:
        self.dice = random.Random(seed)

    def services(self, sim: Sim) -> list[object]:
        @handler(service="Shop")
        async def buy(ctx: Context) -> int:
            if self.dice.random() < 0.5:
                await ctx.run(work, 1)
            else:
                await ctx.sleep("1s")
            return await ctx.run(work, 2)

        return [buy]


# ---- journals that do not fit ----


def test_a_handler_that_decides_by_chance_fails_the_check_at_once() -> None:
    with pytest.raises(NotDeterministic, match=r"Shop/buy inv_1\w+: JournalMismatchError: entry 1") as found:
        check(Coin().services, lambda sim: sim.call("Shop/buy"))
    [note] = found.value.__notes__
    mode = note.split("'")[1]
    assert note == f"in mode {mode!r}; this runs it alone: check(services, scenario, only={mode!r})"


@pytest.mark.parametrize("seed", range(5))
def test_also_where_nobody_waits_for_its_result(seed: int) -> None:
    async def scenario(sim: Sim) -> None:
        await sim.send("Shop/buy")
        await asyncio.sleep(60)

    with pytest.raises(NotDeterministic):
        check(Coin(seed).services, scenario)


def test_also_where_the_handler_swallows_the_error() -> None:
    names = (f"step {number}" for number in itertools.count())

    @handler(service="Shop")
    async def buy(ctx: Context) -> str:
        with suppress(Exception):
            await ctx.with_options(name=next(names)).run(work)
            await ctx.sleep("1s")
        return "bought"

    async def scenario(sim: Sim) -> None:
        await sim.send("Shop/buy")
        await asyncio.sleep(60)

    with pytest.raises(NotDeterministic):
        check(buy, scenario)


def test_a_cache_that_is_filled_by_a_step_is_found_while_it_is_empty() -> None:
    """Whatever runs second finds it filled, and does the same ever after: so the first run of all is suspended."""
    cache: dict[str, int] = {}

    @handler(service="Shop")
    async def buy(ctx: Context) -> int:
        if "rate" not in cache:
            cache["rate"] = await ctx.run(work, 7)
        await ctx.sleep("1s")
        return cache["rate"]

    with pytest.raises(NotDeterministic, match="the journal has `run work`") as caught:
        check(buy, lambda sim: sim.call(buy))
    assert "in mode 'always-suspend'" in caught.value.__notes__[0]
    cache.clear()
    with pytest.raises(NotDeterministic):
        check(buy, lambda sim: sim.call(buy), only="always-suspend")


def test_what_fails_undisturbed_is_told_of_that_run() -> None:
    @handler(service="Shop")
    async def buy(ctx: Context) -> int:
        await ctx.sleep("1s")
        return 1

    async def scenario(sim: Sim) -> None:
        assert await sim.call(buy) == 2

    with pytest.raises(AssertionError) as caught:
        check(buy, scenario)
    assert "in mode 'undisturbed'" in caught.value.__notes__[0]


def test_a_scenario_that_changes_the_code_says_so() -> None:
    def services(sim: Sim) -> list[object]:
        @handler(service="Shop")
        async def buy(ctx: Context) -> int:
            await ctx.with_options(name="new" if sim.effects["deployed"] else "old").run(work)
            await ctx.sleep("10m")
            return 7

        return [buy]

    async def scenario(sim: Sim) -> str:
        bought = await sim.send("Shop/buy")
        await sim.until(lambda: bool(sim.tables.journal.get(1, {}).get((1, COMMAND))))
        sim.code_changes()
        sim.effect("deployed")
        await sim.restart()
        await sim.until(lambda: is_paused(sim, bought.id))
        return (await bought.describe()).advice[:35]

    assert check(services, scenario) == "Deploy the code that wrote this jou"


async def is_paused(sim: Sim, id: str) -> bool:
    return await sim.status(id) == "paused"


# ---- steps that run too often ----


def test_a_store_that_loses_a_recorded_step_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the commit succeeds, and a row is missing."""
    write = MemoryStore._write

    def without_steps(self: MemoryStore, writes: Writes) -> None:
        writes.journal = [row for row in writes.journal if row.kind != Kind.RUN]
        write(self, writes)

    monkeypatch.setattr(MemoryStore, "_write", without_steps)
    with pytest.raises(StepRanAgain, match=r"the step 'work' \(entry 1\) of Shop/buy inv_1\w+ returned 2 times, "):
        check(stumbles, lambda sim: sim.call("Shop/buy"))


def test_a_journal_that_is_not_read_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: a step begins though its result is stored."""
    monkeypatch.setattr(MemoryStore, "_stored", lambda self, seq: [])
    monkeypatch.setattr("durable.store.memory.complete", lambda invocation, rows, partly: None)
    with pytest.raises(StepRanAgain, match=r"the step 'work' \(entry 1\) of Shop/buy inv_1\w+ runs again, "):
        check(stumbles, lambda sim: sim.call("Shop/buy"))


def stumbles(sim: Sim) -> list[object]:
    @handler(service="Shop")
    async def buy(ctx: Context) -> int:
        number = await ctx.run(work, 1)
        if sim.effect("stumbled") == 1:
            raise ConnectionError("stumbled")
        return number

    return [buy]


def test_steps_that_fail_and_are_tried_again_are_within_the_promise() -> None:
    def services(sim: Sim) -> list[object]:
        async def flaky() -> int:
            if sim.effect("tried") % 3:
                raise ConnectionError("try again")
            return 7

        @handler(service="Shop")
        async def buy(ctx: Context) -> int:
            return await ctx.run(flaky)

        return [buy]

    assert check(services, lambda sim: sim.call("Shop/buy")) == 7


# ---- scenarios that never end ----


class Inbox(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, id: str) -> None:
        ctx.set("id", id)

    @handler(shared=True)
    async def get(self, ctx: SharedObjectContext) -> str | None:
        return await ctx.get("id", str)


def test_who_asks_again_and_again_whether_something_has_happened_keeps_nobody_from_getting_there() -> None:
    """Each question is an invocation of its own, whose commits bring the next crash nearer."""

    def services(sim: Sim) -> list[object]:
        async def slow() -> None:
            await asyncio.sleep(0.05)

        @handler(service="Shop")
        async def order(ctx: Context) -> str:
            await ctx.run(slow)
            approved = ctx.awakeable(str)
            await ctx.call(Inbox.put, approved.id, key="o-1")
            await ctx.run(slow)
            return await approved.with_timeout("1 day")

        return [order, Inbox()]

    async def scenario(sim: Sim) -> str:
        order = await sim.send("Shop/order")

        async def asked() -> bool:
            return await sim.call(Inbox.get, key="o-1") is not None

        await sim.until(asked)
        awakeable = await sim.call(Inbox.get, key="o-1")
        assert awakeable is not None
        await sim.repeat(lambda engine: engine.resolve_awakeable(awakeable, "yes"))
        result: str = await order.result()
        return result

    assert check(services, scenario, most=10) == "yes"


def test_a_handler_that_is_tried_for_ever_is_named() -> None:
    async def fail() -> None:
        raise ConnectionError("nobody answers")

    @handler(service="Shop", retry=RetryPolicy(max_attempts=None))
    async def buy(ctx: Context) -> None:
        await ctx.run(fail)

    with pytest.raises(
        SimulationStuck, match=rf"Shop/buy inv_1\w+ has begun {ATTEMPTS_MAX} attempts and got now"
    ) as e:
        check(buy, lambda sim: sim.call(buy))
    [stands, mode] = e.value.__notes__
    assert "waits for its retry until 2030-01-" in stands or "is running" in stands
    assert "its last attempt failed: ConnectionError: nobody answers" in stands
    assert mode.startswith("in mode 'undisturbed'")


def test_who_looks_for_ever_for_what_never_comes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "JUMPS_MAX", 10_000)

    async def scenario(sim: Sim) -> None:
        await sim.send("Shop/buy")
        while True:  # noqa: ASYNC110 (that is what is tested)
            await asyncio.sleep(1)

    with pytest.raises(SimulationStuck, match="the clock has jumped 10000 times in 10000 v") as stuck:
        check(awaits_an_approval, scenario)
    [stands, _] = stuck.value.__notes__
    assert stands.endswith("waits for awakeable (entry 2)")


@handler(service="Shop", name="buy")
async def awaits_an_approval(ctx: Context) -> None:
    await ctx.run(work)
    await ctx.awakeable()


class Deal(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> None:
        await ctx.promise("agreed", bool).with_timeout("3650 days")


class Till(VirtualObject):
    @handler
    async def hold(self, ctx: ObjectContext, step: bool) -> None:
        if step:
            await ctx.run(asyncio.Event().wait)
        await ctx.call("Deal/run", key=ctx.key)


def test_where_nothing_goes_on_each_invocation_is_named_with_what_it_waits_for() -> None:
    async def scenario(sim: Sim) -> None:
        await sim.send(Till.hold, False, key="a")
        await sim.send(Till.hold, True, key="a")
        await sim.send(Till.hold, True, key="b")
        await sim.send(awaits_an_approval, delay="7300 days")
        await asyncio.Event().wait()

    with pytest.raises(SimulationStuck) as stuck:
        simulate([Till(), Deal(), awaits_an_approval], scenario, inactivity_timeout="7300 days")
    told = [note.partition(" inv_")[::2] for note in stuck.value.__notes__]
    told = [(target, stands.partition(" is ")[2]) for target, stands in told]
    assert [target for target, _ in told] == ["Till/a/hold", "Deal/a/run", "Till/a/hold", "Till/b/hold", "Shop/buy"]
    holds, deal, waits, runs, starts = (stands for _, stands in told)
    assert holds.startswith("running: waits for call 'Deal/a/run' inv_1") and holds.endswith("(entry 1)")
    assert waits.startswith("pending: waits for the key of Till/a, which inv_1") and waits.endswith(" holds")
    assert runs == "running: step 'wait' runs"
    assert starts.startswith("scheduled: waits for its start until 2049-12-27")
    assert "waits for promise 'agreed'" in deal and "waits for sleep" in deal and "until 2039-12-30" in deal


# ---- modes have names ----


def test_a_mode_is_found_again_by_its_name() -> None:
    every = modes(7)
    assert [mode_named(mode.name) for mode in every] == every
    assert len({mode.name for mode in every}) == len(every)
    with pytest.raises(UsageError, match=r"there is no mode 'before lunch': those are 'undisturbed', 'always"):
        check(awaits_an_approval, lambda sim: sim.call(awaits_an_approval), only="before lunch")


def test_only_one_mode_is_run_if_that_is_wanted() -> None:
    seen: list[str] = []

    async def scenario(sim: Sim) -> str:
        seen.append(sim.mode.name)
        result: str = await sim.call(greet, "Ada")
        return result

    assert check(greet, scenario, only="after commit 2") == "hi Ada"
    assert seen == ["undisturbed", "after commit 2"]


@handler(service="Greeter")
async def greet(ctx: Context, name: str) -> str:
    return f"hi {name}"


# ---- where an event loop runs ----


def test_an_asynchronous_test_awaits_acheck() -> None:
    async def scenario(sim: Sim) -> str:
        return await sim.call(greet, "Ada")

    async def story() -> str:
        with pytest.raises(UsageError, match=r"use `await acheck\(\.\.\.\)`"):
            check(greet, scenario)
        with pytest.raises(UsageError, match="call it from a plain function"):
            simulate(greet, scenario)
        with pytest.raises(NotDeterministic) as found:
            await acheck(Coin().services, lambda sim: sim.call("Shop/buy"))
        assert "only=" in found.value.__notes__[0]
        return await acheck(greet, scenario, only="before commit 1")

    assert asyncio.run(story()) == "hi Ada"


def test_a_check_that_is_cancelled_ends() -> None:
    entered = asyncio.Event()
    ended: list[str] = []

    async def story() -> None:
        here = asyncio.get_running_loop()

        async def scenario(sim: Sim) -> None:
            here.call_soon_threadsafe(entered.set)
            try:
                while True:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            finally:
                ended.append(sim.mode.name)

        checking = asyncio.create_task(acheck(greet, scenario))
        await entered.wait()
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        while not ended:  # noqa: ASYNC110 (it is another thread that ends)
            await asyncio.sleep(0.01)

    asyncio.run(story())
    assert ended == ["always-suspend"], "which is the first mode, and the last"


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        (lambda sim: None, "a scenario is an async function"),
        (lambda sim: sim.send(greet, "Ada"), "return await handle.result"),
    ],
)
def test_what_is_no_scenario_is_refused(scenario: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check(greet, scenario)


# ---- the log ----


def buying(sim: Sim) -> list[object]:
    async def charge() -> None:
        if sim.effect("tried") == 1:
            raise ConnectionError("try again")
        logging.getLogger("shop").info("charged in mode %s", sim.mode.name)

    @handler(service="Shop")
    async def buy(ctx: Context) -> int:
        await ctx.run(charge)
        return 7

    return [buy]


def test_a_check_that_passes_says_nothing_of_the_crashes_it_makes(caplog: pytest.LogCaptureFixture) -> None:
    """What the engine says of the undisturbed run stays; and all that your own code says."""
    caplog.set_level(logging.INFO, "shop")
    check(buying, lambda sim: sim.call("Shop/buy"))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("durable")]
    assert [line for line in ours if "try again" in line] == ours
    assert len(ours) == 1
    theirs = {record.getMessage() for record in caplog.records if record.name == "shop"}
    assert {"charged in mode undisturbed", "charged in mode after commit 1"} <= theirs
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno > logging.DEBUG]


def test_of_the_mode_that_fails_all_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sim: Sim) -> tuple[int, bool]:
        return await sim.call("Shop/buy"), sim.mode.name == "after commit 2"

    with pytest.raises(AssertionError, match=r"\(7, True\) instead of \(7, False\)"):
        check(buying, scenario)
    crashes = [record.getMessage() for record in caplog.records if "SimulatedCrash" in record.getMessage()]
    assert crashes == ["the engine stopped: SimulatedCrash: at commit 2"]


# ---- time that is moved by hand ----


def test_time_is_moved_by_hand_and_what_is_due_happens_on_the_way() -> None:
    seen: list[tuple[str, int]] = []

    async def note(what: str) -> None:
        seen.append((what, 0))

    @handler(service="Shop")
    async def remind(ctx: Context) -> str:
        for day in ("first", "second", "third"):
            await ctx.sleep("1 day")
            await ctx.run(note, day)
        return "gave up"

    async def scenario(sim: Sim) -> str:
        handle = await sim.send(remind)
        began = sim.clock.now_ms()
        await sim.clock.advance("1 day")
        assert [what for what, _ in seen] == ["first"]
        await sim.clock.advance("23 hours")
        assert [what for what, _ in seen] == ["first"]
        await sim.clock.advance("1 day")
        assert [what for what, _ in seen] == ["first", "second"]
        assert sim.clock.now_ms() - began == 71 * 3_600_000
        await sim.clock.advance(0)
        result: str = await handle.result()
        return result

    assert simulate([remind], scenario)[0] == "gave up"


def test_a_thread_of_an_executor_holds_time_up() -> None:
    async def story() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 0.001)
        return loop.time()

    assert run(story) == 0
