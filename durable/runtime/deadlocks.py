"""Handlers that wait for each other in a circle: found by following who waits for whom, logged, left to an operator.

A handler waits for a call (or an attach); the invocation it waits for may wait for its key; the one that holds that
key is again a handler that may wait. Where such a walk comes back to its start, none of them goes on by itself:
cancelling or killing any of them frees all.

A circle is closed by a handler that begins to wait for something, so nothing is looked at until then. From then on a
circle is looked at again until its members have ended: one of them may have opened what closes it and not wait for it
yet, and behind a circle that somebody broke there may be another.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from durable import log
from durable.core.effects import Key, Need
from durable.core.invocation import Invocation, Status
from durable.core.journal import Kind
from durable.core.topics import JOINED
from durable.core.waiting import entries
from durable.runtime.attempt import Attempt
from durable.runtime.lines import about
from durable.store import Store

#: How long after a handler began to wait the walk begins: most waits are over by then.
LOOK_AFTER_S = 1.0
#: How long until circles are looked at again that are not closed yet.
LOOK_AGAIN_S = 3.0
#: And those that are closed: twice as long each time, up to this.
LOOK_AGAIN_S_MAX = 3600.0
#: After a look follows a rest of so many times the time it took.
REST = 10
#: How many invocations one read takes: a commit may have to wait for it.
BATCH = 50
#: From how many invocations one walk begins, and how many it visits.
BEGIN_MAX, VISITS_MAX = 200, 10_000


class Member(msgspec.Struct, frozen=True):
    """One invocation of a deadlock."""

    id: str
    target: str
    #: "pending": it waits for its key; else it waits for the next one's result.
    status: str


class Deadlock(msgspec.Struct, frozen=True):
    """Invocations that wait for each other in a circle: each for the next, the last for the first."""

    members: tuple[Member, ...]

    def __str__(self) -> str:
        first, *others = self.members
        words = [f"{first.target} {first.id}"]
        before = first
        for member in (*others, first):
            how = "whose key is held by" if before.status == Status.PENDING else "which waits for"
            words.append(f"{how} {member.target} {member.id}")
            before = member
        return ", ".join(words)


Circle = list[Invocation]
#: An invocation, by its number or its id.
Name = int | str


class Walk:
    """Who waits for whom, as far as it can be reached from where the walk begins."""

    def __init__(self, store: Store, attempts: Mapping[int, Attempt]) -> None:
        self._store = store
        self._attempts = attempts
        self._invocations: dict[int, Invocation] = {}
        self._numbers: dict[Name, int] = {}
        self._holders: dict[Key, int | None] = {}
        #: For whom each waits: it goes on when they, or the first of them, have ended.
        self._waits_for: dict[int, Collection[Name]] = {}
        #: The same, and those that it has started and may still come to wait for.
        self._may_wait_for: dict[int, Collection[Name]] = {}

    async def load(self, begin: Iterable[Name]) -> None:
        """Read what can be reached, a few invocations at a time."""
        frontier = deque(begin)
        asked: set[Name] = set()
        while frontier and len(asked) < VISITS_MAX:
            batch = {frontier.popleft() for _ in range(min(BATCH, len(frontier)))} - asked
            asked |= batch
            seqs = {name for name in batch if isinstance(name, int)}
            ids = {name for name in batch if isinstance(name, str)}
            for one in (await self._store.load(Need(seqs=seqs, ids=ids))).invocations:
                self._invocations[one.seq] = one
                self._numbers |= {one.seq: one.seq, one.id: one.seq}
                if one.status is Status.PENDING:
                    self._waits_for[one.seq] = self._may_wait_for[one.seq] = await self._holder(one)
                else:
                    self._waits_for[one.seq] = self._awaited(one)
                    self._may_wait_for[one.seq] = _opened(one).values()
                frontier.extend(self._may_wait_for[one.seq])

    @property
    def visited(self) -> Collection[int]:
        """The numbers of those that were reached."""
        return self._invocations.keys()

    def ended(self, seq: int) -> bool:
        """Whether nothing will ever wait for this one any more."""
        return seq not in self._invocations or self._invocations[seq].status is Status.COMPLETED

    def opened(self) -> list[Circle]:
        """Circles of which some members have only started what they may wait for later."""
        return self._circles(self._may_wait_for)

    async def closed(self) -> list[Circle]:
        """Circles in which everybody waits, as they are at one moment."""
        found = []
        for circle in self._circles(self._waits_for):
            loaded = await self._store.load(Need(seqs={one.seq for one in circle}))
            now = {one.seq: one for one in loaded.invocations}
            if len(now) < len(circle):
                continue
            again = [now[one.seq] for one in circle]
            if all(self._waits(one, other) for one, other in zip(again, again[1:] + again[:1], strict=True)):
                found.append(again)
        return found

    def _circles(self, graph: Mapping[int, Collection[Name]]) -> list[Circle]:
        numbers = self._numbers
        edges = {seq: [numbers[name] for name in graph[seq] if name in numbers] for seq in sorted(graph)}
        return [[self._invocations[seq] for seq in circle] for circle in circles(edges)]

    async def _holder(self, one: Invocation) -> Collection[Name]:
        key = one.submission.service, one.submission.key or ""
        if key not in self._holders:
            self._holders[key] = await self._store.holder(*key)
        holder = self._holders[key]
        return () if holder is None or holder == one.seq else (holder,)

    def _awaited(self, one: Invocation) -> Collection[str]:
        """For whose end it waits, if it does nothing but wait."""
        attempt = self._attempts.get(one.seq)
        if one.status is Status.SUSPENDED and one.waiting is not None:
            waiting = one.waiting.entries()
        elif one.status is Status.RUNNING and attempt is not None and attempt.idle:
            waiting = entries(attempt.waiting_for())
        else:
            return ()
        opened = _opened(one)
        return [opened[entry] for entry in waiting if entry in opened]

    def _waits(self, one: Invocation, other: Invocation) -> bool:
        """Whether it waits for just this other one, which was loaded at the same moment."""
        if one.status is Status.PENDING:
            holds = other.queued is not None and other.status is not Status.PENDING
            return holds and _key(other) == _key(one)
        return other.id in self._awaited(one)


def circles(graph: Mapping[int, Collection[int]]) -> list[list[int]]:
    """Circles that have no node in common: at least one of every tangle of them."""
    found: list[list[int]] = []
    done: set[int] = set()
    taken: set[int] = set()
    for first in graph:
        path = {} if first in done else {first: iter(graph[first])}
        while path:
            last = next(reversed(path))
            after = next(path[last], None)
            if after is None:
                del path[last]
                done.add(last)
            elif after in path:
                if after not in taken and last not in taken:
                    members = list(path)
                    circle = members[members.index(after) :]
                    if taken.isdisjoint(circle):
                        taken.update(circle)
                        found.append(circle)
            elif after not in done:
                path[after] = iter(graph[after])
    return found


class Deadlocks:
    """Looks where a circle may have been closed, a moment later, and tells of every circle once."""

    def __init__(
        self,
        store: Store,
        attempts: Mapping[int, Attempt],
        loop: asyncio.AbstractEventLoop,
        chore: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._store = store
        self._attempts = attempts
        self._loop = loop
        self._chore = chore
        #: Whether to look at every key that somebody waits for: it is not known who began to when.
        self._all = False
        self._to_look_at: dict[int, None] = {}
        #: Members of circles, open or closed, until they end.
        self._watched: dict[int, None] = {}
        self._told: set[frozenset[int]] = set()
        #: How long nothing has changed, roughly.
        self._patience_s = LOOK_AGAIN_S
        self._handle: asyncio.TimerHandle | None = None
        self._looking = False
        self._rests_until = 0.0
        self._closed = False

    def began_to_wait(self, seq: int) -> None:
        """A handler began to wait for something that leads to this one, which may wait for the handler."""
        self._to_look_at[seq] = None
        self._look_within(LOOK_AFTER_S)

    def ended(self, seq: int) -> None:
        """An invocation has ended: if it was in a circle, that is broken, and there may be another."""
        if seq in self._watched:
            self._patience_s = LOOK_AGAIN_S
            self._look_within(LOOK_AFTER_S)

    async def begin(self) -> None:
        """After a start any invocation may be in a circle."""
        self._all = True
        self._look_within(LOOK_AFTER_S)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    async def find(self) -> list[Deadlock]:
        """All there are at this moment, oldest first."""
        found: dict[frozenset[int], Deadlock] = {}
        async for begin in self._everybody():
            walk = Walk(self._store, self._attempts)
            await walk.load(begin)
            for circle in await walk.closed():
                found.setdefault(_seqs(circle), _deadlock(circle))
        return [found[seqs] for seqs in sorted(found, key=min)]

    async def _everybody(self) -> AsyncIterator[Sequence[Name]]:
        """Every circle has a member that holds a key others wait for, or that somebody is attached to."""
        after: Key | None = None
        while keys := await self._store.contended(after, BEGIN_MAX):
            holders = [await self._store.holder(*key) for key in keys]
            yield [seq for seq in holders if seq is not None]
            after = keys[-1]
        last = ""
        while ids := await self._store.attached(last, BEGIN_MAX):
            yield ids
            last = ids[-1]

    def _look_within(self, delay_s: float) -> None:
        """Look in so long, unless that is to happen earlier already; but not before the last look has been rested."""
        if self._closed or self._looking:
            return
        at = max(self._loop.time() + delay_s, self._rests_until)
        if self._handle is not None:
            if self._handle.when() <= at:
                return
            self._handle.cancel()
        self._handle = self._loop.call_at(at, self._start_looking)

    def _start_looking(self) -> None:
        self._handle, self._looking = None, True
        self._chore(self._look())

    async def _look(self) -> None:
        began = self._loop.time()
        self._patience_s = min(2 * self._patience_s, LOOK_AGAIN_S_MAX)
        try:
            await self._look_around()
        except Exception as error:  # whoever needs the store will notice; the search harms nobody
            self._all = True  # at the next look
            if not self._closed:
                log.invocation.warning("the search for deadlocks was broken off: %s: %s", type(error).__name__, error)
        finally:
            self._looking = False
        self._told = {seqs for seqs in self._told if seqs <= self._watched.keys()}
        now = self._loop.time()
        self._rests_until = now + REST * (now - began)
        if self._to_look_at:
            self._look_within(LOOK_AFTER_S)
        elif self._watched and not self._all:
            self._look_within(self._patience_s)

    async def _look_around(self) -> None:
        left, everybody = [*self._to_look_at, *self._watched], self._all
        self._to_look_at, self._all = {}, False
        visited: set[int] = set()
        while left:
            begin, left = left[:BEGIN_MAX], left[BEGIN_MAX:]
            visited.update(await self._look_from([seq for seq in begin if seq not in visited]))
        if everybody:
            async for names in self._everybody():
                await self._look_from(names)

    async def _look_from(self, begin: Sequence[Name]) -> Collection[int]:
        walk = Walk(self._store, self._attempts)
        await walk.load(begin)
        closed = await walk.closed()
        if not self._closed:
            for seq in [seq for seq in self._watched.keys() & {*begin, *walk.visited} if walk.ended(seq)]:
                del self._watched[seq]
            stuck = {one.seq for circle in closed for one in circle}
            for circle in walk.opened():
                self._watched |= dict.fromkeys(_seqs(circle))
                if stuck.isdisjoint(_seqs(circle)):
                    self._patience_s = LOOK_AGAIN_S
            for circle in closed:
                self._watched |= dict.fromkeys(_seqs(circle))
                self._tell(circle)
        return walk.visited

    def _tell(self, circle: Circle) -> None:
        seqs = _seqs(circle)
        if seqs not in self._told:
            self._told.add(seqs)
            log.invocation.error(
                "deadlock: %s; cancel or kill any of them to free the others",
                _deadlock(circle),
                about=about(min(circle, key=lambda one: one.seq).submission),
            )


def _opened(one: Invocation) -> dict[int, str]:
    """By entry, the invocations for whose end it waits or may still come to wait."""
    return {
        entry: str(waits.ref).removeprefix(JOINED)
        for entry, waits in one.open.items()
        if waits.kind in (Kind.CALL, Kind.ATTACH)
    }


def _key(one: Invocation) -> tuple[str, str | None]:
    return one.submission.service, one.submission.key


def _seqs(circle: Circle) -> frozenset[int]:
    return frozenset(one.seq for one in circle)


def _deadlock(circle: Circle) -> Deadlock:
    """The circle, told from its oldest member on."""
    first = circle.index(min(circle, key=lambda one: one.seq))
    members = circle[first:] + circle[:first]
    return Deadlock(tuple(Member(one.id, one.submission.target, str(one.status)) for one in members))
