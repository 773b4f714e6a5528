"""An invocation whose id is damaged is found under another one, which the listing tells."""

import sqlite3
from pathlib import Path

import pytest

from durable import Context, Engine, NotFoundError, handler
from durable.core.ids import parse_stand_in_id, stand_in_id
from durable.core.reasons import Reason
from durable.testing import run
from tests.runtime.support import engine_on, settled


@handler(service="Plain")
async def sleeps(ctx: Context, number: int) -> int:
    await ctx.sleep("10m")
    return number


@pytest.mark.parametrize("nonsense", ["inv_x", "", 5, b"\xff", "inv_1\0" + "0" * 32], ids=repr)
def test_it_is_listed_described_killed_and_purged(tmp_path: Path, nonsense: object) -> None:
    path = tmp_path / "durable.db"

    async def before() -> None:
        async with engine_on(path, sleeps) as engine:
            for number in range(2):
                await engine.send(sleeps, number)

    async def after() -> None:
        async with engine_on(path, sleeps) as engine:
            id = stand_in_id(1)
            view = await settled(engine, id)
            assert [one.id for one in await engine.invocations(status="paused")] == [id]
            assert (view.status, view.last_failure and view.last_failure.reason) == ("paused", Reason.DAMAGED)
            await engine.kill(id)
            assert (await engine.describe(id)).status == "completed"
            await engine.purge(id)
            with pytest.raises(NotFoundError):
                await engine.describe(id)
            await others_go_on(engine)

    async def others_go_on(engine: Engine) -> None:
        [left] = await engine.invocations()
        assert await engine.attach(left.id, int) == 1

    run(before)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE invocations SET id = ? WHERE seq = 1", (nonsense,))
    database.close()
    run(after)


def test_no_other_id_stands_in() -> None:
    for seq in (1, 62, 2**63 - 1):
        assert parse_stand_in_id(stand_in_id(seq)) == seq
    assert parse_stand_in_id("inv_1" + "z" * 33) is None
    assert parse_stand_in_id("inv_1" + "0" * 11 + "z" * 22) is None
    assert parse_stand_in_id("inv_1") is None
