"""Ends spans in a thread of their own, because exporters may be slow, hang or raise.

Many processors export a span on the thread that ends it, and an event loop must not wait for that.
"""

import threading
import time
from collections import deque
from typing import Protocol

from durable import log

#: How many spans may wait to be ended; more are dropped.
WAITING_MAX = 20_000
#: How long the thread gathers spans before it ends them: it is woken seldom.
GATHER_S = 0.05
#: How many it ends before it sleeps for a moment, so that others get the interpreter: they would wait for 5 ms, and
#: giving it up without sleeping gives it to nobody. Of many that wait, a part of them, as it has to come after.
AT_ONCE = 4
PART = 64
#: How long the end of an engine waits for them.
PATIENCE_S = 0.5


class Ends(Protocol):
    """A span, or what becomes one when it ends."""

    def end(self, end_time: int, /) -> None:
        """End it as of then."""
        ...


class Endings:
    """Ends spans in the order in which they come, on a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Ends, int]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        #: Set while nobody need wait for more.
        self._hurry = threading.Event()
        self._complained = False
        #: How many were dropped.
        self.dropped = 0

    def add(self, span: Ends, end_ns: int) -> None:
        """End a span soon, with that moment as its end."""
        if len(self._waiting) >= WAITING_MAX:
            self.dropped += 1
            if self.dropped == 1:
                log.engine.warning(
                    "telemetry: an exporter of spans hangs or is too slow: %d wait for it, the others are dropped",
                    WAITING_MAX,
                )
            return
        with self._lock:
            self._waiting.append((span, end_ns))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="durable-spans", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        idle = 0
        while True:
            self._hurry.wait(GATHER_S)
            idle = 0 if self._waiting else idle + 1
            while self._waiting:
                for _ in range(max(AT_ONCE, len(self._waiting) // PART)):
                    self._end(*self._waiting[0])
                    self._waiting.popleft()
                    if not self._waiting:
                        break
                else:
                    time.sleep(1e-6)  # the least that an operating system knows
            with self._lock:
                if not self._waiting and (self._hurry.is_set() or idle > 100):
                    self._thread = None
                    return

    def _end(self, span: Ends, end_ns: int) -> None:
        try:
            span.end(end_ns)
        except BaseException as error:
            self.complain("end", error)

    def complain(self, what: str, error: BaseException) -> None:
        """Say once that the SDK, or what is plugged into it, has raised."""
        if not self._complained:
            self._complained = True
            log.engine.warning("telemetry: the %s of a span raised %s; it goes on", what, type(error).__qualname__)

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until all spans so far have ended; False if that takes too long."""
        self._hurry.set()
        deadline = time.monotonic() + patience_s
        try:
            while (thread := self._thread) is not None and thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
                if time.monotonic() >= deadline:
                    return not self._waiting
            return not self._waiting
        finally:
            self._hurry.clear()
