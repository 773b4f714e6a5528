"""An engine has lives: after it was closed, failed or was abandoned it can be started again, on any event loop."""

import asyncio
import gc
import random
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from durable import (
    Context,
    Engine,
    EngineFailedError,
    EngineLockedError,
    EngineNotRunningError,
    ObjectContext,
    VirtualObject,
    handler,
)
from durable.runtime.loop import Loop
from durable.testing import MemoryStore, VirtualClock, run
from durable.testing.faults import around
from tests.runtime.support import complaints
from tests.runtime.test_engine_guards import belongings, left_since, needs_proc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants another client underneath
    from starlette.testclient import TestClient

steps: Counter[str] = Counter()


async def greet(name: str) -> str:
    steps[name] += 1
    return f"hi {name}"


@handler(service="Greeter")
async def hello(ctx: Context, name: str) -> str:
    return await ctx.run(greet, name)


@handler(service="Greeter")
async def slowly(ctx: Context, name: str) -> str:
    text = await ctx.run(greet, name)
    await ctx.sleep(0.2)
    return text


class Counters(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, number: int) -> int:
        value = await ctx.get("value", int) or 0
        ctx.set("value", value + number)
        return value + number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


def an_engine(path: Path) -> Engine:
    return Engine(path, services=[hello, slowly, Counters()], synchronous="NORMAL")


def on_virtual_time(**options: Any) -> Engine:
    clock = VirtualClock(asyncio.get_running_loop())
    options = {"store": MemoryStore()} | options
    return Engine(services=[hello, slowly, Counters()], clock=clock, **options)


def loop_of(engine: Engine) -> Loop:
    loop = engine._loop
    assert loop is not None
    return loop


# ---- one after the other ----


def test_an_engine_is_started_again_on_the_next_event_loop(path: Path) -> None:
    """State, handles and what was under way are as they were; what waited in the first life was told."""
    engine = an_engine(path)
    steps.clear()

    async def first() -> Any:
        async with engine:
            assert await engine.call("Counters/add", 1, key="k") == 1
            handle = await engine.send(slowly, "first")
            waits = asyncio.create_task(handle.result())
            await asyncio.sleep(0.05)
        with pytest.raises(EngineNotRunningError, match="attach again"):
            await waits
        with pytest.raises(EngineNotRunningError, match="start it again"):
            await handle.result()
        return handle

    async def second(handle: Any) -> None:
        with pytest.raises(EngineNotRunningError, match="start it again"):
            await handle.result()
        async with engine:
            assert await handle.result() == "hi first"
            assert await engine.call("Counters/add", 2, key="k") == 3
            assert await engine.call(hello, "second") == "hi second"

    handle = asyncio.run(first())
    for _ in range(2):
        asyncio.run(second(handle) if not steps["second"] else third(engine))
    assert steps == {"first": 1, "second": 1}


async def third(engine: Engine) -> None:
    """Once more, as a fixture would that is entered in every test."""
    async with engine:
        assert await engine.call("Counters/add", 0, key="k") == 3


def test_what_is_configured_is_read_anew(path: Path) -> None:
    """An engine that stood still meanwhile does not go on with what it knew in its first life."""
    first, other = an_engine(path), an_engine(path)

    def retention(engine: Engine) -> int | None:
        registered = engine._registry.get("Greeter", "hello")
        assert registered is not None
        return registered.settings.journal_retention_ms

    async def story() -> None:
        async with first:
            await first.configure("Greeter", journal_retention="1h", public=False)
            assert retention(first) == 3_600_000
        async with other:
            assert retention(other) == 3_600_000
            await other.configure("Greeter", journal_retention=None, public=None)
        assert retention(first) == 3_600_000
        async with first:
            assert retention(first) == 86_400_000
            assert await first.call(hello, "again") == "hi again"
            revisions = dict(loop_of(first).revisions)
        async with other:
            assert loop_of(other).revisions == revisions, "no new revision, nothing was declared anew"

    asyncio.run(story())


def test_a_close_says_nothing_of_a_handler_that_is_told_of_its_last_step(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It returns at once, and its step is not run again at the next start."""
    steps.clear()

    async def story() -> None:
        engine = an_engine(path)
        await engine.start()
        handle = await engine.send(hello, "name")
        await engine.close()
        assert "went on after its attempt" not in caplog.text
        async with an_engine(path) as other:
            assert await other.attach(handle.id) == "hi name"
        assert steps == {"name": 1}

    asyncio.run(story())


def test_it_is_started_again_after_it_was_abandoned(path: Path) -> None:
    """`abandon` is a kill: nothing more is written, nobody is unwound in order, the file is free at once."""
    engine = an_engine(path)
    steps.clear()

    async def story() -> None:
        await engine.start()
        handle = await engine.send(slowly, "name")
        waits = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)
        engine.abandon()
        engine.abandon()
        with pytest.raises(EngineNotRunningError):
            await waits
        with pytest.raises(EngineNotRunningError):
            await engine.call(hello, "nobody")
        await engine.close()
        async with an_engine(path) as other:
            assert (await other.describe(handle.id)).failures == 0
        async with engine:
            assert await handle.result() == "hi name"
        assert steps == {"name": 1}

    asyncio.run(story())


def test_it_is_started_again_after_it_has_failed() -> None:
    """Closed or not: what made it fail belongs to that life."""
    failing = True

    def sometimes(name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if failing and name == "commit":
            raise OSError("no disk")
        return method(*arguments)

    async def story() -> None:
        nonlocal failing
        for closed in (True, False):
            failing = False
            engine = on_virtual_time(store=around(MemoryStore(), sometimes))
            async with engine:
                assert await engine.call(hello, "before") == "hi before"
            await engine.start()
            failing = True
            with pytest.raises(EngineFailedError, match="no disk"):
                await engine.call(hello, "fails")
            with pytest.raises(EngineFailedError):
                await engine.call(hello, "fails")
            failing = False
            if closed:
                await engine.close()
                assert isinstance(engine.failure, EngineFailedError)
            async with engine:
                assert engine.failure is None
                assert await engine.call(hello, "after") == "hi after"

    run(story)


# ---- at the same time ----


def test_entering_it_twice_at_the_same_time_is_refused(path: Path) -> None:
    engine = an_engine(path)

    async def story() -> None:
        async with engine:
            with pytest.raises(EngineNotRunningError, match="already started"):
                async with engine:
                    raise AssertionError
            assert await engine.call(hello, "still") == "hi still"

    asyncio.run(story())


def test_a_start_waits_for_the_close_before_it(path: Path) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def step() -> None:
        began.set()
        await may_end.wait()

    @handler(service="Slow")
    async def slow(ctx: Context) -> None:
        await ctx.run(step)

    engine = Engine(path, services=[slow, hello], shutdown_timeout="60s")

    async def story() -> None:
        await engine.start()
        await engine.send(slow)
        await began.wait()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.05)
        starting = asyncio.gather(engine.start(), engine.start(), return_exceptions=True)
        await asyncio.sleep(0.05)
        assert not closing.done() and not starting.done()
        may_end.set()
        starts = await starting
        assert closing.done()
        assert [type(one) for one in starts] == [Engine, EngineNotRunningError], "one of them was first"
        assert await engine.call(hello, "again") == "hi again"
        await engine.close()

    asyncio.run(story())


@pytest.mark.parametrize("ticks", range(8))
def test_a_close_during_the_start_ends_it(path: Path, ticks: int) -> None:
    """Whoever starts is told; the file is free afterwards."""
    engine = an_engine(path)

    async def story() -> None:
        starting = asyncio.create_task(engine.start())
        for _ in range(ticks):
            await asyncio.sleep(0)
        await engine.close()
        with suppress(EngineNotRunningError):
            await starting
            await engine.close()
        async with an_engine(path) as other:
            assert await other.call(hello, "name") == "hi name"
        async with engine:
            assert await engine.call(hello, "name") == "hi name"

    asyncio.run(story())


def test_a_cancelled_close_goes_on_and_the_next_start_waits_for_it(path: Path) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def step() -> None:
        began.set()
        await may_end.wait()

    @handler(service="Slow")
    async def slow(ctx: Context) -> None:
        await ctx.run(step)

    engine = Engine(path, services=[slow, hello], shutdown_timeout="60s")

    async def story() -> None:
        await engine.start()
        handle = await engine.send(slow)
        await began.wait()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.01)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        may_end.set()
        async with engine:
            await handle.result()

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_started_closed_and_abandoned_at_once(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Ten tasks at random moments: only documented errors, and in the end the engine starts and answers."""
    _meddle(seed, None, caplog)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_on_a_file(seed: int, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _meddle(seed, path, caplog)


def _meddle(seed: int, path: Path | None, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(seed)
    allowed = (EngineNotRunningError, EngineLockedError)

    async def story() -> None:
        engine = on_virtual_time() if path is None else an_engine(path)

        async def meddle() -> None:
            for _ in range(6):
                await asyncio.sleep(dice.choice([0, 0, 0.001, 0.1]))
                doing = dice.choice(["start", "start", "close", "abandon", "call", "cancelled"])
                with suppress(*allowed):
                    if doing == "start":
                        await engine.start()
                    elif doing == "close":
                        await engine.close()
                    elif doing == "abandon":
                        engine.abandon()
                    elif doing == "call":
                        assert await engine.call(hello, "x") == "hi x"
                    else:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(engine.start() if dice.random() < 0.5 else engine.close(), 0)

        await asyncio.gather(*(meddle() for _ in range(10)))
        await engine.close()
        async with engine:
            assert await engine.call(hello, "end") == "hi end"
        await asyncio.sleep(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    if path is None:
        run(story)
    else:
        asyncio.run(story())
    assert complaints(caplog) == []


# ---- in applications ----


def apps(engine: Engine) -> Iterable[Any]:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await engine.call(hello, request.path_params["name"]))

    yield Starlette(routes=[Route("/{name}", answer)], lifespan=engine.lifespan)
    fast = FastAPI(lifespan=engine.lifespan)

    @fast.get("/{name}")
    async def get(name: str) -> str:
        return await engine.call(hello, name)

    yield fast


def test_one_engine_of_a_module_serves_one_test_client_after_the_other(path: Path) -> None:
    """Each client runs the application on an event loop of its own, in a thread."""
    for app in apps(an_engine(path)):
        for number in range(3):
            with TestClient(app) as client:
                assert f"hi {number}" in client.get(f"/{number}").text


def test_two_clients_at_the_same_time_cannot_share_it(path: Path) -> None:
    engine = an_engine(path)
    (app, _) = apps(engine)

    async def second() -> None:  # a TestClient whose start fails does not close its streams
        async with engine.lifespan(app):
            raise AssertionError

    with TestClient(app) as client:
        with pytest.raises(Exception, match="another event loop"):
            asyncio.run(second())
        assert client.get("/name").text == "hi name"


# With the plug-in of anyio: one engine for all tests of a module, and for each test an event loop of its own.


@pytest.fixture(scope="module")
def engine_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return an_engine(tmp_path_factory.mktemp("module") / "durable.db")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def running(anyio_backend: str, engine_of_the_module: Engine) -> AsyncIterator[Engine]:
    async with engine_of_the_module as engine:
        yield engine


@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_each_test_of_anyio_enters_the_same_engine(running: Engine, number: int) -> None:
    key = f"k{id(running)}"
    value = await running.call("Counters/add", 1, key=key)
    assert value >= 1
    assert await running.call("Counters/add", 0, key=key) == value


# ---- nothing is left behind ----


def loops_alive() -> int:
    gc.collect()
    return sum(isinstance(one, Loop) for one in gc.get_objects())


@needs_proc
def test_fifty_lives_of_one_engine_leave_nothing_behind(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """I9, R-33: threads, descriptors, tasks, objects."""

    async def story() -> None:
        engine = an_engine(path)

        async def once(how: str) -> None:
            await engine.start()
            assert await engine.call(hello, "x") == "hi x"
            await engine.send(slowly, "y")
            if how == "abandon":
                engine.abandon()
                await asyncio.sleep(0.01)
            else:
                await engine.close()

        for how in ("close", "abandon", "close"):
            await once(how)
        before, loops = await belongings(), loops_alive()
        for number in range(50):
            await once("abandon" if number % 5 == 0 else "close")
        await once("close")
        assert not await left_since(before)
        assert loops_alive() <= loops + 1

    asyncio.run(story())
    assert complaints(caplog) == []


@asynccontextmanager
async def debugging() -> AsyncIterator[None]:
    asyncio.get_running_loop().slow_callback_duration = 10
    yield


def test_debug_mode_has_nothing_to_say_of_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = an_engine(path)

    async def story() -> None:
        async with debugging(), engine:
            assert await engine.call(hello, "x") == "hi x"
            await engine.send(slowly, "y")

    async def left() -> None:
        async with debugging():
            await engine.start()
            await engine.send(slowly, "y")

    for _ in range(2):
        asyncio.run(story(), debug=True)
        asyncio.run(left(), debug=True)
    assert complaints(caplog) == []
