"""The services that the tests invoke; `facts/theirs.py` has the same, written for Restate's SDK."""

from durable import (
    Context,
    ObjectContext,
    SharedObjectContext,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)


@handler(service="Echo")
async def greet(ctx: Context, name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


@handler(service="Echo")
async def raw(ctx: Context, data: bytes) -> bytes:
    return data


@handler(service="Echo")
async def nothing(ctx: Context) -> None:
    return None


@handler(service="Echo")
async def count(ctx: Context) -> int:
    return 7


@handler(service="Echo")
async def fail(ctx: Context, code: int) -> None:
    raise TerminalError("no", code)


@handler(service="Echo")
async def refuse(ctx: Context) -> None:
    raise TerminalError("refused", 400, {"key1": "a", "key2": "b"})


@handler(service="Echo")
async def headers(ctx: Context) -> dict[str, str]:
    return dict(ctx.request.headers)


@handler(service="Echo")
async def waiter(ctx: Context) -> str:
    awakeable = ctx.awakeable(str)
    ctx.send(Cart.put, awakeable.id, key="id")
    return await awakeable


@handler(service="Echo")
async def raw_waiter(ctx: Context) -> str:
    awakeable = ctx.awakeable(bytes)
    ctx.send(Cart.put, awakeable.id, key="id")
    return repr(await awakeable)


@handler(service="Hidden", public=False)
async def secret(ctx: Context) -> str:
    return "secret"


class Cart(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        count = (await ctx.get("count", int) or 0) + amount
        ctx.set("count", count)
        return count

    @handler
    async def put(self, ctx: ObjectContext, value: str) -> None:
        ctx.set("v", value)

    @handler(shared=True)
    async def read(self, ctx: SharedObjectContext) -> str:
        return await ctx.get("v", str) or ""

    @handler(shared=True)
    async def key(self, ctx: SharedObjectContext) -> str:
        return ctx.key


class SignUp(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, name: str) -> str:
        answer: str = await ctx.promise("answer", str)
        return name + answer

    @handler(shared=True)
    async def answer(self, ctx: SharedWorkflowContext, text: str) -> None:
        ctx.promise("answer", str).resolve(text)


SERVICES = [greet, raw, nothing, count, fail, refuse, headers, waiter, raw_waiter, secret]


def services() -> list[object]:
    """All of them."""
    return [*SERVICES, Cart(), SignUp()]
