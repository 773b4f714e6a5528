"""A turn's writes as few SQL statements as possible.

Python's sqlite3 gives up the interpreter lock at every statement it steps and has to win it back from a busy event
loop, so a statement writes many rows. Row counts are cut into powers of two: the same few texts come back, and
sqlite3 finds them prepared.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from durable.core.alike import InLine
from durable.core.effects import Writes
from durable.store import keyed, rows, sources
from durable.store.answered import OVER, answered_row, owners_gone
from durable.store.checksums import checksum, with_checksums

Statement = tuple[str, Sequence[Any]]

#: How many rows a statement has at most; and one whose rows have few values, as those of records have.
_CHUNK, _CHUNK_OF_FEW = 128, 1024
#: By what they begin with, how many rows they have, and which columns are NULL in all of them.
_texts: dict[tuple[str, int, tuple[int, ...]], str] = {}


def statements(writes: Writes) -> list[Statement]:
    """Everything a turn writes, in an order in which later statements may rely on earlier ones."""
    out: list[Statement] = []
    if writes.purged:  # first, because their ids may be taken again below
        _forget(out, "_invocations", "seq", [seq for seq in writes.purged if seq not in writes.created])
    if writes.journal:
        _many(out, "INSERT OR REPLACE INTO journal VALUES ", 12, with_checksums(writes.journal))
    if writes.created:
        _create(out, [rows.fixed(new) + rows.moving(new) for new in writes.created.values()])
    if writes.in_line:
        _line_up(out, writes.in_line)
    if writes.changed:
        _many(
            out,
            _UPDATE,
            1 + len(rows.MOVING_NAMES),
            [(seq, *rows.moving(changed)) for seq, changed in writes.changed.items()],
        )
    if writes.timers_removed:
        _delete(out, "_timers", ("due_at", "seq", "entry"), writes.timers_removed)
    if writes.timers_added:
        _many(out, "INSERT OR REPLACE INTO _timers VALUES ", 3, list(writes.timers_added))
    _keyed(out, writes)
    if writes.listeners_removed:
        _delete(out, "listeners", ("topic", "seq", "entry"), writes.listeners_removed)
    if writes.listeners_added:
        _many(out, "INSERT OR REPLACE INTO listeners VALUES ", 3, list(writes.listeners_added))
    if writes.signals_removed:
        _delete(out, "signals", ("seq", "ordinal"), writes.signals_removed)
    if writes.signals_added:
        signals = [keyed.signal_row(seq, one) for seq, one in writes.signals_added]
        _many(out, "INSERT INTO signals VALUES ", 6, signals)
    if writes.purged or writes.promises_cleared:
        _delete(out, "answered", ("owner",), owners_gone(writes))
    if writes.answered_until is not None:
        out.append((OVER, (writes.answered_until,)))
    if writes.answered:
        answered = [answered_row(place, one) for place, one in writes.answered.items()]
        _many(out, "INSERT OR REPLACE INTO answered VALUES ", 8, answered)
    if writes.purged:  # last, with what the turn itself wrote for them
        _forget(out, "_invocations", "seq", [seq for seq in writes.purged if seq in writes.created])
        _forget(out, "journal", "invocation", writes.purged)
        _forget(out, "signals", "seq", writes.purged)
    if writes.journals_purged:
        _forget(out, "journal", "invocation", writes.journals_purged)
        _many(out, _JOURNAL_GONE, 1, [(seq,) for seq in writes.journals_purged])
    if writes.settings:
        settings = [(service, text, checksum((service, text))) for service, text in writes.settings.items()]
        _many(out, "INSERT OR REPLACE INTO settings VALUES ", 3, settings)
    if writes.declared:
        declared = [(name, *about, checksum((name, *about))) for name, about in writes.declared.items()]
        _many(out, "INSERT OR REPLACE INTO services VALUES ", 4, declared)
    if writes.positions or writes.subscriptions or writes.clusters:
        _sources(out, writes)
    if writes.ordinals_reserved is not None:
        out.append(reserve_ordinals(writes.ordinals_reserved))
    if writes.keys:
        _keys(out, writes.keys)
    return out


def reserve_ordinals(number: int) -> Statement:
    """Have the next start continue after `number`."""
    row = ("ordinals", number, checksum(("ordinals", number)))
    return "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", row


def _line_up(out: list[Statement], in_line: Iterable[InLine]) -> None:
    """New invocations that are alike: what they share is handed over once a chunk, and what is NULL not at all.

    Those of several partitions go into one statement.
    """
    for shared, some in groupby(map(rows.in_line, in_line), itemgetter(0)):
        own = [list(chain.from_iterable(parts)) for parts in zip(*(columns for _, columns in some), strict=True)]
        places = ", ".join(f"?{number}" for number in range(1, len(shared) + 1))
        columns = ", ".join(f"column{number}" for number in range(1, len(own) + 1))
        names = ", ".join((*shared, *rows.IN_LINE_OWN))
        head = f"INSERT INTO _invocations ({names}) SELECT {places}, {columns} FROM (VALUES $rows)"
        _columns(out, head, own, tuple(shared.values()), _CHUNK_OF_FEW)


def _create(out: list[Statement], created: Sequence[Sequence[Any]]) -> None:
    """New invocations. Of many that are alike, as a poll's records are, what they share is handed over once a chunk.

    Handing over values takes as long as writing them: a row has forty, and those of a poll differ in a dozen.
    """
    if len(created) < _CHUNK:
        _many(out, _INSERT, len(_COLUMNS), created)
        return
    shared = _shared(created[0])
    if any(_shared(row) != shared for row in created):
        _many(out, _INSERT, len(_COLUMNS), created)
        return
    _many(out, _INSERT_ALIKE, len(_OWN), [_own(row) for row in created], shared)


def _forget(out: list[Statement], table: str, column: str, seqs: list[int]) -> None:
    _delete(out, table, (column,), [(seq,) for seq in seqs])


def _keyed(out: list[Statement], writes: Writes) -> None:
    if writes.state_cleared:
        _delete(out, "_state", ("service", "key"), writes.state_cleared)
    if writes.promises_cleared:
        _delete(out, "promises", ("service", "key"), writes.promises_cleared)
    if writes.state:
        gone = [name for name, value in writes.state.items() if value is None]
        if gone:
            _delete(out, "_state", ("service", "key", "name"), gone)
        kept = [keyed.state_row(*name, value) for name, value in writes.state.items() if value is not None]
        if kept:
            _many(out, "INSERT OR REPLACE INTO _state VALUES ", 5, kept)
    if writes.promises:
        settled = [keyed.promise_row(*name, outcome) for name, outcome in writes.promises.items()]
        _many(out, "INSERT OR REPLACE INTO promises VALUES ", 6, settled)


def _sources(out: list[Statement], writes: Writes) -> None:
    moved = [sources.position_row(place, at) for place, at in writes.positions.items() if at is not None]
    if moved:
        _many(out, "INSERT OR REPLACE INTO positions VALUES ", 11, moved)
    gone = [place for place, at in writes.positions.items() if at is None]
    if gone:
        _delete(out, "positions", ("cluster", "group_id", "topic", "partition"), gone)
    for table, column, values in (
        ("subscriptions", "id", sources.parts(writes.subscriptions)),
        ("clusters", "name", sources.parts(writes.clusters)),
    ):
        gone, kept = values
        if gone:
            _delete(out, table, (column,), gone)
        if kept:
            _many(out, f"INSERT OR REPLACE INTO {table} VALUES ", 3, kept)


def _keys(out: list[Statement], keys: Mapping[str, bytes | None]) -> None:
    gone = [(id,) for id, probe in keys.items() if probe is None]
    if gone:
        _delete(out, "codec_keys", ("key_id",), gone)
    used = [(id, probe, checksum((id,), probe)) for id, probe in keys.items() if probe is not None]
    if used:
        _many(out, "INSERT OR REPLACE INTO codec_keys VALUES ", 3, used)


def _many(
    out: list[Statement], head: str, width: int, values: Sequence[Sequence[Any]], shared: Sequence[Any] = ()
) -> None:
    """The same from rows: see `_columns`."""
    if values:
        _columns(out, head, list(zip(*values, strict=True)), shared)


def _columns(
    out: list[Statement],
    head: str,
    columns: Sequence[Sequence[Any]],
    shared: Sequence[Any] = (),
    longest: int = _CHUNK,
) -> None:
    """`head`, with what its rows share, followed by as many of them as fit, in chunks of powers of two.

    What is NULL in all rows of a chunk stands in the text.
    """
    start, left = 0, len(columns[0])
    while left:
        size = longest if left >= longest else 1 << (left.bit_length() - 1)
        chunk = [column[start : start + size] for column in columns]
        nulls = tuple([place for place, column in enumerate(chunk) if column[0] is None and _all_null(column)])
        text = _texts.get((head, size, nulls))
        if text is None:
            row = "(" + ", ".join("NULL" if place in nulls else "?" for place in range(len(chunk))) + ")"
            rows = ", ".join([row] * size)
            text = _texts[head, size, nulls] = head.replace("$rows", rows) + ("" if "$rows" in head else rows)
        bound = [_bindable(column) for place, column in enumerate(chunk) if place not in nulls]
        values: list[Any] = [None] * (size * len(bound))
        for place, column in enumerate(bound):
            values[place :: len(bound)] = column
        out.append((text, [*shared, *values]))
        start += size
        left -= size


def _all_null(column: Sequence[Any]) -> bool:
    return column.count(None) == len(column)


def _bindable(column: Sequence[Any]) -> Sequence[Any]:
    """The same values, as what sqlite3 takes at once: for others it asks for an adapter, which takes it longer.

    (Up to Python 3.11 three to nine times longer than for an `int`, with an error that it makes and drops.)
    """
    kind = type(column[0])
    if kind is bytes:
        return [bytearray(value) if type(value) is bytes else value for value in column]
    if kind is bool:
        return [+value if type(value) is bool else value for value in column]
    if kind is not str and issubclass(kind, str):
        return [str.__str__(value) if isinstance(value, str) else value for value in column]
    return column


_COLUMNS = (*rows.FIXED_NAMES, *rows.MOVING_NAMES)
_INSERT = f"INSERT INTO _invocations ({rows.FIXED}, {rows.MOVING}) VALUES "
#: In what new invocations differ, also those that are alike.
_OWN = tuple(
    _COLUMNS.index(name)
    for name in (
        "seq", "id", "key", "input", "headers", "status", "attempt", "queued", "place", "checksum", "moving_checksum"
    )
)  # fmt: skip
_SHARED = tuple(place for place in range(len(_COLUMNS)) if place not in _OWN)
_own, _shared = itemgetter(*_OWN), itemgetter(*_SHARED)
_INSERT_ALIKE = (
    f"INSERT INTO _invocations ({', '.join(_COLUMNS[place] for place in (*_SHARED, *_OWN))}) SELECT "
    + ", ".join([f"?{number}" for number in range(1, len(_SHARED) + 1)])
    + ", "
    + ", ".join(f"column{number}" for number in range(1, len(_OWN) + 1))
    + " FROM (VALUES $rows)"
)
_UPDATE = (
    "UPDATE _invocations SET "
    + ", ".join(f"{name} = new.column{place}" for place, name in enumerate(rows.MOVING_NAMES, 2))
    + " FROM (VALUES $rows) AS new WHERE _invocations.seq = new.column1"
)
_JOURNAL_GONE = "UPDATE _invocations SET journal_until = 0 WHERE (seq) IN (VALUES $rows)"


def _delete(out: list[Statement], table: str, columns: tuple[str, ...], keys: Iterable[Sequence[Any]]) -> None:
    names = ", ".join(columns)
    head = f"DELETE FROM {table} WHERE ({names}) IN (VALUES $rows)"
    _many(out, head, len(columns), list(keys))
