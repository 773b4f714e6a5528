"""An event loop in a thread of its own, on which a client is open for code that blocks."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

from durable.remote.client import Client
from durable.remote.wire import HOLDS_UP_A_LOOP

T = TypeVar("T")

Ask = Callable[[Client], Coroutine[Any, Any, T]]

#: Event loops of parent processes, which are not ended here: they share their file descriptors with those there.
_inherited: list[object] = []


class Background:
    """Opens the client when it is first asked for something, in each process anew. Any thread may use it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._opening = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0

    def run(self, ask: Ask[T], timeout_s: float | None = None) -> T:
        """Have it done on the event loop, and wait. Whoever is interrupted meanwhile stops waiting.

        Raises `TimeoutError` where it takes longer than `timeout_s` seconds.
        """
        asking = _begun(self._opened(), lambda: ask(self._client))
        try:
            return asking.result(timeout_s)
        except BaseException:
            asking.cancel()
            raise

    def close(self) -> None:
        """End the thread and let the connections go. Idempotent; it is opened again when it is used again."""
        with self._opening:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None or self._process != os.getpid():
                return
            self._loop = self._thread = None
            asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _opened(self) -> asyncio.AbstractEventLoop:
        """The event loop, on which the client is open; started in this process, if it is another one now."""
        if self._process != os.getpid():
            _inherited.append(self._loop)
            self._opening, self._loop, self._thread = threading.Lock(), None, None
            self._process = os.getpid()
        with self._opening:
            loop = self._loop
            if loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="durable-client", daemon=True)
                thread.start()
                try:
                    _begun(loop, self._client.open).result()
                except BaseException:
                    loop.call_soon_threadsafe(loop.stop)
                    thread.join()
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return loop


def _begun(loop: asyncio.AbstractEventLoop, ask: Callable[[], Coroutine[Any, Any, T]]) -> "Future[T]":
    """Begin something on an event loop, which is told whether another one stands still meanwhile."""
    context = copy_context()
    context.run(HOLDS_UP_A_LOOP.set, asyncio._get_running_loop() is not None)
    return context.run(asyncio.run_coroutine_threadsafe, ask(), loop)
