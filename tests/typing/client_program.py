"""What type checkers infer of a client, as of an engine: checked by mypy and by pyright (strict), never run."""

from dataclasses import dataclass
from typing import Any, assert_type

import durable
from durable import (
    Applied,
    Client,
    Context,
    Engine,
    EngineApi,
    Handle,
    InvocationView,
    ObjectContext,
    SyncClient,
    SyncHandle,
    VirtualObject,
    handler,
)


@dataclass
class Order:
    """What is bought."""

    id: str


@dataclass
class Receipt:
    """What was bought."""

    order: Order


@handler
async def checkout(ctx: Context, order: Order) -> Receipt:
    """A typed value in, another one out."""
    return Receipt(order)


@handler
async def ping(ctx: Context) -> str:
    """No input."""
    return "pong"


class Cart(VirtualObject):
    """Something with a key."""

    @handler
    async def add(self, ctx: ObjectContext, count: int) -> int:
        """One more."""
        return count


def accepts(api: EngineApi) -> None:
    """Whatever can be asked."""


async def anywhere(api: EngineApi) -> Receipt:
    """The same code, wherever the engine runs."""
    assert_type(await api.call(checkout, Order("o")), Receipt)
    assert_type(await api.call(ping), str)
    assert_type(await api.call(Cart.add, 1, key="k"), int)
    assert_type(await api.call("shop/checkout", {"id": "o"}), Any)
    assert_type(await api.send(checkout, Order("o"), delay="1h"), Handle[Receipt])
    assert_type(await api.attach("inv_1", Receipt), Receipt)
    assert_type(api.invocation("inv_1", int), Handle[int])
    assert_type(api.idempotent(checkout, "k"), Handle[Receipt])
    assert_type(await api.cancel("inv_1"), Applied)
    assert_type(await api.invocations(status=["paused"], service="Cart"), list[InvocationView])
    handle = await api.send(checkout, Order("o"))
    return await handle.result()


async def remote(engine: Engine) -> None:
    """An engine and a client are both what can be asked."""
    async with durable.connect("app.db", reconnect_for="5m") as client:
        assert_type(client, Client)
        assert_type(await client.call(checkout, Order("o")), Receipt)
        assert_type(await client.send(Cart.add, 1, key="k"), Handle[int])
        accepts(client)
        await anywhere(client)
    accepts(engine)
    await anywhere(engine)


def blocking() -> None:
    """The client of code that blocks."""
    with durable.connect_sync("app.db") as client:
        assert_type(client, SyncClient)
        assert_type(client.call(checkout, Order("o")), Receipt)
        assert_type(client.call(ping), str)
        assert_type(client.send(Cart.add, 1, key="k"), SyncHandle[int])
        assert_type(client.send(Cart.add, 1, key="k").result(timeout=1), int)
        assert_type(client.attach("inv_1", Receipt), Receipt)
        assert_type(client.invocations(limit=1), list[InvocationView])
