"""What do crowds cost: deep calls, many that fail at once, a long backlog, a burst of sends?"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.support import folder, in_flight, nothing
from benchmarks.table import Result
from durable import Context, Engine, RetryPolicy, handler

FAILING, BACKLOG, BURST = 5_000, 60_000, 1_000_000


@handler(service="Crowds")
async def deep(ctx: Context, levels: int) -> int:
    """Calls itself, so many levels deep."""
    return 1 + await ctx.call(deep, levels - 1) if levels > 1 else 1


async def _recursion(path: Path, levels: int, slots: int) -> float:
    async with Engine(path / f"{levels}-{slots}.db", services=[deep], max_concurrent_invocations=slots) as engine:
        await engine.call(deep, 10)
        started = time.process_time()
        assert await engine.call(deep, levels) == levels
        return (time.process_time() - started) / levels * 1000


def recursion() -> list[Result]:
    """A service that calls itself: is a level dearer where there are more of them than slots?"""
    with folder() as path:
        flat = sorted(asyncio.run(_recursion(path / str(number), 100, 1000)) for number in _made(path, 5))[2]
        results = [Result("a level of a recursion, 100 deep (processor time)", flat, "ms")]
        for slots in (1000, 100):
            here = path / f"deep-{slots}"
            here.mkdir()
            found = asyncio.run(_recursion(here, 3000, slots))
            results.append(Result(f"the same, 3,000 deep, {slots} slots (floor: 100 deep)", found, "ms", flat, 1.2))
    return results


def _made(path: Path, count: int) -> list[int]:
    for number in range(count):
        (path / str(number)).mkdir()
    return list(range(count))


async def _failing(path: Path) -> list[float]:
    gate = asyncio.Event()

    @handler(service="Crowds", retry=RetryPolicy(initial_interval="1h"))
    async def fails(ctx: Context) -> None:
        await gate.wait()
        raise ValueError("all of them at once")

    options = {"max_concurrent_invocations": 2 * FAILING}
    async with Engine(path / "failing.db", services=[fails, nothing], **options) as engine:  # type: ignore[arg-type]
        await in_flight(FAILING, 500, lambda _: engine.send(fails))
        delays: list[float] = []
        ended = False

        async def innocent() -> None:
            while not ended:
                started = time.perf_counter()
                await engine.call(nothing, 1)
                delays.append(time.perf_counter() - started)

        innocents = [asyncio.create_task(innocent()) for _ in range(10)]
        await asyncio.sleep(0.2)
        delays.clear()
        gate.set()
        while await engine.invocations(status="running", service="Crowds", limit=1):
            await asyncio.sleep(0.1)
        ended = True
        await asyncio.gather(*innocents)
        return sorted(delays)


def failing() -> list[Result]:
    """Thousands of handlers fail at the same moment: how long does an innocent call wait?"""
    with folder() as path:
        delays = asyncio.run(_failing(path))
    p99 = delays[int(len(delays) * 0.99)] * 1000
    question = f"an innocent call while {FAILING:,} handlers fail at once, p99"
    return [Result(question, p99, "ms"), Result("the longest of them", delays[-1] * 1000, "ms")]


async def _backlog(path: Path) -> tuple[float, float]:
    gate = asyncio.Event()

    @handler(service="Crowds")
    async def waits(ctx: Context) -> None:
        await gate.wait()

    async with Engine(path / "backlog.db", services=[waits]) as engine:
        await in_flight(BACKLOG, 500, lambda _: engine.send(waits))
        gate.set()
        started = before = time.perf_counter()
        longest = 0.0
        while await engine.invocations(status=["running", "ready"], limit=1):
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
        return BACKLOG / (time.perf_counter() - started), longest


def backlog() -> list[Result]:
    """Many more wait than there are slots: how fast do they go, and does everything else stand still?"""
    with folder() as path:
        rate, longest = asyncio.run(_backlog(path))
    return [
        Result(f"a backlog of {BACKLOG:,} drained, invocations", rate, "/s", None, None, "higher"),
        Result("the longest that a read had to wait meanwhile", longest * 1000, "ms"),
    ]


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def _burst(path: str, count: int) -> None:
    gate = asyncio.Event()

    @handler(service="Crowds")
    async def waits(ctx: Context) -> None:
        await gate.wait()

    async def bare(number: int) -> int:
        await gate.wait()
        return number

    async with Engine(path, services=[waits], synchronous="NORMAL") as engine:
        await in_flight(5_000, 500, lambda _: engine.send(waits))
        gc.collect()
        before, most = _rss(), 0

        async def send(_: int) -> None:
            nonlocal most
            await engine.send(waits)
            most = max(most, _rss())

        await in_flight(count, 20_000, send)
        print(json.dumps({"most": most - before}))


def burst() -> list[Result]:
    """A million sends, tens of thousands at a time: how much more memory does the process take?"""
    with folder() as path:
        command = [sys.executable, "-m", "benchmarks.crowds", str(path / "burst.db"), str(BURST)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    most: float = json.loads(done.stdout)["most"] / 2**20
    return [Result(f"memory of a burst of {BURST:,} sends, 20,000 at a time", most, "MiB")]


if __name__ == "__main__":
    asyncio.run(_burst(sys.argv[1], int(sys.argv[2])))
