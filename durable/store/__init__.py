"""What the engine remembers: one Protocol, an implementation a file.

A store is used by one engine at a time, which awaits each call before it makes the next `commit`. It decides nothing:
it writes the rows of a turn in one transaction, and reads them back.
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
    """A turn that cannot be stored: nothing of it was written, for certain, and the store can be used on.

    `__cause__` says why: a value that is too large or that SQLite cannot hold, a row that exists already.
    """


class Sources(msgspec.Struct, frozen=True):
    """All that is stored of where records come from."""

    subscriptions: dict[str, Subscription] = {}
    clusters: dict[str, Cluster] = {}
    positions: dict[GroupPartition, Position] = {}
    #: What is damaged of the positions, or "".
    lost_positions: str = ""


class Opened(msgspec.Struct, frozen=True):
    """Where the numbering goes on after a start."""

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
    """See that whoever has no codec can read the values of a store: no key is needed. Raises `KeyMissingError`."""
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
    """All that the engine asks of storage."""

    async def open(self) -> Opened:
        """Take the file for this process alone and bring its schema up to date.

        Raises a `StorageError` that names the file and the way out.
        """
        ...

    async def sign_off(self) -> None:
        """Note that the engine ends in order, so that the next `open` knows. Raises nothing."""
        ...

    async def close(self) -> None:
        """Let the file go. Idempotent."""
        ...

    def abandon(self) -> None:
        """Let the file go as a killed process would, whatever is under way. Idempotent; needs no event loop."""
        ...

    async def lost(self) -> None:
        """Wait for as long as what was opened is there. Raises a `StorageError` when it is not any more."""
        ...

    def commit(self, writes: Writes) -> Awaitable[None]:
        """Write a turn in one transaction and return when it is durable.

        `CommitRefused` means that nothing was written, and the store goes on. After any other error the outcome is
        unknown: the store refuses every further commit with `EngineFailedError`.
        """
        ...

    async def load(self, need: Need) -> Loaded:
        """What there is of a need; what is missing in the answer does not exist."""
        ...

    async def journal(self, seq: int) -> Sequence[Row]:
        """An invocation's journal, by entry and part."""
        ...

    async def entries(self, seq: int, after: int = -1, limit: int | None = None) -> Sequence[Row]:
        """Up to `limit` entries of a journal above `after` (-1 is before the first row), for people to look at."""
        ...

    async def running(self, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Invocations that have a slot, in order of their numbers, those above `after`: (seq, crashes)."""
        ...

    async def timers(self, after: Timer | None, limit: int) -> Sequence[Timer]:
        """The earliest timers, those later than `after`."""
        ...

    async def expired(self, now: int, limit: int) -> Sequence[Expired]:
        """What may be forgotten."""
        ...

    async def holder(self, service: str, key: str) -> int | None:
        """The invocation that holds a key."""
        ...

    async def contended(self, after: tuple[str, str] | None, limit: int) -> Sequence[tuple[str, str]]:
        """Keys that somebody waits for, in order, those later than `after`."""
        ...

    async def attached(self, after: str, limit: int) -> Sequence[str]:
        """Invocations whose outcome a handler is attached to, in order of their ids, those later than `after`."""
        ...

    async def find(self, where: Filter) -> Page:
        """Invocations that a filter selects, newest first, as their rows stand."""
        ...

    async def count(self, where: Filter) -> Counts:
        """How many invocations a filter selects, by status; its page does not matter."""
        ...

    def backlog(self) -> Backlog:
        """How much is open. From any thread, which waits for it; commits do not. Raises a `StorageError`."""
        ...

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to a new file, while work goes on."""
        ...
