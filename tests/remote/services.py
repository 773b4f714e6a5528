"""Handlers of every kind, for an engine that is asked from elsewhere."""

import asyncio
from typing import Any

import msgspec

from durable import (
    Context,
    ObjectContext,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)


class Order(msgspec.Struct):
    """What is bought."""

    id: str
    lines: dict[str, int]


class Receipt(msgspec.Struct):
    """What was bought."""

    order: Order
    total: float


@handler(service="Shop")
async def buy(ctx: Context, order: Order) -> Receipt:
    """A typed value in, another one out."""
    return Receipt(order, float(sum(order.lines.values())))


@handler(service="Shop")
async def reverse(ctx: Context, data: bytes) -> bytes:
    """Bytes."""
    return data[::-1]


@handler(service="Shop")
async def anything(ctx: Context, value: Any) -> Any:
    """Whatever it is."""
    return value


@handler(service="Shop")
async def greet(ctx: Context, name: str = "nobody") -> str:
    """An input that may be left out."""
    return f"Hello {name}"


@handler(service="Shop")
async def nothing(ctx: Context) -> None:
    """Neither input nor result."""


@handler(service="Shop")
async def headers(ctx: Context) -> dict[str, str]:
    """What its caller said."""
    return dict(ctx.request.headers)


@handler(service="Shop")
async def fail(ctx: Context, code: int) -> None:
    """A failure."""
    raise TerminalError("sold out", code, {"until": "Monday"})


@handler(service="Shop", public=False)
async def secret(ctx: Context) -> str:
    """For other handlers."""
    return "secret"


@handler(service="Shop")
async def sleep(ctx: Context, seconds: float) -> str:
    """A wait that cancels end."""
    await ctx.sleep(seconds)
    return "slept"


class Cart(VirtualObject):
    """Something with a key."""

    @handler
    async def add(self, ctx: ObjectContext, count: int) -> int:
        """One more, or several."""
        total = (await ctx.get("count", int) or 0) + count
        ctx.set("count", total)
        return total

    @handler
    async def ask(self, ctx: ObjectContext) -> Any:
        """What an awakeable is completed with; its id is the state `id`."""
        awakeable = ctx.awakeable()
        ctx.set("id", awakeable.id)
        return await awakeable

    @handler(shared=True)
    async def signalled(self, ctx: Context) -> Any:
        """What the signal `go` brings."""
        return await ctx.signal("go")

    @handler(shared=True)
    async def listening(self, ctx: Context) -> list[int]:
        """What it brings twice."""
        return [await ctx.signal("go", int), await ctx.signal("go", int)]


class SignUp(Workflow):
    """Something that happens once a key."""

    @handler
    async def run(self, ctx: WorkflowContext, name: str) -> str:
        """Wait for a promise."""
        return f"{name} {await ctx.promise('confirmed', str)}"

    @handler
    async def status(self, ctx: SharedWorkflowContext) -> str:
        """Ask beside it."""
        return "waiting"


def services() -> list[object]:
    """All of them."""
    return [buy, reverse, anything, greet, nothing, headers, fail, secret, sleep, Cart(), SignUp()]


async def until(ask: Any, wanted: Any) -> None:
    """Wait until an answer is this."""
    async with asyncio.timeout(20):
        while await ask() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
