"""What a start reads of a file besides invocations: refused by name where it is damaged, rebuilt where it can be."""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from durable import log
from durable.core.ids import FULL, READABLE, IdSpan
from durable.core.limits import Limits
from durable.errors import StorageCorruptError
from durable.store import Opened
from durable.store.checksums import columns, complaint, differs
from durable.store.faults import is_damage
from durable.store.keyed import moved
from durable.store.sources import sources
from durable.store.statements import reserve_ordinals

T = TypeVar("T")

#: A file up to this size is looked through at each start, which stays well under a second.
LOOKED_THROUGH_MAX = 32 * 1024 * 1024
#: What SQLite says of indexes, which can be made again; and of values, which have checksums of their own.
_OF_INDEXES = ("missing from index", "entries in index", "non-unique entry")
_NOT_OF_PAGES = (*_OF_INDEXES, " value in ")
#: Entries of invocations that have not ended, which wait for something.
_OPEN = (
    "FROM journal AS one JOIN _invocations ON seq = one.invocation AND completed_at IS NULL WHERE one.part = 0"
    " AND one.ok IS NULL AND NOT EXISTS (SELECT 1 FROM journal"
    " WHERE invocation = one.invocation AND entry = one.entry AND part = 1)"
)
#: For how long a start looks at the names of state and of promises, and how often it looks at the clock.
LOOK_S, LOOK_ROWS = 0.25, 100
#: Numbers above are damage: no engine ever counts so far.
_NUMBER_MAX = 2**62
_SETTING, _SERVICE = columns("service$ options$"), columns("name$ revision declaration$")
_KEY = columns("key_id$ probe#")
_NO_LISTENER = "typeof(topic) <> 'text' OR typeof(seq) <> 'integer' OR typeof(entry) <> 'integer'"
_NO_TIMER = "typeof(due_at) <> 'integer' OR typeof(seq) <> 'integer' OR typeof(entry) <> 'integer' OR due_at < 0"


def opening(database: sqlite3.Connection, path: str, scripts: Sequence[tuple[int, str]]) -> Opened:
    """Where the numbering goes on, what was configured and declared. Raises `StorageCorruptError`."""
    check_schema(database, path, scripts)
    if _size(database) <= LOOKED_THROUGH_MAX:
        check_structure(database, path)
        repair_waits(database)
        repair_signals(database)
    elif not _timers_are_numbers(database):
        repair_waits(database)
    sql = "SELECT coalesce(max(seq), 0) + 1 FROM _invocations WHERE seq < ?"
    seq = database.execute(sql, (_NUMBER_MAX,)).fetchone()[0]
    waiting = database.execute("SELECT EXISTS (SELECT 1 FROM _invocations WHERE status = 'ready')").fetchone()[0]
    cut_off = database.execute("SELECT value FROM meta WHERE name = 'clean'").fetchone() == (0,)
    return Opened(
        ordinals(database),
        seq,
        settings(database, path),
        declared(database),
        bool(waiting),
        cut_off,
        id_span(database),
        sources(database, path),
        keys(database),
    )


def keys(database: sqlite3.Connection) -> dict[str, bytes]:
    """The keys that values are encoded with, and what each made of a probe; b"" where that is damaged."""
    found = {}
    for id, probe, stored in database.execute("SELECT key_id, probe, checksum FROM codec_keys"):
        if complaint("codec_keys", _KEY, (id, probe)) or differs(stored, (id,), probe):
            log.store.warning("the probe of the key %r is damaged: whether the codec has that key is not known", id)
            probe = b""
        found[str(id)] = probe
    return found


def id_span(database: sqlite3.Connection) -> IdSpan:
    """Within what the ids of this file are that keys determine: `FULL` where a migration has found it so."""
    [full] = database.execute("SELECT EXISTS (SELECT 1 FROM meta WHERE name = 'full_ids')").fetchone()
    return FULL if full else READABLE


def _size(database: sqlite3.Connection) -> int:
    [pages], [size] = (database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * size)


def _timers_are_numbers(database: sqlite3.Connection) -> bool:
    """Text and blobs sort after every number: where the first and the last moment are numbers, so are all."""
    ends = [database.execute(f"SELECT due_at FROM _timers ORDER BY due_at {way} LIMIT 1") for way in ("", "DESC")]
    return all(isinstance(row[0], int) and row[0] >= 0 for end in ends for row in end)


def damaged(path: str, what: str, then: str) -> StorageCorruptError:
    """The error for what stops a start."""
    return StorageCorruptError(
        f"{path} is damaged: {what}. {then} A backup brings it back: durable.restore(backup, {path!r})"
    )


def check_schema(database: sqlite3.Connection, path: str, scripts: Sequence[tuple[int, str]]) -> None:
    """Compare tables with what the migrations make; make an index or a view again that is missing."""
    wanted = sqlite3.connect(":memory:")
    try:
        for _, script in scripts:
            wanted.executescript(script)
        for (table,) in wanted.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            expected, found = _layout(wanted, table), _layout(database, table)
            if not found:
                raise damaged(path, f"it has no table {table}", "It was left as it is.")
            if found != expected:
                names = sorted({column[0] for column in {*expected} ^ {*found}}) or ["the order of its columns"]
                raise damaged(path, f"its table {table} differs in {', '.join(names)}", "It was left as it is.")
        others = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'view') AND sql IS NOT NULL"
        present = {(kind, name) for kind, name, _ in database.execute(others)}
        for kind, name, text in wanted.execute(others):
            if (kind, name) not in present:
                log.store.warning("%s had lost its %s %s: it is made again", path, kind, name)
                database.execute(text)
    finally:
        wanted.close()


def _layout(database: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return database.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,)).fetchall()


def check_structure(database: sqlite3.Connection, path: str) -> None:
    """Whether each index says what its table says, and each page is where it belongs. Indexes are made again.

    An invocation that its index does not know would silently never start, and be accepted a second time.
    """
    try:
        trouble = [str(row[0]) for row in database.execute("PRAGMA integrity_check(20)")]
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error), "It was left as it is.") from error
    pages = [text for text in trouble if text != "ok" and not any(word in text for word in _NOT_OF_PAGES)]
    if pages:
        raise damaged(path, pages[0].replace("\n", " "), "It was left as it is.")
    if any(word in text for text in trouble for word in _OF_INDEXES):
        log.store.warning("%s: an index did not agree with its table (%s): all are made again", path, trouble[0])
        try:
            database.execute("REINDEX")
        except sqlite3.DatabaseError as error:
            raise damaged(path, f"{trouble[0]}, and {error}", "It was left as it is.") from error


def repair_waits(database: sqlite3.Connection) -> None:
    """Set again what is missing of what wakes an invocation: timers of nonsense go, those that it needs come back.

    And so do listeners to promises and outcomes.
    """
    database.execute("BEGIN IMMEDIATE")
    changed = database.total_changes
    database.execute(f"DELETE FROM _timers WHERE {_NO_TIMER}")
    database.execute(f"DELETE FROM listeners WHERE {_NO_LISTENER}")
    database.execute(
        "INSERT OR IGNORE INTO _timers SELECT due_at, seq, 0 FROM _invocations"
        " WHERE typeof(due_at) = 'integer' AND status IN ('scheduled', 'backing-off')"
    )
    database.execute(
        f"INSERT OR IGNORE INTO _timers SELECT CAST(one.detail AS INTEGER), one.invocation, one.entry {_OPEN}"
        " AND one.kind = 'sleep' AND one.detail GLOB '[0-9]*'"
    )
    database.execute(
        "INSERT OR IGNORE INTO listeners SELECT CASE one.kind WHEN 'attach' THEN 'output/' || one.detail"
        f" ELSE one.detail END, one.invocation, one.entry {_OPEN} AND one.detail IS NOT NULL"
        " AND (one.kind IN ('promise', 'attach') OR one.kind = 'call' AND one.detail LIKE 'output/%')"
    )
    database.execute("COMMIT")
    if database.total_changes > changed:
        log.store.warning("timers or listeners were damaged: they are set again from what waits for them")


def repair_signals(database: sqlite3.Connection) -> None:
    """Give a kept signal back to its invocation whose number in it is damaged: nobody would look for it elsewhere.

    Its checksum still knows the number: that of each invocation which has not ended is tried.
    """
    stored = database.execute("SELECT seq, ordinal, name, ok, checksum FROM signals").fetchall()
    lost = [row for row in stored if row[4] is not None and differs(row[4], row[:4], partly=True)]
    if not lost:
        return
    waiting = [seq for (seq,) in database.execute("SELECT seq FROM _invocations WHERE completed_at IS NULL")]
    for seq, ordinal, name, ok, checksum in lost:
        for owner in waiting:
            if not differs(checksum, (owner, ordinal, name, ok), partly=True):
                log.store.warning("a signal of invocation number %d was damaged: it has it again", owner)
                sql = "UPDATE OR IGNORE signals SET seq = ? WHERE seq IS ? AND ordinal IS ?"
                database.execute(sql, (owner, seq, ordinal))


def ordinals(database: sqlite3.Connection) -> int:
    """The number from which ordinals are free; from those that are taken, where it was lost."""
    row = database.execute("SELECT name, value, checksum FROM meta WHERE name = 'ordinals'").fetchone()
    fits = row is not None and isinstance(row[1], int) and 0 < row[1] < _NUMBER_MAX
    if fits and (row[2] is None or not differs(row[2], row[:2])):
        return int(row[1])
    log.store.warning("the number of the next outcome was damaged: it is counted again")
    taken = [16]
    for name, table in (
        ("ordinal", "journal"),
        ("queued", "_invocations"),
        ("place", "_invocations"),
        ("ordinal", "signals"),
    ):
        sql = f"SELECT max({name}) FROM {table} WHERE typeof({name}) = 'integer' AND {name} < ?"
        taken.append(database.execute(sql, (_NUMBER_MAX,)).fetchone()[0] or 0)
    free = max(taken) + Limits().ordinals
    text, values = reserve_ordinals(free)
    database.execute(text, values)
    return free


def misplaced(database: sqlite3.Connection, table: str) -> frozenset[int]:
    """Rows of the state or of promises that are under another key than they were written for: `keyed.moved`.

    Only a start can find them: whoever looks where they should be sees nothing. It looks for so long that it is not
    held up by it: how many that are depends on their values, which lie between name and checksum.
    """
    return moved(_for_a_while(database.execute(f"SELECT service, key, name, checksum FROM {table}")))


def _for_a_while(rows: Iterable[T]) -> Iterator[T]:
    deadline = time.monotonic() + LOOK_S
    try:
        for number, row in enumerate(rows, start=1):
            yield row
            if number % LOOK_ROWS == 0 and time.monotonic() > deadline:
                return
    except sqlite3.DatabaseError as error:  # what is on that page is told to whoever asks for it
        if not is_damage(error):
            raise


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
            log.store.warning("the revision of the service %r was damaged: it counts from 1 again", row[0])
            continue
        found[row[0]] = (row[1], row[2])
    return found
