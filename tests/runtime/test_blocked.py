"""R-11: who blocks the event loop is named, once, and nobody else has to pay for it.

Time is real here: only a thread can see an event loop that stands still.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from durable import Context, Engine, RetryPolicy, TerminalError, handler
from durable.runtime import blocked
from durable.testing import run as run_in_virtual_time
from tests.runtime.support import engine_on as engine_in_virtual_time

#: Seconds: how late the lookout may be on a busy machine.
LATE = 0.4
#: What is noticed whenever it begins.
STALL = blocked.PERIOD_S + blocked.LIMIT_S + blocked.LOOK_AGAIN_S + LATE
#: How long blocks have really lasted.
lasted: list[float] = []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


def engine_on(path: Path, *services: object, **options: Any) -> Engine:
    return Engine(path, services, synchronous="NORMAL", **options)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the engine warned of."""
    return [record.getMessage() for record in caplog.records if record.name == "durable.invocation"]


def lookouts() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "durable-blocked"]


def run(story: Coroutine[Any, Any, None]) -> None:
    """On an event loop whose time is real; and no lookout outlives it."""
    asyncio.run(story)
    for one in lookouts():  # a close waits for them, though not for long
        one.join(60)
    assert lookouts() == []


def block(seconds: float) -> None:
    """What an async function should not call."""
    began = time.monotonic()
    time.sleep(seconds)
    lasted.append(time.monotonic() - began)


@handler(service="Blocks")
async def blocks(ctx: Context, seconds: float) -> None:
    block(seconds)


@handler(service="Waits")
async def waits(ctx: Context, seconds: float) -> str:
    """Not durably: it stays in memory."""
    await asyncio.sleep(seconds)
    return "waited"


# ---- who is named ----


def test_a_handler_that_blocks_is_named_once_with_its_place_and_a_way_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with engine_on(path, blocks) as engine:
            handle = await engine.send(blocks, STALL)
            await handle.result()
            await asyncio.sleep(0.3)
            (line,) = told(caplog)
            assert line.startswith(f"Blocks/blocks {handle.id}: the handler blocked the event loop")
            assert [getattr(record, "invocation_id", None) for record in caplog.records] == [handle.id]
            assert re.search(rf"{re.escape(__file__)}:\d+ in block: .*ctx\.run", line)
            found = re.search(r"for about (\d+\.\d) s", line)
            assert found is not None
            assert lasted[-1] - 0.25 - LATE < float(found[1]) < lasted[-1] + 0.25

    run(story())
    assert len(told(caplog)) == 1


def test_handlers_of_two_engines_are_named_each_once_even_if_these_close_at_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both can be ready in the same round of the event loop, so that it answers only when the second has yielded."""
    ids: list[str] = []

    async def step() -> None:
        block(STALL)

    @handler(service="Steps")
    async def steps(ctx: Context) -> None:
        await ctx.run(step)

    async def story() -> None:
        async with engine_on(path, blocks) as engine, engine_on(path.with_name("other.db"), steps) as other:
            first, second = await asyncio.gather(engine.send(blocks, STALL), other.send(steps))
            ids.extend([first.id, second.id])
            await asyncio.gather(first.result(), second.result())

    run(story())
    expected = {f"Blocks/blocks {ids[0]}", f"Steps/steps {ids[1]}"}
    assert {line.split(":")[0] for line in told(caplog)} == expected
    assert len(told(caplog)) == 2


def test_where_each_blocks_for_a_moment_the_event_loop_is_called_busy(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with engine_on(path, blocks) as engine:
            await asyncio.gather(*[engine.call(blocks, 0.1) for _ in range(13)])

    run(story())
    (line,) = told(caplog)
    assert "many things in a row" in line
    assert "Blocks/blocks" in line


def test_a_task_of_a_handler_is_named_by_its_invocation_and_the_place_in_its_own_code(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids: list[str] = []

    async def child() -> None:
        await asyncio.sleep(0.01)
        subprocess.run(["sleep", str(STALL)], check=True)  # noqa: ASYNC221

    @handler(service="Spawns")
    async def spawns(ctx: Context) -> None:
        ids.append(ctx.request.id)
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async def story() -> None:
        async with engine_on(path, spawns) as engine:
            await engine.call(spawns)

    run(story())
    (line,) = told(caplog)
    assert line.startswith(f"Spawns/spawns {ids[0]}: ")
    assert re.search(rf"{re.escape(__file__)}:\d+ in .*child: ", line)


def test_a_task_that_a_step_has_started_is_named_by_its_coroutine(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def child() -> None:
        block(STALL)

    async def step() -> None:
        await asyncio.gather(child())

    @handler(service="Steps")
    async def steps(ctx: Context) -> None:
        await ctx.run(step)

    async def story() -> None:
        async with engine_on(path, steps) as engine:
            await engine.call(steps)

    run(story())
    (line,) = told(caplog)
    assert "what a step has started" in line
    assert "child" in line


def test_what_is_no_handler_is_told_of_once_and_blamed_on_none_not_even_on_a_step_that_blocks_its_thread(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @handler(service="Innocent")
    async def steps(ctx: Context) -> None:
        await ctx.run(block, 2 * STALL)

    async def story() -> None:
        async with engine_on(path, waits) as engine, engine_on(path.with_name("other.db"), steps) as other:
            calls = asyncio.gather(engine.call(waits, STALL), other.call(steps))
            await asyncio.sleep(0.1)
            assert len(lookouts()) == 1
            block(STALL)
            await calls

    run(story())
    (line,) = told(caplog)
    assert "something that is no handler" in line
    assert re.search(rf"{re.escape(__file__)}:\d+ in block", line)
    assert "Innocent" not in line and "Waits" not in line


def test_a_stall_that_does_not_end_is_named_while_it_lasts(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "ENDLESS_S", blocked.LIMIT_S)
    seen: list[list[str]] = []

    @handler(service="Endless")
    async def endless(ctx: Context) -> None:
        block(STALL)  # and that is not all
        seen.append(told(caplog))
        block(0.1)

    async def story() -> None:
        async with engine_on(path, endless) as engine:
            await engine.call(endless)

    run(story())
    (line,) = told(caplog)
    assert "and still does" in line
    assert seen == [[line]]


def test_a_c_function_that_keeps_the_gil_is_told_of_when_it_is_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lookout cannot run meanwhile, and may come too late to see who it was."""

    @handler(service="Hogs")
    async def hogs(ctx: Context) -> None:
        count, lasted = 3_000_000, 0.0
        while lasted < STALL:
            started = time.thread_time()
            sum(range(count))
            lasted = time.thread_time() - started
            count = int(count * 1.5 * STALL / lasted)

    async def story() -> None:
        async with engine_on(path, hogs) as engine:
            await engine.call(hogs)

    run(story())
    assert any("process stood still" in line or "the event loop" in line for line in told(caplog)), told(caplog)


# ---- who pays ----


def test_no_timeout_is_charged_to_an_innocent_invocation(path: Path) -> None:
    """It was to be aborted in the middle of a stall; without that it would have ended long before."""
    attempts: list[int] = []

    @handler(service="Innocent", inactivity_timeout=0.4, abort_timeout=0.4)
    async def innocent(ctx: Context) -> str:
        attempts.append(ctx.request.attempt)
        return await waits(ctx, 0.6)

    @handler(service="Endless", inactivity_timeout=0.2, abort_timeout=0.2)
    async def endless(ctx: Context) -> None:
        await asyncio.sleep(3600)

    async def story() -> None:
        retry = RetryPolicy(max_attempts=1, on_max_attempts="kill")
        async with engine_on(path, innocent, endless, blocks, retry=retry) as engine:
            innocent_one, endless_one = await engine.send(innocent), await engine.send(endless)
            await asyncio.sleep(0.2)
            await engine.call(blocks, STALL)
            assert await innocent_one.result() == "waited"
            async with asyncio.timeout(60):
                with pytest.raises(TerminalError, match="abort timeout"):  # a stall puts it off, no more
                    await endless_one.result()

    run(story())
    assert attempts == [1]


# ---- the thread ----


def test_the_thread_starts_with_the_first_attempt_and_sleeps_while_there_is_none(path: Path) -> None:
    async def story() -> None:
        async with engine_on(path, waits) as engine:
            assert lookouts() == []
            await engine.call(waits, 0)
            (thread,) = lookouts()
            assert thread.daemon, "it must not keep the process alive"
            lookout = blocked._Lookout._all[asyncio.get_running_loop()]
            while not lookout._parked:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            answered_at = lookout._answered_at
            await asyncio.sleep(blocked.PERIOD_S + 0.1)
            assert lookout._answered_at == answered_at, "it asks although nobody can block"
            await engine.call(waits, 0)
            assert lookouts() == [thread]

    run(story())


def test_engines_that_come_and_go_leave_no_threads(path: Path) -> None:
    async def story() -> None:
        for _ in range(30):
            async with engine_on(path, waits) as engine:
                await engine.call(waits, 0)
                assert len(lookouts()) == 1
            assert lookouts() == []

    run(story())
    assert blocked._Lookout._all == {}


def test_in_virtual_time_nobody_looks(path: Path) -> None:
    async def story() -> None:
        async with engine_in_virtual_time(path, waits) as engine:
            handle = await engine.send(waits, 10)
            await asyncio.sleep(5)
            assert lookouts() == []
            await handle.result()

    run_in_virtual_time(story)


def test_an_event_loop_that_is_left_for_a_while_is_not_blocked(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    try:
        engine = loop.run_until_complete(engine_on(path, waits).start())
        handle = loop.run_until_complete(engine.send(waits, 0.1))
        block(STALL)
        assert loop.run_until_complete(handle.result()) == "waited"
        loop.run_until_complete(engine.close())
    finally:
        loop.close()
    assert lookouts() == []
    assert told(caplog) == []


STOPPED = """
import asyncio, logging, sys
from durable import Context, Engine, handler

logging.basicConfig(stream=sys.stdout, format="%(message)s")

@handler(service="Waits")
async def waits(ctx: Context) -> None:
    print("waits", flush=True)
    await asyncio.sleep(0.5)

async def main() -> None:
    async with Engine(sys.argv[1], [waits], inactivity_timeout=0.5, abort_timeout=0.5) as engine:
        await engine.call(waits)
        print("done", flush=True)

asyncio.run(main())
"""


@pytest.mark.process
def test_a_process_that_was_stopped_blames_nobody_and_charges_nobody(path: Path) -> None:
    """As by a debugger."""
    with subprocess.Popen([sys.executable, "-c", STOPPED, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.read() == "done\n"
