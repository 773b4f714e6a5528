"""Spans of steps are made when somebody looks, or afterwards: nobody can tell, but for the time that it takes."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context as OtelContext
from opentelemetry.context import attach, create_key, detach, get_current, get_value, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased, Sampler, SamplingResult, StaticSampler
from opentelemetry.trace import INVALID_SPAN, get_current_span, set_span_in_context

from durable import Context, Engine, handler
from durable.telemetry.lazy import LOOKS, LazySpan
from tests.telemetry.support import Spans, attributes, context

TELLS_NOTHING = {
    *("__class_getitem__", "__delitem__", "__init__", "__ior__", "__new__", "__setitem__", "__sizeof__", "clear"),
    *("fromkeys", "pop", "popitem", "setdefault", "update", "__getattribute__", "__hash__"),
    *("__lt__", "__le__", "__gt__", "__ge__"),  # which no dict knows
}


@pytest.fixture
def spans() -> Spans:
    return Spans()


def a_lazy_span(spans: Spans, parent: OtelContext | None = None) -> LazySpan:
    return LazySpan(spans.tracer.start_span, "lazy", OtelContext() if parent is None else parent, {"a": 1}, 1000)


def test_whatever_is_asked_of_the_context_finds_the_span() -> None:
    assert set(vars(dict)) - {"__doc__", "__getstate__"} - TELLS_NOTHING == LOOKS, "all that tells what is in a dict"
    spans, key = Spans(), create_key("key")
    around = set_value(key, "value", OtelContext())
    [span_key] = set_span_in_context(INVALID_SPAN, OtelContext())
    questions: list[Any] = [
        lambda one: get_current_span(one),
        lambda one: one[span_key],
        lambda one: dict(one)[span_key],
        lambda one: {**one}[span_key],
        lambda one: one.copy()[span_key],
        lambda one: dict(one.items())[span_key],
        lambda one: (one | {})[span_key],
        lambda one: ({} | one)[span_key],
        lambda one: next(value for value in one.values() if value != "value"),
        lambda one: get_current_span(set_value("more", 1, one)),
    ]
    for question in questions:
        lazy = a_lazy_span(spans, around)
        found = question(lazy)
        assert isinstance(found, ReadableSpan), "as everywhere else where the SDK is"
        assert (found.start_time, attributes(found)) == (1000, {"a": 1})
        assert context(found) == lazy.span.get_span_context()
        assert get_value(key, lazy) == "value"
    lazy, other = a_lazy_span(spans, around), a_lazy_span(spans, around)
    assert list(lazy) == list(lazy.keys()) == [key, span_key]
    assert list(reversed(lazy)) == [span_key, key]
    assert (len(lazy), span_key in lazy, "x" in lazy) == (2, True, False)
    assert lazy == dict(lazy)
    assert dict(lazy) == lazy
    assert lazy != other
    assert "lazy" in repr(lazy)


def test_one_that_nobody_looks_at_is_made_when_it_ends(spans: Spans) -> None:
    a_lazy_span(spans).end(3000)
    [span] = spans.all
    assert (span.name, span.start_time, span.end_time) == ("lazy", 1000, 3000)


def test_threads_that_look_at_the_same_time_find_the_same_span(spans: Spans) -> None:
    together = threading.Barrier(8)

    def look(lazy: LazySpan) -> int:
        together.wait(60)
        return get_current_span(lazy).get_span_context().span_id

    with ThreadPoolExecutor(8) as threads:
        for _ in range(50):
            lazy = a_lazy_span(spans)
            assert len(set(threads.map(look, [lazy] * 8))) == 1


def test_a_sampler_that_looks_at_the_current_span_sees_that_of_the_handler() -> None:
    seen: list[trace.Span] = []

    class Looks(StaticSampler):
        def should_sample(self, *about: Any, **named: Any) -> SamplingResult:
            seen.append(get_current_span())
            return super().should_sample(*about, **named)

    tracer = TracerProvider(sampler=Looks(Decision.RECORD_AND_SAMPLE)).get_tracer("test")
    outer = tracer.start_span("outer")
    lazy = LazySpan(tracer.start_span, "lazy", set_span_in_context(outer, OtelContext()), {}, 1)
    token = attach(lazy)
    inner = get_current_span()
    detach(token)
    assert seen[1] is outer and inner is not outer
    assert inner is lazy.span


def test_a_step_that_looks_finds_a_span_that_can_be_told_things(spans: Spans) -> None:
    left: list[asyncio.Task[int]] = []
    seen: dict[str, Any] = {}
    before = time.time_ns()

    async def after_a_while() -> int:
        await asyncio.sleep(5)
        return get_current_span().get_span_context().span_id

    async def looks() -> None:
        await asyncio.sleep(1)
        get_current_span().set_attribute("mine", 1)
        get_current_span().add_event("seen")
        seen["headers"] = {}
        propagate.inject(seen["headers"])

    async def leaves() -> None:
        left.append(asyncio.ensure_future(after_a_while()))

    @handler(service="Lazy")
    async def work(ctx: Context) -> None:
        await ctx.run(looks)
        await ctx.run(leaves)

    async def story(engine: Engine) -> None:
        await engine.call(work)
        await left[0]

    assert spans.tell(story, [work])[2:4] == ["    run looks", "    run leaves"]
    looked = spans.one("run looks")
    assert (attributes(looked)["mine"], [event.name for event in looked.events]) == (1, ["seen"])
    assert looked.start_time is not None and before <= looked.start_time < looked.events[0].timestamp
    assert f"{context(looked).span_id:016x}" in seen["headers"]["traceparent"]
    assert left[0].result() == context(spans.one("run leaves")).span_id, "also when that has long been told of"


def test_a_step_says_which_invocation_it_is_of_in_all_the_names_that_people_look_for(spans: Spans) -> None:
    async def one() -> None:
        pass

    @handler(service="Lazy")
    async def work(ctx: Context) -> None:
        await ctx.run(one)

    async def story(engine: Engine) -> None:
        await engine.call(work)

    spans.tell(story, [work])
    said, start = attributes(spans.one("run one")), attributes(spans.one("invocation-start Lazy/work"))
    id, target = start["durable.invocation.id"], "Lazy/work"
    assert said == {
        "durable.invocation.id": id,
        "durable.invocation.target": target,
        "durable.run.name": "one",
        "restate.invocation.id": id,
        "restate.invocation.target": target,
    }


def test_what_handlers_put_around_a_step_reaches_samplers_and_processors(spans: Spans) -> None:
    seen: list[Any] = []

    class Sees(SpanProcessor):
        def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
            if span.name == "run one":
                seen.append(baggage.get_baggage("tenant", parent_context))

    spans.provider.add_span_processor(Sees())

    async def one() -> None:
        pass

    @handler(service="Lazy")
    async def work(ctx: Context) -> None:
        attach(baggage.set_baggage("tenant", "acme", get_current()))
        await ctx.run(one)

    async def story(engine: Engine) -> None:
        await engine.call(work)

    spans.tell(story, [work])
    assert seen == ["acme"]


class DropsOne(Sampler):
    """As those that applications write, to see no health checks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None, *more: Any
    ) -> SamplingResult:
        self.asked.append(name)
        return SamplingResult(Decision.DROP if name == self.name else Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "DropsOne"


def sampled(sampler: Sampler) -> tuple[list[str], list[bool]]:
    """The names of the spans of two steps that a sampler lets through, and whether the second saw itself sampled."""
    spans, looked = Spans(), []
    spans.provider = TracerProvider(sampler=sampler)
    spans.provider.add_span_processor(SimpleSpanProcessor(spans.exporter))

    async def one() -> None:
        pass

    async def two() -> None:
        looked.append(get_current_span().get_span_context().trace_flags.sampled)

    @handler(service="Lazy")
    async def work(ctx: Context) -> None:
        await ctx.run(one)
        await ctx.run(two)

    async def story(engine: Engine) -> None:
        await engine.call(work)

    spans.tell(story, [work])
    assert isinstance(spans.exporter, InMemorySpanExporter)
    return [span.name for span in spans.all], looked


def test_a_sampler_decides_about_each_step_of_a_trace_that_is_followed() -> None:
    names, looked = sampled(DropsOne("run one"))
    assert "run two" in names and "run one" not in names
    assert looked == [True]


def test_of_a_trace_that_is_not_sampled_nobody_is_asked_about_steps() -> None:
    """They cost next to nothing then."""
    sampler = DropsOne("")
    assert sampled(ParentBased(ALWAYS_OFF)) == ([], [False])
    assert sampled(ParentBased(sampler, local_parent_not_sampled=sampler))[1] == [True]
    sampler = DropsOne("invocation-attempt Lazy/work")
    names, looked = sampled(sampler)
    assert (names, looked) == (["invocation-start Lazy/work", "invocation-end Lazy/work"], [False])
    assert not [name for name in sampler.asked if name.startswith("run")]


def test_a_processor_that_raises_when_a_step_looks_does_not_raise_in_the_step(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(SpanProcessor):
        def on_start(self, span: Span, parent_context: OtelContext | None = None) -> None:
            if span.name == "run looks":
                raise OSError("no")

    spans.provider.add_span_processor(Raises())
    found: list[int] = []

    async def looks() -> None:
        found.append(get_current_span().get_span_context().trace_id)

    @handler(service="Lazy")
    async def work(ctx: Context) -> None:
        await ctx.run(looks)
        await ctx.run(looks)

    async def story(engine: Engine) -> None:
        await engine.call(work)

    spans.tell(story, [work])
    assert found == [context(spans.one("invocation-attempt Lazy/work")).trace_id] * 2, (
        "what it does stays in the trace"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "OSError" in caplog.text
