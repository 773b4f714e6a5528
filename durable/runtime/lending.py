"""A step that waits for the engine lends what it holds: its slot, and its thread, to those that it waits for.

`engine.call()` in a step (or in a handler, where `ctx.call()` is meant) waits for another invocation, which needs a
slot, and perhaps for its own steps a thread. If all were held by such as wait, none of them would ever go on.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from durable.core.commands import Command, Lend
from durable.runtime.threads import Threads


class Borrower(Protocol):
    """Whoever holds something: a step, or an attempt."""

    seq: int
    #: Whether it runs in a thread.
    in_thread: bool


class Lending:
    """What the steps and handlers of one engine lend, on its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, submit: Callable[[Command], None], threads: Threads) -> None:
        self._loop = loop
        self._submit = submit
        self.threads = threads

    def lend(self, one: Borrower, until: "asyncio.Future[object]") -> None:
        """It waits for that future: lend what it has until that is done. To another event loop it lends nothing."""
        if until.get_loop() is not self._loop or until.done():
            return
        seq, in_thread = one.seq, one.in_thread
        self._submit(Lend(seq, 1))
        if in_thread:
            self.threads.lend()

        def take_back(_: "asyncio.Future[object]") -> None:
            self._submit(Lend(seq, -1))
            if in_thread:
                self.threads.take_back()

        until.add_done_callback(take_back)
