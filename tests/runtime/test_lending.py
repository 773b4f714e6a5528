"""Calls may be nested deeper than there are slots, and a step may wait for an invocation, at no other price."""

import asyncio
from collections.abc import Iterable
from typing import Any

from durable import Context, Engine, Handle, ObjectContext, SharedObjectContext, VirtualObject, handler
from durable.core.limits import Limits
from durable.runtime.observer import Observer
from durable.store.memory import MemoryStore
from durable.testing import Sim, VirtualClock, check, run


class Counts(Observer):
    """How many attempts began, and how many turns there were."""

    def __init__(self) -> None:
        self.turns = self.attempts = 0

    def turn_committed(self, commands: int) -> None:
        self.turns += 1

    def attempt_started(self, id: str, target: str, attempt: int) -> None:
        self.attempts += 1


class Counting(MemoryStore):
    """How often something was read."""

    reads = 0

    async def load(self, need: Any) -> Any:
        self.reads += 1
        return await super().load(need)

    async def journal(self, seq: int) -> Any:
        self.reads += 1
        return await super().journal(seq)


@handler(service="Deep")
async def deep(ctx: Context, levels: int) -> int:
    return 1 + await ctx.call(deep, levels - 1) if levels > 1 else 1


def price(levels: int, **options: Any) -> tuple[float, float, float]:
    """Turns, attempts and reads that a level costs."""

    async def main() -> tuple[float, float, float]:
        counts, store = Counts(), Counting()
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[deep], store=store, clock=clock, observer=counts, **options) as engine:
            await engine.call(deep, 1)
            counts.turns = counts.attempts = store.reads = 0
            assert await engine.call(deep, levels) == levels
            return counts.turns / levels, counts.attempts / levels, store.reads / levels

    return run(main)


def test_a_level_of_a_recursion_costs_the_same_however_deep_it_is_and_however_few_slots_there_are() -> None:
    turns, attempts, reads = price(100)
    assert (attempts, reads) == (1, 0)
    for slots in (100, 1000):
        deeper = price(2000, max_concurrent_invocations=slots)
        assert deeper[1:] == (1, 0), "nobody is unloaded and loaded again"
        assert deeper[0] <= 1.2 * turns, "lending a slot costs no turn of its own, or few"


def test_what_is_deeper_than_memory_may_hold_is_unloaded_and_comes_to_its_end() -> None:
    _, attempts, _ = price(200, max_concurrent_invocations=10, limits=Limits(lent=50))
    assert 1 < attempts < 2


class Account(VirtualObject):
    @handler
    async def deposit(self, ctx: ObjectContext, amount: int) -> int:
        balance = (await ctx.get("balance", int) or 0) + amount
        ctx.set("balance", balance)
        await ctx.sleep("1s")
        return balance

    @handler(shared=True)
    async def balance(self, ctx: SharedObjectContext) -> int:
        return await ctx.get("balance", int) or 0


def services(sim: Sim) -> Iterable[object]:
    async def ask(number: int) -> int:
        return int(await sim.call(Account.deposit, number, key="a", idempotency_key=f"deposit {number}"))

    async def ask_later(number: int) -> int:
        handle: Handle[int] = await sim.send(Account.deposit, number, key="a", idempotency_key=f"deposit {number}")
        return int(await sim.repeat(lambda engine: engine.attach(handle.id, int)))

    @handler(service="Asks")
    async def in_a_step(ctx: Context, number: int) -> int:
        return await ctx.run(ask, number)

    @handler(service="Asks")
    async def in_two_steps_at_once(ctx: Context, number: int) -> list[int]:
        return list(await asyncio.gather(ctx.run(ask, number), ctx.run(ask_later, number + 1)))

    async def patch(number: int) -> None:
        await sim.repeat(lambda engine: engine.patch_state("Account", "b", {"balance": number}))

    @handler(service="Asks")
    async def in_a_patch(ctx: Context, number: int) -> None:
        await ctx.run(patch, number)

    @handler(service="Asks")
    async def in_steps_of_calls(ctx: Context, number: int) -> int:
        return await ctx.run(ask, number) + (await ctx.call(in_a_step, number + 1))

    return [Account(), in_a_step, in_two_steps_at_once, in_a_patch, in_steps_of_calls]


async def steps_that_ask(sim: Sim) -> int:
    """Each of them has the one slot there is (in one of the modes) while its step waits for another invocation."""
    names = ["in_a_step", "in_two_steps_at_once", "in_steps_of_calls", "in_a_patch"]
    asked = (sim.call(f"Asks/{name}", 10**n, idempotency_key=name) for n, name in enumerate(names))
    await asyncio.gather(*asked)
    return int(await sim.call(Account.balance, key="a")) + int(await sim.call(Account.balance, key="b"))


def test_a_step_waits_for_an_invocation_of_its_own_engine_wherever_there_is_no_other_slot() -> None:
    assert check(services, steps_that_ask) == 1 + 10 + 11 + 100 + 101 + 1000


def test_a_plain_step_may_wait_for_an_invocation_in_its_thread() -> None:
    @handler(service="Asks")
    async def answer(ctx: Context) -> int:
        return 42

    @handler(service="Asks")
    async def asks(ctx: Context) -> int:
        loop = asyncio.get_running_loop()

        def ask() -> int:
            return asyncio.run_coroutine_threadsafe(engine.call(answer), loop).result(30)

        return await ctx.run(ask)

    engine = Engine(":memory:", services=[asks, answer], max_concurrent_invocations=1)

    async def main() -> list[int]:
        async with engine:
            return await asyncio.gather(*(engine.call(asks) for _ in range(5)))

    assert asyncio.run(main()) == [42] * 5
