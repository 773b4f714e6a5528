"""Exclusive handlers that wait for each other: found by following who waits for whom, logged, left to an operator.

A handler waits for a call (or an attach); the invocation it waits for may wait for its key; the one that holds that
key is again a handler that may wait. Where such a walk comes back to its start, none of them can ever go on:
cancelling or killing any of them frees all.

A cycle is closed by an invocation that begins to wait for its key, so nothing is looked at until then.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any

import msgspec

from durable.core.effects import Key, Need
from durable.core.invocation import Invocation, Status
from durable.core.journal import Kind
from durable.core.turn import JOINED
from durable.core.waiting import entries
from durable.runtime.attempt import Attempt
from durable.store import Store

log = logging.getLogger("durable")

#: How long after a key was found busy the walk begins: most have become free by then.
LOOK_AFTER_S = 1.0
#: When to look again where they do not all wait yet, but soon might: twice as long each time.
LOOK_AGAIN_S, LOOK_AGAIN_S_MAX = 2.0, 3600.0
#: How many keys one look takes, and how many invocations one walk visits.
KEYS_MAX = 200
VISITS_MAX = 10_000


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


class Walk:
    """One look at who waits for whom; what it loads is shared by all the keys it begins at."""

    def __init__(self, store: Store, attempts: Mapping[int, Attempt]) -> None:
        self._store = store
        self._attempts = attempts
        self._invocations: dict[int, Invocation] = {}
        self._holders: dict[Key, int | None] = {}
        self._done: set[int] = set()
        #: Whether a circle was met in which somebody does not wait yet, but has something open that would close it.
        self.may_close = False

    async def from_key(self, key: Key) -> Deadlock | None:
        """The circle that the holder of a key is part of, or leads to."""
        holder = await self._holder(key)
        if holder is None or holder in self._done:
            return None
        path: list[Invocation] = []
        place: dict[int, int] = {}
        rest: list[list[int]] = [[holder]]
        while rest:
            if not rest[-1]:
                rest.pop()
                if path:
                    last = path.pop()
                    del place[last.seq]
                    self._done.add(last.seq)
                continue
            seq = rest[-1].pop()
            if seq in place:
                circle = path[place[seq] :]
                if all(self._waits(one, after) for one, after in zip(circle, [*circle[1:], circle[0]], strict=True)):
                    return _deadlock(circle)
                self.may_close = True
                continue
            if seq in self._done or len(self._invocations) > VISITS_MAX:
                continue
            invocation = await self._invocation(seq)
            if invocation is None:
                continue
            place[seq] = len(path)
            path.append(invocation)
            rest.append(await self._next(invocation))
        return None

    async def _next(self, invocation: Invocation) -> list[int]:
        """Those it may wait for."""
        submission = invocation.submission
        if invocation.status is Status.PENDING and submission.key is not None:
            holder = await self._holder((submission.service, submission.key))
            return [] if holder is None or holder == invocation.seq else [holder]
        ids = set(_awaitable(invocation).values())
        loaded = await self._store.load(Need(ids=ids)) if ids else None
        found = loaded.invocations if loaded is not None else []
        for one in found:
            self._invocations.setdefault(one.seq, one)
        return [one.seq for one in found if one.status is not Status.COMPLETED]

    def _waits(self, invocation: Invocation, other: Invocation) -> bool:
        """Whether it does not go on before the other one has ended, rather than having started it only."""
        if invocation.status is Status.PENDING:
            return True
        awaited: Iterable[int] = ()
        attempt = self._attempts.get(invocation.seq)
        if invocation.status is Status.SUSPENDED and invocation.waiting is not None:
            awaited = entries(invocation.waiting)
        elif attempt is not None and attempt.idle:
            awaited = entries(attempt.waiting_for())
        open_ = _awaitable(invocation)
        return any(open_.get(entry) == other.id for entry in awaited)

    async def _holder(self, key: Key) -> int | None:
        if key not in self._holders:
            self._holders[key] = await self._store.holder(*key)
        return self._holders[key]

    async def _invocation(self, seq: int) -> Invocation | None:
        if seq not in self._invocations:
            for one in (await self._store.load(Need(seqs={seq}))).invocations:
                self._invocations[seq] = one
        return self._invocations.get(seq)


class Deadlocks:
    """Looks at keys that became busy, a moment later, and tells of every circle once."""

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
        self._suspects: dict[Key, None] = {}
        self._told: set[frozenset[str]] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False
        self._patience_s = LOOK_AGAIN_S

    def suspect(self, service: str, key: str) -> None:
        """A handler began to wait for an invocation that waits for this key."""
        self._suspects[service, key] = None
        self._patience_s = LOOK_AGAIN_S
        self._arm(LOOK_AFTER_S)

    async def begin(self) -> None:
        """After a start: every key that somebody waits for is suspect."""
        async for key in self._contended():
            self._suspects[key] = None
        if self._suspects:
            self._arm(LOOK_AFTER_S)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    async def find(self) -> list[Deadlock]:
        """All there are at this moment."""
        walk = Walk(self._store, self._attempts)
        found: dict[frozenset[str], Deadlock] = {}
        async for key in self._contended():
            deadlock = await walk.from_key(key)
            if deadlock is not None:
                found.setdefault(_ids(deadlock), deadlock)
        return list(found.values())

    async def _contended(self) -> AsyncIterator[Key]:
        after: Key | None = None
        while keys := await self._store.contended(after, KEYS_MAX):
            for key in keys:
                yield key
            after = keys[-1]

    def _arm(self, delay_s: float) -> None:
        if self._handle is None and not self._closed:
            self._handle = self._loop.call_later(delay_s, self._start_looking)

    def _start_looking(self) -> None:
        self._chore(self._look())

    async def _look(self) -> None:
        taken = list(self._suspects)[:KEYS_MAX]
        again: list[Key] = []
        try:
            for key in taken:
                walk = Walk(self._store, self._attempts)
                deadlock = await walk.from_key(key)
                if deadlock is not None:
                    self._tell(deadlock)
                elif walk.may_close:
                    again.append(key)
        finally:
            self._handle = None
        for key in taken:
            del self._suspects[key]
        if self._suspects:
            self._arm(LOOK_AFTER_S)
        elif again:
            self._arm(self._patience_s)
            self._patience_s = min(2 * self._patience_s, LOOK_AGAIN_S_MAX)
        self._suspects |= dict.fromkeys(again)

    def _tell(self, deadlock: Deadlock) -> None:
        ids = _ids(deadlock)
        if ids not in self._told:
            self._told.add(ids)
            log.warning("deadlock: %s; cancel or kill any of them to free the others", deadlock)


def _awaitable(invocation: Invocation) -> dict[int, str]:
    """By entry, the invocations whose end it may wait for."""
    return {
        entry: str(waits.ref).removeprefix(JOINED)
        for entry, waits in invocation.open.items()
        if waits.kind in (Kind.CALL, Kind.ATTACH) and invocation.status in (Status.RUNNING, Status.SUSPENDED)
    }


def _deadlock(circle: list[Invocation]) -> Deadlock:
    return Deadlock(tuple(Member(one.id, one.submission.target, str(one.status)) for one in circle))


def _ids(deadlock: Deadlock) -> frozenset[str]:
    return frozenset(member.id for member in deadlock.members)
