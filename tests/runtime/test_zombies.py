"""R-12, R-26, R-27: handlers that do not yield, do not end, or use a context that is not theirs."""

import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from durable import (
    ConflictError,
    Context,
    Engine,
    InvocationCancelled,
    InvocationKilled,
    NotInHandlerError,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    gather,
    handler,
)
from durable.testing import Sim, run, simulate
from tests.runtime.support import (
    UNKNOWN,
    complaints,
    echo,
    engine_on,
    journal,
    nothing_at_all,
    raised,
    settled,
)

# ---- handlers that do not yield ----


@pytest.fixture
def released() -> Iterator[asyncio.Event]:
    """Set at the end of a test: lets a handler go that nothing else can stop."""
    event = asyncio.Event()
    yield event
    event.set()


async def _spins(released: asyncio.Event) -> None:
    while not released.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def _spins_and_swallows(released: asyncio.Event) -> None:
    while not released.is_set():
        with suppress(BaseException):
            await asyncio.sleep(0.001)


async def _waits_for_nothing(released: asyncio.Event) -> None:
    await asyncio.get_running_loop().create_future()


async def _waits_in_a_thread(released: asyncio.Event) -> None:
    await asyncio.to_thread(time.sleep, 0.6)


@pytest.mark.parametrize(
    "hangs",
    [_spins, _spins_and_swallows, _waits_for_nothing, _waits_in_a_thread],
    ids=lambda hangs: hangs.__name__.replace("_", " ").strip(),
)
def test_a_handler_that_does_not_yield_is_interrupted_after_the_abort_timeout(
    tmp_path: Path, hangs: Callable[[asyncio.Event], Awaitable[None]], released: asyncio.Event
) -> None:
    """C-084, in real time: a loop that is never idle cannot be hurried."""
    tries: list[int] = []

    @handler(
        service="Hangs",
        inactivity_timeout="50ms",
        abort_timeout="50ms",
        retry=RetryPolicy(initial_interval=0, max_attempts=2),
    )
    async def hang(ctx: Context) -> None:
        tries.append(ctx.request.attempt)
        await hangs(released)

    async def story() -> None:
        async with Engine(tmp_path / "durable.db", services=[hang, echo], shutdown_timeout="1s") as engine:
            poisoned = await engine.send(hang)
            view = await settled(engine, poisoned.id, within=60)
            assert view.status == "paused"
            assert tries == [1, 2]
            assert view.last_failure is not None
            assert "abort timeout" in view.last_failure.message
            assert await asyncio.wait_for(engine.call(echo, "still here"), 60) == "still here"
            released.set()

    asyncio.run(story())


def test_a_step_that_outlasts_both_timeouts_is_a_failed_try(tmp_path: Path) -> None:
    """As in Restate, a step counts as code that does not yield."""
    tries: list[int] = []

    @handler(service="Slow", inactivity_timeout="5s", abort_timeout="5s")
    async def slow(ctx: Context) -> str:
        async def step() -> str:
            tries.append(ctx.request.attempt)
            await asyncio.sleep(9 if len(tries) > 1 else 600)
            return "done"

        return await ctx.run(step)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", slow) as engine:
            assert await engine.call(slow) == "done"

    run(story)
    assert tries == [1, 2]


# ---- zombies ----

OPERATIONS: dict[str, Callable[[ObjectContext], Any]] = {
    "run": lambda ctx: ctx.run(nothing_at_all),
    "sleep": lambda ctx: ctx.sleep(1),
    "call": lambda ctx: ctx.call("Echo/echo", 1),
    "send": lambda ctx: ctx.send("Echo/echo", 1),
    "awakeable": lambda ctx: ctx.awakeable(),
    "signal": lambda ctx: ctx.signal("s"),
    "send_signal": lambda ctx: ctx.send_signal(UNKNOWN, "s"),
    "attach": lambda ctx: ctx.attach(UNKNOWN),
    "output": lambda ctx: ctx.output(UNKNOWN),
    "cancel": lambda ctx: ctx.cancel(UNKNOWN),
    "resolve_awakeable": lambda ctx: ctx.resolve_awakeable("sign_1" + "0" * 33 + "1"),
    "set": lambda ctx: ctx.set("n", "zombie"),
    "get": lambda ctx: ctx.get("n"),
    "clear": lambda ctx: ctx.clear("n"),
    "clear_all": lambda ctx: ctx.clear_all(),
    "state_keys": lambda ctx: ctx.state_keys(),
    "now": lambda ctx: ctx.now(),
}


class Undead(VirtualObject):
    """Swallows everything, and goes on using its context."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.accepted: list[str] = []
        self.contexts: list[ObjectContext] = []
        self.may_end = False

    @handler
    async def live(self, ctx: ObjectContext) -> str:
        self.contexts.append(ctx)
        ctx.set("n", "alive")
        try:
            await ctx.sleep("1d")
        except BaseException:
            while not self.may_end:
                self.use(ctx)
                with suppress(BaseException):
                    await asyncio.sleep(0.1)
        return "undead"

    def use(self, ctx: ObjectContext) -> None:
        for name, operation in OPERATIONS.items():
            try:
                operation(ctx)
            except BaseException:
                self.refused.append(name)
            else:
                self.accepted.append(name)


@pytest.mark.parametrize("how", ["kill", "pause", "restart", "abort"])
def test_an_attempt_that_is_over_can_do_nothing_any_more(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R-26, R-27: from outside a kill is done at once; of the zombie nothing is written, and the log names it."""
    path, undead = tmp_path / "durable.db", Undead()

    async def story() -> None:
        try:
            await haunted()
        finally:
            undead.may_end = True
            await asyncio.sleep(1)

    async def haunted() -> None:
        engine = engine_on(path, undead, echo, inactivity_timeout="2d", abort_timeout="1s")
        async with engine:
            poisoned = await engine.send(Undead.live, key="k")
            await asyncio.sleep(1)
            if how == "kill":
                await engine.kill(poisoned.id)
                assert (await engine.describe(poisoned.id)).status == "completed"
                await engine.patch_state("Undead", "k", {"n": "free again"})
                await asyncio.sleep(1)
                assert set(undead.refused) == set(OPERATIONS)
                assert await engine.get_state("Undead", "k") == {"n": "free again"}
            elif how == "pause":
                await engine.pause(poisoned.id)
                await asyncio.sleep(1)
                assert (await engine.describe(poisoned.id)).status == "paused"
                assert set(undead.refused) == set(OPERATIONS)
                assert await engine.get_state("Undead", "k") == {"n": "alive"}
            elif how == "abort":
                loop = engine._loop
                assert loop is not None
                loop.attempts[1].abort()
                await asyncio.sleep(1)
                assert set(undead.refused) == set(OPERATIONS)
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before <= 5.1, "R-32: shut down within 5 s"
        assert undead.accepted == []
        assert any("Undead/k/live" in record.getMessage() for record in caplog.records)
        async with engine_on(path, undead, echo, inactivity_timeout="2d") as engine:
            await asyncio.sleep(1)
            assert set(undead.refused) == set(OPERATIONS)
            assert undead.accepted == []
            assert await engine.invocations(service="Echo") == []
            view = await engine.describe(poisoned.id)
            assert (view.status == "paused") == (how == "pause")
            assert journal(view) == ["set n: success", "sleep : open"]

    run(story)


async def _outlives(seconds: float) -> None:
    """Let so much time pass, whatever is raised meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        with suppress(BaseException):
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Frozen(Exception):
    """None of its attributes can be set, not even its traceback."""

    what: str


ENDINGS: dict[str, Callable[[], Any]] = {
    "a result": lambda: "made up",
    "a terminal error": lambda: raised(TerminalError("made up")),
    "an error": lambda: raised(ValueError("made up")),
    "an interrupt": lambda: raised(KeyboardInterrupt()),
    "a cancellation": lambda: raised(asyncio.CancelledError()),
    "a frozen error": lambda: raised(Frozen("made up")),
}


@pytest.mark.parametrize("seconds", [0, 0.5], ids=["at once", "later"])
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("how", ["kill", "pause", "restart", "abort"])
def test_what_a_zombie_ends_with_is_not_looked_at(
    tmp_path: Path, how: str, ending: Callable[[], Any], seconds: float
) -> None:
    """R-26: it can complete nothing, and neither fail; what comes of the invocation is what was asked for."""
    path = tmp_path / "durable.db"

    @handler(service="Liar", inactivity_timeout="2d")
    async def lie(ctx: Context) -> str:
        try:
            await ctx.sleep("1d")
        except BaseException:
            await _outlives(seconds)
            return str(ending())
        return "truth"

    async def story() -> None:
        async with engine_on(path, lie, echo) as engine:
            handle = await engine.send(lie)
            await asyncio.sleep(1)
            if how == "kill":
                await engine.kill(handle.id)
            elif how == "pause":
                await engine.pause(handle.id)
            elif how == "abort":
                loop = engine._loop
                assert loop is not None
                loop.attempts[1].abort()
            await asyncio.sleep(0 if how == "restart" else 2)
            view = await engine.describe(handle.id)
            assert view.status == {"kill": "completed", "pause": "paused"}.get(how, "running")
            assert view.failures == (1 if how == "abort" else 0)
        async with engine_on(path, lie, echo) as engine:
            await asyncio.sleep(2)
            view = await engine.describe(handle.id)
            assert journal(view) == ["sleep : open"]
            if how == "pause":
                assert view.status == "paused"
                await engine.resume(handle.id)
            if how == "kill":
                with pytest.raises(InvocationKilled):
                    await engine.attach(handle.id)
            else:
                assert await engine.attach(handle.id) == "truth"

    run(story)


@pytest.mark.parametrize("how", ["kill", "pause", "restart"])
def test_a_handler_that_never_gives_way_holds_nothing_up(
    tmp_path: Path, how: str, released: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """R-27: a loop that swallows everything; others are answered, the key of a killed one is free."""

    class Mule(VirtualObject):
        @handler
        async def stand(self, ctx: ObjectContext) -> None:
            while not released.is_set():
                with suppress(BaseException):
                    await ctx.sleep("1d")

        @handler
        async def go(self, ctx: ObjectContext) -> str:
            return "gone"

    async def story() -> None:
        path, loop = tmp_path / "durable.db", asyncio.get_running_loop()
        async with engine_on(path, Mule(), echo, inactivity_timeout="2d") as engine:
            handle = await engine.send(Mule.stand, key="k")
            await asyncio.sleep(1)
            if how == "kill":
                await engine.kill(handle.id)
                assert await asyncio.wait_for(engine.call(Mule.go, key="k"), 1) == "gone"
            elif how == "pause":
                await engine.pause(handle.id)
                await asyncio.sleep(1)
                assert (await engine.describe(handle.id)).status == "paused"
            assert await asyncio.wait_for(engine.call(echo, "still here"), 1) == "still here"
            before = loop.time()
        assert loop.time() - before <= 5.1, "R-32: shut down within 5 s"
        assert any("Mule/k/stand" in record.getMessage() for record in caplog.records)
        async with engine_on(path, Mule(), echo, inactivity_timeout="2d") as engine:
            await asyncio.sleep(1)
            view = await engine.describe(handle.id)
            assert view.status == {"kill": "completed", "pause": "paused"}.get(how, "running")
            assert journal(view) == ["sleep : open"]
        released.set()

    run(story)


@pytest.mark.parametrize("where", ["in its handler", "in a step", "in a step of a flow"])
def test_a_zombie_that_is_collected_as_garbage_disturbs_nobody(tmp_path: Path, where: str) -> None:
    """Its coroutine ends wherever garbage is collected: in the middle of another handler, in its context."""
    ended: list[str] = []

    async def for_ever() -> None:
        try:
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.get_running_loop().create_future()
        finally:
            ended.append(where)

    @handler(service="Left")
    async def left(ctx: Context) -> None:
        if where == "in its handler":
            await for_ever()
        elif where == "in a step":
            await ctx.run(for_ever)
        else:
            await gather(ctx.run(for_ever), ctx.sleep(1))

    @handler(service="Innocent")
    async def innocent(ctx: Context) -> str:
        async def step() -> str:
            gc.collect()
            return "undisturbed"

        gc.collect()
        await ctx.sleep(0.1)
        return await ctx.run(step)

    async def story() -> None:
        async with engine_on(tmp_path / "a.db", left) as engine:
            await engine.send(left)
            await asyncio.sleep(2)
        del engine
        async with engine_on(tmp_path / "b.db", innocent) as engine:
            assert await engine.call(innocent) == "undisturbed"

    gc.collect()
    gc.disable()
    try:
        run(story)
    finally:
        gc.enable()
    assert ended == [where]


class Haunted(VirtualObject):
    """Does its work in order; whenever it is told to end, it stays and tries everything else."""

    def __init__(self, sim: Sim, random: Random) -> None:
        self.sim = sim
        self.random = random

    @handler(retry=RetryPolicy(initial_interval="100ms", factor=1))
    async def live(self, ctx: ObjectContext) -> list[int]:
        try:
            return await self._work(ctx)
        except InvocationCancelled:
            raise
        except BaseException:
            while not self.sim.effects["over"]:
                self._try_something(ctx)
                with suppress(BaseException):
                    await asyncio.sleep(0.05)
            return [-1]

    async def _work(self, ctx: ObjectContext) -> list[int]:
        done = []
        for number in range(3):
            ctx.set("n", number)
            done.append(await ctx.run(self._step, number))
            await gather(ctx.run(self._step, number), ctx.sleep(0.3))
            ctx.send("Helper/help", f"helped {number}")
        return done

    async def _step(self, number: int) -> int:
        await asyncio.sleep(0.1)
        return number

    def _try_something(self, ctx: ObjectContext) -> None:
        name = self.random.choice(sorted(OPERATIONS))
        try:
            OPERATIONS[name](ctx)
        except BaseException:
            self.sim.effect("refused")
        else:
            self.sim.effect(f"accepted {name}")


async def _disturb(sim: Sim, id: str, random: Random) -> None:
    """One thing that ends an attempt, or lets the next one begin."""
    match random.choice(["pause", "pause", "resume", "resume", "resume", "restart", "crash", "abort", "kill"]):
        case "pause":
            await sim.repeat(lambda engine: engine.pause(id))
        case "resume":
            await sim.repeat(lambda engine: engine.resume(id))
        case "kill" if random.random() < 0.3:
            await sim.repeat(lambda engine: engine.kill(id))
        case "restart":
            await sim.restart()
        case "crash":
            await sim.restart(crash=True)
        case "abort":
            loop = sim.engine._loop
            assert loop is not None
            for attempt in list(loop.attempts.values()):
                if attempt.task is not None:
                    attempt.abort()


@pytest.mark.parametrize("hundred", range(10))
def test_at_whatever_moment_it_is_ended_a_zombie_can_do_nothing(hundred: int) -> None:
    """R-26, 1,000 random interleavings: nothing of any zombie is accepted, written, sent or executed."""
    haunted = 0
    for seed in range(hundred * 100, hundred * 100 + 100):
        try:
            haunted += _haunt(Random(seed)) > 0
        except BaseException as error:
            error.add_note(f"to rerun: _haunt(Random({seed}))")
            raise
    assert haunted > 50, "I10: most of the interleavings had a zombie"


def _haunt(random: Random) -> int:
    """One interleaving; returns how often a zombie was refused something."""

    @handler(service="Helper")
    async def help(ctx: Context, what: str) -> None: ...

    async def scenario(sim: Sim) -> None:
        try:
            await haunted(sim)
        finally:
            sim.effect("over")

    async def haunted(sim: Sim) -> None:
        handle = await sim.send(Haunted.live, key="k")
        for _ in range(random.randrange(1, 12)):
            await asyncio.sleep(random.choice([0, 0.05, 0.1, 0.13, 0.3]))
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)
            if await sim.status(handle.id) == "completed":
                break
            with suppress(ConflictError):
                await _disturb(sim, handle.id, random)
        await asyncio.sleep(1)
        if await sim.status(handle.id) == "paused":
            await sim.repeat(lambda engine: engine.resume(handle.id))
        try:
            assert await sim.result(handle.id) == [0, 1, 2]
            killed = False
        except InvocationKilled:
            killed = True
        await asyncio.sleep(1)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        kinds = ["set", "run", "run", "sleep", "send"] * 3
        found = [entry.kind for entry in view.journal if entry.kind not in ("input", "output")]
        assert found == kinds[: len(found)]
        assert killed or len(found) == len(kinds)
        assert (await sim.engine.get_state("Haunted", "k")).get("n") in ([0, 1, 2, None] if killed else [2])
        assert len(await sim.engine.invocations(service="Helper")) == found.count("send")
        assert await sim.engine.invocations(service="Echo") == []
        assert not [name for name in sim.effects if name.startswith("accepted")]

    _, sim = simulate(lambda sim: [Haunted(sim, random), help, echo], scenario)
    return sim.effects["refused"]


#: `python -c LEAVES PATH MARKER HOW`: its handler lives on after it was paused, and so does not end with the engine.
LEAVES = """
import asyncio, os, signal, sys
from contextlib import suppress
from durable import Context, Engine, handler

path, marker, how = sys.argv[1:]

def leave_a_mark():
    open(marker, "a").close()

@handler(service="Zombie")
async def live(ctx: Context) -> str:
    try:
        return await ctx.signal("go", str)
    except BaseException:
        while how != "come back":
            with suppress(BaseException):
                await asyncio.sleep(0.01)
            with suppress(BaseException):
                await ctx.run(leave_a_mark)
        return "made up"

async def main():
    async with Engine(path, services=[live], shutdown_timeout="300ms") as engine:
        handle = await engine.send(live, idempotency_key="one")
        if how == "come back":
            print((await handle.describe()).status)
            await engine.send_signal(handle.id, "go", "truth")
            await engine.resume(handle.id)
            print(await handle.result())
            return
        while not (await handle.describe()).journal[1:]:
            await asyncio.sleep(0.01)
        await engine.pause(handle.id)
        while (await handle.describe()).status != "paused":
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        if how == "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.1)
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.parametrize("how", ["leave", "be killed"])
def test_a_process_that_had_a_zombie_is_followed_by_one_that_knows_nothing_of_it(tmp_path: Path, how: str) -> None:
    """R-26: what was paused is paused still, and goes on properly when it is resumed."""

    def start(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LEAVES, str(tmp_path / "durable.db"), str(tmp_path / "marker"), how]
        return subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)

    first = start(how)
    assert first.returncode == (0 if how == "leave" else -signal.SIGKILL), first.stderr
    second = start("come back")
    assert second.stdout.split() == ["paused", "truth"], second.stderr
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_context_that_outlives_its_handler_is_refused(tmp_path: Path, operation: Callable[[Any], Any]) -> None:
    """Used from anywhere else, such as a task that was left behind, it raises an ordinary error."""
    kept: list[ObjectContext] = []

    class Leaky(VirtualObject):
        @handler
        async def leak(self, ctx: ObjectContext) -> None:
            kept.append(ctx)
            ctx.set("n", 1)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Leaky(), echo) as engine:
            await engine.call(Leaky.leak, key="k")
            with pytest.raises(NotInHandlerError):
                operation(kept[0])
            await asyncio.sleep(1)
            assert await engine.get_state("Leaky", "k") == {"n": 1}
            assert len(await engine.invocations()) == 1

    run(story)


def test_a_task_that_was_left_behind_may_not_use_the_context(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[BaseException] = []

    async def straggles(ctx: Context) -> None:
        await asyncio.sleep(1)
        try:
            await ctx.run(nothing_at_all)
        except BaseException as error:
            ended.append(error)

    tasks: list[asyncio.Task[None]] = []

    @handler(service="Left")
    async def leaves(ctx: Context) -> str:
        tasks.append(asyncio.create_task(straggles(ctx)))
        return "gone"

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", leaves) as engine:
            assert await engine.call(leaves) == "gone"
            await asyncio.sleep(2)
            (view,) = await engine.invocations()
            assert journal(await engine.describe(view.id)) == []

    run(story)
    assert [type(error) for error in ended] == [NotInHandlerError]
    assert complaints(caplog) == []


def test_the_context_of_another_invocation_is_refused(tmp_path: Path) -> None:
    """Its entries would land in a journal whose handler never asks for them again."""
    lent: list[Context] = []

    @handler(service="Lends")
    async def lends(ctx: Context) -> str:
        lent.append(ctx)
        await ctx.sleep(2)
        return "undisturbed"

    @handler(service="Borrows")
    async def borrows(ctx: Context) -> None:
        await ctx.sleep(0.5)
        await lent[0].run(nothing_at_all)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", lends, borrows) as engine:
            lender, borrower = await engine.send(lends), await engine.send(borrows)
            view = await settled(engine, borrower.id)
            assert view.status == "paused"
            assert view.last_failure is not None
            assert view.last_failure.type in ("UsageError", "NotInHandlerError")
            assert await lender.result() == "undisturbed"
            assert journal(await engine.describe(lender.id)) == ["sleep : success"]

    run(story)


@pytest.mark.parametrize("lender_waits", [True, False], ids=["while it waits", "after it was suspended"])
def test_a_future_of_another_invocation_is_refused(tmp_path: Path, lender_waits: bool) -> None:
    """Nothing in the borrower's journal would tell a replay when it came."""
    lent: list[Any] = []

    @handler(service="Lends", inactivity_timeout="1d" if lender_waits else 0)
    async def lends(ctx: Context) -> str:
        lent.append(ctx.sleep(3))
        await lent[-1]
        return "undisturbed"

    @handler(service="Borrows")
    async def borrows(ctx: Context) -> None:
        await ctx.sleep(0.5)
        await lent[0]

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", lends, borrows) as engine:
            lender, borrower = await engine.send(lends), await engine.send(borrows)
            view = await settled(engine, borrower.id)
            assert view.status == "paused"
            assert view.last_failure is not None
            assert view.last_failure.type in ("UsageError", "NotInHandlerError")
            assert await lender.result() == "undisturbed"

    run(story)


def test_futures_of_two_invocations_are_not_combined(tmp_path: Path) -> None:
    lent: list[Any] = []

    @handler(service="Lends")
    async def lends(ctx: Context) -> None:
        lent.append(ctx.sleep(2))
        await lent[-1]

    @handler(service="Borrows")
    async def borrows(ctx: Context) -> None:
        await gather(ctx.sleep(1), lent[0])

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", lends, borrows) as engine:
            lender = await engine.send(lends)
            await asyncio.sleep(0.1)
            view = await settled(engine, (await engine.send(borrows)).id)
            assert view.last_failure is not None
            assert view.last_failure.type == "UsageError"
            await lender.result()

    run(story)


# ---- async generators, and handlers that swallow ----


def test_a_handler_that_swallows_the_suspension_and_returns_is_replayed_all_the_same(tmp_path: Path) -> None:
    """A bare `except:` cannot make up a result: what it returns after its attempt has ended is not looked at."""

    @handler(service="Bare", inactivity_timeout=0)
    async def bare(ctx: Context) -> str:
        try:
            await ctx.sleep(1)
        except:  # noqa: E722
            return "made up"
        return "slept"

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", bare) as engine:
            assert await engine.call(bare) == "slept"

    run(story)


def test_a_handler_that_swallows_the_failure_of_a_step_is_retried_all_the_same(tmp_path: Path) -> None:
    """A step that is to be retried ends the attempt: the handler does not go on without its result."""
    tries: list[int] = []

    @handler(service="Bare")
    async def bare(ctx: Context) -> str:
        async def step() -> str:
            tries.append(ctx.request.attempt)
            if len(tries) < 3:
                raise ValueError("not yet")
            return "result"

        try:
            return await ctx.run(step)
        except:  # noqa: E722
            return "made up"

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", bare) as engine:
            assert await engine.call(bare) == "result"

    run(story)
    assert tries == [1, 2, 3]


def test_an_async_generator_in_a_handler_is_closed_when_the_attempt_ends(tmp_path: Path) -> None:
    closed: list[int] = []

    async def items(ctx: Context) -> AsyncIterator[int]:
        try:
            for number in range(3):
                await ctx.sleep(1)
                yield number
        finally:
            closed.append(ctx.request.attempt)

    @handler(service="Generates", inactivity_timeout=0)
    async def generates(ctx: Context) -> list[int]:
        return [item async for item in items(ctx)]

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", generates) as engine:
            assert await engine.call(generates) == [0, 1, 2]

    run(story)
    gc.collect()
    assert closed == [1, 2, 3, 4]
