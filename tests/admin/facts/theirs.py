"""The services of `ours.py` for Restate's SDK: `python -m tests.admin.facts.theirs` prints its port, and serves."""

import asyncio
import socket
from datetime import timedelta

import hypercorn.asyncio
import restate
from hypercorn import Config
from restate import InvocationRetryPolicy, TerminalError

HOUR = timedelta(hours=1)
LATER = InvocationRetryPolicy(initial_interval=HOUR, max_interval=HOUR, exponentiation_factor=1.0)

greeter = restate.Service("Greeter")
cart = restate.VirtualObject("Cart", description="Carts.")
sign_up = restate.Workflow("SignUp")
quiet = restate.Service(
    "Quiet",
    description="Has options.",
    metadata={"team": "night"},
    inactivity_timeout=timedelta(0),
    abort_timeout=timedelta(minutes=2),
    journal_retention=timedelta(hours=2),
    idempotency_retention=timedelta(days=2),
    invocation_retry_policy=InvocationRetryPolicy(
        initial_interval=timedelta(seconds=1), max_interval=HOUR, max_attempts=3, on_max_attempts="kill"
    ),
)


@greeter.handler()
async def greet(ctx: restate.Context, name: str) -> str:
    """Say hello."""

    async def say() -> str:
        return f"Hello, {name}!"

    return await ctx.run_typed("say", say)


@greeter.handler(invocation_retry_policy=LATER)
async def boom(ctx: restate.Context) -> str:
    raise ValueError("boom")


@greeter.handler(invocation_retry_policy=LATER)
async def stuck(ctx: restate.Context) -> str:
    async def charge() -> str:
        raise ValueError("no bank")

    return await ctx.run_typed("charge", charge)


@greeter.handler(invocation_retry_policy=InvocationRetryPolicy(max_attempts=1, on_max_attempts="pause"))
async def stop(ctx: restate.Context) -> str:
    raise ValueError("stopped")


@greeter.handler()
async def refuse(ctx: restate.Context) -> str:
    raise TerminalError("refused", 422)


@greeter.handler()
async def sleeper(ctx: restate.Context) -> None:
    await ctx.sleep(HOUR)


@greeter.handler()
async def parent(ctx: restate.Context) -> None:
    ctx.object_send(add, "later", 1, send_delay=HOUR)
    await ctx.service_call(greet, "child")
    await ctx.service_call(sleeper, None)


@greeter.handler()
async def waiter(ctx: restate.Context) -> str:
    _, answer = ctx.awakeable(type_hint=str)
    return await answer


@cart.handler()
async def add(ctx: restate.ObjectContext, amount: int) -> int:
    count = (await ctx.get("count", type_hint=int) or 0) + amount
    ctx.set("count", count)
    return count


@cart.handler()
async def hold(ctx: restate.ObjectContext) -> None:
    await ctx.sleep(HOUR)


@cart.handler(kind="shared")
async def count(ctx: restate.ObjectSharedContext) -> int:
    return await ctx.get("count", type_hint=int) or 0


@sign_up.main()
async def run(ctx: restate.WorkflowContext, name: str) -> str:
    answer: str = await ctx.promise("answer", type_hint=str).value()
    return f"{name}: {answer}"


@sign_up.handler()
async def answer(ctx: restate.WorkflowSharedContext, text: str) -> None:
    await ctx.promise("answer", type_hint=str).resolve(text)


@quiet.handler()
async def nap(ctx: restate.Context) -> None:
    """Is unloaded at once."""
    await ctx.sleep(HOUR)


@quiet.handler(
    metadata={"kind": "odd"},
    inactivity_timeout=timedelta(minutes=3),
    abort_timeout=timedelta(minutes=4),
    journal_retention=timedelta(hours=3),
    idempotency_retention=timedelta(days=3),
    ingress_private=True,
    invocation_retry_policy=InvocationRetryPolicy(max_attempts=7),
)
async def odd(ctx: restate.Context, numbers: list[int]) -> dict[str, int]:
    return {"sum": sum(numbers)}


async def main() -> None:
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # so that answers are sent at once
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        config = Config()
        config.bind = [f"fd://{listening.fileno()}"]
        config.loglevel = "CRITICAL"
        print(listening.getsockname()[1], flush=True)  # noqa: T201
        app = restate.app([greeter, cart, sign_up, quiet], protocol="bidi")
        await hypercorn.asyncio.serve(app, config)


if __name__ == "__main__":
    asyncio.run(main())
