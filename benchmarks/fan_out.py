"""What does each of many cost, and for how long does the event loop stand still meanwhile?"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.support import folder, nothing, step
from benchmarks.table import Result
from durable import Context, DurableFuture, Engine, as_completed, gather, handler, select, wait_completed
from durable.core.ids import awakeable_id

FEW, MANY = 1_000, 10_000
DRAIN = "wait_completed one by one"
#: For how long the event loop may stand still, besides what the handler needs to ask for its futures.
STALL_MS = 50
Futures = Sequence[DurableFuture[int]]


async def _each(futures: Futures) -> int:
    return sum([await future async for future in as_completed(futures)])


async def _drained(futures: Futures) -> int:
    total, left = 0, list(futures)
    while left:
        [done], left = await wait_completed(*left)
        total += await done
    return total


async def _selected(futures: Futures) -> int:
    await select(**{f"f{place}": future for place, future in enumerate(futures)})
    return sum(await gather(*futures))


async def _gathered(futures: Futures) -> int:
    return sum(await gather(*futures))


async def _by_asyncio(futures: Futures) -> int:
    return sum(await asyncio.gather(*futures))


HOW: dict[str, Callable[[Futures], Awaitable[int]]] = {
    "gather": _gathered,
    "asyncio.gather": _by_asyncio,
    "as_completed": _each,
    DRAIN: _drained,
    "select": _selected,
}


class _Fan:
    """A handler that does many things at once, and when its own code asked for them: once in each attempt."""

    def __init__(self) -> None:
        self.asking: list[tuple[float, float]] = []
        self.done = asyncio.Event()

        @handler(service="FanOut", inactivity_timeout="1h")
        async def fan(ctx: Context, arg: tuple[str, str, int, bool]) -> int:
            how, what, count, stay = arg
            began = time.perf_counter()
            futures = [ctx.run(step, one) if what == "steps" else ctx.call(nothing, one) for one in range(count)]
            self.asking.append((began, time.perf_counter()))
            total = await HOW[how](futures)
            if stay:
                self.done.set()
                await ctx.signal("on", str)
            return total

        self.handler = fan


class _Watch:
    """For how long the event loop stood still, each time."""

    def __init__(self) -> None:
        self.stalls: list[tuple[float, float]] = []

    async def __call__(self) -> None:
        while True:
            before = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            self.stalls.append((before, time.perf_counter()))

    def longest_s(self, but_for: Sequence[tuple[float, float]] = ()) -> float:
        """The longest, where what lies between these moments is not counted."""
        return max(
            end - start - sum(max(0.0, min(end, ended) - max(start, began)) for began, ended in but_for)
            for start, end in self.stalls
        )


async def _measure(path: Path, how: str, what: str, count: int) -> tuple[float, float, float, float]:
    """Processor time of each in µs, and the longest stall besides the handler's own in s: live, and replayed."""
    fan, watch = _Fan(), _Watch()
    async with Engine(path / f"{how}-{what}-{count}.db", services=[fan.handler, nothing]) as engine:
        await engine.call(fan.handler, (how, what, 10, False))
        watching = asyncio.create_task(watch())
        gc.collect()
        gc.freeze()
        began = time.process_time()
        handle = await engine.send(fan.handler, (how, what, count, True))
        await fan.done.wait()
        live = time.process_time() - began
        longest = watch.longest_s(fan.asking)
        await engine.pause(handle.id)
        while (await handle.describe()).status != "paused":
            await asyncio.sleep(0.02)
        await engine.send_signal(handle.id, "on", "go")
        watch.stalls.clear()
        began = time.process_time()
        await engine.resume(handle.id)
        assert await handle.result() == count * (count - 1) // 2
        replayed = time.process_time() - began
        again = watch.longest_s(fan.asking)
        watching.cancel()
        gc.unfreeze()
    return live / count * 1e6, replayed / count * 1e6, longest, again


async def _bare() -> float:
    """The longest stall, in s, where as many tasks wait for a future each, and nothing of ours is there."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[int]] = []

    async def wait() -> int:
        futures.append(loop.create_future())
        return await futures[-1]

    watch = _Watch()
    watching = asyncio.create_task(watch())
    gc.collect()
    gc.freeze()
    await asyncio.sleep(0.01)
    gathered = asyncio.gather(*(wait() for _ in range(MANY)))
    await asyncio.sleep(0.01)
    for future in futures:
        future.set_result(1)
    assert sum(await gathered) == MANY
    gc.unfreeze()
    watching.cancel()
    return watch.longest_s()


def fan_out() -> list[Result]:
    """Ten thousand steps or calls at once: is one of them dearer than one of a thousand?"""
    results = []
    with folder() as path:
        for how in HOW:
            for what in ("steps", "calls"):
                few = [asyncio.run(_measure(_made(path), how, what, FEW)) for _ in range(3)]
                live, replayed, longest, again = asyncio.run(_measure(_made(path), how, what, MANY))
                floors = [min(one[place] for one in few) for place in (0, 1)]
                name = f"{how} over {MANY:,} {what}"
                most = 4 if how == DRAIN else 2  # that one hands lists of all the others to and fro
                results.append(Result(f"{name}, each (floor: of {FEW:,})", live, "us", floors[0], most))
                results.append(Result(f"{name}, each in a replay", replayed, "us", floors[1], most))
                stall = f"{name}, the longest stall besides the handler's own"
                results.append(Result(stall, longest * 1000, "ms", None, STALL_MS))
                results.append(Result(f"{stall}, in a replay", again * 1000, "ms", None, STALL_MS))
    bare = min(asyncio.run(_bare()) for _ in range(3))
    results.append(
        Result(f"(asyncio.gather over {MANY:,} tasks of nothing durable, the longest stall)", bare * 1000, "ms")
    )
    return results


_places = iter(range(1_000_000))


def _made(path: Path) -> Path:
    here = path / str(next(_places))
    here.mkdir()
    return here


async def _trickle(path: Path, count: int, arrivals: int) -> float:
    @handler(service="FanOut", inactivity_timeout=0)
    async def waits(ctx: Context, number: int) -> int:
        return len(await gather(*(ctx.awakeable(str) for _ in range(number))))

    async with Engine(path / "trickle.db", services=[waits]) as engine:
        handle = await engine.send(waits, count)
        while (await handle.describe()).status != "suspended":
            await asyncio.sleep(0.05)
        began = time.perf_counter()
        for number in range(1, arrivals + 1):
            await engine.resolve_awakeable(awakeable_id(handle.id, number), "here")
        return (time.perf_counter() - began) / arrivals * 1000


def arrivals() -> list[Result]:
    """A suspended handler waits for many things, which come one by one: what does the arrival of one cost?"""
    with folder() as path:
        few = min(asyncio.run(_trickle(_made(path), 10, 9)) for _ in range(3))
        found = asyncio.run(_trickle(_made(path), MANY, 300))
    return [Result(f"one of {MANY:,} that a suspended handler waits for arrives (floor: of 10)", found, "ms", few, 5)]
