"""R-36: whatever happens in the user's log handlers, filters and record factories changes nothing but the log."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    DurableError,
    Engine,
    EngineFailedError,
    ObjectContext,
    RetryPolicy,
    VirtualObject,
    handler,
    log,
)
from durable.core.effects import Writes
from durable.store import Store
from durable.testing import MemoryStore
from durable.testing.faults import around
from tests.runtime.support import complaints

QUICK = RetryPolicy(initial_interval=0.01, factor=1.0, max_attempts=3)


class Nonsense(BaseException):
    """Not even an `Exception`."""


class Raising(logging.Handler):
    """Raises on every record, and counts them."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        raise self.error

    def filter(self, record: logging.LogRecord) -> bool:
        return True


@contextmanager
def a_handler(error: BaseException) -> Iterator[None]:
    handler = Raising(error)
    logging.getLogger("durable").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("durable").removeHandler(handler)
    assert handler.said, "it was asked"


@contextmanager
def a_filter(error: BaseException) -> Iterator[None]:
    asked = []

    def raising(record: logging.LogRecord) -> bool:
        asked.append(record)
        raise error

    loggers = [logging.getLogger(f"durable.{name}") for name in ("engine", "invocation")]  # it is not inherited
    for logger in loggers:
        logger.addFilter(raising)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(raising)
    assert asked


@contextmanager
def a_record_factory(error: BaseException) -> Iterator[None]:
    before, asked = logging.getLogRecordFactory(), []

    def raising(name: str, *arguments: Any, **keywords: Any) -> logging.LogRecord:
        if not name.startswith("durable."):
            return before(name, *arguments, **keywords)
        asked.append(name)
        raise error

    logging.setLogRecordFactory(raising)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)
    assert asked


PLACES: dict[str, Callable[[BaseException], Any]] = {
    "a handler": a_handler,
    "a filter": a_filter,
    "a record factory": a_record_factory,
}


@pytest.fixture(params=list(PLACES.values()), ids=list(PLACES))
def down(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.param(ConnectionError("the log collector is down")):
        yield


tries: Counter[int] = Counter()


async def flaky(number: int) -> int:
    tries[number] += 1
    if tries[number] == 1:
        raise ConnectionError("first try")
    return number


@handler(service="S")
async def shaky(ctx: Context, number: int) -> int:
    return await ctx.run(flaky, number)


@handler(service="S")
async def calm(ctx: Context, number: int) -> int:
    await ctx.sleep(0.01)
    return number


@handler(service="S")
async def blocks(ctx: Context) -> str:
    time.sleep(0.8)  # noqa: ASYNC251
    return "unblocked"


@handler(service="S")
async def swallows(ctx: Context) -> None:
    while True:
        try:
            await ctx.sleep("1d")
        except (
            GeneratorExit
        ):  # garbage collected long after the test: Python complains of one that swallows this, too
            raise
        except BaseException:
            await asyncio.sleep(0.05)


def test_failures_are_retried_and_neighbours_undisturbed(tmp_path: Path, down: None) -> None:
    """Invocations that fail in the same turn as others are told their outcomes."""
    tries.clear()

    async def story() -> None:
        services = [shaky, calm, swallows]
        async with Engine(tmp_path / "a.db", services=services, retry=QUICK, shutdown_timeout=1) as engine:
            handles = [await engine.send(shaky if number % 5 == 0 else calm, number) for number in range(50)]
            await engine.send(swallows)  # named at the end, in a line of its own
            results = await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), 60)
            assert results == list(range(50))
            assert engine.failure is None

    asyncio.run(story())


@pytest.mark.parametrize("kind", [Nonsense, asyncio.CancelledError, RecursionError])
def test_also_what_is_no_ordinary_exception_stops_at_the_log(tmp_path: Path, kind: type[BaseException]) -> None:
    tries.clear()

    async def story() -> None:
        with a_handler(kind()):
            async with Engine(tmp_path / "a.db", services=[shaky], retry=QUICK) as engine:
                assert await asyncio.wait_for(engine.call(shaky, 1), 60) == 1

    asyncio.run(story())


def test_who_blocks_the_event_loop_blocks_only_that(tmp_path: Path) -> None:
    """The thread that sees it says so in vain, and sees the next one all the same."""

    async def story() -> None:
        with a_handler(ConnectionError()):
            async with Engine(tmp_path / "a.db", services=[blocks, calm]) as engine:
                assert await engine.call(blocks) == "unblocked"
                assert await engine.call(calm, 1) == 1

    asyncio.run(story())


def failing_at(commit: int) -> Store:
    commits = 0

    def fail(name: str, method: Callable[..., Any], arguments: tuple[Writes, ...]) -> Any:
        nonlocal commits
        commits += name == "commit"
        if name == "commit" and commits >= commit:
            raise OSError("no disk")
        return method(*arguments)

    return around(MemoryStore(), fail)


def test_callers_of_an_engine_that_fails_are_told_before_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A collector that hangs, or is down, keeps nobody waiting for an answer."""
    told: list[str] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(f"log: {[asked.done() for asked in asks]}")
            raise ConnectionError("down")

    slow = Slow()
    asks: list[asyncio.Future[Any]] = []

    async def story() -> None:
        engine = await Engine(store=failing_at(3), services=[calm]).start()
        loop = engine._loop
        assert loop is not None
        ask = loop.ask

        def noted(*arguments: Any, **options: Any) -> Any:
            asks.append(ask(*arguments, **options))
            return asks[-1]

        loop.ask = noted  # type: ignore[method-assign]
        logging.getLogger("durable").addHandler(slow)
        try:
            ends = await asyncio.gather(*(engine.call(calm, number) for number in range(5)), return_exceptions=True)
        finally:
            logging.getLogger("durable").removeHandler(slow)
        assert {type(end) for end in ends} == {EngineFailedError}
        assert told == ["log: [True, True, True, True, True]"]
        await engine.close()

    asyncio.run(story())
    assert complaints(caplog) == []


def test_what_cannot_be_said_is_said_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """As `logging` itself does, until the log works again."""
    log.engine.warning("heard")
    capsys.readouterr()
    with a_handler(ConnectionError()):
        for _ in range(3):
            log.engine.warning("%s", 1)
    assert capsys.readouterr().err.count("ConnectionError") == 1
    log.engine.warning("%s", 2)
    with a_handler(ConnectionError()):
        log.engine.warning("%s", 3)
    assert capsys.readouterr().err.count("ConnectionError") == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_meant_for_the_process_goes_through(kind: type[BaseException]) -> None:
    with pytest.raises(kind), a_handler(kind()):
        log.engine.warning("interrupted")


def test_nothing_in_a_line_ends_it_or_moves_a_cursor(caplog: pytest.LogCaptureFixture) -> None:
    """R-39: whatever a line is made of."""
    forged = "a\nforged \x1b[31m\u202e\ud800\u2028\x00é"
    for argument in (forged, ValueError(forged), [forged]):
        log.engine.warning("%s failed %d times within %.1f s", argument, 3, 0.5)
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert record.getMessage().endswith("failed 3 times within 0.5 s")
    assert caplog.records[0].getMessage().startswith("a\\nforged \\x1b[31m\\u202e\\ud800\\u2028\\x00é failed")


MARKS = [f"secret-{number}" for number in range(8)]


def test_the_log_has_no_inputs_results_state_headers_or_keys_of_requests(caplog: pytest.LogCaptureFixture) -> None:
    """R-39: also where everything is logged, and things fail."""
    argument, result, state, header, idempotency, step, signal, delayed = MARKS

    async def use(value: str) -> str:
        if value == argument:
            return step
        raise ValueError("no")

    class Safe(VirtualObject):
        @handler(retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
        async def keep(self, ctx: ObjectContext, value: str) -> str:
            ctx.set("state", state)
            await ctx.run(use, value)
            if ctx.request.headers.get("fail"):
                await ctx.run(use, "other")
            await ctx.signal("told", str)
            return result

    async def main() -> None:
        async with Engine(services=[Safe()], store=MemoryStore(), inactivity_timeout=0.01) as engine:
            key = "a\nforged\x1b[2J key"
            options: dict[str, Any] = {"key": key, "headers": {"x-header": header}}
            handle = await engine.send("Safe/keep", argument, idempotency_key=f"{idempotency}\n\x1b", **options)
            await engine.send_signal(handle.id, "told", signal)
            assert await handle.result() == result
            failing = await engine.send("Safe/keep", argument, key=key, headers={"fail": header})
            while (await failing.describe()).status != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await engine.send("Safe/keep", delayed, delay="1h", **options)
            for call in (
                engine.call("Safe/keep", argument, key="\x00" + argument),
                engine.call("Safe/nothing", argument, key=key),
                engine.send("Safe/keep", argument, idempotency_key="\x00" + idempotency, **options),
            ):
                with pytest.raises(DurableError):
                    await call
            await engine.kill(failing.id)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("durable")]
    assert any("attempt 2 failed in step 'use'" in line for line in lines)
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines for mark in MARKS if mark in line] == []


def test_arguments_whose_own_methods_raise_cost_a_line(caplog: pytest.LogCaptureFixture) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise Nonsense

    log.engine.warning("%s", Unspeakable())
    log.engine.warning("%s", "this one is heard")
    assert [record.getMessage() for record in caplog.records if record.args != ()][-1:] == ["this one is heard"]
