"""Which outcome reaches the handler next, and when: what is recorded, as far as the handler has come, then the news.

Which flow of a handler takes the next entry must not depend on chance. One flow has its order in itself. Of several,
each outcome may wake one, and the next outcome waits until that one has come to rest: live and in a replay.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from durable.core.journal import Kind, Outcome, Row
from durable.core.replay import Replay
from durable.runtime.steps import GONE


class Receiver(Protocol):
    """What arrivals need of their attempt."""

    active: bool
    loop: asyncio.AbstractEventLoop
    #: How many entries the handler has asked for.
    asked: int
    #: How many flows of it wait.
    flows: int
    #: How many outcomes it has seen.
    delivered: int
    #: Counts what it does.
    activity: int

    def when_at_rest(self, then: Callable[[], None]) -> None:
        """Call `then` when each of its flows waits, and none will go on by itself."""
        ...

    def wants(self, entry: int) -> bool:
        """Whether somebody may still wait for this entry."""
        ...

    def arrive(self, entry: int, outcome: Outcome) -> None:
        """Hand it to the handler."""
        ...

    def at_rest(self) -> None:
        """Nothing is left to arrive, and the handler has done what it could."""
        ...


class Arrivals:
    """The outcomes of one attempt on their way to its handler."""

    def __init__(self, receiver: Receiver, at_once: int) -> None:
        self._receiver: Receiver = receiver
        #: How many recorded outcomes are delivered before the event loop gets its turn.
        self._at_once = at_once
        self.replay: Replay | None = None
        self._started = False
        #: Outcomes that came while the handler was not ready for them.
        self._news: deque[tuple[int, Outcome]] = deque()
        #: Whether the next outcome waits until the handler has come to rest.
        self.settling = False
        #: Whether two flows have ever waited at the same time: that one waits now says nothing of the others then.
        self.concurrent = False

    def let_go(self) -> None:
        """The attempt is over."""
        self._receiver = GONE

    def start(self, rows: Sequence[Row], until: int) -> None:
        """Begin with what is recorded, up to an ordinal; what comes later is news."""
        replay = Replay(rows, until)
        self.replay = replay if replay.commands or replay.outcomes_left else None
        self._started = True
        self.pump(flows=0)

    def add(self, entry: int, outcome: Outcome) -> None:
        """An outcome became durable."""
        self._news.append((entry, outcome))
        if self._started:
            self.pump(flows=1)

    def catch_up(self) -> None:
        """Before the handler asks for its next entry: hand over what it had seen when it asked for that one before.

        Where that entry is new, hand over what is recorded up to the last cancel, which is raised here at the latest.
        """
        replay, receiver = self.replay, self._receiver
        if replay is None:
            return
        row = replay.commands.get(receiver.asked + 1)
        while replay.cancels_left if row is None else receiver.delivered < row.seen:
            arrival = replay.next_arrival(receiver.asked)
            if arrival is None:
                return
            receiver.arrive(*arrival)

    def match(self, entry: int, kind: Kind, name: str, fingerprint: bytes | None) -> Row | None:
        """See `Replay.match`."""
        self._receiver.activity += 1
        return None if self.replay is None else self.replay.match(entry, kind, name, fingerprint)

    def asked_more(self) -> None:
        """An entry was taken: recorded outcomes may be due now."""
        if self.replay is not None or self._news:
            self.pump(flows=0)

    @property
    def replaying(self) -> bool:
        """Whether the journal has more than the handler has come to."""
        replay = self.replay
        if replay is not None and not replay.outcomes_left and self._receiver.asked >= replay.last:
            self.replay = replay = None
        return replay is not None

    @property
    def none_left(self) -> bool:
        """Whether everything has been delivered, so that the handler may be unloaded."""
        return self._started and not self._news and not self.settling and not self.replaying

    @property
    def cancel_left(self) -> bool:
        """Whether a cancel is among what is to be delivered."""
        return (self.replay is not None and self.replay.cancels_left > 0) or any(not entry for entry, _ in self._news)

    def pump(self, flows: int) -> None:
        """Hand over the outcomes that are due: all of them where no more than `flows` flows wait, else one by one."""
        receiver = self._receiver
        if self.settling or not receiver.active:
            return
        if self.concurrent or receiver.flows > flows:
            if self._news or (self.replay is not None and self.replay.outcomes_left):
                self.settling = True
                receiver.when_at_rest(self._hand_over)
            return
        for _ in range(self._at_once):
            arrival = self._next()
            if arrival is None:
                return
            receiver.arrive(*arrival)
        receiver.loop.call_soon(self.pump, 1)

    def _hand_over(self) -> None:
        """The handler is at rest: it gets the next outcome."""
        receiver = self._receiver
        if not receiver.active:
            return
        arrival = self._next()
        if arrival is not None:
            receiver.arrive(*arrival)
            receiver.when_at_rest(self._hand_over)
            return
        self.settling = False
        receiver.at_rest()

    def _next(self) -> tuple[int, Outcome] | None:
        """The next outcome that is due."""
        replay = self.replay
        if replay is not None:
            arrival = replay.next_arrival(self._receiver.asked)
            if arrival is not None or self.replaying:
                return arrival
        while self._news:
            entry, outcome = self._news.popleft()
            if entry == 0 or self._receiver.wants(entry):
                return entry, outcome
        return None
