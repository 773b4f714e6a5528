"""Who waits for an answer: by the token of a command, and by the invocation whose end is awaited."""

import asyncio
import itertools
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from durable.core.commands import Command
from durable.core.effects import Answer, Completed, Reply
from durable.core.journal import Outcome
from durable.core.sealed import Sealed
from durable.errors import DurableError

#: Sees an answer before whoever asked does, and raises what is to be raised there instead.
Look = Callable[[Reply], None]

#: How many wait before it is looked, for the first time, who has left.
LOOK_AT = 1000


class Wanted(Enum):
    """What somebody wants to know who asked for a command."""

    REPLY = auto()
    #: What the invocation ends with; a `Reply` where there is none.
    OUTCOME = auto()
    #: The same of a new invocation; the `Reply` where an idempotency key named one that was there already.
    NEW_OUTCOME = auto()


#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_REPLY, _NEW_OUTCOME, _NOT_FOUND = Wanted.REPLY, Wanted.NEW_OUTCOME, Answer.NOT_FOUND


class Replies:
    """Answers commands once they are durable, and callers once their invocation has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tokens = itertools.count(1)
        self._askers: dict[int, tuple[asyncio.Future[Any], Wanted, Look | None]] = {}
        self._waiters: dict[int, list[asyncio.Future[Outcome]]] = {}
        #: How many wait, and how many of them at most may have gone away unnoticed before it is looked.
        self._waiting, self._looked_at = 0, LOOK_AT

    def expect(
        self, make: Callable[[int], Command], wanted: Wanted, look: "Look | None" = None
    ) -> "tuple[Command, asyncio.Future[Any]]":
        """A command, and the future of what is wanted of it. `look` sees the answer first, and may refuse it."""
        token = next(self._tokens)
        future: asyncio.Future[Any] = self._loop.create_future()
        command = make(token)
        self._askers[token] = (future, wanted, look)
        return command, future

    def reply(self, reply: Reply) -> None:
        """A command is durable."""
        asker = self._askers.pop(reply.token, None)
        if asker is None or asker[0].done():
            return
        future, wanted, look = asker
        if look is not None:
            try:
                look(reply)
            except DurableError as error:
                future.set_exception(error)
                return
        if (
            wanted is _REPLY
            or reply.result is _NOT_FOUND
            or (wanted is _NEW_OUTCOME and reply.result is Answer.PREVIOUSLY_ACCEPTED)
        ):
            future.set_result(reply)
        elif reply.outcome is not None:
            if isinstance(reply.outcome.value, Sealed):
                future.set_exception(reply.outcome.value.why.error())
                return
            future.set_result(reply.outcome)
        else:
            self._waiters.setdefault(reply.seq, []).append(future)
            self._waiting += 1
            if self._waiting > self._looked_at:
                self._forget_those_that_left()

    def _forget_those_that_left(self) -> None:
        """Whoever stopped waiting for something that may take days."""
        self._waiters = {
            seq: left for seq, all_ in self._waiters.items() if (left := [one for one in all_ if not one.done()])
        }
        self._waiting = sum(map(len, self._waiters.values()))
        self._looked_at = LOOK_AT + 2 * self._waiting

    def refuse(self, token: int, error: Exception) -> None:
        """A command was not stored, and will not be."""
        future, *_ = self._askers.pop(token, (None,))
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()  # retrieved: the one who asked may be gone

    def completed(self, completed: Completed) -> None:
        """An invocation has ended."""
        waiters = self._waiters.pop(completed.invocation.seq, ())
        self._waiting -= len(waiters)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(completed.outcome)

    def fail_all(self, error: BaseException) -> None:
        """Nobody will be answered any more."""
        asking = [future for future, _, _ in self._askers.values()]
        for future in [*asking, *itertools.chain.from_iterable(self._waiters.values())]:
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved: the one who asked may be gone
        self._askers.clear()
        self._waiters.clear()
        self._waiting = 0
