"""What is asked again after a crash takes effect once, and answers what it would have answered the first time.

Who cancels an invocation and loses the answer to a crash asks again; a careful client does so with an idempotency
key. In a test everything that can have one gets one.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, TypeVar

from durable.client import Applied
from durable.engine import Engine
from durable.engine.forwarding import FORWARDED
from durable.errors import ConflictError, EngineFailedError, EngineNotRunningError
from durable.testing.crashes import SimulatedCrash

E = TypeVar("E", bound=type[Any])
T = TypeVar("T")

#: No two questions of a process have the same keys, and a run by itself has the same ones each time.
_numbers = itertools.count(1)

#: Not these: calls and sends get theirs elsewhere (`Sim.send`).
_NOT = {"call", "send"}
#: What comes too late there is an error only for whoever has a key of their own.
_NO_ERROR = {"resolve_awakeable", "reject_awakeable", "send_signal", "reject_signal"}
#: The methods of an engine that take effect once with a key.
KEYED = (
    frozenset(
        name
        for name in FORWARDED
        if iscoroutinefunction(method := getattr(Engine, name)) and "idempotency_key" in signature(method).parameters
    )
    - _NOT
)


class Asked:
    """One question, perhaps of several methods, however often it is asked."""

    def __init__(self) -> None:
        #: The key of each request in it: of those that are alike, of the first, the second …
        self._keys: dict[tuple[str, int], str] = {}
        self._seen: Counter[str] = Counter()

    def begin(self) -> None:
        """It is asked, from its start."""
        self._seen.clear()

    def key(self, request: str) -> str:
        """The same as when it was asked before."""
        self._seen[request] += 1
        return self._keys.setdefault((request, self._seen[request]), f"again-{next(_numbers)}")


_NOW: ContextVar[Asked | None] = ContextVar("durable_asked", default=None)


@contextmanager
def asking(asked: Asked) -> Iterator[None]:
    """What is asked of an engine in here is part of this question."""
    asked.begin()
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
            await asyncio.sleep(0.001)
    raise AssertionError(
        f"the engine died {most} times while it was asked the same, and never answered: what you repeat must "
        "be idempotent, or each time adds work that is done anew after each crash. Give an idempotency key; sim.send "
        "and sim.call do"
    )


def once(name: str) -> Callable[..., Any]:
    """The engine's method of that name, with an idempotency key where it has none."""
    method: Callable[..., Any] = getattr(Engine, name)

    @wraps(method)
    async def ask(self: Any, *args: Any, **options: Any) -> Any:
        asked = _NOW.get()
        if asked is None or options.get("dry_run") or options.get("idempotency_key") is not None:
            return await method(self, *args, **options)
        options["idempotency_key"] = asked.key(repr((name, args, options)))
        try:
            return await method(self, *args, **options)
        except ConflictError:
            if name in _NO_ERROR:
                return Applied.UNCHANGED
            raise

    return ask


def knowing(engine: E) -> E:
    """The class, whose methods take effect once."""
    for name in KEYED:
        setattr(engine, name, once(name))
    return engine


@knowing
class RepeatedEngine(Engine):
    """An engine of a `Sim`: what it is asked again takes effect once."""
