"""Whatever an exporter does, and where there is none, nothing else changes; and nothing is imported for it."""

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import durable
from durable import Context, Engine, UsageError, handler
from durable.telemetry import Traces, ending
from durable.testing import MemoryStore, run
from tests.telemetry.support import Spans


async def double(number: int) -> int:
    return 2 * number


@handler(service="Quiet")
async def quiet(ctx: Context, number: int) -> int:
    return await ctx.run(double, number)


class Hangs(SpanExporter):
    """As one does whose collector takes connections and answers nothing."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.go.wait(60)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.go.set()


class Raises(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError("no route to host")


class BadProcessor(SpanProcessor):
    """The SDK does not catch what these raise."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise OSError("at the start")

    def on_end(self, span: ReadableSpan) -> None:
        raise OSError("at the end")


class BadAtTheEnd(BadProcessor):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        pass


async def twenty(provider: TracerProvider) -> list[int]:
    async with Engine(services=[quiet], store=MemoryStore(), observer=Traces(provider)) as engine:
        return [await engine.call(quiet, number) for number in range(20)]


def test_one_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ending, "WAITING_MAX", 10)
    exporter, provider = Hangs(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    began = time.monotonic()
    assert asyncio.run(twenty(provider)) == [2 * number for number in range(20)]
    assert time.monotonic() - began < 30, "the exporter hangs for 60 s, with each span"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hangs or is too slow" in caplog.text
    exporter.go.set()


@pytest.mark.parametrize("processor", [SimpleSpanProcessor(Raises()), BadProcessor(), BadAtTheEnd()])
def test_one_that_raises_harms_nobody(processor: SpanProcessor) -> None:
    provider = TracerProvider()
    provider.add_span_processor(processor)
    assert asyncio.run(twenty(provider)) == [2 * number for number in range(20)]


def test_without_an_sdk_an_engine_can_be_told_to_trace() -> None:
    """The API alone makes spans that nobody sees, and passes on what comes in."""
    seen: list[str] = []
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @handler(service="Quiet")
    async def looks(ctx: Context) -> None:
        seen.append(ctx.request.headers.get("traceparent", ""))

    async def story() -> None:
        async with Engine(services=[looks], store=MemoryStore(), telemetry=True) as engine:
            await engine.call(looks)
            await engine.call(looks, headers={"traceparent": parent})

    asyncio.run(story())
    assert seen == ["", parent]


def test_what_is_neither_true_nor_false_is_refused() -> None:
    nonsense: Any = "yes"
    with pytest.raises(UsageError, match="telemetry"):
        asyncio.run(Engine(services=[quiet], store=MemoryStore(), telemetry=nonsense).start())


def test_without_a_provider_nobody_is_told_and_a_step_costs_not_one_call_more() -> None:
    """The API is there, as something that the application uses has brought it."""
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert calls_of_telemetry() == {}
    counted = calls_of_telemetry(observer=Traces(TracerProvider()))
    assert counted["telemetry/spans.py:Traces.step_started"] == 20, "calls are counted"


def calls_of_telemetry(**options: Any) -> Counter[str]:
    """How often each function that observes is called while an engine runs twenty steps."""
    counted: Counter[str] = Counter()
    ours = f"{Path(durable.__file__).parent}/"

    def called(frame: FrameType, event: str, about: Any) -> None:
        name = f"{frame.f_code.co_filename.removeprefix(ours)}:{frame.f_code.co_qualname}"
        if event == "call" and name.startswith(("telemetry/", "runtime/observer.py")):
            counted[name] += 1

    async def story() -> None:
        async with Engine(services=[quiet], store=MemoryStore(), **options) as engine:
            assert ("observer" in options) is (engine._running().observer is not None)
            before = sys.getprofile()
            sys.setprofile(called)
            try:
                for number in range(20):
                    await engine.call(quiet, number)
            finally:
                sys.setprofile(before)

    run(story)
    return counted


def test_spans_end_in_the_order_in_which_they_come_also_while_the_thread_comes_and_goes() -> None:
    spans = Spans()
    endings = ending.Endings()
    for number in range(300):
        endings.add(spans.tracer.start_span(str(number)), time.time_ns())
        if number % 7 == 0:
            assert endings.flush(60)
    assert endings.flush(60)
    assert [span.name for span in spans.all] == [str(number) for number in range(300)]


def python(program: str, *options: str) -> str:
    """What a program says in a process of its own."""
    done = subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


USED = """
import asyncio, sys
import durable
from durable.testing import MemoryStore

@durable.handler(service="Used")
async def used(ctx: durable.Context) -> int:
    return 1

async def main() -> int:
    async with durable.Engine(services=[used], store=MemoryStore()) as engine:
        return await engine.call(used)
"""


def test_importing_and_using_it_loads_nothing_of_opentelemetry() -> None:
    program = USED + "print(asyncio.run(main()), [name for name in sys.modules if name.startswith('opentelemetry')])"
    assert python(program).strip() == "1 []"


def test_without_the_api_nothing_breaks_and_asking_for_it_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None"
        + USED
        + """
print(asyncio.run(main()))
try:
    asyncio.run(durable.Engine(services=[used], store=MemoryStore(), telemetry=True).start())
except durable.UsageError as error:
    print(error)
"""
    )
    one, told = python(program).splitlines()
    assert (one, "durable-engine[telemetry]" in told) == ("1", True)


def test_where_a_provider_is_installed_nothing_else_is_needed(tmp_path: Path) -> None:
    program = (
        USED
        + """
from opentelemetry import trace
print(asyncio.run(main()))
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(
    SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + chr(10)))
)
print(asyncio.run(main()))
"""
    )
    assert python(program).splitlines() == [
        "1",
        "invocation-start Used/used",
        "invocation-attempt Used/used",
        "invocation-end Used/used",
        "1",
    ]
