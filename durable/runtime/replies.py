"""Who waits for an answer: by the token of a command, and by the invocation whose end is awaited."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from durable.core.commands import Command
from durable.core.effects import Answer, Completed, Reply
from durable.core.journal import Outcome


class Replies:
    """Answers commands once they are durable, and callers once their invocation has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tokens = itertools.count(1)
        self._askers: dict[int, tuple[asyncio.Future[Any], bool]] = {}
        self._waiters: dict[int, list[asyncio.Future[Outcome]]] = {}

    def expect(self, make: Callable[[int], Command], *, result: bool) -> "tuple[Command, asyncio.Future[Any]]":
        """A command, and the future of its `Reply`; with `result`, of the outcome it leads to."""
        token = next(self._tokens)
        future: asyncio.Future[Any] = self._loop.create_future()
        command = make(token)
        self._askers[token] = (future, result)
        return command, future

    def reply(self, reply: Reply) -> None:
        """A command is durable."""
        asker = self._askers.pop(reply.token, None)
        if asker is None or asker[0].done():
            return
        future, wants_result = asker
        if not wants_result or reply.result is Answer.NOT_FOUND:
            future.set_result(reply)
        elif reply.outcome is not None:
            future.set_result(reply.outcome)
        else:
            self._waiters.setdefault(reply.seq, []).append(future)

    def refuse(self, token: int, error: Exception) -> None:
        """A command was not stored, and will not be."""
        future, _ = self._askers.pop(token, (None, False))
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()  # retrieved: the one who asked may be gone

    def completed(self, completed: Completed) -> None:
        """An invocation has ended."""
        for waiter in self._waiters.pop(completed.seq, ()):
            if not waiter.done():
                waiter.set_result(completed.outcome)

    def fail_all(self, error: BaseException) -> None:
        """Nobody will be answered any more."""
        asking = [future for future, _ in self._askers.values()]
        for future in [*asking, *itertools.chain.from_iterable(self._waiters.values())]:
            if not future.done():
                future.set_exception(error)
                future.exception()  # retrieved: the one who asked may be gone
        self._askers.clear()
        self._waiters.clear()
