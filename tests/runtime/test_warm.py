"""A handler that waits for others and makes room for them stays in memory for a while, and need not be replayed."""

import asyncio
import gc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from durable import Context, Engine, ObjectContext, TerminalError, VirtualObject, gather, handler
from durable.core.effects import StartAttempt
from durable.core.invocation import KeyedObject, Submission
from durable.core.limits import Limits
from durable.runtime.attempt import Attempt
from durable.runtime.observer import Observer
from durable.runtime.roster import Roster
from durable.store.memory import MemoryStore
from durable.testing import Mode, Sim, VirtualClock, check, run, simulate


class Told(Observer):
    """What an observer hears, and how many turns there were."""

    def __init__(self) -> None:
        self.turns = 0
        self.attempts: list[tuple[str, int, str]] = []

    def turn_committed(self, commands: int, rows: int, seconds: float) -> None:
        self.turns += 1

    def attempt_started(self, submission: Submission, attempt: int) -> None:
        self.attempts.append((submission.id, attempt, "started"))

    def attempt_ended(self, submission: Submission, attempt: int, how: str, error: BaseException | None) -> None:
        self.attempts.append((submission.id, attempt, how))


class Counting(MemoryStore):
    """How often something was read."""

    reads = 0

    async def load(self, need: Any) -> Any:
        self.reads += 1
        return await super().load(need)

    async def journal(self, seq: int) -> Any:
        self.reads += 1
        return await super().journal(seq)


class Begun:
    """How often handlers began: a replay begins again, too."""

    def __init__(self) -> None:
        self.count = 0

        @handler(service="Deep")
        async def deep(ctx: Context, levels: int) -> int:
            self.count += 1
            return 1 + int(await ctx.call("Deep/deep", levels - 1)) if levels > 1 else 1

        self.deep = deep


def price(levels: int, **options: Any) -> tuple[float, float, float]:
    """What a level of a recursion costs: beginnings of its handler, reads, turns."""

    async def main() -> tuple[float, float, float]:
        begun, told, store = Begun(), Told(), Counting()
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[begun.deep], store=store, clock=clock, observer=told, **options) as engine:
            await engine.call(begun.deep, 1)
            begun.count = store.reads = told.turns = 0
            assert await engine.call(begun.deep, levels) == levels
            return begun.count / levels, store.reads / levels, told.turns / levels

    return run(main)


def test_a_recursion_deeper_than_there_are_slots_replays_nobody_and_takes_no_more_turns() -> None:
    flat = price(50)
    assert flat[:2] == (1, 0)
    for levels, slots in ((3000, 100), (1500, 1000)):
        begun, reads, turns = price(levels, max_concurrent_invocations=slots)
        assert (begun, reads) == (1, 0)
        assert turns <= 1.3 * flat[2]


def test_what_is_deeper_than_may_be_kept_is_replayed_and_comes_to_its_end() -> None:
    begun, _, _ = price(200, max_concurrent_invocations=10, limits=Limits(warm=50))
    assert 1 < begun < 2
    assert price(200, max_concurrent_invocations=10, limits=Limits(warm=0))[0] > 1.8


class House:
    """One slot, a parent that makes room for its child, and a gate that lets the child end."""

    def __init__(self, **options: Any) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        self.told = Told()
        self.attempts: list[int] = []

        @handler(service="House")
        async def child(ctx: Context) -> str:
            self.begun.append("child")
            await self.gate.wait()
            return "done"

        @handler(service="House")
        async def parent(ctx: Context) -> str:
            self.begun.append("parent")
            try:
                return str(await ctx.call(child))
            finally:
                self.attempts.append(ctx.request.attempt)

        self.parent = parent
        clock = VirtualClock(asyncio.get_running_loop())
        self.engine = Engine(
            services=[parent, child],
            store=MemoryStore(),
            clock=clock,
            observer=self.told,
            **{"max_concurrent_invocations": 1} | options,
        )

    async def begin(self) -> str:
        """Until the parent has made room for its child."""
        handle = await self.engine.send(self.parent)
        await asyncio.sleep(1)
        assert self.begun == ["parent", "child"]
        assert (await self.engine.describe(handle.id)).status == "suspended"
        return handle.id

    @property
    def kept(self) -> list[str]:
        """Whose handlers are kept."""
        roster = self.engine._running().roster
        return [attempt.target for attempt in roster.attempts.values() if attempt.warm]


def story(tell: Callable[[House], Any], **options: Any) -> House:
    """Tell it, with an engine that is closed at its end."""

    async def main() -> House:
        house = House(**options)
        async with house.engine:
            await tell(house)
        return house

    return run(main)


def test_it_goes_on_as_the_next_attempt_with_its_number() -> None:
    async def tell(house: House) -> None:
        id = await house.begin()
        assert house.kept == ["House/parent"]
        view = await house.engine.describe(id)
        assert (view.attempt, [(one.kind, one.entry) for one in view.waits_for]) == (1, [("call", 1)])
        house.gate.set()
        assert await house.engine.attach(id) == "done"

    assert story(tell).attempts == [2]


def test_an_observer_hears_the_same_whether_it_is_kept_or_not() -> None:
    async def tell(house: House) -> None:
        id = await house.begin()
        house.gate.set()
        await house.engine.attach(id)

    kept, replayed = story(tell), story(tell, limits=Limits(warm=0))
    assert (kept.begun, replayed.begun) == (["parent", "child"], ["parent", "child", "parent"])
    assert [what[1:] for what in kept.told.attempts] == [what[1:] for what in replayed.told.attempts]
    assert [how for _, _, how in kept.told.attempts].count("suspended") == 1


def test_it_is_let_go_when_the_inactivity_timeout_is_over() -> None:
    async def tell(house: House) -> None:
        id = await house.begin()
        await asyncio.sleep(25)
        assert house.kept == ["House/parent"]
        await asyncio.sleep(10)
        assert house.kept == []
        assert len(house.engine._running().world.invocations) == 1
        house.gate.set()
        assert await house.engine.attach(id) == "done"

    assert story(tell, inactivity_timeout="30s", abort_timeout="1h").begun == ["parent", "child", "parent"]


@pytest.mark.parametrize("verb", ["cancel", "pause", "kill", "resume", "configure", "close"])
def test_it_is_let_go_where_somebody_intervenes(verb: str) -> None:
    async def tell(house: House) -> None:
        engine, id = house.engine, await house.begin()
        match verb:
            case "configure":
                await engine.configure("House", abort_timeout="1h")
                house.gate.set()
            case "resume":
                await engine.resume(id)
                assert house.kept == []
                house.gate.set()
            case "close":
                await engine.close()
                house.gate.set()
                await engine.start()
            case "pause":
                await engine.pause(id)
                assert house.kept == []
                await engine.resume(id)
                house.gate.set()
            case _:
                await getattr(engine, verb)(id)
                assert house.kept == []
                house.gate.set()
        if verb == "kill":
            with pytest.raises(TerminalError):
                await engine.attach(id)
        else:
            assert await engine.attach(id) == "done"

    house = story(tell)
    assert house.begun.count("parent") == (1 if verb == "kill" else 2)


def test_whoever_may_wait_for_days_is_not_kept() -> None:
    @handler(service="House")
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep("2s")

    @handler(service="House")
    async def waits(ctx: Context) -> None:
        await gather(ctx.signal("s"), ctx.sleep("2s"))

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        options: dict[str, Any] = {"max_concurrent_invocations": 1, "store": MemoryStore(), "clock": clock}
        async with Engine(services=[sleeps, waits], **options) as engine:
            for number in range(20):
                await engine.send((sleeps, waits)[number % 2])
            await asyncio.sleep(1)
            assert await engine.count_invocations(status="suspended") == {"suspended": 19}
            loop = engine._running()
            assert (len(loop.roster.attempts), len(loop.world.invocations)) == (1, 1), (
                "nobody needs the last one's slot"
            )

    run(main)


def test_a_kept_handler_that_does_something_by_itself_is_let_go_and_replayed() -> None:
    begun = 0
    gate = asyncio.Event()

    @handler(service="House")
    async def child(ctx: Context) -> int:
        await gate.wait()
        return 1

    @handler(service="House")
    async def parent(ctx: Context) -> int:
        nonlocal begun
        begun += 1

        async def beside() -> None:
            await asyncio.sleep(5)
            await ctx.sleep("1s")

        task = asyncio.ensure_future(beside())
        await asyncio.sleep(0)  # from then on it waits for something that nobody sees
        try:
            return await ctx.call(child) + await ctx.call(child)
        finally:
            task.cancel()

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        options: dict[str, Any] = {"max_concurrent_invocations": 1, "store": MemoryStore(), "clock": clock}
        async with Engine(services=[parent, child], **options) as engine:
            handle = await engine.send(parent)
            await asyncio.sleep(2)
            roster = engine._running().roster
            assert [attempt.warm for attempt in roster.attempts.values()] == [True, False]
            await asyncio.sleep(10)
            assert [attempt.warm for attempt in roster.attempts.values()] == [False]
            gate.set()
            assert await handle.result() == 2

    run(main)
    assert begun == 2


def test_one_that_was_kept_is_freed_without_the_garbage_collector() -> None:
    async def tell(house: House) -> None:
        ids = [await house.begin()]
        house.gate.set()
        for id in ids:
            await house.engine.attach(id)
        house.gate.clear()
        house.begun.clear()
        killed = await house.begin()
        await house.engine.kill(killed)
        await asyncio.sleep(1)
        assert [found for found in attempts() if not any(found is one for one in of_other_tests)] == []

    def attempts() -> list[Attempt]:
        return [found for found in gc.get_objects() if isinstance(found, Attempt)]

    gc.collect()
    of_other_tests = attempts()
    gc.disable()
    try:
        story(tell)
    finally:
        gc.enable()


# ---- whatever is kept was told exactly what its journal has ----


class Account(VirtualObject):
    @handler
    async def deposit(self, ctx: ObjectContext, amount: int) -> int:
        balance = (await ctx.get("balance", int) or 0) + amount
        ctx.set("balance", balance)
        await ctx.sleep("1ms")
        return balance

    @handler
    async def spend(self, ctx: ObjectContext, levels: int) -> int:
        """Asks others between two changes of its own state."""
        ctx.set("spent", (await ctx.get("spent", int) or 0) + 1)
        below = await ctx.call(tree, levels) if levels else 0
        ctx.set("spent", (await ctx.get("spent", int) or 0) + 1)
        return below + (await ctx.get("spent", int) or 0)


async def one() -> int:
    return 1


@handler(service="House")
async def tree(ctx: Context, levels: int) -> int:
    """Several calls at once, a step, a call with a time-out, state; a random number that a replay draws again."""
    if levels == 0:
        return await ctx.run(one)
    found = await gather(ctx.call(tree, levels - 1), ctx.call(Account.deposit, drawn(ctx), key="a"))
    step = await ctx.run(one)
    late = await ctx.call(tree, levels - 1).with_timeout("1h")
    await ctx.call(Account.deposit, drawn(ctx), key="a")
    spent = await ctx.call(Account.spend, levels - 1, key=f"b{levels}-{ctx.request.id}")
    return found[0] + step + late + spent


def drawn(ctx: Context) -> int:
    return ctx.random().randint(0, 1_000_000)


def services(sim: Sim) -> Iterable[object]:
    return [tree, Account()]


async def scenario(sim: Sim) -> tuple[list[int], int]:
    found = await asyncio.gather(*(sim.call(tree, 2) for _ in range(2)))
    return found, await sim.call(tree, 1)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compares what every kept handler was told with its journal, when it goes on; counts them."""
    count = [0]
    admit = Roster.admit

    def checked(roster: Roster, start: StartAttempt, keyed: KeyedObject | None) -> None:
        kept = roster.attempts.get(start.invocation.seq)
        admit(roster, start, keyed)
        now = roster.attempts.get(start.invocation.seq)
        if now is None or now is not kept:
            return
        count[0] += 1
        store: Any = roster._engine.store
        rows = [row for row in store.tables.journal[now.seq].values() if row.ordinal is not None]
        recorded = [row.entry for row in sorted(rows, key=lambda row: row.ordinal) if row.ordinal < start.until]
        news = [entry for entry, _ in now._arrivals.news]
        assert len(recorded) == now.delivered + len(news)
        assert recorded[now.delivered :] == news

    monkeypatch.setattr(Roster, "admit", checked)
    return count


def test_everything_comes_out_the_same_however_many_are_kept(compared: list[int]) -> None:
    expected = check(services, scenario, most=12)
    for slots in (1, 2, 3):
        for mode in (Mode("calm"), Mode("restarts", every=7, how="restart"), Mode("crashes", every=8, how="after")):
            compared[0] = 0
            found, _ = simulate(services, scenario, mode, max_concurrent_invocations=slots)
            assert found == expected
            assert compared[0] > 0
