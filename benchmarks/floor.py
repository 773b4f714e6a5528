"""The floor: the same rows, in the same table of the same schema, written by bare `sqlite3`, equally durable.

`one_row` commits one journal row a transaction; `hundred_rows` one hundred, of a hundred invocations, as a hundred
busy handlers would. `append` is for comparison only: a hundred rows into a table without any key, which nobody could
read a journal from. `records` commits a thousand invocations, as a poll's records become.
"""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from durable.core.alike import Alike, InLine
from durable.core.effects import Writes
from durable.core.ids import fresh_id
from durable.core.invocation import Caller, Flavor, Submission
from durable.store.format import migrations
from durable.store.statements import statements

_INSERT = (
    "INSERT INTO journal (invocation, entry, part, kind, name, detail, seen, ordinal, ok, value, at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _database(folder: Path) -> sqlite3.Connection:
    path = folder / "floor.db"
    for name in (path, path.with_name("floor.db-wal"), path.with_name("floor.db-shm")):
        name.unlink(missing_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    for _, script in migrations():
        database.executescript(script)
    return database


def _write(folder: Path, invocations: int, commits: int, *, append: bool = False) -> float:
    """Rows a second."""
    database = _database(folder)
    insert = _INSERT
    if append:
        database.execute("CREATE TABLE plain AS SELECT * FROM journal")
        insert = insert.replace("journal", "plain")
    started = time.perf_counter()
    for number in range(commits):
        rows = [
            (
                one,
                number + 1,
                0,
                "run",
                "step",
                None,
                number,
                number * invocations + one,
                1,
                b"12345",
                1_893_456_000_000,
            )
            for one in range(1, invocations + 1)
        ]
        database.execute("BEGIN IMMEDIATE")
        database.executemany(insert, rows)
        database.execute("COMMIT")
    took = time.perf_counter() - started
    database.close()
    return invocations * commits / took


def one_row(folder: Path, commits: int = 300) -> float:
    """Commits a second, of one row each."""
    return _write(folder, 1, commits)


def hundred_rows(folder: Path, commits: int = 200) -> float:
    """Rows a second, 100 a commit."""
    return _write(folder, 100, commits)


def append(folder: Path, commits: int = 200) -> float:
    """The same without a key on the table."""
    return _write(folder, 100, commits, append=True)


def records(folder: Path, headers: Sequence[dict[str, str]], values: Sequence[bytes]) -> float:
    """Rows a second, 1,000 a commit, with the indexes of invocations: those that records become."""
    batches = []
    caller = Caller(0, "sub_1" + "0" * 22, 0, "kafka://main/bench", False)
    shared = Submission(
        "", "Bench", "nothing", None, Flavor.SERVICE, b"", {}, None, caller, None, 86_400_000, 86_400_000
    )
    texts = [msgspec.json.encode(one).decode() for one in headers]
    for begin in range(0, len(values), 1000):
        seqs = range(begin, min(begin + 1000, len(values)))
        some = slice(begin, begin + 1000)
        ids = [fresh_id(seq << 16, seq.to_bytes(22, "big")) for seq in seqs]
        alike = Alike(shared, seqs, ids, values[some], texts[some], (0, 0))
        batches.append(statements(Writes(in_line=[InLine(alike, 0, begin, begin, 1_893_456_000_000)])))
    database = _database(folder)
    started = time.perf_counter()
    for batch in batches:
        database.execute("BEGIN IMMEDIATE")
        for text, row in batch:
            database.execute(text, row)
        database.execute("COMMIT")
    took = time.perf_counter() - started
    database.close()
    return len(values) / took
