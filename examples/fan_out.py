"""Comparing prices: one handler calls many others at the same time and makes one answer of theirs.

    python examples/fan_out.py prices.db

Every supplier is asked by an invocation of its own, so each of them is retried by itself and survives by
itself. `durable.gather` waits for a list of durable operations; `asyncio.gather` works, too, and is the one to
use when each branch is a coroutine that does several things in a row.

Kill it in the middle and start it again with the same file. Suppliers that have answered are not asked again;
only those are asked whose answers were not in yet.
"""

import asyncio
import sys
import tempfile
from dataclasses import dataclass

import durable
from durable import Context, Engine, TerminalError, handler

LIST_PRICES = {"Adler": 120, "Berg": 105, "Cello": 0, "Dorn": 99, "Eibe": 110}
DISCOUNTS = {"Adler": 5, "Berg": 15, "Dorn": 3, "Eibe": 30}


@dataclass(frozen=True)
class Offer:
    """What one supplier wants to be paid."""

    supplier: str
    price: int


@handler
async def cheapest(ctx: Context, suppliers: list[str]) -> Offer:
    """Ask all suppliers, bargain with those that deliver, take the best offer."""
    quotes = await durable.gather(*[ctx.call(quote, supplier) for supplier in suppliers], return_exceptions=True)
    offers = [offer for offer in quotes if isinstance(offer, Offer)]  # a failure is a `TerminalError` in the list
    final = await asyncio.gather(*[bargain(ctx, offer) for offer in offers])
    return min(final, key=lambda offer: offer.price)


async def bargain(ctx: Context, offer: Offer) -> Offer:
    """One branch, two operations: an ordinary coroutine that is handed the context."""
    await ctx.sleep("100ms")  # do not look too eager
    return await ctx.call(haggle, offer)


@handler
async def quote(ctx: Context, supplier: str) -> Offer:
    """A child: what one supplier asks for."""
    return Offer(supplier, await ctx.run(look_up, supplier))


@handler
async def haggle(ctx: Context, offer: Offer) -> Offer:
    """Another child: what the supplier would really take."""
    return Offer(offer.supplier, offer.price - await ctx.run(ask_for_discount, offer.supplier))


async def look_up(supplier: str) -> int:
    """Stands for a slow request."""
    print(f"asking {supplier}")
    await asyncio.sleep(0.1)
    if LIST_PRICES[supplier] == 0:
        raise TerminalError(f"{supplier} is sold out", code=404)
    return LIST_PRICES[supplier]


async def ask_for_discount(supplier: str) -> int:
    """Stands for another one."""
    print(f"haggling with {supplier}")
    await asyncio.sleep(0.1)
    return DISCOUNTS[supplier]


async def main(path: str) -> None:
    """One call from outside, nine invocations inside."""
    async with Engine(path, services=[cheapest, quote, haggle]) as engine:
        best = await engine.call(cheapest, sorted(LIST_PRICES), idempotency_key="chairs")
        print(f"buying from {best.supplier} for {best.price}")
        made = await engine.invocations(service=cheapest.service_name)
        print(f"{len(made)} invocations, {sum(one.completion_result == 'failure' for one in made)} failed")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/prices.db"))
