"""Plain functions run in threads of their own, which do not keep the process alive.

A thread cannot be stopped. One that is still in a step when everything else has ended must not hold up the end of the
process: the step counts as not done, as after a kill, and runs again at the next start. (The threads of anyio and of
asyncio are waited for by the interpreter, and shared with everybody else in the process: so these are neither.)

An engine has a number of them. A step that waits for the engine itself (`engine.call` from its thread) has lent its
place meanwhile, so that steps which need other steps do not stand still. One whose step was given up goes on all the
same; it is counted, and of such threads there are at most as many again.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from durable import log

T = TypeVar("T")
Job = Callable[[], None]

#: How long a thread waits for its next function before it ends.
IDLE_S = 10.0
#: How long a step waits for a thread before the log says who has them all; and how long until it says so again.
PATIENCE_S, AGAIN_S = 10.0, 60.0
#: How long a step has been given up before the log says that its thread goes on.
SAY_S = 0.1
#: How many places may be lent at the same time: each is one more thread.
LENT_MAX = 1000
#: How many steps a line of the log names.
NAMED_MAX = 5

#: How many functions run for somebody who waits, in all engines of the process.
_at_work = 0


def at_work() -> bool:
    """Whether a thread runs a function that somebody waits for."""
    return _at_work > 0


class Threads:
    """The places that one engine has for plain functions. Used on its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, context: Context) -> None:
        self._loop = loop
        self._most = most
        self._context = context
        #: What runs for somebody who waits, and since when.
        self._running: dict[object, tuple[Callable[[], str], float]] = {}
        #: What nobody waits for any more, and runs on.
        self._given_up: dict[object, Callable[[], str]] = {}
        #: How many of those that run wait for the engine.
        self.lent = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        #: How many of those that waited may go on and have not yet.
        self._admitted = 0
        self._looks: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def numbers(self) -> dict[str, int]:
        """How many plain steps have a thread, wait for one, and have one although nobody waits for them."""
        return {"running": len(self._running), "waiting": len(self._queue), "given-up": len(self._given_up)}

    @property
    def given_up(self) -> int:
        """How many threads run a function that nobody waits for any more."""
        return len(self._given_up)

    async def run(self, fn: Callable[[], T], called: Callable[[], str]) -> T:
        """What `fn()` returns or raises, in a copy of this context. A cancelled caller leaves the thread alone.

        Waits for a place; `called` names the function in the log.
        """
        global _at_work
        if self._queue or self._free <= 0:
            await self._place()
        done: asyncio.Future[T] = self._loop.create_future()
        token = object()
        _start(self._job(fn, done, token))
        self._running[token] = called, self._loop.time()
        _at_work += 1
        try:
            return await done
        finally:
            _at_work -= 1
            del self._running[token]
            if done.cancelled():
                self._give_up(token, called)
            self._let_in()

    def _job(self, fn: Callable[[], T], done: "asyncio.Future[T]", token: object) -> Job:
        context, loop = copy_context(), self._loop

        def ended(how: Callable[[Any], None], what: Any) -> None:
            if not done.done():
                how(what)
                done.exception()  # retrieved: whoever waits may be cancelled at this very moment
            if self._given_up.pop(token, None) is not None:
                self._let_in()

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
                loop.call_soon_threadsafe(ended, how, what)

        return job

    # ---- places ----

    @property
    def _free(self) -> int:
        lent = min(self.lent, LENT_MAX)
        taken = len(self._running) + self._admitted + max(0, len(self._given_up) - self._most)
        return self._most + lent - taken

    async def _place(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        self._queue.append(turn)
        self._look_in(PATIENCE_S)
        try:
            await turn
        finally:
            if not turn.cancelled():
                self._admitted -= 1
                self._loop.call_soon(self._let_in, context=self._context)  # if it has gone, another one has its place

    def _let_in(self) -> None:
        free = self._free
        while self._queue and free > 0:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._admitted += 1
                free -= 1

    def lend(self) -> None:
        """A function that runs waits for the engine: somebody else may have its place."""
        self.lent += 1
        self._let_in()

    def take_back(self) -> None:
        """It goes on."""
        self.lent -= 1

    # ---- what goes wrong ----

    def _give_up(self, token: object, called: Callable[[], str]) -> None:
        self._given_up[token] = called
        if not self._closed:
            self._loop.call_later(SAY_S, self._say, token, context=self._context)

    def _say(self, token: object) -> None:
        """What was given up still runs; and so does the engine: it did not end together with its event loop."""
        called, count = self._given_up.get(token), len(self._given_up)
        if called is None or self._closed:
            return
        log.engine.warning(
            "%s was given up, but a thread cannot be stopped: it goes on to its end. %d such thread%s now%s",
            called(),
            count,
            " runs" if count == 1 else "s run",
            "" if count < self._most else ", and each more takes a step's place (max_step_threads)",
        )

    def _look_in(self, seconds: float) -> None:
        if self._looks is None and not self._closed:
            self._looks = self._loop.call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        self._looks = None
        waiting = sum(not turn.done() for turn in self._queue)
        if not waiting:
            return
        now = self._loop.time()
        longest = sorted(self._running.values(), key=lambda one: one[1])[:NAMED_MAX]
        names = [f"{called()} for {now - since:.0f} s" for called, since in longest]
        names += [f"{called()}, given up" for called in list(self._given_up.values())[: NAMED_MAX - len(names)]]
        log.engine.warning(
            "%d plain step%s for a thread, because all %d are taken (max_step_threads), by %s. Where steps wait for "
            "each other, call handlers with ctx.call() instead, or give the engine more threads",
            waiting,
            " waits" if waiting == 1 else "s wait",
            self._most,
            ", ".join(names),
        )
        self._look_in(AGAIN_S)

    def close(self) -> None:
        """Say nothing more of what is given up: the engine ends."""
        self._closed = True
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None


class _Worker(threading.Thread):
    """Does one job after the other, and ends when there was none for a while."""

    def __init__(self) -> None:
        super().__init__(name="durable-step", daemon=True)
        #: None: there is nothing more to do.
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.generation = _generation

    def run(self) -> None:
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
_generation = 0


def _start(job: Job) -> None:
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None:
        worker = _Worker()
        worker.start()
    worker.jobs.put(job)


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
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget_threads)
