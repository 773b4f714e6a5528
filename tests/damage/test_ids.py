"""An invocation whose id is damaged is found under another one, which the listing tells."""

import asyncio
import sqlite3
from pathlib import Path

import httpx
import pytest

from durable import (
    Context,
    Engine,
    Handle,
    NotFoundError,
    StorageError,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.ids import parse_stand_in_id, stand_in_id
from durable.core.reasons import Reason
from durable.ingress import create_app
from durable.store import soundness
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
        database.execute("UPDATE _invocations SET id = ? WHERE seq = 1", (nonsense,))
    database.close()
    run(after)


def test_no_other_id_stands_in() -> None:
    for seq in (1, 62, 2**63 - 1):
        assert parse_stand_in_id(stand_in_id(seq)) == seq
    assert parse_stand_in_id("inv_1" + "z" * 33) is None
    assert parse_stand_in_id("inv_1" + "0" * 11 + "z" * 22) is None
    assert parse_stand_in_id("inv_1") is None


NONSENSE = ["inv_x", "", 5, b"\xff", "inv_1\0" + "0" * 32, "inv_1" + "z" * 33]


def damage_id(path: Path, nonsense: object, *others: str) -> None:
    """Set the id of the first invocation to nonsense, and other columns of it too."""
    with sqlite3.connect(path) as database:
        for name in ("id", *others):
            database.execute(f"UPDATE _invocations SET {name} = ? WHERE seq = 1", (nonsense,))
    database.close()


class Batch(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, number: int) -> int:
        return await count(number)


@handler(service="Plain")
async def once(ctx: Context, number: int) -> int:
    return await ctx.run(count, number)


@handler(service="Plain")
async def asks(ctx: Context, number: int) -> int:
    return await ctx.call(once, number, idempotency_key="k")


ran: list[int] = []


async def count(number: int) -> int:
    ran.append(number)
    return number


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
@pytest.mark.parametrize("looked_at", [False, True], ids=["asked again first", "listed first"])
@pytest.mark.parametrize("workflow", [False, True], ids=["idempotency key", "workflow"])
def test_an_id_that_its_key_determines_is_written_again_and_nothing_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: object, workflow: bool, looked_at: bool
) -> None:
    """Also in a large file, which a start does not look through: its index has the old id, or the new one."""
    monkeypatch.setattr(soundness, "LOOKED_THROUGH_MAX", 0)
    path = tmp_path / "durable.db"
    ran.clear()
    found: list[str] = []

    async def ask(engine: Engine, number: int) -> Handle[int]:
        if workflow:
            return await engine.send(Batch.run, number, key="k")
        return await engine.send(once, number, idempotency_key="k")

    async def first() -> None:
        async with engine_on(path, once, Batch()) as engine:
            found.append((await ask(engine, 1)).id)
            assert await engine.attach(found[0], int) == 1

    async def again() -> None:
        async with engine_on(path, once, Batch()) as engine:
            if looked_at:
                assert [one.id for one in await engine.invocations()] == found
                assert await engine.attach(found[0], int) == 1
            handle = await ask(engine, 2)
            assert (handle.id, await handle.result()) == (found[0], 1)
            assert (await engine.describe(found[0])).completion_result == "success"

    run(first)
    damage_id(path, nonsense)
    run(again)
    run(again)
    assert ran == [1]


@pytest.mark.parametrize("through", ["a client", "a handler"])
def test_a_key_whose_invocation_cannot_be_told_is_refused_by_name_until_that_is_purged(
    tmp_path: Path, through: str
) -> None:
    path = tmp_path / "durable.db"
    ran.clear()

    async def first() -> None:
        async with engine_on(path, once, asks) as engine:
            assert await engine.call(once, 1, idempotency_key="k") == 1

    async def again() -> None:
        async with engine_on(path, once, asks) as engine:
            if through == "a client":
                with pytest.raises(StorageError, match=stand_in_id(1)):
                    await engine.call(once, 2, idempotency_key="k")
                transport = httpx.ASGITransport(create_app(engine))
                async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                    answer = await http.post("/Plain/once", json=2, headers={"idempotency-key": "k"})
                    assert (answer.status_code, stand_in_id(1) in answer.json()["message"]) == (409, True)
            else:
                view = await settled(engine, (await engine.send(asks, 2)).id)
                assert view.last_failure is not None
                assert (view.status, view.last_failure.reason) == ("paused", Reason.COMMIT_REFUSED)
                assert stand_in_id(1) in view.last_failure.message
            assert await engine.call(once, 3, idempotency_key="another") == 3
            assert ran == [1, 3]
            await engine.purge(stand_in_id(1))
            if through == "a client":
                assert await engine.call(once, 4, idempotency_key="k") == 4
            else:
                await engine.resume(view.id)
                assert await engine.attach(view.id, int) == 2

    run(first)
    damage_id(path, "nonsense", "seed")
    run(again)


def test_many_that_are_accepted_together_are_not_refused_for_one_whose_key_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    ran.clear()

    async def first() -> None:
        async with engine_on(path, once) as engine:
            assert await engine.call(once, 1, idempotency_key="k") == 1

    async def again() -> None:
        async with engine_on(path, once) as engine:
            asked = [engine.call(once, number, idempotency_key=key) for number, key in ((2, "a"), (3, "k"), (4, "b"))]
            assert await asyncio.gather(*asked) == [2, 1, 4]

    run(first)
    damage_id(path, "nonsense")
    run(again)
    assert sorted(ran) == [1, 2, 4]


def test_a_file_in_which_a_request_was_accepted_twice_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"

    async def first() -> None:
        async with engine_on(path, once, Batch()) as engine:
            for key in ("k", "l"):
                await engine.call(once, 1, idempotency_key=key)
                await engine.call(Batch.run, 1, key=key)

    async def listed() -> None:
        async with engine_on(path, once, Batch()) as engine:
            keys = sorted(str(one.idempotency_key) for one in await engine.invocations() if one.service == "Plain")
            assert keys == ["k", "k (again: number 3)"]
            assert len(await engine.invocations(service="Batch")) == 2

    run(first)
    with sqlite3.connect(path) as database:
        database.executescript(
            "DROP INDEX invocations_of_workflow; DROP INDEX invocations_of_claim;"
            "DROP TABLE subscriptions; DROP TABLE positions; DROP TABLE clusters; DROP TABLE codec_keys;"
            "DROP TABLE answered;"
            "DROP VIEW invocations; DROP VIEW steps; DROP VIEW timers; DROP VIEW state; DROP VIEW failures;"
            "ALTER TABLE _invocations DROP COLUMN origin;"
            "ALTER TABLE _invocations RENAME TO invocations; ALTER TABLE _timers RENAME TO timers;"
            "ALTER TABLE _state RENAME TO state;"
            "UPDATE invocations SET idempotency_key = 'k' WHERE idempotency_key = 'l';"
            "UPDATE invocations SET key = 'k' WHERE key = 'l'; PRAGMA user_version = 6;"
        )
    database.close()
    run(listed)
