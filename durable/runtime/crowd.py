"""Flows of one handler that are about to execute a step, each its own: a crowd begins a few at a time.

So many begin in one round of the event loop (`Limits.begun`), and others have their turn in between.
"""

import asyncio
from collections import deque
from contextvars import Context

from durable.runtime.waiters import Waiter


class Crowd:
    """Lets flows begin, in the order in which they came."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context, at_once: int) -> None:
        self._loop = loop
        self._context = context
        self._at_once = self._left = at_once
        self._due = False
        #: Those that have to wait.
        self.line: deque[Waiter] = deque()

    def admits(self) -> bool:
        """Whether one more may begin now; else it has to `join`."""
        if self.line or not self._left:
            return False
        self._left -= 1
        self._next_round()
        return True

    def join(self, waiter: Waiter) -> None:
        """Set `waiter` when it is its turn."""
        self.line.append(waiter)
        self._next_round()

    def _next_round(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._let_in, context=self._context)

    def _let_in(self) -> None:
        self._due, self._left = False, self._at_once
        while self.line and self._left:
            waiter = self.line.popleft()
            if not waiter.done():  # nor has it got what it was to wait for
                waiter.set_result(None)
                self._left -= 1
        if self.line:
            self._next_round()
