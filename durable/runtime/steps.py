"""Executing a step's function, wherever it has to run."""

import asyncio
import gc
import inspect
from collections.abc import Callable
from typing import Any

from anyio import to_thread

NO_TIMEOUT = (
    "asyncio.timeout() or wait_for() around a durable operation cannot be replayed: use `future.with_timeout(...)` "
    "to give up waiting, or `ctx.with_options(timeout=...)` to limit one execution of a step"
)


async def call_step(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], timeout_ms: int | None
) -> Any:
    """One execution: an async function here, a sync one in a worker thread; `TimeoutError` after `timeout_ms`."""
    if timeout_ms is None:
        if inspect.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)
        return await _call_other(fn, args, kwargs)
    async with asyncio.timeout(timeout_ms / 1000):
        if inspect.iscoroutinefunction(fn):
            return await fn(*args, **kwargs)
        return await _call_other(fn, args, kwargs)


async def _call_other(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
        return await fn(*args, **kwargs)
    value = await to_thread.run_sync(lambda: fn(*args, **kwargs), abandon_on_cancel=True)
    return await value if inspect.isawaitable(value) else value


def step_name(fn: Callable[..., Any]) -> str:
    """The name a step is recorded under, unless `with_options(name=)` gives one."""
    name = getattr(fn, "__name__", None)
    if name is None:
        inner = getattr(fn, "func", None)  # functools.partial
        name = step_name(inner) if inner is not None else type(fn).__name__
    return str(name)


def timed_out(task: "asyncio.Task[Any] | None") -> bool:
    """Whether a cancellation that just arrived in this task comes from `asyncio.timeout` or `wait_for`.

    asyncio does not tell, so this looks for the time-out among all objects: slow, and only done for a durable wait
    that was cancelled by something else than the engine.
    """
    if task is None:
        return False
    callbacks = getattr(task, "_callbacks", None) or ()  # wait_for of Python 3.11 waits for the task it cancelled
    if any(getattr(callback[0], "func", callback[0]) is _release_waiter for callback in callbacks):
        return True
    return any(
        isinstance(found, asyncio.Timeout) and found.expired() and getattr(found, "_task", None) is task
        for found in gc.get_objects()
    )


_release_waiter = getattr(asyncio.tasks, "_release_waiter", object())
