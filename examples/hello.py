"""The smallest complete program: one handler, two steps, and a nap between them.

    python examples/hello.py hello.db

Kill it during the nap (`kill -9`, no mercy needed) and start it again with the same file. The greeting is still
the one that the first process composed, the nap ends when it would have ended anyway, and the second step
follows. Start it once more and the answer comes from the file at once: the idempotency key makes all of this
one call.
"""

import asyncio
import os
import sys
import tempfile

from durable import Context, Engine, handler


@handler
async def hello(ctx: Context, name: str) -> str:
    """Compose a greeting, sleep on it, say it."""
    greeting = await ctx.run(compose, name)  # executed once; from then on its result comes from the file
    await ctx.sleep("500ms")  # the clock runs on while the process is dead
    await ctx.run(say, greeting)
    return greeting


def compose(name: str) -> str:
    """A step is an ordinary function, sync or async."""
    print(f"process {os.getpid()} composes a greeting")
    return f"Hello, {name}! Composed by process {os.getpid()}."


def say(greeting: str) -> None:
    """Steps are where the outside world is touched."""
    print(f"process {os.getpid()} says: {greeting}")


async def main(path: str) -> None:
    """Call the handler and wait for its result."""
    async with Engine(path, services=[hello]) as engine:
        greeting = await engine.call(hello, "World", idempotency_key="greet the world")
        print(f"result: {greeting}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/hello.db"))
