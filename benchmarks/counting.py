"""What do metrics cost: steps that nobody counts, that are counted for Prometheus, and for OpenTelemetry's SDK."""

import asyncio
import time
from pathlib import Path

from benchmarks.support import SERVICE, folder
from benchmarks.table import Result
from durable import Context, Engine, handler
from durable.telemetry.instruments import Instruments
from durable.telemetry.metrics import Metrics

PAIRS = 5


async def counted(number: int) -> int:
    """The smallest step."""
    return number


@handler(service=SERVICE)
async def counted_steps(ctx: Context, count: int) -> int:
    """So many sequential steps."""
    for number in range(count):
        await ctx.run(counted, number)
    return count


async def _seconds(path: Path, metrics: Metrics | None) -> float:
    async with Engine(path / "bench.db", services=[counted_steps], observer=metrics) as engine:
        started = time.perf_counter()
        await asyncio.gather(*[engine.call(counted_steps, 100) for _ in range(100)])
        return time.perf_counter() - started


def metrics() -> list[Result]:
    """In turn, so that all see the same machine; the median of the ratios."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    def measured(metrics: Metrics | None) -> float:
        with folder() as path:
            return asyncio.run(_seconds(path, metrics))

    def exported() -> Metrics:
        made, reader = Metrics(), InMemoryMetricReader()
        Instruments(made, MeterProvider([reader], shutdown_on_exit=False), "bench.db")
        return made

    pairs: dict[str, list[tuple[float, float]]] = {
        "counted (floor: not)": [],
        "through OpenTelemetry (same floor)": [],
    }
    for _ in range(PAIRS):
        alone = measured(None)
        for named, made in zip(pairs, (Metrics(), exported()), strict=True):
            pairs[named].append((measured(made), alone))
    return [_row(named, found) for named, found in pairs.items()]


def _row(named: str, pairs: list[tuple[float, float]]) -> Result:
    ours, alone = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    return Result(f"steps/s, 100 handlers, {named}", 10_000 / ours, "/s", 10_000 / alone, 0.8, "higher")
