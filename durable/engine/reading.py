"""What can be seen of an engine: invocations, services, state."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from durable.api import Wanted
from durable.core.commands import NoteDamage
from durable.core.effects import Need
from durable.core.invocation import Invocation, Status
from durable.core.journal import Row
from durable.engine.access import Access, check_number, check_reason, checked, unknown
from durable.errors import InvalidRequestError, NotFoundError, StorageCorruptError
from durable.runtime.deadlocks import Deadlock
from durable.runtime.loop import Loop
from durable.runtime.registry import check_text
from durable.store.filter import Cursor, Filter, cursor_at
from durable.views.invocations import (
    InvocationPage,
    InvocationView,
    JournalPage,
    describe,
    journal_page,
    view_of,
)

if TYPE_CHECKING:  # schemas need libraries that a start should not wait for
    from durable.views.services import ServiceView

#: What `Engine.invocations` can be asked for.
STATUSES = frozenset(Status)
#: At how many rows a page looks at most, beyond those that an index selects.
EXAMINE = 20_000


class Reading(Access):
    """Read models; nothing here changes anything."""

    async def invocations(
        self, *, limit: int = 100, before: InvocationView | None = None, **wanted: Unpack[Wanted]
    ) -> list[InvocationView]:
        """Invocations, newest first. For the next page, pass the last one as `before`.

        If several conditions are given, all must be true: see `Wanted`. A listing leaves out `input`, `output`,
        `waits_for`, `children`, `timers` and `journal`; `describe(id)` has them. Raises `InvalidRequestError`;
        `StorageBusyError` if it takes longer than ten seconds.
        """
        if before is not None and not isinstance(before, InvocationView):
            raise InvalidRequestError(f"before must be the last invocation of the previous page, not {before!r}")
        behind = None if before is None else cursor_at(before.created_at, before.seq)
        return (await self._page(_filter(wanted, limit, behind, self._clock.now_ms()))).invocations

    async def page(
        self, *, limit: int = 100, cursor: str | None = None, counts: bool = False, **wanted: Unpack[Wanted]
    ) -> InvocationPage:
        """A page of what `invocations` lists, in bounded time however many there are: for people who wait for it.

        If many rows must be looked at to find a few (a text in failures, a status on a key), a page may end early,
        with less than `limit`; `next` goes on from there. Raises `InvalidRequestError`.
        """
        where = _filter(wanted, limit, _cursor(cursor), self._clock.now_ms())
        where = msgspec.structs.replace(where, examine=EXAMINE)
        page = await self._page(where)
        if not counts:
            return page
        counted = await self._running().store.count(where)
        return msgspec.structs.replace(page, counts=counted.by_status, counts_complete=counted.complete)

    async def _page(self, where: Filter) -> InvocationPage:
        loop = self._running()
        check_number("limit", where.limit, 1)
        page = await loop.store.find(where)
        await self._note_damage(loop, page.found)
        shown = [msgspec.structs.replace(view_of(one), input=None, output=None) for one in page.found]
        return InvocationPage(shown, None if page.next is None else "-".join(map(str, page.next)))

    async def count_invocations(self, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """How many invocations there are, by status. Takes the same conditions as `invocations`."""
        return (await self._running().store.count(_filter(wanted, 1, None, self._clock.now_ms()))).by_status

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

    async def journal(self, id: str, *, after: int | None = None, limit: int = 1000) -> JournalPage:
        """A page of an invocation's journal, in its order; `after` is the `next` of the page before.

        The input comes first, the output last. Raises `NotFoundError`, `InvalidRequestError`.
        """
        loop = self._running()
        check_number("after", after, 0)
        check_number("limit", limit, 1)
        invocation, rows = await self._read_one(loop, checked(id), -1 if after is None else after, limit + 1)
        return journal_page(invocation, rows, after, limit)

    async def _read_one(
        self, loop: Loop, id: str, after: int = -1, limit: int | None = None
    ) -> tuple[Invocation, Sequence[Row]]:
        """An invocation and its journal, or a part of it, of which nothing is shown where it is damaged."""
        rows: Sequence[Row] = ()
        loaded = await loop.store.load(Need(ids={id}))
        if not loaded.invocations or loaded.invocations[0].expired(self._clock.now_ms()):
            raise unknown(id)
        [invocation] = loaded.invocations
        try:
            rows = await loop.store.entries(invocation.seq, after, limit)
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
        """The database file; None if the store is not a file."""
        return getattr(self._store, "path", None)

    @property
    def damage(self) -> tuple[str, ...]:
        """What was found wrong with the file since the start, beyond single invocations. Each was also logged."""
        return tuple(getattr(self._store, "damage", ()))

    def now_ms(self) -> int:
        """The time by the engine's clock, in ms since the epoch."""
        return self._clock.now_ms()

    def check_running(self) -> None:
        """Raise what any other call would raise: `EngineNotRunningError`, `EngineFailedError`, `WrongLoopError`, …"""
        self._living()

    async def services(self) -> "list[ServiceView]":
        """The services of this engine: their types, schemas, documentation, options in force, and revision."""
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
        """Handlers that wait for each other in a circle, so that none of them can go on.

        Each deadlock is also logged once. Cancelling or killing any member frees the others.
        """
        return await self._running().deadlocks.find()

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy of the database to a new file while everything goes on.

        (A copy of the main file alone is not enough: the last commits are in the file beside it.) Raises a
        `StorageError`, for instance if `path` exists.
        """
        if not isinstance(path, str | os.PathLike):
            raise InvalidRequestError(f"backup(path) takes the path of a new file, not {path!r}")
        target = os.fspath(path)
        await self._running().store.backup(target)


def _cursor(text: str | None) -> Cursor | None:
    parts = (
        [] if text is None else [int(part) for part in str(text).split("-") if part.isdecimal() and len(part) < 20]
    )
    if text is not None and (len(parts) != 2 or max(parts) >= 2**63):
        raise InvalidRequestError(f"cursor must be the `next` of the previous page, not {text[:60]!r}")
    return (parts[0], parts[1]) if parts else None


def _filter(wanted: Wanted, limit: int, before: Cursor | None, now: int) -> Filter:
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
        raise InvalidRequestError(f"status must be one word or several, not {status!r}")
    wanted = {status} if isinstance(status, str) else set(status or ())
    if not wanted <= STATUSES:
        raise InvalidRequestError(
            f"status must be one of {', '.join(sorted(STATUSES))}, not {', '.join(map(repr, wanted - STATUSES))}"
        )
    return frozenset(wanted)
