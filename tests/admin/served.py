"""A process that serves the admin API of an engine with some of everything: `python -m tests.admin.served FILE`.

Prints its port, and then the id of an invocation that waits for what it called.
"""

import asyncio
import socket
import sys

import uvicorn

from durable import Context, Engine, ObjectContext, RetryPolicy, VirtualObject, handler
from durable.admin import create_app


@handler(service="Greeter")
async def greet(ctx: Context, name: str) -> str:
    """Say hello."""
    return await ctx.with_options(name="say").run(say, name)


async def say(name: str) -> str:
    return f"Hello, {name}!"


@handler(service="Greeter", retry=RetryPolicy(initial_interval="1h", factor=1))
async def boom(ctx: Context) -> str:
    raise ValueError("boom")


@handler(service="Greeter")
async def sleeper(ctx: Context) -> None:
    await ctx.sleep("1h")


@handler(service="Greeter")
async def parent(ctx: Context) -> None:
    await ctx.call(greet, "child")
    await ctx.call(sleeper)


class Cart(VirtualObject):
    """Carts."""

    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        count: int = (await ctx.get("count", int) or 0) + amount
        ctx.set("count", count)
        return count

    @handler
    async def hold(self, ctx: ObjectContext) -> None:
        await ctx.sleep("1h")


async def main(path: str) -> None:
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # so that answers are sent at once
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # now: who reads the port may connect before the server is up
        clusters = {"main": {"bootstrap.servers": "127.0.0.1:1"}}  # nobody is there
        services = [greet, boom, sleeper, parent, Cart()]
        async with Engine(path, services=services, synchronous="NORMAL", kafka_clusters=clusters) as engine:
            await engine.call(greet, "you")
            waiting = await engine.send(parent)
            failing = await engine.send(boom)
            await engine.call(Cart.add, 3, key="k")
            await engine.send(Cart.hold, key="busy")
            await engine.send(Cart.add, 1, key="busy")
            await engine.send(greet, "later", delay="1h")
            while len((await engine.describe(waiting.id)).children) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while (await failing.describe()).status != "backing-off":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            config = uvicorn.Config(create_app(engine), log_level="warning")
            print(listening.getsockname()[1], waiting.id, flush=True)  # noqa: T201
            await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
