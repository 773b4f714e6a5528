"""How long does a replay take?"""

import asyncio
import time

from benchmarks.support import folder, step
from benchmarks.table import Result
from durable import Context, Engine, handler
from durable.core.ids import awakeable_id


def replay() -> list[Result]:
    """Wake a suspended handler that has 10, 1,000 or 10,000 steps behind it."""
    resumed: list[float] = []

    @handler(service="Replay", inactivity_timeout="100ms")
    async def sleeper(ctx: Context, count: int) -> int:
        for number in range(count):
            await ctx.run(step, number)
        await ctx.awakeable(str)
        resumed.append(time.perf_counter())
        return count

    async def measure(count: int) -> Result:
        with folder() as path:
            async with Engine(path / "bench.db", services=[sleeper]) as engine:
                times = []
                for _ in range(5 if count < 10_000 else 2):
                    handle = await engine.send(sleeper, count)
                    while (await handle.describe()).status != "suspended":
                        await asyncio.sleep(0.05)
                    waits = (await handle.describe()).journal[-1]
                    started = time.perf_counter()
                    await engine.resolve_awakeable(awakeable_id(handle.id, waits.entry), "go")
                    await handle.result()
                    times.append(resumed[-1] - started)
        return Result(f"wake a suspended handler with {count:,} steps behind it", sorted(times)[0] * 1e3, "ms")

    return [asyncio.run(measure(count)) for count in (10, 1_000, 10_000)]
