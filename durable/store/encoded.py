"""A store behind a codec: the engine has values in clear, the store behind it has them encoded.

Everything that is written or read passes through here. So a codec works over every store, and an engine without one
pays nothing. `sealing` says what is encoded, and where each value belongs.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import cast

import msgspec

from durable import log
from durable.codec import Codec, Keyless, Sealing
from durable.core.effects import Need, Timer, Writes
from durable.core.invocation import Invocation
from durable.core.journal import Row
from durable.core.world import Loaded
from durable.errors import CodecError, UsageError
from durable.store import CommitRefused, Expired, Opened, Store, check_in_clear, recoding
from durable.store.filter import Backlog, Counts, Filter, Page, cursor_of, matches
from durable.store.sealing import (
    first_why,
    open_answered,
    open_invocation,
    open_object,
    open_rows,
    open_signals,
    sealed_writes,
)
from durable.store.sqlite import SqliteStore

#: How many rows of a journal are decoded before the event loop gets its turn.
AT_ONCE = 1000
#: How many invocations are read at once to search their failures.
SEARCHED = 500


class EncodedStore:
    """See the module's docstring."""

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store = store
        self._codec = codec
        #: What encodes and decodes single values.
        self.sealing = self._sealing = Sealing(codec)
        #: Keys that are noted in the store as used.
        self._noted: set[str] = set()

    @property
    def path(self) -> str | None:
        """The database file, if it is one."""
        return getattr(self._store, "path", None)

    @property
    def damage(self) -> Sequence[str]:
        """What was found wrong with the file since the start."""
        return getattr(self._store, "damage", ())

    # ---- life ----

    async def open(self) -> Opened:
        """Open the store and check the codec. Raises `CodecError` if it does not work.

        A different key under a known id is a `KeyMissingError`, because what it encodes would be lost once the right
        key is back. A missing key only stops the invocations that need it.
        """
        opened = await self._store.open()
        try:
            missing = self.check(opened.keys)
        except BaseException:
            await self._store.close()
            raise
        self._noted = set(opened.keys)
        if missing:
            log.store.warning(
                "the codec does not have the key %s, with which values are encoded: invocations that need these are "
                "paused as key-missing",
                ", ".join(map(repr, missing)),
            )
        return msgspec.structs.replace(opened, keys={})

    def check(self, keys: Mapping[str, bytes]) -> list[str]:
        """Check that the codec works and that its keys are those with these ids. Returns the ids that it lacks.

        Can be called from any thread. Raises `CodecError`, `KeyMissingError`.
        """
        if isinstance(self._codec, Keyless):
            return []
        sealing = Sealing(self._codec)  # of its own: that of the store belongs to the event loop
        sealing.check()
        for key_id, probe in keys.items():
            sealing.check_key(key_id, probe)
        return sorted(keys.keys() - set(self._codec.key_ids))

    async def sign_off(self) -> None:
        """See `Store`."""
        await self._store.sign_off()

    async def close(self) -> None:
        """See `Store`."""
        await self._store.close()

    def abandon(self) -> None:
        """See `Store`."""
        self._store.abandon()

    async def lost(self) -> None:
        """See `Store`."""
        await self._store.lost()

    # ---- writing ----

    def commit(self, writes: Writes) -> Awaitable[None]:
        """Encode a turn and write it. A turn that the codec cannot encode is refused; `__cause__` says why."""
        if isinstance(self._codec, Keyless):
            raise CommitRefused("the database is open for reading only: nothing was changed")
        try:
            sealed = sealed_writes(self._sealing, writes)
            key_id = self._sealing.key_id
        except CodecError as error:
            raise CommitRefused(f"{error}; nothing of this turn was written") from error
        return self._store.commit(sealed) if key_id in self._noted else self._commit_first(sealed, key_id)

    async def _commit_first(self, sealed: Writes, key_id: str) -> None:
        """With the first values of a key it is stored that there are some: an engine without a codec has to know."""
        sealed.keys = {key_id: self._sealing.probe(key_id)}
        await self._store.commit(sealed)
        self._noted.add(key_id)

    # ---- reading ----

    async def load(self, need: Need) -> Loaded:
        """Load a need and decode it."""
        loaded, sealing = await self._store.load(need), self._sealing
        for invocation in loaded.invocations:
            open_invocation(sealing, invocation)
        for invocation in loaded.invocations if loaded.signals else ():
            if invocation.seq in loaded.signals:
                signals, why = open_signals(sealing, invocation.seq, loaded.signals[invocation.seq])
                loaded.signals[invocation.seq] = signals
                invocation.sealed = invocation.sealed or why
        for keyed in loaded.keys:
            open_object(sealing, keyed)
        open_answered(sealing, loaded.answered)
        for seq, rows in list(loaded.journals.items()):
            loaded.journals[seq] = opened = open_rows(sealing, rows)
            if (why := first_why(opened)) is not None:
                del loaded.journals[seq]
                loaded.unreadable[seq] = why
        return loaded

    async def journal(self, seq: int) -> Sequence[Row]:
        """Decode a journal. Raises `KeyMissingError` if one of its values cannot be decoded."""
        rows = await self._decoded(await self._store.journal(seq))
        if (why := first_why(rows)) is not None:
            raise why.error()
        return rows

    async def entries(self, seq: int, after: int = -1, limit: int | None = None) -> Sequence[Row]:
        """Decode a part of a journal, for people. What cannot be decoded stays sealed."""
        return await self._decoded(await self._store.entries(seq, after, limit))

    async def _decoded(self, rows: Sequence[Row]) -> list[Row]:
        found: list[Row] = []
        for start in range(0, len(rows), AT_ONCE):
            if start:
                await asyncio.sleep(0)
            found += open_rows(self._sealing, rows[start : start + AT_ONCE])
        return found

    async def running(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """See `Store`."""
        return await self._store.running(after, limit)

    async def timers(self, after: Timer | None, limit: int) -> Sequence[Timer]:
        """See `Store`."""
        return await self._store.timers(after, limit)

    async def expired(self, now: int, limit: int) -> Sequence[Expired]:
        """See `Store`."""
        return await self._store.expired(now, limit)

    async def holder(self, service: str, key: str) -> int | None:
        """See `Store`."""
        return await self._store.holder(service, key)

    async def contended(self, after: tuple[str, str] | None, limit: int) -> Sequence[tuple[str, str]]:
        """See `Store`."""
        return await self._store.contended(after, limit)

    async def attached(self, after: str, limit: int) -> Sequence[str]:
        """See `Store`."""
        return await self._store.attached(after, limit)

    async def find(self, where: Filter) -> Page:
        """A page of a listing. A text in failures is searched for here, because no index can know it."""
        if where.failure is None:
            return self._opened(await self._store.find(where))
        found: list[Invocation] = []
        looked, before = 0, where.before
        while True:
            page = await self._page(where, before)
            for number, invocation in enumerate(page.found, start=1):
                if matches(where, invocation):
                    found.append(invocation)
                    if len(found) == where.limit:
                        more = number < len(page.found) or page.next is not None
                        return Page(found, cursor_of(invocation) if more else None)
            looked, before = looked + len(page.found), page.next
            if before is None or (where.examine is not None and looked >= where.examine):
                return Page(found, before)

    async def count(self, where: Filter) -> Counts:
        """How many there are of each status."""
        if where.failure is None:
            return await self._store.count(where)
        by_status: dict[str, int] = {}
        looked, before = 0, None
        while True:
            page = await self._page(where, before)
            for invocation in page.found:
                if matches(msgspec.structs.replace(where, before=None), invocation):
                    by_status[str(invocation.status)] = by_status.get(str(invocation.status), 0) + 1
            looked, before = looked + len(page.found), page.next
            if before is None or (where.examine is not None and looked >= where.examine):
                return Counts(dict(sorted(by_status.items())), complete=before is None)

    async def _page(self, where: Filter, before: tuple[int, int] | None) -> Page:
        """Some of those in whose failures a text is to be looked for."""
        wider = msgspec.structs.replace(where, failure="", limit=SEARCHED, before=before)
        return self._opened(await self._store.find(wider))

    def _opened(self, page: Page) -> Page:
        for invocation in page.found:
            open_invocation(self._sealing, invocation)
        return page

    # ---- keys ----

    async def keys_in_use(self) -> dict[str, int]:
        """How many rows need each key; "" counts rows with a value in clear. Raises `UsageError`."""
        return await self._file().survey(recoding.keys_in_use)

    async def encode_again(self) -> int:
        """Encode values that have an older key, or are in clear, with the newest key. Returns the number of rows.

        Damaged values, and those whose key is missing, stay as they are. Raises `UsageError`.
        """
        file, rewritten, newest = self._file(), 0, self._sealing.key_id
        if newest not in self._noted:
            await self._store.commit(Writes(keys={newest: self._sealing.probe(newest)}))
            self._noted.add(newest)
        await file.rewrite(recoding.overwrite)
        for table in recoding.TABLES:
            after: recoding.Stored | None = None
            while True:
                piece = await file.rewrite(partial(recoding.piece, sealing=self._sealing, table=table, after=after))
                rewritten, after = rewritten + piece.rewritten, piece.after
                if after is None:
                    break
        gone = self._noted - (await self.keys_in_use()).keys() - {newest}
        if gone:
            await self._store.commit(Writes(keys=dict.fromkeys(gone)))
            self._noted -= gone
        return rewritten

    def _file(self) -> SqliteStore:
        if self.path is None:
            raise UsageError("everything is kept in memory: there is no file whose values could be encoded anew")
        return cast(SqliteStore, self._store)

    def backlog(self) -> Backlog:
        """See `Store`."""
        return self._store.backlog()

    async def backup(self, path: str) -> None:
        """Write a copy, with the values as encoded as they are in the store."""
        await self._store.backup(path)


def check_keys(store: Store, keys: Mapping[str, bytes], name: str) -> list[str]:
    """Check that a store can read what is encoded with these keys; returns the ids of those that it lacks.

    Can be called from any thread. Raises `CodecError` and `KeyMissingError`, as a start would.
    """
    if isinstance(store, EncodedStore):
        return store.check(keys)
    check_in_clear(keys, name)
    return []
