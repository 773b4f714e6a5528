"""A program that leaves its engine without closing it: `python -m tests.process.left_behind HOW FILE [again]`.

With `again` a second engine of the same process takes the file over afterwards, while the first is still referenced.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from durable import Context, Engine, EngineLockedError, handler

SLOW_S = 60


async def quick(number: int) -> int:
    return number


@handler(service="Left")
async def sleeps(ctx: Context, first: int) -> int:
    one = await ctx.run(quick, first)
    await ctx.sleep(0.3)
    return one + await ctx.run(quick, first)


@handler(service="Left")
async def steps(ctx: Context, first: int) -> int:
    if ctx.request.attempt == 1:
        await ctx.run(asyncio.sleep, SLOW_S)
    return 0


@handler(service="Left")
async def threads(ctx: Context, first: int) -> int:
    await ctx.run(time.sleep, SLOW_S)
    return 0


@handler(service="Left")
async def awaits(ctx: Context, first: int) -> int:
    await asyncio.sleep(SLOW_S)
    return 0


@handler(service="Left")
async def flows(ctx: Context, first: int) -> int:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(SLOW_S))
        group.create_task(_sleep(ctx))
    return 0


async def _sleep(ctx: Context) -> None:
    await ctx.sleep(SLOW_S)


SERVICES = [sleeps, steps, threads, awaits, flows]


class Program:
    def __init__(self, path: str) -> None:
        self.path = path
        self.engine: Engine | None = None
        self.ids: list[str] = []
        self.waiting: list[asyncio.Task[Any]] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    async def begin(self) -> Engine:
        self.engine = engine = Engine(self.path, services=SERVICES, shutdown_timeout=2)
        await engine.start()
        for one in SERVICES:
            handle: Any = await engine.send(one, 1)
            self.ids.append(handle.id)
        self.waiting = [asyncio.create_task(engine.attach(id)) for id in self.ids]
        for task in self.waiting:  # they are told that there is no answer; here nobody asks them
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(0.1)
        return engine

    @asynccontextmanager
    async def closed_in_order(self, engine: Engine) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await engine.close()

    # ---- the ways to leave it ----

    def returned(self) -> None:
        asyncio.run(self.begin())

    def dropped(self) -> None:
        async def main() -> None:
            await self.begin()
            self.engine = None
            self.waiting.clear()
            gc.collect()
            await asyncio.sleep(0.05)

        asyncio.run(main())

    def exits(self) -> None:
        async def main() -> None:
            await self.begin()
            sys.exit(3)

        asyncio.run(main())

    def raises(self) -> None:
        async def main() -> None:
            await self.begin()
            raise ZeroDivisionError

        asyncio.run(main())

    def interrupted(self) -> None:
        async def main() -> None:
            await self.begin()
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(10)

        asyncio.run(main())

    def interrupted_twice(self) -> None:
        """A second Ctrl-C, while the engine waits for its steps."""

        async def main() -> None:
            async with self.closed_in_order(await self.begin()):
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(10)

        asyncio.run(main())

    def exits_inside(self) -> None:
        async def main() -> None:
            async with self.closed_in_order(await self.begin()):
                sys.exit(3)

        asyncio.run(main())

    def callback_exits(self) -> None:
        """Everything is cancelled at once, the body of the `async with` too."""

        async def main() -> None:
            async with self.closed_in_order(await self.begin()):
                asyncio.get_running_loop().call_soon(sys.exit, 3)
                await asyncio.sleep(10)

        asyncio.run(main())

    def loop_closed(self) -> None:
        """Nobody cancels anything."""
        self.loop = loop = asyncio.new_event_loop()
        loop.run_until_complete(self.begin())
        self.waiting.clear()  # they are ours, and asyncio would say so
        loop.close()

    def starting(self) -> None:
        """The event loop ends while the engine starts."""

        async def main() -> None:
            self.engine = Engine(self.path, services=SERVICES)
            starting = asyncio.create_task(self.engine.start())
            await asyncio.sleep(0)
            self.waiting = [starting]

        asyncio.run(main())

    def closing(self) -> None:
        """The event loop ends while the engine is being closed."""

        async def main() -> None:
            engine = await self.begin()
            self.waiting.append(asyncio.create_task(engine.close()))
            await asyncio.sleep(0.05)

        asyncio.run(main())


WAYS: dict[str, Callable[[Program], None]] = {
    way.__name__: way
    for way in (
        Program.returned,
        Program.dropped,
        Program.exits,
        Program.raises,
        Program.interrupted,
        Program.interrupted_twice,
        Program.exits_inside,
        Program.callback_exits,
        Program.loop_closed,
        Program.starting,
        Program.closing,
    )
}


def run_again(program: Program) -> dict[str, Any]:
    """Take the file over: what was under way goes on where it was."""

    async def main() -> dict[str, Any]:
        began = time.monotonic()
        async with Engine(program.path, services=SERVICES, shutdown_timeout=0, busy_timeout="60s") as engine:
            took = time.monotonic() - began
            failures = [(await engine.describe(id)).failures for id in program.ids]
            result = await asyncio.wait_for(engine.attach(program.ids[0]), 60) if program.ids else 2
            return {"took": took, "failures": max(failures, default=0), "result": result}

    return asyncio.run(main())


def refused_meanwhile(program: Program) -> bool:
    """Whether a second engine is refused while the first one's event loop runs."""

    async def main() -> bool:
        await program.begin()
        try:
            await Engine(program.path, services=SERVICES).start()
        except EngineLockedError:
            return True
        return False

    return asyncio.run(main())


def main() -> None:
    how, path, *more = sys.argv[1:]
    # a shell has what it starts in the background ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = Program(path)
    ended = ""
    try:
        WAYS[how](program)
    except BaseException as error:
        ended = type(error).__name__
    told: dict[str, Any] = {"ended": ended}
    if more:
        told |= run_again(program)
        told["first"] = repr(program.engine) if program.engine is not None else ""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
