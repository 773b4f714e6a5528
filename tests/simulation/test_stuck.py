"""A check whose scenario never ends says why: which invocation is paused, and with what."""

import itertools

import pytest

from durable import Context, EngineFailedError, RetryPolicy, Workflow, WorkflowContext, handler
from durable.testing import NotDeterministic, Sim, SimulationStuck, check, mode_named, simulate


async def a_step() -> None:
    """Does nothing."""


def test_a_handler_that_does_something_else_each_time_is_named_by_the_check() -> None:
    names = (f"step {number}" for number in itertools.count())

    def services(sim: Sim) -> list[object]:
        @handler(service="Shop")
        async def checkout(ctx: Context) -> None:
            await ctx.with_options(name=next(names)).run(a_step)
            await ctx.sleep("1h")

        return [checkout]

    async def scenario(sim: Sim) -> None:
        await sim.call("Shop/checkout")

    with pytest.raises(NotDeterministic, match=r"Shop/checkout inv_1.*: JournalMismatchError: entry 1") as found:
        check(services, scenario)
    [note] = found.value.__notes__
    assert note == "in mode 'undisturbed'; this runs it alone: check(services, scenario, only='undisturbed')"

    with pytest.raises(SimulationStuck) as stuck:
        simulate(services, scenario, mode_named("always-suspend"))
    [paused] = stuck.value.__notes__
    assert paused.startswith("Shop/checkout inv_1")
    assert "is paused" in paused
    assert "its last attempt failed: JournalMismatchError: entry 1" in paused


def test_what_never_gets_an_answer_is_not_repeated_for_ever() -> None:
    async def ask(engine: object) -> None:
        raise EngineFailedError("it died again")

    async def scenario(sim: Sim) -> None:
        await sim.repeat(ask)

    async def work(ctx: Context) -> None:
        """Never called."""

    with pytest.raises(AssertionError, match="what you repeat must be idempotent"):
        simulate(lambda sim: [handler(service="Shop")(work)], scenario)


def test_a_workflow_is_started_by_its_name() -> None:
    class Deal(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            return ctx.key

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Deal/run", key="1")
        return [await sim.result(handle.id), await sim.call(Deal.run, key="2")]

    assert check(lambda sim: [Deal()], scenario) == ["1", "2"]


def test_the_log_says_why_an_invocation_is_paused_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    async def work(ctx: Context) -> None:
        raise ValueError("out of order")

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Shop/work")
        await sim.until(lambda: "paused" in caplog.text)
        assert await sim.status(handle.id) == "paused"

    simulate(lambda sim: [handler(service="Shop", retry=RetryPolicy(max_attempts=1))(work)], scenario)
    assert "attempt 1 failed: ValueError: out of order; paused after 1 try, no more are left: mend" in caplog.text
    assert "engine.resume(id)" in caplog.text
