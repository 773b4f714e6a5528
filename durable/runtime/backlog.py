"""Commands that no turn has taken yet; who waits until turns have settled them, and who waits to bring more."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context

from durable.core.commands import Command
from durable.core.limits import Limits


class Backlog:
    """Counts what comes in and what has been settled, in one order: a turn takes the oldest."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context, limits: Limits) -> None:
        self._loop = loop
        self._context = context
        self._limits = limits
        self.commands: list[Command] = []
        #: How many commands turns have taken, and how many of them are settled and committed.
        self._taken = self._settled = 0
        #: Who is called once so many are: see `when_settled`.
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        #: Who waits to submit, because so many commands wait to be taken.
        self._at_the_door: deque[asyncio.Future[None]] = deque()
        #: Whether nobody need wait there: whoever comes is told that the engine ends.
        self._open = False

    def take(self) -> list[Command]:
        """What the next turn settles: not more than a turn may have."""
        most = self._limits.turn
        commands, self.commands = self.commands[:most], self.commands[most:]
        self._taken += len(commands)
        if self._at_the_door:
            self._let_in(self._limits.door - len(self.commands))
        return commands

    def when_settled(self, then: Callable[[], None]) -> None:
        """Call `then` when what has come so far is committed and has been acted upon."""
        come = self._taken + len(self.commands)
        if self._settled < come:
            self._waiting.append((come, then))
        else:
            self._loop.call_soon(then, context=self._context)

    def settled(self) -> int:
        """What was taken is committed: returns how many that are, for `acted_upon`."""
        self._settled = self._taken
        return self._settled

    def acted_upon(self, settled: int) -> None:
        """So many are committed and acted upon: call those that waited for it."""
        while self._waiting and self._waiting[0][0] <= settled:
            self._loop.call_soon(self._waiting.popleft()[1], context=self._context)

    @property
    def crowded(self) -> bool:
        """Whether so many commands wait to be taken that nobody from outside may bring more: see `admitted`."""
        return (len(self.commands) >= self._limits.door or bool(self._at_the_door)) and not self._open

    def admitted(self) -> "asyncio.Future[None]":
        """Done when, behind all who wait already, a turn has taken enough of what was submitted."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._at_the_door.append(turn)
        return turn

    def open_the_door(self) -> None:
        """The engine ends: let in all who wait, to be told so."""
        self._open = True
        self._let_in(len(self._at_the_door))

    def _let_in(self, room: int) -> None:
        while self._at_the_door and room > 0:
            waiter = self._at_the_door.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1

    def clear(self) -> None:
        """Nothing that waits here will be settled."""
        self.commands.clear()
