"""A crash at every commit: no span says what is not so, and all of an invocation are in one trace."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from durable import Context, RetryPolicy, TerminalError, handler
from durable.telemetry import Traces
from durable.telemetry.carried import carried
from durable.testing import Mode, Sim, modes, simulate
from durable.testing.checkers import stored
from tests.telemetry.support import Spans, attributes, context


def services(sim: Sim) -> Iterable[object]:
    async def reserve() -> str:
        if sim.effect("reserve") == 1:
            raise ConnectionError("once more")
        return "reserved"

    def pay() -> str:
        sim.effect("pay")
        return "paid"

    async def refuse() -> None:
        sim.effect("refuse")
        raise TerminalError("not today")

    @handler(service="Shop", retry=RetryPolicy(initial_interval="1s"))
    async def order(ctx: Context) -> str:
        ctx.send("Shop/notify")
        stock, paid = await asyncio.gather(ctx.call("Shop/stock"), ctx.run(pay))
        await ctx.sleep("1m")
        return f"{stock}, {paid}"

    @handler(service="Shop", retry=RetryPolicy(initial_interval="1s"))
    async def stock(ctx: Context) -> str:
        return await ctx.run(reserve)

    @handler(service="Shop")
    async def notify(ctx: Context) -> None:
        await ctx.run(refuse)

    return [order, stock, notify]


async def scenario(sim: Sim) -> Any:
    result = await sim.call("Shop/order")
    await asyncio.sleep(600)
    return result


def test_no_span_tells_what_is_not_so_and_each_invocation_is_one_trace() -> None:
    result, baseline = simulate(services, scenario)
    told: dict[str, Counter[str]] = {}
    for mode in modes(baseline.log.commits, most=30):
        spans = Spans()
        again, sim = simulate(services, scenario, mode, observer=Traces(spans.provider))
        assert again == result
        try:
            told[mode.name] = check(spans, sim, mode)
        except AssertionError as error:
            error.add_note(f"in mode {mode.name!r}")
            raise
    assert told["always-suspend"]["invocation-start"] == 3


def check(spans: Spans, sim: Sim, mode: Mode) -> Counter[str]:
    """Returns how many spans there are of each kind."""
    undisturbed = not sim.log.crashes
    by_id: dict[str, list[ReadableSpan]] = defaultdict(list)
    for span in spans.all:
        by_id[attributes(span)["durable.invocation.id"]].append(span)
    found = stored(sim.tables)
    kinds: Counter[str] = Counter()
    for invocation in found.values():
        mine = by_id.pop(invocation.id)
        names = Counter(span.name.partition(" ")[0] for span in mine)
        kinds += names
        assert invocation.outcome is not None
        anchor = carried(invocation.submission.headers)
        assert anchor is not None, "it is stored"
        assert {context(span).trace_id for span in mine} == {anchor.trace_id}
        for name in ("invocation-start", "invocation-end"):
            assert names[name] <= 1
            assert names[name] == 1 or not undisturbed
        for span in mine:
            if span.name.startswith(("invocation-attempt", "invocation-end")):
                assert span.parent is not None and span.parent.span_id == anchor.span_id
            if span.name.startswith("invocation-start"):
                assert context(span).span_id == anchor.span_id
            if span.name.startswith("invocation-end"):
                result = "success" if invocation.outcome.ok else "failure"
                assert attributes(span)["durable.invocation.result"] == result
        attempts = [
            attributes(span)["durable.attempt.number"] for span in mine if span.name.startswith("invocation-attempt")
        ]
        assert len(set(attempts)) == len(attempts), "each attempt has one span"
        assert max(attempts, default=0) <= invocation.attempt
    assert not by_id, "there are no spans of invocations that were never accepted"
    check_steps(spans, sim, undisturbed=undisturbed)
    return kinds


def check_steps(spans: Spans, sim: Sim, *, undisturbed: bool) -> None:
    """A step that succeeded is told of once, or it says that it may run again."""
    cut_off = "CancelledError"  # by the crash, perhaps before their first line
    steps = [
        span for span in spans.all if "durable.run.name" in attributes(span) and span.status.description != cut_off
    ]
    executed = Counter(attributes(span)["durable.run.name"] for span in steps)
    assert all(executed[name] <= count for name, count in sim.effects.items())
    ended = Counter(
        attributes(span)["durable.run.name"]
        for span in steps
        if attributes(span).get("durable.step.recorded") is not False
        and "ConnectionError" not in str(span.status.description)
    )
    assert set(ended) <= {"reserve", "pay", "refuse"}
    assert max(ended.values()) == 1, ended
    if undisturbed:
        assert executed == sim.effects
        assert len(ended) == 3
