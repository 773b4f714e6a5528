"""Awakeables: a handler waits for the outside, which completes the wait once, by id."""

import asyncio
import logging
from typing import Any

import pytest

from durable import (
    Context,
    EngineFailedError,
    EngineNotRunningError,
    InvalidRequestError,
    NotFoundError,
    TerminalError,
    handler,
)
from durable.core.ids import awakeable_id
from durable.testing import Sim, check, simulate
from tests.scenarios.keyed import Holder, assert_ran, awakeable_of


async def resolve(sim: Sim, id: str, value: Any) -> None:
    await sim.repeat(lambda engine: engine.resolve_awakeable(id, value))


def test_resolving_from_outside_answers_the_original_request() -> None:
    """C-051: the handler returns "solved!"; a second resolve changes nothing."""

    async def scenario(sim: Sim) -> str:
        request = asyncio.create_task(sim.call(Holder.hold, key="a"))
        id = await awakeable_of(sim, "a")
        await asyncio.sleep(1)
        assert not request.done()
        await resolve(sim, id, "solved!")
        await resolve(sim, id, "solved again!")
        result = await request
        await resolve(sim, id, "solved after the end!")
        return str(result)

    assert check(lambda sim: [Holder()], scenario) == "solved!"


def test_rejecting_from_outside_fails_the_original_request() -> None:
    """C-051: the failure carries the message of the rejection, and its code."""

    async def scenario(sim: Sim) -> tuple[int, str]:
        request = asyncio.create_task(sim.call(Holder.hold, key="a"))
        id = await awakeable_of(sim, "a")
        await sim.repeat(lambda engine: engine.reject_awakeable(id, "my bad!", 422))
        with pytest.raises(TerminalError) as failure:
            await request
        return failure.value.code, failure.value.message

    assert check(lambda sim: [Holder()], scenario) == (422, "my bad!")


def test_thirty_holders_are_resolved_while_the_engine_is_killed_and_restarted() -> None:
    """C-052: each gets its own value, whatever was happening to the engine when it was sent."""
    keys = [f"k{number}" for number in range(30)]

    async def trouble(sim: Sim) -> None:
        for pause, crash in ((0.45, True), (0.5, False), (0.35, True), (0.8, True), (0.4, False)):
            await asyncio.sleep(pause)
            await sim.restart(crash=crash)

    async def scenario(sim: Sim) -> list[str]:
        handles = [await sim.send(Holder.hold, key=key) for key in keys]
        ids = [await awakeable_of(sim, key) for key in keys]
        troubles = asyncio.create_task(trouble(sim))
        for key, id in zip(keys, ids, strict=True):
            await resolve(sim, id, f"for {key}")
            await asyncio.sleep(0.1)
        await troubles
        return [await sim.result(handle.id) for handle in handles]

    assert check(lambda sim: [Holder()], scenario, most=12) == [f"for {key}" for key in keys]


def test_a_resolve_in_flight_when_the_engine_is_killed_is_lost_or_kept_but_never_half_done() -> None:
    """C-052: killed in the same moment as each resolve; the client repeats, and the value arrives."""
    keys = [f"k{number}" for number in range(8)]

    async def scenario(sim: Sim) -> list[str]:
        handles = [await sim.send(Holder.hold, key=key) for key in keys]
        ids = [await awakeable_of(sim, key) for key in keys]
        for turn, (key, id) in enumerate(zip(keys, ids, strict=True)):
            await asyncio.gather(resolve(sim, id, f"for {key}"), sim.restart(crash=turn % 2 == 0))
        return [await sim.result(handle.id) for handle in handles]

    assert check(lambda sim: [Holder()], scenario, most=12) == [f"for {key}" for key in keys]


def test_an_id_that_got_out_before_a_crash_lost_its_entry_can_be_resolved_all_the_same() -> None:
    """C-052: a step hands the id out; whoever has it resolves at once, perhaps before the handler asks again."""
    outboxes: dict[Sim, asyncio.Queue[str]] = {}

    def services(sim: Sim) -> list[object]:
        outbox = outboxes.setdefault(sim, asyncio.Queue())

        @handler(service="Approval")
        async def request(ctx: Context) -> str:
            answer = ctx.awakeable(str)
            await ctx.run(outbox.put, answer.id)
            return await answer

        return [request]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Approval/request")
        await resolve_impatiently(sim, await outboxes[sim].get(), "approved")
        await resolve(sim, awakeable_id(handle.id, 1), "approved by somebody else")
        return str(await sim.result(handle.id))

    async def resolve_impatiently(sim: Sim, id: str, value: str) -> None:
        """In the very moment in which the engine is up again, before the handler has got anywhere."""
        for tries in range(1000):
            try:
                await sim.engine.resolve_awakeable(id, value)
                return
            except (EngineFailedError, EngineNotRunningError):
                await asyncio.sleep(0 if tries < 100 else 0.01)

    assert check(services, scenario) == "approved"


def test_an_awakeable_id_made_up_for_an_entry_that_is_none_has_no_effect() -> None:
    """C-053: whoever has one id could make up others: of a sleep under way, of what is still to come."""

    def services(sim: Sim) -> list[object]:
        async def note(what: str) -> str:
            sim.effect(what)
            return what

        @handler(service="Sleepy")
        async def echo(ctx: Context, value: str) -> str:
            await ctx.sleep("1m")
            return value

        @handler(service="Sleepy")
        async def work(ctx: Context) -> tuple[str, str, str, int]:
            await ctx.sleep("1h")
            step, call = ctx.run(note, "step"), ctx.call("Sleepy/echo", "call")
            results = await call, await step, await ctx.run(note, "last")
            return *results, ctx.now().hour

        return [echo, work]

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("Sleepy/work")
        await asyncio.sleep(60)
        assert await sim.status(handle.id) in ("running", "suspended")
        for entry in range(1, 6):
            await resolve(sim, awakeable_id(handle.id, entry), "made up")
        result = await sim.result(handle.id)
        assert_ran(sim, "step")
        assert_ran(sim, "last")
        return result

    assert check(services, scenario) == ["call", "step", "last", 1]


def test_a_malformed_id_is_refused_and_an_unknown_one_is_not_found(caplog: pytest.LogCaptureFixture) -> None:
    """C-053: 400 and 404, from outside; nothing happens, and nothing above info is logged."""

    async def scenario(sim: Sim) -> str:
        forgotten = await sim.send(Holder.hold, key="forgotten")
        unknown = await awakeable_of(sim, "forgotten")
        await resolve(sim, unknown, "the first")
        assert await sim.result(forgotten.id) == "the first"
        await asyncio.sleep(3 * 86_400)

        handle = await sim.send(Holder.hold, key="a")
        id = await awakeable_of(sim, "a")
        for bad in ("", "sign_1", "awk", handle.id, id[:39], id + "=", id.upper(), "sign_1" + "!" * (len(id) - 6)):
            with pytest.raises(InvalidRequestError) as malformed:
                await resolve(sim, bad, "nobody gets this")
            assert malformed.value.code == 400
        with pytest.raises(NotFoundError) as not_found:
            await resolve(sim, unknown, "nobody gets this")
        assert not_found.value.code == 404
        with pytest.raises(NotFoundError):
            await sim.repeat(lambda engine: engine.reject_awakeable(unknown, "nobody gets this"))
        with pytest.raises(NotFoundError):  # well-formed: of a run that never was
            await resolve(sim, id + "z", "nobody gets this")
        await resolve(sim, id, "the real one")
        return str(await sim.result(handle.id))

    with caplog.at_level(logging.INFO):
        assert simulate(lambda sim: [Holder()], scenario)[0] == "the real one"
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    caplog.clear()
    assert check(lambda sim: [Holder()], scenario, most=10) == "the real one"


def test_in_a_handler_a_malformed_id_is_a_terminal_error_and_an_unknown_one_has_no_effect() -> None:
    """C-053: the same two, from a context."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Solver")
        async def solve(ctx: Context, id: str) -> str:
            ctx.resolve_awakeable(id, "solved by a handler")
            return "sent"

        return [Holder(), solve]

    async def scenario(sim: Sim) -> list[Any]:
        forgotten = await sim.send(Holder.hold, key="a")
        id = await awakeable_of(sim, "a")
        with pytest.raises(TerminalError) as malformed:
            await sim.call("Solver/solve", "sign_1 and so on")
        seen = [malformed.value.code, await sim.call("Solver/solve", id), await sim.result(forgotten.id)]
        await asyncio.sleep(3 * 86_400)
        return [*seen, await sim.call("Solver/solve", id)]

    assert check(services, scenario, most=15) == [400, "sent", "solved by a handler", "sent"]


def test_another_handler_resolves_the_awakeable_once_though_it_is_retried() -> None:
    """C-054: the callee resolves and fails twice; on its later tries the recorded resolution is not repeated."""

    def services(sim: Sim) -> list[object]:
        async def note(what: str) -> None:
            sim.effect(what)

        @handler(service="Asker")
        async def ask(ctx: Context) -> tuple[str, str]:
            answer = ctx.awakeable(str)
            report = ctx.call("Answerer/answer", answer.id)
            found = await answer
            await ctx.run(note, "continued")
            return found, await report

        @handler(service="Answerer")
        async def answer(ctx: Context, id: str) -> str:
            number = sim.effect("tries")
            ctx.resolve_awakeable(id, "resolved")  # the same on every try: what is passed on is compared
            await ctx.run(note, "after")
            if number < 3:
                raise RuntimeError("try again")
            return "answered"

        return [ask, answer]

    async def scenario(sim: Sim) -> tuple[str, str]:
        handle = await sim.send("Asker/ask")
        found, reported = await sim.result(handle.id)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert [entry.result for entry in view.journal if entry.kind == "awakeable"] == ["success"]
        assert_ran(sim, "continued")
        assert_ran(sim, "after")
        assert_ran(sim, "tries", 3)
        return found, reported

    assert check(services, scenario) == ("resolved", "answered")
