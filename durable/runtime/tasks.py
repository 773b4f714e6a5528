"""What an engine's tasks are to the event loop, which may end before them.

Whatever a task has not done by then is done by the next start: so nobody needs to hear that it was not finished.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: The task that runs on an event loop, or None. (Up to Python 3.11 asyncio's own function is written in Python, and
#: asks for the event loop again.)
current_task: Callable[[asyncio.AbstractEventLoop], "asyncio.Task[Any] | None"] = (
    asyncio.current_task if sys.version_info >= (3, 12) else vars(asyncio.tasks)["_current_tasks"].get
)


def unmourned(task: "asyncio.Task[T]") -> "asyncio.Task[T]":
    """The same task, without a word in the log if it is still pending when it and its event loop are dropped."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def let_go(task: "asyncio.Future[Any]") -> None:
    """Nobody waits for this one: asyncio.run would, for ever, if it swallows its cancellation."""
    if isinstance(task, asyncio.Task):
        asyncio._unregister_task(task)


class Chores:
    """What an engine does beside its turns: where one of them fails, `failed` is called."""

    def __init__(self, loop: asyncio.AbstractEventLoop, failed: Callable[[BaseException], None]) -> None:
        self._loop = loop
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` in a task of its own."""
        task = unmourned(self._loop.create_task(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Cancel all that are under way."""
        for task in list(self._tasks):
            task.cancel()

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self._failed(error)
