"""One cancel is one exception, whoever asks for it; a second one interrupts again."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import (
    Applied,
    ConflictError,
    Context,
    InvocationCancelled,
    ObjectContext,
    SharedObjectContext,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.testing import Sim, check
from tests.scenarios.controls import (
    CANCELLED,
    WHOEVER_ASKS,
    Asker,
    Canceller,
    cancel,
    cancels,
    once,
    order,
    sent,
    told,
    waits,
)
from tests.scenarios.support import failure_of, state_of


class Runner(VirtualObject):
    """Notes in its state how its call ended."""

    @handler
    async def run(self, ctx: ObjectContext, on: str) -> str:
        try:
            await ctx.call(Blocker.block, on, key=ctx.key)
        except TerminalError as error:
            ctx.set("code", error.code)
        return "completed"

    @handler(shared=True)
    async def code(self, ctx: SharedObjectContext) -> int | None:
        return await ctx.get("code", int)


class Blocker(VirtualObject):
    """Passes the gate, and then waits for something that never comes."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def block(self, ctx: ObjectContext, on: str) -> None:
        await ctx.run(self._arrive)
        match on:
            case "call":
                await ctx.call(Blocker.block, on, key=ctx.key)
            case "sleep":
                await ctx.sleep("1024 days")
            case "awakeable":
                await ctx.awakeable()

    async def _arrive(self) -> None:
        self.sim.effect("arrived")

    @handler
    async def is_free(self, ctx: ObjectContext) -> bool:
        return True


@WHOEVER_ASKS
@pytest.mark.parametrize("on", ["call", "sleep", "awakeable"])
def test_a_cancelled_runner_learns_it_from_its_call_and_the_key_it_blocked_is_free(on: str, asker: Asker) -> None:
    """C-055 (a) (b) (c): a call to itself, a sleep of 1,024 days, an awakeable. C-056: the same from a handler."""

    async def scenario(sim: Sim) -> tuple[str, int, bool]:
        runner = await sim.send(Runner.run, on, key="k")
        blocker = await sent(sim, "Blocker")
        await waits(sim, blocker.id, on)
        since_ms = sim.clock.now_ms()
        await cancel(sim, runner.id, asker)
        result = await sim.result(runner.id)
        assert sim.clock.now_ms() - since_ms < 60_000
        once(sim, "arrived")
        return result, await state_of(sim, "Runner", "k", "code"), await sim.call(Blocker.is_free, key="k")

    def services(sim: Sim) -> Iterable[object]:
        return [Runner(), Blocker(sim), Canceller()]

    assert check(services, scenario) == ("completed", 409, True)


# ---- one cancel is one exception ----


def test_a_hand_written_compensation_runs_in_reverse_and_the_error_goes_on() -> None:
    """C-059: three runs, each followed by its compensation; cancelled while the third call is awaited."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> str:
            sim.effect(name)
            return name

        @handler(service="Confirm")
        async def confirm(ctx: Context, name: str) -> None:
            if name == "car":
                await ctx.awakeable()

        @handler(service="Trip")
        async def book(ctx: Context) -> None:
            done: list[str] = []
            try:
                for name in ("flight", "hotel", "car"):
                    await ctx.run(act, f"book {name}")
                    done.append(name)
                    await ctx.call(confirm, name)
            except TerminalError:
                for name in reversed(done):
                    await ctx.run(act, f"undo {name}")
                raise

        return [confirm, book, Canceller()]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/book")
        third = await sent(sim, "Confirm", 2)
        await waits(sim, third.id, "awakeable")
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert order(sim) == ["book flight", "book hotel", "book car", "undo car", "undo hotel", "undo flight"]
        once(sim, *order(sim))
        return told(error)

    assert check(services, scenario) == CANCELLED


@WHOEVER_ASKS
def test_a_handler_that_ignores_its_cancellation_succeeds(asker: Asker) -> None:
    """C-060: it catches the error, goes on with the context as before, and returns."""

    def services(sim: Sim) -> Iterable[object]:
        async def finish() -> str:
            sim.effect("finish")
            return "finished anyway"

        @handler(service="Stubborn")
        async def work(ctx: Context) -> str:
            try:
                await ctx.sleep("1d")
            except TerminalError:
                await ctx.sleep("1h")
            return await ctx.run(finish)

        return [work, Canceller()]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Stubborn/work")
        await waits(sim, handle.id, "sleep")
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id, asker)
        result: str = await sim.result(handle.id)
        assert 3_600_000 <= sim.clock.now_ms() - since_ms < 3_660_000
        once(sim, "finish")
        return result

    assert check(services, scenario) == "finished anyway"


@WHOEVER_ASKS
def test_a_second_cancel_interrupts_again(asker: Asker) -> None:
    """Design 4.2: the first interrupts the work, the second the compensation, the third what comes after it."""

    def services(sim: Sim) -> Iterable[object]:
        async def note(name: str) -> None:
            sim.effect(name)

        @handler(service="Patient")
        async def work(ctx: Context) -> list[str]:
            interrupted = []
            for name in ("work", "compensation", "farewell"):
                try:
                    await ctx.run(note, name)
                    await ctx.sleep("1d")
                except InvocationCancelled:
                    interrupted.append(name)
            return interrupted

        return [work, Canceller()]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Patient/work")
        for number, name in enumerate(("work", "compensation", "farewell"), 1):
            await sim.until(lambda name=name: sim.effects[name] > 0)  # type: ignore[misc]
            await asyncio.sleep(60)
            await cancel(sim, handle.id, asker)
            await sim.until(lambda number=number: cancels(sim, handle.id) >= number)  # type: ignore[misc]
        result: list[str] = await sim.result(handle.id)
        once(sim, "work", "compensation", "farewell")
        return result

    assert check(services, scenario) == ["work", "compensation", "farewell"]


def test_a_second_cancel_at_the_same_time_is_harmless() -> None:
    """C-058: both are accepted; a handler that catches neither ends as cancelled."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Asleep")
        async def work(ctx: Context) -> None:
            await ctx.sleep("1d")

        return [work]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Asleep/work")
        await waits(sim, handle.id, "sleep")

        async def ask() -> Applied | None:
            crashes = sim.log.crashes
            try:
                return await sim.repeat(lambda engine: engine.cancel(handle.id))
            except ConflictError:
                assert sim.log.crashes > crashes
                return None

        answers = list(await asyncio.gather(ask(), ask()))
        assert sim.interruptions or answers == [Applied.ACCEPTED, Applied.ACCEPTED]
        return told(await failure_of(sim.result(handle.id)))

    assert check(services, scenario) == CANCELLED


def test_a_handler_can_cancel_itself() -> None:
    """Design 4.1: it is told at the next operation that would start or wait."""

    def services(sim: Sim) -> Iterable[object]:
        async def never() -> None:
            sim.effect("never")

        @handler(service="Tired")
        async def work(ctx: Context) -> str:
            ctx.cancel(ctx.request.id)
            try:
                await ctx.sleep("1h")
                await ctx.run(never)
            except InvocationCancelled:
                await ctx.sleep("1s")
                return "stopped itself"
            return "went on"

        return [work]

    async def scenario(sim: Sim) -> str:
        since_ms = sim.clock.now_ms()
        result: str = await sim.call("Tired/work")
        assert sim.clock.now_ms() - since_ms < 60_000
        assert not sim.effects
        return result

    assert check(services, scenario) == "stopped itself"
