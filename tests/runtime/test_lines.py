"""What the log says of invocations: how loudly, in which words, with whose frames and which fields."""

import asyncio
import logging
import re
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import Context, Engine, ObjectContext, RetryPolicy, TerminalError, VirtualObject, handler
from durable.telemetry.logs import FIELDS
from durable.testing import MemoryStore, VirtualClock, run
from tests.runtime.support import settled

HOUSE = str(Path(durable.__file__).parent)
TWICE = RetryPolicy(initial_interval="5ms", factor=1, max_attempts=2)
Said = list[tuple[str, str]]


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO, name: str = "durable.invocation") -> Said:
    """Levels and lines, without what differs from run to run."""
    return [
        (record.levelname, re.sub(r"inv_\w+", "inv", re.sub(r"\d+ ms", "… ms", record.getMessage())))
        for record in caplog.records
        if record.name == name and record.levelno >= level
    ]


def tell(caplog: pytest.LogCaptureFixture, story: Callable[[Engine], Awaitable[Any]], *services: object) -> None:
    async def main() -> None:
        async with Engine(services=services, store=MemoryStore(), retry=TWICE) as engine:
            await story(engine)

    with caplog.at_level(logging.DEBUG, "durable"):
        asyncio.run(main())


async def gateway() -> None:
    raise ConnectionError("gateway down")


# ---- levels, words and numbers ----


def test_a_step_that_uses_its_policy_up_is_numbered_by_its_tries_and_says_what_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @handler(service="S")
    async def pay(ctx: Context) -> int:
        try:
            policy = RetryPolicy(initial_interval="5ms", max_attempts=3)
            await ctx.with_options(name="charge", retry=policy).run(gateway)
        except TerminalError:
            pass
        return ctx.request.attempt

    async def story(engine: Engine) -> None:
        assert await engine.call(pay) == 4

    tell(caplog, story, pay)
    failed = "S/pay inv: attempt {} failed in step 'charge': ConnectionError: gateway down; {}"
    assert said(caplog) == [
        ("WARNING", failed.format(1, "retrying in … ms")),
        ("WARNING", failed.format(2, "retrying in … ms")),
        ("WARNING", failed.format(3, "its step is given up after 3 tries: the handler gets a TerminalError")),
    ]


def test_one_that_its_policy_kills_is_an_error_once_and_not_completed(caplog: pytest.LogCaptureFixture) -> None:
    @handler(service="S", retry=RetryPolicy(max_attempts=1, on_max_attempts="kill"))
    async def buggy(ctx: Context) -> None:
        raise KeyError("missing")

    async def story(engine: Engine) -> None:
        with pytest.raises(TerminalError):
            await engine.call(buggy)

    tell(caplog, story, buggy)
    [(level, line)] = said(caplog)
    assert level == "ERROR"
    assert line.endswith("failed: KeyError: 'missing'; ended by its policy after 1 try (on_max_attempts=\"kill\")")


def test_one_that_is_paused_is_an_error_and_its_retries_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    @handler(service="S")
    async def buggy(ctx: Context) -> None:
        raise KeyError("missing")

    @handler(service="S")
    async def unstorable(ctx: Context) -> Any:
        return object()

    async def story(engine: Engine) -> None:
        for one in (buggy, unstorable):
            await settled(engine, (await engine.send(one)).id)

    tell(caplog, story, buggy, unstorable)
    [first, second, third] = said(caplog)
    assert first == ("WARNING", "S/buggy inv: attempt 1 failed: KeyError: 'missing'; retrying in … ms")
    assert second[0] == "ERROR"
    assert second[1].endswith("paused after 2 tries, no more are left: mend the cause, then engine.resume(id)")
    assert third[0] == "ERROR"
    assert third[1].endswith("paused at once (result-not-storable)")


def test_a_step_whose_own_policy_pauses_counts_the_tries_of_the_step(caplog: pytest.LogCaptureFixture) -> None:
    @handler(service="S")
    async def pay(ctx: Context) -> None:
        policy = RetryPolicy(initial_interval="5ms", max_attempts=3, on_max_attempts="pause")
        await ctx.with_options(name="charge", retry=policy).run(gateway)

    async def story(engine: Engine) -> None:
        await settled(engine, (await engine.send(pay)).id)

    tell(caplog, story, pay)
    level, line = said(caplog)[-1]
    assert level == "ERROR"
    assert "attempt 3 failed in step 'charge'" in line
    assert line.endswith("paused after 3 tries, no more are left: mend the cause, then engine.resume(id)")


def test_one_that_fails_while_an_operator_pauses_it_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def step() -> None:
        began.set()
        await release.wait()
        raise ConnectionError

    @handler(service="S")
    async def held(ctx: Context) -> None:
        await ctx.run(step)

    async def story(engine: Engine) -> None:
        handle = await engine.send(held)
        await began.wait()
        await engine.pause(handle.id)
        release.set()
        await settled(engine, handle.id)

    tell(caplog, story, held)
    [(level, line)] = said(caplog)
    assert level == "WARNING"
    assert line.endswith("paused, as an operator has asked")


def test_a_terminal_error_and_a_kill_are_information_and_a_life_is_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @handler(service="S")
    async def declines(ctx: Context) -> None:
        await ctx.run(lambda: None)
        raise TerminalError("no", code=402, metadata={"card": "secret"})

    @handler(service="S")
    async def waits(ctx: Context) -> None:
        await ctx.sleep("1d")

    async def story(engine: Engine) -> None:
        with pytest.raises(TerminalError):
            await engine.call(declines)
        handle = await engine.send(waits)
        await engine.kill(handle.id)

    tell(caplog, story, declines, waits)
    assert said(caplog, logging.DEBUG) == [
        ("DEBUG", "S/declines inv: accepted"),
        ("DEBUG", "S/declines inv: attempt 1 begins"),
        ("DEBUG", "S/declines inv: attempt 1 is over: finished"),
        ("INFO", "S/declines inv: ended with an error (402): no"),
        ("DEBUG", "S/waits inv: accepted"),
        ("DEBUG", "S/waits inv: attempt 1 begins"),
        ("DEBUG", "S/waits inv: attempt 1 is over: ended"),
        ("INFO", "S/waits inv: ended with an error (409): killed"),
    ]
    assert said(caplog, name="durable.engine") == [
        ("INFO", "an engine without a file: the engine runs; services: 1"),
        ("INFO", "an engine without a file: the engine was closed"),
    ]


def test_steps_that_a_shutdown_cuts_off_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    began = 0

    async def sleep() -> None:
        nonlocal began
        began += 1
        await asyncio.sleep(30)

    @handler(service="S")
    async def long(ctx: Context) -> None:
        await ctx.run(sleep)

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[long], store=MemoryStore(), clock=clock) as engine:
            for _ in range(200):
                await engine.send(long)
            while began < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(main)
    [line] = said(caplog, logging.WARNING, "durable.engine")
    assert line[1].startswith(
        "when the engine shut down, 200 steps still ran; they run again at the next start: 'sleep' "
    )
    assert len(line[1]) < 1000
    assert said(caplog, logging.WARNING) == []


# ---- whose frames ----


def inner() -> None:
    raise ConnectionError("in the user's code")


async def fails() -> None:
    inner()


async def chained() -> None:
    try:
        inner()
    except ConnectionError as error:
        raise ValueError("made of another") from error


async def hangs() -> None:
    await asyncio.sleep(10)


async def async_step(ctx: Context) -> None:
    await ctx.run(fails)


async def sync_step(ctx: Context) -> None:
    await ctx.run(inner)


async def timed_step(ctx: Context) -> None:
    await ctx.with_options(timeout=5).run(inner)


async def lambda_step(ctx: Context) -> None:
    await ctx.run(lambda: inner())


async def chained_step(ctx: Context) -> None:
    await ctx.run(chained)


async def beside(ctx: Context) -> None:
    failing = ctx.run(fails)
    ctx.now()
    await failing


async def in_the_handler(ctx: Context) -> None:
    await ctx.run(lambda: None)
    inner()


async def in_a_saga(ctx: Context) -> None:
    async with ctx.saga() as saga:
        saga.add_compensation(inner)
        await fails()


async def in_a_group(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(chained())
        group.create_task(fails())


async def gathered(ctx: Context) -> None:
    await asyncio.gather(fails(), ctx.run(lambda: None))


KINDS = [
    async_step, sync_step, timed_step, lambda_step, chained_step, beside, in_the_handler, in_a_saga, in_a_group,
    gathered,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_frame_of_the_engine_stands_above_the_users(
    kind: Callable[[Context], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """In the line, in the record's exception, and in what is stored."""

    @handler(service="S", retry=RetryPolicy(max_attempts=1))
    async def failing(ctx: Context) -> None:
        await kind(ctx)

    stored = []

    async def story(engine: Engine) -> None:
        view = await settled(engine, (await engine.send(failing)).id)
        assert view.last_failure is not None
        stored.append(view.last_failure.stacktrace)

    tell(caplog, story, failing)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info and record.exc_text
    assert stored[0].rstrip() == record.exc_text
    for block in re.split(r"Traceback \(most recent call last\):", record.exc_text)[1:]:
        [first, *_] = re.findall(r'File "(.*)", line', block)
        assert not first.startswith(HOUSE), record.exc_text
    frames = traceback.extract_tb(record.exc_info[2])
    assert frames[0].filename == __file__
    assert " in inner\n" in record.exc_text
    assert "\n".join(traceback.format_exception_only(record.exc_info[1])[:1]).strip() in record.exc_text


def test_a_step_that_takes_too_long_shows_its_own_line(caplog: pytest.LogCaptureFixture) -> None:
    @handler(service="S", retry=RetryPolicy(max_attempts=1))
    async def slow(ctx: Context) -> None:
        await ctx.with_options(timeout=0.01).run(hangs)

    async def story(engine: Engine) -> None:
        await settled(engine, (await engine.send(slow)).id)

    tell(caplog, story, slow)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_text is not None
    assert record.exc_text.startswith("Traceback")
    assert re.search(rf'last\):\n  File "{__file__}", line \d+, in hangs', record.exc_text)


def test_an_error_of_the_engines_own_shows_all_its_frames(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no other code that a reader could look at."""

    @handler(service="S")
    async def unstorable(ctx: Context) -> Any:
        return object()

    async def story(engine: Engine) -> None:
        await settled(engine, (await engine.send(unstorable)).id)

    tell(caplog, story, unstorable)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_text is not None
    assert HOUSE in record.exc_text


class Forging(Exception):
    def __str__(self) -> str:
        return "one\nERROR:forged \x1b[2J\u2028line"


class Circular(ExceptionGroup[Exception]):
    """Whose members are itself: formatters that look for them never end."""

    @property
    def exceptions(self) -> Any:
        return (self,)


@pytest.mark.parametrize("kind", [Forging, Circular])
def test_a_traceback_moves_no_cursor_and_comes_to_an_end(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    @handler(service="S", retry=RetryPolicy(max_attempts=1))
    async def failing(ctx: Context) -> None:
        raise kind("round", [ValueError()])

    async def story(engine: Engine) -> None:
        await settled(engine, (await engine.send(failing)).id)

    tell(caplog, story, failing)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_text is not None
    assert all(line.isprintable() for line in record.exc_text.split("\n"))
    assert all(line.isprintable() for line in logging.Formatter().format(record).split("\n"))
    assert bool(record.exc_info) is (kind is Forging)


# ---- which fields ----


class Cart(VirtualObject):
    @handler(retry=RetryPolicy(initial_interval="5ms", max_attempts=2))
    async def add(self, ctx: ObjectContext) -> None:
        await ctx.with_options(name="charge").run(gateway)

    @handler
    async def forgets(self, ctx: ObjectContext) -> None:
        ctx.run(lambda: None)


def test_every_line_about_an_invocation_has_all_fields(caplog: pytest.LogCaptureFixture) -> None:
    ids: dict[str, str] = {}

    async def story(engine: Engine) -> None:
        trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        for method in (Cart.add, Cart.forgets):
            handle = await engine.send(method, key="ada", headers=trace)
            ids[f"Cart/ada/{method.name}"] = handle.id
            await settled(engine, handle.id)
            if (await handle.describe()).status == "paused":
                await engine.kill(handle.id)

    tell(caplog, story, Cart())
    records: list[Any] = [record for record in caplog.records if record.name == "durable.invocation"]
    lines = " ".join(record.getMessage() for record in records)
    assert {"accepted", "charge", "forget", "killed"} <= set(re.findall(r"accepted|charge|forget|killed", lines))
    for record in records:
        assert all(hasattr(record, name) for name in FIELDS)
        assert record.getMessage().startswith(f"{record.target} {record.invocation_id}: ")
        assert record.invocation_id == ids[record.target]
        assert (record.key, record.trace_id, record.span_id) == ("ada", "a" * 32, "b" * 16)
        assert record.step == ("charge" if "in step 'charge'" in record.getMessage() else None)
        if (numbered := re.search(r"attempt (\d+)", record.getMessage())) is not None:
            assert record.attempt == int(numbered[1])
