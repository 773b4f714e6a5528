"""What can be seen of an engine: invocations, services, state."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import msgspec

from durable.core.commands import NoteDamage
from durable.core.effects import Need
from durable.core.invocation import Invocation, Status
from durable.core.journal import Row
from durable.engine.access import Access, check_number, check_reason, checked, unknown
from durable.errors import InvalidRequestError, NotFoundError, StorageCorruptError
from durable.runtime.deadlocks import Deadlock
from durable.runtime.loop import Loop
from durable.runtime.registry import check_text
from durable.store.filter import Filter
from durable.views.invocations import InvocationView, describe, view_of

if TYPE_CHECKING:  # schemas need libraries that a start should not wait for
    from durable.views.services import ServiceView

#: What `Engine.invocations` can be asked for.
STATUSES = frozenset(Status)


class Wanted(TypedDict, total=False):
    """Which invocations to list; None is no condition."""

    service: str | None
    handler: str | None
    key: str | None
    #: One of scheduled, pending, ready, running, backing-off, suspended, paused, completed, or several.
    status: str | Iterable[str] | None
    #: Why its last attempt was paused at once: one of those that `resume_all` takes.
    reason: str | None
    #: Accepted at this moment or later, or before it, in ms since the epoch.
    created_after: int | None
    created_before: int | None
    #: Text in the last failure, or in the failure that it ended with. Case counts.
    failure: str | None
    #: The id of the invocation that called or sent it.
    caller: str | None
    idempotency_key: str | None


class Reading(Access):
    """Read models; nothing here changes anything."""

    async def invocations(
        self, *, limit: int = 100, before: int | None = None, **wanted: Unpack[Wanted]
    ) -> list[InvocationView]:
        """Invocations, newest first; the next page is `before=` the last one's `seq`.

        Several conditions must all be true: see `Wanted`. Raises `InvalidRequestError`.
        """
        loop = self._running()
        check_number("limit", limit, 1)
        check_number("before", before, 0)
        found = await loop.store.find(_filter(wanted, limit, before, self._clock.now_ms()))
        await self._note_damage(loop, found)
        return [msgspec.structs.replace(view_of(one), input=None, output=None) for one in found]

    async def count_invocations(self, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """How many invocations there are, by status; takes what `invocations` takes, but for the page."""
        return await self._running().store.count(_filter(wanted, 1, None, self._clock.now_ms()))

    async def describe(self, id: str) -> InvocationView:
        """All that is known of one invocation, with its journal. Raises `NotFoundError`."""
        loop = self._running()
        invocation, rows = await self._read_one(loop, checked(id))
        submission, holder = invocation.submission, None
        if invocation.status is Status.PENDING and submission.key is not None:
            seq = await loop.store.holder(submission.service, submission.key)
            holders = (await loop.store.load(Need(seqs={seq}))).invocations if seq is not None else []
            holder = next((one.id for one in holders), None)
        return describe(invocation, rows, loop.roster.awaited(invocation), holder)

    async def _read_one(self, loop: Loop, id: str) -> tuple[Invocation, Sequence[Row]]:
        """An invocation and its journal, of which nothing is shown where it is damaged."""
        rows: Sequence[Row] = ()
        loaded = await loop.store.load(Need(ids={id}))
        if not loaded.invocations or loaded.invocations[0].expired(self._clock.now_ms()):
            raise unknown(id)
        [invocation] = loaded.invocations
        try:
            rows = await loop.store.journal(invocation.seq)
        except StorageCorruptError as error:
            invocation.found_damaged(str(error))
        await self._note_damage(loop, [invocation])
        return invocation, rows

    @staticmethod
    async def _note_damage(loop: Loop, found: Iterable[Invocation]) -> None:
        """Have those that are damaged stored as paused: so every listing and every filter says the same."""
        for one in found:
            if one.unnoted and one.problem is not None:
                await loop.ask(partial(NoteDamage, one.seq, one.problem, 0))

    @property
    def path(self) -> str | None:
        """The database file; None where the store is no file."""
        return getattr(self._store, "path", None)

    def now_ms(self) -> int:
        """The time by the engine's clock, in ms since the epoch."""
        return self._clock.now_ms()

    def check_running(self) -> None:
        """Raise what any other call would raise: `EngineNotRunningError`, `EngineFailedError`, `WrongLoopError`, …"""
        self._running()

    async def services(self) -> "list[ServiceView]":
        """The services of this engine: types, schemas, documentation, what holds for them, and their revision."""
        from durable.views.services import service_views

        loop = self._running()
        return service_views(self._registry, loop.revisions)

    async def service(self, name: str) -> "ServiceView":
        """One of the services. Raises `NotFoundError`."""
        for view in await self.services():
            if view.name == name:
                return view
        known = ", ".join(sorted(self._registry.declared)) or "none"
        raise NotFoundError(f"this engine has no service {name}; it has: {known}")

    async def deadlocks(self) -> list[Deadlock]:
        """Handlers that wait for each other in a circle: none of them goes on by itself.

        Each is logged once as well. Cancelling or killing any member frees the others.
        """
        return await self._running().deadlocks.find()

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy of the database to a new file while everything goes on.

        (A copy of the main file alone is not one: what was committed last is in the file beside it.) Raises a
        `StorageError`, for instance where `path` exists.
        """
        if not isinstance(path, str | os.PathLike):
            raise InvalidRequestError(f"backup(path) takes the path of a new file, not {path!r}")
        target = os.fspath(path)
        await self._running().store.backup(target)


def _filter(wanted: Wanted, limit: int, before: int | None, now: int) -> Filter:
    """What to ask of the store. Raises `InvalidRequestError`."""
    fields: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None and name != "status"}
    for name, value in fields.items():
        if name not in Wanted.__annotations__:
            raise InvalidRequestError(
                f"there is no {name!r} to look for; there are {', '.join(Wanted.__annotations__)}"
            )
        if name == "reason":
            check_reason(value)
        elif name.startswith("created"):
            check_number(name, value, -(2**53))
        else:
            check_text(name, value, recorded=True)
    return Filter(**fields, status=_statuses(wanted.get("status")), limit=limit, before=before, now=now)


def _statuses(status: str | Iterable[str] | None) -> frozenset[str]:
    if status is not None and not isinstance(status, Iterable):
        raise InvalidRequestError(f"status is a word or several, not {status!r}")
    wanted = {status} if isinstance(status, str) else set(status or ())
    if not wanted <= STATUSES:
        raise InvalidRequestError(
            f"status is one of {', '.join(sorted(STATUSES))}, not {', '.join(map(repr, wanted - STATUSES))}"
        )
    return frozenset(wanted)
