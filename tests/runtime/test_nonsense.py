"""Whatever is called from inside the engine may raise, and anything: it costs its own invocation a try, nobody else.

Exceptions whose own attributes and methods raise, groups that hold themselves, text that is none; from handlers,
steps, and the functions that write and read values.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import pytest

from durable import Context, Engine, RetryableError, RetryPolicy, Serde, TerminalError, gather, handler
from durable.testing import MemoryStore, VirtualClock, run
from tests.runtime.support import complaints, settled


class Nonsense(BaseException):
    """Not even an `Exception`."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise Nonsense

    __repr__ = __str__


class Text(str):
    """What `str(error)` may give: an object whose methods are the user's."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        raise Nonsense

    def __len__(self) -> int:
        raise Nonsense

    def __bool__(self) -> bool:
        raise Nonsense


class SaysNonsense(Exception):
    def __str__(self) -> str:
        return Text("nonsense")


class HasNoClass(Exception):
    @property
    def __class__(self) -> Any:
        raise Nonsense

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise Nonsense


class RaisesItself(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise Nonsense

    def __eq__(self, other: object) -> bool:
        raise Nonsense

    __hash__ = None  # type: ignore[assignment]


class HoldsItself(BaseExceptionGroup[BaseException]):
    @property
    def exceptions(self) -> Any:
        return (self,)


class HoldsNothing(BaseExceptionGroup[BaseException]):
    @property
    def exceptions(self) -> Any:
        raise Nonsense


class BadTerminal(TerminalError):
    @property
    def message(self) -> Any:
        raise Nonsense

    @message.setter
    def message(self, value: Any) -> None:
        pass


class BadDelay(RetryableError):
    @property
    def retry_after(self) -> Any:
        raise Nonsense

    @retry_after.setter
    def retry_after(self, value: Any) -> None:
        pass


def a_group(kind: type[BaseExceptionGroup[Any]]) -> BaseException:
    return kind("a group", [ValueError("in it")])


ERRORS: dict[str, Callable[[], BaseException]] = {
    "no Exception": Nonsense,
    "without a message": Unspeakable,
    "with a strange message": SaysNonsense,
    "without a class": HasNoClass,
    "without attributes": RaisesItself,
    "a group that holds itself": lambda: a_group(HoldsItself),
    "a group that cannot be looked into": lambda: a_group(HoldsNothing),
    "a terminal error without a message": BadTerminal,
    "a retryable one without a delay": BadDelay,
    "GeneratorExit": GeneratorExit,
    "a cancellation": asyncio.CancelledError,
}


class Value:
    pass


class Places:
    """Handlers in which an error is raised, each at another place."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self._make = make
        raising = Annotated[Value, Serde(self._raise, self._raise)]
        unreadable = Annotated[Value, Serde(lambda value: b"written", self._raise)]

        async def step() -> None:
            self._raise()

        def plain() -> None:
            self._raise()

        async def unwritable_step() -> raising:
            return Value()

        async def unreadable_step() -> unreadable:
            return Value()

        async def in_the_handler(ctx: Context) -> None:
            self._raise()

        async def in_a_step(ctx: Context) -> None:
            await ctx.run(step)

        async def in_a_thread(ctx: Context) -> None:
            await ctx.run(plain)

        async def beside_the_handler(ctx: Context) -> None:
            left = ctx.run(step)
            await ctx.sleep(1)
            await left

        async def in_a_flow(ctx: Context) -> None:
            async def flow() -> None:
                await ctx.run(step)

            async with asyncio.TaskGroup() as group:
                group.create_task(flow())
                group.create_task(flow())

        async def in_a_compensation(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(step)
                raise TerminalError("undo it")

        async def writing_a_step(ctx: Context) -> None:
            await ctx.run(unwritable_step)

        async def reading_a_step(ctx: Context) -> None:
            await ctx.run(unreadable_step)

        async def reading_what_is_gathered(ctx: Context) -> None:
            await gather(ctx.run(unreadable_step), ctx.run(unreadable_step))

        async def writing_the_result(ctx: Context) -> raising:
            return Value()

        async def reading_the_result(ctx: Context) -> unreadable:
            return Value()

        self.handlers = [
            handler(service="N")(fn)
            for fn in (
                in_the_handler,
                in_a_step,
                in_a_thread,
                beside_the_handler,
                in_a_flow,
                in_a_compensation,
                writing_a_step,
                reading_a_step,
                reading_what_is_gathered,
                writing_the_result,
                reading_the_result,
            )
        ]

    def _raise(self, *_: Any) -> Any:
        raise self._make()


@handler(service="Neighbour")
async def calm(ctx: Context) -> str:
    await ctx.sleep(1)
    return "undisturbed"


@pytest.mark.parametrize("make", list(ERRORS.values()), ids=list(ERRORS))
def test_nonsense_costs_its_own_invocation_its_tries(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Every invocation is paused or ends, none hangs; a neighbour is undisturbed; the engine goes on."""
    places = Places(make)

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        retry = RetryPolicy(initial_interval="100ms", factor=1, max_attempts=2)
        services = [*places.handlers, calm]
        async with Engine(services=services, store=MemoryStore(), clock=clock, retry=retry) as engine:
            beside = await engine.send(calm)
            ends = {}
            for one in places.handlers:
                name = f"N/{one.name}"
                try:
                    view = await settled(engine, (await engine.send(name)).id)
                except AssertionError as hangs:
                    raise AssertionError(f"{name}: {hangs}") from None
                ends[one.name] = view.status
                assert view.status == "paused" or view.completion_result == "failure", name
                problem = view.last_failure
                if problem is not None:
                    assert type(problem.message) is str
                    assert problem.message
            assert await beside.result() == "undisturbed"
            assert await engine.call(calm) == "undisturbed"
            assert engine.failure is None
            terminal = type(make()) is BadTerminal
            assert ends["in_a_step"] == ("completed" if terminal else "paused")

    run(story)
    assert complaints(caplog) == []
