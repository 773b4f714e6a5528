"""Plain steps run in threads of the engine's own, and do not stand still where they need each other."""

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from durable import Context, Engine, RetryPolicy, UsageError, handler
from durable.runtime import threads
from tests.runtime.support import settled

ONCE = RetryPolicy(max_attempts=1, on_max_attempts="kill")


class Gate:
    """Plain steps that stay in their threads until they are let go."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def stay(self, number: int) -> int:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._open.wait(60)
        with self._lock:
            self.inside -= 1
        return number

    async def has(self, count: int) -> None:
        await until(lambda: self.inside == count)

    def let_go(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.let_go()


def staying(gate: Gate) -> Any:
    @handler(service="Threads", name="stays", retry=ONCE)
    async def stays(ctx: Context, number: int) -> int:
        return await ctx.run(gate.stay, number)

    return stays


def said(caplog: pytest.LogCaptureFixture, pattern: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if re.search(pattern, record.getMessage())]


async def until(true: Any) -> None:
    while not true():  # noqa: ASYNC110 (threads make it true)
        await asyncio.sleep(0.005)


def test_so_many_run_at_a_time_and_the_others_wait(tmp_path: Path, gate: Gate) -> None:
    stays = staying(gate)

    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[stays], max_step_threads=3) as engine:
            calls = [asyncio.create_task(engine.call(stays, number)) for number in range(10)]
            await gate.has(3)
            await asyncio.sleep(0.05)
            assert gate.inside == 3
            gate.let_go()
            assert await asyncio.gather(*calls) == list(range(10))
            assert gate.most == 3

    asyncio.run(story())


def test_other_users_of_threads_and_a_backup_never_wait_for_them(tmp_path: Path, gate: Gate) -> None:
    stays = staying(gate)

    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[stays]) as engine:
            calls = [asyncio.create_task(engine.call(stays, number)) for number in range(60)]
            await gate.has(60)  # anyio has 40
            assert await to_thread.run_sync(lambda: "a sync endpoint") == "a sync endpoint"
            assert await asyncio.to_thread(lambda: "and asyncio's") == "and asyncio's"
            await engine.backup(tmp_path / "copy.db")
            gate.let_go()
            await asyncio.gather(*calls)

    asyncio.run(story())


@pytest.mark.parametrize("how", ["call", "result", "attach"])
def test_steps_that_need_steps_do_not_stand_still(tmp_path: Path, how: str) -> None:
    """Each plain step waits for another handler, which has a plain step, too; there is one thread, and one slot."""

    def tiny(number: int) -> int:
        return number

    @handler(service="Threads")
    async def inner(ctx: Context, number: int) -> int:
        return await ctx.run(tiny, number)

    async def story() -> None:
        loop = asyncio.get_running_loop()

        async def ask(number: int) -> int:
            if how == "call":
                return await engine.call(inner, number)
            handle = await engine.send(inner, number)
            return await (handle.result() if how == "result" else engine.attach(handle.id, int))

        def nested(number: int) -> int:
            return asyncio.run_coroutine_threadsafe(ask(number), loop).result(60)

        @handler(service="Threads", retry=ONCE)
        async def outer(ctx: Context, number: int) -> int:
            return await ctx.run(nested, number)

        options: dict[str, Any] = {"max_step_threads": 1, "max_concurrent_invocations": 1}
        async with Engine(tmp_path / "x.db", services=[inner, outer], **options) as engine:
            assert await asyncio.gather(*(engine.call(outer, number) for number in range(20))) == list(range(20))

    asyncio.run(story())


def test_an_async_step_and_a_handler_that_wait_for_the_engine_do_not_keep_their_slot_from_it(tmp_path: Path) -> None:
    @handler(service="Threads")
    async def inner(ctx: Context, number: int) -> int:
        return number

    async def story() -> None:
        async def ask(number: int) -> int:
            return await engine.call(inner, number)

        @handler(service="Threads", retry=ONCE)
        async def in_a_step(ctx: Context, number: int) -> int:
            return await ctx.run(ask, number)

        @handler(service="Threads", retry=ONCE)
        async def in_the_handler(ctx: Context, number: int) -> int:
            return await ask(number)

        services = [inner, in_a_step, in_the_handler]
        async with Engine(tmp_path / "x.db", services=services, max_concurrent_invocations=1) as engine:
            for asks in (in_a_step, in_the_handler):
                assert await asyncio.gather(*(engine.call(asks, number) for number in range(5))) == list(range(5))
            world = engine._running().world
            assert (world.lent, world.running) == ({}, set())

    asyncio.run(story())


def test_a_slot_that_was_lent_is_taken_back(tmp_path: Path) -> None:
    """When the one that waited goes on, no more begin than there are slots."""
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    @handler(service="Threads")
    async def inner(ctx: Context) -> None:
        await ctx.run(work)

    async def story() -> None:
        async def ask() -> None:
            await engine.call(inner)

        @handler(service="Threads", retry=ONCE)
        async def outer(ctx: Context) -> None:
            await ctx.run(ask)
            await ctx.run(work)

        async with Engine(tmp_path / "x.db", services=[inner, outer], max_concurrent_invocations=2) as engine:
            await asyncio.gather(*(engine.call(outer) for _ in range(6)))

    asyncio.run(story())
    assert most <= 4, "two that run, and two in whose slots others do"


def test_who_holds_all_threads_is_named(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "PATIENCE_S", 0.05)
    stays = staying(gate)

    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[stays], max_step_threads=2) as engine:
            calls = [asyncio.create_task(engine.call(stays, number)) for number in range(5)]
            await until(lambda: said(caplog, "plain steps wait"))
            gate.let_go()
            await asyncio.gather(*calls)

    asyncio.run(story())
    [line] = said(caplog, "plain steps wait")
    assert line.startswith("3 plain steps wait for a thread, because all 2 are taken (max_step_threads), by the step")
    assert line.count("the step 'stay' of Threads/stays inv_") == 2


def test_threads_that_a_time_out_gave_up_are_counted_named_and_bounded(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of them at most beside two that are waited for; then steps wait until one comes back."""

    @handler(service="Threads", retry=RetryPolicy(initial_interval="1ms", max_attempts=1000))
    async def hurried(ctx: Context, number: int) -> int:
        return await ctx.with_options(timeout="10ms").run(gate.stay, number)

    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[hurried], max_step_threads=2) as engine:
            handles = [await engine.send(hurried, number) for number in range(6)]
            await until(lambda: len(said(caplog, "was given up")) >= 4)
            await asyncio.sleep(0.2)
            assert gate.most == 4
            gate.let_go()
            assert [(await settled(engine, handle.id)).status for handle in handles] == ["completed"] * 6
            assert engine._running().lending.threads.given_up == 0

    asyncio.run(story())
    first, *_ = said(caplog, "was given up")
    assert re.match(r"the step 'stay' of Threads/hurried inv_\w+ was given up, but a thread cannot be stopped", first)
    assert said(caplog, "4 such threads run now, and each more takes a step's place")


def test_one_that_waited_for_a_thread_and_was_cancelled_leaves_its_place_to_the_next(
    tmp_path: Path, gate: Gate
) -> None:
    stays = staying(gate)

    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[stays], max_step_threads=1) as engine:
            first = await engine.send(stays, 1)
            await gate.has(1)
            given_up = [await engine.send(stays, number) for number in (2, 3)]
            last = await engine.send(stays, 4)
            await asyncio.sleep(0.05)
            for handle in given_up:
                await handle.cancel(kill=True)
            gate.let_go()
            assert (await first.result(), await last.result()) == (1, 4)

    asyncio.run(story())


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "4", None])
def test_a_number_of_threads_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_step_threads must be an integer of at least 1"):
        Engine("x.db", max_step_threads=wrong)
