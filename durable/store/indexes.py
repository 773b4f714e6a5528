"""Checks in the background whether the indexes of a large file agree with their table, a little at a time.

A start checks small files at once (`soundness`). In a larger file, table and indexes are read piece by piece, each in
one short statement on a separate connection. So commits go on, and the log can be emptied in between. An index that
does not agree is rebuilt at once.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from durable import log
from durable.store.faults import is_busy, is_damage

#: How many rows are compared in one statement.
PIECE = 2000
#: After each piece it rests for so many times as long as that took: it has a fifth of one core at most.
RESTS = 4
#: How long after a pass the next one begins.
AGAIN_S = 24 * 3600.0
TABLE = "_invocations"
#: What SQLite's own index of the ids is called, which has no text.
BY_ID = f"sqlite_autoindex_{TABLE}_1"


class Index(msgspec.Struct, frozen=True):
    """What an index has: expressions over a row, of the rows for which a condition holds."""

    name: str
    expressions: tuple[str, ...]
    condition: str

    @classmethod
    def parse(cls, name: str, text: str | None) -> "Index":
        """From the statement that made it."""
        if text is None:
            return cls(name, ("id",), "1")
        begin = text.index("(")
        parts, depth, start = [], 0, begin + 1
        for at in range(begin, len(text)):
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            if (text[at] == "," and depth == 1) or depth == 0:
                parts.append(text[start:at].strip())
                start = at + 1
            if not depth:
                break
        return cls(name, tuple(parts), text[start:].strip().removeprefix("WHERE").strip() or "1")

    def missing(self) -> str:
        """How many of the rows behind one number, up to another, have no entry."""
        values = ", ".join(f"{one} AS c{place}" for place, one in enumerate(self.expressions))
        same = " AND ".join(f"{one} IS piece.c{place}" for place, one in enumerate(self.expressions))
        return (
            f"SELECT count(*) FROM (SELECT {values}, seq AS number FROM {TABLE} NOT INDEXED"
            f" WHERE seq > ? AND seq <= ? AND ({self.condition})) AS piece"
            f" WHERE NOT EXISTS (SELECT 1 FROM {TABLE} INDEXED BY {self.name}"
            f" WHERE {same} AND seq = piece.number AND ({self.condition}))"
        )

    def entries(self, *, first: bool) -> str:
        """The entries behind one, in order."""
        values = ", ".join(f"{one} AS c{place}" for place, one in enumerate(self.expressions))
        keys = ", ".join((*self.expressions, "seq"))
        behind = "" if first else f" AND ({keys}) > ({', '.join('?' * (len(self.expressions) + 1))})"
        return (
            f"SELECT {values}, seq AS number FROM {TABLE} INDEXED BY {self.name} WHERE ({self.condition}){behind}"
            f" ORDER BY {keys} LIMIT ? OFFSET ?"
        )

    def astray(self, *, first: bool) -> str:
        """Of how many of these the row is missing, or says something else."""
        other = " OR ".join(f"({one}) IS NOT piece.c{place}" for place, one in enumerate(self.expressions))
        return (
            f"SELECT count(*) FROM ({self.entries(first=first)}) AS piece"
            f" LEFT JOIN {TABLE} AS own NOT INDEXED ON own.seq = piece.number"
            f" WHERE own.seq IS NULL OR NOT coalesce(({self.condition}), 0) OR {other}"
        )


def indexes(database: sqlite3.Connection) -> list[Index]:
    """Those of the table. (The other tables are clustered, and have none.)"""
    sql = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? ORDER BY name"
    return [Index.parse(name, text) for name, text in database.execute(sql, (TABLE,))]


def compare(database: sqlite3.Connection, index: Index) -> Iterator[bool]:
    """Whether each piece agrees: of the table, and then of the index."""
    last = database.execute(f"SELECT coalesce(max(seq), 0) FROM {TABLE}").fetchone()[0]
    for after in range(0, last, PIECE):
        yield _agrees(database, index, index.missing(), (after, after + PIECE))
    behind: tuple[Any, ...] | None = ()
    while behind is not None:
        first = not behind
        yield _agrees(database, index, index.astray(first=first), (*behind, PIECE, 0))
        behind = _last(database, index.entries(first=first), (*behind, 1, PIECE - 1))


def _agrees(database: sqlite3.Connection, index: Index, sql: str, values: tuple[Any, ...]) -> bool:
    """Whether nothing is wrong. A page of the table that cannot be read tells nothing of the index."""
    try:
        return not database.execute(sql, values).fetchone()[0]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    try:
        database.execute(f"SELECT count(*) FROM ({index.entries(first=True)})", (-1, 0)).fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return False
    return True


def _last(database: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The last entry of a whole piece, to go on behind it. None after the last piece, and where none can tell it."""
    try:
        found: tuple[Any, ...] | None = database.execute(sql, values).fetchone()
    except sqlite3.DatabaseError:  # it cannot be read, or is no text: what is wrong with its row is told by that
        return None
    return None if found is None or None in found else found


def make_again(database: sqlite3.Connection, path: str, name: str) -> str:
    """Make an index again, on the connection that writes. Returns what is to be said of it, which is logged, too."""
    try:
        database.execute(f"REINDEX {name}")
    except sqlite3.Error as error:
        if is_busy(error):
            raise
        said = (
            f"{path}: the index {name} does not agree with its table, and could not be made again: {error}. Lookups "
            f"may miss what is there: stop the engine and use durable.restore(backup, {path!r})"
        )
        log.store.error("%s", said)
    else:
        said = (
            f"{path}: the index {name} did not agree with its table: the file was damaged. It was made again. What "
            "it had hidden is found from now on; what should have been started by it, at the next start of the engine"
        )
        log.store.warning("%s", said)
    return said


class IndexCheck:
    """A thread that compares again and again, until it is stopped. `found` is told the name of each that is wrong."""

    def __init__(self, path: str, found: Callable[[str], None]) -> None:
        self._path = path
        self._found = found
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"durable indexes of {path}", daemon=True)

    def start(self) -> None:
        """Begin the first pass."""
        self._thread.start()

    def stop(self) -> None:
        """End soon, also in the middle of a piece. Idempotent."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._pass()
            except sqlite3.Error as error:
                if not self._stopping.is_set():
                    log.store.warning("%s: its indexes could not be compared with their table: %s", self._path, error)
            self._stopping.wait(AGAIN_S)

    def _pass(self) -> None:
        uri = f"{Path(self._path).as_uri()}?mode=ro"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=2.0)
        try:
            database.set_progress_handler(self._stopping.is_set, 10_000)
            for index in indexes(database):
                self._compare(database, index)
        finally:
            database.close()

    def _compare(self, database: sqlite3.Connection, index: Index) -> None:
        began = time.monotonic()
        for agrees in compare(database, index):
            if not agrees:
                self._found(index.name)
                return
            if self._stopping.wait(RESTS * (time.monotonic() - began)):
                return
            began = time.monotonic()
