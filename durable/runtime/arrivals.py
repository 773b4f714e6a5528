"""Which outcome reaches the handler next, and when: what is recorded, as far as the handler has come, then the news.

One rule holds live and in a replay, so that the flows of a handler go on in the same order in both: an outcome is
handed over to a handler that waits, in all its flows, and the next one when it waits again. One flow that is alone
needs no more than to be told that it waits no longer; of several, each outcome may wake one, which has others go on
in turn, so the next outcome is kept back until all have come to rest.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Protocol

from durable.core.journal import Kind, Outcome, Row
from durable.core.replay import Replay
from durable.futures import DurableFuture
from durable.runtime.current import GONE


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
    #: The context variables of what is done for it.
    context: Context

    @property
    def told(self) -> bool:
        """Whether a cancel has come that somebody has yet to see."""
        ...

    def one_waits(self) -> bool:
        """Whether its only flow waits, and nothing has woken it."""
        ...

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


#: Where nothing has come yet. (A deque is dear to make.)
NO_NEWS: deque[tuple[int, Outcome]] = deque()


class Arrivals:
    """The outcomes of one attempt on their way to its handler."""

    __slots__ = (
        "_at_once", "_at_once_s", "_left", "_new_cancels", "_receiver", "_started", "_until", "caught_up",
        "concurrent", "news", "replay", "settling",
    )  # fmt: skip

    def __init__(self, receiver: Receiver, at_once: int, at_once_s: float) -> None:
        self._receiver: Receiver = receiver
        #: How many recorded outcomes are delivered before the event loop gets its turn; and how many more may be.
        self._at_once = self._left = at_once
        #: For how long; and until when.
        self._at_once_s = at_once_s
        self._until = 0.0
        self.replay: Replay | None = None
        self._started = False
        #: Before which entry the handler has got all that it had seen then.
        self.caught_up = 0
        #: Outcomes that came while the handler was not ready for them.
        self.news: deque[tuple[int, Outcome]] = NO_NEWS
        #: How many of them are cancels.
        self._new_cancels = 0
        #: Whether the next outcome waits until the handler has come to rest.
        self.settling = False
        #: Whether it ever had several flows: that one waits now says nothing of the others then.
        self.concurrent = False

    def let_go(self) -> None:
        """The attempt is over."""
        self._receiver = GONE

    def start(self, rows: Sequence[Row], until: int) -> None:
        """Begin with what is recorded, up to an ordinal; what comes later is news."""
        if rows:
            replay = Replay(rows, until)
            self.replay = replay if replay.commands or replay.outcomes_left else None
            self._until = self._receiver.loop.time() + self._at_once_s
        self._started = True

    def add(self, entry: int, outcome: Outcome) -> None:
        """An outcome became durable."""
        receiver = self._receiver
        held_back = self.news or self.concurrent or self.settling or self.replay is not None or not self._started
        if not held_back and receiver.active and receiver.one_waits():  # the usual: it goes on at once
            if entry == 0 or receiver.wants(entry):
                receiver.arrive(entry, outcome)
            return
        if self.news is NO_NEWS:
            self.news = deque()
        self.news.append((entry, outcome))
        self._new_cancels += not entry
        if self._started:
            self.pump()

    def catch_up(self) -> None:
        """Before the handler asks for its next entry: hand over what it had seen when it asked for that one before.

        Where that entry is new, hand over what is recorded up to the last cancel, which is raised here at the latest.
        """
        replay, receiver = self.replay, self._receiver
        if replay is None:
            return
        self.caught_up = receiver.asked + 1
        row = replay.commands.get(receiver.asked + 1)
        while replay.cancels_left if row is None else receiver.delivered < row.seen:
            arrival = replay.next_arrival(receiver.asked)
            if arrival is None:
                return
            receiver.arrive(*arrival)

    def hand_over_cancels(self) -> None:
        """Nobody waits, and something is about to begin that a cancel keeps from being done: none is kept back."""
        receiver = self._receiver
        while not (self.concurrent or receiver.flows or self.replaying) and self.cancel_left:
            arrival = self._next()
            if arrival is None:
                return
            receiver.arrive(*arrival)

    def match(self, entry: int, kind: Kind, name: str, fingerprint: bytes | None) -> Row | None:
        """See `Replay.match`."""
        self._receiver.activity += 1
        return None if self.replay is None else self.replay.match(entry, kind, name, fingerprint)

    def asked_more(self) -> None:
        """An entry was taken: outcomes that others wait for may be due now."""
        if self._receiver.flows and (self.replay is not None or self.news):
            self.pump()

    def waits(self, future: DurableFuture[Any]) -> None:
        """A flow is about to wait for this, and something may arrive: where it is alone, until it need not wait."""
        if self.concurrent:
            self._settle()
            return
        receiver = self._receiver
        if not self.cancel_left and not receiver.told:  # a cancel is told to whoever waits by then
            while self._left and receiver.loop.time() <= self._until:
                replay = self.replay
                arrival = None if replay is None else replay.next_arrival(receiver.asked)
                arrival = arrival or self._next()
                if arrival is None:
                    return
                self._left -= 1
                receiver.arrive(*arrival)
                if future.outcome is not None:
                    return
        receiver.loop.call_soon(self._go_on, context=receiver.context)

    def _go_on(self) -> None:
        """The event loop had its turn."""
        self._left = self._at_once
        self._until = self._receiver.loop.time() + self._at_once_s
        self.pump()

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
        return self._started and not self.news and not self.settling and not self.replaying

    @property
    def cancel_left(self) -> bool:
        """Whether a cancel is among what is to be delivered."""
        if self.replay is not None and self.replay.cancels_left:
            return True
        return self._new_cancels > 0

    def pump(self) -> None:
        """Hand over the outcomes that are due: to one flow until it is woken, to several one by one."""
        receiver = self._receiver
        if self.settling or not receiver.active:
            return
        if self.concurrent:
            self._settle()
            return
        while receiver.one_waits():
            arrival = self._next()
            if arrival is None:
                return
            receiver.arrive(*arrival)

    def _settle(self) -> None:
        if not self.settling and (self.news or (self.replay is not None and self.replay.outcomes_left)):
            self.settling = True
            self._receiver.when_at_rest(self._hand_over)

    def _hand_over(self) -> None:
        """The handler is at rest: it gets the next outcome, if some flow waits or a cancel is to reach it."""
        receiver = self._receiver
        if not receiver.active:
            return
        arrival = self._next() if receiver.flows or self.cancel_left else None
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
        while self.news:
            entry, outcome = self.news.popleft()
            self._new_cancels -= not entry
            if entry == 0 or self._receiver.wants(entry):
                return entry, outcome
        return None
