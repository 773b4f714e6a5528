"""Many new invocations in one turn: what they share is handed over once, and the rows are the same."""

import sqlite3
from contextlib import closing
from typing import Any

import msgspec
import pytest

from durable.core.alike import Alike, InLine
from durable.core.effects import Writes
from durable.core.ids import fresh_id
from durable.core.invocation import Caller, Flavor, Invocation, Status, Submission
from durable.store import rows
from durable.store.format import migrations
from durable.store.statements import Statement, statements


def invocation(seq: int, **other: Any) -> Invocation:
    fields: dict[str, Any] = {
        "id": fresh_id(seq << 16, seq.to_bytes(22, "big")),
        "service": "S",
        "handler": "h",
        "key": f"k{seq % 7}" if seq % 3 else None,
        "flavor": Flavor.EXCLUSIVE,
        "input": b"%d\0\xff" % seq,
        "headers": {"n": str(seq)} if seq % 2 else {},
        "caller": Caller(0, "sub_1" + "0" * 22, 0, "kafka://c/t", False),
        "completion_retention_ms": 5,
        "journal_retention_ms": 4,
        **other,
    }
    place = (seq, None)[seq % 2]
    status = Status.READY if seq % 5 else Status.RUNNING
    return Invocation(seq, Submission(**fields), 17, status, attempt=seq % 2, queued=place, place=seq % 11)


def written(batch: list[Statement]) -> list[Any]:
    """The rows that a database has after these statements."""
    with closing(sqlite3.connect(":memory:")) as database:
        for _, script in migrations():
            database.executescript(script)
        for text, values in batch:
            database.execute(text, values)
        return database.execute(f"SELECT {rows.FIXED}, {rows.MOVING} FROM _invocations ORDER BY seq").fetchall()


@pytest.mark.parametrize("other", [{}, {"handler": "other"}, {"idempotency_key": "once"}, {"caller": None}])
@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_rows_are_what_they_would_be_one_by_one(count: int, other: dict[str, Any]) -> None:
    """Where all of them are alike, and where the last one is not."""
    created = {seq: invocation(seq) for seq in range(1, count)} | {count: invocation(count, **other)}
    batch = statements(Writes(created=created))
    assert written(batch) == [rows.fixed(one) + rows.moving(one) for one in created.values()]
    alike = count >= 128 and not other  # then a chunk of 128 has a dozen values a row, and not thirty
    chunk = next(size for size in (128, 64, 1) if count >= size)
    assert (len(batch[0][1]) < chunk * 20) == alike


def in_line(place: int, count: int, source: str) -> InLine:
    """So many that wait as rows, from the second one on that was read of a partition."""
    numbers = range(place, place + count + 1)
    shared = Submission(
        "", "S", "h", None, Flavor.SERVICE, b"", {}, None, Caller(0, "sub_1" + "0" * 22, 0, source, False), None, 5, 4
    )
    ids = [fresh_id(seq << 16, seq.to_bytes(22, "big")) for seq in numbers]
    inputs = [b"%d\0\xff" % seq for seq in numbers]
    headers = [msgspec.json.encode({"kafka.offset": str(seq)}).decode() for seq in numbers]
    return InLine(Alike(shared, numbers, ids, inputs, headers, (0, 0)), 1, place, 7 * place + 1, 17)


@pytest.mark.parametrize("counts", [(1,), (3, 4), (300, 300, 300, 124), (600, 1, 1447)])
def test_those_of_several_partitions_share_a_statement_where_they_are_alike(counts: tuple[int, ...]) -> None:
    """Two subscriptions, one after the other, of several partitions each; 1,024 rows are one statement."""
    several = [
        in_line(10_000 * turn + sum(counts[:number]), count, source)
        for turn, source in enumerate(("kafka://c/t", "kafka://c/u"))
        for number, count in enumerate(counts)
    ]
    batch = statements(Writes(in_line=several))
    assert written(batch) == [rows.fixed(one) + rows.moving(one) for some in several for one in some.invocations()]
    all_of_one = sum(counts)
    assert len(batch) == 2 * (all_of_one // 1024 + (all_of_one % 1024).bit_count())
