"""What is too large to be stored is refused at every door, by an error that names door, size and limit."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    InvocationCancelled,
    ObjectContext,
    RequestError,
    RetryableError,
    SerializationError,
    TerminalError,
    UsageError,
    ValueTooLargeError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.store.memory import MemoryStore
from durable.testing import VirtualClock, run
from tests.runtime.support import UNKNOWN, engine_on, settled, wrong

LIMIT = 4096
BIG = b"x" * 5000
#: How many bytes of an error's text are kept.
TEXT = 8 * 1024


class Box(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, value: Any) -> None:
        ctx.set("it", value)

    @handler
    async def fill(self, ctx: ObjectContext) -> None:
        ctx.set("it", BIG)

    @handler
    async def fill_raw(self, ctx: ObjectContext) -> None:
        ctx.set_raw("it", BIG)


class Flow(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, door: str) -> str:
        if door == "promise":
            await ctx.promise("p").resolve(BIG.decode())
        return str(await ctx.promise("p"))


@handler(service="S")
async def keep(ctx: Context, value: Any) -> Any:
    return value


@handler(service="S")
async def pass_on(ctx: Context, door: str) -> Any:
    big = BIG.decode()
    match door:
        case "step":
            return await ctx.run(lambda: big)
        case "result":
            return big
        case "call":
            return await ctx.call(keep, big)
        case "send":
            ctx.send(keep, big)
        case "headers":
            await ctx.call(keep, headers={f"h{number}": "v" * 1000 for number in range(5)})
        case "signal":
            ctx.send_signal(ctx.request.id, "s", big)
        case "awakeable":
            ctx.resolve_awakeable(ctx.awakeable().id, big)
    return None


OUTSIDE: dict[str, tuple[str, Callable[[Engine], Awaitable[Any]]]] = {
    "call": ("the argument of S/keep", lambda engine: engine.call(keep, BIG)),
    "send": ("the argument of S/keep", lambda engine: engine.send(keep, BIG)),
    "headers": (
        "the set of 5 headers",
        lambda engine: engine.call(keep, headers={f"h{number}": "v" * 1000 for number in range(5)}),
    ),
    "state": ("the state value 'it'", lambda engine: engine.patch_state("Box", "k", {"it": BIG})),
    "all state": (
        "the argument of Box/$patch-state",
        lambda engine: engine.patch_state("Box", "k", {f"v{number}": b"v" * 1000 for number in range(4)}),
    ),
    "signal": ("the value of signal 's'", lambda engine: engine.send_signal(UNKNOWN, "s", BIG)),
    "promise": ("the value of promise 'p'", lambda engine: engine.resolve_promise("Flow", "k", "p", BIG)),
    "awakeable": (
        "the value of an awakeable",
        lambda engine: engine.resolve_awakeable("sign_1" + "0" * 33 + "1", BIG),
    ),
}


@pytest.mark.parametrize("door", OUTSIDE)
def test_from_outside_it_is_a_request_error_with_code_413_and_nothing_is_accepted(tmp_path: Path, door: str) -> None:
    name, ask = OUTSIDE[door]

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", keep, Box(), Flow(), max_value_size=LIMIT) as engine:
            with pytest.raises(ValueTooLargeError) as caught:
                await ask(engine)
            error = caught.value
            assert isinstance(error, RequestError)
            assert isinstance(error, SerializationError)
            assert (error.code, error.door, error.limit) == (413, name, LIMIT)
            assert error.size > LIMIT
            assert f"{error.size:,}" in str(error)
            assert f"{LIMIT:,}" in str(error)
            assert await engine.invocations() == []

    run(story)


@pytest.mark.parametrize(
    ("target", "argument", "key", "door"),
    [
        *[("S/pass_on", door, None, door) for door in ("call", "send", "headers", "signal", "awakeable")],
        ("S/pass_on", "step", None, "the result of step"),
        ("S/pass_on", "result", None, "the result of S/pass_on"),
        ("Box/fill", None, "k", "the state value"),
        ("Box/fill_raw", None, "k", "the state value"),
        ("Flow/run", "promise", "k", "the value of promise"),
    ],
)
def test_in_a_handler_it_pauses_at_once_and_a_larger_limit_and_a_resume_cure_it(
    tmp_path: Path, target: str, argument: Any, key: str | None, door: str
) -> None:
    services = (keep, pass_on, Box(), Flow())

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", *services, max_value_size=LIMIT) as engine:
            handle = await engine.send(target, argument, key=key)
            view = await settled(engine, handle.id)
            assert view.status == "paused"
            assert view.last_failure is not None
            assert (view.last_failure.reason, view.last_failure.type) == ("value-too-large", "ValueTooLargeError")
            assert (view.attempt, view.failures) == (1, 1)
            assert door in view.last_failure.message or door in ("call", "send", "headers", "signal", "awakeable")
            assert "max_value_size" in view.advice
        async with engine_on(tmp_path / "durable.db", *services) as engine:
            assert await engine.resume_all(reason="value-too-large") == [handle.id]
            await handle_of(engine, handle.id)

    run(story)


async def handle_of(engine: Engine, id: str) -> Any:
    return await asyncio.wait_for(engine.attach(id), 60)


def test_a_step_whose_result_is_too_large_runs_once_until_somebody_resumes(tmp_path: Path) -> None:
    executions: list[int] = []

    async def produce() -> bytes:
        executions.append(len(executions))
        return BIG

    @handler(service="Once")
    async def once(ctx: Context) -> int:
        return len(await ctx.run(produce))

    async def story() -> None:
        for _ in range(2):  # a start changes nothing
            async with engine_on(tmp_path / "durable.db", once, keep, max_value_size=LIMIT) as engine:
                handle = await engine.send(once, idempotency_key="one")
                assert (await settled(engine, handle.id)).status == "paused"
                await asyncio.sleep(600)
                assert executions == [0]
                assert await engine.call(keep, 1) == 1
        async with engine_on(tmp_path / "durable.db", once) as engine:
            await engine.resume(handle.id)
            assert await engine.attach(handle.id) == len(BIG)
        assert executions == [0, 1]

    run(story)


HUNDRED_MB = 100 * 1024 * 1024


@handler(service="Large")
async def large(ctx: Context) -> int:
    first = await ctx.run(bytes, HUNDRED_MB)
    await ctx.sleep(90)  # longer than the inactivity timeout: it is replayed
    return len(first)


@handler(service="Large")
async def through(ctx: Context, value: bytes) -> bytes:
    def same() -> bytes:
        return value

    return await ctx.run(same)


def test_a_hundred_megabytes_are_stored_where_the_limit_allows(tmp_path: Path) -> None:
    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", large, max_value_size=128 * 1024 * 1024) as engine:
            assert await engine.call(large) == HUNDRED_MB

    run(story)


def test_the_engine_itself_makes_no_copy_of_a_large_value() -> None:
    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[through], store=MemoryStore(), clock=clock, max_value_size=HUNDRED_MB) as engine:
            value = bytes(HUNDRED_MB)
            tracemalloc.start()
            try:
                assert await engine.call(through, value) == value
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < HUNDRED_MB / 10, "argument, step's result and result are the caller's own bytes"

    run(story)


def test_a_value_beyond_what_sqlite_takes_stops_nobody(tmp_path: Path) -> None:
    @handler(service="Huge")
    async def huge(ctx: Context) -> int:
        return len(await ctx.run(lambda: bytes(1_000_000_001)))

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", huge, keep) as engine:
            handle = await engine.send(huge)
            view = await settled(engine, handle.id)
            assert view.last_failure is not None
            assert view.last_failure.reason == "value-too-large"
            assert await engine.call(keep, "innocent") == "innocent"
            assert engine.failure is None

    run(story)


@pytest.mark.parametrize("limit", [0, -1, 1023, 256 * 1024 * 1024 + 1, True, 2048.0, "1MiB", None])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    with pytest.raises(UsageError, match="max_value_size must be a number of bytes from 1024 to"):
        Engine(":memory:", max_value_size=wrong(limit))


# ---- texts of errors are cut ----


@pytest.mark.parametrize("where", ["handler", "step", "rejected awakeable", "rejected signal", "rejected promise"])
def test_the_message_and_metadata_of_a_terminal_error_are_cut_and_never_an_error(tmp_path: Path, where: str) -> None:
    long = "🚀 and more " * 200_000
    metadata = {f"name {number} " + long: long for number in range(20)}

    def fail() -> None:
        raise TerminalError(long, 418, metadata)

    class Waits(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> None:
            match where:
                case "handler":
                    fail()
                case "step":
                    await ctx.run(fail)
                case "rejected awakeable":
                    awakeable = ctx.awakeable()
                    ctx.reject_awakeable(awakeable.id, long, 418)
                    await awakeable
                case "rejected signal":
                    ctx.reject_signal(ctx.request.id, "s", long, 418)
                    await ctx.signal("s")
                case "rejected promise":
                    await ctx.promise("p").reject(long, 418)
                    await ctx.promise("p")

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Waits(), max_value_size=1024) as engine:
            with pytest.raises(TerminalError) as caught:
                await engine.call(Waits.run, key="k")
            error = caught.value
            assert error.code == 418
            assert error.message.startswith("🚀 and more")
            assert error.message.endswith("… (cut)")
            texts = [error.message, *error.metadata, *error.metadata.values()]
            assert max(len(text.encode()) for text in texts) <= TEXT
            assert sum(len(text.encode()) for text in texts[1:]) <= 64 * 1024 + 100
            if where in ("handler", "step"):
                assert error.metadata["(cut)"] == "16 more"

    run(story)


@pytest.mark.parametrize("kind", [ValueError, RetryableError])
def test_the_message_and_stack_trace_of_an_ordinary_error_are_cut(
    tmp_path: Path, kind: Callable[[str], Exception]
) -> None:
    def deep(levels: int) -> None:
        if levels:
            deeper(levels)
        raise kind("€" * 100_000)

    def deeper(levels: int) -> None:
        deep(levels - 1)

    @handler(service="Deep")
    async def fails(ctx: Context) -> None:
        await ctx.run(deep, 200)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", fails, max_value_size=1024) as engine:
            view = await settled(engine, (await engine.send(fails)).id)
            problem = view.last_failure
            assert problem is not None
            assert problem.reason == ""
            assert len(problem.message.encode()) <= TEXT
            assert len(problem.stacktrace.encode()) <= TEXT
            assert problem.stacktrace.startswith("Traceback")
            assert "… (cut)" in problem.message
            assert "… (cut)" in problem.stacktrace
            assert problem.stacktrace.rstrip().endswith("€"), "its end says where it happened"

    run(story)


def test_a_cancelled_child_with_a_long_message_does_not_make_its_parents_failure_long(tmp_path: Path) -> None:
    @handler(service="Tree")
    async def child(ctx: Context) -> None:
        try:
            await ctx.awakeable()
        except InvocationCancelled:
            raise TerminalError("c" * 1_000_000) from None

    @handler(service="Tree")
    async def parent(ctx: Context) -> None:
        await ctx.call(child)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", child, parent, max_value_size=1024) as engine:
            handle = await engine.send(parent)
            await asyncio.sleep(1)
            await engine.cancel(handle.id)
            view = await settled(engine, handle.id)
            assert view.output is not None
            assert len(view.output) < 2 * TEXT

    run(story)
