"""R-12, R-26, R-27: handlers that do not yield, do not end, or use a context that is not theirs."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    NotInHandlerError,
    ObjectContext,
    RetryPolicy,
    VirtualObject,
    gather,
    handler,
)
from durable.testing import run
from tests.runtime.support import (
    UNKNOWN,
    complaints,
    echo,
    engine_on,
    journal,
    nothing_at_all,
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
            view = await settled(engine, poisoned.id, within=5)
            assert view.status == "paused"
            assert tries == [1, 2]
            assert view.last_failure is not None
            assert "abort timeout" in view.last_failure.message
            assert await asyncio.wait_for(engine.call(echo, "still here"), 1) == "still here"
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


@pytest.mark.parametrize("how", ["kill", "restart", "abort"])
def test_an_attempt_that_is_over_can_do_nothing_any_more(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R-26, R-27: from outside the kill is done at once; of the zombie nothing is written, and the log names it."""
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

    run(story)


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
