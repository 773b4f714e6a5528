"""Which spans an invocation has, what they hang on and what they say."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from durable import (
    Context,
    Engine,
    InvocationKilled,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    gather,
    handler,
)
from durable.telemetry import Traces
from durable.telemetry.carried import carried
from durable.testing import MemoryStore, Tables, VirtualClock, run
from tests.telemetry.support import Spans, attributes, context

SECRET = "4111-1111"


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def double(number: int) -> int:
    return 2 * number


@handler(service="Shop")
async def checkout(ctx: Context, number: int) -> int:
    return await ctx.run(double, number)


@handler(service="Shop")
async def both(ctx: Context, number: int) -> int:
    ctx.send(checkout, 5)
    return await ctx.call(checkout, number)


def test_an_invocation_has_spans_for_its_start_each_attempt_and_its_end(spans: Spans) -> None:
    """C-087."""
    seen: list[trace.SpanContext] = []

    @handler(service="Tracing", inactivity_timeout=0)
    async def greet(ctx: Context, name: str) -> str:
        seen.append(trace.get_current_span().get_span_context())
        await ctx.sleep(1)
        return f"hello {name}"

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def story(engine: Engine) -> None:
        await engine.call(greet, "Ada", headers={"traceparent": parent, "tracestate": "vendor=1"})

    assert spans.tell(story, [greet]) == [
        "^invocation-start Tracing/greet",
        "  invocation-attempt Tracing/greet",
        "  invocation-attempt Tracing/greet",
        "  invocation-end Tracing/greet",
    ]
    start = spans.one("invocation-start Tracing/greet")
    assert start.parent is not None
    assert f"{start.parent.span_id:016x}" == "b7ad6b7169203331"
    for span in spans.all:
        said = attributes(span)
        assert said["restate.invocation.id"] == said["durable.invocation.id"]
        assert said["restate.invocation.target"] == said["durable.invocation.target"] == "Tracing/greet"
        assert (said["rpc.service"], said["rpc.method"]) == ("Tracing", "greet")
        assert f"{context(span).trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
        assert context(span).trace_state.get("vendor") == "1"
    attempts = spans.named("invocation-attempt Tracing/greet")
    assert [attributes(span)["durable.attempt.number"] for span in attempts] == [1, 2]
    assert [one.span_id for one in seen] == [context(span).span_id for span in attempts], "it is the current span"
    assert [span.status.status_code for span in attempts] == [StatusCode.UNSET, StatusCode.OK]
    assert [attributes(span)["durable.attempt.outcome"] for span in attempts] == ["suspended", "finished"]
    assert [event.name for event in attempts[0].events] == [
        "durable.invocation.lifecycle.new_command",
        "durable.invocation.lifecycle.suspended",
    ]
    assert attributes(spans.one("invocation-end Tracing/greet"))["durable.invocation.result"] == "success"


def test_a_step_is_a_span_once_and_what_it_does_nests_below_it(spans: Spans) -> None:
    tries: list[int] = []

    async def fetch() -> int:
        with spans.tracer.start_as_current_span("GET /"):
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionError("refused")
        return 1

    def plain() -> None:
        with spans.tracer.start_as_current_span("SELECT"):
            pass

    @handler(service="Steps", inactivity_timeout=0, retry=RetryPolicy(initial_interval="1s"))
    async def work(ctx: Context) -> None:
        with spans.tracer.start_as_current_span("inside"):
            await ctx.run(plain)
        await ctx.run(fetch)
        await ctx.sleep(1)

    async def story(engine: Engine) -> None:
        await engine.call(work)

    assert spans.tell(story, [work]) == [
        "invocation-start Steps/work",
        "  invocation-attempt Steps/work!",
        "    inside",
        "      run plain",
        "        SELECT",
        "    run fetch!",
        "      GET /!",
        "  invocation-attempt Steps/work",
        "    inside",
        "    run fetch",
        "      GET /",
        "  invocation-attempt Steps/work",
        "    inside",
        "  invocation-end Steps/work",
    ]
    failed, *_ = spans.named("invocation-attempt Steps/work")
    assert failed.status.description == "transient failure: ConnectionError"
    assert attributes(failed)["durable.failure.then"] == "retry"
    assert attributes(failed)["durable.failure.retry_delay_ms"] == 1000
    exception = next(event for event in failed.events if event.name == "exception")
    assert dict(exception.attributes or {})["exception.message"] == "ConnectionError: refused"


def test_calls_are_in_the_trace_and_sends_are_linked_to_it(spans: Spans) -> None:
    async def story(engine: Engine) -> None:
        await engine.call(both, 1)
        await asyncio.sleep(1)

    assert sorted(spans.tell(story, [both, checkout])) == sorted(
        [
            "invocation-start Shop/both",
            "  invocation-attempt Shop/both",
            "  invocation-start Shop/checkout",
            "    invocation-attempt Shop/checkout",
            "      run double",
            "    invocation-end Shop/checkout",
            "  invocation-end Shop/both",
            "invocation-start Shop/checkout ~ invocation-start Shop/both",
            "  invocation-attempt Shop/checkout",
            "    run double",
            "  invocation-end Shop/checkout",
        ]
    )
    assert len({context(span).trace_id for span in spans.all}) == 2


def test_a_call_in_code_nests_under_the_span_of_that_code(spans: Spans) -> None:
    async def story(engine: Engine) -> None:
        with spans.tracer.start_as_current_span("POST /orders"):
            await engine.call(checkout, 1)

    assert spans.tell(story, [checkout])[:2] == ["POST /orders", "  invocation-start Shop/checkout"]


def test_headers_of_the_same_trace_do_not_hide_the_span_of_now(spans: Spans) -> None:
    """A web framework's span is below that of the client whose headers are passed on."""

    async def story(engine: Engine) -> None:
        with spans.tracer.start_as_current_span("client") as client:
            told = client.get_span_context()
            parent = {"traceparent": f"00-{told.trace_id:032x}-{told.span_id:016x}-01"}
            with spans.tracer.start_as_current_span("server"):
                await engine.call(checkout, 1, headers=parent)
        await engine.call(checkout, 1, headers={"traceparent": "00-nonsense", "tracestate": "="})

    assert spans.tell(story, [checkout]) == [
        "client",
        "  server",
        "    invocation-start Shop/checkout",
        "      invocation-attempt Shop/checkout",
        "        run double",
        "      invocation-end Shop/checkout",
        "invocation-start Shop/checkout",
        "  invocation-attempt Shop/checkout",
        "    run double",
        "  invocation-end Shop/checkout",
    ]


def test_a_restart_is_linked_to_its_original(spans: Spans) -> None:
    async def story(engine: Engine) -> None:
        handle = await engine.send(checkout, 1)
        await handle.result()
        await (await engine.restart_as_new(handle.id)).result()

    spans.tell(story, [checkout])
    restart = spans.one("restart-as-new Shop/checkout")
    first, second = spans.named("invocation-start Shop/checkout")
    [link] = restart.links
    assert (link.context.trace_id, link.context.span_id) == (context(first).trace_id, context(first).span_id)
    assert second.parent == context(restart)
    assert context(second).trace_id != context(first).trace_id
    said = attributes(restart)
    assert (
        said["durable.invocation.restart_as_new.original_invocation_id"] == attributes(first)["durable.invocation.id"]
    )


def test_one_that_was_there_already_has_no_spans_of_its_own(spans: Spans) -> None:
    async def story(engine: Engine) -> None:
        await asyncio.gather(*(engine.call(checkout, 1, idempotency_key="one") for _ in range(3)))
        await engine.call(checkout, 1, idempotency_key="one")

    assert spans.tell(story, [checkout]) == [
        "invocation-start Shop/checkout",
        "  invocation-attempt Shop/checkout",
        "    run double",
        "  invocation-end Shop/checkout",
    ]


class Cart(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, item: str) -> None:
        ctx.set("item", item)
        await ctx.run(self.fail, item)

    async def fail(self, item: str) -> None:
        raise TerminalError("no such item", code=404)


def test_a_failure_is_told_and_neither_payload_nor_header_nor_key_is_in_a_name(spans: Spans) -> None:
    async def story(engine: Engine) -> None:
        with suppress(TerminalError):
            await engine.call(Cart.add, SECRET, key="key-7", headers={"authorization": SECRET})

    assert spans.tell(story, [Cart()]) == [
        "invocation-start Cart/{key}/add",
        "  invocation-attempt Cart/{key}/add",
        "    run fail!",
        "  invocation-end Cart/{key}/add!",
    ]
    end = attributes(spans.one("invocation-end Cart/{key}/add"))
    assert (end["durable.invocation.result"], end["durable.invocation.error.code"]) == ("failure", 404)
    assert (end["error.message"], end["durable.invocation.target"]) == ("no such item", "Cart/key-7/add")
    assert SECRET not in "".join(span.to_json() for span in spans.all)


def test_what_is_killed_paused_and_cancelled_says_so(spans: Spans) -> None:
    never = asyncio.Event()

    @handler(service="Waits")
    async def waits(ctx: Context) -> None:
        await never.wait()

    @handler(service="Waits", retry=RetryPolicy(max_attempts=1))
    async def fails(ctx: Context) -> None:
        raise ConnectionError("no")

    @handler(service="Waits")
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep("1d")

    async def story(engine: Engine) -> None:
        handle = await engine.send(waits)
        await asyncio.sleep(1)
        await engine.kill(handle.id)
        with suppress(InvocationKilled):
            await handle.result()
        await engine.send(fails)
        await asyncio.sleep(1)
        sleeps_ = await engine.send(sleeps)
        await asyncio.sleep(1)
        await engine.cancel(sleeps_.id)
        await asyncio.sleep(1)

    spans.tell(story, [waits, fails, sleeps])
    killed = spans.one("invocation-attempt Waits/waits")
    assert attributes(killed)["durable.attempt.outcome"] == "ended"
    assert spans.one("invocation-end Waits/waits").status.description == "killed"
    assert attributes(spans.one("invocation-attempt Waits/fails"))["durable.failure.then"] == "pause"
    assert spans.one("invocation-end Waits/sleeps").status.description == "cancelled"


def test_a_step_that_ends_after_a_kill_says_that_it_is_in_no_journal(spans: Spans) -> None:
    async def returns_all_the_same() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    @handler(service="Late")
    async def beside(ctx: Context) -> None:
        await gather(ctx.run(returns_all_the_same), ctx.run(double, 1))

    traces = Traces(spans.provider)

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[beside], store=MemoryStore(), clock=clock, observer=traces) as engine:
            handle = await engine.send(beside)
            await asyncio.sleep(1)
            await engine.kill(handle.id)
            await asyncio.sleep(120)
            assert traces.flush()
            [late] = spans.named("run returns_all_the_same")
            assert attributes(late)["durable.step.recorded"] is False

    run(story)
    assert "durable.step.recorded" not in attributes(spans.one("run double"))
    assert attributes(spans.one("invocation-attempt Late/beside"))["durable.attempt.outcome"] == "ended"


def test_names_of_steps_that_are_made_from_data_do_not_become_names_of_spans_without_end(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.telemetry.spans.STEP_NAMES_MAX", 3)

    @handler(service="Names")
    async def many(ctx: Context) -> None:
        for number in range(5):
            await ctx.with_options(name=f"fetch-{number}").run(double, number)

    async def story(engine: Engine) -> None:
        await engine.call(many)

    spans.tell(story, [many])
    steps = [span for span in spans.all if "durable.run.name" in attributes(span)]
    assert [span.name for span in steps] == ["run fetch-0", "run fetch-1", "run fetch-2", "run", "run"]
    assert [attributes(span)["durable.run.name"] for span in steps] == [f"fetch-{number}" for number in range(5)]


def test_what_was_accepted_without_telemetry_is_in_one_trace_too(spans: Spans) -> None:
    @handler(service="Late", inactivity_timeout=0)
    async def late(ctx: Context) -> None:
        await ctx.sleep("1h")
        await ctx.run(double, 1)

    tables = Tables()

    async def before() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[late], store=MemoryStore(tables), clock=clock) as engine:
            await engine.send(late)
            await asyncio.sleep(1)

    async def after(engine: Engine) -> None:
        await asyncio.sleep(7200)

    run(before)
    assert spans.tell(after, [late], store=MemoryStore(tables)) == [
        "^invocation-attempt Late/late",
        "  run double",
        "^invocation-end Late/late",
    ]
    assert len({context(span).trace_id for span in spans.all}) == 1


def test_a_handler_that_is_kept_while_it_waits_goes_on_in_the_span_of_its_next_attempt(spans: Spans) -> None:
    seen: list[int] = []

    @handler(service="Warm")
    async def child(ctx: Context) -> int:
        return 1

    @handler(service="Warm")
    async def parent(ctx: Context, own: bool) -> None:
        if own:
            with spans.tracer.start_as_current_span("own"):
                await ctx.call(child)
                seen.append(trace.get_current_span().get_span_context().span_id)
        else:
            await ctx.call(child)
        seen.append(trace.get_current_span().get_span_context().span_id)

    async def story(engine: Engine) -> None:
        await engine.call(parent, False)
        await engine.call(parent, True)

    spans.tell(story, [parent, child], max_concurrent_invocations=1)
    first, second, third, _ = spans.named("invocation-attempt Warm/parent")
    own = context(spans.one("own")).span_id
    assert seen == [context(second).span_id, own, context(third).span_id]
    assert context(first).span_id not in seen


def test_flows_have_their_attempt_as_the_current_span(spans: Spans) -> None:
    seen: set[int] = set()

    async def flow(ctx: Context) -> None:
        seen.add(trace.get_current_span().get_span_context().span_id)
        await ctx.run(double, 1)
        seen.add(trace.get_current_span().get_span_context().span_id)

    @handler(service="Flows")
    async def flows(ctx: Context) -> None:
        await asyncio.gather(flow(ctx), flow(ctx))
        await gather(ctx.run(double, 1), ctx.run(double, 2))

    async def story(engine: Engine) -> None:
        await engine.call(flows)

    assert spans.tell(story, [flows])[2:] == ["    run double"] * 4 + ["  invocation-end Flows/flows"]
    assert seen == {context(spans.one("invocation-attempt Flows/flows")).span_id}


def test_the_headers_of_an_invocation_carry_its_trace_to_its_handler(spans: Spans) -> None:
    seen: list[Any] = []

    @handler(service="Headers")
    async def looks(ctx: Context) -> None:
        seen.append(carried(ctx.request.headers))

    async def story(engine: Engine) -> None:
        await engine.call(looks)

    spans.tell(story, [looks])
    [told] = seen
    assert told.span_id == context(spans.one("invocation-start Headers/looks")).span_id
