"""The tasks of a handler: which ones belong to it, and who waits for whom. asyncio does not tell, its objects do."""

import asyncio
from collections.abc import Iterable, Iterator
from contextvars import Context
from gc import get_referents
from typing import Any

from durable.callbacks import DoneCallback, held_by
from durable.runtime.current import CURRENT
from durable.runtime.waiters import Flow

_Task = asyncio.Task[Any]


def all_wait(one: object, waiting: Iterable[Flow], loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nothing of a handler can go on without what these tasks wait for: none of its others, no timer.

    It looks at all tasks and timers of the process: for the rare moment in which that must be known.
    """
    known: set[_Task | DoneCallback] = {flow for flow in waiting if flow is not None}
    todo = list(known)
    while todo:
        for parent in awaiting(todo.pop(), now=True):
            if parent not in known:
                known.add(parent)
                todo.append(parent)
    if any(task not in known and _belongs(task, one) for task in asyncio.all_tasks(loop)):
        return False
    timers = list(getattr(loop, "_scheduled", ()))
    return not any(timer._context.get(CURRENT) is one for timer in timers if not timer.cancelled())


def _belongs(task: _Task, one: object) -> bool:
    if hasattr(task, "get_context"):  # from Python 3.12 on
        return task.get_context().get(CURRENT) is one
    return any(found.get(CURRENT) is one for found in get_referents(task) if isinstance(found, Context))


def awaiting(flow: "_Task | DoneCallback | asyncio.Future[Any]", *, now: bool = False) -> Iterator[_Task]:
    """The tasks that wait for this one to end, in whatever way; or will, where their group has it (unless `now`)."""
    todo: list[Any] = [flow]
    seen: set[int] = set()
    while todo:
        future = todo.pop()
        if id(future) in seen:
            continue
        seen.add(id(future))
        for callback in called_by(future):
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, asyncio.Task):
                yield owner
            elif isinstance(owner, asyncio.TaskGroup):
                parent = getattr(owner, "_parent_task", None)
                if parent is not None and not (now and getattr(owner, "_on_completed_fut", None) is None):
                    yield parent
            todo.extend(one for one in held_by(callback) if isinstance(one, asyncio.Future))
            todo.extend(waiting_for_next(callback))


def waiting_for_next(callback: Any) -> Iterator["asyncio.Future[Any]"]:
    """What those wait for who want the next result of the `as_completed` that has this callback, if one has it."""
    owner = getattr(callback, "__self__", None)
    if type(owner).__name__ == "_AsCompletedIterator":  # from Python 3.13 on
        queues = [getattr(owner, "_done", None)]
    elif getattr(callback, "__qualname__", "").startswith("as_completed.<locals>"):
        queues = list(held_by(callback))
    else:
        return
    for queue in queues:
        yield from getattr(queue, "_getters", ())


def called_by(future: Any) -> list[Any]:
    """What is called when a future, a task, or the flow of a callback is done."""
    if isinstance(future, DoneCallback):
        return [] if future.function is None else [future.function]
    return [callback for callback, _ in getattr(future, "_callbacks", None) or ()]
