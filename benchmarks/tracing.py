"""What do traces cost: steps without an SDK, with one that exports in batches, and what that takes for itself?

What is measured ends when every span has been handed to the SDK's exporter queue, however late they were made.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.support import SERVICE, folder
from benchmarks.table import Result
from durable import Context, Engine, handler
from durable.telemetry import Traces

PAIRS = 5
#: What each step does around its work: nothing, or make a span by hand.
_around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext


async def traced(number: int) -> int:
    """The smallest step, or the smallest with a span in it."""
    with _around():
        return number


@handler(service=SERVICE)
async def traced_steps(ctx: Context, count: int) -> int:
    """So many sequential steps."""
    for number in range(count):
        await ctx.run(traced, number)
    return count


async def _seconds(path: Path, traces: Traces | None, handlers: int, count: int) -> float:
    async with Engine(path / "bench.db", services=[traced_steps], observer=traces, telemetry=False) as engine:
        started = time.perf_counter()
        await asyncio.gather(*[engine.call(traced_steps, count) for _ in range(handlers)])
        if traces is not None:
            assert traces.flush(60)
        return time.perf_counter() - started


def traces() -> list[Result]:
    """In turn, so that all see the same machine; the median of the ratios."""
    global _around
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    class Counts(SpanExporter):
        def __init__(self) -> None:
            self.spans = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.spans += len(spans)
            return SpanExportResult.SUCCESS

    exporter, provider = Counts(), TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000))
    tracer = provider.get_tracer("by hand")
    unsampled = TracerProvider(sampler=ParentBased(ALWAYS_OFF))

    def measured(traces: Traces | None, handlers: int, count: int) -> float:
        with folder() as path:
            return asyncio.run(_seconds(path, traces, handlers, count))

    one: list[tuple[float, float]] = []
    many: list[tuple[float, float]] = []
    by_hand: list[tuple[float, float]] = []
    dropped: list[tuple[float, float]] = []
    for _ in range(PAIRS):
        one.append((measured(Traces(provider), 1, 600), measured(None, 1, 600)))
        bare = measured(None, 100, 100)
        many.append((measured(Traces(provider), 100, 100), bare))
        dropped.append((measured(Traces(unsampled), 100, 100), bare))
        _around = lambda: tracer.start_as_current_span("by hand")  # noqa: E731
        by_hand.append((measured(None, 100, 100), bare))
        _around = contextlib.nullcontext
    provider.shutdown()
    assert exporter.spans >= PAIRS * 20_000, "nothing was dropped"
    ours, alone = _middle(one)
    results = [
        Result("one sequential step with traces (floor: without)", 1e6 * ours / 600, "us", 1e6 * alone / 600, 1.25)
    ]
    ours, alone = _middle(many)
    question = "steps/s, 100 handlers, with traces (floor: without)"
    results.append(Result(question, 10_000 / ours, "/s", 10_000 / alone, 0.8, "higher"))
    ours, alone = _middle(by_hand)
    results.append(Result("(a span of the SDK's own in each instead)", 10_000 / ours, "/s", 10_000 / alone))
    ours, alone = _middle(dropped)
    results.append(Result("steps/s, traces that are not sampled (same floor)", 10_000 / ours, "/s", 10_000 / alone))
    return results


def _middle(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
