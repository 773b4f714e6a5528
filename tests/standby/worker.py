"""A process of several on one file: `python -m tests.standby.worker app.db`. It calls what its standard input says.

A line `wait 7` has it call `wait` on the key 7; when that has ended, it prints `7 VALUE`.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from durable import Engine, ObjectContext, SharedObjectContext, VirtualObject, handler

ROOT = Path(__file__).parents[2]


class Job(VirtualObject):
    """Something to wait for."""

    @handler
    async def wait(self, ctx: ObjectContext) -> int:
        """Until somebody signals; the process that runs it then."""
        await ctx.signal("go")
        return os.getpid()

    @handler(shared=True)
    async def runs_in(self, ctx: SharedObjectContext) -> int:
        """The process that runs handlers."""
        return os.getpid()


class Worker:
    """The process."""

    def __init__(self, database: Path) -> None:
        """Returns once its engine runs or is on standby."""
        command = [sys.executable, "-m", "tests.standby.worker", str(database)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.role = self.told()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, line: str) -> None:
        """Have it call something."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def told(self) -> str:
        """The next line it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Returns at once."""
        self._process.send_signal(how)

    def bury(self) -> None:
        """Returns once it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


async def main(database: str) -> None:
    """Run it until it is told to end."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with Engine(database, services=[Job()], synchronous="NORMAL", standby=True) as engine:
        print(engine.role, flush=True)  # noqa: T201

        async def call(key: str) -> None:
            print(key, await engine.call(Job.wait, key=key), flush=True)  # noqa: T201

        async def listen() -> None:
            async with asyncio.TaskGroup() as calls:
                while line := (await lines.readline()).decode().split():
                    calls.create_task(call(line[1]))

        listening = asyncio.ensure_future(listen())
        await ended.wait()
        listening.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
