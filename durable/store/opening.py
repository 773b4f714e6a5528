"""What a start reads of a file besides invocations: refused by name where it is damaged, rebuilt where it can be."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from durable import log
from durable.core.world import ORDINALS
from durable.errors import StorageCorruptError
from durable.store import Opened
from durable.store.checksums import columns, complaint, differs
from durable.store.keyed import moved
from durable.store.statements import reserve_ordinals

#: How many rows of state a start looks at: about a quarter of a second.
LOOKED_AT_MAX = 200_000
#: Numbers above are damage: no engine ever counts so far.
_NUMBER_MAX = 2**62
_SETTING, _SERVICE = columns("service$ options$"), columns("name$ revision declaration$")
_TIMER = "typeof(due_at) <> 'integer' OR typeof(seq) <> 'integer' OR typeof(entry) <> 'integer' OR due_at < 0"


def opening(database: sqlite3.Connection, path: str, scripts: Sequence[tuple[int, str]]) -> Opened:
    """Where the numbering goes on, what was configured and declared. Raises `StorageCorruptError`."""
    check_schema(database, path, scripts)
    repair_timers(database)
    sql = "SELECT coalesce(max(seq), 0) + 1 FROM invocations WHERE seq < ?"
    seq = database.execute(sql, (_NUMBER_MAX,)).fetchone()[0]
    return Opened(ordinals(database), seq, settings(database, path), declared(database))


def damaged(path: str, what: str, then: str) -> StorageCorruptError:
    """The error for what stops a start."""
    return StorageCorruptError(
        f"{path} is damaged: {what}. {then} A backup brings it back: durable.restore(backup, {path!r})"
    )


def check_schema(database: sqlite3.Connection, path: str, scripts: Sequence[tuple[int, str]]) -> None:
    """Compare tables with what the migrations make; make an index again that is missing."""
    wanted = sqlite3.connect(":memory:")
    try:
        for _, script in scripts:
            wanted.executescript(script)
        for (table,) in wanted.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            expected, found = _layout(wanted, table), _layout(database, table)
            if not found:
                raise damaged(path, f"it has no table {table}", "It was left as it is.")
            if found != expected:
                names = [column[0] for column in expected if column not in found] or [column[0] for column in found]
                raise damaged(path, f"its table {table} differs in {', '.join(names)}", "It was left as it is.")
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        present = dict(database.execute(indexes).fetchall())
        for name, text in wanted.execute(indexes):
            if name not in present:
                log.warning("%s had lost its index %s: it is made again", path, name)
                database.execute(text)
    finally:
        wanted.close()


def _layout(database: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return database.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)).fetchall()


def repair_timers(database: sqlite3.Connection) -> None:
    """Timers of nonsense go, and those that are missing are set again, from what waits for a moment.

    Text and blobs sort after every number, so where the last timer is a number, so is each one's moment; what else is
    wrong with one is found when it is due.
    """
    first = database.execute("SELECT due_at FROM timers ORDER BY due_at LIMIT 1").fetchone()
    last = database.execute("SELECT due_at FROM timers ORDER BY due_at DESC LIMIT 1").fetchone()
    if last is None or (isinstance(last[0], int) and first[0] >= 0):
        odd = database.execute(f"SELECT 1 FROM (SELECT * FROM timers LIMIT 1000) WHERE {_TIMER} LIMIT 1").fetchone()
        if odd is None:
            return
    log.warning("the table of timers is damaged: it is made again from what waits for a moment")
    database.execute("BEGIN IMMEDIATE")
    database.execute(f"DELETE FROM timers WHERE {_TIMER}")
    database.execute(
        "INSERT OR REPLACE INTO timers SELECT due_at, seq, 0 FROM invocations"
        " WHERE typeof(due_at) = 'integer' AND status IN ('scheduled', 'backing-off')"
    )
    database.execute(
        "INSERT OR REPLACE INTO timers SELECT CAST(one.detail AS INTEGER), one.invocation, one.entry"
        " FROM journal AS one JOIN invocations ON seq = one.invocation AND completed_at IS NULL"
        " WHERE one.kind = 'sleep' AND one.part = 0 AND one.ok IS NULL AND one.detail GLOB '[0-9]*' AND NOT EXISTS"
        " (SELECT 1 FROM journal WHERE invocation = one.invocation AND entry = one.entry AND part = 1)"
    )
    database.execute("COMMIT")


def ordinals(database: sqlite3.Connection) -> int:
    """The number from which ordinals are free; from those that are taken, where it was lost."""
    row = database.execute("SELECT name, value, checksum FROM meta WHERE name = 'ordinals'").fetchone()
    fits = row is not None and isinstance(row[1], int) and 0 < row[1] < _NUMBER_MAX
    if fits and (row[2] is None or not differs(row[2], row[:2])):
        return int(row[1])
    log.warning("the number of the next outcome was damaged: it is counted again")
    taken = [16]
    for name, table in (("ordinal", "journal"), ("queued", "invocations"), ("ordinal", "signals")):
        sql = f"SELECT max({name}) FROM {table} WHERE typeof({name}) = 'integer' AND {name} < ?"
        taken.append(database.execute(sql, (_NUMBER_MAX,)).fetchone()[0] or 0)
    free = max(taken) + ORDINALS
    text, values = reserve_ordinals(free)
    database.execute(text, values)
    return free


def misplaced(database: sqlite3.Connection, table: str) -> frozenset[int]:
    """Rows of the state or of promises that are under another key than they were written for: `keyed.moved`.

    Only a start can find them: whoever looks where they should be sees nothing. It looks at so many that it is not
    held up by it.
    """
    sql = f"SELECT service, key, name, checksum FROM {table} LIMIT ?"
    return moved(database.execute(sql, (LOOKED_AT_MAX,)))


def settings(database: sqlite3.Connection, path: str) -> dict[str, str]:
    """Options set at run time: nobody else knows them, so damaged ones stop the start."""
    found = {}
    for *row, checksum in database.execute("SELECT service, options, checksum FROM settings"):
        trouble = complaint("settings", _SETTING, row)
        if trouble or (checksum is not None and differs(checksum, row)):
            raise damaged(
                path,
                f"the options that were set for {row[0]!r} (engine.configure): {trouble or 'not what was written'}",
                f"To go on with what the code says, delete them: DELETE FROM settings WHERE service = {row[0]!r}.",
            )
        found[row[0]] = row[1]
    return found


def declared(database: sqlite3.Connection) -> dict[str, tuple[int, str]]:
    """What services looked like; one whose row is damaged is declared anew."""
    found = {}
    for *row, checksum in database.execute("SELECT name, revision, declaration, checksum FROM services"):
        if complaint("services", _SERVICE, row) or (checksum is not None and differs(checksum, row)):
            log.warning("the revision of the service %r was damaged: it counts from 1 again", row[0])
            continue
        found[row[0]] = (row[1], row[2])
    return found
