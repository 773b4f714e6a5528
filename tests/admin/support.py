"""An engine in memory, its admin API, and a client that asks it in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from durable import (
    Context,
    Engine,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.admin import create_app
from durable.testing import MemoryStore, Tables, VirtualClock, run

#: An id of the right form that nobody has.
UNKNOWN = "inv_1" + "0" * 33
JSON = {"content-type": "application/json"}


class Desk:
    """What the tests' handlers did, and what they wait for."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.steps = 0

    async def step(self) -> int:
        """Takes until the gate is open."""
        self.steps += 1
        await self.gate.wait()
        return self.steps


def services(desk: Desk) -> list[object]:
    """A service, an object and a workflow."""

    @handler(service="Greeter")
    async def greet(ctx: Context, name: str) -> str:
        """Say hello."""
        return f"Hello, {name}!"

    @handler(service="Greeter")
    async def wait(ctx: Context) -> str:
        answer: str = await ctx.awakeable(str)
        return answer

    @handler(service="Greeter")
    async def work(ctx: Context) -> int:
        return await ctx.run(desk.step)

    @handler(service="Greeter", retry=RetryPolicy(initial_interval="1h", factor=1))
    async def fail(ctx: Context) -> None:
        raise ValueError("not today")

    @handler(service="Greeter", retry=RetryPolicy(max_attempts=1))
    async def stop(ctx: Context) -> None:
        raise ValueError("paused")

    @handler(service="Greeter", journal_retention="0s", idempotency_retention="1d")
    async def forget(ctx: Context) -> int:
        return 1

    @handler(service="Greeter")
    async def refuse(ctx: Context) -> None:
        raise TerminalError("bad apples", code=400, metadata={"key1": "a", "key2": "b"})

    class Cart(VirtualObject):
        @handler
        async def add(self, ctx: ObjectContext, item: str) -> int:
            items = [*(await ctx.get("items", list[str]) or []), item]
            ctx.set("items", items)
            return len(items)

        @handler
        async def hold(self, ctx: ObjectContext) -> int:
            return await ctx.run(desk.step)

    class SignUp(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            answer: str = await ctx.promise("answer", str)
            return answer

    return [greet, wait, work, fail, stop, forget, refuse, Cart(), SignUp()]


class Served:
    """A running engine, its desk, and a client."""

    def __init__(self, engine: Engine, desk: Desk, http: httpx.AsyncClient) -> None:
        self.engine = engine
        self.desk = desk
        self.http = http

    async def send(self, target: str, *args: Any, **options: Any) -> str:
        """The id of a new invocation."""
        return (await self.engine.send(target, *args, **options)).id

    async def reaches(self, id: str, *statuses: str) -> str:
        """Wait for a status; returns the id."""
        while (await self.engine.describe(id)).status not in statuses:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return id

    async def completed(self, target: str, *args: Any, **options: Any) -> str:
        """The id of an invocation that has ended."""
        return await self.reaches(await self.send(target, *args, **options), "completed")

    async def patch(self, path: str, body: Any = None) -> httpx.Response:
        """PATCH, with JSON where there is a body."""
        return await self.http.patch(path, json=body) if body is not None else await self.http.patch(path)


@asynccontextmanager
async def served(*, tables: Tables | None = None, **options: Any) -> AsyncIterator[Served]:
    """The services above, with `create_app(engine, **options)`."""
    desk = Desk()
    clock = VirtualClock(asyncio.get_running_loop())
    engine = Engine(services=services(desk), store=MemoryStore(tables), clock=clock, inactivity_timeout=0)
    app = create_app(engine, **options)
    transport = httpx.ASGITransport(app)
    async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost:9070") as http:
        yield Served(engine, desk, http)
        desk.gate.set()


def story(tell: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    """Run a test on virtual time, with an engine that is served."""

    async def main() -> None:
        async with served(**options) as admin:
            await tell(admin)

    run(main)
