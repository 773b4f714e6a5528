"""A database that is removed, renamed or replaced under an engine is noticed; nothing more is acknowledged."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import Context, Engine, EngineFailedError, StorageReplacedError, handler
from durable.core.effects import Writes
from durable.store import Store
from durable.store.sqlite import SqliteStore
from tests.store.support import opened, play

SOMETHING = Writes(settings={"Shop": "{}"})
#: Promised: two seconds. On a machine that is busy with other things it may be noticed later.
NOTICED_S = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    return place / "durable.db"


def removed(path: Path) -> None:
    path.unlink()


def removed_with_its_log(path: Path) -> None:
    for file in list(path.parent.iterdir()):
        file.unlink()


def log_removed(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def log_replaced(path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    shutil.copy(log, log.with_name("copy"))
    os.replace(log.with_name("copy"), log)


def renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def folder_renamed(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def replaced_by_a_copy(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def overwritten_by_a_backup(path: Path) -> None:
    shutil.copyfile(path.parent.with_name("backup.db"), path)


KINDS = [
    removed,
    removed_with_its_log,
    log_removed,
    log_replaced,
    renamed,
    folder_renamed,
    replaced_by_a_copy,
    overwritten_by_a_backup,
]


async def with_a_backup(store: Store, path: Path) -> None:
    await store.commit(SOMETHING)
    await store.backup(str(path.parent.with_name("backup.db")))


@pytest.mark.parametrize("loss", KINDS, ids=lambda loss: str(loss.__name__))
def test_the_next_commit_is_not_acknowledged(path: Path, loss: Callable[[Path], None]) -> None:
    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            await with_a_backup(store, path)
            loss(path)
            with pytest.raises(EngineFailedError) as caught:
                await store.commit(Writes(settings={"Mail": "{}"}))
            assert isinstance(caught.value.__cause__, StorageReplacedError)
            assert str(path) in str(caught.value)
            with pytest.raises(EngineFailedError):
                await store.commit(SOMETHING)

    play(story)


@handler(service="Wait")
async def wait(ctx: Context) -> None:
    await ctx.sleep(3600)


@pytest.mark.process
@pytest.mark.parametrize("loss", [removed_with_its_log, folder_renamed], ids=lambda loss: str(loss.__name__))
def test_an_engine_that_does_nothing_notices_by_itself(path: Path, loss: Callable[[Path], None]) -> None:
    async def story() -> None:
        engine = Engine(path, services=[wait])
        await engine.start()
        handle = await engine.send(wait)
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        gone = time.monotonic()
        loss(path)
        with pytest.raises(EngineFailedError, match="removed or renamed"):
            await asyncio.wait_for(waiting, NOTICED_S)
        assert time.monotonic() - gone < NOTICED_S
        assert isinstance(engine.failure, EngineFailedError)
        assert isinstance(engine.failure.__cause__, StorageReplacedError)
        with pytest.raises(EngineFailedError):
            await engine.send(wait)
        await engine.close()

    play(story)


@pytest.mark.parametrize("loss", KINDS, ids=lambda loss: str(loss.__name__))
def test_closing_does_not_touch_what_is_there_instead(path: Path, loss: Callable[[Path], None]) -> None:
    """SQLite deletes a log by its name, when the last connection is closed; it may be another engine's by then."""

    async def story() -> None:
        store = SqliteStore(path)
        await store.open()
        await with_a_backup(store, path)
        loss(path)
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(path.parent.with_name("backup.db"), path)
        log = path.with_name(path.name + "-wal")
        log.write_bytes(b"of another engine")
        await store.close()
        assert log.read_bytes() == b"of another engine"

    play(story)


def test_names_that_cannot_be_looked_up_are_no_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was made unreadable takes nothing from files that are open."""

    def refuse(*arguments: object, **options: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            with monkeypatch.context() as patch:
                patch.setattr(os, "stat", refuse)
                await store.commit(SOMETHING)
        async with opened(SqliteStore(path)) as (_, where):
            assert where.settings == {"Shop": "{}"}

    play(story)


def test_a_file_that_was_renamed_can_be_renamed_back(path: Path) -> None:
    """Nothing acknowledged is lost."""

    async def story() -> None:
        elsewhere = path.with_name("elsewhere.db")
        async with opened(SqliteStore(path)) as (store, _):
            await store.commit(SOMETHING)
            os.rename(path, elsewhere)
            with pytest.raises(EngineFailedError):
                await store.commit(Writes(settings={"Mail": "{}"}))
        elsewhere.rename(path)
        async with opened(SqliteStore(path)) as (_, where):
            assert where.settings.keys() >= {"Shop"}

    play(story)
