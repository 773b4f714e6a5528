"""The services of `theirs.py` in an engine: `python -m tests.admin.facts.ours FILE` prints its port, and serves."""

import asyncio
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from durable import (
    Context,
    Engine,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedObjectContext,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    admin,
    handler,
    ingress,
)

LATER = RetryPolicy(initial_interval="1h", max_interval="1h", factor=1)


class Greeter(Service):
    @handler
    async def greet(self, ctx: Context, name: str) -> str:
        """Say hello."""

        async def say() -> str:
            return f"Hello, {name}!"

        return await ctx.with_options(name="say").run(say)

    @handler(retry=LATER)
    async def boom(self, ctx: Context) -> str:
        raise ValueError("boom")

    @handler(retry=LATER)
    async def stuck(self, ctx: Context) -> str:
        async def charge() -> str:
            raise ValueError("no bank")

        return await ctx.with_options(name="charge").run(charge)

    @handler(retry=RetryPolicy(max_attempts=1, on_max_attempts="pause"))
    async def stop(self, ctx: Context) -> str:
        raise ValueError("stopped")

    @handler
    async def refuse(self, ctx: Context) -> str:
        raise TerminalError("refused", code=422)

    @handler
    async def sleeper(self, ctx: Context) -> None:
        await ctx.sleep("1h")

    @handler
    async def parent(self, ctx: Context) -> None:
        ctx.send(Cart.add, 1, key="later", delay="1h")
        await ctx.call(Greeter.greet, "child")
        await ctx.call(Greeter.sleeper)

    @handler
    async def waiter(self, ctx: Context) -> str:
        answer: str = await ctx.awakeable(str)
        return answer


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

    @handler(shared=True)
    async def count(self, ctx: SharedObjectContext) -> int:
        return await ctx.get("count", int) or 0


class SignUp(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, name: str) -> str:
        answer: str = await ctx.promise("answer", str)
        return f"{name}: {answer}"

    @handler
    async def answer(self, ctx: SharedWorkflowContext, text: str) -> None:
        await ctx.promise("answer", str).resolve(text)


class Quiet(
    Service,
    metadata={"team": "night"},
    inactivity_timeout="0s",
    abort_timeout="2m",
    journal_retention="2h",
    idempotency_retention="2d",
    retry=RetryPolicy(initial_interval="1s", max_interval="1h", max_attempts=3, on_max_attempts="kill"),
):
    """Has options."""

    @handler
    async def nap(self, ctx: Context) -> None:
        """Is unloaded at once."""
        await ctx.sleep("1h")

    @handler(
        metadata={"kind": "odd"},
        inactivity_timeout="3m",
        abort_timeout="4m",
        journal_retention="3h",
        idempotency_retention="3d",
        public=False,
        retry=RetryPolicy(max_attempts=7),
    )
    async def odd(self, ctx: Context, numbers: list[int]) -> dict[str, int]:
        return {"sum": sum(numbers)}


async def main(path: str) -> None:
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # so that answers are sent at once
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # now: who reads the port may connect before the server is up
        services = [Greeter(), Cart(), SignUp(), Quiet()]
        async with Engine(path, services=services, synchronous="NORMAL") as engine:
            port = listening.getsockname()[1]
            ingress_url = f"http://127.0.0.1:{port}/ingress"
            app = Starlette(
                routes=[
                    Mount("/admin", admin.create_app(engine, ingress_url=ingress_url)),
                    Mount("/ingress", ingress.create_app(engine, url=ingress_url)),
                ]
            )
            config = uvicorn.Config(app, log_level="warning")
            print(port, flush=True)  # noqa: T201
            await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
