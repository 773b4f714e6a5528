"""The program under test, as a user of durable would write it: one handler, one virtual object, four plain
steps.

Nothing in here knows that the engine is killed. The steps carry an idempotency key, because a step that was
running when the process died runs again; with the key, running again has no second effect.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec

from durable import (
    Context,
    ObjectContext,
    RetryPolicy,
    SharedObjectContext,
    TerminalError,
    VirtualObject,
    handler,
)
from examples.checkout.books import LIMITS
from examples.checkout.faults import key_of
from examples.checkout.orders import Order


class Placed(msgspec.Struct, frozen=True):
    """What the customer gets to see."""

    order: str
    receipt: str
    #: What the customer has spent so far, this order included.
    spent: int


class Ledger(VirtualObject):
    """What each customer has spent, by currency: durable state, one booking at a time for each customer."""

    @handler
    async def book(self, ctx: ObjectContext, order: Order) -> int:
        """Add the order, or refuse it when it would exceed the limit."""
        spent = (await ctx.get(order.currency, int) or 0) + order.amount
        if spent > LIMITS[order.currency]:
            raise TerminalError(f"{spent} {order.currency} is over the limit of {order.customer}", code=403)
        ctx.set(order.currency, spent)
        return spent

    @handler(shared=True)
    async def spent(self, ctx: SharedObjectContext) -> dict[str, int]:
        """The totals in every currency."""
        return {currency: await ctx.get(currency, int) or 0 for currency in LIMITS}


@handler(retry=RetryPolicy(initial_interval="50ms", max_interval="1s", max_attempts=None))
async def place_order(ctx: Context, order: Order) -> Placed:
    """Reserve, charge, book; whatever ends it early leaves nothing behind."""
    _the_shop().entered(order.id)
    async with ctx.saga() as saga:
        saga.add_compensation(release, order)  # registered before: undone even if the outcome is unknown
        await ctx.run(reserve, order)
        saga.add_compensation(refund, order)
        receipt = await ctx.run(charge, order)
        spent = await ctx.call(Ledger.book, order, key=order.customer)
    return Placed(order.id, receipt, spent)


async def reserve(order: Order) -> str:
    """Set the goods aside."""
    return await _the_shop().post("stock", "reservation", order)


async def release(order: Order) -> str:
    """Put back whatever was set aside for the order."""
    return await _the_shop().post("stock", "release", order)


async def charge(order: Order) -> str:
    """Take the money."""
    return await _the_shop().post("payment", "charge", order)


async def refund(order: Order) -> str:
    """Give back whatever was taken for the order."""
    return await _the_shop().post("payment", "refund", order)


class Shop:
    """What the steps share: one HTTP client and the addresses of the services."""

    def __init__(
        self, http: httpx.AsyncClient, addresses: dict[str, str], run: int, entered: Callable[[str], None]
    ) -> None:
        self._http, self._addresses, self._run = http, addresses, run
        #: Called whenever the handler begins, replays included: how the driver counts them. Not durable.
        self.entered = entered

    async def post(self, service: str, kind: str, order: Order) -> str:
        """Ask a service for an effect, return its receipt; a refusal is terminal, all else is retried."""
        units, of = (order.amount, order.currency) if service == "payment" else (order.quantity, order.sku)
        reply = await self._http.post(
            f"{self._addresses[service]}/{kind}s",
            json={"order": order.id, "units": units, "of": of},
            headers={"Idempotency-Key": key_of(kind, order.id), "Engine-Run": str(self._run)},
        )
        if 400 <= reply.status_code < 500:
            raise TerminalError(f"{kind} of {order.id} refused", code=reply.status_code)
        reply.raise_for_status()
        return str(reply.json()["receipt"])


_shop: Shop | None = None


@asynccontextmanager
async def open_shop(
    addresses: dict[str, str], run: int, entered: Callable[[str], None]
) -> AsyncGenerator[None, None]:
    """Give the steps their client. Open it before the engine, which resumes handlers at once."""
    global _shop
    # Few connections, and patience for a free one: the client looks at all of them for each request it sends.
    timeout, limits = httpx.Timeout(10, pool=None), httpx.Limits(max_connections=12)
    async with httpx.AsyncClient(timeout=timeout, limits=limits) as http:
        _shop = Shop(http, addresses, run, entered)
        try:
            yield
        finally:
            _shop = None


def _the_shop() -> Shop:
    if _shop is None:
        raise RuntimeError("the shop is closed: run the handler inside open_shop()")
    return _shop
