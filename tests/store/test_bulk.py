"""Many new invocations in one turn: what they share is handed over once, and the rows are the same."""

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from durable.core.effects import Writes
from durable.core.ids import fresh_id
from durable.core.invocation import Caller, Flavor, Invocation, Status, Submission
from durable.store import rows
from durable.store.format import migrations
from durable.store.statements import statements


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


@pytest.mark.parametrize("other", [{}, {"handler": "other"}, {"idempotency_key": "once"}, {"caller": None}])
@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_rows_are_what_they_would_be_one_by_one(count: int, other: dict[str, Any]) -> None:
    """Where all of them are alike, and where the last one is not."""
    created = {seq: invocation(seq) for seq in range(1, count)} | {count: invocation(count, **other)}
    with closing(sqlite3.connect(":memory:")) as database:
        for _, script in migrations():
            database.executescript(script)
        batch = statements(Writes(created=created))
        for text, values in batch:
            database.execute(text, values)
        found = database.execute(f"SELECT {rows.FIXED}, {rows.MOVING} FROM _invocations ORDER BY seq").fetchall()
    assert found == [rows.fixed(one) + rows.moving(one) for one in created.values()]
    alike = count >= 128 and not other  # then a chunk of 128 has a dozen values a row, and not thirty
    chunk = next(size for size in (128, 64, 1) if count >= size)
    assert (len(batch[0][1]) < chunk * 20) == alike
