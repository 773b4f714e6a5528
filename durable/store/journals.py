"""The rows of one journal, or some of them, in order."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from durable.core.journal import Row
from durable.store.pages import read, read_each
from durable.store.rows import journal_of

_COLUMNS = "invocation, entry, part, kind, name, detail, seen, ordinal, ok, {value}, at, checksum"
#: Up to how many entries are read between two commits when people look at a journal.
NEAR_MAX = 500


def journal_rows(database: sqlite3.Connection, seq: int) -> Iterator[Sequence[Any]]:
    """A whole journal."""
    sql = f"SELECT {_COLUMNS.format(value='value')} FROM journal WHERE invocation = ? ORDER BY entry, part"
    return read(database, sql, (seq,), "its journal")


def open_rows(database: sqlite3.Connection, seqs: Sequence[int]) -> Callable[[int], Iterable[Sequence[Any]]]:
    """What the core keeps in memory of journals: of steps that are complete as written, the last one's number."""
    value = "CASE WHEN ordinal IS NULL AND part = 1 THEN value END"
    last = "(SELECT max(entry) FROM journal WHERE invocation = column1 AND part = 0)"
    sql = (  # the limit has it find each last entry once, and not for each row
        f"WITH wanted (seq, last) AS (SELECT column1, {last} FROM (VALUES {{seqs}}) LIMIT -1)"
        f" SELECT {_COLUMNS.format(value=value)} FROM wanted CROSS JOIN journal ON invocation = seq"
        " WHERE part <> 0 OR ok IS NULL OR entry = last ORDER BY invocation, entry, part"
    )
    return read_each(database, sql, seqs, "its journal")


def page(
    database: sqlite3.Connection, seq: int, after: int, limit: int | None, most: int | None = None
) -> list[Row] | None:
    """The rows of up to `limit` entries above `after`; None where those are more than `most`.

    Entries have no holes: a page is a range. Raises `StorageCorruptError`.
    """
    before = max(after, 0)
    if most is not None and (limit is None or limit > most) and _last(database, seq) - before > most:
        return None
    if limit is None and after < 0:
        return journal_of(journal_rows(database, seq))  # also what has no number
    sql = (
        f"SELECT {_COLUMNS.format(value='value')} FROM journal"
        " WHERE invocation = ? AND entry > ? AND entry <= ? ORDER BY entry, part"
    )
    upto = 2**63 - 1 if limit is None else before + limit
    rows = read(database, sql, (seq, after, upto), "its journal")
    return journal_of(rows, after=before)


def _last(database: sqlite3.Connection, seq: int) -> int:
    sql = "SELECT entry FROM journal WHERE invocation = ? ORDER BY entry DESC LIMIT 1"
    row = database.execute(sql, (seq,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else 0
