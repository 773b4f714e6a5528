"""Plain functions run in threads that do not keep the process alive.

A thread cannot be stopped. One that is still in a step when everything else has ended must not hold up the end of the
process: the step counts as not done, as after a kill, and runs again at the next start. (The threads of anyio and of
asyncio are waited for by the interpreter.) How many run at a time is anyio's limit, which applications know and set.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from anyio.to_thread import current_default_thread_limiter

T = TypeVar("T")
Job = Callable[[], None]

#: How long a thread waits for its next function before it ends.
IDLE_S = 10.0


async def run_in_thread(fn: Callable[[], T]) -> T:
    """What `fn()` returns or raises, in a copy of this context. A cancelled caller leaves the thread alone."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def settle(how: Callable[[Any], None], what: Any) -> None:
        if not done.done():
            how(what)
            done.exception()  # retrieved: whoever waits may be cancelled at this very moment

    def job() -> None:
        how: Callable[[Any], None] = done.set_result
        what: Any
        try:
            what = context.run(fn)
        except BaseException as error:
            how, what = done.set_exception, error
            if issubclass(type(error), StopIteration):  # no future takes it
                what = RuntimeError(f"{getattr(fn, '__name__', fn)} raised StopIteration")
                what.__cause__ = error
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, how, what)

    async with current_default_thread_limiter():
        _start(job)
        return await done


class _Worker(threading.Thread):
    """Does one job after the other, and ends when there was none for a while."""

    def __init__(self) -> None:
        super().__init__(name="durable-step", daemon=True)
        #: None: there is nothing more to do.
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.generation = _generation

    def run(self) -> None:
        try:
            self._work()
        finally:
            _counted(-1)

    def _work(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=IDLE_S)
            except Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue  # somebody has just given it one
            if job is None:
                return
            job()
            del job  # and what it holds, while waiting for the next
            with _lock:
                if self.generation != _generation:
                    return
                _idle.append(self)


_lock = threading.Lock()
_idle: list[_Worker] = []
_alive = 0
_generation = 0


def _start(job: Job) -> None:
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None:
        worker = _Worker()
        _counted(+1)
        try:
            worker.start()
        except BaseException:
            _counted(-1)
            raise
    worker.jobs.put(job)


def _counted(change: int) -> None:
    global _alive
    with _lock:
        _alive += change


def threads() -> tuple[int, int]:
    """How many threads of this process are in a plain step, and how many wait for one."""
    with _lock:
        return max(0, _alive - len(_idle)), len(_idle)


def end_idle_threads() -> None:
    """Have the threads end that wait for a function, and the others after the one they are in.

    An engine that ends asks for that, so that nothing of it is left. Other engines of the process get new threads.
    """
    global _generation
    with _lock:
        _generation += 1
        idle = _idle.copy()
        _idle.clear()
    for worker in idle:
        worker.jobs.put(None)


def _forget_threads() -> None:
    """A forked child has none of them."""
    global _alive, _lock
    _lock = threading.Lock()
    _idle.clear()
    _alive = 0


os.register_at_fork(after_in_child=_forget_threads)
