"""Starts the services and the engine, kills the engine again and again, and gathers what is left behind."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

import httpx
import msgspec

from examples.checkout.books import Entry, Outcome, Tally
from examples.checkout.engine import Files, Report

#: An engine that neither starts nor finishes an order for this long is stuck.
STALL_S = 60.0


class Kill(msgspec.Struct, frozen=True):
    """One planned kill: a random moment after `after` orders are done."""

    after: int
    delay_s: float
    #: Kill the next process, too, this long after its birth: while it starts, recovers or begins to work.
    again_s: float | None


class Timing(msgspec.Struct):
    """Where the time went, in seconds."""

    wall: float = 0.0
    #: From the birth of a process to its being ready, for each one that got there.
    starts: list[float] = []


class Evidence(msgspec.Struct):
    """Everything the run left behind, for the verdict."""

    kills: int
    early_kills: int
    #: Kills after which an order that had begun before began again, in a later process.
    hits: int
    #: Invocations that were resumed after a kill, and how often altogether.
    replayed: int
    replays: int
    #: Times a handler began again within one process: tries after an error.
    retries: int
    outcomes: list[Outcome]
    stock: list[Entry]
    payment: list[Entry]
    stock_tally: Tally
    payment_tally: Tally
    spent: dict[str, dict[str, int]]
    #: What SQLite says about the engine's file: "ok".
    integrity: str
    timing: Timing


class EngineStuck(Exception):
    """The engine process ended by itself or made no progress; the message holds the end of its log."""


def plan_kills(seed: int, kills: int, orders: int) -> list[Kill]:
    """Spread the kills over the run, each at a random moment of its share; the last orders have peace."""
    draw = random.Random(f"kills {seed}")
    return [
        Kill(
            after=int((nth + draw.uniform(0.1, 0.9)) * 0.92 * orders / kills),
            delay_s=draw.uniform(0, min(0.08, 1.6 / kills)),
            again_s=draw.uniform(0, 1.2) if draw.random() < 0.25 else None,
        )
        for nth in range(kills)
    ]


async def drive(
    folder: Path,
    orders: Path,
    seed: int,
    kills: Sequence[Kill],
    concurrency: int,
    show: Callable[[int, int], None],
) -> Evidence:
    """Run everything once. `show` is told how many orders are done and how many kills there were, often."""
    files = Files(folder)
    timing = Timing()
    async with AsyncExitStack() as stack:
        log = stack.enter_context(files.engine_log.open("ab"))
        stock = await stack.enter_async_context(_service("stock", folder, seed))
        payment = await stack.enter_async_context(_service("payment", folder, seed))
        arguments = ["--orders", str(orders), "--folder", str(folder), "--concurrency", str(concurrency)]
        arguments += ["--stock", stock, "--payment", payment]

        began = time.perf_counter()
        done = run = early = killed = 0
        again_s: float | None = None
        victims: list[int] = []
        while True:
            async with _process("engine", *arguments, "--run", str(run), log=log) as engine:
                if again_s is not None:
                    await asyncio.sleep(again_s)
                    early += await _kill(engine, files)
                    again_s = None
                else:
                    kill = kills[killed] if killed < len(kills) else None
                    target = max(kill.after, done + 1) if kill else 0
                    finished = False
                    async for report in _reports(engine, files, timing):
                        done = max(done, report.done)
                        show(done, killed + early)
                        finished = report.event == "finished"
                        if finished or (kill and report.done >= target and report.busy):
                            break
                    if kill is None or finished:
                        break
                    await asyncio.sleep(kill.delay_s)
                    if not await _kill(engine, files):
                        break
                    victims.append(run)
                    killed += 1
                    again_s = kill.again_s
            run += 1
        timing.wall = time.perf_counter() - began

        async with httpx.AsyncClient(timeout=10) as http:
            stock_entries, stock_tally = await _gather(http, stock)
            payment_entries, payment_tally = await _gather(http, payment)
    hits, replayed, replays, retries = _count(files.entered, victims)
    return Evidence(
        kills=killed,
        early_kills=early,
        hits=hits,
        replayed=replayed,
        replays=replays,
        retries=retries,
        outcomes=[msgspec.json.decode(line, type=Outcome) for line in files.outcomes.read_bytes().splitlines()],
        stock=stock_entries,
        payment=payment_entries,
        stock_tally=stock_tally,
        payment_tally=payment_tally,
        spent=msgspec.json.decode(files.spent.read_bytes(), type=dict[str, dict[str, int]]),
        integrity=_integrity(files.database),
        timing=timing,
    )


async def _reports(engine: Process, files: Files, timing: Timing) -> AsyncIterator[Report]:
    """What the engine process says; raises `EngineStuck` when it stalls, or ends before it is finished."""
    born = time.perf_counter()
    assert engine.stdout is not None
    while True:
        try:
            line = await asyncio.wait_for(engine.stdout.readline(), STALL_S)
        except TimeoutError:
            raise EngineStuck(f"no progress for {STALL_S:.0f} s\n{_tail(files.engine_log)}") from None
        if not line:
            code = await engine.wait()
            raise EngineStuck(f"the engine process ended with code {code}\n{_tail(files.engine_log)}")
        report = msgspec.json.decode(line, type=Report)
        if report.event == "ready":
            timing.starts.append(time.perf_counter() - born)
        yield report


async def _kill(process: Process, files: Files) -> bool:
    """SIGKILL; False when the process had finished before, `EngineStuck` when it had failed before."""
    if process.returncode is None:
        process.kill()
    code = await process.wait()
    if code not in (0, -signal.SIGKILL):
        raise EngineStuck(f"the engine process ended with code {code}\n{_tail(files.engine_log)}")
    return code != 0


@asynccontextmanager
async def _service(trade: str, folder: Path, seed: int) -> AsyncGenerator[str, None]:
    """A running service; yields its address."""
    books = folder / f"{trade}.db"
    with (folder / f"{trade}.log").open("ab") as log:
        async with _process("services", trade, "--books", str(books), "--seed", str(seed), log=log) as process:
            assert process.stdout is not None
            port = await asyncio.wait_for(process.stdout.readline(), STALL_S)
            if not port:
                raise RuntimeError(f"the {trade} service did not start\n{_tail(folder / f'{trade}.log')}")
            yield f"http://127.0.0.1:{int(port)}"


@asynccontextmanager
async def _process(module: str, *arguments: str, log: IO[bytes]) -> AsyncGenerator[Process, None]:
    """A module of this package as a child process. It ends with the block, and with us: it reads our pipe."""
    command = [sys.executable, "-m", f"examples.checkout.{module}", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=log)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _gather(http: httpx.AsyncClient, address: str) -> tuple[list[Entry], Tally]:
    """The books and the tally, once no request of a killed engine is under way any more."""
    deadline = time.monotonic() + STALL_S
    while True:
        tally = msgspec.json.decode((await http.get(f"{address}/faults")).content, type=Tally)
        if tally.in_flight == 0:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{address} still works on {tally.in_flight} requests")
        await asyncio.sleep(0.05)
    return msgspec.json.decode((await http.get(f"{address}/books")).content, type=list[Entry]), tally


def _count(entered: Path, victims: Sequence[int]) -> tuple[int, int, int, int]:
    """Kills that hit, invocations replayed, replays, retries: from the notes of every handler's begin."""
    begun: Counter[tuple[str, int]] = Counter()
    for line in entered.read_text().splitlines():
        run, order = line.split(" ", 1)
        begun[order, int(run)] += 1
    runs: dict[str, list[int]] = {}
    for order, at in begun:
        runs.setdefault(order, []).append(at)
    resumed = {order: sorted(at) for order, at in runs.items() if len(at) > 1}
    interrupted = {at for times in resumed.values() for at in times[:-1]}
    return (
        len(interrupted & set(victims)),
        len(resumed),
        sum(len(times) - 1 for times in resumed.values()),
        sum(times - 1 for times in begun.values()),
    )


def _integrity(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))
    finally:
        connection.close()


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
