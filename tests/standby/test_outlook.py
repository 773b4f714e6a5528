"""What stands in the way of a take-over is said while another engine has the file, not when it is gone."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    KeyMissingError,
    Role,
    StorageBusyError,
    StorageReadOnlyError,
    StorageVersionError,
    handler,
)
from durable.engine import standby
from tests.codec.support import Rotating, keyed
from tests.standby.test_standby import until

CLUSTERS = {"main": {"bootstrap.servers": "127.0.0.1:1"}}  # nobody is there
PASSWORD: Mapping[str, str] = {"sasl.username": "ada", "sasl.password": "${env:KAFKA_NOT_SET}"}


@handler(service="Shop")
async def wait(ctx: Context) -> str:
    return await ctx.signal("go", str)


@handler(service="Shop")
async def newer(ctx: Context) -> str:
    return await ctx.signal("go", str)


def standing_by(path: Path, **options: Any) -> Engine:
    return Engine(path, **{"services": [wait, newer], "synchronous": "NORMAL", "standby": True, **options})


async def seen(engine: Engine) -> tuple[str, ...]:
    """What its health says of a take-over."""
    found = await engine.health()
    assert {one for one in found.reasons if one.startswith("on standby")} == {
        f"on standby, and {one}" for one in found.take_over
    }
    assert not found.take_over or found.verdict == "degraded"
    return found.take_over


@pytest.mark.parametrize("codec", [None, keyed("k1", wrong=True)], ids=["none", "another key by that id"])
async def test_without_what_decodes_the_file_it_does_not_start(tmp_path: Path, codec: Any) -> None:
    path = tmp_path / "app.db"
    async with standing_by(path, codec=keyed("k1")) as holder:
        await holder.send(wait)
        late = standing_by(path, codec=codec)
        with pytest.raises(KeyMissingError, match="'k1'"):
            await late.start()
        assert late.role is None
        async with standing_by(path, codec=keyed("k1")) as other:
            assert (other.role, await seen(other)) == (Role.STANDBY, ())


async def test_where_it_could_not_write_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.db"
    async with standing_by(path):
        monkeypatch.setattr("durable.store.beside._may_write", lambda place: place != str(tmp_path))
        with pytest.raises(StorageReadOnlyError, match="cannot be written by this process"):
            await standing_by(path).start()


async def test_where_a_newer_version_has_the_file_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "app.db"
    async with standing_by(path):
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 999")
        with pytest.raises(StorageVersionError, match="written by a newer durable"):
            await standing_by(path).start()


async def test_a_key_that_is_missing_is_named_while_it_waits_and_stops_only_what_needs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "app.db"
    async with standing_by(path, codec=keyed("k1")) as holder:
        await holder.send(wait)
        async with standing_by(path, codec=keyed("k2")) as late:
            [said] = await seen(late)
            assert said.startswith("after a take-over, invocations that need values encoded with the key 'k1'")
            await until(lambda: f"on standby, and {said}" in caplog.text)
            await holder.close()
            await until(lambda: late.role is Role.HOLDER)
            assert (await late.health()).take_over == ()
            assert (await late.send(wait)).accepted


async def test_what_cannot_be_seen_just_now_keeps_nobody_from_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, errors = (
        tmp_path / "app.db",
        [StorageBusyError("it takes too long"), sqlite3.OperationalError(), TypeError()],
    )

    def look(path: str) -> None:
        raise errors[0]

    async with standing_by(path):
        monkeypatch.setattr("durable.store.beside.look_beside", look)
        while errors:
            async with standing_by(path) as late:
                assert (late.role, await seen(late)) == (Role.STANDBY, ())
            errors.pop(0)
    assert "what a take-over would meet cannot be told" in caplog.text


async def test_a_key_that_comes_later_is_noticed_while_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec may change its key at any time, and the next holder may have another codec."""
    monkeypatch.setattr(standby, "LOOK_EVERY_S", 0.02)
    path, codec = tmp_path / "app.db", Rotating("k1")
    async with standing_by(path, codec=codec) as holder, standing_by(path, codec=keyed("k1")) as late:
        await holder.send(wait)
        assert await seen(late) == ()
        codec.key_id = "k2"
        await holder.send(wait)
        await until(lambda: "with the key 'k2' would be paused as key-missing" in caplog.text)
        assert len(await seen(late)) == 1
        async with standing_by(path, codec=Rotating("k1")) as other:
            assert await seen(other) == ()
    assert caplog.text.count("would be paused as key-missing") == 1, "it is said once"


async def test_handlers_and_clusters_that_its_code_lacks_are_named_while_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "app.db"
    async with standing_by(path, kafka_clusters=CLUSTERS) as holder:
        here, there = [
            await holder.subscribe(f"kafka://main/{topic}", sink, options)
            for topic, sink, options in (("here", wait, {}), ("there", newer, PASSWORD))
        ]
        await holder.send(newer)
        async with standing_by(path, services=[wait]) as late:
            gone = "after a take-over, open invocations would be paused as handler-gone: this process has no handler"
            named = [f"after a take-over, the subscription {one.id} ({one.source})" for one in (here, there)]
            missing = "would read nothing: Kafka cluster 'main' not found. Available clusters: []"
            expected = {f"{gone} Shop/newer", *(f"{one} {missing}" for one in named)}
            assert set(await seen(late)) == expected
            await until(lambda: all(one in caplog.text for one in expected))
        async with standing_by(path, services=[wait], kafka_clusters=CLUSTERS) as late:
            assert f"{named[1]} would read nothing: the environment variable KAFKA_NOT_SET is not set" in await seen(
                late
            )
        for one in (here, there):
            await holder.pause_subscription(one.id)
        async with standing_by(path, services=[wait]) as late:
            assert set(await seen(late)) == {f"{gone} Shop/newer"}
        async with standing_by(path) as late:
            assert await seen(late) == ()
