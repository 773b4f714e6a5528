"""What every benchmark needs: a fresh folder on a real disk, and handlers that do next to nothing."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from durable import Context, ObjectContext, VirtualObject, handler

SERVICE = "Bench"


@contextmanager
def folder() -> Iterator[Path]:
    """A folder beside the working directory: /tmp may be memory, and memory has no fsync."""
    path = Path(tempfile.mkdtemp(prefix=".bench-", dir="."))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def step(number: int) -> int:
    """The smallest step."""
    return number


@handler(service=SERVICE)
async def steps(ctx: Context, count: int) -> int:
    """So many sequential steps."""
    for number in range(count):
        await ctx.run(step, number)
    return count


@handler(service=SERVICE)
async def nothing(ctx: Context, number: int) -> int:
    """The smallest handler."""
    return number


@handler(service=SERVICE)
async def calls(ctx: Context, count: int) -> int:
    """So many sequential calls to another handler."""
    for number in range(count):
        await ctx.call(nothing, number)
    return count


class Counter(VirtualObject):
    """An object with one number."""

    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        """Read, add, write."""
        value = (await ctx.get("count", int) or 0) + amount
        ctx.set("count", value)
        return value


async def in_flight(count: int, width: int, work: Callable[[int], Awaitable[object]]) -> float:
    """Do `work` `count` times, `width` at a time; returns how many a second."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    started = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(width)])
    return count / (time.perf_counter() - started)
