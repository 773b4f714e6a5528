"""One engine, one file, one process, one event loop; and an engine that leaves nothing behind when it goes."""

import asyncio
import gc
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from durable import (
    Context,
    Engine,
    EngineLockedError,
    EngineNotRunningError,
    NotFoundError,
    StorageCorruptError,
    StorageReadOnlyError,
    TerminalError,
    UsageError,
    WrongLoopError,
    handler,
)
from durable.testing import run
from tests.runtime.program import ASKS, ID, TELLS, add, wait
from tests.runtime.support import complaints, engine_on

REPOSITORY = Path(__file__).parents[2]
#: Engines here wait a minute for a file that somebody else has, unless they are told at once: on a slow machine, too.
PATIENT: dict[str, Any] = {"busy_timeout": "60s"}
AT_ONCE_S = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


class Program:
    """A program of `tests.runtime.program` under way."""

    def __init__(self, process: "subprocess.Popen[str]", stdin: IO[str], stdout: IO[str]) -> None:
        self.process, self._stdin, self._stdout = process, stdin, stdout

    def told(self) -> str:
        """The next line it says."""
        return self._stdout.readline().strip()

    def tell(self, line: object) -> None:
        """A line for it to read."""
        self._stdin.write(f"{line}\n")
        self._stdin.flush()


@contextmanager
def program(verb: str, path: Path) -> Iterator[Program]:
    """Start one; it is killed in the end if it did not end by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.program", verb, str(path)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Program(process, process.stdin, process.stdout)
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


def refused(path: Path | str) -> tuple[EngineLockedError, float]:
    """What a second engine is told, and after how long."""

    async def story() -> None:
        async with Engine(path, services=[add], **PATIENT):
            pass

    started = time.monotonic()
    with pytest.raises(EngineLockedError) as caught:
        asyncio.run(story())
    return caught.value, time.monotonic() - started


# ---- one engine per file ----


def test_a_second_engine_in_the_same_process_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    relative = os.path.relpath(path)

    async def story() -> None:
        async with Engine(path, services=[add]) as first:
            link = tmp_path / "link.db"
            link.symlink_to(path)
            for same in (path, str(path), tmp_path / "." / "x" / ".." / "durable.db", relative, link):
                started = time.monotonic()
                with pytest.raises(EngineLockedError, match="one engine per file") as caught:
                    await Engine(same, services=[add], **PATIENT).start()
                assert time.monotonic() - started < AT_ONCE_S
                assert str(os.getpid()) in str(caught.value)
            assert await first.call(add, 1) == 2, "the first one is not disturbed"
        async with Engine(path, services=[add]) as second:
            assert await second.call(add, 2) == 3

    asyncio.run(story())


def test_an_engine_that_was_refused_can_be_started_later(path: Path) -> None:
    async def story() -> None:
        second = Engine(path, services=[add])
        async with Engine(path, services=[add]):
            with pytest.raises(EngineLockedError):
                await second.start()
        async with second:
            assert await second.call(add, 1) == 2

    asyncio.run(story())


@pytest.mark.process
def test_a_second_process_is_refused_and_told_who_has_the_file(path: Path) -> None:
    """R-22."""
    with program("hold", path) as holder:
        pid, _ = holder.told().split()
        error, took = refused(path)
        assert f"pid {pid}" in str(error)
        assert str(path) in str(error)
        assert took < AT_ONCE_S
        holder.tell("")
        assert holder.process.wait(10) == 0

    async def story() -> None:
        async with Engine(path, services=[add, wait]) as engine:
            assert await engine.call(add, 1) == 2

    asyncio.run(story())


@pytest.mark.process
def test_after_a_kill_the_next_engine_takes_over(path: Path) -> None:
    """R-22: the lock dies with its process; what that had accepted goes on."""
    with program("hold", path) as holder:
        pid, id = holder.told().split()
        holder.process.send_signal(signal.SIGKILL)
        holder.process.wait(10)
    started = time.monotonic()

    async def story() -> None:
        async with Engine(path, services=[add, wait], **PATIENT) as engine:
            assert time.monotonic() - started < AT_ONCE_S
            assert await asyncio.wait_for(engine.attach(id), 60) == "waited"
            error, _ = await asyncio.to_thread(refused, path)
            assert f"pid {os.getpid()}" in str(error)
            assert pid not in str(error), "a stale lock file tells nothing"

    asyncio.run(story())


@pytest.mark.process
def test_of_two_that_start_at_the_same_moment_exactly_one_wins(path: Path) -> None:
    """R-22: twenty races."""
    wins = [0, 0]
    with program("race", path) as one, program("race", path) as other:
        racers = (one, other)
        assert [racer.told() for racer in racers] == ["ready", "ready"]
        for _ in range(20):
            moment = time.time() + 0.02
            for racer in racers:
                racer.tell(moment)
            told = [json.loads(racer.told()) for racer in racers]
            assert sorted(end["won"] for end in told) == [False, True], told
            winner = told.index(next(end for end in told if end["won"]))
            wins[winner] += 1
            assert told[1 - winner]["took"] < 1
            assert f"pid {told[winner]['pid']}" in told[1 - winner]["said"] or "unknown" in told[1 - winner]["said"]
            for racer in racers:
                racer.tell("let go")
                assert racer.told() == "over"
    assert sum(wins) == 20


def test_two_engines_on_two_files_do_not_see_each_other(tmp_path: Path) -> None:
    """R-33."""

    async def story() -> None:
        async with (
            Engine(tmp_path / "one.db", services=[add, wait]) as one,
            Engine(tmp_path / "two.db", services=[add, wait]) as two,
        ):
            handles = [await engine.send(add, 1, idempotency_key="same") for engine in (one, two)]
            assert handles[0].id == handles[1].id, "ids that are derived from a key are the same everywhere"
            assert [await handle.result() for handle in handles] == [2, 2]
            waits = await one.send(wait)
            assert [view.id for view in await two.invocations()] == [handles[1].id]
            await two.close()
            assert await waits.result() == "waited"
            assert await one.call(add, 2) == 3

    asyncio.run(story())


# ---- fork ----


@pytest.mark.process
def test_a_forked_child_can_do_nothing_and_harms_nothing(path: Path) -> None:
    """R-24: every call is refused; however children leave, the parent works on."""
    with program("fork", path) as forks:
        told = json.loads(forks.told())
        assert set(told) == {*ASKS, *TELLS, "close", "start"}
        for said in told.values():
            assert "forked child" in said
        assert forks.told() == "0", "a child that tears everything down"
        assert forks.told() == "2"
        assert forks.told() == "0", "multiprocessing"
        assert forks.told() == "0", "subprocess"
        assert forks.told() == "20 waited 22"
        assert forks.process.wait(10) == 0

    async def story() -> None:
        async with Engine(path, services=[add, wait]) as engine:
            assert {view.status for view in await engine.invocations()} == {"completed"}

    asyncio.run(story())


@pytest.mark.process
def test_an_orphan_does_not_keep_the_lock(path: Path) -> None:
    """R-24: a child that outlives its killed parent."""
    with program("orphan", path) as parent:
        child = int(parent.told())
        try:
            parent.process.send_signal(signal.SIGKILL)
            parent.process.wait(10)
            os.kill(child, 0)  # it lives

            async def story() -> None:
                started = time.monotonic()
                async with Engine(path, services=[add, wait], **PATIENT) as engine:
                    assert time.monotonic() - started < AT_ONCE_S
                    assert await engine.call(add, 1) == 2

            asyncio.run(story())
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_every_coroutine_function_of_an_engine_is_tried() -> None:
    public = {
        name
        for name, member in inspect.getmembers(Engine, inspect.iscoroutinefunction)
        if not name.startswith("_") and name not in ("start", "close", "serve")  # which starts it
    }
    assert public == {*ASKS, *TELLS}


# ---- one event loop ----


@pytest.mark.parametrize("name", [*ASKS, *TELLS, "close"])
def test_another_event_loop_is_refused(path: Path, name: str) -> None:
    """R-33: from a thread with a loop of its own, while the engine's runs. The error says what to do."""

    async def story() -> None:
        async with Engine(path, services=[add]) as engine:

            async def elsewhere() -> None:
                with pytest.raises(WrongLoopError, match="run_coroutine_threadsafe"):
                    await (engine.close() if name == "close" else (ASKS | TELLS)[name](engine))

            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
            assert await engine.call(add, 1) == 2

    asyncio.run(story())


def test_a_thread_without_an_event_loop_is_refused_too(path: Path) -> None:
    async def story() -> None:
        async with Engine(path, services=[add]) as engine:

            def elsewhere() -> None:
                call: Any = engine.call(add, 1)
                with pytest.raises(WrongLoopError, match="run_coroutine_threadsafe"):
                    call.send(None)

            await asyncio.to_thread(elsewhere)

    asyncio.run(story())


def test_what_the_error_recommends_works(path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with Engine(path, services=[add]) as engine:

            def elsewhere() -> int:
                return asyncio.run_coroutine_threadsafe(engine.call(add, 1), loop).result(5)

            assert await asyncio.to_thread(elsewhere) == 2

    asyncio.run(story())


def test_a_handle_belongs_to_the_engines_loop(path: Path) -> None:
    async def story() -> None:
        async with Engine(path, services=[add]) as engine:
            handle = await engine.send(add, 1)

            async def elsewhere() -> None:
                for ask in (handle.result, handle.output, handle.describe, handle.cancel):
                    with pytest.raises(WrongLoopError):
                        await ask()

            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
            assert await handle.result() == 2

    asyncio.run(story())


# ---- not running ----


@pytest.mark.parametrize("name", ASKS)
def test_before_the_start_and_after_the_end_nothing_is_done(path: Path, name: str) -> None:
    async def story() -> None:
        engine = Engine(path, services=[add])
        with pytest.raises(EngineNotRunningError, match="async with"):
            await ASKS[name](engine)
        async with engine:
            before = await engine.invocations()
        with pytest.raises(EngineNotRunningError):
            await asyncio.wait_for(ASKS[name](engine), 60)
        async with Engine(path, services=[add]) as again:
            assert await again.invocations() == before == []

    asyncio.run(story())


def test_starting_twice_is_refused(path: Path) -> None:
    async def story() -> None:
        async with Engine(path, services=[add]) as engine:
            with pytest.raises(EngineNotRunningError, match="already started"):
                await engine.start()
            assert await engine.call(add, 1) == 2

    asyncio.run(story())


def test_two_starts_at_once_are_one(path: Path) -> None:
    async def story() -> None:
        engine = Engine(path, services=[add])
        ends = await asyncio.gather(engine.start(), engine.start(), return_exceptions=True)
        assert sorted(isinstance(end, UsageError | EngineLockedError) for end in ends) == [False, True]
        assert await engine.call(add, 1) == 2
        await engine.close()
        async with Engine(path, services=[add]) as again:
            assert await again.call(add, 1) == 2

    asyncio.run(story())


def test_closing_is_idempotent(path: Path) -> None:
    async def story() -> None:
        engine = Engine(path, services=[add])
        await engine.close()
        await engine.start()
        for _ in range(3):
            await engine.close()
        async with Engine(path, services=[add]):
            pass

    asyncio.run(story())


def test_whoever_closes_waits_until_it_is_closed(path: Path) -> None:
    """Two at once, as two shutdown hooks would: after either, the file is free."""

    @handler(service="Slow")
    async def slow(ctx: Context) -> None:
        await ctx.run(asyncio.sleep, 0.2)

    async def story() -> None:
        engine = Engine(path, services=[slow])
        await engine.start()
        await engine.send(slow)
        await asyncio.sleep(0.05)

        async def close_and_reopen() -> None:
            await engine.close()
            with suppress(EngineLockedError):  # by the other's new engine, not by the old one
                async with Engine(path) as again:
                    held.append(again)
                    await asyncio.sleep(0.05)

        held: list[Engine] = []
        first = asyncio.create_task(engine.close())
        await asyncio.sleep(0.01)
        await close_and_reopen()
        assert len(held) == 1
        await first

    asyncio.run(story())


def test_a_close_that_was_cancelled_can_be_repeated(path: Path) -> None:
    """A second Ctrl-C while it waits for a step."""

    async def story() -> None:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def step() -> None:
            began.set()
            await may_end.wait()

        @handler(service="Slow")
        async def slow(ctx: Context) -> None:
            await ctx.run(step)

        engine = Engine(path, services=[slow], shutdown_timeout="60s")
        await engine.start()
        await engine.send(slow)
        await began.wait()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        may_end.set()
        await engine.close()
        async with Engine(path, services=[slow]) as again:
            assert await again.attach((await again.invocations())[0].id) is None

    asyncio.run(story())


def test_a_start_that_was_cancelled_leaves_the_file_free(path: Path) -> None:
    async def story() -> None:
        for ticks in range(12):
            engine = Engine(path, services=[add])
            starting = asyncio.create_task(engine.start())
            for _ in range(ticks):
                await asyncio.sleep(0)
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
                await engine.close()
            async with Engine(path, services=[add]) as again:
                assert await again.call(add, 1) == 2

    asyncio.run(story())


def test_who_waits_for_a_result_when_the_engine_closes_is_told(path: Path) -> None:
    @handler(service="Long")
    async def long(ctx: Context) -> None:
        await ctx.sleep("1d")

    async def story() -> None:
        async with Engine(path, services=[long]) as engine:
            calling = asyncio.create_task(engine.call(long))
            await asyncio.sleep(0.05)
        with pytest.raises(EngineNotRunningError, match="attach again"):
            await asyncio.wait_for(calling, 60)

    asyncio.run(story())


# ---- nothing is left behind ----


async def belongings() -> Counter[str]:
    """How many threads and tasks there are, and open descriptors of each kind. What there is more later was left."""
    await asyncio.sleep(0.1)  # for threads that are on their way out
    gc.collect()
    found = Counter(threads=threading.active_count(), tasks=len(asyncio.all_tasks()))
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            of = os.readlink(f"/proc/self/fd/{name}")
            if "/proc/" not in of:
                found[of] += 1
    return found


async def left_since(before: Counter[str]) -> Counter[str]:
    """What there is more than then, once threads are gone that are on their way out."""
    deadline = time.monotonic() + 30
    while (left := await belongings() - before) and time.monotonic() < deadline:
        pass
    return left


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")


def engines_alive() -> int:
    return sum(isinstance(one, Engine) for one in gc.get_objects())


@needs_proc
def test_a_hundred_starts_and_stops_leave_nothing_behind(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """I9, R-33."""

    async def story() -> None:
        async def once() -> None:
            async with Engine(path, services=[add, wait], synchronous="NORMAL") as engine:
                assert await engine.call(add, 1) == 2
                await engine.send(wait)

        for _ in range(3):
            await once()
        before, engines = await belongings(), engines_alive()
        for _ in range(100):
            await once()
        assert not await left_since(before)
        assert engines_alive() <= engines + 1

    asyncio.run(story())
    assert complaints(caplog) == []


@needs_proc
def test_starts_that_fail_leave_nothing_behind(path: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"garbage" * 1000)

    async def story() -> None:
        async with Engine(path, services=[add]) as engine:

            async def all_kinds() -> None:
                with pytest.raises(EngineLockedError):
                    await Engine(path).start()
                with pytest.raises(StorageCorruptError):
                    await Engine(garbage).start()
                with pytest.raises(StorageReadOnlyError):
                    await Engine(tmp_path / "no" / "where.db").start()

            await all_kinds()
            before = await belongings()
            for _ in range(20):
                await all_kinds()
            assert not await left_since(before)
            assert await engine.call(add, 1) == 2

    asyncio.run(story())


@needs_proc
def test_a_file_is_taken_over_in_one_process_again_and_again(path: Path) -> None:
    """A POSIX lock goes when any descriptor of its file is closed: a second try must not take the first engine's."""

    async def story() -> None:
        async with Engine(path, services=[add]) as engine:
            for _ in range(3):
                with pytest.raises(EngineLockedError):
                    await Engine(path).start()
            told = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-m", "tests.runtime.program", "race", str(path)],
                cwd=REPOSITORY, input="0\n\n", capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert '"won": false' in told.stdout, told
            assert await engine.call(add, 1) == 2

    asyncio.run(story())


def test_debug_mode_has_nothing_to_complain_about(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-33: asyncio's debug mode finds calls from wrong threads and coroutines nobody awaited."""

    async def story() -> None:
        asyncio.get_running_loop().slow_callback_duration = 10
        async with Engine(path, services=[add, wait]) as engine:
            assert await asyncio.gather(*(engine.call(add, number) for number in range(20))) == list(range(1, 21))
            assert await engine.call(wait) == "waited"

    asyncio.run(story(), debug=True)
    assert complaints(caplog) == []


# ---- shutting down ----


class Outside:
    """What handlers leave in the world, and what lets go those that nothing else can stop."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        #: One for each handler that is where it makes it hard.
        self.begun: list[None] = []
        self.may_end = False
        self.thread_may_end = threading.Event()

    def let_go(self) -> None:
        self.may_end = True
        self.thread_may_end.set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self) -> None:
        self.begun.append(None)

    def blocks(self) -> str:
        self.begin()
        self.thread_may_end.wait(30)
        return "unblocked"


def stubborn_handlers(outside: Outside) -> list[Any]:
    """Handlers that make a shutdown hard."""

    @handler(service="Stubborn")
    async def swallows(ctx: Context) -> str:
        outside.begin()
        while not outside.may_end:
            with suppress(BaseException):
                await asyncio.sleep(0.01)
        return "at last"

    @handler(service="Stubborn")
    async def blocks(ctx: Context) -> str:
        return await ctx.run(outside.blocks)

    @handler(service="Stubborn")
    async def compensates(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.add_compensation(outside.note, "compensated")
            try:
                outside.begin()
                await ctx.sleep("1d")
            finally:
                outside.note("finally")

    @handler(service="Stubborn")
    async def takes_its_time(ctx: Context) -> str:
        async def step() -> str:
            outside.begin()
            await asyncio.sleep(0.3)
            outside.note("step")
            return "in time"

        result = await ctx.run(step)
        await ctx.sleep(0.01)
        return result

    return [swallows, blocks, compensates, takes_its_time]


def test_a_shutdown_is_over_in_time_whatever_the_handlers_do(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-32: nothing is counted as a failure or compensated, those that stay are named, the next start goes on."""
    caplog.set_level(logging.WARNING, "durable")
    outside = Outside()
    handlers = stubborn_handlers(outside)

    async def story() -> None:
        try:
            await shut_down()
        finally:
            outside.let_go()
            await asyncio.sleep(0.1)

    async def shut_down() -> None:
        async with Engine(path, services=handlers, shutdown_timeout="2s") as engine:
            ids = {one.name: [(await engine.send(one)).id for _ in range(3)] for one in handlers}
            while len(outside.begun) < 12:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            before = time.monotonic()
        took = time.monotonic() - before
        assert took < 30, "and not for ever"
        assert sorted(outside.notes) == ["finally"] * 3 + ["step"] * 3, "steps that end in time are waited for"
        logged = "\n".join(record.getMessage() for record in caplog.records)
        for name in ("swallows", "blocks"):
            for id in ids[name]:
                assert id in logged, f"{name} is named"
        outside.let_go()
        await asyncio.sleep(0.1)

        async with Engine(path, services=handlers) as engine:
            for name, result in (("swallows", "at last"), ("blocks", "unblocked"), ("takes_its_time", "in time")):
                for id in ids[name]:
                    assert await asyncio.wait_for(engine.attach(id), 60) == result
                    assert (await engine.describe(id)).failures == 0
            for id in ids["compensates"]:
                view = await engine.describe(id)
                assert (view.status, view.failures, view.last_failure) == ("running", 0, None)
                await engine.kill(id)
        assert outside.notes.count("step") == 3, "what was recorded before the shutdown is not done again"
        assert "compensated" not in outside.notes

    asyncio.run(story())
    assert complaints(caplog) == []


def test_a_thousand_handlers_are_shut_down_within_five_seconds(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-32, with ten among them that swallow everything; the time is the virtual loop's, for the default limit."""
    outside = Outside()
    swallows, _, compensates, _ = stubborn_handlers(outside)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with engine_on(path, swallows, compensates, inactivity_timeout="1d") as engine:
            await asyncio.gather(*(engine.send(compensates) for _ in range(990)))
            await asyncio.gather(*(engine.send(swallows) for _ in range(10)))
            await asyncio.sleep(0.1)
            before = loop.time()
        assert loop.time() - before <= 5.01
        assert outside.notes == ["finally"] * 990
        (named,) = [text for record in caplog.records if "Stubborn/swallows" in (text := record.getMessage())]
        assert named.count("Stubborn/swallows inv_1") == 10
        assert "10 handlers did not end" in named
        outside.may_end = True
        await asyncio.sleep(1)

    run(story)
    assert complaints(caplog) == []


def test_an_error_in_the_body_is_not_hidden_by_the_shutdown(path: Path) -> None:
    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Engine(path, services=[add]) as engine:
                await engine.call(add, 1)
                raise ZeroDivisionError
        async with Engine(path, services=[add]) as engine:
            assert await engine.call(add, 1) == 2

    asyncio.run(story())


def test_a_cancelled_caller_does_not_cancel_the_invocation(path: Path) -> None:
    async def story() -> None:
        async with Engine(path, services=[wait]) as engine:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.call(wait, idempotency_key="once"), 0.05)
            assert await engine.call(wait, idempotency_key="once") == "waited"
            assert len(await engine.invocations()) == 1

    asyncio.run(story())


# ---- in a web application ----


def an_app(engine: Engine) -> Starlette:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await engine.call(add, int(request.path_params["number"]))))

    return Starlette(routes=[Route("/{number:int}", answer)], lifespan=engine.lifespan)


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that was started (which httpx alone does not do)."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


def test_the_lifespan_of_an_application_is_the_engines(path: Path) -> None:
    async def story() -> None:
        async with served(an_app(Engine(path, services=[add]))) as client:
            assert (await client.get("/41")).text == "42"
            with pytest.raises(EngineLockedError):
                await Engine(path).start()
        async with served(an_app(Engine(path, services=[add]))) as client:
            assert (await client.get("/1")).text == "2"

    asyncio.run(story())


def test_an_application_does_not_start_without_its_file(path: Path) -> None:
    async def story() -> None:
        async with Engine(path, services=[add]):
            app = an_app(Engine(path, services=[add]))
            with pytest.raises(EngineLockedError):
                async with app.router.lifespan_context(app):
                    raise AssertionError("it must not come so far")

    asyncio.run(story())


def test_a_lifespan_can_be_nested_in_another(path: Path) -> None:
    order: list[str] = []

    async def story() -> None:
        engine = Engine(path, services=[add])

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Engine]]:
            order.append("before")
            async with engine.lifespan(app):
                yield {"engine": engine}
            order.append("after")

        app = Starlette(lifespan=lifespan)
        async with app.router.lifespan_context(app) as state:
            assert state == {"engine": engine}
            order.append(str(await engine.call(add, 1)))
        with pytest.raises(EngineNotRunningError):
            await engine.call(add, 1)

    asyncio.run(story())
    assert order == ["before", "2", "after"]


def test_a_terminal_error_of_a_handler_is_no_end_of_the_application(path: Path) -> None:
    @handler(service="Fails")
    async def fails(ctx: Context) -> None:
        raise TerminalError("no", 418)

    engine = Engine(path, services=[fails, add])

    async def answer(request: Request) -> PlainTextResponse:
        try:
            await engine.call(fails)
        except TerminalError as error:
            return PlainTextResponse(error.message, status_code=error.code)
        raise AssertionError("it must fail")

    async def story() -> None:
        async with served(Starlette(routes=[Route("/", answer)], lifespan=engine.lifespan)) as client:
            for _ in range(2):
                told = await client.get("/")
                assert (told.status_code, told.text) == (418, "no")

    asyncio.run(story())


def test_an_unknown_id_is_unknown_to_everybody(path: Path) -> None:
    """The id that the asks above use names nothing: what they raise elsewhere is about place and time only."""

    async def story() -> None:
        async with Engine(path, services=[add]) as engine:
            reads = ("attach", "output", "outcome", "outcome_now", "describe")
            controls = ("cancel", "kill", "pause", "resume", "restart_as_new", "purge", "purge_journal")
            for name in (*reads, *controls):
                with pytest.raises(NotFoundError, match=ID):
                    await ASKS[name](engine)

    asyncio.run(story())
