"""Reads everything in a file and names what is damaged: SQLite checks the pages, checksums the rows."""

import sqlite3
from collections.abc import Iterable
from functools import partial

import msgspec

from durable.core.effects import Need
from durable.core.invocation import Invocation
from durable.errors import StorageCorruptError
from durable.store import answered
from durable.store.soundness import settings
from durable.store.sources import sources
from durable.store.stopped import ReadOnlyStore

#: How many invocations, or keys, are read at once; and how many troubles are named.
_AT_ONCE, TROUBLES_MAX = 200, 100


class Found(msgspec.Struct):
    """What was found so far."""

    invocations: int = 0
    keys: int = 0
    troubles: list[str] = []


class Checked(msgspec.Struct, frozen=True):
    """What was found."""

    invocations: int
    keys: int
    #: A sentence each.
    troubles: list[str]

    @property
    def verdict(self) -> str:
        """In a word."""
        if not self.troubles:
            return "all of it is sound"
        return f"{len(self.troubles)} troubles" if len(self.troubles) != 1 else "1 trouble"


async def check_file(path: str) -> Checked:
    """Read all of a file, whether an engine runs on it or not. Raises `StorageError` if it cannot be read."""
    store = ReadOnlyStore(path, beside=True)
    await store.open()
    found = Found()
    try:
        found.troubles += await store.read(lambda database: _structure(database, path))
        found.troubles += await store.read(lambda database: _sources(database, path))
        for look in (_invocations, _keys):
            try:
                await look(store, found)
            except StorageCorruptError as error:  # a page that cannot be read: what is behind it is not looked at
                found.troubles.append(str(error))
    finally:
        await store.close()
    return Checked(found.invocations, found.keys, found.troubles[:TROUBLES_MAX])


def _structure(database: sqlite3.Connection, path: str) -> list[str]:
    try:
        found = [str(row[0]).replace("\n", " ") for row in database.execute("PRAGMA integrity_check(20)")]
        settings(database, path)
    except (sqlite3.DatabaseError, StorageCorruptError) as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def _sources(database: sqlite3.Connection, path: str) -> list[str]:
    try:
        found = sources(database, path)
    except sqlite3.DatabaseError as error:
        return [str(error)]
    troubles = [f"subscription {one.id}: {one.damage}" for one in found.subscriptions.values() if one.damage]
    troubles += [f"Kafka cluster {one.name}: {one.damage}" for one in found.clusters.values() if one.damage]
    troubles += answered.troubles(database)
    return troubles + ([found.lost_positions] if found.lost_positions else [])


async def _invocations(store: ReadOnlyStore, found: Found) -> None:
    after = 0
    while len(found.troubles) < TROUBLES_MAX:
        seqs = await store.read(partial(_next, after=after))
        if not seqs:
            break
        found.invocations, after = found.invocations + len(seqs), seqs[-1]
        loaded = await store.load(Need(seqs=set(seqs)))
        known = {one.seq: one for one in loaded.invocations}
        found.troubles += [f"invocation number {seq} cannot be read" for seq in seqs if seq not in known]
        found.troubles += await _damaged(store, known.values())


def _next(database: sqlite3.Connection, *, after: int) -> list[int]:
    sql = "SELECT seq FROM _invocations WHERE seq > ? ORDER BY seq LIMIT ?"
    return [row[0] for row in database.execute(sql, (after, _AT_ONCE))]


async def _damaged(store: ReadOnlyStore, found: Iterable[Invocation]) -> list[str]:
    troubles = []
    for one in found:
        try:
            if one.damaged:
                why = one.problem.message if one.problem is not None else "it is damaged"
                raise StorageCorruptError(why)
            await store.journal(one.seq)
        except StorageCorruptError as error:
            troubles.append(f"{one.submission.target} {one.id}: {error}")
    return troubles


async def _keys(store: ReadOnlyStore, found: Found) -> None:
    sql = "SELECT service, key FROM _state UNION SELECT service, key FROM promises"
    keys = await store.read(lambda database: database.execute(sql).fetchall())
    found.keys = len(keys)
    for start in range(0, len(keys), _AT_ONCE):
        batch = keys[start : start + _AT_ONCE]
        readable = {key for key in batch if all(isinstance(part, str) for part in key)}
        found.troubles += [f"a key of {key[0]!r} is no text" for key in batch if key not in readable]
        for one in (await store.load(Need(keys=readable))).keys:
            causes = [one.damaged_state, one.lost_state, one.damaged_promises, one.lost_promises]
            found.troubles += [f"{one.service}/{one.key}: {cause}" for some in causes for cause in some.values()]
