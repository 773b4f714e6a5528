"""How soon does a waiting handler go on, when the engine has nothing else to do?"""

import asyncio
import time
from datetime import datetime

from benchmarks.support import folder
from benchmarks.table import Result
from durable import Awakeable, Context, Engine, handler

ROUNDS = 40


def _p50(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def wakeups() -> list[Result]:
    """A sleep that is due and an awakeable that is resolved; the handler in memory, and suspended."""
    went_on: list[float] = []
    ids: asyncio.Queue[str]

    async def sleeping(ctx: Context) -> None:
        asked: datetime = ctx.now()
        await ctx.sleep("50ms")
        went_on.append(time.time() - asked.timestamp() - 0.05)

    async def waiting(ctx: Context) -> None:
        awakeable: Awakeable[float] = ctx.awakeable(float)
        ids.put_nowait(awakeable.id)
        resolved_at = await awakeable
        went_on.append(time.perf_counter() - resolved_at)

    async def measure(inactivity: str) -> tuple[float, float]:
        nonlocal ids
        ids = asyncio.Queue()
        sleeper = handler(service="Wake", name="sleeper")(sleeping)
        waiter = handler(service="Wake", name="waiter")(waiting)
        with folder() as path:
            async with Engine(path / "bench.db", services=[sleeper, waiter], inactivity_timeout=inactivity) as engine:
                went_on.clear()
                for _ in range(ROUNDS):
                    await engine.call(sleeper)
                slept = _p50(went_on)
                went_on.clear()
                for _ in range(ROUNDS):
                    handle = await engine.send(waiter)
                    id = await ids.get()
                    await asyncio.sleep(0.02)
                    while not ids.empty():
                        ids.get_nowait()
                    await engine.resolve_awakeable(id, time.perf_counter())
                    await handle.result()
                    while not ids.empty():
                        ids.get_nowait()
                return slept * 1e3, _p50(went_on) * 1e3

    results = []
    for name, inactivity in (("in memory", "1m"), ("suspended", "0s")):
        slept, woken = asyncio.run(measure(inactivity))
        results += [
            Result(f"wake-up of a due sleep, {name}, p50", slept, "ms", None, 5),
            Result(f"wake-up of a resolved awakeable, {name}, p50", woken, "ms", None, 5),
        ]
    return results
