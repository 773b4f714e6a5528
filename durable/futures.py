"""What a durable operation returns, and what futures of futures have in common.

A `DurableFuture` took its place in the journal when it was made; awaiting it any number of times gives the same
outcome. What is made of several (`combining`, and a time-out here) depends only on the order in which outcomes were
recorded, so a replay decides as the first run did.

A member tells whoever watches it, once, so a crowd costs each of its members the same, however many there are.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

from durable.callbacks import AsyncioFuture, Listens, Waker
from durable.core.duration import Duration
from durable.core.journal import Kind, Outcome, value_called
from durable.core.reasons import Reason
from durable.core.waiting import Group
from durable.errors import (
    DurableTimeoutError,
    SerializationError,
    UsageError,
)
from durable.outcomes import error_of
from durable.serde import decoded

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_CALL = Kind.CALL

T_co = TypeVar("T_co", covariant=True)


class Waits(Listens, Protocol):
    """What a future needs of its attempt."""

    def wait(self, future: "DurableFuture[Any]") -> Generator[Any, None, Any]:
        """Give way until the future has its outcome (and, for a step nobody started, run it here): its value.

        Where other flows of the handler wait too, even a known outcome waits for its turn.
        """
        ...

    def sleep(self, duration: Duration, name: str) -> "DurableFuture[None]":
        """A durable timer."""
        ...

    def made(self, one: Any, depth: int, /) -> None:
        """The handler made this, so many frames above: a warning comes if it never uses it."""
        ...

    def raises(self) -> None:
        """An error is raised in the handler: it may have reason not to use what it made."""
        ...


class DurableFuture(AsyncioFuture[T_co]):
    """The result of a durable operation: await it, or combine it with others. If you forget to, the log says so.

    asyncio's `gather`, `shield`, `wait` and `as_completed` take it, too; without a time-out, which no journal knows.
    """

    __slots__ = (
        "_decode",
        "_id",
        "_value",
        "_waiters",
        "_watchers",
        "begun",
        "entry",
        "kind",
        "made",
        "name",
        "outcome",
        "race",
        "rank",
        "step",
    )
    #: How many combinators are nested in it.
    depth = 0

    def __init__(
        self, attempt: Waits, entry: int, kind: Kind, decode: Callable[[bytes], T_co] | None, name: str = ""
    ) -> None:
        self._attempt: Waits = attempt
        self._to_tell = self._told = None
        self._decode = decode
        self._watchers: list[Callable[[DurableFuture[Any]], None]] | None = None
        self._waiters: list[Waker] | None = None
        self._value: Any = None
        self.entry = entry
        self.kind = kind
        self.name = name
        self.outcome: Outcome | None = None
        #: Where the handler made it, until it is awaited or combined with others.
        self.made: Any = None
        #: When its outcome arrived among all of this attempt's; smaller is earlier.
        self.rank = 0
        self._id = ""
        #: Finds the `wait_completed` that it took part in last: the next one over what that left goes on with it.
        self.race: Callable[[], Any] | None = None
        #: What to execute, while it is not complete.
        self.step: Any = None
        #: Of a step that a cancel lets end: how many outcomes had been seen when it was asked for.
        self.begun: int | None = None

    def __hash__(self) -> int:
        """So a set of them has the same order in each replay: `asyncio.wait` and `as_completed` make sets."""
        return self.entry

    def __await__(self) -> Generator[Any, None, T_co]:
        self.made = None
        return self._attempt.wait(self)

    def with_timeout(self, duration: Duration) -> "DurableFuture[T_co]":
        """The same result, or `DurableTimeoutError` (a `TimeoutError`, code 408) if it takes longer than `duration`.

        The time-out is a durable timer: it survives restarts, and which of the two came first is recorded.
        """
        return Timeout(self._attempt, self, self._attempt.sleep(duration, "timeout"))

    # ---- for the attempt and the combinators ----

    @property
    def completed(self) -> bool:
        """Whether its outcome has arrived. (Internal: a handler that polls cannot be replayed.)"""
        return self.outcome is not None

    def preset(self, value: Any) -> None:
        """The decoded value of the outcome that is on its way: a step has just produced it."""
        self._value = value
        self._decode = None

    def complete(self, outcome: Outcome, rank: int) -> None:
        """Take the outcome, and tell the combinators that watch."""
        self.outcome = outcome
        self.rank = rank
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher(self)

    def wake(self, waiter: Waker) -> None:
        """Set `waiter` when the outcome is here; at once where it is."""
        if self.outcome is not None:
            waiter.set_result(None)
        elif self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it."""
        return self._waiters is not None

    def move_up(self, waiter: Waker, place: Waker | None) -> None:
        """The last one to wait came before others: set it where `place` is, which is over, or first of all."""
        waiters = self._waiters
        if waiters is not None and len(waiters) > 1:
            waiters.pop()
            if place is None:
                waiters.insert(0, waiter)
            else:
                waiters[waiters.index(place)] = waiter

    def forget(self, waiter: Waker) -> None:
        """Whoever awaited `waiter` has gone on without the outcome."""
        if self._waiters is not None:
            self._waiters.remove(waiter)

    def abandon(self) -> None:
        """Its outcome will not come any more: whoever watches does so in vain."""
        self._watchers = None

    def watch(self, watcher: "Callable[[DurableFuture[Any]], None]") -> None:
        """Call `watcher` when the outcome arrives."""
        if self._watchers is None:
            self._watchers = [watcher]
        else:
            self._watchers.append(watcher)

    def value(self) -> T_co:
        """See `AsyncioFuture`."""
        outcome = self.outcome
        assert outcome is not None
        if not outcome.ok:
            self._attempt.raises()
            raise error_of(outcome)
        if self._decode is not None:
            try:
                self._value = decoded(self._decode, outcome.value, value_called(self.kind, self.name, self.entry))
            except SerializationError as error:
                error.reason = Reason.VALUE_NOT_READABLE
                raise
            self._decode = None
        value: T_co = self._value
        return value

    def failed(self) -> bool:
        """Whether it is completed with a failure."""
        return self.outcome is not None and not self.outcome.ok

    def waiting_for(self) -> int | Group:
        """The expression that has to come true before an await goes on."""
        return self.entry

    @property
    def id(self) -> str:
        """The id of the invocation that was called, or of an awakeable; nothing else has one.

        A call whose id was read is not forgotten.
        """
        if self.kind is _CALL:
            self.made = None
        return self._id

    @id.setter
    def id(self, id: str) -> None:
        self._id = id

    @property
    def acts(self) -> bool:
        """Whether it does something, and not only waits."""
        return self.kind is Kind.RUN or self.kind is Kind.CALL

    @property
    def operation(self) -> str:
        """What made it, as a handler writes it."""
        return _OPERATIONS.get(self.kind, "ctx.{}").format(self.name or self.kind)

    @property
    def lost(self) -> str:
        """What is lost if nobody awaits it."""
        return _LOST.get(self.kind, "What it gives is never seen.")

    @property
    def interruptible(self) -> bool:
        """Whether a cancel interrupts a wait for it; a step that runs is left to end."""
        return self.begun is None

    @property
    def attempt(self) -> Waits:
        """The attempt it belongs to."""
        return self._attempt


_OPERATIONS = {
    Kind.RUN: "ctx.run({})",
    Kind.SLEEP: "ctx.sleep(…)",
    Kind.CALL: "ctx.call({})",
    Kind.AWAKEABLE: "ctx.awakeable()",
    Kind.SIGNAL: "ctx.signal({!r})",
    Kind.PROMISE: "ctx.promise({!r})",
    Kind.PEEK_PROMISE: "ctx.promise({!r}).peek()",
    Kind.ATTACH: "ctx.attach(…)",
    Kind.OUTPUT: "ctx.output(…)",
    Kind.GET: "ctx.get({!r})",
    Kind.STATE_KEYS: "ctx.state_keys()",
}
_LOST = {
    Kind.RUN: "The step may not have run, and an error of it is told to nobody.",
    Kind.CALL: "An error of it is told to nobody; ctx.send() is for what nobody waits for.",
    Kind.SLEEP: "The handler did not wait.",
}
#: The outcome of what is made of others.
DONE = Outcome(True, b"")
#: How many combinators may be nested: what is waited for is an expression of that depth.
DEPTH_MAX = 100


class Combined(DurableFuture[T_co]):
    """A future made of others. Its outcome is computed when it has come true."""

    __slots__ = ("_failed", "_hash", "depth", "members")
    #: See `DurableFuture.operation`.
    OPERATION = "gather(…)"

    def __init__(self, attempt: Waits, members: "Sequence[DurableFuture[Any]]") -> None:
        super().__init__(attempt, 0, Kind.AWAKEABLE, None)
        self.members = tuple(members)
        self._failed: bool | None = None
        self._hash: int | None = None
        self.depth: int = depth_over(self.members)
        for member in self.members:
            member.made = None
        attempt.made(self, 3)
        if self.came_true():
            self._settle(self.moment())
        else:
            for member in self.members:
                if member.outcome is None:
                    member.watch(self._on_member)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.members)
        return self._hash

    @property
    def operation(self) -> str:
        """See `DurableFuture`."""
        return self.OPERATION

    @property
    def acts(self) -> bool:
        """See `DurableFuture`."""
        return any(member.acts for member in self.members)

    @property
    def lost(self) -> str:
        """See `DurableFuture`."""
        return "Errors of what it combines are told to nobody."

    def came_true(self) -> bool:
        """Whether it has its outcome, at the moment at which it is made."""
        raise NotImplementedError

    def moment(self) -> int:
        """The rank of the outcome with which it came true then."""
        return max((member.rank for member in self.members if member.completed), default=0)

    def completes(self, member: DurableFuture[Any]) -> bool:
        """Whether it has its outcome now that this member has one: called for each of them, once."""
        raise NotImplementedError

    def _on_member(self, member: DurableFuture[Any]) -> None:
        if self.outcome is None and self.completes(member):
            self._settle(member.rank)

    def _settle(self, rank: int) -> None:
        self.complete(DONE, rank)

    def failed(self) -> bool:
        """A failure is one that `value` would raise."""
        if self.outcome is None:
            return False
        if self._failed is None:
            try:
                self.value()
                self._failed = False
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # a user's decoder may raise anything; whoever awaits this gets to see it
                self._failed = True
        return self._failed

    def _open(self) -> tuple[int | Group, ...]:
        return open_of(self.members)


class First(Combined[T_co]):
    """The member whose outcome was recorded first."""

    __slots__ = ("_winner",)

    def __init__(self, attempt: Waits, members: "Sequence[DurableFuture[Any]]") -> None:
        self._winner: DurableFuture[Any] | None = None
        super().__init__(attempt, members)

    def came_true(self) -> bool:
        """See `Combined`."""
        return any(member.completed for member in self.members)

    def moment(self) -> int:
        """See `Combined`."""
        return self.winner().rank

    def completes(self, member: DurableFuture[Any]) -> bool:
        """See `Combined`."""
        return True

    def winner(self) -> DurableFuture[Any]:
        """Of several that came at the same moment (one combines the other), the one that is named first."""
        if self._winner is None:
            self._winner = min(
                (member for member in self.members if member.completed), key=lambda member: member.rank
            )
        return self._winner


class Timeout(First[T_co]):
    """A future and a timer."""

    __slots__ = ()
    OPERATION = "with_timeout(…)"

    def __init__(self, attempt: Waits, future: DurableFuture[T_co], timer: DurableFuture[None]) -> None:
        super().__init__(attempt, (future, timer))

    def value(self) -> T_co:
        """The value, or the error."""
        if self.winner() is self.members[0]:
            return cast(T_co, self.members[0].value())
        self.attempt.raises()
        raise DurableTimeoutError("the durable wait timed out")

    def failed(self) -> bool:
        """See `DurableFuture`."""
        return self.outcome is not None and (self.winner() is self.members[1] or self.members[0].failed())

    def waiting_for(self) -> int | Group:
        """See `DurableFuture`."""
        return Group("any", self._open(), failing=(self.members[1].entry,))


def open_of(members: Iterable[DurableFuture[Any]]) -> tuple[int | Group, ...]:
    """What those wait for that have no outcome yet."""
    return tuple(member.waiting_for() for member in members if member.outcome is None)


def depth_over(members: Sequence[DurableFuture[Any]]) -> int:
    """How deep a combination of these is nested. Raises `UsageError` where that is too deep."""
    depth = 1 + max((member.depth for member in members), default=0)
    if depth > DEPTH_MAX:
        raise UsageError(
            f"futures are combined {depth} levels deep, at most {DEPTH_MAX} are possible: collect them in "
            "a list and combine them once"
        )
    return depth
