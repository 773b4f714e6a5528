"""A saga undoes, newest first, what was registered: on a terminal error or a cancellation, and on nothing else."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from durable import (
    Context,
    InvocationCancelled,
    RetryPolicy,
    TerminalError,
    UsageError,
    gather,
    handler,
)
from durable.testing import Sim, check
from tests.scenarios.controls import CANCELLED, WHOEVER_ASKS, Asker, Canceller, cancel, once, order, sent, told, waits
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of


def test_a_terminal_error_undoes_in_reverse_order_and_goes_on() -> None:
    """The step that failed is undone too; the caller gets the original error, with its metadata."""

    def services(sim: Sim) -> Iterable[object]:
        async def book(what: str, *, seats: int) -> None:
            sim.effect(f"book {what} {seats}")
            if what == "car":
                raise TerminalError("no car left", 410, {"city": "Bonn"})

        def undo(what: str, *, seats: int) -> None:
            sim.effect(f"undo {what} {seats}")

        @handler(service="Trip")
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                for seats, what in enumerate(("flight", "hotel", "car", "insurance")):
                    saga.add_compensation(undo, what, seats=seats)
                    await ctx.run(book, what, seats=seats)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int, dict[str, str]]:
        error = await failure_of(sim.call("Trip/trip"))
        booked = ["flight 0", "hotel 1", "car 2"]
        assert order(sim) == [f"book {one}" for one in booked] + [f"undo {one}" for one in reversed(booked)]
        once(sim, *order(sim))
        return *told(error), error.metadata

    assert check(services, scenario) == ("TerminalError", "no car left", 410, {"city": "Bonn"})


@WHOEVER_ASKS
def test_a_cancellation_undoes_in_reverse_order_and_goes_on(asker: Asker) -> None:
    """C-059: three steps, each followed by its compensation; cancelled while the third call is awaited."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(what: str) -> None:
            sim.effect(what)

        @handler(service="Confirm")
        async def confirm(ctx: Context, what: str) -> None:
            if what == "car":
                await ctx.awakeable()

        @handler(service="Trip")
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                for what in ("flight", "hotel", "car"):
                    await ctx.run(act, f"book {what}")
                    saga.add_compensation(act, f"undo {what}")
                    await ctx.call(confirm, what)

        return [confirm, trip, Canceller()]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await waits(sim, (await sent(sim, "Confirm", 2)).id, "awakeable")
        await cancel(sim, handle.id, asker)
        error = await failure_of(sim.result(handle.id))
        assert order(sim) == ["book flight", "book hotel", "book car", "undo car", "undo hotel", "undo flight"]
        once(sim, *order(sim))
        return told(error)

    assert check(services, scenario) == CANCELLED


@pytest.mark.parametrize("how", ["returns", "returns early", "breaks off"])
def test_a_block_that_ends_well_undoes_nothing(how: str) -> None:
    """Also where the handler fails later, and where the cancel comes later."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            sim.effect("undone")

        async def book() -> str:
            return "booked"

        async def in_saga(ctx: Context) -> str:
            for _ in range(1):
                async with ctx.saga() as saga:
                    saga.add_compensation(undo)
                    booked = await ctx.run(book)
                    if how == "returns early":
                        return booked
                    if how == "breaks off":
                        break
            return "booked"

        @handler(service="Trip")
        async def trip(ctx: Context) -> None:
            assert await in_saga(ctx) == "booked"
            try:
                await ctx.sleep("1000d")
            except InvocationCancelled:
                raise TerminalError("too late", 422) from None

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await waits(sim, handle.id, "sleep")
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert not sim.effects
        return told(error)

    assert check(services, scenario) == ("TerminalError", "too late", 422)


@pytest.mark.parametrize("where", ["handler", "step", "group"])
def test_an_error_that_is_retried_undoes_nothing(where: str) -> None:
    """The attempt has failed, the invocation has not: it is tried again, and succeeds."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            sim.effect("undone")

        async def fail() -> None:
            if sim.effect("tries") < 3:
                raise RuntimeError("not yet")

        @handler(service="Trip", retry=RetryPolicy(initial_interval="1m"))
        async def trip(ctx: Context) -> str:
            async with ctx.saga() as saga:
                saga.add_compensation(undo)
                match where:
                    case "handler":
                        await fail()
                    case "step":
                        await ctx.run(fail)
                    case _:
                        try:
                            await fail()
                        except RuntimeError as error:
                            raise ExceptionGroup("one may be retried", [TerminalError("no"), error]) from None
            return "booked"

        return [trip]

    async def scenario(sim: Sim) -> str:
        result: str = await sim.call("Trip/trip")
        assert "undone" not in sim.effects
        return result

    assert check(services, scenario) == "booked"


def test_an_error_that_is_caught_inside_the_block_undoes_nothing() -> None:
    """It is the end of the block that counts."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            sim.effect("undone")

        async def refuse() -> None:
            raise TerminalError("no", 403)

        @handler(service="Trip")
        async def trip(ctx: Context) -> str:
            async with ctx.saga() as saga:
                saga.add_compensation(undo)
                refusal = await failure_of(ctx.run(refuse))
                try:
                    await ctx.sleep("1000d")
                except InvocationCancelled:
                    return f"{refusal}, cancelled, went anyway"
            return "not cancelled"

        return [trip]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Trip/trip")
        await waits(sim, handle.id, "sleep")
        await cancel(sim, handle.id)
        result: str = await sim.result(handle.id)
        assert not sim.effects
        return result

    assert check(services, scenario) == "no, cancelled, went anyway"


def test_a_group_of_terminal_errors_undoes_once() -> None:
    """What a TaskGroup or several flows end with counts as terminal when all of it is."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(what: str) -> None:
            sim.effect(what)

        @handler(service="Flow")
        async def refuse(ctx: Context) -> None:
            raise TerminalError("no", 403)

        @handler(service="Trip")
        async def trip(ctx: Context) -> str:
            async def flow() -> None:
                await ctx.call(refuse)

            try:
                async with ctx.saga() as saga:
                    saga.add_compensation(act, "undo a")
                    saga.add_compensation(act, "undo b")
                    async with asyncio.TaskGroup() as group:
                        group.create_task(flow())
                        group.create_task(flow())
            except* TerminalError:
                pass
            await ctx.sleep("1s")
            return "undone"

        return [refuse, trip]

    async def scenario(sim: Sim) -> str:
        result: str = await sim.call("Trip/trip")
        assert order(sim) == ["undo b", "undo a"]
        once(sim, "undo a", "undo b")
        return result

    assert check(services, scenario) == "undone"


def test_sagas_in_sagas_undo_from_the_inside_out() -> None:
    """Each undoes its own, when its own block ends; one that had ended well before is not undone."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(what: str) -> None:
            sim.effect(what)

        @handler(service="Trip")
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as outer:
                outer.add_compensation(act, "undo outer 1")
                async with ctx.saga() as well:
                    well.add_compensation(act, "undo what went well")
                    await ctx.run(act, "went well")
                async with ctx.saga() as inner:
                    inner.add_compensation(act, "undo inner 1")
                    outer.add_compensation(act, "undo outer 2")
                    inner.add_compensation(act, "undo inner 2")
                    await ctx.sleep("1000d")

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await waits(sim, handle.id, "sleep")
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert order(sim, "undo") == ["undo inner 2", "undo inner 1", "undo outer 2", "undo outer 1"]
        once(sim, *order(sim))
        return told(error)

    assert check(services, scenario) == CANCELLED


def test_the_handler_can_catch_what_its_saga_ended_with_and_go_on() -> None:
    """Design 4.2: one cancel is one exception; after the unwinding the context works as before."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(what: str) -> str:
            sim.effect(what)
            return what

        @handler(service="Trip")
        async def trip(ctx: Context) -> list[Any]:
            try:
                async with ctx.saga() as saga:
                    saga.add_compensation(act, "undo")
                    await ctx.sleep("1000d")
            except InvocationCancelled:
                await ctx.sleep("1h")
                return list(await gather(ctx.run(act, "instead"), ctx.run(act, "as well")))
            return []

        return [trip]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Trip/trip")
        await waits(sim, handle.id, "sleep")
        await cancel(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        once(sim, "undo", "instead", "as well")
        return result

    assert check(services, scenario) == ["instead", "as well"]


def test_a_restart_in_the_block_or_in_the_unwinding_undoes_nothing_early_and_nothing_twice() -> None:
    """I2: suspended, restarted and crashed while it waits and while it undoes."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(what: str) -> None:
            sim.effect(f"undo {what}")
            if what == "b" and sim.effects["repaired"] == 0:
                raise RuntimeError("not yet")

        @handler(service="Trip", retry=RetryPolicy(initial_interval="1d", max_interval="1d"))
        async def trip(ctx: Context) -> None:
            async with ctx.saga() as saga:
                for what in "abc":
                    saga.add_compensation(undo, what)
                await ctx.signal("go wrong")
                raise TerminalError("went wrong", 422)

        return [trip]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Trip/trip")
        await waits(sim, handle.id, "signal")
        for crash in (True, False):
            await sim.restart(crash=crash)
            await asyncio.sleep(3600)
        assert not sim.effects
        await sim.repeat(lambda engine: engine.send_signal(handle.id, "go wrong"))
        await reaches(sim, handle.id, "backing-off")
        done = sim.effects["undo c"]
        sim.effect("repaired")
        for crash in (True, False):
            await sim.restart(crash=crash)
            await asyncio.sleep(3600)
        error = await failure_of(sim.result(handle.id))
        assert sim.effects["undo c"] == done
        assert order(sim, "undo") == ["undo c", "undo b", "undo a"]
        return told(error)

    assert check(services, scenario, most=15) == ("TerminalError", "went wrong", 422)


def test_a_compensation_is_registered_inside_the_block() -> None:
    """Outside, nothing would ever run it, so it is refused."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            sim.effect("undone")

        @handler(service="Trip")
        async def trip(ctx: Context) -> str:
            saga = ctx.saga()
            with pytest.raises(UsageError, match="async with"):
                saga.add_compensation(undo)
            async with saga:
                pass
            with pytest.raises(UsageError, match="async with"):
                saga.with_options(name="late").add_compensation(undo)
            return "refused twice"

        return [trip]

    async def scenario(sim: Sim) -> str:
        result: str = await sim.call("Trip/trip")
        return result

    assert check(services, scenario) == "refused twice"
