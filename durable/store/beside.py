"""Looks at a database that another engine has, in an instant and through a separate connection."""

import os
import sqlite3

import msgspec

from durable.core.sources import Cluster, Subscription
from durable.errors import StorageReadOnlyError
from durable.store.format import check_version, migrations
from durable.store.listing import look, open_handlers
from durable.store.soundness import keys
from durable.store.sources import readable_sources


class Beside(msgspec.Struct, frozen=True):
    """What a start would find. Empty if the file has an older schema than this version."""

    #: By id, what each key that values are encoded with made of a probe.
    keys: dict[str, bytes] = {}
    #: Service and handler of every invocation that has not ended.
    handlers: frozenset[tuple[str, str]] = frozenset()
    subscriptions: tuple[Subscription, ...] = ()
    #: The properties of clusters that are kept in the file.
    clusters: dict[str, dict[str, str]] = {}


def look_beside(path: str) -> Beside:
    """Look, on the calling thread. Raises the `StorageError` that a start would raise, and what SQLite raises."""

    def work(database: sqlite3.Connection) -> Beside:
        version, newest = check_version(database, path), max(number for number, _ in migrations())
        if version < newest:  # whoever holds it is of an older version, and a take-over brings it up to date
            return Beside()
        subscriptions, clusters = readable_sources(database)
        return Beside(keys(database), open_handlers(database), subscriptions, _properties(clusters))

    _check_writable(os.path.realpath(path))
    return look(os.path.abspath(path), work)


def _check_writable(path: str) -> None:
    for place in (path, f"{path}-wal", f"{path}-shm", os.path.dirname(path)):
        if os.path.exists(place) and not _may_write(place):
            raise StorageReadOnlyError(
                f"{place} cannot be written by this process: the engine writes to the file, and to the log that "
                "SQLite keeps beside it"
            )


def _properties(clusters: tuple[Cluster, ...]) -> dict[str, dict[str, str]]:
    return {one.name: dict(one.properties) for one in clusters}


def _may_write(place: str) -> bool:
    return os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
