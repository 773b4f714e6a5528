"""C-089: what a step changes in context variables never reaches its handler, live or replayed, however it is run."""

import asyncio
import decimal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from durable import Context, TerminalError, gather, handler
from durable.testing import Sim, check

TENANT = ContextVar("tenant", default="none")


def change() -> None:
    TENANT.set("the step's")
    decimal.getcontext().prec = 5


async def load() -> None:
    change()
    await asyncio.sleep(0)
    assert TENANT.get() == "the step's"  # it keeps them while it waits
    assert decimal.getcontext().prec == 5
    await asyncio.create_task(seen())


async def seen() -> tuple[str, int]:
    return TENANT.get(), decimal.getcontext().prec


def load_in_a_thread() -> None:
    change()


def load_in_both() -> Awaitable[None]:
    change()
    return load()


class Loader:
    async def __call__(self) -> None:
        await load()


async def fail() -> None:
    change()
    raise TerminalError("no such tenant")


async def never_again() -> None:
    try:
        await asyncio.sleep(0)
    finally:
        change()


async def left_behind(ctx: Context) -> None:
    one = ctx.run(load)
    await ctx.run(seen)
    await one


async def in_a_group(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(flow(ctx))
        group.create_task(flow(ctx))


async def flow(ctx: Context) -> None:
    await ctx.run(load)
    assert TENANT.get() == "the handler's"


async def failing(ctx: Context) -> None:
    with pytest.raises(TerminalError):
        await ctx.run(fail)


async def compensating(ctx: Context) -> None:
    with pytest.raises(TerminalError):
        async with ctx.saga() as saga:
            saga.add_compensation(load)
            raise TerminalError("undone")


async def combined(ctx: Context) -> None:
    await gather(ctx.run(load), ctx.run(load_in_a_thread))


async def combined_by_asyncio(ctx: Context) -> None:
    await asyncio.gather(ctx.run(load), ctx.run(load_in_a_thread))


WAYS: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "awaited": lambda ctx: ctx.run(load),
    "in a thread": lambda ctx: ctx.run(load_in_a_thread),
    "in a thread that gives a coroutine": lambda ctx: ctx.run(load_in_both),
    "of an object": lambda ctx: ctx.run(Loader()),
    "with a time limit": lambda ctx: ctx.with_options(timeout="5s").run(load),
    "open to interruption": lambda ctx: ctx.with_options(interruptible=True).run(load),
    "at its end": lambda ctx: ctx.run(never_again),
    "left behind": left_behind,
    "in a group": in_a_group,
    "failing": failing,
    "compensating": compensating,
    "combined": combined,
    "combined by asyncio": combined_by_asyncio,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_step_changes_stays_with_it_and_what_the_handler_sets_is_seen_by_its_steps(way: str) -> None:
    """Told in every mode: what a handler and its steps see does not depend on what was replayed."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def go(ctx: Context) -> list[tuple[str, int]]:
            found = [(TENANT.get(), decimal.getcontext().prec)]
            TENANT.set("the handler's")
            decimal.getcontext().prec = 11
            await WAYS[way](ctx)
            found.append(await seen())
            found.append(await ctx.run(seen))
            found.append(await ctx.run(seen_in_a_thread))
            await ctx.sleep("1s")
            found.append(await ctx.run(seen))
            return found

        return [go]

    async def scenario(sim: Sim) -> Any:
        return await sim.call("S/go")

    assert check(services, scenario) == [("none", 28), *[("the handler's", 11)] * 4]
    assert (TENANT.get(), decimal.getcontext().prec) == ("none", 28)


def seen_in_a_thread() -> tuple[str, int]:
    return TENANT.get(), decimal.getcontext().prec


def test_a_cancelled_step_cleans_up_with_its_own_variables() -> None:
    told: list[str] = []

    async def wait() -> None:
        TENANT.set("the step's")
        try:
            await asyncio.sleep(3600)
        finally:
            told.append(TENANT.get())

    async def waits(ctx: Context) -> None:
        await ctx.run(wait)

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def go(ctx: Context) -> str:
            with suppress(BaseExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(waits(ctx))
                    await ctx.sleep("1s")
                    raise TerminalError("enough")
            return TENANT.get()

        return [go]

    async def scenario(sim: Sim) -> Any:
        return await sim.call("S/go")

    assert check(services, scenario) == "none"
    assert told
    assert set(told) == {"the step's"}
