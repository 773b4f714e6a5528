"""Indexes of a large file are compared with their table in the background, and made again where they differ."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from durable import Context, Engine, Workflow, WorkflowContext, handler
from durable.store import indexes, soundness
from durable.store.indexes import BY_ID, Index, IndexCheck, compare

#: How long the check may take that finds something.
SOON_S = 60.0


async def count(number: int) -> int:
    ran.append(number)
    return number


ran: list[int] = []


@handler(service="Plain")
async def once(ctx: Context, number: int) -> int:
    return await ctx.run(count, number)


@handler(service="Plain")
async def caller(ctx: Context, number: int) -> int:
    await ctx.call(once, number)
    return await ctx.awakeable(int)


class Batch(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, number: int) -> int:
        return number


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with invocations of every kind, that counts as large; and pieces are small."""
    monkeypatch.setattr(soundness, "LOOKED_THROUGH_MAX", 0)
    monkeypatch.setattr(indexes, "PIECE", 7)
    path = tmp_path / "durable.db"

    async def story() -> None:
        async with engine_on(path) as engine:
            for number in range(12):
                await engine.call(once, number, idempotency_key=f"k{number}")
                await engine.call(Batch.run, number, key=f"k{number}")
                await engine.send(caller, number)
                await engine.send(once, number, delay="1h")

    asyncio.run(story())
    ran.clear()
    return path


def engine_on(path: Path) -> Engine:
    return Engine(path, services=[once, caller, Batch()], synchronous="NORMAL")


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def all_of(path: Path) -> list[Index]:
    database = opened(path)
    try:
        return indexes.indexes(database)
    finally:
        database.close()


def spoil(path: Path, index: str, do: str) -> None:
    """Change entries of an index behind its back: it is made of another table, and given to the right one then."""
    database = opened(path)
    root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (index,)).fetchone()[0]
    one = next(one for one in indexes.indexes(database) if one.name == index)
    database.execute("PRAGMA writable_schema = ON")
    database.execute("CREATE TABLE copy AS SELECT * FROM _invocations WHERE 0")
    kept = database.execute("SELECT name, sql FROM sqlite_master WHERE name = ?", (index,)).fetchone()
    columns = ", ".join(f"c{place}" for place in range(len(one.expressions)))
    database.execute(
        "INSERT INTO sqlite_master VALUES ('table', 'entries', 'entries', ?, ?)",
        (root, f"CREATE TABLE entries ({columns}, seq, PRIMARY KEY ({columns}, seq)) WITHOUT ROWID"),
    )
    assert kept
    database.close()
    database = opened(path)
    database.execute("PRAGMA writable_schema = ON")
    assert database.execute(do).rowcount > 0
    database.execute("DELETE FROM sqlite_master WHERE name = 'entries'")
    database.execute("DROP TABLE copy")
    database.close()


def differs(path: Path, index: str) -> bool:
    database = opened(path)
    try:
        one = next(one for one in indexes.indexes(database) if one.name == index)
        return not all(compare(database, one))
    finally:
        database.close()


def names() -> list[str]:
    from durable.store.format import migrations

    database = sqlite3.connect(":memory:")
    for _, script in migrations():
        database.executescript(script)
    found = [one.name for one in indexes.indexes(database)]
    database.close()
    return found


@pytest.mark.parametrize("index", names())
def test_each_index_agrees_with_its_table_until_an_entry_is_gone_or_astray(path: Path, index: str) -> None:
    assert not differs(path, index)
    database = opened(path)
    empty = not database.execute(
        next(o for o in all_of(path) if o.name == index).entries(first=True), (1, 0)
    ).fetchall()
    database.close()
    if empty:  # these are transient: nobody runs or waits for a slot in a closed file, and nothing has expired
        assert index.removeprefix("invocations_") in ("running", "ready", "failed", "queue", "journal_expiry")
        return
    spoil(path, index, "DELETE FROM entries WHERE seq = (SELECT max(seq) FROM entries)")
    assert differs(path, index)
    database = opened(path)
    database.execute(f"REINDEX {index}")
    database.close()
    assert not differs(path, index)
    spoil(path, index, "UPDATE entries SET seq = 1000 WHERE seq = (SELECT max(seq) FROM entries)")
    assert differs(path, index)


def test_a_damaged_index_is_found_and_made_again_while_the_engine_works(path: Path) -> None:
    spoil(path, BY_ID, "DELETE FROM entries WHERE seq > 4")

    async def story() -> None:
        async with engine_on(path) as engine:
            asked = time.monotonic()
            while not engine.damage:
                assert time.monotonic() - asked < SOON_S
                assert await engine.call(once, 100) == 100
                await asyncio.sleep(0.01)
            assert BY_ID in engine.damage[0]
            assert "made again" in engine.damage[0]
            for number in range(12):
                assert await engine.call(once, -1, idempotency_key=f"k{number}") == number

    asyncio.run(story())
    assert set(ran) == {100}, "something ran a second time"
    assert not differs(path, BY_ID)


def test_what_an_index_does_not_know_is_not_accepted_a_second_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the check has come to it, a request whose first invocation cannot be found has the index made again."""
    monkeypatch.setattr(IndexCheck, "start", lambda self: None)
    spoil(path, BY_ID, "DELETE FROM entries")

    async def story() -> None:
        async with engine_on(path) as engine:
            for number in range(12):
                assert await engine.call(once, -1, idempotency_key=f"k{number}") == number
            assert len(engine.damage) == 1

    asyncio.run(story())
    assert ran == []


def test_a_page_of_an_index_that_cannot_be_read_is_made_again_too(path: Path) -> None:
    database = opened(path)
    root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'invocations_created'").fetchone()[0]
    database.close()
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096] = 0xFF
    path.write_bytes(data)

    async def story() -> None:
        async with engine_on(path) as engine:
            asked = time.monotonic()
            while not engine.damage:
                assert time.monotonic() - asked < SOON_S
                await asyncio.sleep(0.01)
            assert "invocations_created" in engine.damage[0]

    asyncio.run(story())


def test_a_close_does_not_wait_for_the_check_and_the_log_is_emptied_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no snapshot between two pieces."""
    monkeypatch.setattr(indexes, "RESTS", 10_000)

    async def story() -> None:
        async with engine_on(path) as engine:
            for number in range(50):
                await engine.call(once, number)
            reader = opened(path)
            busy, in_log, emptied = reader.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            reader.close()
            assert (busy, in_log, emptied) == (0, 0, 0)

    began = time.monotonic()
    asyncio.run(story())
    assert time.monotonic() - began < SOON_S
