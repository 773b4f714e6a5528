"""What an engine's tasks are to the event loop, which may end before them.

Whatever a task has not done by then is done by the next start: so nobody needs to hear that it was not finished.
"""

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


def unmourned(task: "asyncio.Task[T]") -> "asyncio.Task[T]":
    """The same task, without a word in the log if it is still pending when it and its event loop are dropped."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def let_go(task: "asyncio.Future[Any]") -> None:
    """Nobody waits for this one: asyncio.run would, for ever, if it swallows its cancellation."""
    if isinstance(task, asyncio.Task):
        asyncio._unregister_task(task)
