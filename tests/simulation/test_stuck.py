"""A check whose scenario never ends says why: which invocation is paused, and with what."""

import itertools

import pytest

from durable import Context, handler
from durable.testing import Sim, SimulationStuck, check


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

    with pytest.raises(SimulationStuck) as stuck:
        check(services, scenario)
    [paused] = stuck.value.__notes__
    assert paused.startswith("Shop/checkout inv_1")
    assert "is paused: JournalMismatchError: entry 1" in paused
