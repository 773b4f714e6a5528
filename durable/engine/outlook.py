"""What a take-over would meet, as far as this can be known while another engine has the file.

A start finds out whether it can read the values, knows the handlers and can read the topics. An engine on standby
only starts once the holder is gone, perhaps at night. So it looks before, through a connection that only reads, and
says already now what it would say then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from durable import log
from durable.errors import CodecError, KeyMissingError, StorageBusyError, StorageError
from durable.runtime.registry import Registry
from durable.store import Store

if TYPE_CHECKING:  # only an engine on standby looks
    from durable.store.beside import Beside

Clusters = Mapping[str, Mapping[str, Any]]


class Outlook(msgspec.Struct, frozen=True):
    """What is known about a take-over before it happens."""

    #: The error that would refuse it.
    refusal: CodecError | KeyMissingError | StorageError | None = None
    #: What would not go on after it, and why.
    lacks: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """All of it, for people."""
        refused = () if self.refusal is None else (f"it could not take over: {self.refusal}",)
        return refused + tuple(f"after a take-over, {one}" for one in self.lacks)


def outlook(path: str, store: Store, registry: Registry, clusters: Clusters) -> Outlook:
    """Look at the file, on the calling thread. Raises nothing: what cannot be read now is seen the next time."""
    try:
        return _look(path, store, registry, clusters)
    except (CodecError, KeyMissingError, StorageError) as error:
        return Outlook(None if isinstance(error, StorageBusyError) else error)
    except (sqlite3.Error, OSError):
        return Outlook()
    except Exception as error:  # of the user's codec
        log.engine.error("%s: what a take-over would meet cannot be told", path, cause=error)
        return Outlook()


def _look(path: str, store: Store, registry: Registry, clusters: Clusters) -> Outlook:
    from durable.store.beside import look_beside
    from durable.store.encoded import check_keys

    found = look_beside(path)
    missing = check_keys(store, found.keys, path)
    return Outlook(lacks=(*_of_keys(missing), *_of_handlers(found, registry), *_of_topics(found, registry, clusters)))


def _of_keys(missing: Iterable[str]) -> Iterator[str]:
    if named := ", ".join(map(repr, missing)):
        yield (
            f"invocations that need values encoded with the key {named} would be paused as key-missing: the codec "
            "does not have it"
        )


def _of_handlers(found: Beside, registry: Registry) -> Iterator[str]:
    gone = sorted(f"{service}/{name}" for service, name in found.handlers if registry.get(service, name) is None)
    if gone:
        yield f"open invocations would be paused as handler-gone: this process has no handler {', '.join(gone)}"


def _of_topics(found: Beside, registry: Registry, clusters: Clusters) -> Iterator[str]:
    reading = [one for one in found.subscriptions if not one.paused and not one.damage]
    if reading:
        from durable.kafka.subscriptions import hindrance  # only where there is one

        known = {**clusters, **found.clusters}
        for one in reading:
            named = f"the subscription {one.id} ({one.source})"
            if why := hindrance(one, known):
                yield f"{named} would read nothing: {why}"
            elif registry.get(one.service, one.handler) is None:
                yield f"the records of {named} would fail: this process has no handler {one.service}/{one.handler}"
