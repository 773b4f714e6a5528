"""C-025 to C-031: calls and sends take effect once, in order, and say what they said before on a replay."""

import asyncio
from collections.abc import Iterable

import pytest

from durable import Context, RetryPolicy, handler
from durable.testing import Sim, check
from tests.scenarios.support import (
    Change,
    Counter,
    Echo,
    Failing,
    Failure,
    List,
    Proxy,
    To,
    failure_of,
)


def test_a_call_returns_what_the_callee_returned() -> None:
    """C-025: a proxy calls Echo.uppercase("ping")."""

    def services(sim: Sim) -> Iterable[object]:
        return [Proxy(), Echo()]

    async def scenario(sim: Sim) -> str:
        result: str = await sim.call("Proxy/call", To("Echo/uppercase", "ping"))
        return result

    assert check(services, scenario) == "PING"


def test_three_sends_return_at_once_and_count_three() -> None:
    """C-026: a proxy sends Counter.add(1) three times while the key is held by somebody else."""

    def services(sim: Sim) -> Iterable[object]:
        class SlowCounter(Counter):
            @handler
            async def block(self, ctx: Context) -> None:
                await ctx.sleep("10s")

        return [Proxy(), SlowCounter()]

    async def scenario(sim: Sim) -> int:
        started_at = sim.clock.now_ms()
        block = await sim.send("SlowCounter/block", key="k")
        for _ in range(3):
            await sim.call("Proxy/send", To("SlowCounter/add", 1, key="k"))
        assert sim.clock.now_ms() - started_at < 1000
        assert await sim.call("SlowCounter/get", key="k") == 0

        await sim.result(block.id)
        await asyncio.sleep(60)
        count: int = await sim.call("SlowCounter/get", key="k")
        return count

    assert check(services, scenario, most=20) == 3


@pytest.mark.parametrize("pattern", [("send", "call", "call"), ("call", "send", "call"), ("send", "send", "call")])
def test_calls_and_sends_to_one_key_arrive_in_the_order_in_which_they_were_made(pattern: tuple[str, ...]) -> None:
    """C-027: three requests to one List key, none awaited before the last is made."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Mixed")
        async def issue(ctx: Context, kinds: list[str]) -> None:
            calls = []
            for number, kind in enumerate(kinds):
                if kind == "send":
                    ctx.send(List.append, number, key="k")
                else:
                    calls.append(ctx.call(List.append, number, key="k"))
            for call in calls:
                await call

        return [issue, List()]

    async def scenario(sim: Sim) -> list[int]:
        await sim.call("Mixed/issue", list(pattern))
        result: list[int] = await sim.call("List/clear", key="k")
        assert await sim.call("List/get", key="k") == []
        return result

    assert check(services, scenario) == [0, 1, 2]


@pytest.mark.parametrize("how", ["call", "send"])
def test_a_request_with_an_idempotency_key_counts_once_however_often_it_is_made(how: str) -> None:
    """C-028: a handler makes the request, fails, is retried and makes it again; the outside finds it by its key."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Stubborn", retry=RetryPolicy(initial_interval="100ms"))
        async def add(ctx: Context) -> list[Change]:
            seen: list[Change] = []
            for time in ("first", "second"):
                if how == "call":
                    change = await ctx.call(Counter.add, 1, key="k", idempotency_key="once")
                else:
                    change = await ctx.send(Counter.add, 1, key="k", idempotency_key="once").attach()
                if sim.effect(f"{time} request: {change.old} -> {change.new}") == 1:
                    raise RuntimeError("the first attempt that comes so far fails")
                seen.append(change)
            return seen

        return [add, Counter()]

    async def scenario(sim: Sim) -> list[Change]:
        handle = await sim.send("Stubborn/add")
        seen: list[Change] = await sim.repeat(lambda engine: engine.attach(handle.id, list[Change]))
        assert set(sim.effects) == {"first request: 0 -> 1", "second request: 0 -> 1"}
        assert min(sim.effects.values()) >= 2, "both attempts saw it"
        found = await sim.repeat(lambda engine: engine.idempotent(Counter.add, "once", key="k").output())
        assert found == Change(0, 1)
        assert await sim.call("Counter/get", key="k") == 1
        return seen

    assert check(services, scenario) == [Change(0, 1), Change(0, 1)]


def test_a_sends_id_is_the_callees_and_the_same_on_replay() -> None:
    """C-029: the handler attaches to what it sent, once through the handle and once through the id."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Sender")
        async def send_and_attach(ctx: Context) -> list[str]:
            sent = ctx.send(Echo.uppercase, "ping", delay="1s")
            sim.effect(f"sent {sent.id}")
            through_handle = await sent.attach()
            through_id = await ctx.attach(sent.id, str)
            await ctx.sleep("1s")
            return [sent.id, through_handle, through_id]

        return [send_and_attach, Echo()]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Sender/send_and_attach")
        await sim.until(lambda: bool(sim.effects))
        await sim.restart(crash=True)
        id, *attached = await sim.result(handle.id)
        assert sim.effects.keys() == {f"sent {id}"}
        assert sim.effects.total() >= 2, "there was no replay"
        view = await sim.repeat(lambda engine: engine.describe(id))
        assert (view.target, view.status) == ("Echo/uppercase", "completed")
        assert view.caller_id == handle.id
        result: list[str] = attached
        return result

    assert check(services, scenario) == ["PING", "PING"]


def test_headers_reach_the_handler_they_were_sent_to() -> None:
    """C-030: those of a request from outside, of a call, and of a send."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Front")
        async def door(ctx: Context) -> list[str]:
            called = await ctx.call(Echo.headers, headers={"x-colour": "blue"})
            sent = await ctx.send(Echo.headers, headers={"x-colour": "green"}).attach()
            return [ctx.request.headers["x-my-custom-header"], called["x-colour"], sent["x-colour"]]

        return [door, Echo()]

    async def scenario(sim: Sim) -> list[str]:
        result: list[str] = await sim.call("Front/door", headers={"x-my-custom-header": "x-my-custom-value"})
        return result

    assert check(services, scenario) == ["x-my-custom-value", "blue", "green"]


def test_a_callees_terminal_failure_becomes_the_callers_own() -> None:
    """C-031: code, message and metadata go through a caller that does not catch, from a handler and from a step."""

    def services(sim: Sim) -> Iterable[object]:
        return [Proxy(), Failing(sim)]

    async def scenario(sim: Sim) -> list[tuple[str, str, int, dict[str, str]]]:
        failure = Failure("no such parcel", 400, {"key1": "value1", "key2": "value2"})
        errors = [
            await failure_of(sim.call("Proxy/call", To(f"Failing/{name}", failure, key="k")))
            for name in ("fail", "fail_in_step")
        ]
        return [(type(error).__name__, error.message, error.code, error.metadata) for error in errors]

    expected = ("TerminalError", "no such parcel", 400, {"key1": "value1", "key2": "value2"})
    assert check(services, scenario) == [expected, expected]
