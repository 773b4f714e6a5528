"""What do checksums cost?"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any
from unittest import mock

from benchmarks.support import folder, steps
from benchmarks.table import Result
from durable import Engine
from durable.core.journal import Row

HANDLERS, COUNT, ROUNDS = 100, 150, 7


async def _cpu() -> float:
    """Microseconds of CPU a step takes, on both threads."""
    with folder() as path:
        async with Engine(path / "bench.db", services=[steps], synchronous="NORMAL") as engine:
            await asyncio.gather(*[engine.call(steps, 10) for _ in range(HANDLERS)])
            started = time.process_time()
            await asyncio.gather(*[engine.call(steps, COUNT) for _ in range(HANDLERS)])
            return (time.process_time() - started) / (HANDLERS * COUNT) * 1e6


def _without(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    return [(*row, None) for row in rows]


def checksums() -> list[Result]:
    """CPU of a step with the checksum of its row, and without: in alternating rounds, the least of each."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(asyncio.run(_cpu()))
        with mock.patch("durable.store.statements.with_checksums", _without):
            bare.append(asyncio.run(_cpu()))
    return [Result("CPU of a step (floor: without its checksum)", min(ours), "us", min(bare), 1.03)]
