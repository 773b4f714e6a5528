"""One exclusive handler per key at a time, in the order of acceptance; shared ones beside it."""

import asyncio

from durable import ObjectContext, SharedObjectContext, VirtualObject, handler
from durable.testing import Sim, check
from tests.scenarios.keyed import Counter, assert_at_once, open_gate, reaches

WAITING = ("running", "suspended")


class Room(VirtualObject):
    """One at a time inside."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def visit(self, ctx: ObjectContext, before: str | None) -> str | None:
        """Stay until the gate opens; returns the status an earlier visit had when this one came in."""
        found = await ctx.run(self._enter, before)
        ctx.set("visitor", ctx.request.id)
        await ctx.signal("open")
        ctx.clear("visitor")
        return found

    async def _enter(self, before: str | None) -> str | None:
        return None if before is None else (await self.sim.engine.describe(before)).status

    @handler(shared=True)
    async def look(self, ctx: SharedObjectContext) -> str | None:
        return await ctx.get("visitor", str)


def test_the_second_on_a_key_starts_when_the_first_has_ended_and_another_key_does_not_wait() -> None:
    """C-041: pending behind the gate, started after the first's output was stored, and then the key is free."""

    async def scenario(sim: Sim) -> list[str | None]:
        first = await sim.send(Room.visit, key="k")
        second = await sim.send(Room.visit, first.id, key="k")
        elsewhere = await sim.send(Room.visit, key="j")
        await reaches(sim, first.id, *WAITING)
        await reaches(sim, elsewhere.id, *WAITING)
        await open_gate(sim, elsewhere.id)
        assert await sim.result(elsewhere.id) is None
        await asyncio.sleep(10)
        assert await sim.status(second.id) == "pending"
        await open_gate(sim, second.id)  # this gate may stand open: it is not its turn
        await asyncio.sleep(10)
        assert await sim.status(second.id) == "pending"
        await open_gate(sim, first.id)
        found = [await sim.result(first.id), await sim.result(second.id)]

        unfinished = ("pending", "ready", "running", "suspended", "backing-off", "paused")
        assert await sim.repeat(lambda engine: engine.invocations(service="Room", status=unfinished)) == []
        third = await sim.send(Room.visit, second.id, key="k")
        await open_gate(sim, third.id)
        return [*found, await sim.result(third.id)]

    assert check(lambda sim: [Room(sim)], scenario, most=25) == [None, "completed", "completed"]


def test_a_shared_handler_does_not_wait_for_the_exclusive_one() -> None:
    """C-042: it runs at once, and sees what the exclusive one has written so far."""

    async def scenario(sim: Sim) -> bool:
        first = await sim.send(Room.visit, key="k")

        async def entered() -> bool:
            return "visitor" in await sim.engine.get_state("Room", "k")

        await sim.until(entered)
        before_ms = sim.clock.now_ms()
        seen = await sim.call(Room.look, key="k")
        assert_at_once(sim, before_ms)
        assert await sim.status(first.id) != "completed"
        await open_gate(sim, first.id)
        await sim.result(first.id)
        assert await sim.call(Room.look, key="k") is None
        return bool(seen == first.id)

    assert check(lambda sim: [Room(sim)], scenario)


def test_two_hundred_concurrent_increments_of_one_key_lose_none() -> None:
    """C-043: the old values they return are 0 to 199, each once; the final value is 200."""

    async def scenario(sim: Sim) -> tuple[list[int], int]:
        added = await asyncio.gather(*(sim.call(Counter.add, 1, key="k") for _ in range(200)))
        return sorted(old for old, _ in added), await sim.call(Counter.get, key="k")

    assert check(lambda sim: [Counter()], scenario, most=5) == (list(range(200)), 200)
