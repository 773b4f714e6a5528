"""Where an engine is on standby, what it is asked is asked of the holder: decided here, once for every method."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from durable.api import EngineApi

E = TypeVar("E")

#: Methods of `EngineApi`, and what edges need beyond them, by the name that the follower has for each.
FORWARDED = {
    **{name: name for name, _ in inspect.getmembers(EngineApi, inspect.isfunction) if name[0] != "_"},
    "outcome": "stored_outcome",
    "outcome_now": "stored_outcome_now",
    "stored_state": "stored_state",
    "replace_state": "replace_state",
}


def forwarding(engine: type[E]) -> type[E]:
    """The class, whose methods ask `elsewhere` while there is somebody."""
    for name, named in FORWARDED.items():
        method = getattr(engine, name)
        setattr(engine, name, (_later if inspect.iscoroutinefunction(method) else _now)(method, named))
    return engine


def _later(method: Callable[..., Any], named: str) -> Callable[..., Any]:
    @wraps(method)
    async def ask(self: Any, *args: Any, **options: Any) -> Any:
        life = self._life
        if life is None or life.elsewhere is None:
            return await method(self, *args, **options)
        life.check()
        return await getattr(life.elsewhere, named)(*args, **options)

    return ask


def _now(method: Callable[..., Any], named: str) -> Callable[..., Any]:
    @wraps(method)
    def ask(self: Any, *args: Any, **options: Any) -> Any:
        life = self._life
        if life is None or life.elsewhere is None:
            return method(self, *args, **options)
        return getattr(life.elsewhere, named)(*args, **options)

    return ask
