"""Paths people use, and what they are told where one cannot be meant."""

import asyncio
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    EngineUnreachableError,
    StorageError,
    StorageReadOnlyError,
    UsageError,
    connect,
    handler,
    restore,
)
from durable.engine.resting import RestingEngine
from durable.store.beside import look_beside
from durable.store.checking import check_file
from durable.store.paths import database_path
from durable.store.sqlite import SqliteStore
from tests.cli.typed import typed


@handler(service="Echo")
async def echo(ctx: Context, value: str) -> str:
    return await ctx.run(str.upper, value)


def use(path: Any) -> str:
    """What an engine on this path answers."""

    async def story() -> str:
        async with Engine(path, services=[echo]) as engine:
            return await engine.call(echo, "hello")

    return asyncio.run(story())


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
@pytest.mark.parametrize("name", ["p.db", "a b%20?#ü.db", "x", "имя 🚀.db", "-wal", "file.db?mode=ro"])
def test_any_name_of_a_file_will_do(tmp_path: Path, kind: Any, name: str) -> None:
    assert use(kind(str(tmp_path / name))) == "HELLO"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert use("~/x.db") == "HELLO"

    async def story() -> None:
        async with Engine(Path("~/x.db"), services=[echo]) as engine:
            await engine.backup("~/backup.db")

    asyncio.run(story())
    assert restore("~/backup.db", "~/y.db") is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup.db", "x.db", "y.db"]


def test_memory_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert use(":memory:") == use(Path(":memory:")) == "HELLO"

    async def story() -> None:
        async with Engine(":memory:", services=[echo]) as one, Engine(":memory:", services=[echo]) as other:
            kept = await one.send(echo, "one")
            assert await kept.result() == "ONE"
            assert await other.invocations() == []
            with pytest.raises(StorageError, match="memory"):
                await one.backup("backup.db")

    asyncio.run(story())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="Engine"):
        SqliteStore(":memory:")


@pytest.mark.parametrize(
    ("wrong", "instead"),
    [
        ("sqlite:///x.db", "'x.db'"),
        ("sqlite:////data/x.db", "'/data/x.db'"),
        ("SQLite+aiosqlite:///x.db?timeout=5", "'x.db'"),
        ("sqlite://", "':memory:'"),
        ("sqlite:///:memory:", "':memory:'"),
        ("file:x.db?mode=memory", "':memory:'"),
        ("file::memory:", "':memory:'"),
        ("file:x.db", "'x.db'"),
        ("file:///data/x.db", "'/data/x.db'"),
        ("postgresql://host/db", "path"),
        ("", "'app.db'"),
        ("data/", "'data/app.db'"),
        ("a\0b", "NUL"),
        (5, "path"),
        (object(), "path"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_write(wrong: Any, instead: str) -> None:
    for use in (database_path, SqliteStore, Engine):
        with pytest.raises(UsageError) as caught:
            use(wrong)
        assert instead in str(caught.value)


@pytest.mark.parametrize("place", [".", "..", "/dev/null", "no/such/place/x.db", "fifo"])
def test_where_no_file_can_be_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with pytest.raises(StorageReadOnlyError) as caught:
        use(place)
    assert str(Path(place).resolve() if place.startswith(".") else place) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["fifo"]


KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe (FIFO)": os.mkfifo,
    "a directory": os.mkdir,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK),  # a path of any length, where a bind would not do
}


async def start(path: Path, good: Path) -> None:
    async with Engine(path, services=[echo]):
        pass


async def stand_by(path: Path, good: Path) -> None:
    async with Engine(path, services=[echo], standby=True):
        pass


async def rest(path: Path, good: Path) -> None:
    await RestingEngine(path, changes=True).start()


async def read(path: Path, good: Path) -> None:
    await RestingEngine(path).start()


async def check(path: Path, good: Path) -> None:
    await check_file(str(path))


async def foresee(path: Path, good: Path) -> None:
    look_beside(str(path))


async def put_back(path: Path, good: Path) -> None:
    restore(good, path)


async def put_back_from(path: Path, good: Path) -> None:
    restore(path, good)


OPENERS = (start, stand_by, rest, read, check, foresee, put_back, put_back_from)


@pytest.mark.parametrize("open_it", OPENERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_named_by_whoever_would_open_it(tmp_path: Path, open_it: Any, kind: str) -> None:
    """Itself, and what SQLite keeps beside it: who opens a named pipe waits for its other end."""
    path, good = tmp_path / "x.db", tmp_path / "good.db"
    use(good)
    for suffix in ("", "-wal", "-journal", "-shm"):
        other = Path(f"{path}{suffix}")
        if suffix:
            shutil.copy(good, path)
        KINDS[kind](other)
        with pytest.raises(StorageReadOnlyError, match=re.escape(f"{other} is {kind}")):
            asyncio.run(open_it(path, good))
        other.rmdir() if other.is_dir() else other.unlink()
    assert use(path) == use(good) == "HELLO"


def test_a_pipe_where_a_backup_is_begun_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[echo]) as engine:
            os.mkfifo(tmp_path / "copy.db.unfinished")
            with pytest.raises(StorageReadOnlyError, match="a named pipe"):
                await engine.backup(tmp_path / "copy.db")

    asyncio.run(story())


@pytest.mark.parametrize("kind", KINDS)
def test_clients_and_commands_name_it_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.db"
    KINDS[kind](path)

    async def story() -> None:
        async with connect(path):
            pass

    with pytest.raises(EngineUnreachableError, match=re.escape(f"{path} is {kind}")):
        asyncio.run(story())
    for line in (
        ["invocations", "list", "--db", path], ["call", "Echo/echo", "--db", path], ["check-file", path],
        ["backup", tmp_path / "copy.db", "--db", path], ["restore", path, "--db", tmp_path / "new.db"],
        ["restore", tmp_path / "x.db", "--db", path],
    ):  # fmt: skip
        told = typed(*line)
        assert (told.code, f"{path} is {kind}" in told.err) == (4, True)
    assert [file.name for file in tmp_path.iterdir()] == ["x.db"]
