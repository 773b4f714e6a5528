"""R-33: an event loop that is not asyncio's own. It does not show its queue, nor what it runs."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from durable import Context, Engine, gather, handler
from tests.runtime.support import complaints

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def quick(number: int) -> int:
    return number


def plain(number: int) -> int:
    time.sleep(0.001)
    return number


@handler(service="U", inactivity_timeout=0)
async def work(ctx: Context, number: int) -> int:
    """Steps beside each other and in threads, flows, and an unloading at each wait."""
    both = ctx.run(quick, number), ctx.run(plain, number)
    await ctx.sleep(0.02)

    async def flow(part: int) -> int:
        await ctx.sleep(0.01)
        return await ctx.run(quick, part)

    async with asyncio.TaskGroup() as group:
        flows = [group.create_task(flow(part)) for part in range(3)]
    return sum(await gather(*both)) + sum(flow.result() for flow in flows)


@handler(service="U")
async def blocks(ctx: Context) -> None:
    await ctx.run(time.sleep, 60)


def test_one_engine_has_several_lives_on_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closed or left; with a step in a thread that outlives them all."""
    engine = Engine(tmp_path / "a.db", services=[work, blocks], shutdown_timeout=0.2, synchronous="NORMAL")

    async def closed() -> None:
        async with engine:
            results = await asyncio.gather(*(engine.call(work, number) for number in range(30)))
            assert results == [2 * number + 3 for number in range(30)]
            await engine.send(blocks)

    async def left() -> str:
        await engine.start()
        await engine.send(blocks)
        handle = await engine.send(work, 1)
        await asyncio.sleep(0.05)
        return handle.id

    async def again(id: str) -> None:
        async with engine:
            assert await engine.attach(id) == 5
            assert (await engine.describe(id)).failures == 0

    run(closed())
    run(again(run(left())))
    asyncio.run(closed())
    run(closed())
    assert complaints(caplog) == []
