"""One thread that opens a database, does what it is given, in order, and closes it.

It needs no event loop to end: it lets the database go by itself once its event loop is closed, and it does not keep a
process from ending. What meets another program's lock is put aside and tried again, while everything else goes on.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from durable import log
from durable.errors import EngineNotRunningError, StorageError
from durable.store.faults import explain, is_busy

T = TypeVar("T")
Found = TypeVar("Found")
Found_co = TypeVar("Found_co", covariant=True)

#: How often it looks whether all is well while nothing is asked of it.
LOOK_EVERY_S = 1.0
#: How soon what met another program's lock is tried again: doubled up to the second.
RETRY_S, RETRY_S_MAX = 0.001, 0.05
#: When such a wait is named in the log, and how often again.
NAMED_AFTER_S, NAMED_EVERY_S = 1.0, 60.0
#: How long `abandon` waits for what the disk is just doing.
ABANDON_S = 5.0


class Keeper(Protocol[Found_co]):
    """What the thread does besides what it is handed. All of it happens on the thread."""

    path: str

    def opening(self, stopping: threading.Event) -> tuple[sqlite3.Connection, Found_co]:
        """Open the database, and say what was found. Gives up when `stopping` is set."""
        ...

    def look(self) -> None:
        """Raise a `StorageError` if the file is not what it was. Called every second."""
        ...

    def closing(self, database: sqlite3.Connection) -> None:
        """Close the database and let go of everything."""
        ...


class _Job:
    """Something to do, and who waits for it."""

    __slots__ = ("future", "next_word", "since", "work")

    def __init__(self, future: "asyncio.Future[Any]", work: Callable[[sqlite3.Connection], Any]) -> None:
        self.future = future
        self.work = work
        #: Since when it has been waiting for another program, and when that is told next.
        self.since = self.next_word = 0.0


class DatabaseThread(Generic[Found]):
    """The thread of one open database, made on the event loop that uses it."""

    def __init__(self, keeper: Keeper[Found]) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._abandoned = False
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._aside: list[_Job] = []
        self._pause_s = RETRY_S
        self._thread = threading.Thread(target=self._run, name=f"durable {keeper.path}", daemon=True)
        #: What opening found, or why it failed.
        self.opened: asyncio.Future[Found] = self._expected()
        #: Set when everything has been let go; to the error, where closing raised one.
        self.ended: asyncio.Future[None] = self._expected()
        #: Set to an error when `look` raised one.
        self.lost: asyncio.Future[None] = self._expected()

    def _expected(self) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is no fault to ask nothing
        return future

    # ---- from outside ----

    def start(self) -> None:
        """Begin to open the database: `opened` tells how that went."""
        self._thread.start()

    def post(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Have something done. What meets another program's lock must have changed nothing: it is done again."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(future, work))
        return future

    def stop(self) -> None:
        """Do what it was handed before, then close: another program's lock is an error from now on. Idempotent."""
        self._stopping.set()
        self._queue.put(None)

    async def end(self) -> None:
        """Stop, and wait until everything has been let go. Raises what closing raised."""
        self.stop()
        try:
            await asyncio.shield(self.ended)
        finally:
            if self.ended.done():
                self._thread.join(1.0)  # it has nothing left to do

    def abandon(self) -> bool:
        """Let everything go without an event loop, from any thread; what it was handed before is not done any more.

        Returns whether that is done; where the disk takes longer than five seconds, it comes later.
        """
        self._abandoned = True
        self.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(ABANDON_S)
        return not self._thread.is_alive()

    @property
    def forsaken(self) -> bool:
        """Whether nobody can use it any more."""
        return self._abandoned or self._loop.is_closed()

    # ---- on the thread ----

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            database, found = self._keeper.opening(self._stopping)
        except BaseException as refused:
            self._tell(self.opened, refused)
        else:
            try:
                self._tell(self.opened, None, found)
                self._serve(database)
            finally:
                try:
                    self._keeper.closing(database)
                except Exception as failed:
                    error = failed
        self._tell(self.ended, error)

    def _serve(self, database: sqlite3.Connection) -> None:
        look_at = time.monotonic() + LOOK_EVERY_S
        watching = True
        while not self.forsaken:
            try:
                job = self._queue.get(timeout=self._pause_s if self._aside else LOOK_EVERY_S)
            except Empty:
                pass
            else:
                if job is None:
                    break
                self._do(database, job)
            if self._aside:
                self._try_again(database)
            now = time.monotonic()
            if watching and now >= look_at:
                look_at = now + LOOK_EVERY_S
                watching = self._look()
        self._give_up()

    def _do(self, database: sqlite3.Connection, job: _Job) -> None:
        if self.forsaken:
            self._tell(job.future, self._closed())
            return
        try:
            result = job.work(database)
        except BaseException as error:
            if not isinstance(error, sqlite3.Error) or not is_busy(error):
                self._tell(job.future, error)
            elif self._stopping.is_set():
                self._tell(job.future, explain(error, self._keeper.path))
            else:
                if not job.since:
                    job.since = time.monotonic()
                    job.next_word = job.since + NAMED_AFTER_S
                    self._pause_s = RETRY_S
                self._aside.append(job)
        else:
            self._tell(job.future, None, result)

    def _try_again(self, database: sqlite3.Connection) -> None:
        jobs, self._aside = self._aside, []
        for job in jobs:
            self._do(database, job)
        self._pause_s = min(2 * self._pause_s, RETRY_S_MAX)
        now = time.monotonic()
        for job in self._aside:
            if now >= job.next_word:
                job.next_word = now + NAMED_EVERY_S
                log.store.warning(
                    "%s is locked by another program (a database browser, a copy, a backup?): since %.0f s "
                    "nothing can be written. The engine waits; nothing is lost",
                    self._keeper.path,
                    now - job.since,
                )

    def _look(self) -> bool:
        try:
            self._keeper.look()
        except StorageError as error:
            self._tell(self.lost, error)
            return False
        return True

    def _give_up(self) -> None:
        """Nothing that was handed in is left without an answer."""
        jobs, self._aside = self._aside, []
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                break
            if job is not None:
                jobs.append(job)
        for job in jobs:
            self._tell(job.future, self._closed())

    def _closed(self) -> EngineNotRunningError:
        return EngineNotRunningError(f"the store {self._keeper.path} is closed")

    def _tell(self, future: "asyncio.Future[Any]", error: BaseException | None, result: Any = None) -> None:
        with suppress(RuntimeError):  # the event loop is closed: there is nobody left to be told
            self._loop.call_soon_threadsafe(_settle, future, error, result)


def _settle(future: "asyncio.Future[Any]", error: BaseException | None, result: Any) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
