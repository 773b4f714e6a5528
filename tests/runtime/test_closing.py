"""A shutdown is quiet: what is left is one line of the log, and nothing is tried on a store that is closed."""

import asyncio
import logging
import re
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from durable import Context, Engine, EngineNotRunningError, handler
from durable.runtime import threads
from durable.store import Store
from durable.testing import MemoryStore, run
from durable.testing.faults import around
from tests.runtime.support import complaints

#: The numbers of those that are where they are to be when the engine closes.
begun: list[int] = []


async def for_long(number: int) -> None:
    begun.append(number)
    await asyncio.sleep(30)


@handler(service="Many")
async def endless(ctx: Context, number: int) -> None:
    await ctx.run(for_long, number)


@handler(service="Many")
async def swallows(ctx: Context, number: int) -> None:
    begun.append(number)
    while True:
        try:
            await asyncio.sleep(0.01)
        except (
            GeneratorExit
        ):  # garbage collected long after the test: Python complains of one that swallows this, too
            raise
        except BaseException:
            await asyncio.sleep(0)


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("durable.") and record.levelno >= level
    ]


@pytest.mark.parametrize("ticks", range(8))
def test_a_close_without_any_time_while_steps_end_says_nothing_of_a_closed_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ticks: int
) -> None:
    """However far the outcomes of two hundred steps have come by then: they are committed, or as if never given."""

    async def story() -> None:
        now = asyncio.Event()
        waiting = []

        async def wait() -> None:
            waiting.append(1)
            await now.wait()

        @handler(service="Many")
        async def many(ctx: Context, number: int) -> int:
            await ctx.run(wait)
            return number

        async with Engine(tmp_path / "a.db", services=[many], shutdown_timeout=0, synchronous="NORMAL") as engine:
            asks = [asyncio.create_task(engine.call(many, number)) for number in range(200)]
            while len(waiting) < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            now.set()
            for _ in range(ticks):
                await asyncio.sleep(0)
        told = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(one) for one in told} <= {int, EngineNotRunningError}
        assert engine.failure is None

    asyncio.run(story())
    assert said(caplog, logging.ERROR) == []
    assert [text for text in said(caplog) if "closed" in text or "failed" in text] == []
    assert complaints(caplog) == []


def test_what_was_handed_in_is_committed_by_a_close_without_any_time(tmp_path: Path) -> None:
    """A step whose result the engine was given does not run again, although nobody was left to see it committed."""
    executed: list[int] = []
    stepped = asyncio.Event()

    async def step(number: int) -> int:
        executed.append(number)
        stepped.set()
        return number

    @handler(service="Last")
    async def last(ctx: Context) -> int:
        return await ctx.run(step, 1)

    async def story() -> None:
        engine = Engine(tmp_path / "a.db", services=[last], shutdown_timeout=0)
        await engine.start()
        handle = await engine.send(last)
        await stepped.wait()
        await engine.close()
        async with engine:
            assert await handle.result() == 1

    asyncio.run(story())
    assert executed == [1]


def test_two_hundred_steps_that_still_run_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun.clear()

    async def story() -> None:
        async with Engine(tmp_path / "a.db", services=[endless, swallows], shutdown_timeout="100ms") as engine:
            for number in range(200):
                await engine.send(endless, number)
            for number in range(50):
                await engine.send(swallows, number)
            while len(begun) < 250:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(story())
    steps, handlers = said(caplog)
    assert "200 steps still ran" in steps
    assert steps.count("'for_long' of Many/endless inv_1") == 10
    assert steps.endswith(", …")
    count = re.search(r"(\d+) handlers did not end", handlers)
    assert count is not None
    assert int(count[1]) >= 50, "and those that had no time to"
    assert handlers.count(" inv_1") == 10


def test_handlers_that_swallow_everything_do_not_keep_asyncio_run_from_its_end(tmp_path: Path) -> None:
    """R-32: it would wait for their tasks for ever. They were let go: `swallows` never returns."""

    async def story() -> None:
        async with Engine(tmp_path / "a.db", services=[swallows], shutdown_timeout="100ms") as engine:
            for number in range(10):
                await engine.send(swallows, number)
            while len(begun) < 10:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    begun.clear()
    thread = threading.Thread(target=asyncio.run, args=(story(),), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_a_commit_that_does_not_return_holds_up_a_close_for_a_moment_only(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's lock on the file, or a disk that hangs: whether it took effect is seen at the next start."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        hangs = False

        def do(name: str, method: Any, arguments: tuple[Any, ...]) -> Any:
            return loop.create_future() if hangs and name == "commit" else method(*arguments)

        memory = MemoryStore()
        store: Store = around(memory, do)
        engine = await Engine(services=[endless], store=store, shutdown_timeout="3s").start()
        await engine.send(endless, 1)
        hangs = True
        asking = asyncio.create_task(engine.send(endless, 2))
        await asyncio.sleep(0.01)
        before = loop.time()
        await engine.close()
        assert loop.time() - before <= 4.1
        with pytest.raises(EngineNotRunningError):
            await asking
        assert not memory.tables.in_use, "the file is let go"
        hangs = False
        async with engine:
            assert len(await engine.invocations()) == 1

    run(story)
    assert any("whether it took effect is unknown" in text for text in said(caplog))


@pytest.mark.parametrize("ends", ["closed", "abandoned"])
def test_nothing_of_an_engine_that_ended_is_left_not_even_threads_without_work(tmp_path: Path, ends: str) -> None:
    """They would wait ten seconds for the next plain step. One that is still in a step ends after it."""
    release, entered = threading.Event(), threading.Event()

    def blocks() -> None:
        entered.set()
        release.wait(100)

    def quick() -> None:
        pass

    @handler(service="Many")
    async def plain(ctx: Context, number: int) -> None:
        await ctx.run(blocks if number < 0 else quick)

    async def story() -> None:
        engine = await Engine(tmp_path / "a.db", services=[plain], shutdown_timeout="100ms").start()
        await asyncio.gather(*[engine.call(plain, number) for number in range(5)])
        assert steps()
        await engine.send(plain, -1)
        await asyncio.to_thread(entered.wait, 60)
        if ends == "closed":
            await engine.close()
        else:
            engine.abandon()
        await nothing_but(1)
        release.set()
        await nothing_but(0)

    def steps() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "durable-step" and one not in before]

    async def nothing_but(busy: int) -> None:
        async with asyncio.timeout(60):
            while len(steps()) > busy:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    before = set(threading.enumerate())
    asyncio.run(story())


def test_a_step_that_ends_as_its_engine_does_leaves_no_thread_behind() -> None:
    """Its thread becomes idle after the engine has looked for idle ones."""
    before = set(threading.enumerate())

    async def story() -> None:
        own = threads.Threads(asyncio.get_running_loop(), 1, copy_context())
        for _ in range(200):
            await own.run(lambda: None, str)
            threads.end_idle_threads()  # at once: the thread may not have got that far

    asyncio.run(story())
    left = [one for one in threading.enumerate() if one.name == "durable-step" and one not in before]
    for one in left:
        one.join(60)
    assert not any(one.is_alive() for one in left)


def test_with_an_eager_task_factory_no_load_is_left_under_way(caplog: pytest.LogCaptureFixture) -> None:
    """From Python 3.12 on. It ended before it was known as the one under way, and every close warned of it."""

    @handler(service="Eager")
    async def echo(ctx: Context, text: str) -> str:
        return text

    async def story() -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
        async with Engine(services=[echo], store=MemoryStore()) as engine:
            assert await engine.call(echo, "here", idempotency_key="once") == "here"

    run(story)
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []
