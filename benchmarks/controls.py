"""What do an operator's words cost: cancel or kill ten thousand calls, forget a hundred thousand results?"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.support import folder, in_flight, steps
from benchmarks.table import Result
from durable import Context, Engine, InvocationCancelled, InvocationKilled, gather, handler

WIDTH = 100
CALLS = WIDTH + WIDTH * WIDTH
COMPLETED = 100_000


@handler(service="Tree")
async def leaf(ctx: Context) -> None:
    """Sleeps for a day."""
    await ctx.sleep("1d")


@handler(service="Tree")
async def branch(ctx: Context) -> None:
    """Calls a hundred leaves."""
    await gather(*[ctx.call(leaf) for _ in range(WIDTH)])


@handler(service="Tree")
async def root(ctx: Context) -> None:
    """Calls a hundred branches."""
    await gather(*[ctx.call(branch) for _ in range(WIDTH)])


class Heartbeat:
    """How late the event loop comes to a task that wants to run every few milliseconds."""

    def __init__(self, every_s: float = 0.005) -> None:
        self._every_s = every_s
        self._late_s: list[float] = []

    async def __aenter__(self) -> "Heartbeat":
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            wanted = time.perf_counter() + self._every_s
            await asyncio.sleep(self._every_s)
            self._late_s.append(time.perf_counter() - wanted)

    def quantile_ms(self, share: float) -> float:
        """The lateness that this share of the beats did not exceed."""
        return sorted(self._late_s)[int(share * (len(self._late_s) - 1))] * 1000


async def _end_tree(path: Path, *, kill: bool) -> tuple[float, float]:
    async with Engine(path, services=[root, branch, leaf]) as engine:
        handle = await engine.send(root)
        while len(await engine.invocations(handler="leaf", status=["suspended", "running"], limit=CALLS)) < WIDTH**2:
            await asyncio.sleep(0.1)
        async with Heartbeat() as heartbeat:
            started = time.perf_counter()
            await handle.cancel(kill=kill)
            try:
                await handle.result()
            except (InvocationCancelled, InvocationKilled):
                took = time.perf_counter() - started
        left = await engine.invocations(status=["suspended", "running", "ready", "pending"], limit=1)
        assert not left, left
    return took, heartbeat.quantile_ms(1)


def _bare(path: Path, work: Callable[[sqlite3.Connection], None]) -> float:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    started = time.perf_counter()
    work(database)
    took = time.perf_counter() - started
    database.close()
    return took


def _complete_all(database: sqlite3.Connection) -> None:
    seqs = database.execute("SELECT seq FROM _invocations").fetchall()
    database.execute("BEGIN IMMEDIATE")
    database.executemany(
        "UPDATE _invocations SET status = 'completed', completed_at = modified_at, ok = 0, output = input,"
        " expires_at = modified_at + 1, journal_until = modified_at + 1, due_at = NULL WHERE seq = ?",
        seqs,
    )
    database.execute("COMMIT")


def _tell_all(database: sqlite3.Connection) -> None:
    seqs = [row[0] for row in database.execute("SELECT seq FROM _invocations")]
    database.execute("BEGIN IMMEDIATE")
    rows = [
        (seq, 0, 10**9 + seq + add, "cancel", None, None, 0, seq, 0, b"12345", 0) for seq in seqs for add in (0, 1)
    ]
    database.executemany("INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", rows)
    database.execute("COMMIT")
    _complete_all(database)


def trees() -> list[Result]:
    """A root, a hundred branches, a hundred leaves each; measured until the caller of the root has its error."""
    results = []
    for kill, bare in ((False, _tell_all), (True, _complete_all)):
        with folder() as path:
            took, stall_ms = asyncio.run(_end_tree(path / "tree.db", kill=kill))
            floor = _bare(path / "tree.db", bare)
        verb = "kill" if kill else "cancel, leaf first,"
        results += [
            Result(f"{verb} a tree of {CALLS:,} calls (at most 5 s)", took, "s"),
            Result("  (the same rows, bare, in one transaction)", floor, "s"),
            Result(f"  longest stall of the event loop, {'kill' if kill else 'cancel'}", stall_ms, "ms"),
        ]
    return results


async def _fill(path: Path) -> None:
    async with Engine(path, services=[steps], journal_retention="1s") as engine:
        await in_flight(COMPLETED, 500, lambda _: engine.send(steps, 1))
        while await engine.invocations(status=["running", "ready"], limit=1):
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.1)


async def _purge(path: Path) -> tuple[float, Heartbeat, float]:
    """A start looks for what is over at once; meanwhile a hundred handlers work."""

    async def worker() -> None:
        while True:
            await engine.call(steps, 10)

    async with Engine(path, services=[steps], journal_retention="1d") as engine:
        workers = [asyncio.create_task(worker()) for _ in range(100)]
        async with Heartbeat() as heartbeat:
            started = time.perf_counter()
            while await _forgettable(path):
                await asyncio.sleep(0.05)
            took = time.perf_counter() - started
        async with Heartbeat() as without:
            await asyncio.sleep(3)
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return took, heartbeat, without.quantile_ms(0.99)


async def _forgettable(path: Path) -> bool:
    def look() -> bool:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            found = database.execute(
                "SELECT 1 FROM _invocations WHERE journal_retention_ms = 1000 LIMIT 1"
            ).fetchone()
        finally:
            database.close()
        return found is not None

    return await asyncio.to_thread(look)


def _delete_all(database: sqlite3.Connection) -> None:
    seqs = [row[0] for row in database.execute("SELECT seq FROM _invocations")]
    for start in range(0, len(seqs), 100):
        batch = [(seq,) for seq in seqs[start : start + 100]]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("DELETE FROM _invocations WHERE seq = ?", batch)
        database.executemany("DELETE FROM journal WHERE invocation = ?", batch)
        database.execute("COMMIT")


def purge() -> list[Result]:
    """Results past their retention are forgotten while the engine works."""
    with folder() as path:
        asyncio.run(_fill(path / "purge.db"))
        with sqlite3.connect(path / "purge.db") as source, sqlite3.connect(path / "bare.db") as copy:
            source.backup(copy)
        source.close()
        copy.close()
        took, heartbeat, without_ms = asyncio.run(_purge(path / "purge.db"))
        floor = _bare(path / "bare.db", _delete_all)
    return [
        Result(f"forget {COMPLETED:,} completed ones while 100 handlers work", took, "s"),
        Result("  (the same rows deleted bare, 100 a commit, nothing else)", floor, "s"),
        Result("  loop stall meanwhile, p99", heartbeat.quantile_ms(0.99), "ms", None, 100),
        Result("  loop stall meanwhile, longest", heartbeat.quantile_ms(1), "ms", None, 100),
        Result("  (the same handlers without a purge, p99)", without_ms, "ms"),
    ]
