"""The services of `tests.ingress.services`, written for Restate's SDK: prints its port and serves them."""

import asyncio
import socket

import hypercorn.asyncio
import restate
from hypercorn import Config
from restate import TerminalError
from restate.serde import BytesSerde

echo = restate.Service("Echo")
hidden = restate.Service("Hidden", ingress_private=True)
cart = restate.VirtualObject("Cart")
sign_up = restate.Workflow("SignUp")


@echo.handler()
async def greet(ctx: restate.Context, name: str) -> str:
    return f"Hello, {name}!"


@echo.handler(
    accept="application/octet-stream",
    content_type="application/octet-stream",
    input_serde=BytesSerde(),
    output_serde=BytesSerde(),
)
async def raw(ctx: restate.Context, data: bytes) -> bytes:
    return data


@echo.handler()
async def nothing(ctx: restate.Context) -> None:
    return None


@echo.handler()
async def count(ctx: restate.Context) -> int:
    return 7


@echo.handler()
async def fail(ctx: restate.Context, code: int) -> None:
    raise TerminalError("no", code)


@echo.handler()
async def refuse(ctx: restate.Context) -> None:
    raise TerminalError("refused", 400, metadata={"key1": "a", "key2": "b"})


@echo.handler()
async def headers(ctx: restate.Context) -> dict[str, str]:
    return dict(ctx.request().headers)


@echo.handler()
async def waiter(ctx: restate.Context) -> str:
    id, answer = ctx.awakeable(type_hint=str)
    ctx.object_send(put, "id", id)
    return await answer


@echo.handler()
async def raw_waiter(ctx: restate.Context) -> str:
    id, answer = ctx.awakeable(serde=BytesSerde())
    ctx.object_send(put, "id", id)
    return repr(await answer)


@hidden.handler()
async def secret(ctx: restate.Context) -> str:
    return "secret"


@cart.handler()
async def add(ctx: restate.ObjectContext, amount: int) -> int:
    count = (await ctx.get("count", type_hint=int) or 0) + amount
    ctx.set("count", count)
    return count


@cart.handler()
async def put(ctx: restate.ObjectContext, value: str) -> None:
    ctx.set("v", value)


@cart.handler(kind="shared")
async def read(ctx: restate.ObjectSharedContext) -> str:
    return await ctx.get("v", type_hint=str) or ""


@cart.handler(kind="shared")
async def key(ctx: restate.ObjectSharedContext) -> str:
    return ctx.key()


@sign_up.main()
async def run(ctx: restate.WorkflowContext, name: str) -> str:
    return name + await ctx.promise("answer", type_hint=str).value()


@sign_up.handler()
async def answer(ctx: restate.WorkflowSharedContext, text: str) -> None:
    await ctx.promise("answer", type_hint=str).resolve(text)


async def main() -> None:
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # so that answers are sent at once
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        config = Config()
        config.bind = [f"fd://{listening.fileno()}"]
        config.loglevel = "CRITICAL"
        print(listening.getsockname()[1], flush=True)  # noqa: T201
        app = restate.app([echo, hidden, cart, sign_up], protocol="bidi")
        await hypercorn.asyncio.serve(app, config)


if __name__ == "__main__":
    asyncio.run(main())
