"""What several of these scenarios share: a counter, a holder of an awakeable, a gate, and what "once" means."""

from durable import ObjectContext, SharedObjectContext, VirtualObject, handler
from durable.testing import Sim


class Counter(VirtualObject):
    """A number per key; `add` returns the old value and the new one."""

    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> tuple[int, int]:
        old = await ctx.get("count", int) or 0
        ctx.set("count", old + amount)
        return old, old + amount

    @handler(shared=True)
    async def get(self, ctx: SharedObjectContext) -> int:
        return await ctx.get("count", int) or 0


class Holder(VirtualObject):
    """Shows the id of an awakeable in its state, then returns what that is resolved with."""

    @handler
    async def hold(self, ctx: ObjectContext) -> str:
        answer = ctx.awakeable(str)
        ctx.set("id", answer.id)
        return await answer


async def awakeable_of(sim: Sim, key: str) -> str:
    """The id a `Holder` shows, once it shows one."""

    async def shown() -> bool:
        return "id" in await sim.engine.get_state("Holder", key)

    await sim.until(shown)
    return str((await sim.repeat(lambda engine: engine.get_state("Holder", key)))["id"])


async def open_gate(sim: Sim, id: str) -> None:
    """Let an invocation go on that awaits `ctx.signal("open")`."""
    await sim.repeat(lambda engine: engine.send_signal(id, "open"))


async def reaches(sim: Sim, id: str, *statuses: str) -> None:
    """Wait until an invocation has one of these statuses."""

    async def reached() -> bool:
        return (await sim.engine.describe(id)).status in statuses

    await sim.until(reached)


def assert_ran(sim: Sim, name: str, times: int = 1) -> None:
    """Exactly so often, if nothing was interrupted; at most once more per interruption."""
    most = times + sim.interruptions
    assert times <= sim.effects[name] <= most, f"{name} ran {sim.effects[name]} times, not {times} to {most}"


def assert_at_once(sim: Sim, since_ms: int) -> None:
    """No time has passed, if nothing was interrupted."""
    elapsed_ms = sim.clock.now_ms() - since_ms
    assert sim.interruptions or elapsed_ms == 0, f"it took {elapsed_ms} ms"
