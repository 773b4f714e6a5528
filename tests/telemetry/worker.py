"""A process with an engine that tells a collector: `python -m tests.telemetry.worker DATABASE ENDPOINT MARKS`.

MARKS is a folder in which a step notes that it has run: each fails, or hangs, the first time only.
"""

import asyncio
import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from durable import Context, Engine, RetryPolicy, handler

marks = Path()


def is_first(name: str) -> bool:
    try:
        (marks / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def prepare() -> None:
    if is_first("prepare"):
        raise ConnectionError("once more")


def reserve() -> str:
    with trace.get_tracer("warehouse").start_as_current_span("SELECT stock"):
        return "reserved"


async def pack() -> None:
    if is_first("pack"):
        await asyncio.Event().wait()


@handler(service="Chain", retry=RetryPolicy(initial_interval="10ms"))
async def a(ctx: Context) -> str:
    await ctx.run(prepare)
    return await ctx.call(b)


@handler(service="Chain")
async def b(ctx: Context) -> str:
    ctx.send(c)
    stock = await ctx.run(reserve)
    await ctx.run(pack)
    return stock


@handler(service="Chain")
async def c(ctx: Context) -> None:
    pass


async def main(database: str, endpoint: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)
    async with Engine(database, services=[a, b, c], synchronous="NORMAL"):
        print("running", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    marks = Path(sys.argv[3])
    asyncio.run(main(sys.argv[1], sys.argv[2]))
