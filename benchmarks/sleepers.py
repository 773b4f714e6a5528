"""What do a hundred thousand sleeping invocations cost: in memory, and when the engine starts?"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.support import folder, in_flight, nothing
from benchmarks.table import Result
from durable import Context, Engine, handler

COUNT = 100_000


@handler(service="Sleepers")
async def sleeper(ctx: Context) -> None:
    """Sleeps for a day."""
    await ctx.sleep("1d")


def _rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def _fill(path: str) -> None:
    import gc

    async with Engine(path, services=[sleeper, nothing], inactivity_timeout=0) as engine:
        await in_flight(2_000, 500, lambda _: engine.send(sleeper))  # the first ones warm caches and the heap
        await asyncio.sleep(1)
        gc.collect()
        before = _rss()
        await in_flight(COUNT - 2_000, 500, lambda _: engine.send(sleeper))
        while await engine.invocations(status=["running", "ready"], limit=1):
            await asyncio.sleep(0.2)
        gc.collect()
        after = _rss()
        print(json.dumps({"bytes_each": (after - before) / (COUNT - 2_000)}))


async def _restart(path: str) -> None:
    started = time.perf_counter()
    async with Engine(path, services=[sleeper, nothing]) as engine:
        await engine.call(nothing, 1)
        print(json.dumps({"seconds": time.perf_counter() - started}))


def sleepers() -> list[Result]:
    """Each phase in a process of its own, so that the memory of one is not counted in the other."""
    with folder() as path:
        database = str(path / "sleepers.db")

        def phase(name: str) -> dict[str, float]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.sleepers", name, database],
                check=True,
                capture_output=True,
                text=True,
            )
            found: dict[str, float] = json.loads(done.stdout)
            return found

        memory = phase("fill")["bytes_each"] / 1024
        start = min(phase("restart")["seconds"] for _ in range(2))
    return [
        Result(f"memory of a sleeping invocation, {COUNT:,} of them", memory, "KiB", None, 1),
        Result(f"start with {COUNT:,} open invocations to the first new result", start, "s", None, 2),
    ]


if __name__ == "__main__":
    asyncio.run({"fill": _fill, "restart": _restart}[sys.argv[1]](sys.argv[2]))
