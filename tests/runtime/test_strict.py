"""A strict engine finds what a replay cannot repeat where a handler does it, and nothing else."""

import asyncio
import datetime
import io
import json
import logging
import mimetypes
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
import zoneinfo
from collections.abc import Callable
from datetime import datetime as renamed
from pathlib import Path
from time import time as imported
from typing import Any

import pydantic
import pytest

from durable import Context, Engine, InvocationView, UsageError, handler
from durable.store.memory import MemoryStore
from durable.testing import VirtualClock, run
from tests.runtime.support import settled

HERE = Path(__file__)

#: What must be found, by what it is called.
FOUND: dict[str, tuple[str, Callable[[], Any]]] = {
    "time.time": ("time.time", lambda: time.time()),
    "imported by name": ("time.time", lambda: imported()),
    "time.time_ns": ("time.time_ns", lambda: time.time_ns()),
    "time.localtime": ("time.localtime", lambda: time.localtime()),
    "time.gmtime": ("time.gmtime", lambda: time.gmtime()),
    "time.ctime": ("time.ctime", lambda: time.ctime()),
    "time.strftime": ("time.strftime", lambda: time.strftime("%H:%M")),
    "datetime.now": ("datetime.now", lambda: datetime.datetime.now(datetime.UTC)),
    "under another name": ("datetime.now", lambda: renamed.now(datetime.UTC)),
    "date.today": ("date.today", lambda: datetime.date.today()),
    "random.random": ("random.random", lambda: random.random()),
    "random.randint": ("random.randint", lambda: random.randint(1, 6)),
    "random.choice": ("random.choice", lambda: random.choice("abc")),
    "random.shuffle": ("random.shuffle", lambda: random.shuffle([1, 2])),
    "uuid4": ("uuid.uuid4", lambda: uuid.uuid4()),
    "secrets": ("secrets.token_hex", lambda: secrets.token_hex()),
    "secrets.choice": ("choice", lambda: secrets.choice("abc")),
    "os.urandom": ("os.urandom", lambda: os.urandom(3)),
    "open": ("open", lambda: open(HERE).close()),
    "a path": ("open", lambda: HERE.read_text()),
    "a temporary file": ("open", lambda: tempfile.TemporaryFile().close()),
    "a socket": ("socket.socket", lambda: socket.socket().close()),
    "a process": ("subprocess.Popen", lambda: subprocess.run(["true"], check=True)),
}


class Stamped(logging.Formatter):
    """Writes the time, a number and what a file says into each line."""

    def format(self, record: logging.LogRecord) -> str:
        return (
            f"{datetime.datetime.now(datetime.UTC)} {uuid.uuid4()} {HERE.read_text()[:10]} {super().format(record)}"
        )


def told(record: logging.LogRecord) -> bool:
    record.at = time.time()
    return True


def logs_with_the_users_formatter_and_filter() -> None:
    logger = logging.Logger("stamped")
    text = io.StringIO()
    to = logging.StreamHandler(text)
    to.setFormatter(Stamped())
    to.addFilter(told)
    logger.addHandler(to)
    logger.warning("hello")
    assert text.getvalue().endswith("hello\n")


def looks_up_mime_types() -> None:
    mimetypes.init()
    mimetypes.guess_type("a.html")


#: What must not be.
LET_BE: dict[str, Callable[[], Any]] = {
    "a log line": lambda: logging.getLogger("theirs").warning("what the time was: %s", 7),
    "a log line with a formatter and a filter of the user's": logs_with_the_users_formatter_and_filter,
    "a moment in Greenwich": lambda: time.gmtime(7),
    "a moment here": lambda: time.localtime(7.5),
    "a moment in words": lambda: (time.ctime(7), time.asctime(time.gmtime(7)), time.strftime("%H", time.gmtime(7))),
    "moments": lambda: list(map(time.gmtime, [1, 2])),
    "MIME types": looks_up_mime_types,
    "a time zone": lambda: zoneinfo.ZoneInfo.no_cache("Europe/Berlin"),
    "a generator with a seed": lambda: random.Random(7).randint(1, 6),
    "a shuffle with one": lambda: random.Random(7).shuffle([1, 2]),
    "an import": lambda: __import__("this" if False else "colorsys"),
    "a moment that is given": lambda: datetime.datetime.fromtimestamp(7, datetime.UTC),
    "a duration": lambda: time.perf_counter(),
    "json": lambda: json.dumps({"a": [1, 2]}),
    "a traceback": lambda: traceback.format_stack(),
    "a file in memory": lambda: io.StringIO("text").read(),
    "a uuid of a name": lambda: uuid.uuid5(uuid.NAMESPACE_URL, "https://example.org"),
}


def strict(*services: object) -> Engine:
    clock = VirtualClock(asyncio.get_running_loop())
    return Engine(services=services, store=MemoryStore(), clock=clock, strict=True)


def outcome_of(does: Callable[[Context], Any]) -> InvocationView:
    """What becomes of a handler that does this."""

    @handler(service="Strict")
    async def work(ctx: Context) -> None:
        await does(ctx)

    async def story() -> InvocationView:
        async with strict(work) as engine:
            handle = await engine.send(work)
            return await settled(engine, handle.id)

    return run(story)


def in_the_handler(what: Callable[[], Any]) -> Callable[[Context], Any]:
    async def does(ctx: Context) -> None:
        what()
        await ctx.sleep(1)

    return does


def at_its_end(what: Callable[[], Any]) -> Callable[[Context], Any]:
    async def does(ctx: Context) -> None:
        await ctx.sleep(1)
        what()

    return does


def in_a_flow(what: Callable[[], Any]) -> Callable[[Context], Any]:
    async def does(ctx: Context) -> None:
        async def flow() -> None:
            await ctx.sleep(1)
            what()

        await asyncio.gather(flow(), ctx.sleep(2))

    return does


def in_an_async_step(what: Callable[[], Any]) -> Callable[[Context], Any]:
    async def step() -> None:
        what()

    async def does(ctx: Context) -> None:
        beside = ctx.run(step)
        await ctx.run(step)
        await beside

    return does


def in_a_plain_step(what: Callable[[], Any]) -> Callable[[Context], Any]:
    def step() -> None:
        what()

    return lambda ctx: ctx.run(step)


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("where", [in_the_handler, at_its_end, in_a_flow])
def test_what_a_replay_cannot_repeat_is_found_with_its_line(where: Any, what: str) -> None:
    name, does = FOUND[what]
    view = outcome_of(where(does))
    assert (view.status, view.last_failure and view.last_failure.reason) == ("paused", "misuse")
    assert view.last_failure is not None
    text = view.last_failure.message
    line = does.__code__.co_firstlineno
    assert f"{name}() in a handler, at {__file__}:{line}, asks " in text
    assert "ctx." in text


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("where", [in_an_async_step, in_a_plain_step])
def test_a_step_may_do_all_that(where: Any, what: str) -> None:
    assert outcome_of(where(FOUND[what][1])).status == "completed"


@pytest.mark.parametrize("what", LET_BE)
def test_what_only_looks_like_it_is_let_be(what: str) -> None:
    view = outcome_of(in_the_handler(LET_BE[what]))
    assert view.status == "completed", view.last_failure


class Order(pydantic.BaseModel):
    """An input that looks at the clock when it is read, and at chance when it is written."""

    number: int

    @pydantic.field_validator("number")
    @classmethod
    def has_a_time(cls, number: int) -> int:
        assert time.time() + random.random() > 0
        return number

    @pydantic.field_serializer("number")
    def as_number(self, number: int) -> int:
        assert uuid.uuid4()
        return number


def test_what_the_model_of_an_input_does_when_it_is_read_is_let_be() -> None:
    @handler(service="Strict")
    async def work(ctx: Context, order: Order) -> Order:
        await ctx.sleep(1)
        return order

    @handler(service="Strict")
    async def parent(ctx: Context, number: int) -> int:
        return (await ctx.call(work, Order.model_construct(number=number))).number

    @handler(service="Strict")
    async def makes(ctx: Context, number: int) -> int:
        return Order(number=number).number

    async def story() -> None:
        async with strict(work, parent, makes) as engine:
            assert await engine.call(parent, 7) == 7
            view = await settled(engine, (await engine.send(makes, 7)).id)  # this is the handler's own doing
            assert view.last_failure is not None
            assert "time.time() in a handler" in view.last_failure.message

    run(story)


def test_what_the_context_gives_is_let_be() -> None:
    async def does(ctx: Context) -> None:
        ctx.now()
        ctx.random().shuffle([1, 2])
        ctx.uuid()
        await ctx.sleep("1s").with_timeout("10s")

    view = outcome_of(does)
    assert view.status == "completed", view.last_failure


def test_an_engine_that_is_not_strict_looks_at_nothing() -> None:
    @handler(service="Lax")
    async def work(ctx: Context) -> float:
        assert sys.getprofile() is None
        return time.time() + random.random()

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[work], store=MemoryStore(), clock=clock) as engine:
            await engine.call(work)

    run(story)


@pytest.mark.parametrize("ends", ["close", "abandon"])
def test_nobody_looks_any_more_when_the_last_strict_engine_has_ended(ends: str) -> None:
    @handler(service="Strict")
    async def work(ctx: Context) -> None:
        await ctx.sleep(1)

    async def story() -> None:
        first, second = strict(work), strict(work)
        await first.start()
        await second.start()
        await first.close()
        assert sys.getprofile() is not None
        if ends == "close":
            await second.close()
        else:
            second.abandon()
        assert sys.getprofile() is None

    run(story)


def test_a_profiler_that_was_there_goes_on() -> None:
    seen: list[str] = []

    async def story() -> None:
        sys.setprofile(lambda frame, event, argument: seen.append(event))
        try:
            async with strict():
                seen.clear()
                time.time()
                assert "c_call" in seen
        finally:
            sys.setprofile(None)

    run(story)


# ---- other mistakes ----


def test_a_forgotten_await_is_an_error() -> None:
    ran: list[int] = []

    async def charge() -> None:
        ran.append(1)

    async def does(ctx: Context) -> None:
        ctx.run(charge)

    view = outcome_of(does)
    assert (view.status, view.last_failure and view.last_failure.reason) == ("paused", "misuse")
    assert view.last_failure is not None
    assert "did you forget `await`?" in view.last_failure.message
    assert f"{__file__}:" in view.last_failure.message
    assert not ran


def test_invoking_through_the_engine_in_a_handler_is_an_error_and_in_a_step_it_is_none() -> None:
    @handler(service="Strict")
    async def child(ctx: Context) -> int:
        return 1

    async def story() -> None:
        async def in_a_step() -> int:
            return await engine.call(child)

        @handler(service="Strict")
        async def parent(ctx: Context) -> int:
            return await engine.call(child)

        @handler(service="Strict")
        async def careful(ctx: Context) -> int:
            return await ctx.run(in_a_step)

        async with strict(child, parent, careful) as engine:
            assert await engine.call(careful) == 1
            view = await settled(engine, (await engine.send(parent)).id)
            assert view.last_failure is not None
            assert "Strict/parent: engine.call(Strict/child) in a handler" in view.last_failure.message
            assert "use ctx.call()" in view.last_failure.message
            assert view.last_failure.type == UsageError.__name__

    run(story)


@pytest.mark.parametrize("how", ["call", "send"])
def test_invoking_through_the_engine_in_a_handler_is_said_once(how: str, caplog: pytest.LogCaptureFixture) -> None:
    @handler(service="Lax")
    async def child(ctx: Context) -> int:
        return 1

    async def story() -> None:
        @handler(service="Lax")
        async def parent(ctx: Context) -> None:
            await (engine.call(child) if how == "call" else engine.send(child))

        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[child, parent], store=MemoryStore(), clock=clock) as engine:
            for _ in range(3):
                await engine.call(parent)

    run(story)
    lines = [
        record.getMessage() for record in caplog.records if "in a handler is in no journal" in record.getMessage()
    ]
    assert [line.split(" in a ")[0] for line in lines] == [f"Lax/parent: engine.{how}(Lax/child)"]
    assert f"use ctx.{how}(), or in a step engine.{how}(..., idempotency_key=...)" in lines[0]
