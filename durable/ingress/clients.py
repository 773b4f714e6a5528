"""Who waits for an answer may go away: then nobody waits any more, and the invocation goes on."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from starlette.types import Receive

#: After how long it is listened whether a client has gone. Most answers have come by then.
LISTEN_AFTER_S = 1.0


class WhileConnected:
    """Leaves the block when the client goes away; what is left of its body is not kept.

    async with WhileConnected(receive):
        return await ...
    raise ClientGone
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._hearing: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a request is answered in a task"
        self._task, self._cancelling = task, task.cancelling()
        self._timer = self._loop.call_later(LISTEN_AFTER_S, self._listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._timer.cancel()
        if self._hearing is not None:
            self._hearing.cancel()
        if not self._gone:
            return False
        left = self._task.uncancel() <= self._cancelling
        return left and kind is not None and issubclass(kind, asyncio.CancelledError)

    def _listen(self) -> None:
        self._hearing = self._loop.create_task(self._hear())

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
