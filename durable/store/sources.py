"""Rows of subscriptions, positions and clusters. A start reads all of them into memory.

Nobody else knows what a damaged row said, so nothing is guessed. A damaged subscription or cluster is listed as
damaged; if the row of a position is damaged, no partition begins anew before an operator says where.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from durable import log
from durable.core.ids import is_subscription_id
from durable.core.sources import Cluster, GroupPartition, Position, Subscription
from durable.store import Sources
from durable.store.checksums import checksum, columns, complaint, differs

S = TypeVar("S", Subscription, Cluster)

_encode = msgspec.json.Encoder().encode
_subscription = msgspec.json.Decoder(Subscription)
_cluster = msgspec.json.Decoder(Cluster)
_TEXT = columns("name$ text$")
_POSITION = columns("cluster$ group_id$ topic$ partition next fingerprint taken failed skipped taken_at")


def text_row(name: str, value: Subscription | Cluster) -> tuple[Any, ...]:
    """A subscription or a cluster as it is stored."""
    text = _encode(value).decode()
    return name, text, checksum((name, text))


def position_row(place: GroupPartition, position: Position) -> tuple[Any, ...]:
    """A position as it is stored."""
    row = (*place, *msgspec.structs.astuple(position))
    return (*row, checksum(row))


def sources(database: sqlite3.Connection, path: str) -> Sources:
    """All subscriptions, clusters and positions, including damaged ones."""
    subscriptions = {
        id: found if found is not None else _unreadable(id, trouble)
        for id, found, trouble in _texts(database, path, "subscriptions", "id, subscription", _subscription)
        if found is not None or is_subscription_id(id)
    }
    clusters = {
        name: found if found is not None else Cluster(name, {}, 0, damage=trouble)
        for name, found, trouble in _texts(database, path, "clusters", "name, cluster", _cluster)
    }
    positions: dict[GroupPartition, Position] = {}
    lost = ""
    for *row, stored in database.execute("SELECT * FROM positions"):
        trouble = complaint("positions", _POSITION, row)
        trouble = trouble or ("a row is not what was written" if differs(stored, row) else "")
        if trouble:
            lost = lost or f"{path} is damaged: how far a partition of a topic was taken ({trouble})"
        else:
            positions[GroupPartition(*row[:4])] = Position(*row[4:])
    if lost:
        log.store.warning("%s; a partition that has no position now begins only where an operator says", lost)
    return Sources(subscriptions, clusters, positions, lost)


def readable_sources(database: sqlite3.Connection) -> tuple[tuple[Subscription, ...], tuple[Cluster, ...]]:
    """Subscriptions and clusters whose rows can be read. (The engine that has the file reports the others.)"""
    return _readable(database, "subscriptions", "subscription", _subscription), _readable(
        database, "clusters", "cluster", _cluster
    )


def _readable(
    database: sqlite3.Connection, table: str, column: str, decoder: msgspec.json.Decoder[S]
) -> tuple[S, ...]:
    found = []
    for (text,) in database.execute(f"SELECT {column} FROM {table}"):
        with suppress(msgspec.MsgspecError, TypeError):
            found.append(decoder.decode(text))
    return tuple(found)


def _texts(
    database: sqlite3.Connection, path: str, table: str, names: str, decoder: msgspec.json.Decoder[S]
) -> Iterable[tuple[str, S | None, str]]:
    for *row, stored in database.execute(f"SELECT {names}, checksum FROM {table}"):
        trouble = complaint(table, _TEXT, row) or ("it is not what was written" if differs(stored, row) else "")
        found = None
        if not trouble:
            try:
                found = decoder.decode(row[1])
            except msgspec.MsgspecError as error:
                trouble = str(error)
        if trouble:
            log.store.warning("%s is damaged: a row of %s cannot be read: %s", path, table, trouble)
        yield str(row[0]), found, trouble


def _unreadable(id: str, trouble: str) -> Subscription:
    return Subscription(id, "", "", {}, "", "", "", "", "", "", 0, damage=f"its stored row is damaged: {trouble}")


def parts(table: Mapping[Any, S | None]) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """The keys that are deleted, and the rows that are written."""
    gone = [(key,) for key, value in table.items() if value is None]
    return gone, [text_row(key, value) for key, value in table.items() if value is not None]
