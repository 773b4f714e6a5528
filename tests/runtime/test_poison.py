"""R-12: handlers that raise and return what they should not. Each has its documented end, and disturbs nobody.

An exception that is a `TerminalError` ends the invocation; any other, whatever its class, is retried by policy, and
then the invocation is paused.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest

from durable import (
    AttemptEnded,
    Context,
    DurableFuture,
    DurableTimeoutError,
    InvocationCancelled,
    ObjectContext,
    RetryableError,
    SerializationError,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.testing import run
from tests.runtime.support import (
    Ending,
    Poison,
    Table,
    a_circle,
    a_tower,
    check_ending,
    complaints,
    journal,
    nothing_at_all,
    raised,
    swallowed,
    wrong,
)

table = Table()


# ---- exceptions of every kind, in every place ----


async def in_the_handler(ctx: Context, error: BaseException) -> None:
    raise error


async def in_an_async_step(ctx: Context, error: BaseException) -> None:
    async def step() -> None:
        raise error

    await ctx.run(step)


async def in_a_sync_step(ctx: Context, error: BaseException) -> None:
    def step() -> None:
        raise error

    await ctx.run(step)


async def in_a_step_beside_the_handler(ctx: Context, error: BaseException) -> None:
    async def step() -> None:
        raise error

    left = ctx.run(step)
    await asyncio.sleep(0.01)
    await left


async def in_a_step_with_a_time_limit(ctx: Context, error: BaseException) -> None:
    async def step() -> None:
        raise error

    await ctx.with_options(timeout="1s").run(step)


PLACES = [
    in_the_handler,
    in_an_async_step,
    in_a_sync_step,
    in_a_step_beside_the_handler,
    in_a_step_with_a_time_limit,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.replace("_", " "))
@pytest.mark.parametrize(
    "kind",
    [
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        asyncio.CancelledError,
        StopIteration,
        StopAsyncIteration,
        RecursionError,
        MemoryError,
        AttemptEnded,
        BaseException,
        TimeoutError,
        asyncio.InvalidStateError,
        sqlite3.OperationalError,
    ],
    ids=lambda kind: kind.__name__,
)
def test_any_exception_is_retried_and_then_the_invocation_is_paused(
    tmp_path: Path,
    kind: type[BaseException],
    place: Callable[[Context, BaseException], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    async def story() -> None:
        view, told = await swallowed(tmp_path / "durable.db", lambda ctx: place(ctx, kind("by hand")), tries=tries)
        # Python itself makes a RuntimeError of a StopIteration that leaves a coroutine
        check_ending(view, told, Ending("paused", (kind.__name__, "RuntimeError", "UsageError")), tries)

    run(story)
    assert complaints(caplog) == []


# ---- exceptions that misbehave ----


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


class Interrupting(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Speechless(Exception):
    def __str__(self) -> str:
        return 42  # type: ignore[return-value]


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise ValueError("no")


class Bottomless(Exception):
    def __str__(self) -> str:
        return str(self)


class Unlike(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("no")

    def __bool__(self) -> bool:
        raise ValueError("no")


class Reluctant(asyncio.CancelledError):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise ValueError("no")


@table.pauses("Unspeakable")
async def an_exception_that_cannot_be_shown(ctx: Context) -> None:
    raise Unspeakable


@table.pauses("Interrupting")
async def an_exception_that_interrupts_who_shows_it(ctx: Context) -> None:
    raise Interrupting


@table.pauses("Speechless")
async def an_exception_whose_text_is_no_text(ctx: Context) -> None:
    raise Speechless


@table.pauses("Unpicklable", text="secret")
async def an_exception_that_cannot_be_pickled(ctx: Context) -> None:
    raise Unpicklable("secret")


@table.pauses("Bottomless")
async def an_exception_whose_text_never_ends(ctx: Context) -> None:
    raise Bottomless


@table.pauses("Unlike")
async def an_exception_that_cannot_be_compared(ctx: Context) -> None:
    raise Unlike


@table.pauses("Reluctant")
async def a_cancellation_that_hides_its_arguments(ctx: Context) -> None:
    raise Reluctant


@table.pauses("Unspeakable")
async def an_exception_that_cannot_be_shown_in_a_thread(ctx: Context) -> None:
    await ctx.run(lambda: raised(Unspeakable()))


@table.pauses("ValueError", text="mmmmm")
async def a_message_of_a_megabyte(ctx: Context) -> None:
    raise ValueError("m" * 1_000_000)


@table.pauses("ValueError", text="mmmmm")
async def a_message_of_a_megabyte_from_a_step(ctx: Context) -> None:
    await ctx.run(lambda: raised(ValueError("m" * 1_000_000)))


@table.pauses("ValueError")
async def a_message_of_a_megabyte_of_emoji(ctx: Context) -> None:
    raise ValueError("🚀" * 250_000)


@table.pauses("ValueError", text="left ? right")
async def a_lone_surrogate_in_a_message(ctx: Context) -> None:
    raise ValueError("left \ud800 right")


@table.pauses("ValueError")
async def a_message_of_control_characters(ctx: Context) -> None:
    raise ValueError("".join(map(chr, range(32))) + "\x7f\u2028\u202e")


@table.pauses("ValueError", text="the last")
async def a_thousand_causes(ctx: Context) -> None:
    error = ValueError("the first")
    for number in range(1000):
        cause, error = error, ValueError(f"number {number}")
        error.__cause__ = cause
    raise ValueError("the last") from error


@table.pauses("ValueError")
async def a_circle_of_causes(ctx: Context) -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    raise one


@table.pauses("RecursionError")
async def a_real_recursion(ctx: Context) -> None:
    def deeper(level: int) -> int:
        return deeper(level + 1) + 1

    deeper(0)


@table.pauses("RecursionError")
async def a_real_recursion_in_a_thread(ctx: Context) -> None:
    def deeper(level: int) -> int:
        return deeper(level + 1) + 1

    await ctx.run(deeper, 0)


@table.pauses()
async def a_class_name_of_a_megabyte(ctx: Context) -> None:
    raise type("E" * 1_000_000, (Exception,), {})("big")


# ---- groups ----


@table.ends(418, "one")
async def a_group_of_terminal_errors(ctx: Context) -> None:
    raise ExceptionGroup("both", [TerminalError("one", 418), TerminalError("two", 419)])


@table.ends(418, "one")
async def a_nested_group_of_terminal_errors(ctx: Context) -> None:
    inner = ExceptionGroup("inner", [TerminalError("one", 418), TerminalError("two")])
    raise ExceptionGroup("outer", [inner, TerminalError("three")])


@table.ends(418, "one")
async def a_group_of_terminal_errors_in_a_step(ctx: Context) -> None:
    await ctx.run(lambda: raised(ExceptionGroup("both", [TerminalError("one", 418), TerminalError("two", 419)])))


@table.pauses("ExceptionGroup")
async def a_mixed_group(ctx: Context) -> None:
    raise ExceptionGroup("both", [TerminalError("one"), ValueError("two")])


@table.pauses("ExceptionGroup")
async def a_mixed_group_in_a_step(ctx: Context) -> None:
    await ctx.run(lambda: raised(ExceptionGroup("both", [TerminalError("one"), ValueError("two")])))


@table.pauses("BaseExceptionGroup")
async def a_group_with_an_interrupt(ctx: Context) -> None:
    raise BaseExceptionGroup("both", [TerminalError("one"), KeyboardInterrupt()])


@table.pauses("BaseExceptionGroup")
async def a_group_that_pretends_to_be_the_end(ctx: Context) -> None:
    raise BaseExceptionGroup("both", [AttemptEnded(), ValueError("two")])


@table.pauses("ExceptionGroup")
async def a_group_of_a_thousand(ctx: Context) -> None:
    raise ExceptionGroup("many", [ValueError("m" * 1000) for _ in range(1000)])


@table.pauses("ExceptionGroup")
async def a_task_group_that_fails_in_one_of_its_tasks(ctx: Context) -> None:
    async def fails() -> None:
        await ctx.sleep(0.01)
        raise ValueError("one of them")

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())
        group.create_task(anyio.sleep(1000))


@table.pauses()
async def a_task_group_with_a_step_that_fails(ctx: Context) -> None:
    async def fails() -> None:
        raise ValueError("one of them")

    async def waits(future: DurableFuture[Any]) -> None:
        await future

    async with asyncio.TaskGroup() as group:
        group.create_task(waits(ctx.sleep(1000)))
        group.create_task(waits(ctx.run(fails)))


# ---- terminal errors that misbehave ----


class Headless(TerminalError):
    def __init__(self) -> None:
        pass


class HeadlessRetry(RetryableError):
    def __init__(self) -> None:
        pass


@table.ends(500)
async def a_terminal_error_that_forgot_its_base_class(ctx: Context) -> None:
    raise Headless


@table.ends(500)
async def a_terminal_error_that_forgot_its_base_class_in_a_step(ctx: Context) -> None:
    await ctx.run(lambda: raised(Headless()))


@table.pauses("HeadlessRetry")
async def a_retryable_error_that_forgot_its_base_class(ctx: Context) -> None:
    raise HeadlessRetry


@table.ends(500, "42")
async def a_terminal_message_that_is_no_text(ctx: Context) -> None:
    raise TerminalError(wrong(42))


@table.ends(500)
async def a_terminal_message_that_cannot_be_shown(ctx: Context) -> None:
    raise TerminalError(wrong(Unspeakable()))


@table.ends(500, "left ? right")
async def a_lone_surrogate_in_a_terminal_message(ctx: Context) -> None:
    raise TerminalError("left \ud800 right")


@table.ends(500, "left ? right")
async def a_lone_surrogate_in_a_terminal_message_of_a_step(ctx: Context) -> None:
    await ctx.run(lambda: raised(TerminalError("left \ud800 right")))


@table.ends(500, "mmmmm")
async def a_terminal_message_of_a_megabyte(ctx: Context) -> None:
    raise TerminalError("m" * 1_000_000)


@table.stops("UsageError", text="400 to 599")
async def a_terminal_code_in_words(ctx: Context) -> None:
    raise TerminalError("gone", wrong("404"))


@table.stops("UsageError", text="400 to 599")
async def a_terminal_code_that_is_no_number(ctx: Context) -> None:
    raise TerminalError("gone", wrong(object()))


@table.stops("UsageError", text="maps strings to strings")
async def terminal_metadata_of_other_types(ctx: Context) -> None:
    raise TerminalError("tea", 418, wrong({"pot": 1, 2: None}))


@table.stops("UsageError", text="maps strings to strings")
async def terminal_metadata_that_cannot_be_shown(ctx: Context) -> None:
    raise TerminalError("tea", 418, wrong({"pot": Unspeakable(), "\ud800": "\ud800"}))


@table.ends(404)
async def a_terminal_code_and_metadata_set_to_nonsense(ctx: Context) -> None:
    error = TerminalError("gone")
    error.code, error.metadata = wrong("404"), wrong({"pot": Unspeakable(), 2: "\ud800"})
    raise error


@table.ends(409, "by hand")
async def a_cancellation_by_hand(ctx: Context) -> None:
    raise InvocationCancelled("by hand")


@table.ends(408)
async def a_durable_timeout_by_hand(ctx: Context) -> None:
    raise DurableTimeoutError


@table.ends(500, "the cause")
async def a_terminal_error_with_a_cause(ctx: Context) -> None:
    raise TerminalError("the cause") from ValueError("not seen")


@table.ends(418, "seen")
async def an_ordinary_error_with_a_terminal_cause(ctx: Context) -> None:
    raise ValueError("not seen") from TerminalError("seen", 418)


@table.pauses("ValueError")
async def an_ordinary_error_whose_causes_go_in_a_circle(ctx: Context) -> None:
    one, other = ValueError("seen"), KeyError("not seen")
    one.__cause__, other.__cause__ = other, one
    raise one


BAD_DELAYS = [object(), "soon", float("nan"), float("inf"), -1, 10**400, "99999999999d", b"1s", True, [1]]


@pytest.mark.parametrize("delay", BAD_DELAYS, ids=lambda delay: repr(delay)[:20])
def test_a_retry_delay_that_is_none_leaves_the_policys_own(tmp_path: Path, delay: Any) -> None:
    tries: list[int] = []

    async def poison(ctx: Context) -> None:
        raise RetryableError("later", retry_after=delay)

    async def story() -> None:
        view, told = await swallowed(tmp_path / "durable.db", poison, tries=tries)
        check_ending(view, told, Ending("paused", ("RetryableError",), "later"), tries)

    run(story)


# ---- results that cannot be stored ----


def a_generator() -> Iterator[int]:
    yield 1


BAD_VALUES: list[Any] = [
    pytest.param(object, id="an object"),
    pytest.param(a_generator, id="a generator"),
    pytest.param(lambda: len, id="a function"),
    pytest.param(a_circle, id="a list that holds itself"),
    pytest.param(lambda: a_tower(300), id="300 levels"),
    pytest.param(lambda: a_tower(100_000), id="100000 levels"),
    pytest.param(lambda: 10**5000, id="an integer of 5000 digits"),
    pytest.param(lambda: "\ud800", id="a lone surrogate"),
    pytest.param(lambda: {(1, 2): 3}, id="a key that is a tuple"),
    pytest.param(lambda: [Unspeakable()], id="an exception"),
    pytest.param(lambda: asyncio.Lock(), id="a lock"),
]


@pytest.mark.parametrize("make", BAD_VALUES)
@pytest.mark.parametrize("place", ["handler", "step", "step in a thread", "state", "argument", "signal"])
def test_a_value_that_cannot_be_written_is_a_failed_try(
    tmp_path: Path, make: Callable[[], Any], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """C-007: nothing of it is recorded as done."""
    tries: list[int] = []

    async def step() -> Any:
        return make()

    async def poison(ctx: Context) -> Any:
        match place:
            case "handler":
                return make()
            case "step":
                await ctx.run(step)
            case "step in a thread":
                await ctx.run(make)
            case "state":
                await ctx.call("Stateful/keep", key="k")
            case "argument":
                await ctx.call("Stateful/take", make(), key="k")
            case "signal":
                ctx.send_signal(ctx.request.id, "s", make())

    class Stateful(VirtualObject):
        @handler
        async def keep(self, ctx: ObjectContext) -> None:
            try:
                ctx.set("n", make())
            except SerializationError as error:
                raise TerminalError(f"SerializationError: {error}") from None

        @handler
        async def take(self, ctx: ObjectContext, value: Any) -> None: ...

    async def story() -> None:
        view, told = await swallowed(tmp_path / "durable.db", poison, Stateful(), tries=tries)
        if place == "state":
            check_ending(view, told, Ending("failure", text="SerializationError", code=500, tries=1), tries)
        else:
            before = place in ("argument", "signal") or (place, make) == ("step in a thread", a_generator)
            reason = "value-not-storable" if before else "result-not-storable"
            check_ending(view, told, Ending("paused", ("SerializationError",), tries=1, reason=reason), tries)
            assert not any("success" in line for line in journal(view))

    run(story)
    assert complaints(caplog) == []


@table.stops("SerializationError", reason="result-not-storable")
async def a_result_of_another_type(ctx: Context) -> int:
    return "text"  # type: ignore[return-value]


@table.stops("SerializationError", reason="result-not-storable")
async def a_step_result_of_another_type(ctx: Context) -> None:
    def step() -> int:
        return "text"  # type: ignore[return-value]

    await ctx.run(step)


@table.stops("SerializationError", text="NaN", reason="result-not-storable")
async def a_number_that_is_none(ctx: Context) -> float:
    return float("nan")


@table.stops("SerializationError", reason="result-not-storable")
async def a_future_as_result(ctx: Context) -> Any:
    return ctx.sleep(1000)


@table.stops("SerializationError", reason="result-not-storable")
async def the_context_as_result(ctx: Context) -> Any:
    return ctx


@table.gives([1, [2]])
async def a_tuple_comes_back_as_a_list(ctx: Context) -> Any:
    return 1, (2,)


@table.gives([True, [1, 2]])
async def a_step_gives_live_what_a_replay_gives(ctx: Context) -> Any:
    def step() -> Any:
        return {"pair": (1, 2)}

    seen = await ctx.run(step)
    return [isinstance(seen["pair"], list), seen["pair"]]


@table.stops("SerializationError", reason="result-not-storable")
async def a_key_that_json_would_make_text_of(ctx: Context) -> Any:
    def step() -> Any:
        return {1: "key"}

    return await ctx.run(step)


@table.gives(8 << 20)
async def a_big_result_of_a_step(ctx: Context) -> int:
    def step() -> bytes:
        return bytes(8 << 20)

    return len(await ctx.run(step))


@table.gives(bytes(8 << 20))
async def a_big_result(ctx: Context) -> bytes:
    return bytes(8 << 20)


@table.gives("m" * 1_000_000)
async def a_long_text(ctx: Context) -> str:
    return "m" * 1_000_000


@table.gives(None)
async def nothing(ctx: Context) -> None:
    return None


@table.gives(a_tower(150))
async def a_tower_that_is_not_too_high(ctx: Context) -> Any:
    return a_tower(150)


def test_a_coroutine_as_result_is_refused(tmp_path: Path) -> None:
    """A forgotten `await`: reported as a value that cannot be written."""
    made: list[Any] = []

    async def poison(ctx: Context) -> Any:
        made.append(nothing_at_all())
        return made[-1]

    async def story() -> None:
        view, _ = await swallowed(tmp_path / "durable.db", poison)
        assert view.last_failure is not None
        assert view.last_failure.type == "SerializationError"
        for coroutine in made:
            coroutine.close()

    run(story)


def test_a_coroutine_instead_of_a_function_is_refused(tmp_path: Path) -> None:
    """`ctx.run(step())` for `ctx.run(step)`: the error says so."""
    made: list[Any] = []

    async def poison(ctx: Context) -> Any:
        made.append(nothing_at_all())
        await ctx.run(made[-1])

    async def story() -> None:
        view, _ = await swallowed(tmp_path / "durable.db", poison)
        assert view.last_failure is not None
        assert view.last_failure.type == "UsageError"
        assert "ctx.run(" in view.last_failure.message
        assert journal(view) == []
        for coroutine in made:
            coroutine.close()

    run(story)


@pytest.mark.parametrize(("poison", "ending"), table.rows)
def test_a_poison_has_its_documented_end_and_disturbs_nobody(
    tmp_path: Path, poison: Poison, ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    class Keyed(VirtualObject):
        @handler
        async def take(self, ctx: ObjectContext) -> None: ...

    async def story() -> None:
        view, told = await swallowed(tmp_path / "durable.db", poison, Keyed(), tries=tries)
        check_ending(view, told, ending, tries)

    run(story)
    assert complaints(caplog) == []
