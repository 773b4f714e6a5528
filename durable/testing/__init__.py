"""For tests, ours and yours: virtual time, an in-memory store, and a crash at every commit.

async def charge(order: str) -> str:
    return f"charged {order}"

@handler(service="Shop")
async def checkout(ctx: Context, order: str) -> str:
    return await ctx.run(charge, order)

assert check([checkout], lambda sim: sim.call(checkout, "o-1")) == "charged o-1"
"""

from durable.core.limits import TINY, Limits
from durable.store.memory import MemoryStore, Tables
from durable.testing.checking import acheck, check
from durable.testing.clocks import ClockByHand, VirtualClock
from durable.testing.findings import NotDeterministic, StepRanAgain
from durable.testing.modes import Fault, Mode, mode_named, modes
from durable.testing.simulation import Scenario, Services, Sim, simulate
from durable.testing.virtual import ForgottenAwait, SimulationStuck, VirtualLoop, run

__all__ = [
    "TINY",
    "ClockByHand",
    "Fault",
    "ForgottenAwait",
    "Limits",
    "MemoryStore",
    "Mode",
    "NotDeterministic",
    "Scenario",
    "Services",
    "Sim",
    "SimulationStuck",
    "StepRanAgain",
    "Tables",
    "VirtualClock",
    "VirtualLoop",
    "acheck",
    "check",
    "mode_named",
    "modes",
    "run",
    "simulate",
]
