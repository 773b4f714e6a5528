"""A backup is there as a whole, and durable, or not at all; and what a start finds is synced before it is told."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from durable import Context, Engine, StorageError, StorageReadOnlyError, StorageReplacedError, handler
from durable.core.effects import Writes
from durable.store.sqlite import SqliteStore
from tests.store.support import an_invocation, opened, play, program

SOMETHING = Writes(
    settings={"Shop": "{}"}, created={seq: an_invocation(seq, input=b"x" * 900) for seq in range(1, 99)}
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    return place / "durable.db"


def pragma(path: Path, name: str) -> Any:
    """What another connection reads in the file."""
    database = sqlite3.connect(path)
    try:
        return database.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        database.close()


def settings(path: Path) -> dict[str, str]:
    async def story() -> dict[str, str]:
        async with opened(SqliteStore(path)) as (_, where):
            return where.settings

    return asyncio.run(story())


@handler(service="Load")
async def chain(ctx: Context, length: int) -> int:
    async def add(total: int) -> int:
        return total + 1

    total = 0
    for _ in range(length):
        total = await ctx.run(add, total)
    return total


def test_backups_under_load_are_whole_and_an_engine_goes_on_from_each(path: Path, tmp_path: Path) -> None:
    """R-40."""

    async def story() -> None:
        ids: list[list[str]] = []
        async with Engine(path, services=[chain], synchronous="NORMAL") as engine:
            waiting = [await engine.send(chain, 40, idempotency_key=f"{number}") for number in range(30)]
            for number in range(5):
                ids.append([handle.id for handle in waiting])
                await engine.backup(tmp_path / f"backup-{number}.db")
                waiting += [await engine.send(chain, 40) for _ in range(10)]
            assert [await handle.result() for handle in waiting] == [40] * 80
        for number in range(5):
            copy = tmp_path / f"backup-{number}.db"
            assert pragma(copy, "integrity_check") == "ok"
            async with Engine(copy, services=[chain], synchronous="NORMAL") as engine:
                assert [await engine.attach(id) for id in ids[number]] == [40] * len(ids[number])
                assert await engine.call(chain, 40, idempotency_key="0") == 40

    play(story)


def test_a_backup_has_everything_that_was_acknowledged_before_it_began(path: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            for number in range(1, 20):
                await store.commit(Writes(created={number: an_invocation(number)}))
                copy = tmp_path / f"{number}.db"
                await store.backup(str(copy))
                async with opened(SqliteStore(copy)) as (_, where):
                    assert where.next_seq == number + 1

    play(story)


def test_a_backup_does_not_overwrite_anything(path: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.db"
    there.write_bytes(b"precious")

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            for target in (there, path):
                with pytest.raises(StorageError) as caught:
                    await store.backup(str(target))
                assert str(target) in str(caught.value)
            await store.commit(SOMETHING)

    play(story)
    assert there.read_bytes() == b"precious"
    assert settings(path) == {"Shop": "{}"}


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm", ".unfinished"])
def test_a_backup_never_takes_the_name_of_a_part_of_another_file(path: Path, tmp_path: Path, suffix: str) -> None:
    """R-40: SQLite would take it for a part of that, and delete it; the next backup would overwrite it."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            for name in (f"{path}{suffix}", str(tmp_path / f"other.db{suffix}")):
                with pytest.raises(StorageError, match=r"belongs to another file|exists"):
                    await store.backup(name)
            await store.backup(str(tmp_path / "backup.db"))
            await store.commit(SOMETHING)

    play(story)
    assert settings(path) == {"Shop": "{}"}
    assert not (tmp_path / f"other.db{suffix}").exists()


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_backup_is_not_put_beside_what_would_be_taken_for_a_part_of_it(
    path: Path, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"backup.db{suffix}").write_bytes(b"of another database")

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            with pytest.raises(StorageError, match="would be taken for a part of the backup"):
                await store.backup(str(tmp_path / "backup.db"))

    play(story)
    assert not (tmp_path / "backup.db").exists()


def test_a_backup_to_a_place_that_does_not_exist_says_so_and_work_goes_on(path: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            with pytest.raises(StorageReadOnlyError, match="no/such"):
                await store.backup(str(tmp_path / "no/such/backup.db"))
            await store.commit(SOMETHING)

    play(story)
    assert settings(path) == {"Shop": "{}"}


def test_a_backup_is_as_private_as_the_file(path: Path, tmp_path: Path) -> None:
    """R-39."""
    before = os.umask(0o022)
    try:

        async def story() -> None:
            async with opened(SqliteStore(path)) as (store, _):
                await store.backup(str(tmp_path / "backup.db"))

        play(story)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "backup.db").stat().st_mode) == 0o600


# ---- killed ----


def test_a_backup_that_is_killed_leaves_nothing_under_its_name(path: Path, tmp_path: Path) -> None:
    """At every call of the system that it makes; the next backup to that name removes what is left."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(SOMETHING)

    play(story)
    for at in range(1, 100):
        place = tmp_path / str(at)
        place.mkdir()
        backup = place / "backup.db"
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(path), str(backup), str(at)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 9), done.stderr
        if backup.exists():
            assert settings(backup) == {"Shop": "{}"}
        if done.returncode == 0:
            assert at > 5
            assert [file.name for file in place.iterdir()] == ["backup.db"]
            break
        if not backup.exists():

            async def again(backup: Path = backup) -> None:
                async with opened(SqliteStore(path)) as (store, _):
                    await store.backup(str(backup))

            play(again)
        assert [file.name for file in place.iterdir()] == ["backup.db"]
        assert settings(backup) == {"Shop": "{}"}
    else:
        raise AssertionError("it never came to its end")


#: Writes a backup, and ends at its n-th call that changes something.
KILLED = """
import asyncio, os, sys
from durable.store import backup
from durable.store.sqlite import SqliteStore
calls = 0
def counted(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os._exit(9)
        return real(*arguments, **options)
    return call
async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    for name in ("open", "ftruncate", "fchmod", "fsync", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    backup._copy = counted(backup._copy)
    await store.backup(sys.argv[2])
    os._exit(0)
asyncio.run(main())
"""


def test_two_backups_to_one_name(path: Path, tmp_path: Path) -> None:
    text = (
        "import sys\nfrom durable.store.lock import FileLock\nFileLock(sys.argv[1]).acquire()\nprint(1, flush=True)\n"
    )

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            unfinished = f"{tmp_path}/backup.db.unfinished"
            with program(text + "sys.stdin.read()", unfinished), pytest.raises(StorageError, match="under way"):
                await store.backup(str(tmp_path / "backup.db"))
            await store.backup(str(tmp_path / "backup.db"))
            with pytest.raises(StorageError, match="exists"):
                await store.backup(str(tmp_path / "backup.db"))

    play(story)


def test_a_backup_needs_none_of_the_threads_that_steps_run_on(path: Path, tmp_path: Path) -> None:
    """All of them may be busy with steps that wait for something."""

    async def story() -> None:
        limiter = to_thread.current_default_thread_limiter()
        holding = [object() for _ in range(int(limiter.total_tokens))]
        for one in holding:
            limiter.acquire_on_behalf_of_nowait(one)
        async with opened(SqliteStore(path)) as (store, _):
            await asyncio.wait_for(store.backup(str(tmp_path / "backup.db")), 30)
        for one in holding:
            limiter.release_on_behalf_of(one)

    play(story)


# ---- syncs ----


class Watched:
    """In what order files are synced and SQLite is given the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        fsync, connect = os.fsync, sqlite3.connect

        def synced(descriptor: int) -> None:
            self.seen.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
            fsync(descriptor)

        def connected(name: Any, **options: Any) -> sqlite3.Connection:
            self.seen.append(f"open {os.path.basename(str(name))}")
            connection: sqlite3.Connection = connect(name, **options)
            return connection

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(sqlite3, "connect", connected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_what_a_start_finds_is_synced_before_sqlite_reads_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: Any
) -> None:
    """A killed engine has written what it never synced: told, it must not be lost to a power cut afterwards."""

    async def crash() -> None:
        store = SqliteStore(path, synchronous="NORMAL")
        await store.open()
        await store.commit(SOMETHING)
        store.abandon()

    play(crash)
    watched = Watched(monkeypatch)

    async def story() -> None:
        async with opened(SqliteStore(path, synchronous=synchronous)) as (_, where):
            assert where.settings == {"Shop": "{}"}
            first = watched.seen[: watched.seen.index("open durable.db")]
            assert set(first) == {"sync durable.db-wal", "sync durable.db", "sync data"}
            assert "sync data" in watched.seen[len(first) :], "the folder, after SQLite has made files"

    play(story)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_backup_is_synced_under_its_first_name_and_its_folder_after_the_last(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            watched = Watched(monkeypatch)
            rename = os.rename

            def renamed(old: Any, new: Any) -> None:
                watched.seen.append("rename")
                rename(old, new)

            monkeypatch.setattr(os, "rename", renamed)
            await store.backup(str(tmp_path / "backup.db"))
            kept = [one for one in watched.seen if not one.startswith("open")]
            assert kept == ["sync backup.db.unfinished", f"sync {tmp_path.name}", "rename", f"sync {tmp_path.name}"]

    play(story)


# ---- a clean close ----


def modes(path: Path) -> bytes:
    return path.read_bytes()[18:20]


def test_a_database_has_a_log_only_while_it_is_open(path: Path, tmp_path: Path) -> None:
    """Its header says so, and a backup's: it tells a log that belongs to another database."""

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            assert modes(path) == b"\2\2"
            await store.commit(SOMETHING)
            await store.backup(str(tmp_path / "backup.db"))
        assert modes(path) == modes(tmp_path / "backup.db") == b"\1\1"

    play(story)


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_whether_it_has_a_log_is_written_with_every_sync(
    path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: Any
) -> None:
    """Of the journal of this change, a power cut must not leave a torn one: it would be rolled back into the file."""
    switched: list[tuple[str, int]] = []

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA journal_mode ="):
                switched.append((sql.split()[-1], super().execute("PRAGMA synchronous").fetchone()[0]))
            return super().execute(sql, *values)

    async def story() -> None:
        async with opened(SqliteStore(path, synchronous=synchronous)) as (store, _):
            await store.commit(SOMETHING)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
    play(story)
    full = 2
    assert switched == [("WAL", full), ("DELETE", full)]


def test_closing_while_somebody_reads_the_database_leaves_it_with_its_log(path: Path) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(SOMETHING)
            reader = sqlite3.connect(path, isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM settings").fetchall()
        assert modes(path) == b"\2\2"
        reader.execute("COMMIT")
        reader.close()

    play(story)
    assert settings(path) == {"Shop": "{}"}


@pytest.mark.process
def test_a_start_that_is_killed_again_and_again_still_starts(path: Path) -> None:
    """While it goes from one way of writing to the other, too: what is left is never taken for a stale log."""
    text = (
        "import asyncio, sys\nfrom durable.core.effects import Writes\nfrom durable.store.sqlite import SqliteStore\n"
        "async def main():\n    print('up', flush=True)\n    number = 0\n    while True:\n"
        "        store = SqliteStore(sys.argv[1])\n        await store.open()\n        number += 1\n"
        "        await store.commit(Writes(settings={'Shop': str(number)}))\n        await store.close()\n"
        "asyncio.run(main())\n"
    )
    for number in range(12):
        with program(text, path) as engine:
            time.sleep(0.002 * 1.6**number % 0.2)
            engine.send_signal(signal.SIGKILL)
            engine.wait(10)
        settings(path)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_backup_is_never_one_of_another_file(path: Path, tmp_path: Path, how: str) -> None:
    """It is made by name, and the name may have been given to another file a moment ago."""
    other, target = tmp_path / "other.db", tmp_path / "backup.db"

    def happens() -> None:
        if how == "removed":
            path.unlink()
        else:
            os.replace(other, path)

    async def story() -> None:
        async with opened(SqliteStore(other)) as (store, _):
            await store.commit(SOMETHING)
        store = SqliteStore(path)
        await store.open()
        happens()
        with pytest.raises(StorageReplacedError):
            await store.backup(str(target))
        await store.close()

    play(story)
    assert [file.name for file in tmp_path.iterdir() if "backup" in file.name] == []
