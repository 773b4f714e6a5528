"""How soon does another process take over, when the one that runs the handlers is killed?"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import durable
from benchmarks.support import folder
from benchmarks.table import Result
from durable import Context, Engine, handler

ROUNDS = 7
#: What may pass, in ms.
TARGET = 1000.0


@handler(service="Bench")
async def runs_in(ctx: Context) -> int:
    """The process that runs handlers."""
    return os.getpid()


@contextlib.contextmanager
def _worker(path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.standby", str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "running\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _felt(path: Path) -> float:
    """From a kill to the end of a call that is run by the next holder, in ms."""
    with _worker(path) as first, _worker(path) as second:
        async with durable.connect(path) as client:
            assert await client.call(runs_in) == first.pid
            await asyncio.sleep(1)  # by then the second one has got ready
            began = time.perf_counter()
            first.send_signal(signal.SIGKILL)
            while await client.call(runs_in) != second.pid:
                pass
            return (time.perf_counter() - began) * 1e3


def take_over() -> list[Result]:
    """What a caller sees of it: the median and the worst kill."""
    with folder() as path:
        felt = sorted(asyncio.run(_felt(path / f"{number}.db")) for number in range(ROUNDS))
    return [
        Result("take-over after SIGKILL, as a caller sees it", felt[ROUNDS // 2], "ms", None, TARGET),
        Result(f"take-over after SIGKILL, the worst of {ROUNDS}", felt[-1], "ms", None, TARGET),
    ]


async def _serve(path: str) -> None:
    async with Engine(path, services=[runs_in], standby=True):
        print("running", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
