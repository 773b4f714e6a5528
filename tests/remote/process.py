"""A process with an engine, to be killed: `python -m tests.remote.process app.db`."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from durable import Context, Engine, InvocationCancelled, Workflow, WorkflowContext, handler

ROOT = Path(__file__).parents[2]


@handler(service="Work")
async def double(ctx: Context, number: int) -> int:
    """Takes a while, in several steps."""
    for part in range(3):
        await ctx.sleep(0.05)
        await ctx.run(nothing, part)
    return 2 * number


@handler(service="Work", journal_retention=0)
async def forgotten(ctx: Context, number: int) -> int:
    """Its result is kept for nobody."""
    return 2 * number


@handler(service="Work")
async def listen(ctx: Context) -> str:
    """Waits for two signals."""
    return await ctx.signal("go", str) + await ctx.signal("go", str)


@handler(service="Work")
async def collect(ctx: Context, count: int) -> list[int]:
    """What so many signals bring."""
    return [await ctx.signal("go", int) for _ in range(count)]


@handler(service="Work")
async def unmoved(ctx: Context) -> int:
    """Goes on for a moment when it is cancelled; how often it was."""
    cancels = 0
    for seconds in (3600, 0.3):
        try:
            await ctx.sleep(seconds)
        except InvocationCancelled:
            cancels += 1
    return cancels


class Once(Workflow):
    """Something that happens once a key."""

    @handler
    async def run(self, ctx: WorkflowContext, number: int) -> int:
        """As `double`."""
        await ctx.sleep(0.1)
        return 2 * number


async def nothing(part: int) -> int:
    """A step."""
    return part


class EngineProcess:
    """The process, which is started, ended and started again."""

    def __init__(self, database: Path) -> None:
        self._command = [sys.executable, "-m", "tests.remote.process", str(database)]
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once its engine runs."""
        self._running = process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.stdout.close()

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Returns once it is gone."""
        if self._running is not None:
            self._running.send_signal(how)
            self._running.wait()
            self._running = None


@contextlib.asynccontextmanager
async def started(database: Path) -> AsyncIterator[EngineProcess]:
    """The process, for as long as a test needs it."""
    process = EngineProcess(database)
    await asyncio.to_thread(process.start)
    try:
        yield process
    finally:
        process.end()


async def main(database: str) -> None:
    """Run it until it is told to end."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Engine(database, services=[double, forgotten, collect, Once()], synchronous="NORMAL"):
        print("running", flush=True)  # noqa: T201
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
