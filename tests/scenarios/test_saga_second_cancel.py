"""A cancel during the unwinding: what runs finishes, what waits for its retry is given up, nothing is forgotten."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import Context, InvocationCancelled, RetryPolicy, TerminalError, handler
from durable.testing import Sim, check
from tests.scenarios.controls import CANCELLED, WHOEVER_ASKS, Asker, Canceller, cancel, once, order, told, waits
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of

ONE_DAY = RetryPolicy(initial_interval="1d", max_interval="1d")
NO_VISA = ("TerminalError", "no visa", 403)

#: What the block ends with, before the cancel that comes during the unwinding.
ORIGINALS = {"terminal error": NO_VISA, "cancellation": CANCELLED}
WHATEVER_IT_WAS = pytest.mark.parametrize("original", ORIGINALS)


async def go_wrong(ctx: Context, original: str) -> None:
    if original == "cancellation":
        await ctx.awakeable()
    raise TerminalError("no visa", 403)


async def begin(sim: Sim, original: str) -> str:
    """A trip that goes wrong; its id."""
    handle = await sim.send("Trip/trip", original)
    if original == "cancellation":
        await waits(sim, handle.id, "awakeable")
        await cancel(sim, handle.id)
    return str(handle.id)


@WHATEVER_IT_WAS
@pytest.mark.parametrize("which", ["newest", "middle", "oldest"])
def test_a_compensation_that_runs_finishes_and_the_others_follow(which: str, original: str) -> None:
    """I2: the second cancel interrupts nothing; the outcome is the original error."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")
            if what == which:
                await asyncio.sleep(2)
            sim.effect(f"undone {what}")

        @handler(service="Trip")
        async def trip(ctx: Context, original: str) -> None:
            async with ctx.saga() as saga:
                for what in ("oldest", "middle", "newest"):
                    saga.add_compensation(undo, what)
                await go_wrong(ctx, original)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        id = await begin(sim, original)
        await sim.until(lambda: sim.effects[f"undo {which}"] > 0)
        since_ms = sim.clock.now_ms()
        await cancel(sim, id)
        error = await failure_of(sim.result(id))
        assert sim.clock.now_ms() - since_ms < 60_000
        assert order(sim) == [
            f"{beat} {what}" for what in ("newest", "middle", "oldest") for beat in ("undo", "undone")
        ]
        once(sim, *order(sim))
        return told(error)

    assert check(services, scenario) == ORIGINALS[original]


@WHOEVER_ASKS
@pytest.mark.parametrize("retry", [None, ONE_DAY], ids=["by the handler's policy", "by its own"])
def test_one_that_waits_for_its_retry_is_given_up_and_the_others_follow(
    retry: RetryPolicy | None, asker: Asker
) -> None:
    """It counts as failed, which a note on the original error tells; at once, and without another try."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")

        async def undo_hotel() -> None:
            sim.effect("undo hotel")
            raise RuntimeError("the hotel does not answer")

        @handler(service="Trip", retry=ONE_DAY)
        async def trip(ctx: Context) -> None:
            try:
                async with ctx.saga() as saga:
                    saga.add_compensation(undo, "flight")
                    saga.add_compensation(undo, "train")
                    saga.with_options(retry=retry).add_compensation(undo_hotel)
                    saga.add_compensation(undo, "car")
                    raise TerminalError("no visa", 403)
            except TerminalError as error:
                sim.effect(f"ended with {told(error)}: {error.__notes__}")
                raise

        return [trip, Canceller()]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await reaches(sim, handle.id, "backing-off")
        tries = sim.effects["undo hotel"]
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id, asker)
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - since_ms < 60_000
        assert sim.effects["undo hotel"] == tries
        assert order(sim, "undo") == ["undo car", "undo hotel", "undo train", "undo flight"]
        once(sim, "undo car", "undo train", "undo flight")
        (ended,) = order(sim, "ended")
        assert "undo_hotel" in ended
        return told(error)

    assert check(services, scenario) == NO_VISA


def test_each_that_waits_for_its_retry_takes_a_cancel_of_its_own() -> None:
    """All of three hang; three cancels free them, one after the other; the block's error comes out."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")
            raise RuntimeError(f"{what} does not answer")

        @handler(service="Trip", retry=ONE_DAY)
        async def trip(ctx: Context, original: str) -> None:
            try:
                async with ctx.saga() as saga:
                    for what in ("flight", "hotel", "car"):
                        saga.add_compensation(undo, what)
                    await go_wrong(ctx, original)
            except TerminalError as error:
                sim.effect(f"{len(error.__notes__)} notes")
                raise

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        id = await begin(sim, "cancellation")
        for what in ("car", "hotel", "flight"):
            await sim.until(lambda what=what: sim.effects[f"undo {what}"] > 0)  # type: ignore[misc]
            await reaches(sim, id, "backing-off")
            await asyncio.sleep(3600)
            await cancel(sim, id)
        error = await failure_of(sim.result(id))
        assert order(sim) == ["undo car", "undo hotel", "undo flight", "3 notes"]
        once(sim, "undo car", "undo hotel", "undo flight")
        return told(error)

    assert check(services, scenario) == CANCELLED


def test_the_tries_of_one_that_was_given_up_are_not_counted_against_the_next() -> None:
    """Each compensation has all the tries of its own policy."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo_car() -> None:
            sim.effect("undo car")
            raise RuntimeError("the car does not answer")

        async def undo_hotel() -> None:
            if sim.effect("undo hotel") < 3:
                raise RuntimeError("the hotel does not answer yet")
            sim.effect("hotel undone")

        @handler(service="Trip", retry=RetryPolicy(max_attempts=1, on_max_attempts="kill"))
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                retry = RetryPolicy(initial_interval="2s", factor=1, max_attempts=3)
                saga.with_options(retry=retry).add_compensation(undo_hotel)
                saga.with_options(retry=retry).add_compensation(undo_car)
                raise TerminalError("no visa", 403)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")

        async def twice() -> bool:
            return (await sim.engine.describe(handle.id)).failures == 2

        await sim.until(twice)
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert sim.effects["hotel undone"] >= 1
        assert 2 <= sim.effects["undo car"] <= 2 + sim.log.crashes
        return told(error)

    assert check(services, scenario) == NO_VISA


@WHATEVER_IT_WAS
@pytest.mark.parametrize("cancels", [2, 3, 5])
def test_cancels_that_come_before_the_unwinding_lose_no_compensation(cancels: int, original: str) -> None:
    """Several at the same moment; every compensation is tried, once, in its order."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")

        async def work() -> None:
            sim.effect("work")
            await asyncio.sleep(2)
            if original == "terminal error":
                raise TerminalError("no visa", 403)

        @handler(service="Trip")
        async def trip(ctx: Context, original: str) -> None:
            async with ctx.saga() as saga:
                for what in "abc":
                    saga.add_compensation(undo, what)
                await ctx.run(work)
                await ctx.sleep("1000d")

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip", original)
        await sim.until(lambda: sim.effects["work"] > 0)
        for _ in range(cancels):
            if await sim.status(handle.id) != "completed":
                await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert order(sim, "undo") == ["undo c", "undo b", "undo a"]
        once(sim, "undo a", "undo b", "undo c")
        if sim.log.crashes:  # the step may be lost with the engine: then the cancel is what the block ends with
            assert told(error) in (CANCELLED, NO_VISA)
            return ORIGINALS[original]
        return told(error)

    assert check(services, scenario) == ORIGINALS[original]


@pytest.mark.parametrize("wait", ["sleep", "call"])
def test_a_compensation_written_by_hand_is_interrupted_where_it_waits(wait: str) -> None:
    """Design 4.2: a second cancel interrupts again; the saga around it still undoes what is its own."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(what)

        @handler(service="Refund")
        async def refund(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "refund taken back")
                await ctx.sleep("1000d")

        @handler(service="Trip")
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "seat given back")
                try:
                    await ctx.awakeable()
                except InvocationCancelled:
                    await ctx.run(undo, "by hand")
                    await (ctx.sleep("1000d") if wait == "sleep" else ctx.call(refund))

        return [trip, refund]

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], list[str]]:
        handle = await sim.send("Trip/trip")
        await waits(sim, handle.id, "awakeable")
        await cancel(sim, handle.id)
        await waits(sim, handle.id, wait)
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        once(sim, *order(sim))
        return told(error), order(sim)

    taken_back = [] if wait == "sleep" else ["refund taken back"]
    assert check(services, scenario) == (CANCELLED, ["by hand", *taken_back, "seat given back"])
