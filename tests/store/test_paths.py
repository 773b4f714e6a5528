"""Paths people use, and what they are told where one cannot be meant."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from durable import Context, Engine, StorageError, StorageReadOnlyError, UsageError, handler, restore
from durable.store.paths import database_path
from durable.store.sqlite import SqliteStore


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
