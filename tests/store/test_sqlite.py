"""What only the store on SQLite does: its file, pragmas and migrations, and what it says when the disk says no."""

import asyncio
import errno
import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from durable import (
    Context,
    Engine,
    EngineFailedError,
    ObjectContext,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
    StorageVersionError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.effects import Need, Writes
from durable.core.ids import FULL, READABLE, awakeable_id, claimed_id
from durable.core.invocation import Caller, Status
from durable.core.journal import Kind, Outcome, Row
from durable.core.lifecycle.cancel import has_leaves
from durable.core.waiting import Awaited
from durable.store import CommitRefused, Expired, Opened, Store, journals, soundness
from durable.store.faults import explain
from durable.store.filter import Filter
from durable.store.format import APPLICATION_ID, migrations
from durable.store.rows import journal_of
from durable.store.sqlite import SqliteStore
from tests.store.support import DAY, NOW, a_row, an_invocation, opened, play

NEWEST = max(number for number, _ in migrations())
SOMETHING = Writes(settings={"Shop": "{}"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


def pragma(path: Path, name: str) -> Any:
    """What another connection reads in the file."""
    database = sqlite3.connect(path)
    try:
        return database.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        database.close()


def commit(path: Path, writes: Writes) -> None:
    """One turn, by an engine that was there before."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(writes)

    play(story)


def open_only(path: Path | str) -> Opened:
    """What opening gives, or raises."""

    async def story() -> Opened:
        async with opened(SqliteStore(path)) as (_, where):
            return where

    return asyncio.run(story())


def photograph(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def without_counters(files: dict[str, bytes]) -> dict[str, bytes]:
    """Photographs without the two places of the header in which SQLite counts that the file was written."""
    return {name: data[:24] + data[28:92] + data[96:] for name, data in files.items()}


# ---- the file ----


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_commits_are_synced_as_promised(
    path: Path, synchronous: Literal["FULL", "NORMAL"], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remembered(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connections.append(connect(*args, **kwargs))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", remembered)

    async def story() -> None:
        async with opened(SqliteStore(path, synchronous=synchronous)):
            database = connections[0]
            told = {
                name: database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("synchronous", "journal_mode", "user_version", "application_id", "locking_mode")
            }
            assert told == {
                "synchronous": level,
                "journal_mode": "wal",
                "user_version": NEWEST,
                "application_id": APPLICATION_ID,
                "locking_mode": "normal",
            }

    play(story)


def test_an_engine_syncs_every_commit_unless_told_otherwise(path: Path) -> None:
    assert SqliteStore(path)._synchronous == "FULL"
    assert cast(SqliteStore, Engine(path)._store)._synchronous == "FULL"
    assert cast(SqliteStore, Engine(path, synchronous="NORMAL")._store)._synchronous == "NORMAL"


@pytest.mark.parametrize("wrong", ["OFF", "off", "full", "EXTRA", "", None, 2])
def test_other_levels_of_synchronous_are_refused(path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="'FULL' or 'NORMAL'"):
        SqliteStore(path, synchronous=wrong)
    with pytest.raises(ValueError, match="'FULL' or 'NORMAL'"):
        Engine(path, synchronous=wrong)
    assert not path.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read_the_files(path: Path, umask: int) -> None:
    """R-39: journals hold inputs and headers."""
    before = os.umask(umask)
    try:

        async def story() -> None:
            async with opened(SqliteStore(path)) as (store, _):
                await store.commit(SOMETHING)
                modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
                assert set(modes) >= {"durable.db", "durable.db-wal"}
                assert set(modes.values()) == {0o600}, modes

        play(story)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_clean_close_leaves_one_file_that_can_be_copied(path: Path, tmp_path: Path) -> None:
    commit(path, Writes(created={1: an_invocation()}, settings={"Shop": "{}"}))
    assert [file.name for file in tmp_path.iterdir()] == ["durable.db"]
    copy = Path(shutil.copy(path, tmp_path / "copy.db"))
    assert open_only(copy) == Opened(next_ordinal=16, next_seq=2, settings={"Shop": "{}"}, crashed=True)


@pytest.mark.parametrize("name", ["with space.db", "имя 🚀.db", "%2F?mode=ro.db", "#x.db", "a'b\".db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(SOMETHING)
            await store.backup(str(tmp_path / f"backup of {name}"))

    play(story)
    assert open_only(path).settings == {"Shop": "{}"}
    assert open_only(tmp_path / f"backup of {name}").settings == {"Shop": "{}"}


def test_a_relative_path_stays_the_same_file_when_the_process_changes_directory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    async def story() -> None:
        async with opened(SqliteStore("durable.db")) as (store, _):
            await store.commit(SOMETHING)
            os.chdir(elsewhere)
            await store.commit(Writes(settings={"Mail": "{}"}))
            await store.backup(str(tmp_path / "backup.db"))

    play(story)
    assert list(elsewhere.iterdir()) == []
    assert open_only(tmp_path / "backup.db").settings == {"Shop": "{}", "Mail": "{}"}


# ---- migrations ----


def test_an_empty_file_becomes_the_newest_version(path: Path) -> None:
    path.touch()
    assert open_only(path) == Opened(next_ordinal=16, next_seq=1)
    assert pragma(path, "user_version") == NEWEST
    assert pragma(path, "application_id") == APPLICATION_ID
    assert pragma(path, "integrity_check") == "ok"


def test_migrations_are_numbered_without_gaps() -> None:
    assert [number for number, _ in migrations()] == list(range(1, NEWEST + 1))


def test_opening_again_changes_nothing(path: Path, tmp_path: Path) -> None:
    commit(path, SOMETHING)
    before = without_counters(photograph(tmp_path))
    for _ in range(3):
        open_only(path)
    assert without_counters(photograph(tmp_path)) == before


def test_a_migration_that_breaks_off_leaves_the_version_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-30: each is one transaction, with the version number inside."""
    commit(path, SOMETHING)
    broken = [*migrations(), (NEWEST + 1, "CREATE TABLE half (a); INSERT INTO nowhere VALUES (1);")]
    with monkeypatch.context() as patch:
        patch.setattr("durable.store.format.migrations", lambda: broken)
        with pytest.raises(StorageError, match="nowhere"):
            open_only(path)
    assert pragma(path, "user_version") == NEWEST
    assert open_only(path).settings == {"Shop": "{}"}
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    database.close()


def test_a_new_migration_is_applied_to_an_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(path, SOMETHING)
    more = [*migrations(), (NEWEST + 1, "CREATE TABLE more (a);"), (NEWEST + 2, "INSERT INTO more VALUES (1);")]
    monkeypatch.setattr("durable.store.format.migrations", lambda: more)
    for _ in range(2):
        assert open_only(path).settings == {"Shop": "{}"}
    assert pragma(path, "user_version") == NEWEST + 2
    database = sqlite3.connect(path)
    assert database.execute("SELECT * FROM more").fetchall() == [(1,)]
    database.close()


# ---- a file of version 1 ----

#: Every column an invocation had then, as one that runs.
FIRST = {
    "seq": 1, "id": an_invocation(1).id, "service": "Shop", "handler": "buy", "key": None, "flavor": "service",
    "input": b'"tea"', "headers": None, "idempotency_key": None, "caller_seq": None, "caller_id": None,
    "caller_entry": None, "caller_target": None, "caller_waits": None, "completion_retention_ms": DAY,
    "journal_retention_ms": DAY, "created_at": NOW, "status": "running", "attempt": 1, "failures": 0,
    "step_failures": None, "last_failure": None, "due_at": None, "queued": None, "waiting_for": None,
    "cancelling": 0, "listened": 0, "modified_at": NOW, "completed_at": None, "ok": None, "output": None,
    "expires_at": None,
}  # fmt: skip


def first(seq: int, **columns: Any) -> dict[str, Any]:
    """An invocation's row as version 1 wrote it."""
    return FIRST | {"seq": seq, "id": an_invocation(seq).id} | columns


def first_completed(seq: int, *, at: int = NOW, journal_ms: int = DAY, **columns: Any) -> dict[str, Any]:
    """One that has ended."""
    ended = {"status": "completed", "completed_at": at, "ok": 1, "output": b'"done"', "expires_at": at + DAY}
    return first(seq, **(ended | columns), journal_retention_ms=journal_ms)


def version_one(path: Path, *invocations: dict[str, Any], rows: Sequence[Row] = ()) -> None:
    """A file as an engine of version 1 left it."""
    database = sqlite3.connect(path)
    database.executescript(
        f"PRAGMA journal_mode = WAL; PRAGMA application_id = {APPLICATION_ID};\n{dict(migrations())[1]}\n"
        "PRAGMA user_version = 1;"
    )
    for one in invocations:
        columns, places = ", ".join(one), ", ".join("?" * len(one))
        database.execute(f"INSERT INTO invocations ({columns}) VALUES ({places})", [*one.values()])
    database.executemany(f"INSERT INTO journal VALUES ({', '.join('?' * 11)})", rows)
    database.execute("INSERT INTO settings VALUES ('Shop', '{\"public\":false}')")
    database.execute("INSERT INTO state VALUES ('Box', 'k', 'n', x'37')")
    database.execute("INSERT INTO timers VALUES (?, 2, 1)", (NOW + 5,))
    database.execute("UPDATE meta SET value = 1000016 WHERE name = 'ordinals'")
    database.commit()
    database.close()


def test_a_file_of_version_1_has_what_it_had(path: Path) -> None:
    cancelled = b'{"message":"cancelled","code":409,"kind":"cancelled"}'
    version_one(
        path,
        first(1, cancelling=1, headers='{"x-a":"1"}', idempotency_key="i", caller_seq=7, caller_id="inv_1" + "7" * 33,
              caller_entry=3, caller_target="Shop/x", caller_waits=1),
        first(2, status="suspended", waiting_for="1"),
        first_completed(3, ok=0, output=cancelled),
        rows=[
            a_row(1, 1, kind=Kind.CALL, name="Shop/x", detail=an_invocation(2).id, value=b"12345678"),
            a_row(1, 2, kind=Kind.RUN, name="slow"),
            a_row(2, 1, kind=Kind.SLEEP, name="", detail=str(NOW + 5)),
            a_row(3, 1, outcome=Outcome(True, b"1"), ordinal=16),
        ],
    )  # fmt: skip

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, where):
            assert where == Opened(1_000_016, 4, {"Shop": '{"public":false}'}, {})
            found = await store.load(Need(seqs={1, 2, 3}, keys={("Box", "k")}, journals={3}))
            one, two, three = found.invocations
            assert (one.submission.headers, one.submission.idempotency_key) == ({"x-a": "1"}, "i")
            assert one.submission.caller == Caller(7, "inv_1" + "7" * 33, 3, "Shop/x", True)
            assert (one.submission.restarted_from, one.submission.seed, one.pausing) == (None, None, False)
            assert (one.status, one.cancelling, one.last_entry, set(one.open)) == (Status.RUNNING, 1, 2, {1, 2})
            assert has_leaves(one), "the cancel that was under way waits for the call"
            one.kept[1] = Outcome(False, cancelled)
            assert not has_leaves(one), "and not for a step: so it was when it was accepted"
            assert (two.status, two.waiting, two.open[1].ref) == (Status.SUSPENDED, Awaited(1), NOW + 5)
            assert (three.outcome, three.journal_kept) == (Outcome(False, cancelled), True)
            assert [row.value for row in found.journals[3]] == [b"1"]
            assert found.keys[0].state == {"n": b"7"}
            assert list(await store.timers(None, 9)) == [(NOW + 5, 2, 1)]
            assert list(await store.running(0, 9)) == [(1, 0)]

    play(story)
    assert pragma(path, "user_version") == NEWEST
    assert pragma(path, "integrity_check") == "ok"


def test_journals_of_version_1_expire_as_if_it_had_known_of_that(path: Path) -> None:
    version_one(
        path,
        first_completed(1, journal_ms=1000),
        first_completed(2, journal_ms=DAY),
        first_completed(3, journal_ms=2 * DAY),
        first_completed(4, journal_ms=0),
        first_completed(5, journal_ms=1000, flavor="workflow", key="k"),
        first(6, journal_retention_ms=1),
        rows=[a_row(seq, 1, outcome=Outcome(True, b"1"), ordinal=15 + seq) for seq in range(1, 7)],
    )

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):

            async def gone(now: int) -> set[tuple[int, bool, bool]]:
                return {(one.seq, one.workflow, one.journal_only) for one in await store.expired(now, 9)}

            assert await gone(NOW - 1) == set()
            assert await gone(NOW) == {(4, False, True)}
            assert await gone(NOW + 1000) == {(1, False, True), (4, False, True), (5, True, True)}
            await store.commit(Writes(journals_purged=[1, 4]))
            assert await gone(NOW + DAY - 1) == {(5, True, True)}
            assert await gone(NOW + DAY) == {(seq, seq == 5, False) for seq in range(1, 6)}

    play(story)


def test_a_file_of_version_1_takes_everything_that_is_new(path: Path) -> None:
    version_one(path, first(1), first_completed(2))

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            [one] = (await store.load(Need(seqs={1}))).invocations
            one.pausing = True
            again = an_invocation(3, restarted_from=one.id, seed=one.id)
            await store.commit(
                Writes(changed={1: one}, created={3: again}, declared={"Shop": (1, "x")}, journals_purged=[2])
            )
        async with opened(SqliteStore(path)) as (store, where):
            assert where.declared == {"Shop": (1, "x")}
            found = {one.seq: one for one in (await store.load(Need(seqs={1, 2, 3}))).invocations}
            assert (found[1].pausing, found[2].journal_kept, found[3]) == (True, False, again)

    play(story)


@handler(service="Shop")
async def buy(ctx: Context, what: str) -> str:
    number = await ctx.run(lambda: 7)
    name: str = await ctx.awakeable(str)
    return f"{number} {what} for {name}"


def test_an_engine_goes_on_with_what_version_1_began_and_does_again_what_it_had_done(path: Path) -> None:
    begun, done = an_invocation(1).id, an_invocation(2).id
    rows = [
        Row(1, 1, 0, "run", "<lambda>", None, 0, 17, True, b"70", NOW),
        Row(1, 2, 0, "awakeable", "", None, 1, None, None, None, NOW),
        Row(2, 1, 0, "run", "<lambda>", None, 0, 18, True, b"80", NOW),
        Row(2, 2, 0, "awakeable", "", None, 1, None, None, None, NOW),
        Row(2, 2, 1, "awakeable", None, None, 0, 19, True, b'"Ann"', NOW),
    ]
    at = time.time_ns() // 1_000_000
    version_one(path, first(1, status="suspended", waiting_for="2"), first_completed(2, at=at), rows=rows)

    async def story() -> None:
        async with Engine(path, services=[buy]) as engine:
            await engine.resolve_awakeable(awakeable_id(begun, 2), "Bob")
            assert await engine.attach(begun) == "70 tea for Bob"
            assert await engine.attach(done) == "done"
            again = await engine.restart_as_new(done, from_entry=2)
            assert await again.result() == "80 tea for Ann"
            assert {one.restarted_from for one in await engine.invocations()} == {None, done}

    play(story)


@handler(service="Desk")
async def order(ctx: Context) -> str:
    return await ctx.call(buy, "tea", idempotency_key="order-7")


class Trip(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        raise AssertionError("it ran before")


@pytest.mark.parametrize("row_is_lost", [False, True])
def test_keys_of_a_file_from_before_ids_had_to_be_readable_name_what_they_named(
    path: Path, row_is_lost: bool
) -> None:
    keys = [f"order-{number}" for number in range(20)]
    ids = {key: claimed_id("Shop", None, "buy", key, span=FULL) for key in keys}
    assert {id == claimed_id("Shop", None, "buy", key) for key, id in ids.items()} == {True, False}
    trip = claimed_id("Trip", "rome", "run", "", span=FULL)
    at = time.time_ns() // 1_000_000
    version_one(
        path,
        *(
            first_completed(number, at=at, id=ids[key], idempotency_key=key, output=f'"{key}"'.encode())
            for number, key in enumerate(keys, 1)
        ),
        first_completed(40, at=at, id=trip, service="Trip", handler="run", key="rome", flavor="workflow"),
    )

    async def story() -> None:
        async with Engine(path, services=[buy, order, Trip()]) as engine:
            await engine.configure("Shop", public=True)
            assert await engine.call(order) == "order-7", "also where a handler calls"
            for key in keys:
                assert await engine.call(buy, "tea", idempotency_key=key) == key
                assert engine.idempotent(buy, key).id == ids[key]
            assert engine.workflow("Trip/run", "rome").id == trip
            assert not (await engine.send("Trip/run", key="rome")).accepted
            new = await engine.send(buy, "milk", idempotency_key="new")
            assert new.id == claimed_id("Shop", None, "buy", "new", span=FULL), "one rule for a file"

    asyncio.run(story())
    asyncio.run(story())


def test_a_new_file_has_ids_that_restates_clients_can_read(path: Path) -> None:
    assert open_only(path).id_span == READABLE


# ---- clean-up ----


def test_what_has_expired_is_found_by_an_index(path: Path) -> None:
    """Among a million invocations, too."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            thread = cast(SqliteStore, store)._use()
            asked: list[str] = []
            await thread.post(lambda database: database.set_trace_callback(asked.append))
            await store.expired(NOW, 9)
            await thread.post(lambda database: database.set_trace_callback(None))
            explained = [f"EXPLAIN QUERY PLAN {sql}" for sql in asked]
            plans = await thread.post(lambda database: [database.execute(sql).fetchall() for sql in explained])
            results, journals = ([row[3] for row in plan] for plan in plans)
            assert len(results) == len(journals) == 1, "nothing is sorted"
            assert "USING INDEX invocations_expiry" in results[0]
            assert "USING INDEX invocations_journal_expiry" in journals[0]

    play(story)


def test_a_damaged_workflow_whose_retention_is_over_does_not_keep_clean_up_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-07: one bad row stops nobody, not even a broom."""
    bad = [first_completed(seq, flavor="workflow", key=str(seq), headers="{oops") for seq in range(1, 4)]
    version_one(path, *bad, first_completed(4))
    looks = 0
    expired = SqliteStore.expired

    async def counted(self: SqliteStore, now: int, limit: int) -> Sequence[Expired]:
        nonlocal looks
        looks += 1
        return await expired(self, now + 10 * 365 * DAY, limit)

    monkeypatch.setattr(SqliteStore, "expired", counted)

    async def story() -> None:
        async with Engine(path) as engine:
            while 4 in {one.seq for one in await engine.invocations()}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert looks < 10

    play(story)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path, tmp_path: Path) -> None:
    commit(path, SOMETHING)
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {NEWEST + 7}")
    database.commit()
    database.close()
    before = photograph(tmp_path)
    with pytest.raises(StorageVersionError) as caught:
        open_only(path)
    assert str(NEWEST + 7) in str(caught.value)
    assert str(NEWEST) in str(caught.value).replace(str(NEWEST + 7), "")
    assert str(path) in str(caught.value)
    assert photograph(tmp_path) == before


# ---- files that are not ours, or not whole ----


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path, tmp_path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (a)")
    database.commit()
    database.close()
    before = photograph(tmp_path)
    with pytest.raises(StorageCorruptError, match="another program") as caught:
        open_only(path)
    assert str(path) in str(caught.value)
    assert photograph(tmp_path) == before


def test_a_database_with_anothers_application_id_is_refused_even_without_tables(path: Path, tmp_path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA application_id = 252006673")
    database.execute(f"PRAGMA user_version = {NEWEST + 1}")
    database.commit()
    database.close()
    before = photograph(tmp_path)
    with pytest.raises(StorageError):
        open_only(path)
    assert photograph(tmp_path) == before


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database at all\n" * 500)


def short_garbage(path: Path) -> None:
    path.write_bytes(b"oops")


def damaged_magic(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 0x20
    path.write_bytes(data)


def damaged_page_size(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[16:18] = b"\x00\x07"
    path.write_bytes(data)


def first_page_zeroed(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"\0" * 4096 + data[4096:])


def schema_overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xa5" * 3996
    path.write_bytes(data)


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 4096 * 4096])


def truncated_within_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        short_garbage,
        damaged_magic,
        damaged_page_size,
        first_page_zeroed,
        schema_overwritten,
        truncated,
        truncated_within_a_page,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_file_is_refused_and_left_alone(path: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """R-07: nothing is repaired, emptied or deleted by itself."""
    commit(path, Writes(created={seq: an_invocation(seq, input=b"x" * 900) for seq in range(1, 200)}))
    damage(path)
    before = photograph(tmp_path)
    with pytest.raises(StorageCorruptError) as caught:
        open_only(path)
    assert str(path) in str(caught.value)
    assert {name: before[name] for name in before} == {name: photograph(tmp_path)[name] for name in before}
    with pytest.raises(StorageCorruptError):  # and the lock was let go
        open_only(path)


def test_what_a_torn_write_ahead_log_still_has_is_used(path: Path, tmp_path: Path) -> None:
    """The tail that a power loss tore off was never acknowledged."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(Writes(created={1: an_invocation(1)}))
            wal = path.with_name("durable.db-wal")
            whole = wal.stat().st_size
            await store.commit(Writes(created={2: an_invocation(2)}))
            for name in ("durable.db", "durable.db-wal"):
                shutil.copy(path.with_name(name), tmp_path / name.replace("durable", "torn"))
            with (tmp_path / "torn.db-wal").open("r+b") as torn:
                torn.truncate(whole + 1000)

    play(story)
    assert open_only(tmp_path / "torn.db").next_seq == 2


# ---- places where nothing can be written ----


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageReadOnlyError, match="no/such/place") as caught:
        open_only(tmp_path / "no/such/place/durable.db")
    assert "directory" in str(caught.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageReadOnlyError) as caught:
        open_only(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageReadOnlyError, match=r"file/durable\.db"):
        open_only(tmp_path / "file" / "durable.db")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_place_that_refuses_files_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(*args: Any, **kwargs: Any) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageReadOnlyError, match=r"durable\.db") as caught:
        open_only(path)
    assert error.strerror is not None and error.strerror in str(caught.value)


AS_ANOTHER_USER = """
import asyncio, os, sys
from durable.store.format import migrations
from durable.store.rows import journal_of
from durable.store.sqlite import SqliteStore
migrations()  # what it imports, that user may not read either
os.setgid(65534)
os.setuid(65534)
async def main():
    store = SqliteStore(sys.argv[1])
    try:
        await store.open()
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("opened")
        await store.close()
asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("forbidden", ["directory", "file"])
def test_a_user_who_may_not_write_is_told_so(forbidden: str) -> None:
    """With real permissions, which root does not feel."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/durable-test-XXXXXX"], text=True).strip())
    path = folder / "durable.db"
    try:
        commit(path, SOMETHING)
        folder.chmod(0o755 if forbidden == "directory" else 0o777)
        for file in folder.iterdir():
            file.chmod(0o666)
        if forbidden == "file":
            path.chmod(0o444)
        before = path.read_bytes()
        told = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert told.stdout.startswith("StorageReadOnlyError"), told
        assert str(path) in told.stdout
        assert path.read_bytes() == before
    finally:
        shutil.rmtree(folder)


# ---- errors are recognised by code ----


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, StorageBusyError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageBusyError),
        (sqlite3.SQLITE_BUSY_RECOVERY, StorageBusyError),
        (sqlite3.SQLITE_LOCKED, StorageBusyError),
        (sqlite3.SQLITE_FULL, StorageFullError),
        (sqlite3.SQLITE_READONLY, StorageReadOnlyError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StorageReadOnlyError),
        (sqlite3.SQLITE_CANTOPEN, StorageReadOnlyError),
        (sqlite3.SQLITE_PERM, StorageReadOnlyError),
        (sqlite3.SQLITE_NOTADB, StorageCorruptError),
        (sqlite3.SQLITE_CORRUPT, StorageCorruptError),
        (sqlite3.SQLITE_CORRUPT_INDEX, StorageCorruptError),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageError),
        (sqlite3.SQLITE_IOERR_SHMSIZE, StorageFullError),  # no room for the log's index
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, StorageError),
    ],
)
@pytest.mark.parametrize("text", ["database is locked", "database or disk is full", "", "малахит"])
def test_an_error_is_recognised_by_its_code_whatever_it_says(code: int, kind: type[StorageError], text: str) -> None:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_SOMETHING"
    told = explain(error, "/data/app.db")
    assert type(told) is kind
    assert "/data/app.db" in str(told)
    assert text in str(told)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), StorageFullError),
        (PermissionError(13, "Permission denied"), StorageReadOnlyError),
        (OSError(30, "Read-only file system"), StorageReadOnlyError),
        (OSError(5, "Input/output error"), StorageError),
        (sqlite3.OperationalError("database is locked"), StorageError),  # raised by the module itself: no code
        (ValueError("database is locked"), StorageError),
    ],
    ids=repr,
)
def test_an_error_of_the_system_is_recognised_by_its_number(error: Exception, kind: type[StorageError]) -> None:
    assert type(explain(error, "/data/app.db")) is kind


def test_a_value_that_talks_of_locks_is_just_a_value(path: Path) -> None:
    """The text of a UNIQUE violation or of a bad value may hold anything a user wrote."""
    talk = "database is locked; database or disk is full"
    one, two = an_invocation(1, key=talk), an_invocation(2, key=talk)
    two.submission = one.submission

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(Writes(created={1: one}, settings={talk: talk}))
            with pytest.raises(CommitRefused) as caught:
                await store.commit(Writes(created={2: two}))
            assert type(caught.value.__cause__) is StorageError

    play(story)
    assert open_only(path).settings == {talk: talk}


# ---- the disk is full ----


class Small(SqliteStore):
    """A store whose file cannot grow beyond so many pages."""

    pages = 100

    def _prepare(self, database: sqlite3.Connection) -> Opened:
        opened = super()._prepare(database)
        database.execute(f"PRAGMA max_page_count = {self.pages}")
        return opened


class Warehouse(VirtualObject):
    """Each delivery takes room in the file, in two steps; each execution is noted outside."""

    def __init__(self) -> None:
        self.executions: list[tuple[str, int]] = []

    async def store(self, item: str, part: int) -> bytes:
        self.executions.append((item, part))
        return f"{item} {part} ".encode() * 2000

    @handler
    async def deliver(self, ctx: ObjectContext, item: str) -> int:
        first = await ctx.run(self.store, item, 1)
        ctx.set(item, len(first))
        second = await ctx.run(self.store, item, 2)
        return len(first) + len(second)


async def fill_up(store: Store) -> tuple[Warehouse, dict[str, int], EngineFailedError]:
    """Deliver until no room is left; returns what was acknowledged, and what was said then."""
    warehouse, acknowledged = Warehouse(), dict[str, int]()
    engine = Engine(services=[warehouse], store=store)
    failure: EngineFailedError | None = None
    with pytest.raises(EngineFailedError) as at_exit:
        async with engine:
            for number in range(1000):
                item = f"item-{number}"
                try:
                    acknowledged[item] = await engine.call(Warehouse.deliver, item, key="k", idempotency_key=item)
                except EngineFailedError as error:
                    failure = error
                    break
            executed = list(warehouse.executions)
            for _ in range(3):
                with pytest.raises(EngineFailedError):
                    await engine.send(Warehouse.deliver, "too late", key="k")
                with pytest.raises(EngineFailedError):
                    await engine.invocations()
            await asyncio.sleep(0.05)
            assert warehouse.executions == executed, "nothing runs any more"
    assert failure is not None
    assert failure is engine.failure
    assert at_exit.value is failure
    return warehouse, acknowledged, failure


async def take_stock(path: Path, before: Warehouse, acknowledged: dict[str, int]) -> None:
    """With room again: all that was acknowledged is there, the rest is finished, no step ran twice too often."""
    warehouse = Warehouse()
    async with Engine(path, services=[warehouse]) as engine:
        for item, size in acknowledged.items():
            assert await engine.call(Warehouse.deliver, item, key="k", idempotency_key=item) == size
        last = f"item-{len(acknowledged)}"
        assert await engine.call(Warehouse.deliver, last, key="k", idempotency_key=last) > 0
        state = await engine.get_state("Warehouse", "k")
        assert set(state) == {*acknowledged, last}
        assert {view.status for view in await engine.invocations(limit=1000)} == {"completed"}
    assert {item for item, _ in warehouse.executions} <= {last}
    for step in {*before.executions, *warehouse.executions}:
        assert [*before.executions, *warehouse.executions].count(step) <= 2, "one more execution per crash"
    assert pragma(path, "integrity_check") == "ok"


@pytest.mark.parametrize("pages", [60, 61, 62, 63, 64, 65, 66, 67])
def test_when_the_disk_is_full_the_engine_stops_and_goes_on_when_there_is_room(path: Path, pages: int) -> None:
    """R-06: at several points of the workload."""

    class Smaller(Small):
        pass

    Smaller.pages = pages

    async def story() -> None:
        warehouse, acknowledged, failure = await fill_up(Smaller(path))
        assert acknowledged, "some work was done"
        assert isinstance(failure.__cause__, StorageFullError)
        assert str(path) in str(failure)
        assert "no space" in str(failure)
        await take_stock(path, warehouse, acknowledged)

    play(story)


@pytest.mark.parametrize("together", [True, False], ids=["before COMMIT", "in a statement that commits itself"])
def test_where_nothing_was_written_it_says_so_and_else_that_it_is_unknown(path: Path, together: bool) -> None:
    """A rollback that succeeded leaves no doubt: what was being submitted was not accepted."""

    async def story() -> None:
        async with opened(Small(path)) as (store, _):
            await store.commit(Writes(journal=[a_row(2, 1)]))  # the first one also notes that an engine is at work
            rows = [a_row(1, 1, outcome=Outcome(True, b"x" * 1_000_000))]
            with pytest.raises(EngineFailedError) as caught:
                await store.commit(Writes(journal=rows, settings={"A": "{}"} if together else {}))
            assert isinstance(caught.value.__cause__, StorageFullError)
            certain = "nothing of it was written, what was being submitted was certainly not accepted"
            assert (certain if together else "whether it took effect is unknown") in str(caught.value)
        async with opened(SqliteStore(path)) as (store, where):
            assert where.settings == {}
            assert list(await store.journal(1)) == []

    play(story)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.process
def test_a_disk_that_is_really_full_stops_the_engine_too(tiny_disk: Path, tmp_path: Path) -> None:
    path = tiny_disk / "durable.db"

    async def story() -> None:
        (tiny_disk / "somebody else's").write_bytes(b"x" * 300_000)
        warehouse, acknowledged, failure = await fill_up(SqliteStore(path))
        assert acknowledged
        assert isinstance(failure.__cause__, StorageFullError), failure
        (tiny_disk / "somebody else's").unlink()
        await take_stock(path, warehouse, acknowledged)

    play(story)


@pytest.mark.process
def test_a_disk_that_is_full_before_the_start_is_named(tiny_disk: Path) -> None:
    ballast = tiny_disk / "somebody else's"
    with pytest.raises(OSError) as full:
        ballast.write_bytes(b"x" * 2_000_000)
    assert full.value.errno == errno.ENOSPC
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageFullError, match=r"durable\.db"):
        open_only(tiny_disk / "durable.db")
    assert len(os.listdir("/proc/self/fd")) == before, "the lock was let go"
    ballast.unlink()
    assert open_only(tiny_disk / "durable.db").next_seq == 1


# ---- a commit that returns an error ----


class Breaking:
    """A store whose n-th commit returns an error, having taken effect or not: nobody can tell (R-04)."""

    def __init__(self, inner: SqliteStore, at: int, kept: bool) -> None:
        self.inner, self.at, self.kept, self.commits = inner, at, kept, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def commit(self, writes: Writes) -> Awaitable[None]:
        """See `Store`."""
        self.commits += 1
        assert self.commits <= self.at, "no further commit after one that failed"
        return self._commit(writes) if self.commits == self.at else self.inner.commit(writes)

    async def _commit(self, writes: Writes) -> None:
        if self.kept:
            await self.inner.commit(writes)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error


@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_commit_error_stops_the_engine_loudly_and_a_fresh_one_finishes(
    path: Path, at: int, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """R-04: at each commit of a workload of two deliveries."""
    first, second = Warehouse(), Warehouse()
    acknowledged: dict[str, int] = {}

    async def broken() -> None:
        store = Breaking(SqliteStore(path), at, kept)
        async with Engine(services=[first], store=cast(Store, store)) as engine:
            with pytest.raises(EngineFailedError):
                for item in ("a", "b"):
                    acknowledged[item] = await engine.call(Warehouse.deliver, item, key="k", idempotency_key=item)
            assert engine.failure is not None
            with pytest.raises(EngineFailedError):
                await engine.output("inv_1" + "0" * 33)

    async def whole() -> None:
        async with Engine(path, services=[second]) as engine:
            for item in ("a", "b"):
                size = await engine.call(Warehouse.deliver, item, key="k", idempotency_key=item)
                assert acknowledged.get(item, size) == size
            assert {view.status for view in await engine.invocations()} == {"completed"}
            assert len(await engine.invocations()) == 2

    with pytest.raises(EngineFailedError, match="disk I/O error"):
        play(broken)
    assert any(record.levelname == "CRITICAL" for record in caplog.records)
    play(whole)
    executions = [*first.executions, *second.executions]
    assert all(executions.count(step) <= 2 for step in executions)
    assert sum(executions.count(step) == 2 for step in set(executions)) <= 1, "only what was under way runs again"


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(a_row(1, 2, name="\ud800"), id="lone surrogate"),
        pytest.param(a_row(1, 2, name=object()), id="no text at all"),  # type: ignore[arg-type]
        pytest.param(a_row(1, 2**63), id="number beyond 64 bits"),
        pytest.param(a_row(1, 2, value=b"x" * 70_000), id="beyond SQLite's limit"),
        pytest.param(a_row(1, 2, name="x" * 70_000), id="text beyond SQLite's limit"),
        pytest.param(object(), id="no row at all"),
        pytest.param((1, 2), id="half a row"),
    ],
)
@pytest.mark.parametrize("alone", [False, True], ids=["in a turn", "alone"])
def test_a_value_that_cannot_be_stored_is_refused_and_nothing_of_its_turn_stays(
    path: Path, poison: Any, alone: bool
) -> None:
    """Such a value should never come this far. Where one does, it is one turn's trouble."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await cast(SqliteStore, store)._use().post(limited)
            step = a_row(1, 1, outcome=Outcome(True, b"1"))
            turn = Writes(created={1: an_invocation(1)}, journal=[step, poison], settings={"A": "{}"})
            for _ in range(2):
                with pytest.raises(CommitRefused) as caught:
                    await store.commit(Writes(journal=[poison]) if alone else turn)
                assert caught.value.__cause__ is not None
            await store.commit(Writes(settings={"B": "{}"}, journal=[step]))
            await store.commit(Writes(settings={"C": "{}"}))
        async with opened(SqliteStore(path)) as (store, where):
            assert where.settings == {"B": "{}", "C": "{}"}
            assert list((await store.find(Filter())).found) == []
            assert list(await store.journal(1)) == [step]

    def limited(database: sqlite3.Connection) -> None:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 65_536)

    play(story)


def test_a_start_looks_at_names_of_state_for_a_moment_only_however_many_there_are() -> None:
    """Each costs as much as its value is long, because the checksum stands behind it."""
    started = time.monotonic()
    looked_at = sum(1 for _ in soundness._for_a_while(itertools.count()))
    assert looked_at >= soundness.LOOK_ROWS
    assert time.monotonic() - started < 10, "and not for ever"
    assert list(soundness._for_a_while(range(1000))) == list(range(1000))


def test_a_column_that_somebody_added_is_named_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"

    async def story() -> None:
        async with opened(SqliteStore(path)):
            pass

    asyncio.run(story())
    database = sqlite3.connect(path)
    database.execute("ALTER TABLE _invocations ADD COLUMN mine TEXT")
    database.close()
    with pytest.raises(StorageCorruptError, match=r"its table _invocations differs in mine\."):
        asyncio.run(story())


# ---- journals that people look at ----


def test_commits_do_not_wait_while_people_look_at_a_long_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read through a connection of its own; a short one between two commits."""
    count = journals.NEAR_MAX + 1
    rows = [a_row(1, entry, outcome=Outcome(True, b"1"), ordinal=20 + entry) for entry in range(1, count + 1)]
    read_on: list[str] = []

    def noting(*arguments: Any, **options: Any) -> list[Row]:
        read_on.append(threading.current_thread().name)
        return journal_of(*arguments, **options)

    monkeypatch.setattr(journals, "journal_of", noting)

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(Writes(created={1: an_invocation(1)}, journal=rows))
            own = f"durable {path}"
            for after, limit, is_near in ((-1, None, False), (-1, count, False), (0, 9, True), (1, None, True)):
                found = await store.entries(1, after, limit)
                assert len(found) == min(limit or count, count - max(after, 0))
                assert (read_on.pop() == own) == is_near, (after, limit)

    play(story)


def test_damage_in_a_part_of_a_journal_is_told_of_that_part(path: Path) -> None:
    rows = [a_row(1, entry, outcome=Outcome(True, b"1"), ordinal=20 + entry) for entry in range(1, 1001)]

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(Writes(created={1: an_invocation(1)}, journal=rows))
            database = sqlite3.connect(path)
            database.execute("UPDATE journal SET value = x'32' WHERE entry = 900")
            database.commit()
            database.close()
            assert len(await store.entries(1, 0, 899)) == 899
            assert len(await store.entries(1, 900, 200)) == 100
            for after, limit in ((-1, None), (899, 1), (200, 900)):
                with pytest.raises(StorageCorruptError, match="entry 900"):
                    await store.entries(1, after, limit)

    play(story)
