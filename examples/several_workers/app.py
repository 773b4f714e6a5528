"""A shop that runs in several processes, on one file.

    # from the root of the repository:
    SHOP_DB=shop.db uvicorn --workers 4 examples.several_workers.app:app

    curl -X POST localhost:8000/orders/o-1
    curl localhost:8000/holder                          # the process that runs the handlers; kill -9 it

`standby=True` is all that it takes: the engine of one worker holds the file and runs the handlers, those of the
others ask it. When it is gone, another one goes on.
"""

import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from durable import Context, DurableError, Engine, ObjectContext, VirtualObject, handler

SHOP_DB = os.environ.get("SHOP_DB", "shop.db")


class Receipt(msgspec.Struct, frozen=True):
    """What a customer gets."""

    order: str
    #: The how-manieth order it was.
    number: int


# ---- what is durable ----


class Till(VirtualObject):
    """Counts what was sold."""

    @handler
    async def add(self, ctx: ObjectContext, count: int) -> int:
        """How many there are now."""
        sold = (await ctx.get("sold", int) or 0) + count
        ctx.set("sold", sold)
        return sold


@handler(service="Shop")
async def buy(ctx: Context, order: str) -> Receipt:
    """Take the money, then count the order."""
    await ctx.run(pay, order)
    return Receipt(order, await ctx.call(Till.add, 1, key="till"))


@handler(service="Shop")
async def runs_in(ctx: Context) -> int:
    """The process that runs handlers."""
    return os.getpid()


def pay(order: str) -> None:
    """The bank, which has its own books and knows what it has seen: a step may run again after a crash."""
    with closing(sqlite3.connect(f"{SHOP_DB}.bank", timeout=30)) as bank:
        bank.execute("PRAGMA synchronous = NORMAL")
        bank.execute("PRAGMA journal_mode = WAL")
        bank.execute("CREATE TABLE IF NOT EXISTS payments (id TEXT PRIMARY KEY, asked INTEGER NOT NULL)")
        bank.execute("INSERT INTO payments VALUES (?, 1) ON CONFLICT DO UPDATE SET asked = asked + 1", (order,))
        bank.commit()


engine = Engine(SHOP_DB, services=[buy, runs_in, Till()], standby=True)


# ---- the web ----


async def order(request: Request) -> JSONResponse:
    """Whichever worker this is, whichever worker runs the handler, however often it is asked: the same receipt."""
    id = request.path_params["id"]
    return JSONResponse(msgspec.to_builtins(await engine.call(buy, id, idempotency_key=id)))


async def holder(request: Request) -> JSONResponse:
    """The process that runs handlers, and the one that answers."""
    return JSONResponse({"holder": await engine.call(runs_in), "worker": os.getpid(), "role": engine.role})


async def unavailable(request: Request, error: Exception) -> JSONResponse:
    """Ask again."""
    return JSONResponse({"error": str(error)}, status_code=503)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    """`engine.lifespan` would do; the process's id is for who wants to kill it."""
    async with engine:
        print(f"worker {os.getpid()}\n", end="", flush=True)  # in one piece, beside those of the others
        yield


app = Starlette(
    routes=[Route("/orders/{id}", order, methods=["POST"]), Route("/holder", holder)],
    exception_handlers={DurableError: unavailable},
    lifespan=lifespan,
)
