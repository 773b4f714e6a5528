"""The same request twice is one invocation; any number of others may wait for its result."""

import asyncio
from typing import Any

import pytest

from durable import Context, NotFoundError, OutputNotReadyError, TerminalError, Workflow, WorkflowContext, handler
from durable.testing import Sim, check, simulate
from tests.scenarios.keyed import Counter, assert_at_once, assert_ran, open_gate, reaches


def test_a_repeated_call_gets_the_first_response_until_its_retention_is_over() -> None:
    """C-071: both see 0 to 2; after the retention and the clean-up the same key adds again, 2 to 4."""

    async def scenario(sim: Sim) -> list[tuple[int, int]]:
        added = [await sim.call(Counter.add, 2, key="a", idempotency_key="k") for _ in range(2)]
        await asyncio.sleep(3 * 3600)
        with pytest.raises(NotFoundError):
            await sim.repeat(lambda engine: engine.idempotent(Counter.add, "k", key="a").output())
        added += [await sim.call(Counter.add, 2, key="a", idempotency_key="k") for _ in range(2)]
        return added

    expected = [(0, 2), (0, 2), (2, 4), (2, 4)]
    assert check(lambda sim: [Counter()], scenario, idempotency_retention="1h") == expected


def test_a_key_adds_again_from_the_moment_its_retention_is_over_even_before_the_clean_up() -> None:
    """C-071: what matters is the retention, not when the clean-up comes by."""

    async def scenario(sim: Sim) -> list[tuple[int, int]]:
        added = []
        for pause in (0, 50, 20):
            await asyncio.sleep(pause)
            added.append(await sim.call(Counter.add, 2, key="a", idempotency_key="k"))
        return added

    assert check(lambda sim: [Counter()], scenario, idempotency_retention="1m") == [(0, 2), (0, 2), (2, 4)]


def test_the_same_idempotency_key_on_another_target_is_another_invocation() -> None:
    """C-071: a key belongs to its object and handler."""

    async def scenario(sim: Sim) -> list[Any]:
        return [
            await sim.call(Counter.add, 2, key="a", idempotency_key="k"),
            await sim.call(Counter.add, 2, key="b", idempotency_key="k"),
            await sim.call(Counter.get, key="a", idempotency_key="k"),
        ]

    assert check(lambda sim: [Counter()], scenario) == [(0, 2), (0, 2), 2]


def test_a_repeated_send_is_previously_accepted_under_the_same_id() -> None:
    """C-072: accepted, then not accepted again; one id, one execution."""

    def services(sim: Sim) -> list[object]:
        async def mail() -> None:
            sim.effect("mail")

        @handler(service="Mail")
        async def post(ctx: Context, text: str) -> str:
            await ctx.run(mail)
            return text

        return [post]

    async def scenario(sim: Sim) -> str:
        first = await sim.send("Mail/post", "hello", idempotency_key="k")
        second = await sim.send("Mail/post", "hello", idempotency_key="k")
        result = await sim.result(second.id)
        third = await sim.send("Mail/post", "hello again", idempotency_key="k", delay="1h")
        assert first.id.startswith("inv")
        assert first.id == second.id == third.id
        assert first.accepted or sim.interruptions
        assert (second.accepted, third.accepted) == (False, False)
        await asyncio.sleep(2 * 3600)
        assert_ran(sim, "mail")
        return str(result)

    assert check(services, scenario) == "hello"


def gated(sim: Sim) -> list[object]:
    """A handler that returns its argument once the gate is open."""

    async def work() -> None:
        sim.effect("work")

    @handler(service="Gated")
    async def echo(ctx: Context, value: str) -> str:
        await ctx.signal("open")
        await ctx.run(work)
        return value

    return [echo]


def test_attaching_by_idempotency_key_waits_for_the_end_and_output_does_not() -> None:
    """C-073: blocked, and "not ready" (470); once unblocked, both return the value."""

    async def attached(sim: Sim) -> str:
        return str(await sim.repeat(lambda engine: engine.idempotent("Gated/echo", "k").result()))

    async def output(sim: Sim) -> str:
        return str(await sim.repeat(lambda engine: engine.idempotent("Gated/echo", "k").output()))

    async def scenario(sim: Sim) -> list[str]:
        with pytest.raises(NotFoundError):
            await output(sim)
        handle = await sim.send("Gated/echo", "value", idempotency_key="k")
        waiting = asyncio.create_task(attached(sim))
        await asyncio.sleep(1)
        assert not waiting.done()
        with pytest.raises(OutputNotReadyError) as early:
            await output(sim)
        assert early.value.code == 470
        await open_gate(sim, handle.id)
        results = [await waiting]
        before_ms = sim.clock.now_ms()
        results += [await attached(sim), await output(sim)]
        assert_at_once(sim, before_ms)
        assert_ran(sim, "work")
        return results

    assert check(gated, scenario) == ["value", "value", "value"]


def test_three_attached_clients_get_one_result_and_none_before_it_is_stored() -> None:
    """C-074: at the moment each is answered, the store has the invocation as completed."""

    async def client(sim: Sim, id: str) -> tuple[str, str]:
        result = await sim.result(id)
        return result, await sim.status(id)

    async def scenario(sim: Sim) -> list[tuple[str, str]]:
        handle = await sim.send("Gated/echo", "value")
        clients = [asyncio.create_task(client(sim, handle.id)) for _ in range(3)]
        await asyncio.sleep(1)
        assert not any(task.done() for task in clients)
        await open_gate(sim, handle.id)
        answers = await asyncio.gather(*clients)
        assert_ran(sim, "work")
        return answers

    assert check(gated, scenario) == [("value", "completed")] * 3


class Flow(Workflow):
    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def run(self, ctx: WorkflowContext, value: str) -> str:
        await ctx.run(self._flow)
        await ctx.signal("open")
        return value

    async def _flow(self) -> None:
        self.sim.effect("flow")


@pytest.mark.parametrize("ended", [False, True], ids=["running", "completed"])
def test_a_handler_attaches_by_id_by_idempotency_key_and_by_workflow_key(ended: bool) -> None:
    """C-075: to what runs and to what has ended; the attached work is done once."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Reader")
        async def read(ctx: Context, id: str) -> tuple[str, str, str]:
            by_id = ctx.attach(id, str)
            by_idempotency_key = ctx.send("Gated/echo", "again", idempotency_key="k").attach()
            by_workflow_key = ctx.send(Flow.run, "again", key="w").attach()
            return await by_id, await by_idempotency_key, await by_workflow_key

        return [*gated(sim), Flow(sim), read]

    async def scenario(sim: Sim) -> tuple[str, str, str]:
        ids = [
            (await sim.send("Gated/echo", "by id")).id,
            (await sim.send("Gated/echo", "by idempotency key", idempotency_key="k")).id,
            (await sim.send(Flow.run, "by workflow key", key="w")).id,
        ]
        if ended:
            for id in ids:
                await open_gate(sim, id)
                await sim.result(id)
        reader = await sim.send("Reader/read", ids[0])
        if not ended:
            await asyncio.sleep(1)
            assert await sim.status(reader.id) in ("running", "suspended")
            for id in reversed(ids):
                await open_gate(sim, id)
        result = await sim.result(reader.id)
        assert_ran(sim, "work", 2)
        assert_ran(sim, "flow")
        return tuple(result)

    expected = ("by id", "by idempotency key", "by workflow key")
    assert check(services, scenario, most=25) == expected


def test_attaching_in_a_handler_brings_the_failure_and_404_for_an_unknown_id() -> None:
    """C-075: a failed invocation's error is raised as it was; one that never was is a terminal 404."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Failing")
        async def fail(ctx: Context) -> None:
            raise TerminalError("no luck", 418, {"dice": "1"})

        @handler(service="Reader")
        async def read(ctx: Context, id: str) -> tuple[int, dict[str, str]]:
            try:
                await ctx.attach(id)
            except TerminalError as error:
                return error.code, error.metadata
            return 200, {}

        return [fail, read]

    async def scenario(sim: Sim) -> list[tuple[int, dict[str, str]]]:
        failing = await sim.send("Failing/fail")
        seen = [await sim.call("Reader/read", failing.id)]
        await asyncio.sleep(3 * 86_400)
        return [*seen, await sim.call("Reader/read", failing.id)]

    assert check(services, scenario) == [(418, {"dice": "1"}), (404, {})]


def test_reading_an_output_in_a_handler_never_waits_and_what_it_found_is_recorded() -> None:
    """C-075: "not ready" stays "not ready" on every replay; a later look finds the value."""

    def services(sim: Sim) -> list[object]:
        async def looked() -> None:
            sim.effect("looked")

        @handler(service="Reader")
        async def look(ctx: Context, id: str) -> list[str]:
            seen = []
            for _ in range(2):
                try:
                    seen.append(await ctx.output(id, str))
                except OutputNotReadyError as error:
                    seen.append(f"not ready ({error.code})")
                await ctx.run(looked)
                await ctx.signal("look again")
            return seen

        return [*gated(sim), look]

    async def look_again(sim: Sim, id: str) -> None:
        await sim.repeat(lambda engine: engine.send_signal(id, "look again"))

    async def scenario(sim: Sim) -> list[str]:
        other = await sim.send("Gated/echo", "value")
        reader = await sim.send("Reader/look", other.id)
        await sim.until(lambda: sim.effects["looked"] >= 1)
        await reaches(sim, reader.id, "running", "suspended")
        await open_gate(sim, other.id)
        await sim.result(other.id)
        await look_again(sim, reader.id)
        await look_again(sim, reader.id)
        await sim.restart()
        result: list[str] = await sim.result(reader.id)
        assert_ran(sim, "looked", 2)
        return result

    assert check(services, scenario, most=25) == ["not ready (470)", "value"]


def test_a_key_that_is_used_again_after_a_purge_begins_a_run_of_its_own() -> None:
    """Its calls, random numbers and awakeables are not those of the first run, some of which may still be there."""

    @handler(service="Orders")
    async def pay(ctx: Context) -> str:
        return str(ctx.uuid())

    @handler(service="Orders")
    async def order(ctx: Context) -> list[str]:
        approval = ctx.awakeable(str)
        ids = [await ctx.call(pay), str(ctx.uuid()), approval.id]
        ctx.resolve_awakeable(approval.id, "yes")
        return [*ids, await approval]

    async def scenario(sim: Sim) -> None:
        first = await sim.send(order, idempotency_key="o-1")
        before = await sim.result(first.id)
        await sim.engine.purge(first.id)
        second = await sim.send(order, idempotency_key="o-1")
        after = await sim.result(second.id)
        assert first.id == second.id
        assert not set(before[:3]) & set(after[:3])
        with pytest.raises(NotFoundError):  # the first run's approval is not the second's
            await sim.engine.resolve_awakeable(before[2], "yes")

    simulate(lambda sim: [pay, order], scenario)
