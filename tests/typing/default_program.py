"""A handler whose input has a default may be called with an input or without one."""

from typing import assert_type

from durable import Context, Engine, Handler, ObjectContext, Service, VirtualObject, handler


@handler
async def free(ctx: Context, count: int = 5) -> str:
    return str(count)


@handler(service="Counting", public=False)
async def private(ctx: Context, count: int = 5) -> str:
    return str(count)


@handler
async def needs(ctx: Context, count: int) -> str:
    return str(count)


@handler
async def takes_none(ctx: Context) -> str:
    return ""


class Counting(Service):
    @handler
    async def may(self, ctx: Context, count: int = 5) -> str:
        return str(count)

    @handler(public=True)
    async def needs(self, ctx: Context, count: int) -> str:
        return str(count)

    @handler
    async def takes_none(self, ctx: Context) -> str:
        return ""


class Counter(VirtualObject):
    @handler(shared=False)
    async def add(self, ctx: ObjectContext, amount: int = 1) -> str:
        return str(amount)


async def program(engine: Engine, ctx: Context) -> None:
    assert_type(free, Handler[int | None, str])
    assert_type(private, Handler[int | None, str])
    assert_type(Counting.may, Handler[int | None, str])
    assert_type(needs, Handler[int, str])
    assert_type(Counting.needs, Handler[int, str])
    assert_type(takes_none, Handler[None, str])
    assert_type(Counting.takes_none, Handler[None, str])
    assert_type(await engine.call(free), str)
    assert_type(await engine.call(free, 3), str)
    assert_type(await ctx.call(Counting.may), str)
    assert_type(await ctx.call(Counting.may, 3), str)
    assert_type(await engine.call(Counter.add, key="k"), str)
    assert_type(await engine.call(Counter.add, 3, key="k"), str)
    assert_type(await engine.call(needs, 3), str)
    assert_type(await engine.call(takes_none), str)
