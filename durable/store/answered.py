"""Rows of requests that had an idempotency key, and of their answers."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from durable.core.effects import Writes
from durable.core.once import NOBODY, Answered, Place, owned_by
from durable.core.topics import promise_topic
from durable.errors import StorageCorruptError
from durable.store.checksums import checksum, columns, complaint, differs
from durable.store.pages import read

_COLUMNS = columns("owner$ about$ key$ result$ id$ print# until")


def answered_row(place: Place, one: Answered) -> tuple[Any, ...]:
    """The row of an answer, in the order of the table's columns."""
    row = (*place, one.result, one.id, one.print, one.until)
    return (*row, checksum((*row[:5], row[6]), one.print))


def owners_gone(writes: Writes) -> list[tuple[str]]:
    """The owners that a turn deletes: their answers are deleted with them."""
    gone = [(owned_by(seq),) for seq in writes.purged]
    return gone + [(promise_topic(*key, ""),) for key in sorted(writes.promises_cleared)]


def load_answered(database: sqlite3.Connection, places: Iterable[Place]) -> dict[Place, Answered]:
    """The answers at these places."""
    found = {}
    for place in places:
        sql = "SELECT * FROM answered WHERE owner = ? AND about = ? AND key = ?"
        try:
            for row in read(database, sql, place, "it"):
                found[place] = answered_of(place, row)
        except StorageCorruptError as error:
            found[place] = _damaged(place, str(error))
    return found


def answered_of(place: Place, stored: Sequence[Any]) -> Answered:
    """The answer of a stored row; a damaged one says so."""
    *row, stored_checksum = stored
    trouble = complaint("answered", _COLUMNS, row)
    if not trouble and differs(stored_checksum, (*row[:5], row[6]), row[5]):
        trouble = "its row of answered is not what was written"
    return _damaged(place, trouble) if trouble else Answered(row[3], row[4], row[5], row[6])


def _damaged(place: Place, cause: str) -> Answered:
    return Answered(
        "",
        damage=f"whether this was asked before with the idempotency key {place.key!r} cannot be told: {cause}. Look "
        "whether it has taken effect; where it has not, ask with another key",
    )


def troubles(database: sqlite3.Connection) -> list[str]:
    """One sentence for each damaged row."""
    return [
        f"{row[1]!r} was asked with an idempotency key: {one.damage}"
        for row in database.execute("SELECT * FROM answered")
        if (one := answered_of(Place(*row[:3]), row)).damage
    ]


#: Those whose time is over, of `NOBODY`.
OVER = f"DELETE FROM answered WHERE owner = '{NOBODY}' AND until <= ?"
