"""An engine on a real file and virtual time, poisons for it, and what tests here ask of both."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from durable import Context, Engine, InvocationView, RetryPolicy, TerminalError, handler
from durable.store import Store
from durable.store.sqlite import SqliteStore
from durable.testing import VirtualClock, VirtualLoop
from durable.testing.faults import around

#: Three tries, a tenth of a second apart, then paused.
THREE_TRIES = RetryPolicy(initial_interval="100ms", factor=1, max_attempts=3)
#: An id of the right form that nobody has.
UNKNOWN = "inv_1" + "0" * 33
#: How long (in virtual seconds) anything may take that waits for no timeout.
SOON = 20.0


def at_work(inner: Store) -> Store:
    """A store that tells a virtual loop when its thread is at work, so that time stands still meanwhile."""
    calls = 0
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        loop.outside.append(lambda: calls > 0)

    async def counted(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        nonlocal calls
        calls += 1
        try:
            return await method(*arguments)
        finally:
            calls -= 1

    def call(name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return method(*arguments) if name in ("abandon", "lost") else counted(method, arguments)

    return around(inner, call)


def engine_on(path: Path, *services: object, **options: Any) -> Engine:
    """An engine on a real file, whose time is the virtual loop's."""
    store = at_work(SqliteStore(path, synchronous="NORMAL"))
    clock = VirtualClock(asyncio.get_running_loop())
    return Engine(services=services, store=store, clock=clock, **{"retry": THREE_TRIES} | options)


async def settled(engine: Engine, id: str, *, within: float = SOON) -> InvocationView:
    """The invocation once it is completed or paused. Raises `AssertionError` where that takes too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while (view := await engine.describe(id)).status not in ("completed", "paused"):
        assert loop.time() < deadline, f"still {view.status} after {within} s, attempt {view.attempt}"
        await asyncio.sleep(0.05)
    return view


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What asyncio said of exceptions that nobody looked at."""
    gc.collect()
    return [
        record.getMessage() for record in caplog.records if record.name == "asyncio" and record.levelname != "DEBUG"
    ]


def journal(view: InvocationView) -> list[str]:
    """An invocation's entries, without input and output, as `kind name: result`."""
    return [
        f"{entry.kind} {entry.name}: {entry.result}"
        for entry in view.journal
        if entry.kind not in ("input", "output")
    ]


# ---- small helpers ----


def wrong(value: object) -> Any:
    """A value that a type checker would refuse where it is used."""
    return value


def raised(error: BaseException) -> NoReturn:
    """So that a lambda can raise."""
    raise error


def a_circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def a_tower(levels: int) -> Any:
    tower: Any = []
    for _ in range(levels):
        tower = [tower]
    return tower


async def nothing_at_all() -> None:
    """An ordinary coroutine function."""


@handler(service="Echo")
async def echo(ctx: Context, value: Any) -> Any:
    return value


# ---- poisons and their neighbour ----

Poison = Callable[[Context], Awaitable[Any]]
#: How much of an error's text is kept, and the mark that it was cut.
TEXT_LENGTH_MAX = 8 * 1024 + 20


class Ending(NamedTuple):
    """How a poisoned invocation must end."""

    status: str
    #: The class of the recorded failure; any of several; empty for whatever it is.
    kinds: tuple[str, ...] = ()
    #: What its message must say.
    text: str = ""
    code: int | None = None
    value: Any = None
    tries: int = 3
    #: Why it is paused at once.
    reason: str = ""


class Table:
    """Poisons and how each must end, entered by its decorators."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def _entered(self, ending: Ending) -> Callable[[Poison], Poison]:
        def enter(poison: Poison) -> Poison:
            self.rows.append(pytest.param(poison, ending, id=getattr(poison, "__name__", "?").replace("_", " ")))
            return poison

        return enter

    def pauses(self, *kinds: str, text: str = "") -> Callable[[Poison], Poison]:
        """It is tried three times, then paused."""
        return self._entered(Ending("paused", kinds, text))

    def stops(self, *kinds: str, text: str = "", reason: str = "misuse") -> Callable[[Poison], Poison]:
        """It is paused at once."""
        return self._entered(Ending("paused", kinds, text, tries=1, reason=reason))

    def ends(self, code: int, text: str = "") -> Callable[[Poison], Poison]:
        """It is a terminal error with this code."""
        return self._entered(Ending("failure", text=text, code=code, tries=1))

    def gives(self, value: Any) -> Callable[[Poison], Poison]:
        """It is no poison at all: it has a result."""
        return self._entered(Ending("success", value=value, tries=1))


class Neighbour:
    """An innocent invocation on the same engine: five steps, a second in all."""

    def __init__(self) -> None:
        self.executions = 0

        async def step(number: int) -> int:
            self.executions += 1
            return number

        @handler(service="Neighbour")
        async def live(ctx: Context) -> list[int]:
            seen = []
            for number in range(5):
                seen.append(await ctx.run(step, number))
                await ctx.sleep(0.2)
            return seen

        self.live = live

    async def undisturbed(self, engine: Engine, id: str) -> None:
        """It came to its end in its own time, at the first try."""
        assert await engine.attach(id) == [0, 1, 2, 3, 4]
        view = await engine.describe(id)
        assert (view.attempt, view.failures, self.executions) == (1, 0, 5)
        assert view.completed_at is not None
        assert view.completed_at - view.created_at < 1100, "R-12: nobody is held up by more than 100 ms"


async def swallowed(
    path: Path, poison: Poison, *others: object, tries: list[int] | None = None
) -> tuple[InvocationView, BaseException | Any]:
    """Invoke a poison beside a neighbour; returns how it ended, and what a caller who waits for it gets."""
    tries = [] if tries is None else tries

    async def take(ctx: Context) -> Any:
        tries.append(ctx.request.attempt)
        return await poison(ctx)

    take.__annotations__["return"] = poison.__annotations__.get("return", Any)
    declared = handler(service="Poison", name="take")(take)
    neighbour = Neighbour()
    async with engine_on(path, declared, neighbour.live, *others) as engine:
        beside = await engine.send(neighbour.live)
        poisoned = await engine.send(declared)
        view = await settled(engine, poisoned.id)
        told: Any = None
        if view.status == "completed":
            try:
                told = await poisoned.result()
            except TerminalError as error:
                told = error
        await neighbour.undisturbed(engine, beside.id)
        assert engine.failure is None
    async with engine_on(path, declared, Neighbour().live, *others) as engine:
        again = await engine.describe(poisoned.id)
        assert (again.status, again.attempt) == (view.status, view.attempt), "a start changes nothing"
        assert again.last_failure == view.last_failure
        assert await engine.call("Neighbour/live") == [0, 1, 2, 3, 4]
    return view, told


def check_ending(view: InvocationView, told: Any, ending: Ending, tries: list[int]) -> None:
    """That it ended as the table says, and that what is kept of its error is bounded text."""
    problem = view.last_failure
    if ending.status == "paused":
        assert view.status == "paused", told
        assert problem is not None
        assert not ending.kinds or problem.type in ending.kinds, problem
        assert ending.text in problem.message
        assert problem.reason == ending.reason, problem
        assert len(tries) == view.failures == ending.tries
        for text in (problem.message, problem.stacktrace, problem.name, problem.type):
            assert len(text) <= TEXT_LENGTH_MAX
            text.encode()
    elif ending.status == "failure":
        assert view.completion_result == "failure", problem
        assert isinstance(told, TerminalError)
        assert ending.text in told.message
        assert told.code == ending.code
        assert len(tries) == ending.tries
    else:
        assert view.completion_result == "success", told or problem
        assert told == ending.value
        assert len(tries) == ending.tries
