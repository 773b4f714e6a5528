"""What the tests of the command line serve: `durable serve tests.cli.program:engine`, on the file in CLI_DB."""

import os

from durable import (
    Context,
    Engine,
    InvocationCancelled,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)


def pay(amount: int) -> str:
    return f"paid {amount}"


@handler(service="Shop")
async def greet(ctx: Context, name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


@handler(service="Shop")
async def buy(ctx: Context, amount: int) -> str:
    """Pay, wait, and pack."""
    paid = await ctx.run(pay, amount)
    await ctx.sleep("10ms")
    return f"{paid}, {await ctx.call(pack, paid)}"


@handler(service="Shop")
async def pack(ctx: Context, what: str) -> str:
    return "packed"


@handler(service="Shop", retry=RetryPolicy(max_attempts=1))
async def stuck(ctx: Context) -> None:
    raise ConnectionError("the bank is closed\nfor the day \x1b[31m")


@handler(service="Shop")
async def refuse(ctx: Context) -> None:
    raise TerminalError("out of stock", code=409)


@handler(service="Shop")
async def wait(ctx: Context) -> str:
    try:
        return await ctx.awakeable(str)
    except InvocationCancelled:
        await ctx.run(pay, -1)
        raise


@handler(service="Shop")
async def word(ctx: Context) -> str:
    return await ctx.signal("go", str)


@handler(service="Shop")
async def outer(ctx: Context) -> str:
    return await ctx.call(wait)


@handler(service="Shop")
async def double(ctx: Context, data: bytes) -> bytes:
    return data + data


class Cart(VirtualObject):
    """Carts."""

    @handler
    async def add(self, ctx: ObjectContext, item: str) -> int:
        items = [*(await ctx.get("items", list[str]) or []), item]
        ctx.set("items", items)
        return len(items)

    @handler
    async def visit(self, ctx: ObjectContext, other: str) -> None:
        """Two that visit each other wait for ever."""
        await ctx.sleep("50ms")
        await ctx.call("Cart/visit", other, key=other)


class SignUp(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        return await ctx.promise("answer", str)


def make(path: str) -> Engine:
    return Engine(
        path,
        services=[greet, buy, pack, stuck, refuse, wait, word, outer, double, Cart(), SignUp()],
        synchronous="NORMAL",
        inactivity_timeout="100ms",
    )


def engine() -> Engine:
    return make(os.environ["CLI_DB"])


def broken() -> Engine:
    raise ValueError("no file was named")
