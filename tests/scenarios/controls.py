"""What the scenarios of cancel and kill share: asking once, whoever asks, and waiting for what is to be disturbed."""

import asyncio
from typing import Literal

import pytest

from durable import Applied, ConflictError, Context, InvocationView, Service, TerminalError, handler
from durable.core.invocation import Status
from durable.core.journal import Kind
from durable.store.rows import invocation_of
from durable.testing import Sim

#: Who asks for a cancel: the engine, a handle, or another handler through its context.
Asker = Literal["engine", "handle", "handler"]
WHOEVER_ASKS = pytest.mark.parametrize("asker", ["engine", "handle", "handler"])

UNFINISHED = ("scheduled", "pending", "ready", "running", "suspended", "backing-off", "paused")


class Canceller(Service):
    """Cancels from inside a handler."""

    @handler
    async def cancel(self, ctx: Context, id: str) -> None:
        ctx.cancel(id)


async def cancel(sim: Sim, id: str, asker: Asker = "engine") -> Applied | None:
    """Cancel once; None where nobody answers: a handler never does, and a crash may swallow what the engine said.

    A cancel is not asked for again if it was accepted before the crash: that would be a second one.
    """
    if asker == "handler":
        await sim.call(Canceller.cancel, id)
        return None
    before = cancels(sim, id)

    async def ask() -> Applied | None:
        if cancels(sim, id) != before:
            return None
        return await (sim.engine.cancel(id) if asker == "engine" else sim.engine.invocation(id).cancel())

    return await sim.repeat(lambda _: ask())


def cancels(sim: Sim, id: str) -> int:
    """How many cancels of an invocation are stored: told to its handler, waiting for its leaves, or at its end."""
    seq = sim.tables.ids.get(id, 0)
    if not seq:
        return 0
    invocation = invocation_of(sim.tables.invocations[seq])
    told = [row for row in sim.tables.journal.get(seq, {}).values() if row.entry == 0 and row.kind == Kind.CANCEL]
    return len(told) + bool(invocation.cancelling) + (invocation.status is Status.COMPLETED)


async def kill(sim: Sim, id: str) -> Applied | None:
    """Kill; None where a crash swallowed the answer."""
    crashes = sim.log.crashes
    try:
        return await sim.repeat(lambda engine: engine.kill(id))
    except ConflictError:
        if sim.log.crashes == crashes:
            raise
        return None


async def sent(sim: Sim, service: str, number: int = 0) -> InvocationView:
    """The first invocation of a service (or the second, …), once there is one."""
    found: list[InvocationView] = []

    async def is_there() -> bool:
        found[:] = sorted(await sim.engine.invocations(service=service), key=lambda view: view.seq)
        return len(found) > number

    await sim.until(is_there)
    return found[number]


async def waits(sim: Sim, id: str, kind: str, times: int = 1) -> None:
    """Until an invocation has so many open entries of a kind, and nothing else to do."""

    async def waiting() -> bool:
        journal = (await sim.engine.describe(id)).journal
        return sum(entry.kind == kind and entry.result == "open" for entry in journal) == times

    await sim.until(waiting)
    await asyncio.sleep(0.1)


async def unfinished(sim: Sim, *services: str) -> list[str]:
    """The targets of what has not ended, of these services or of all."""
    views = await sim.repeat(lambda engine: engine.invocations(status=UNFINISHED))
    return sorted(view.target for view in views if not services or view.service in services)


def told(error: TerminalError) -> tuple[str, str, int]:
    """What whoever waits for an invocation gets to see of its failure."""
    return type(error).__name__, error.message, error.code


def once(sim: Sim, *effects: str) -> None:
    """Each of these was executed, and again at most once per crash: a clean restart lets a step end."""
    for name in effects:
        executions = sim.effects[name]
        assert 1 <= executions <= 1 + sim.log.crashes, f"{name}: {executions} times, {sim.log.crashes} crashes"


def order(sim: Sim, prefix: str = "") -> list[str]:
    """The effects that begin so, in the order in which they happened first."""
    return [name for name in dict.fromkeys(sim.trace) if name.startswith(prefix)]


CANCELLED = ("InvocationCancelled", "cancelled", 409)
KILLED = ("InvocationKilled", "killed", 409)
