"""What a type checker infers from an ordinary program: checked by mypy, never run."""

import random
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

import durable
from durable import (
    Context,
    DurableFuture,
    Engine,
    Handle,
    ObjectContext,
    RetryPolicy,
    Saga,
    SendHandle,
    Service,
    SharedObjectContext,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.testing import Sim, acheck, check, simulate


@dataclass
class Order:
    id: str
    amount: int


@dataclass
class Receipt:
    payment: str


def tax(order: Order, rate: float = 0.2) -> float:
    return order.amount * rate


async def charge(order: Order, *, twice: bool = False) -> str:
    return f"charged {order.id} {twice}"


def log_it() -> None: ...


@handler
async def checkout(ctx: Context, order: Order) -> Receipt:
    assert_type(ctx.run(tax, order), DurableFuture[float])
    assert_type(await ctx.run(tax, order, rate=0.1), float)
    assert_type(ctx.run(charge, order), DurableFuture[str])
    assert_type(await ctx.run(charge, order, twice=True), str)
    await ctx.run(log_it)
    assert_type(await ctx.run(lambda: 7), int)
    assert_type(await ctx.with_options(name="pay", retry=RetryPolicy(max_attempts=3)).run(charge, order), str)
    assert_type(await ctx.with_options(timeout="5s").run(tax, order), float)

    assert_type((await ctx.call(checkout, order)).payment, str)
    assert_type(await ctx.call(tick), int)
    assert_type(await ctx.call(Mail.deliver, "hello"), bool)
    assert_type(await ctx.call(Mail.ping), None)
    assert_type(await ctx.call(Counter.add, 3, key="k"), int)
    assert_type(await ctx.call(Counter.total, key="k"), int)
    assert_type(await ctx.call(SignUp.run, order, key="u"), bool)
    assert_type(await ctx.call("Other/thing", {"any": "thing"}), Any)
    assert_type(ctx.call(tick).id, str)
    assert_type(await ctx.call(tick).with_timeout("3s"), int)

    sent = ctx.send(checkout, order, delay="10m")
    assert_type(sent, SendHandle[Receipt])
    assert_type(sent.id, str)
    assert_type(await sent.attach(), Receipt)
    assert_type(ctx.send(Counter.total, key="k"), SendHandle[int])
    assert_type(ctx.send("Other/thing"), SendHandle[Any])

    assert_type(await ctx.attach(sent.id, Receipt), Receipt)
    assert_type(await ctx.output(sent.id), Any)
    ctx.cancel(sent.id)

    approval = ctx.awakeable(bool)
    assert_type(approval.id, str)
    assert_type(await approval, bool)
    assert_type(await ctx.awakeable(), Any)
    assert_type(await ctx.signal("go", int), int)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.random(), random.Random)
    assert_type(ctx.uuid(), uuid.UUID)
    assert_type(ctx.request.attempt, int)

    async with ctx.saga() as saga:
        assert_type(saga, Saga)
        saga.add_compensation(charge, order, twice=True)
    return Receipt("p")


@handler
async def tick(ctx: Context) -> int:
    await ctx.sleep("1s")
    return 1


@handler(name="combine", retry=RetryPolicy(max_attempts=3))
async def combining(ctx: Context, order: Order) -> None:
    number, text = ctx.call(tick), ctx.run(charge, order)
    assert_type(await durable.gather(number), tuple[int])
    assert_type(await durable.gather(number, text), tuple[int, str])
    assert_type(await durable.gather(number, text, ctx.sleep(1)), tuple[int, str, None])
    assert_type(await durable.gather(*[ctx.call(tick) for _ in range(9)]), list[int])
    both = await durable.gather(*[ctx.call(tick)], return_exceptions=True)
    assert_type(both, list[int | TerminalError])
    assert_type(await durable.select(a=number, b=text), tuple[str, Any])
    done, pending = await durable.wait_completed(number, ctx.call(tick))
    assert_type(await done[0], int)
    assert_type(len(pending), int)
    async for future in durable.as_completed(ctx.run(charge, order), ctx.run(charge, order)):
        assert_type(await future, str)


class Mail(Service, retry=RetryPolicy(max_attempts=5)):
    def __init__(self, host: str) -> None:
        self.host = host

    @handler
    async def deliver(self, ctx: Context, text: str) -> bool:
        return bool(self.host and text)

    @handler
    async def ping(self, ctx: Context) -> None:
        assert_type(await ctx.call(self.deliver, "hello"), bool)


class Counter(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        assert_type(ctx.key, str)
        assert_type(await ctx.get("total", int), int | None)
        assert_type(await ctx.get("anything"), Any)
        assert_type(await ctx.state_keys(), list[str])
        total = (await ctx.get("total", int) or 0) + amount
        ctx.set("total", total)
        ctx.clear("other")
        ctx.clear_all()
        return total

    @handler(shared=True)
    async def total(self, ctx: SharedObjectContext) -> int:
        return await ctx.get("total", int) or 0


class SignUp(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, order: Order) -> bool:
        ctx.set("order", order)
        assert_type(await ctx.promise("verified", bool).peek(), bool | None)
        return await ctx.promise("verified", bool)

    @handler
    async def verify(self, ctx: SharedWorkflowContext, code: str) -> None:
        assert_type(await ctx.promise("verified", bool).resolve(code == "ok"), None)


async def main(order: Order) -> None:
    async with Engine("app.db", services=[checkout, tick, Mail("smtp"), Counter(), SignUp()]) as engine:
        assert_type(await engine.call(checkout, order, idempotency_key=order.id), Receipt)
        assert_type(await engine.call(tick), int)
        assert_type(await engine.call(Counter.add, 3, key="k"), int)
        assert_type(await engine.call(Mail.ping), None)
        assert_type(await engine.call("Other/thing", 7), Any)
        handle = await engine.send(checkout, order, delay=5)
        assert_type(handle, Handle[Receipt])
        assert_type(await handle.result(), Receipt)
        assert_type(await handle.output(), Receipt)
        assert_type(await (await engine.send(Counter.total, key="k")).result(), int)
        assert_type(await (await engine.send(SignUp.run, order, key="u")).result(), bool)
        assert_type(engine.workflow(SignUp.run, "u"), Handle[bool])
        assert_type(engine.idempotent(checkout, "i"), Handle[Receipt])
        assert_type(engine.invocation(handle.id), Handle[Any])
        await engine.resolve_awakeable("sign_1…", True)
        assert_type((await engine.describe(handle.id)).status, str)


async def scenario(sim: Sim) -> Receipt:
    assert_type(await sim.call(tick), int)
    assert_type(await sim.call("Other/thing", 7), Any)
    handle = await sim.send(checkout, Order("o", 1), delay="1h")
    assert_type(handle, Handle[Receipt])
    return await handle.result()


def test_of_a_handler() -> None:
    assert_type(check([checkout, tick], scenario), Receipt)
    assert_type(check(lambda sim: [checkout], lambda sim: sim.call(tick)), int)
    assert_type(simulate(tick, lambda sim: sim.call(Counter.add, 3, key="k")), tuple[int, Sim])


async def asynchronous_test_of_a_handler() -> None:
    assert_type(await acheck([checkout, tick], scenario, most=3), Receipt)


async def unit_test_of_a_handler(fake: Context, order: Order) -> None:
    await checkout(fake, order)
    receipt = await checkout(fake, order)
    assert_type(receipt, Receipt)
