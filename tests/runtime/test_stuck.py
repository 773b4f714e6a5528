"""R-37: code that waits for something else than its journal has next is told so when it comes to rest, not later."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import Context, Engine, InvocationView, handler
from durable.runtime.flows import all_wait
from tests.runtime.support import settled

ran: list[str] = []


async def work(name: str) -> str:
    ran.append(name)
    return name


async def before(ctx: Context) -> None:
    """What the journal records: two entries, of which the second has its outcome."""
    confirmed = ctx.awakeable(str)
    await ctx.run(work, "old")
    await confirmed
    await ctx.run(work, "last")


async def waits(ctx: Context) -> None:
    await ctx.awakeable(str)
    await ctx.run(work, "new")


async def waits_in_a_flow(ctx: Context) -> None:
    await asyncio.gather(waits(ctx))


async def waits_in_a_group(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits(ctx))


async def waits_beside_another_that_goes_on(ctx: Context) -> None:
    async def other() -> None:
        await asyncio.sleep(0.2)
        await ctx.run(work, "old")

    confirmed = ctx.awakeable(str)
    await asyncio.gather(other(), confirmed)


async def waits_after_something_else(ctx: Context) -> None:
    confirmed = ctx.awakeable(str)
    task = asyncio.create_task(later(ctx))
    await confirmed
    await task


async def later(ctx: Context) -> None:
    await asyncio.sleep(0.2)
    await ctx.run(work, "old")


async def then(path: Path, way: Any) -> InvocationView:
    """It waits behind its two entries, its process ends, and the next one has other code."""
    ran.clear()

    @handler(service="S", name="go")
    async def old(ctx: Context) -> None:
        await before(ctx)

    @handler(service="S", name="go", inactivity_timeout="1h")
    async def new(ctx: Context) -> None:
        await way(ctx)

    async with Engine(path, services=[old]) as engine:
        id = (await engine.send("S/go")).id
        while len((await engine.describe(id)).journal) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    async with Engine(path, services=[new]) as engine:
        await engine.resume(id)
        if way in (waits, waits_in_a_flow, waits_in_a_group):
            return await settled(engine, id)
        await asyncio.sleep(0.5)
        return await engine.describe(id)


@pytest.mark.parametrize("way", [waits, waits_in_a_flow, waits_in_a_group])
def test_it_is_paused_at_once(way: Any, tmp_path: Path) -> None:
    view = asyncio.run(then(tmp_path / "db", way))
    assert view.status == "paused"
    assert view.last_failure is not None
    assert view.last_failure.reason == "journal-mismatch"
    assert "entry 2: the journal has `run work`" in view.last_failure.message
    assert ran == ["old"]


@pytest.mark.parametrize("way", [waits_beside_another_that_goes_on, waits_after_something_else])
def test_where_something_else_of_it_goes_on_it_has_its_time(way: Any, tmp_path: Path) -> None:
    view = asyncio.run(then(tmp_path / "db", way))
    assert view.status != "paused", view.last_failure
    assert ran == ["old"]


def test_timers_and_tasks_of_others_do_not_count() -> None:
    async def story() -> None:
        asyncio.create_task(asyncio.sleep(100))  # noqa: RUF006
        assert all_wait(object(), [asyncio.current_task()], asyncio.get_running_loop())

    asyncio.run(story())
