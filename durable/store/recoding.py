"""Encodes stored values again that have an older key or are in clear, and counts which keys are needed.

Rows are rewritten a few hundred at a time. Each piece is read and written in one go, on the thread that writes. So an
engine goes on meanwhile, and if this is cut short, rows of the old key and of the new one are there, and both can be
read.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from durable.codec import Sealing, key_id_of
from durable.core.invocation import Problem, Signal
from durable.core.journal import Outcome
from durable.core.once import Place
from durable.errors import CodecError, StorageCorruptError
from durable.store import keyed, rows
from durable.store.answered import answered_of, answered_row
from durable.store.checksums import with_checksums
from durable.store.sealing import (
    HEADERS,
    asked_place,
    open_invocation,
    open_row,
    open_signals,
    promise_place,
    sealed_invocation,
    sealed_row,
    sealed_signal,
    state_place,
)
from durable.store.statements import Statement

#: How many rows are looked at and rewritten in one transaction, and about how many bytes they have.
LOOKED_AT_ONCE, AT_ONCE, BYTES_AT_ONCE = 2000, 200, 4 * 1024 * 1024
_headers = msgspec.json.Decoder(dict[str, str]).decode
_problem = msgspec.json.Decoder(Problem).decode
#: A row of the database, as it is read.
Stored = Sequence[Any]


class Piece(msgspec.Struct):
    """Some rows of a table, rewritten."""

    #: Where the next piece begins; None where there is none.
    after: Stored | None
    #: How many rows were rewritten.
    rewritten: int = 0
    batch: list[Statement] = []


class Table(msgspec.Struct, frozen=True):
    """A table with values in it."""

    name: str
    #: Its primary key, of so many of its first columns.
    key: tuple[str, ...]
    columns: str
    #: The ids of the keys that one row needs, "" for what is in clear.
    keys: Callable[[Stored], Iterator[str]]
    #: A row encoded with the newest key. Raises `CodecError`, `StorageCorruptError` where it is left as it is.
    again: Callable[[Sealing, Stored], Statement]


def piece(database: sqlite3.Connection, sealing: Sealing, table: Table, after: Stored | None) -> Piece:
    """Rewrites the next rows of a table that are not encoded with the newest key."""
    newest = sealing.key_id
    found = Piece(None)
    size = 0
    for looked, row in enumerate(_rows(database, table, after)):
        if looked == LOOKED_AT_ONCE or len(found.batch) == AT_ONCE or size > BYTES_AT_ONCE:
            return found
        found.after = row[: len(table.key)]
        if all(id == newest for id in table.keys(row)):
            continue
        try:
            text, values = table.again(sealing, row)
        except (CodecError, StorageCorruptError):
            continue  # it is damaged
        if all(value in row for value in values if isinstance(value, bytes | str)):
            continue  # the key is missing
        found.batch.append((text, values))
        found.rewritten += 1
        size += sum(len(value) for value in row if isinstance(value, bytes | str))
    found.after = None
    return found


def _rows(database: sqlite3.Connection, table: Table, after: Stored | None) -> Iterator[Stored]:
    names = ", ".join(table.key)
    where = "" if after is None else f" WHERE ({names}) > ({', '.join('?' * len(table.key))})"
    sql = f"SELECT {table.columns} FROM {table.name}{where} ORDER BY {names}"
    return database.execute(sql, tuple(after or ()))


def keys_in_use(database: sqlite3.Connection) -> dict[str, int]:
    """How many rows need each key, by its id; "" counts rows with a value in clear. Reads all of the database."""
    found: Counter[str] = Counter()
    for table in TABLES:
        for row in _rows(database, table, None):
            found.update(set(table.keys(row)))
    return dict(found)


def overwrite(database: sqlite3.Connection) -> Piece:
    """Make SQLite overwrite with zeros what is replaced from now on, because it may be in clear."""
    database.execute("PRAGMA secure_delete = ON").fetchall()
    return Piece(None)


# ---- invocations ----

_INPUT, _HEADERS = rows.FIXED_NAMES.index("input"), rows.FIXED_NAMES.index("headers")
_OUTPUT = rows.FIXED_COUNT + rows.MOVING_NAMES.index("output")
_FAILURE = rows.FIXED_COUNT + rows.MOVING_NAMES.index("last_failure")


def _keys_of_invocation(row: Stored) -> Iterator[str]:
    yield key_id_of(row[_INPUT])
    if row[_OUTPUT] is not None:
        yield key_id_of(row[_OUTPUT])
    try:
        if row[_HEADERS]:
            yield key_id_of(_headers(row[_HEADERS]).get(HEADERS, ""))
        if row[_FAILURE]:
            problem = _problem(row[_FAILURE])
            yield from (key_id_of(text) for text in (problem.message, problem.stacktrace) if text)
    except msgspec.MsgspecError:  # it is damaged
        return


def _invocation_again(sealing: Sealing, row: Stored) -> Statement:
    one = rows.invocation_of(row)
    if one.damaged or one.unnoted or one.id != row[1]:
        raise StorageCorruptError("it is damaged")
    open_invocation(sealing, one)
    sealed = sealed_invocation(sealing, one, asked=True)
    fixed = dict(zip(rows.FIXED_NAMES, rows.fixed(sealed), strict=True))
    moving = dict(zip(rows.MOVING_NAMES, rows.moving(sealed), strict=True))
    new = {name: fixed[name] for name in ("input", "headers", "checksum")}
    new |= {name: moving[name] for name in ("output", "last_failure", "moving_checksum")}
    text = f"UPDATE _invocations SET {', '.join(f'{name} = ?' for name in new)} WHERE seq = ?"
    return text, (*new.values(), one.seq)


# ---- journals ----


def _keys_of_entry(row: Stored) -> Iterator[str]:
    if row[9] is not None:
        yield key_id_of(row[9])
    if row[5] is not None and row[8] is not None and row[2] == 0:
        yield key_id_of(row[5])


def _entry_again(sealing: Sealing, row: Stored) -> Statement:
    [one] = rows.journal_of([row], partly=True)
    [new] = with_checksums([sealed_row(sealing, open_row(sealing, one))])
    return f"INSERT OR REPLACE INTO journal VALUES ({', '.join('?' * 12)})", new


# ---- what has names ----


def _key_at(place: int) -> Callable[[Stored], Iterator[str]]:
    def keys(row: Stored) -> Iterator[str]:
        yield key_id_of(row[place])

    return keys


def _state_again(sealing: Sealing, row: Stored) -> Statement:
    service, key, name, value, stored = row
    _check(keyed.state_row(service, key, name, value)[-1], stored)
    place = state_place(service, key, name)
    new = keyed.state_row(service, key, name, sealing.seal(sealing.open(value, place), place))
    return "INSERT OR REPLACE INTO _state VALUES (?, ?, ?, ?, ?)", new


def _promise_again(sealing: Sealing, row: Stored) -> Statement:
    service, key, name, ok, value, stored = row
    _check(keyed.promise_row(service, key, name, Outcome(ok == 1, value))[-1], stored)
    place = promise_place(service, key, name, ok == 1)
    value = sealing.seal(sealing.open(value, place), place)
    return "INSERT OR REPLACE INTO promises VALUES (?, ?, ?, ?, ?, ?)", keyed.promise_row(
        service, key, name, Outcome(ok == 1, value)
    )


def _signal_again(sealing: Sealing, row: Stored) -> Statement:
    seq, ordinal, name, ok, value, stored = row
    one = Signal(ordinal, name, Outcome(ok == 1, value))
    _check(keyed.signal_row(seq, one)[-1], stored)
    [opened], _ = open_signals(sealing, seq, [one])
    new = keyed.signal_row(seq, sealed_signal(sealing, seq, opened))
    return "INSERT OR REPLACE INTO signals VALUES (?, ?, ?, ?, ?, ?)", new


def _asked_again(sealing: Sealing, row: Stored) -> Statement:
    place = Place(*row[:3])
    one = answered_of(place, row)
    if one.damage:
        raise StorageCorruptError(one.damage)
    print = sealing.open(one.print, asked_place(place))
    new = answered_row(place, msgspec.structs.replace(one, print=sealing.seal(print, asked_place(place))))
    return "INSERT OR REPLACE INTO answered VALUES (?, ?, ?, ?, ?, ?, ?, ?)", new


def _check(wanted: int, stored: Any) -> None:
    """What is damaged is left as it is, so that its checksum goes on to tell."""
    if stored is not None and stored != wanted:
        raise StorageCorruptError("it is damaged")


TABLES = (
    Table("_invocations", ("seq",), f"{rows.FIXED}, {rows.MOVING}", _keys_of_invocation, _invocation_again),
    Table("journal", ("invocation", "entry", "part"), "*", _keys_of_entry, _entry_again),
    Table("_state", ("service", "key", "name"), "*", _key_at(3), _state_again),
    Table("promises", ("service", "key", "name"), "*", _key_at(4), _promise_again),
    Table("signals", ("seq", "ordinal"), "*", _key_at(4), _signal_again),
    Table("answered", ("owner", "about", "key"), "*", _key_at(5), _asked_again),
)
