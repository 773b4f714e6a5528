"""Mistakes a type checker must find: each line with an `ignore` is one (an idle `ignore` is an error too)."""

import durable
from durable import Context, Engine, ObjectContext, SharedObjectContext, VirtualObject, handler


async def charge(amount: int) -> str:
    return f"charged {amount}"


@handler
async def tick(ctx: Context) -> int:
    return 1


class Counter(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        return amount

    @handler(shared=True)
    async def total(self, ctx: SharedObjectContext) -> int:
        ctx.set("total", 1)  # type: ignore[attr-defined]
        return 0


@handler
async def mistaken(ctx: Context, amount: int) -> str:
    await ctx.run(charge, "7")  # type: ignore[call-overload]
    await ctx.run(charge)  # type: ignore[call-overload]
    await ctx.run(charge, amount, twice=True)  # type: ignore[call-arg]
    await ctx.run(charge(amount))  # type: ignore[call-overload]
    await ctx.call(Counter.add, "3", key="k")  # type: ignore[misc]
    await ctx.call(Counter.add, key="k")  # type: ignore[arg-type]
    await ctx.call(tick, 3)  # type: ignore[misc]
    await ctx.call(charge, 3)  # type: ignore[call-overload]
    ctx.send(Counter.add, "3", key="k")  # type: ignore[misc]
    text: str = await ctx.call(tick)  # type: ignore[arg-type]
    ctx.set("total", 1)  # type: ignore[attr-defined]
    await ctx.get("total", int)  # type: ignore[attr-defined]
    ctx.promise("verified", bool)  # type: ignore[attr-defined]
    await durable.gather(charge(1), charge(2))  # type: ignore[call-overload]
    await durable.select(a=charge(1))  # type: ignore[arg-type]
    ctx.with_options(retries=3)  # type: ignore[call-arg]
    async with ctx.saga() as saga:
        saga.add_compensation(charge, "7")  # type: ignore[arg-type]
    return text


@handler(retry_policy=3)  # type: ignore[call-overload, untyped-decorator]
async def other(ctx: Context) -> None: ...


@handler  # type: ignore[arg-type]
def not_async(ctx: Context) -> int:
    return 1


@handler  # type: ignore[arg-type]
async def no_context(amount: int) -> int:
    return amount


@handler
async def counts(ctx: Context, amount: int = 1) -> int:
    return amount


async def main(engine: Engine) -> None:
    await engine.call(mistaken, "7")  # type: ignore[misc]
    await engine.call(mistaken)  # type: ignore[arg-type]
    await engine.call(tick, 3)  # type: ignore[misc]
    await engine.call(counts, "7")  # type: ignore[misc]
    number: int = await engine.call(mistaken, 7)  # type: ignore[arg-type]
    handle = await engine.send(tick)
    text: str = await handle.result()  # type: ignore[assignment]
    Engine("app.db", services=[tick], retries=3)  # type: ignore[call-arg]
    await engine.call(tick, idempotency_key=3)  # type: ignore[call-overload]
    await engine.cancel(handle)  # type: ignore[arg-type]
    print(number, text)  # noqa: T201
