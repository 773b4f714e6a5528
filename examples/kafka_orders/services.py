"""What is done with an order."""

from durable import ObjectContext, VirtualObject, handler


class Orders(VirtualObject):
    """A customer's orders: one after the other, whatever else happens."""

    @handler
    async def place(self, ctx: ObjectContext, order: dict[str, int]) -> str:
        """Pay for it, and remember it."""
        paid = await ctx.run(pay, ctx.key, order["number"])
        placed = await ctx.get("placed", list[int]) or []
        ctx.set("placed", [*placed, order["number"]])
        return paid


async def pay(customer: str, number: int) -> str:
    """The outside world: give it an idempotency key, as it may be asked again after a crash."""
    return f"{customer} paid for order {number}"
