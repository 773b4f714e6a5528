"""Encoding anew what is stored: after that, neither an old key nor a text in clear is in the file."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, UsageError
from durable.codec import key_id_of
from durable.store import recoding
from durable.store.checking import check_file
from durable.testing import run
from tests.codec.program import MARK, Said, ask_for_everything, services
from tests.codec.support import Picky, forge, keyed
from tests.codec.test_keys import SERVICES, Box, quick, work
from tests.runtime.support import engine_on


def test_all_of_a_file_in_clear_is_encoded_anew_and_then_with_another_key(tmp_path: Path) -> None:
    """Every door is asked before; what is told of each invocation afterwards is what was told before."""
    path, said = tmp_path / "app.db", Said()

    async def told(engine: Engine) -> list[Any]:
        """All that is known of everything."""
        views = [await engine.describe(one.id) for one in await engine.invocations(limit=1000)]
        return [views, *[await engine.get_state("Box", key) for key in "abc"]]

    async def main() -> None:
        async with Engine(path, services=services(said), synchronous="NORMAL") as engine:
            await ask_for_everything(engine, said)
            with pytest.raises(UsageError, match="no codec"):
                await engine.codec_keys()
        assert MARK.encode() in path.read_bytes()
        async with Engine(path, services=services(said), codec=keyed("k1"), synchronous="NORMAL") as engine:
            before = await told(engine)
            rows = await engine.codec_keys()
            assert rows.keys() == {""}
            assert await engine.encode_again() == rows[""]
            assert await engine.codec_keys() == {"k1": rows[""]}
            assert await engine.encode_again() == 0
            assert await told(engine) == before
        assert MARK.encode() not in path.read_bytes()
        async with Engine(path, services=services(said), codec=keyed("k1", "k2"), synchronous="NORMAL") as engine:
            assert await engine.encode_again() == rows[""]
        async with Engine(path, services=services(said), codec=keyed("k2"), synchronous="NORMAL") as engine:
            assert await told(engine) == before
            assert await engine.codec_keys() == {"k2": rows[""]}

    asyncio.run(main())
    assert asyncio.run(check_file(str(path))).troubles == []
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT key_id FROM codec_keys").fetchall() == [("k2",)]
    database.close()


def test_a_rotation_that_is_cut_short_goes_on_where_everything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of one row, an engine abandoned between two of them, and handlers that run meanwhile."""
    monkeypatch.setattr(recoding, "AT_ONCE", 1)
    path = tmp_path / "app.db"

    async def before() -> list[str]:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            ids = [(await engine.send(work, text)).id for text in "abc"]
            await engine.call(Box.put, "kept", key="a")
            await asyncio.sleep(1)
            return ids

    async def cut(ids: list[str]) -> None:
        engine = engine_on(path, *SERVICES, codec=keyed("k1", "k2"))
        await engine.start()
        rotating = asyncio.ensure_future(engine.encode_again())
        assert await engine.call(quick, "d") == "noted d"
        for _ in range(1000):
            if "k2" in await engine.codec_keys():
                break
        engine.abandon()
        await asyncio.wait([rotating])

    async def after(ids: list[str]) -> None:
        async with engine_on(path, *SERVICES, codec=keyed("k1", "k2")) as engine:
            rotating = asyncio.ensure_future(engine.encode_again())
            assert [await engine.attach(id) for id in ids] == [f"noted {text}" for text in "abc"]
            await rotating
            assert (await engine.codec_keys()).keys() == {"k2"}
            assert await engine.call(Box.look, key="a") == "kept"

    ids = run(before)
    run(lambda: cut(ids))
    run(lambda: after(ids))


def test_what_is_damaged_or_of_a_missing_key_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def life(*ids: str, rotate: bool = False) -> dict[str, int]:
        async with engine_on(path, *SERVICES, codec=keyed(*ids)) as engine:
            await engine.call(Box.put, ids[0], key=ids[0])
            if rotate:
                await engine.encode_again()
            return await engine.codec_keys()

    def damage(database: sqlite3.Connection) -> None:
        database.execute("UPDATE _state SET value = substr(value, 1, length(value) - 1) WHERE key = 'k1'")

    run(lambda: life("k0"))
    run(lambda: life("k1"))
    forge(path, damage)
    with sqlite3.connect(path) as database:
        before = database.execute("SELECT * FROM _state WHERE key < 'k2' ORDER BY key").fetchall()
        keys = run(lambda: life("k1", "k2", rotate=True))
        assert database.execute("SELECT * FROM _state WHERE key < 'k2' ORDER BY key").fetchall()[0] == before[0]
    database.close()
    assert keys.keys() == {"k0", "k2"}  # the damaged one was put anew


def test_probes_of_keys_are_damaged_without_harm(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def life() -> Any:
        async with engine_on(path, *SERVICES, codec=keyed("k1")) as engine:
            await engine.call(quick, "a", idempotency_key="a")
            return await engine.call(quick, "a", idempotency_key="a")

    run(life)
    for change in (
        "probe = x'00'",
        "probe = ''",
        "checksum = 5",
        "checksum = NULL",
        "key_id = 'k9'",
        "key_id = x'00'",
    ):
        forge(path, lambda database, change=change: database.execute(f"UPDATE codec_keys SET {change}"))  # type: ignore[misc]
        assert run(life) == "noted a"


def test_a_codec_that_stops_encoding_leaves_what_is_stored(tmp_path: Path) -> None:
    codec = Picky(b"-")

    async def story() -> None:
        async with engine_on(tmp_path / "app.db", *SERVICES) as engine:
            await engine.call(quick, "secret", idempotency_key="a")
        async with engine_on(tmp_path / "app.db", *SERVICES, codec=codec) as engine:
            codec.word = b"secret"
            await engine.encode_again()
            assert await engine.call(quick, "secret", idempotency_key="a") == "noted secret"

    run(story)


def test_in_memory_there_is_nothing_to_encode_anew() -> None:
    async def story() -> None:
        async with Engine(":memory:", services=SERVICES, codec=keyed("k1")) as engine:
            assert await engine.call(quick, "a") == "noted a"
            with pytest.raises(UsageError, match="in memory"):
                await engine.encode_again()

    asyncio.run(story())
    assert key_id_of(b"x") == key_id_of("x") == key_id_of(None) == ""
