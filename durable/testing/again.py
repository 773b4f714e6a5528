"""What is asked again after a crash meets its own success: then it answers what it would have answered.

Who cancels an invocation and loses the answer to a crash asks again, and may hear that it is completed: by that
cancel. In a test that is no error. What had to be there before the first time tells it from one that is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from durable.client import Applied
from durable.core.invocation import Invocation, Status
from durable.engine import Engine
from durable.errors import ConflictError, EngineFailedError, EngineNotRunningError, NotFoundError
from durable.store.memory import Tables
from durable.store.rows import invocation_of
from durable.testing.crashes import SimulatedCrash


class WithTables(Protocol):
    """An engine of a simulation."""

    tables: Tables


E = TypeVar("E", bound=type[Any])
T = TypeVar("T")
#: What a method is called with, by name.
Arguments = dict[str, Any]


class Asked:
    """One question, perhaps of several methods, however often it is asked."""

    def __init__(self) -> None:
        #: Whether an engine has died over it.
        self.repeated = False
        #: What each method would answer where it succeeds, by what was stored when it was called first.
        self.expected: dict[tuple[str, str], tuple[bool, Any]] = {}
        #: The idempotency key of each change of state.
        self.keys: dict[str, str] = {}


_NOW: ContextVar[Asked | None] = ContextVar("durable_asked", default=None)


@contextmanager
def asking(asked: Asked) -> Iterator[None]:
    """What is asked of an engine in here is part of this question."""
    token = _NOW.set(asked)
    try:
        yield
    finally:
        _NOW.reset(token)


async def outlive(
    ready: Callable[[], Awaitable[object]], ask: Callable[[], Awaitable[T]], most: int, *, dies: bool = True
) -> T:
    """Ask when the engine is up, and again where it dies meanwhile. Raises `AssertionError` after so many times.

    `dies`: whether it may; otherwise an engine that has failed is an error.
    """
    asked = Asked()
    for _ in range(most):
        await ready()
        try:
            with asking(asked):
                return await ask()
        except (EngineFailedError, EngineNotRunningError, SimulatedCrash):
            if not dies:
                raise
            asked.repeated = True
            await asyncio.sleep(0.001)
    raise AssertionError(
        f"the engine died {most} times while it was asked the same, and never answered: what you repeat must "
        "be idempotent, or each time adds work that is done anew after each crash. Give an idempotency key; sim.send "
        "and sim.call do"
    )


def _invocation(tables: Tables, id: Any) -> Invocation | None:
    seq = tables.ids.get(id) if isinstance(id, str) else None
    return None if seq is None else invocation_of(tables.invocations[seq])


def _of_invocation(answer: Callable[[Invocation, Arguments], tuple[bool, Any]]) -> Callable[..., tuple[bool, Any]]:
    def ask(tables: Tables, given: Arguments) -> tuple[bool, Any]:
        invocation = _invocation(tables, given["id"])
        return (False, None) if invocation is None else answer(invocation, given)

    return ask


def _cancelled(invocation: Invocation, given: Arguments) -> tuple[bool, Any]:
    at_once = given.get("kill") or invocation.status in (Status.SCHEDULED, Status.PENDING)
    return invocation.status is not Status.COMPLETED, Applied.DONE if at_once else Applied.ACCEPTED


def _killed(invocation: Invocation, given: Arguments) -> tuple[bool, Any]:
    return invocation.status is not Status.COMPLETED, Applied.DONE


def _paused(invocation: Invocation, given: Arguments) -> tuple[bool, Any]:
    may = (Status.RUNNING, Status.READY, Status.SUSPENDED, Status.BACKING_OFF)
    return invocation.status in may, Applied.ACCEPTED


def _resumed(invocation: Invocation, given: Arguments) -> tuple[bool, Any]:
    return invocation.status in (Status.PAUSED, Status.BACKING_OFF, Status.SUSPENDED), Applied.DONE


def _purged(invocation: Invocation, given: Arguments) -> tuple[bool, Any]:
    return invocation.status is Status.COMPLETED, None


def _told(invocation: Invocation, given: Arguments) -> tuple[bool, Any]:
    return True, None


def _settled(tables: Tables, given: Arguments) -> tuple[bool, Any]:
    return given["name"] not in tables.promises.get((given["workflow"], given["key"]), {}), None


def _unsubscribed(tables: Tables, given: Arguments) -> tuple[bool, Any]:
    return given["id"] in tables.subscriptions, None


def _removed(tables: Tables, given: Arguments) -> tuple[bool, Any]:
    return given["name"] in tables.clusters, None


#: Methods that take effect once: whether they can by what is stored, and what they answer then.
ONCE: dict[str, Callable[[Tables, Arguments], tuple[bool, Any]]] = {
    "cancel": _of_invocation(_cancelled),
    "kill": _of_invocation(_killed),
    "pause": _of_invocation(_paused),
    "resume": _of_invocation(_resumed),
    "purge": _of_invocation(_purged),
    "purge_journal": _of_invocation(_purged),
    "send_signal": _of_invocation(_told),
    "reject_signal": _of_invocation(_told),
    "resolve_promise": _settled,
    "reject_promise": _settled,
    "unsubscribe": _unsubscribed,
    "remove_kafka_cluster": _removed,
}


def once(name: str) -> Callable[..., Any]:
    """The engine's method of that name, which knows its own success where it is asked again."""
    method: Callable[..., Any] = getattr(Engine, name)
    parameters = signature(method)

    @wraps(method)
    async def ask(self: WithTables, *args: Any, **options: Any) -> Any:
        asked = _NOW.get()
        if asked is None or options.get("dry_run"):
            return await method(self, *args, **options)
        given = parameters.bind(self, *args, **options).arguments
        what = name, repr([one for key, one in given.items() if key != "self"])
        if what not in asked.expected:
            asked.expected[what] = ONCE[name](self.tables, given)
        expected, answer = asked.expected[what]
        own = expected and asked.repeated
        try:
            found = await method(self, *args, **options)
        except (ConflictError, NotFoundError):
            if own:
                return answer
            raise
        return answer if own and found is Applied.UNCHANGED else found

    return ask


@wraps(Engine.patch_state)
async def patch_state(self: Any, *args: Any, **options: Any) -> None:
    """The engine's, with an idempotency key where it has none: it takes effect once."""
    asked = _NOW.get()
    if asked is not None and options.get("idempotency_key") is None:
        options["idempotency_key"] = asked.keys.setdefault(repr((args, options)), uuid4().hex)
    await Engine.patch_state(self, *args, **options)


def knowing(engine: E) -> E:
    """The class, whose methods know their own success."""
    engine.patch_state = patch_state
    for name in ONCE:
        setattr(engine, name, once(name))
    return engine


@knowing
class RepeatedEngine(Engine):
    """An engine of a `Sim`: it knows what the ones before it have stored."""

    tables: Tables
