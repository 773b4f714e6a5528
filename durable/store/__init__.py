"""What the engine remembers: one Protocol, and one file for each implementation.

One engine at a time uses a store, and awaits each call before it makes the next `commit`. A store decides nothing: it
writes the rows of a turn in one transaction, and reads them back.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

import msgspec

from durable.core.effects import Need, Timer, Writes
from durable.core.ids import READABLE, IdSpan
from durable.core.journal import Row
from durable.core.sources import Cluster, GroupPartition, Position, Subscription
from durable.core.world import Loaded
from durable.errors import KeyMissingError, StorageError
from durable.store.filter import Backlog, Counts, Filter, Page


class CommitRefused(StorageError):
    """A turn that cannot be stored. Certainly nothing of it was written, and the store can still be used.

    `__cause__` says why: a value is too large, or SQLite cannot hold it, or a row exists already.
    """


class Sources(msgspec.Struct, frozen=True):
    """Everything that is stored about subscriptions."""

    subscriptions: dict[str, Subscription] = {}
    clusters: dict[str, Cluster] = {}
    positions: dict[GroupPartition, Position] = {}
    #: What is damaged of the positions, or "".
    lost_positions: str = ""


class Opened(msgspec.Struct, frozen=True):
    """What a start needs to know of the store."""

    next_ordinal: int
    next_seq: int
    #: Options set at run time, by service.
    settings: dict[str, str] = {}
    #: Revision and declaration of the services that were ever declared, by name.
    declared: dict[str, tuple[int, str]] = {}
    #: Whether somebody waits for a slot.
    ready: bool = False
    #: Whether an engine before this one has written something, and did not end in order.
    crashed: bool = False
    #: Within what the ids are that keys determine.
    id_span: IdSpan = READABLE
    sources: Sources = Sources()
    #: By id, what each key that values are encoded with made of a probe; empty where whoever asks need not care.
    keys: dict[str, bytes] = {}


def check_in_clear(keys: Mapping[str, bytes], name: str) -> None:
    """Check that the values of a store need no key, for an engine without a codec. Raises `KeyMissingError`."""
    if keys:
        ids = sorted(keys)
        raise KeyMissingError(
            f"what is stored in {name} is encoded, with the key {', '.join(map(repr, ids))}: give the engine a "
            "codec that has it, Engine(..., codec=durable.encryption.AesGcm({id: key})). Nothing was changed",
            tuple(ids),
        )


class Expired(msgspec.Struct, frozen=True):
    """A completed invocation whose retention is over, or (`journal_only`) only its journal's."""

    seq: int
    #: It is a workflow's run.
    workflow: bool
    journal_only: bool


class Store(Protocol):
    """Everything that the engine asks of storage."""

    async def open(self) -> Opened:
        """Lock the file for this process and bring its schema up to date.

        Raises a `StorageError` that names the file and the way out.
        """
        ...

    async def sign_off(self) -> None:
        """Note that the engine ends in order, for the next `open`. Raises nothing."""
        ...

    async def close(self) -> None:
        """Release the file. Idempotent."""
        ...

    def abandon(self) -> None:
        """Release the file as a killed process would, whatever is under way. Idempotent; needs no event loop."""
        ...

    async def lost(self) -> None:
        """Wait as long as the opened file is there. Raises a `StorageError` once it is gone."""
        ...

    def commit(self, writes: Writes) -> Awaitable[None]:
        """Write a turn in one transaction and return when it is durable.

        `CommitRefused` means that nothing was written, and the store goes on. After any other error the outcome is
        unknown: the store refuses every further commit with `EngineFailedError`.
        """
        ...

    async def load(self, need: Need) -> Loaded:
        """What the store has of a need. What the answer lacks does not exist."""
        ...

    async def journal(self, seq: int) -> Sequence[Row]:
        """An invocation's journal, by entry and part."""
        ...

    async def entries(self, seq: int, after: int = -1, limit: int | None = None) -> Sequence[Row]:
        """Up to `limit` entries of a journal after entry `after` (-1: from the first row), for people to look at."""
        ...

    async def running(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Invocations that have a slot and a number above `after`, in order: (seq, crashes)."""
        ...

    async def timers(self, after: Timer | None, limit: int) -> Sequence[Timer]:
        """The earliest timers after `after`."""
        ...

    async def expired(self, now: int, limit: int) -> Sequence[Expired]:
        """Invocations and journals whose retention is over."""
        ...

    async def holder(self, service: str, key: str) -> int | None:
        """The invocation that holds a key."""
        ...

    async def contended(self, after: tuple[str, str] | None, limit: int) -> Sequence[tuple[str, str]]:
        """Keys after `after` that some invocation waits for, in order."""
        ...

    async def attached(self, after: str, limit: int) -> Sequence[str]:
        """Invocations after `after` whose outcome a handler is attached to, in order of their ids."""
        ...

    async def find(self, where: Filter) -> Page:
        """Invocations that a filter selects, newest first, as their rows stand."""
        ...

    async def count(self, where: Filter) -> Counts:
        """How many invocations a filter selects, by status, on all of its pages."""
        ...

    def backlog(self) -> Backlog:
        """How many invocations are open. Blocks the calling thread, but no commit. Raises a `StorageError`."""
        ...

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to a new file, while work goes on."""
        ...
