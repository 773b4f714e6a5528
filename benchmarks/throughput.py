"""How many steps, invocations, object calls and child calls a second?"""

import asyncio
import itertools
import time
from pathlib import Path

from benchmarks import floor
from benchmarks.support import Counter, calls, folder, in_flight, nothing, step, steps
from benchmarks.table import Result
from durable import Context, Engine, handler


async def _steps(path: Path, handlers: int, count: int) -> float:
    async with Engine(path / "bench.db", services=[steps]) as engine:
        started = time.perf_counter()
        await asyncio.gather(*[engine.call(steps, count) for _ in range(handlers)])
        return handlers * count / (time.perf_counter() - started)


def sequential_step() -> list[Result]:
    """One handler, one step after the other: the latency of a durable step."""
    rounds = []
    for _ in range(5):
        with folder() as path:
            rounds.append((1e6 / asyncio.run(_steps(path, 1, 600)), 1e6 / floor.one_row(path)))
    ours, bare = sorted(rounds, key=lambda one: one[0] / one[1])[2]
    return [Result("one sequential step (floor: one-row commit), median of 5", ours, "us", bare, 2.2)]


def concurrent_steps() -> list[Result]:
    """Steps a second, with more and more handlers at once."""
    results = []
    for handlers, count, target in ((10, 400, None), (100, 300, 0.30), (1000, 40, None)):
        with folder() as path:
            bare = floor.hundred_rows(path)
            ours = asyncio.run(_steps(path, handlers, count))
            results.append(Result(f"steps/s, {handlers} handlers", ours, "/s", bare, target, "higher"))
    with folder() as path:
        results.append(Result("(a table without any key, 100 rows a commit)", floor.append(path), "/s"))
    return results


def invocations() -> list[Result]:
    """Completed invocations a second, 500 in flight."""

    async def call(path: Path) -> float:
        async with Engine(path / "bench.db", services=[nothing]) as engine:
            return await in_flight(20_000, 500, lambda number: engine.call(nothing, number))

    async def send(path: Path) -> float:
        async with Engine(path / "bench.db", services=[nothing]) as engine:

            async def one(number: int) -> None:
                await (await engine.send(nothing, number)).result()

            return await in_flight(10_000, 500, one)

    results = []
    for name, measure, target in (("call", call, 0.10), ("send, then attach", send, None)):
        with folder() as path:
            bare = floor.hundred_rows(path)
            ours = asyncio.run(measure(path))
            question = f"completed invocations/s, 500 in flight, {name}"
            results.append(Result(question, ours, "/s", bare, target, "higher"))
    return results


def objects() -> list[Result]:
    """An object counter: one key, whose handlers run one by one, and a hundred keys."""

    async def measure(path: Path, keys: int, count: int) -> float:
        async with Engine(path / "bench.db", services=[Counter()]) as engine:
            return await in_flight(count, 200, lambda number: engine.call(Counter.add, 1, key=f"key-{number % keys}"))

    results = []
    for keys, count in ((1, 1_500), (100, 10_000)):
        with folder() as path:
            bare = floor.one_row(path) if keys == 1 else floor.hundred_rows(path)
            ours = asyncio.run(measure(path, keys, count))
        kind = "one-row" if keys == 1 else "100-row"
        results.append(Result(f"counter.add/s, {keys} key(s) (floor: {kind})", ours, "/s", bare, None, "higher"))
    return results


def child_calls() -> list[Result]:
    """A handler calling another, 100 handlers at once."""

    async def measure(path: Path) -> float:
        async with Engine(path / "bench.db", services=[calls, nothing]) as engine:
            started = time.perf_counter()
            await asyncio.gather(*[engine.call(calls, 60) for _ in range(100)])
            return 100 * 60 / (time.perf_counter() - started)

    with folder() as path:
        bare = floor.hundred_rows(path)
        return [Result("calls from handler to handler/s, 100 handlers", asyncio.run(measure(path)), "/s", bare)]


def long_journal() -> list[Result]:
    """Is a step dearer when ten thousand stand before it?"""
    marks: list[float] = []

    @handler(service="Long")
    async def many(ctx: Context, count: int) -> int:
        for number in range(count):
            if number % 100 == 0:
                marks.append(time.perf_counter())
            await ctx.run(step, number)
        marks.append(time.perf_counter())
        return count

    async def measure(path: Path) -> list[Result]:
        # other handlers keep the disk's rhythm the same, so that only the journal's length differs
        async with Engine(path / "bench.db", services=[many, steps]) as engine:
            others = asyncio.gather(*[engine.call(steps, 11_000) for _ in range(20)])
            await engine.call(many, 10_000)
            others.cancel()
            await asyncio.gather(others, return_exceptions=True)
        blocks = [later - earlier for earlier, later in itertools.pairwise(marks)]
        first, last = sorted(blocks[:20])[10], sorted(blocks[-20:])[10]
        return [
            Result("step 10,000 of a journal (floor: one of the first)", last * 1e4, "us", first * 1e4, 1.3),
        ]

    with folder() as path:
        return asyncio.run(measure(path))
