"""A server that is told to end waits for its requests, and they may wait for handlers that take days.

The lifespan of an ASGI app ends only when all requests are answered. So an engine that lives in one does not wait for
that: when the process gets SIGTERM or Ctrl-C it gives them half of its time, and then closes. Whoever waits for a
result is told so, and the server can end. Whatever else handles the signals goes on doing so.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from durable import log
from durable.runtime.tasks import unmourned

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def closes_when_told(close: Callable[[float], Coroutine[Any, Any, None]], within_s: float) -> Iterator[None]:
    """Have `close` called with half of the time when the other half is over, counted from the first signal.

    Signals come to the main thread: an engine in another one (a test client's) is closed by its server alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    later: list[asyncio.TimerHandle] = []
    closing: list[asyncio.Task[None]] = []

    def begin() -> None:
        log.engine.warning("the process was told to end, and requests still wait: the engine closes, and tells them")
        closing.append(unmourned(loop.create_task(close(within_s / 2))))

    def told() -> None:
        if not later:
            later.append(loop.call_later(within_s / 2, begin))

    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(told)
        before[number](number, frame)

    for one in SIGNALS:
        handler = signal.getsignal(one)
        if callable(handler):  # otherwise the signal ends the process at once, or nobody is to hear it
            before[one] = handler
            signal.signal(one, note)
    try:
        yield
    finally:
        for handle in later:
            handle.cancel()
        for number, handler in before.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)
