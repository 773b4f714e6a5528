"""Who waits for an answer may go away: then nobody waits any more, and the invocation goes on."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from starlette.types import Receive

#: After how long, at most, it is listened whether a client has gone. Most answers have come by then.
LISTEN_AFTER_S = 1.0


class Waiting:
    """The requests of an app that wait for their answer: one timer looks after all of those on one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timed = False
        #: Those that came since the timer was set, and those that had come before.
        self._new: set[WhileConnected] = set()
        self._older: set[WhileConnected] = set()

    def __call__(self, receive: Receive) -> "WhileConnected":
        """One of them begins to wait."""
        return WhileConnected(self, receive)

    def add(self, one: "WhileConnected") -> None:
        """Listen to its client if it is still here a moment later."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what was there before belongs to an event loop that has ended
            self._loop, self._timed, self._new, self._older = loop, False, set(), set()
        self._new.add(one)
        if not self._timed:
            self._timed = True
            loop.call_later(LISTEN_AFTER_S / 2, self._look, loop)

    def remove(self, one: "WhileConnected") -> None:
        """It has its answer."""
        self._new.discard(one)
        self._older.discard(one)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        for one in self._older:
            one.listen(loop)
        self._older, self._new = self._new, set()
        self._timed = bool(self._older)
        if self._timed:
            loop.call_later(LISTEN_AFTER_S / 2, self._look, loop)


class WhileConnected:
    """Leaves the block when the client goes away; what is left of its body is not kept.

    with waiting(receive):
        return await ...
    raise ClientGone
    """

    def __init__(self, waiting: Waiting, receive: Receive) -> None:
        self._waiting = waiting
        self._receive = receive
        self._hearing: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a request is answered in a task"
        self._task, self._cancelling = task, task.cancelling()
        self._waiting.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._waiting.remove(self)
        if self._hearing is not None:
            self._hearing.cancel()
        if not self._gone:
            return False
        left = self._task.uncancel() <= self._cancelling
        return left and kind is not None and issubclass(kind, asyncio.CancelledError)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, its client is heard."""
        self._hearing = loop.create_task(self._hear())

    async def _hear(self) -> None:
        with suppress(Exception):  # of a server that is ending: then nobody is heard
            ends = 0
            while ends < 2:  # of the body, which nobody wanted: a server that tells it again would tell it for ever
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._gone = True
                    self._task.cancel()
                    return
                ends += not message.get("more_body", False)
