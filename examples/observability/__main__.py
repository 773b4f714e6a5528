"""What happened to this order? Its trace and the engine's metrics, in a terminal.

    python -m examples.observability

The trace is one, although the engine is restarted in its middle. A real program's exporter tells a collector
(`OTLPSpanExporter`, see docs/telemetry.md); this one's keeps the spans, to draw them. The engine finds the tracer
provider by itself. The metrics are what Prometheus reads at `/metrics` of the admin API (docs/metrics.md).
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from durable import Context, Engine, RetryPolicy, handler

#: Of the metrics, which are shown here.
SHOWN = ("durable_invocations_completed", "durable_attempts", "durable_step_duration_seconds_count")
tracer = trace.get_tracer("shop")
calls_of_the_bank = 0


async def charge(order: str) -> str:
    """A flaky bank. What a step does inside, HTTP or SQL that is instrumented, nests below the step."""
    global calls_of_the_bank
    calls_of_the_bank += 1
    with tracer.start_as_current_span("POST bank.example/charges"):
        if calls_of_the_bank == 1:
            raise ConnectionError("the bank hung up")
        return f"payment for {order}"


def reserve(order: str) -> None:
    """A plain function runs in a thread; the trace follows it there."""
    with tracer.start_as_current_span("UPDATE stock"):
        pass


@handler(service="Shop", inactivity_timeout=0, retry=RetryPolicy(initial_interval="50ms"))
async def order(ctx: Context, order: str) -> str:
    """Charge, wait, reserve, and have a mail sent."""
    payment = await ctx.run(charge, order)
    await ctx.sleep("500ms")  # meanwhile the engine is restarted
    await ctx.call(ship, order)
    ctx.send(mail, order)  # a trace of its own, linked to this one
    return payment


@handler(service="Shop")
async def ship(ctx: Context, order: str) -> None:
    """Called by `order`, in its trace."""
    await ctx.run(reserve, order)


@handler(service="Shop")
async def mail(ctx: Context, order: str) -> None:
    """Sent by `order`: nobody waits for it."""


async def main(path: Path) -> str:
    """Accept an order in one life of the engine, and end it in the next; returns that one's metrics."""
    services = [order, ship, mail]
    async with Engine(path, services=services) as engine:
        with tracer.start_as_current_span("POST /orders"):
            handle = await engine.send(order, "order-1")
        await asyncio.sleep(0.2)
    async with Engine(path, services=services) as engine:
        engine.metrics()  # from the first question on it counts; an admin app asks it when it is made
        await engine.attach(handle.id)
        await asyncio.sleep(0.2)
        return engine.metrics()


def draw(spans: Sequence[ReadableSpan]) -> None:
    """Each trace as a tree, in the order of time."""
    below: dict[int | None, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda one: one.start_time or 0):
        below.setdefault(span.parent.span_id if span.parent is not None else None, []).append(span)

    def line(span: ReadableSpan, indent: str) -> None:
        took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
        said = span.attributes or {}
        outcome = said.get("durable.attempt.outcome") or said.get("durable.invocation.result") or ""
        linked = " (linked to the trace above)" if span.links else ""
        print(f"{took:8.1f} ms  {indent}{span.name} {outcome}{linked}".rstrip())
        for child in below.get(span.context.span_id if span.context else None, ()):
            line(child, indent + "   ")

    for root in below[None]:
        line(root, "")


if __name__ == "__main__":
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with tempfile.TemporaryDirectory() as folder:
        metrics = asyncio.run(main(Path(folder) / "shop.db"))
    draw(exporter.get_finished_spans())
    print(*[line for line in metrics.splitlines() if line.startswith(SHOWN)], sep="\n")
    print("one order, one trace, two lives of the engine")
