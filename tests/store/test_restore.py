"""Backups survive a power cut and are put back so that nothing of the old database gets into them."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import durable.store.restore
from durable import (
    EngineLockedError,
    StaleWalError,
    StorageCorruptError,
    StorageError,
    StorageVersionError,
    restore,
)
from durable.core.effects import Writes
from durable.store.format import migrations
from durable.store.sqlite import SqliteStore
from tests.store.support import an_invocation, opened, play, program


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


def settings(path: Path) -> dict[str, str]:
    """What an engine finds in the file."""

    async def story() -> dict[str, str]:
        async with opened(SqliteStore(path)) as (_, where):
            return where.settings

    return asyncio.run(story())


def a_database(path: Path, *names: str, crashed: bool = False) -> None:
    """One with these settings; `crashed` leaves its log beside it."""

    async def story() -> None:
        store = SqliteStore(path)
        await store.open()
        for name in names:
            await store.commit(Writes(settings={name: "{}"}))
        if crashed:
            store.abandon()
        else:
            await store.close()

    play(story)
    assert bool(log_of(path)) is crashed


def a_backup(path: Path, backup: Path, *names: str) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            for name in names:
                await store.commit(Writes(settings={name: "{}"}))
            await store.backup(str(backup))

    play(story)


def log_of(path: Path) -> bytes:
    log = path.with_name(path.name + "-wal")
    return log.read_bytes() if log.exists() else b""


def photograph(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ---- a backup that was copied by hand ----


def test_a_backup_that_was_copied_beside_an_old_log_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    """SQLite would replay the log over it."""
    backup = tmp_path / "backup.db"
    a_backup(path, backup, "old")
    a_database(path, "new", crashed=True)
    shutil.copy(backup, path)
    before = photograph(tmp_path)
    for _ in range(2):
        with pytest.raises(StaleWalError) as caught:
            settings(path)
        for told in (str(path), f"{path}-wal", "durable.restore(backup, path)"):
            assert told in str(caught.value)
        assert photograph(tmp_path) == before, "nothing was changed"
    restore(backup, path)
    assert settings(path) == {"old": "{}"}


def test_a_file_that_was_closed_and_is_copied_beside_an_old_log_is_refused_too(path: Path, tmp_path: Path) -> None:
    a_database(tmp_path / "copy.db", "old")
    a_database(path, "new", crashed=True)
    shutil.copy(tmp_path / "copy.db", path)
    with pytest.raises(StaleWalError):
        settings(path)


@pytest.mark.parametrize("lost", ["removed", "emptied"])
def test_a_log_whose_database_is_gone_is_not_deleted(path: Path, tmp_path: Path, lost: str) -> None:
    """SQLite would begin a new database, and delete the log as of no use."""
    a_database(path, "one", crashed=True)
    kept = path.read_bytes()
    if lost == "removed":
        path.unlink()
    else:
        path.write_bytes(b"")
    before = photograph(tmp_path)
    with pytest.raises(StaleWalError, match="-wal"):
        settings(path)
    assert photograph(tmp_path) == before
    path.write_bytes(kept)
    assert settings(path) == {"one": "{}"}


def test_the_log_of_a_crash_is_used(path: Path) -> None:
    a_database(path, "one", "two", crashed=True)
    assert settings(path) == {"one": "{}", "two": "{}"}
    assert settings(path) == {"one": "{}", "two": "{}"}


# ---- a log that was left behind ----


def test_a_log_beside_another_name_of_the_file_is_not_overlooked(path: Path, tmp_path: Path) -> None:
    """SQLite finds a log by name: by another one the last commits would be missing, also in a copy."""
    a_database(path, "one", crashed=True)
    alias = tmp_path / "alias.db"
    os.link(path, alias)
    before = photograph(tmp_path)
    for refused in (lambda: settings(alias), lambda: restore(alias, tmp_path / "restored.db")):
        with pytest.raises(StaleWalError) as caught:
            refused()
        assert f"Use the name {path}" in str(caught.value)
        assert photograph(tmp_path) == before, "nothing was changed"
    assert settings(path) == {"one": "{}"}
    assert settings(alias) == {"one": "{}"}, "it was closed in order: no name has a log"


@pytest.mark.parametrize("how", ["removed", "moved without it", "copied without it"])
def test_a_log_that_is_gone_is_told(path: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whether anything was in it, nobody can know any more."""
    a_database(path, "one", crashed=True)
    assert settings(path) == {"one": "{}"}
    a_database(path, "two", crashed=True)
    database = sqlite3.connect(path)  # what an earlier checkpoint would have done
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    place = path
    if how == "moved without it":
        place = path.rename(tmp_path / "moved.db")
    elif how == "copied without it":
        place = Path(shutil.copy(path, tmp_path / "copied.db"))
    assert not log_of(place)
    assert settings(place) == {"one": "{}", "two": "{}"}
    assert [record.levelname for record in caplog.records if "put the log back" in record.getMessage()] == ["WARNING"]
    caplog.clear()
    assert settings(place) == {"one": "{}", "two": "{}"}
    assert not caplog.records, "it was closed in order"


@pytest.mark.parametrize("crashed", [False, True])
def test_nothing_is_told_of_a_log_that_is_there_or_was_never_needed(
    path: Path, crashed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    a_database(path, "one", crashed=crashed)
    settings(path)
    settings(path)
    assert not caplog.records


# ---- restore ----


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "with a log"])
def test_restoring_leaves_the_replaced_file_beside_it_with_everything_it_had(
    path: Path, tmp_path: Path, crashed: bool
) -> None:
    backup = tmp_path / "backups" / "monday.db"
    backup.parent.mkdir()
    a_backup(path, backup, "old")
    a_database(path, "new", crashed=crashed)
    before = backup.read_bytes()
    aside = restore(backup, path)
    assert aside is not None
    assert aside.name.startswith("durable.db.replaced-")
    assert settings(path) == {"old": "{}"}
    assert settings(aside) == {"old": "{}", "new": "{}"}
    assert backup.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_restoring_where_there_is_nothing(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    a_backup(tmp_path / "other.db", backup, "old")
    assert restore(backup, path) is None
    assert settings(path) == {"old": "{}"}
    assert not [file for file in tmp_path.iterdir() if "replaced" in file.name or "restoring" in file.name]


def test_restoring_again_and_again_keeps_each_replaced_file(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    a_backup(path, backup, "old")
    kept = {restore(backup, path) for _ in range(3)}
    assert len(kept) == 3
    assert all(settings(one) == {"old": "{}"} for one in kept if one is not None)


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "volume" / "real.db"
    real.parent.mkdir()
    a_backup(real, tmp_path / "backup.db", "old")
    path.symlink_to(real)
    aside = restore(tmp_path / "backup.db", path)
    assert path.is_symlink()
    assert aside is not None
    assert aside.parent == real.parent
    assert settings(path) == settings(real) == {"old": "{}"}


def test_restoring_is_refused_while_an_engine_has_the_file_or_the_backup(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    a_backup(path, backup, "old")

    async def story() -> None:
        for held in (path, backup):
            async with opened(SqliteStore(held)) as (store, _):
                with pytest.raises(EngineLockedError, match=str(held)):
                    restore(backup, path)
                elsewhere = subprocess.run(  # noqa: ASYNC221
                    [sys.executable, "-c", "import sys, durable; durable.restore(*sys.argv[1:])", backup, path],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert f"EngineLockedError: {held}" in elsewhere.stderr
                await store.commit(Writes(settings={"more": "{}"}))

    play(story)
    assert settings(path) == {"old": "{}", "more": "{}"}


def test_an_engine_that_starts_where_there_was_nothing_while_a_backup_is_restored_keeps_its_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = tmp_path / "backup.db"
    a_backup(tmp_path / "other.db", backup, "old")

    async def story() -> None:
        store = SqliteStore(path)
        copy = durable.store.restore._copy

        def copy_and_start(*arguments: Any) -> None:
            copy(*arguments)
            asyncio.run_coroutine_threadsafe(store.open(), loop).result(10)

        monkeypatch.setattr(durable.store.restore, "_copy", copy_and_start)
        loop = asyncio.get_running_loop()
        with pytest.raises(EngineLockedError):
            await asyncio.to_thread(restore, backup, path)
        await store.commit(Writes(settings={"new": "{}"}))
        await store.close()

    play(story)
    assert settings(path) == {"new": "{}"}
    assert not [file for file in tmp_path.iterdir() if "replaced" in file.name or "restoring" in file.name]


def of_another_program(backup: Path) -> None:
    backup.unlink()
    database = sqlite3.connect(backup)
    database.execute("CREATE TABLE theirs (a)")
    database.close()


def of_a_newer_version(backup: Path) -> None:
    database = sqlite3.connect(backup)
    database.execute(f"PRAGMA user_version = {max(number for number, _ in migrations()) + 1}")
    database.close()


def empty(backup: Path) -> None:
    backup.write_bytes(b"")


def no_database(backup: Path) -> None:
    backup.write_bytes(b"this is not a database at all\n" * 500)


def cut_short(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[: backup.stat().st_size // 2 // 4096 * 4096])


def with_a_damaged_page(backup: Path) -> None:
    data = bytearray(backup.read_bytes())
    data[-8192:-4096] = b"\xa5" * 4096
    backup.write_bytes(data)


def not_closed(backup: Path) -> None:
    backup.unlink()
    a_database(backup, "old", crashed=True)


def missing(backup: Path) -> None:
    backup.unlink()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (of_another_program, StorageCorruptError),
        (of_a_newer_version, StorageVersionError),
        (empty, StorageCorruptError),
        (no_database, StorageCorruptError),
        (cut_short, StorageCorruptError),
        (with_a_damaged_page, StorageCorruptError),
        (not_closed, StorageError),
        (missing, StorageError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_sound_backup_is_refused_before_anything_is_touched(
    path: Path, tmp_path: Path, damage: Callable[[Path], None], kind: type[StorageError]
) -> None:
    backup = tmp_path / "backups" / "backup.db"
    backup.parent.mkdir()

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            created = {seq: an_invocation(seq, input=os.urandom(900)) for seq in range(1, 50)}
            await store.commit(Writes(created=created))
            await store.backup(str(backup))

    play(story)
    damage(backup)
    before = photograph(tmp_path / "backups"), {name: (tmp_path / name).read_bytes() for name in ("durable.db",)}
    with pytest.raises(kind) as caught:
        restore(backup, path)
    assert str(backup) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["durable.db"]
    assert (photograph(tmp_path / "backups"), {"durable.db": path.read_bytes()}) == before


def test_a_backup_that_cannot_be_looked_at_is_not_called_missing(path: Path, tmp_path: Path) -> None:
    """A loop of links stands for a folder without permission, which does not stop root."""
    loop = tmp_path / "loop.db"
    loop.symlink_to(loop)
    with pytest.raises(StorageError, match=r"loop\.db cannot be read: "):
        restore(loop, path)
    with pytest.raises(StorageError, match=r"there is no backup .*none\.db"):
        restore(tmp_path / "none.db", path)


def test_the_backup_and_its_target_must_be_two_files(path: Path) -> None:
    a_database(path, "one")
    with pytest.raises(StorageError, match="same file"):
        restore(path, path)
    with pytest.raises(StorageError, match="memory"):
        restore(path, ":memory:")
    assert settings(path) == {"one": "{}"}


# ---- cut short ----

CALLS = ("link", "unlink", "rename", "open", "fsync")


class Killed(BaseException):
    """The process is gone: nothing is cleaned up."""


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "with a log"])
def test_a_restore_that_is_killed_leaves_the_old_or_the_new_and_can_be_repeated(
    path: Path, tmp_path: Path, crashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call of the system that it makes."""
    backup, copies = tmp_path / "backup.db", tmp_path / "copies"
    copies.mkdir()
    a_backup(tmp_path / "other.db", backup, "old")
    a_database(path, "new", crashed=crashed)
    found: list[dict[str, str]] = []
    for at in range(1, 200):
        place = copies / str(at)
        place.mkdir()
        for file in tmp_path.glob("durable.db*"):
            shutil.copy(file, place)
        child = os.fork()
        if child == 0:
            die_at(at)
            restore(backup, place / "durable.db")
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        again = copies / f"{at} again"
        shutil.copytree(place, again)
        found.append(settings(place / "durable.db"))
        restore(backup, again / "durable.db")
        assert settings(again / "durable.db") == {"old": "{}"}
    else:
        raise AssertionError("it never came to its end")
    assert len(found) > 10
    assert [one for one in found if one not in ({"new": "{}"}, {"old": "{}"})] == []
    assert found == sorted(found, key=lambda one: "old" in one), "old ones first, then new ones"
    assert {"old": "{}"} in found


def die_at(at: int) -> None:
    """Have this process end at its n-th call that changes something."""
    calls = 0

    def counted(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                os._exit(9)
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))


def test_two_restores_at_once(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    a_backup(tmp_path / "other.db", backup, "old")
    text = (
        "import sys\nfrom durable.store.lock import FileLock\nFileLock(sys.argv[1]).acquire()\nprint(1, flush=True)\n"
    )
    with program(text + "sys.stdin.read()", f"{path}.restoring"), pytest.raises(StorageError, match="under way"):
        restore(backup, path)
    assert durable.store.restore.restore(backup, path) is None
    assert settings(path) == {"old": "{}"}


def test_what_is_no_backup_replaces_nothing_and_the_error_says_to_use_another(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no database at all " * 1000)
    a_backup(path, tmp_path / "backup.db", "old")
    before = path.read_bytes()
    with pytest.raises(StorageCorruptError, match="nothing was replaced, use another backup"):
        restore(other, path)
    assert path.read_bytes() == before
