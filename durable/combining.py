"""Futures of futures: all of them, the first of them, each as it comes.

The journal says which one was first, so a replay makes the same decision. A member costs the same however many there
are: ten thousand cost ten times as much as a thousand.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Any, Literal, TypeVar, cast, overload
from weakref import ref

from durable.core.duration import Duration
from durable.core.journal import Kind
from durable.core.waiting import Group
from durable.errors import DurableTimeoutError, TerminalError, UsageError
from durable.futures import DONE, Combined, DurableFuture, First, Waits, depth_over, open_of

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")


@overload
def gather(first: DurableFuture[T1], /) -> DurableFuture[tuple[T1]]: ...
@overload
def gather(first: DurableFuture[T1], second: DurableFuture[T2], /) -> DurableFuture[tuple[T1, T2]]: ...
@overload
def gather(
    first: DurableFuture[T1], second: DurableFuture[T2], third: DurableFuture[T3], /
) -> DurableFuture[tuple[T1, T2, T3]]: ...
@overload
def gather(
    first: DurableFuture[T1], second: DurableFuture[T2], third: DurableFuture[T3], fourth: DurableFuture[T4], /
) -> DurableFuture[tuple[T1, T2, T3, T4]]: ...
@overload
def gather(*futures: DurableFuture[T], return_exceptions: Literal[False] = False) -> DurableFuture[list[T]]: ...
@overload
def gather(*futures: DurableFuture[T], return_exceptions: bool) -> DurableFuture[list[T | TerminalError]]: ...
def gather(*futures: DurableFuture[Any], return_exceptions: bool = False) -> DurableFuture[Any]:
    """All results, in the order of the arguments.

    The first recorded failure is raised at once. With `return_exceptions=True`, failures are among the results.
    """
    return _Gathered(_one_attempt("gather", futures), futures, return_exceptions)


def select(**futures: DurableFuture[Any]) -> DurableFuture[tuple[str, Any]]:
    """The name and result of the future whose outcome was recorded first. If that is a failure, it is raised."""
    return _Selected(_one_attempt("select", tuple(futures.values())), futures)


def wait_completed(
    *futures: DurableFuture[T],
) -> DurableFuture[tuple[list[DurableFuture[T]], list[DurableFuture[T]]]]:
    """`(done, pending)` as soon as one is done. `done` has exactly the first one, whatever has come since.

    To wait for the next one, pass `pending` on as it is; `as_completed` does that for all of them.
    """
    race = _going_on(futures)
    if race is None:
        race = _Race(_one_attempt("wait_completed", futures), futures)
        found = ref(race)
        for future in futures:
            future.race = found
    waited = _Waited(race)
    race.attempt.made(waited, 2)
    return waited


@overload
def as_completed(futures: Iterable[DurableFuture[T]], /, *, timeout: Duration | None = None) -> "AsCompleted[T]": ...
@overload
def as_completed(*futures: DurableFuture[T], timeout: Duration | None = None) -> "AsCompleted[T]": ...
def as_completed(*futures: Any, timeout: Duration | None = None) -> "AsCompleted[Any]":
    """The futures as they complete, in the order in which their outcomes were recorded.

    Takes futures, or an iterable of them, as asyncio's does. `async for` gives the futures themselves; a plain `for`
    gives awaitables for the next result. `timeout` is a durable timer for all of them together: when it expires,
    either loop raises `DurableTimeoutError`, which is a `TimeoutError`.
    """
    several = futures[0] if len(futures) == 1 and not isinstance(futures[0], DurableFuture) else futures
    if not isinstance(several, Iterable):
        raise _not_a_future("as_completed", several)
    return AsCompleted(tuple(several), timeout)


class _Gathered(Combined[list[Any]]):
    __slots__ = ("_missing", "_return_exceptions")

    def __init__(self, attempt: Waits, members: Sequence[DurableFuture[Any]], return_exceptions: bool) -> None:
        self._return_exceptions = return_exceptions
        #: How many have no outcome yet.
        self._missing = sum(member.outcome is None for member in members)
        super().__init__(attempt, members)

    def came_true(self) -> bool:
        if not self._missing:
            return True
        return not self._return_exceptions and any(member.failed() for member in self.members)

    def completes(self, member: DurableFuture[Any]) -> bool:
        self._missing -= 1
        return not self._missing or (not self._return_exceptions and member.failed())

    def moment(self) -> int:
        failed = [] if self._return_exceptions else [member.rank for member in self.members if member.failed()]
        return min(failed) if failed else super().moment()

    def value(self) -> list[Any]:
        if not self._return_exceptions:
            failed = [member for member in self.members if member.failed()]
            if failed:
                min(failed, key=lambda member: member.rank).value()
        return [_value_or_error(member) for member in self.members]

    def waiting_for(self) -> int | Group:
        return Group("all", self._open(), fail_fast=not self._return_exceptions)


class _Selected(First[tuple[str, Any]]):
    __slots__ = ("_names",)
    OPERATION = "select(…)"

    def __init__(self, attempt: Waits, named: dict[str, DurableFuture[Any]]) -> None:
        self._names = tuple(named)
        super().__init__(attempt, tuple(named.values()))

    def value(self) -> tuple[str, Any]:
        winner = self.winner()
        return self._names[self.members.index(winner)], winner.value()

    def failed(self) -> bool:
        return self.outcome is not None and self.winner().failed()

    def waiting_for(self) -> int | Group:
        return Group("any", self._open())


# ---- one after the other ----


class AsCompleted(AsyncIterator[DurableFuture[T]], Iterator[DurableFuture[T]]):
    """What `as_completed` returns: iterate over it once, with `async for` or with a plain `for`."""

    def __init__(self, futures: Sequence[DurableFuture[T]], timeout: Duration | None) -> None:
        if futures:
            _one_attempt("as_completed", futures)
        self._futures = futures
        self._timeout = timeout
        self._race: _Race | None = None
        self._left = len(futures)

    def __aiter__(self) -> "AsCompleted[T]":
        return self

    async def __anext__(self) -> DurableFuture[T]:
        """The future that completes next."""
        if not self._left:
            raise StopAsyncIteration
        race = self._begun()
        self._left -= 1
        first: DurableFuture[T] = await _Next(race)
        race.check_timer(first)
        return first

    def __iter__(self) -> "AsCompleted[T]":
        return self

    def __next__(self) -> DurableFuture[T]:
        """An awaitable for the result of the future that completes next."""
        if not self._left:
            raise StopIteration
        race = self._begun()
        self._left -= 1
        return _NextResult(race)

    def _begun(self) -> "_Race":
        if self._race is None:
            attempt = self._futures[0].attempt
            timer = None if self._timeout is None else attempt.sleep(self._timeout, "timeout")
            self._race = _Race(attempt, self._futures, timer)
        return self._race


class _Race:
    """Futures in the order in which they complete: of several at the same moment, the one that is named first."""

    def __init__(
        self, attempt: Waits, members: Sequence[DurableFuture[Any]], timer: DurableFuture[None] | None = None
    ) -> None:
        self.attempt = attempt
        self.depth = depth_over(members)
        #: What tells it from others.
        self.first = members[0]
        #: Those that were not handed out, by the place at which they were named. The timer is the last.
        self.left: dict[int, DurableFuture[Any]] = dict(enumerate(members if timer is None else (*members, timer)))
        self._timer = timer
        self._repeated = len(set(map(id, members))) < len(members)
        #: Those that have completed and were not handed out: (rank, place).
        self._come: list[tuple[int, int]] = []
        #: Those that were, in order. The timer is the last.
        self._handed: list[DurableFuture[Any]] = []
        #: How many were asked for; and, as long as somebody wants them, those that were and have no outcome yet.
        self._asked = 0
        self._asking: deque[ref[_Next[Any]]] = deque()
        #: What the last `wait_completed` has left, as long as no other one goes on with it.
        self.rest: tuple[DurableFuture[Any], ...] = ()
        for place, member in self.left.items():
            member.made = None
            if member.outcome is not None:
                heappush(self._come, (member.rank, place))
            else:
                member.watch(partial(self._came, place))

    def _came(self, place: int, member: DurableFuture[Any]) -> None:
        heappush(self._come, (member.rank, place))
        for _ in range(len(self._asking) if member is self._timer else 1):
            one = self._asking.popleft()() if self._asking else None
            if one is not None:
                one.complete(DONE, member.rank)

    def ask(self, one: "_Next[Any]") -> int:
        """It waits for the next one, behind those that did before."""
        number = self._asked
        self._asked += 1
        if number < len(self._handed) + len(self._come) or (self._timer is not None and self._timer.completed):
            one.complete(DONE, self.winner(number).rank)
        else:
            self._asking.append(ref(one))
        return number

    def winner(self, number: int) -> DurableFuture[Any]:
        """The one that came as the `number`th; from its end on the timer."""
        handed = self._handed
        while len(handed) <= number:
            if handed and handed[-1] is self._timer:
                return handed[-1]
            handed.append(self.left.pop(heappop(self._come)[1]))
        return handed[number]

    @property
    def failing(self) -> tuple[int, ...]:
        """The entry whose completion is a failure."""
        return () if self._timer is None else (self._timer.entry,)

    def pending(self, first: DurableFuture[Any]) -> list[DurableFuture[Any]]:
        """Those that are left behind the first; this race can go on with them where none was named twice."""
        if self._repeated:
            return [member for member in self.left.values() if member is not first]
        self.rest = tuple(self.left.values())
        return _Pending(self)

    def is_timer(self, first: DurableFuture[Any]) -> bool:
        """Whether the first of them is the timer."""
        return first is self._timer

    def check_timer(self, first: DurableFuture[Any]) -> None:
        """Raise `DurableTimeoutError` where it is."""
        if self.is_timer(first):
            self.attempt.raises()
            raise DurableTimeoutError("as_completed() timed out")


class _Next(DurableFuture[T]):
    """The one of a race that completes next."""

    __slots__ = ("__weakref__", "_number", "_race", "depth")

    def __init__(self, race: _Race) -> None:
        super().__init__(race.attempt, 0, Kind.AWAKEABLE, None)
        self._race = race
        self.depth: int = race.depth
        self._number = race.ask(self)

    def __hash__(self) -> int:
        return hash((self._race.first, self._number))

    def winner(self) -> DurableFuture[Any]:
        """The one that has completed."""
        return self._race.winner(self._number)

    def value(self) -> T:
        return cast(T, self.winner())

    def failed(self) -> bool:
        return False

    def waiting_for(self) -> int | Group:
        return Group("any", open_of(self._race.left.values()), never_fails=True)


class _NextResult(_Next[T]):
    """The result of the one that completes next."""

    __slots__ = ()

    def value(self) -> T:
        winner = self.winner()
        self._race.check_timer(winner)
        return cast(T, winner.value())

    def failed(self) -> bool:
        return self.outcome is not None and (self.winner().failed() or self._race.is_timer(self.winner()))

    def waiting_for(self) -> int | Group:
        return Group("any", open_of(self._race.left.values()), failing=self._race.failing)


class _Waited(_Next[tuple[list[Any], list[Any]]]):
    __slots__ = ("_found",)

    def __init__(self, race: _Race) -> None:
        super().__init__(race)
        self._found: tuple[list[Any], list[Any]] | None = None

    def value(self) -> tuple[list[Any], list[Any]]:
        if self._found is None:
            self._found = [self.winner()], self._race.pending(self.winner())
        return self._found

    @property
    def operation(self) -> str:
        return "wait_completed(…)"

    @property
    def acts(self) -> bool:
        return any(member.acts for member in self._race.left.values())

    @property
    def lost(self) -> str:
        return "Errors of what it combines are told to nobody."


class _Pending(list[DurableFuture[Any]]):
    """Those that are left, and the race, which the next `wait_completed` over them goes on with: they find it."""

    def __init__(self, race: _Race) -> None:
        super().__init__(race.rest)
        self._race = race


def _going_on(futures: tuple[DurableFuture[Any], ...]) -> _Race | None:
    """The race of which these are just those that are left, if nobody else goes on with it."""
    found = futures[0].race if futures and isinstance(futures[0], DurableFuture) else None
    race: _Race | None = None if found is None else found()
    if race is None or race.rest != futures:  # by identity, and fast
        return None
    race.rest = ()
    return race


# ---- what they have in common ----


def _one_attempt(name: str, futures: Sequence[DurableFuture[Any]]) -> Waits:
    if not futures:
        raise UsageError(f"{name}() needs at least one future")
    for future in futures:
        if not isinstance(future, DurableFuture):
            raise _not_a_future(name, future)
        if future.attempt is not futures[0].attempt:
            raise UsageError(f"{name}(): the futures belong to different handlers or attempts")
    return futures[0].attempt


def _not_a_future(name: str, one: object) -> UsageError:
    return UsageError(
        f"{name}() takes what ctx.run(), ctx.sleep(), ctx.call() and their like return, not "
        f"{type(one).__name__}: wrap ordinary awaitables into a step with ctx.run()"
    )


def _value_or_error(member: DurableFuture[Any]) -> Any:
    try:
        return member.value()
    except TerminalError as error:
        return error
