"""A script that serves: `python -m tests.serving.program FILE PORT ADMIN_PORT`. Says when it is open, and its end."""

import asyncio
import logging
import sys

from durable import Context, Engine, handler


@handler(service="Greeter")
async def greet(ctx: Context, name: str) -> str:
    return f"Hello, {name}!"


@handler(service="Greeter")
async def wait(ctx: Context) -> str:
    answer: str = await ctx.awakeable(str)
    return answer


async def main(path: str, port: str, admin_port: str) -> None:
    engine = Engine(path, services=[greet, wait], synchronous="NORMAL")
    await engine.serve(port=int(port), admin_port=int(admin_port), grace="1s")
    print("ended in order", flush=True)  # noqa: T201


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
