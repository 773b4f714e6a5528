"""Counters by name: a virtual object runs one exclusive handler at a time for each key, and keeps state for it.

    python examples/keyed_counter.py counters.db

Forty calls arrive at once, for two counters. `add` reads, dawdles and writes: two of them at a time on the same
counter would lose an increment. The engine lets them through one by one, the two counters beside each other.
`value` is shared: it does not queue up, and reads what is there meanwhile.

Kill it in the middle and start it again with the same file. What was counted stays counted, calls that were
accepted go on, the others are made again under the same idempotency keys, and nothing is counted twice.
"""

import asyncio
import sys
import tempfile

from durable import Engine, ObjectContext, SharedObjectContext, VirtualObject, handler


class Counter(VirtualObject):
    """A number for each key."""

    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        """Exclusive: nobody else writes this key before it returns."""
        before = await ctx.get("value", int) or 0
        await ctx.sleep("10ms")
        ctx.set("value", before + amount)
        return before + amount

    @handler(shared=True)
    async def value(self, ctx: SharedObjectContext) -> int:
        """Shared: any number of these run at any time, and can only read."""
        return await ctx.get("value", int) or 0


async def main(path: str) -> None:
    """Count apples and pears, and have a look halfway."""
    async with Engine(path, services=[Counter()]) as engine:
        sends = [
            engine.send(Counter.add, amount, key=fruit, idempotency_key=f"{fruit} {amount}")
            for amount in range(1, 21)
            for fruit in ("apples", "pears")
        ]
        sent = await asyncio.gather(*sends)
        await sent[18].result()  # the tenth of the apples
        print(f"meanwhile: {await engine.call(Counter.value, key='apples')} apples")
        await asyncio.gather(*[handle.result() for handle in sent])
        for fruit in ("apples", "pears"):
            print(f"in the end: {await engine.call(Counter.value, key=fruit)} {fruit}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/counters.db"))
