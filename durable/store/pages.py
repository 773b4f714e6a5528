"""Pages that cannot be read: whose rows they have, and what is left of an invocation that is on one.

SQLite refuses a page, or a chain of pages with a long value, as a whole. So rows that are read together are read
again one by one, to find those that are on the page. Only these are damaged, and everybody else goes on.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from typing import Any, NamedTuple

from durable.core.effects import Writes
from durable.core.invocation import Status
from durable.core.reasons import Reason
from durable.errors import StorageCorruptError
from durable.store.faults import is_damage
from durable.store.rows import FIXED, FIXED_NAMES, MOVING, MOVING_NAMES

_SELECT = f"SELECT {FIXED}, {MOVING} FROM _invocations"
#: Everybody, without a look at the table.
_BY_ID = "_invocations INDEXED BY sqlite_autoindex__invocations_1"
#: How many rows are asked for in one statement.
BATCH = 500


class _Unread:
    """What a column has whose page cannot be read: it fits no column, and says why."""

    def __repr__(self) -> str:
        return "on a page that cannot be read"


UNREAD = _Unread()


def rows_of(
    database: sqlite3.Connection, column: str, wanted: Set[int] | Set[str], unread: set[int]
) -> Iterator[Sequence[Any]]:
    """The rows of invocations with these values of `column` (seq or id). Adds to `unread` who is on a bad page."""
    values = list(wanted)
    for start in range(0, len(values), BATCH):
        yield from _batch(database, column, values[start : start + BATCH], unread)


def _batch(
    database: sqlite3.Connection, column: str, values: Sequence[Any], unread: set[int]
) -> Sequence[Sequence[Any]]:
    sql = f"{_SELECT} WHERE {column} IN ({', '.join('?' * len(values))})"
    try:
        return database.execute(sql, values).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    if len(values) == 1:
        found = database.execute(f"SELECT seq FROM {_BY_ID} WHERE {column} = ?", values).fetchone()
        if found is None:
            return ()
        unread.add(found[0])
        return (what_is_left(database, found[0]),)
    half = len(values) // 2
    return [
        *_batch(database, column, values[:half], unread),
        *_batch(database, column, values[half:], unread),
    ]


def what_is_left(database: sqlite3.Connection, seq: int) -> tuple[Any, ...]:
    """The row of an invocation that cannot be read as a whole, column by column; and from indexes what it is called.

    (These are looked through: it is a rare need.)
    """
    row = {name: _one(database, f"SELECT {name} FROM _invocations WHERE seq = ?", seq) for name in _NAMES}
    row["seq"] = seq
    if row["id"] is UNREAD:
        row["id"] = _one(database, f"SELECT id FROM {_BY_ID} WHERE seq = ?", seq)
    for name in ("service", "key"):
        if row[name] is UNREAD:
            in_queue = (
                f"SELECT {name} FROM _invocations INDEXED BY invocations_queue WHERE queued IS NOT NULL AND seq = ?"
            )
            row[name] = _one(database, in_queue, seq)
    return tuple(row[name] for name in _NAMES)


_NAMES = (*FIXED_NAMES, *MOVING_NAMES)


def _one(database: sqlite3.Connection, sql: str, seq: int) -> Any:
    try:
        found = database.execute(sql, (seq,)).fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return UNREAD
    return UNREAD if found is None else found[0]


def read(database: sqlite3.Connection, sql: str, values: Sequence[Any], what: str) -> Iterator[Any]:
    """Rows that belong to one invocation or key. Raises `StorageCorruptError` where a page of them cannot be read."""
    try:
        rows = database.execute(sql, values).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise StorageCorruptError(f"{what} is on a page that cannot be read (SQLite says: {error})") from error
    yield from rows


def read_each(
    database: sqlite3.Connection, sql: str, seqs: Sequence[int], what: str
) -> Callable[[int], Iterable[Sequence[Any]]]:
    """The same of many invocations, whose number each row begins with: all at once, if no page is damaged.

    In `sql`, `{seqs}` stands for their numbers, a row of `VALUES` each.
    """
    found: dict[int, list[Sequence[Any]]] = {seq: [] for seq in seqs}
    try:
        for start in range(0, len(seqs), BATCH):
            some = seqs[start : start + BATCH]
            for row in database.execute(sql.format(seqs=", ".join(["(?)"] * len(some))), some):
                found[row[0]].append(row)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return lambda seq: read(database, sql.format(seqs="(?)"), (seq,), what)
    return found.__getitem__


def due(database: sqlite3.Connection, column: str, which: str, now: int, limit: int) -> list[tuple[int, int]]:
    """The first that are past the moment in `column`, but for those that cannot be read: (seq, is it a workflow)."""
    of_them = f"SELECT seq, flavor = 'workflow' FROM _invocations WHERE {column} <= ? AND {which}"
    try:
        return database.execute(f"{of_them} ORDER BY {column} LIMIT ?", (now, limit)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    found: list[tuple[int, int]] = []
    after = (-1, 0)
    of_index = f"SELECT {column}, seq FROM _invocations WHERE {column} <= ? AND ({column}, seq) > (?, ?)"
    while len(found) < limit and (
        page := database.execute(f"{of_index} ORDER BY {column}, seq LIMIT ?", (now, *after, BATCH)).fetchall()
    ):
        after = page[-1]
        for _, seq in page:
            with suppress(StorageCorruptError):
                found += read(database, f"{of_them} AND seq = ?", (now, seq), "")
    return found[:limit]


# ---- writing ----


def without_notes(writes: Writes, unread: Set[int]) -> Writes:
    """Leave out that someone is paused whose row cannot be read, and so not be written: reading it says it again."""
    notes = {
        seq
        for seq in unread & writes.changed.keys()
        if writes.changed[seq].status is Status.PAUSED
        and (problem := writes.changed[seq].problem) is not None
        and problem.reason == Reason.DAMAGED
    }
    if not notes:
        return writes
    kept = Writes(**{name: getattr(writes, name) for name in Writes.__struct_fields__})
    kept.changed = {seq: one for seq, one in writes.changed.items() if seq not in notes}
    return kept


class Concerned(NamedTuple):
    """Whose rows a turn writes: one of them may be on a page that cannot be read."""

    seqs: Set[int]
    keys: Set[tuple[str, str]]
    #: Whether it writes, or forgets, what was asked with idempotency keys.
    asked: bool = False

    @classmethod
    def by(cls, writes: Writes) -> "Concerned":
        """Everybody that a turn concerns."""
        seqs = {
            *writes.changed,
            *writes.purged,
            *writes.journals_purged,
            *(row.invocation for row in writes.journal),
            *(seq for seq, _ in writes.signals_added),
            *(seq for seq, _ in writes.signals_removed),
        }
        named = {(service, key) for service, key, _ in (*writes.state, *writes.promises)}
        asked = bool(writes.answered or writes.purged or writes.promises_cleared)
        return cls(seqs - writes.created.keys(), named | writes.state_cleared | writes.promises_cleared, asked)

    def unread(self, database: sqlite3.Connection) -> list[str]:
        """Who is on a page that cannot be read, or beside one, which SQLite may want to move rows to.

        Nobody, where it is not their rows that cannot be written.
        """
        found = []
        for seq in sorted(self.seqs):
            if not all(_reads(database, f"SELECT * FROM {table} WHERE {name} = ?", seq) for table, name in _OWN):
                found.append(f"invocation number {seq} is on a page that cannot be read")
            elif not all(_reads(database, sql, seq) for sql in _BESIDE):
                found.append(f"invocation number {seq} is beside a page that cannot be read")
        for service, key in sorted(self.keys):
            by_key = [f"SELECT * FROM {table} WHERE service = ? AND key = ?" for table in ("_state", "promises")]
            if not all(_reads(database, sql, service, key) for sql in by_key):
                found.append(f"the key {service}/{key} is on a page that cannot be read")
        if self.asked and not _reads(database, "SELECT * FROM answered"):
            found.append("what was asked with idempotency keys is on a page that cannot be read")
        return found


#: An invocation's own rows; and enough of those beside them to come to the next page. (Whoever looks for a row of a
#: journal reads some of those beside it as a whole, so all of them are.)
_OWN = (("_invocations", "seq"), ("journal", "invocation"), ("signals", "seq"))
_BESIDE = [
    f"SELECT * FROM {table} WHERE {name} {way} ? ORDER BY {name} {order} LIMIT 200"
    for table, name in _OWN
    for way, order in (("<", "DESC"), (">", "ASC"))
]


def _reads(database: sqlite3.Connection, sql: str, *values: Any) -> bool:
    try:
        for _ in database.execute(sql, values):
            pass
    except sqlite3.Error as error:
        return not is_damage(error)
    return True
