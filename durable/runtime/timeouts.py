"""Was it a time-out of asyncio or anyio that cancelled a durable wait?

asyncio does not tell where a cancellation comes from. But it counts them (`Task.cancelling`), so where the engine and
the handler's task groups account for each one, it was no time-out. Otherwise the time-out is looked for among all
objects, which is slow: tens of milliseconds in a large process.
"""

import asyncio
import gc
import re
from collections.abc import Iterable
from typing import Any

from durable.callbacks import DoneCallback
from durable.runtime.flows import called_by
from durable.runtime.waiters import Flow

_Task = asyncio.Task[Any]

NO_TIMEOUT = (
    "asyncio.timeout() or wait_for() around a durable operation cannot be replayed: use `future.with_timeout(...)` "
    "to give up waiting, or `ctx.with_options(timeout=...)` to limit one execution of a step"
)


def timed_out(error: asyncio.CancelledError, flow: Flow, handler: _Task | None, *, ours: bool = False) -> bool:
    """Whether the cancellation that just arrived comes from `asyncio.timeout`, `wait_for` or an anyio deadline.

    It arrived in `flow`; time-outs of its task and of the handler's own count. `ours`: the engine cancelled it.
    """
    task = flow.added_by if isinstance(flow, DoneCallback) else flow
    called = [*called_by(task), *(called_by(flow) if flow is not task else ())]
    if any(getattr(callback, "func", callback) is _release_waiter for callback in called):
        return True  # wait_for of Python 3.11 waits for the task that it cancelled
    if task is not None and _accounted_for(task, handler, _group_of(called), int(ours)):
        return False
    return _among_all_objects(error, (task, handler))


def _accounted_for(task: _Task, handler: _Task | None, group: asyncio.TaskGroup | None, ours: int) -> bool:
    """Whether each cancellation of both tasks is the engine's, or was made by the group that `task` belongs to."""
    of_handler = 0
    if group is not None and getattr(group, "_aborting", False):
        ours += 1
        if getattr(group, "_parent_task", None) is handler:
            of_handler = int(getattr(group, "_parent_cancel_requested", False))
    if task.cancelling() > ours:
        return False
    return handler is None or handler is task or handler.cancelling() <= of_handler


def _group_of(callbacks: Iterable[Any]) -> asyncio.TaskGroup | None:
    """The task group that waits for a task with these callbacks."""
    for callback in callbacks:
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.TaskGroup):
            return owner
    return None


def _among_all_objects(error: asyncio.CancelledError, tasks: tuple[_Task | None, ...]) -> bool:
    scope = re.match(r"Cancelled (?:by|via) cancel scope ([0-9a-f]+)", str(error.args[0]) if error.args else "")
    now = asyncio.get_running_loop().time()
    for found in gc.get_objects():
        if type(found) is asyncio.Timeout and found.expired() and getattr(found, "_task", None) in tasks:
            return True
        if scope is not None and id(found) == int(scope[1], 16) and getattr(found, "deadline", now + 1) <= now:
            return True
    return False


_release_waiter = getattr(asyncio.tasks, "_release_waiter", object())
