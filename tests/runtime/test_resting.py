"""Invocations steered in a file whose service is stopped: nothing runs, and the next start does what was asked."""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Applied,
    Context,
    Engine,
    EngineLockedError,
    InvocationCancelled,
    ObjectContext,
    StorageCorruptError,
    StorageError,
    StorageVersionError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.ids import FULL
from durable.engine.resting import RestingEngine
from durable.store import CommitRefused

done: list[str] = []


def step(what: str) -> str:
    done.append(what)
    return what


@handler(service="Trips")
async def flight(ctx: Context) -> str:
    try:
        return await ctx.awakeable(str)
    except InvocationCancelled:
        await ctx.run(step, "flight undone")
        raise


@handler(service="Trips")
async def trip(ctx: Context) -> str:
    await ctx.run(step, "hotel booked")
    try:
        return await ctx.call(flight)
    except InvocationCancelled:
        await ctx.run(step, "hotel undone")
        raise


@handler(service="Trips")
async def nap(ctx: Context) -> str:
    await ctx.sleep("1ms")
    return "awake"


class Door(VirtualObject):
    @handler
    async def hold(self, ctx: ObjectContext) -> str:
        return await ctx.awakeable(str)

    @handler
    async def knock(self, ctx: ObjectContext) -> str:
        return "let in"


def engine(path: Path) -> Engine:
    return Engine(path, services=[flight, trip, nap, Door()], synchronous="NORMAL", inactivity_timeout="1s")


async def reaches(running: Engine, id: str, status: str) -> None:
    while (await running.describe(id)).status != status:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


Steer = Callable[[RestingEngine, dict[str, str]], Awaitable[Any]]


def story(path: Path, steer: Steer, *, killed: bool) -> dict[str, str]:
    """Begin, stop (or die), steer, and start again; what became of each, by name."""
    done.clear()

    async def begin() -> dict[str, str]:
        running = await engine(path).start()
        ids = {"trip": (await running.send(trip)).id, "hold": (await running.send(Door.hold, key="a")).id}
        ids["knock"] = (await running.send(Door.knock, key="a")).id
        ids["later"] = (await running.send(nap, delay="1h")).id
        ids["nap"] = (await running.send(nap)).id
        await reaches(running, ids["nap"], "completed")
        while not (await running.describe(ids["trip"])).children:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        [child] = (await running.describe(ids["trip"])).children
        ids["flight"] = child.id
        if killed:
            running.abandon()
        else:
            await running.close()
        return ids

    async def at_rest(ids: dict[str, str]) -> None:
        async with RestingEngine(path, changes=True) as resting:
            await steer(resting, ids)
        assert done == ["hotel booked"], "no code has run"

    async def end(ids: dict[str, str]) -> dict[str, str]:
        async with engine(path) as running:
            await asyncio.sleep(0.2)
            found = {}
            for name, id in ids.items():
                listed = [one for one in await running.invocations() if one.id == id]
                status = listed[0].completion_result or listed[0].status if listed else "gone"
                found[name] = "running" if status == "suspended" else status
                if listed and listed[0].last_failure is not None:
                    assert listed[0].last_failure.type == "ProcessEnded"
            return found

    ids = asyncio.run(begin())
    asyncio.run(at_rest(ids))
    return asyncio.run(end(ids))


AS_IT_WAS = {
    "trip": "running", "flight": "running", "hold": "running", "knock": "pending", "later": "scheduled",
    "nap": "success",
}  # fmt: skip


@pytest.mark.parametrize("killed", [False, True])
class TestSteering:
    def test_a_cancel_is_seen_at_the_next_start_leaf_first(self, tmp_path: Path, killed: bool) -> None:
        async def steer(resting: RestingEngine, ids: dict[str, str]) -> None:
            assert await resting.cancel(ids["trip"]) is Applied.ACCEPTED

        found = story(tmp_path / "app.db", steer, killed=killed)
        assert found == {**AS_IT_WAS, "trip": "failure", "flight": "failure"}
        assert done == ["hotel booked", "flight undone", "hotel undone"]

    def test_a_kill_ends_the_tree_and_frees_the_key(self, tmp_path: Path, killed: bool) -> None:
        async def steer(resting: RestingEngine, ids: dict[str, str]) -> None:
            for name in ("trip", "hold", "later"):
                assert await resting.kill(ids[name]) is Applied.DONE
            assert (await resting.describe(ids["flight"])).completion_result == "failure"
            assert (await resting.describe(ids["knock"])).status == "ready"

        found = story(tmp_path / "app.db", steer, killed=killed)
        assert found == {
            **AS_IT_WAS, "trip": "failure", "flight": "failure", "hold": "failure", "later": "failure",
            "knock": "success",
        }  # fmt: skip
        assert done == ["hotel booked"]

    def test_a_pause_holds_over_the_next_start_and_a_purge_forgets(self, tmp_path: Path, killed: bool) -> None:
        async def steer(resting: RestingEngine, ids: dict[str, str]) -> None:
            assert await resting.pause(ids["hold"]) is Applied.ACCEPTED
            await resting.purge(ids["nap"])

        found = story(tmp_path / "app.db", steer, killed=killed)
        assert found == {**AS_IT_WAS, "hold": "paused", "nap": "gone"}

    def test_what_is_restarted_and_resumed_goes_on_at_the_next_start(self, tmp_path: Path, killed: bool) -> None:
        async def steer(resting: RestingEngine, ids: dict[str, str]) -> None:
            again = await resting.restart_as_new(ids["nap"])
            assert (await resting.describe(again.id)).status == "ready"
            ids["again"] = again.id
            await resting.pause(again.id)
            assert (await resting.describe(again.id)).status == "paused"
            assert await resting.resume(again.id) is Applied.DONE

        found = story(tmp_path / "app.db", steer, killed=killed)
        assert found == {**AS_IT_WAS, "again": "success"}


def clean(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("SELECT value FROM meta WHERE name = 'clean'").fetchone()[0])


@pytest.mark.parametrize("killed", [False, True])
def test_who_ended_how_is_left_for_the_next_engine_to_see(tmp_path: Path, killed: bool) -> None:
    async def main(path: Path) -> None:
        running = await engine(path).start()
        id = (await running.send(Door.hold, key="a")).id
        await reaches(running, id, "running")
        if killed:
            running.abandon()
        else:
            await running.close()
        for _ in range(2):
            async with RestingEngine(path, changes=True) as resting:
                await resting.pause(id)
        resting = await RestingEngine(path, changes=True).start()
        await resting.resume(id)
        resting.abandon()  # killed at its work: it has run nothing that could be charged
        async with engine(path) as running:
            while (await running.describe(id)).attempt < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            problem = (await running.describe(id)).last_failure
            assert (problem is not None) is killed

    path = tmp_path / "app.db"
    asyncio.run(main(path))


def test_reading_leaves_file_and_log_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "app.db"

    async def begin(killed: bool) -> str:
        running = await engine(path).start()
        id = (await running.send(trip)).id
        await reaches(running, id, "running")
        if killed:
            running.abandon()
        else:
            await running.close()
        return id

    async def look(id: str) -> None:
        async with RestingEngine(path) as resting:
            assert (await resting.describe(id)).target == "Trips/trip"
            assert len(await resting.invocations(service="Trips")) >= 1
            assert await resting.deadlocks() == []
            with pytest.raises(CommitRefused, match="reading only: nothing was changed"):
                await resting.cancel(id)
            async with engine(path):  # which may start meanwhile
                pass

    for killed in (False, True):
        id = asyncio.run(begin(killed))
        kept = tmp_path / f"kept-{killed}"
        kept.mkdir()
        for end in ("", "-wal"):
            file = path.with_name(path.name + end)
            assert file.exists() == (killed or not end)
            if file.exists():
                shutil.copy(file, kept)

        async def only_look(id: str = id) -> None:
            async with RestingEngine(path) as resting:
                await resting.describe(id)

        asyncio.run(only_look())
        for file in kept.iterdir():
            assert (tmp_path / file.name).read_bytes() == file.read_bytes()
        asyncio.run(look(id))


def contents(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.parametrize("changes", [False, True])
def test_what_cannot_be_used_is_named_and_left_as_it_is(tmp_path: Path, changes: bool) -> None:
    async def refused(path: Path, kind: type[StorageError], words: str) -> None:
        before = contents(path)
        with pytest.raises(kind, match=words):
            await RestingEngine(path, changes=changes).start()
        assert contents(path) == before

    async def main() -> None:
        path = tmp_path / "app.db"
        if not changes:
            with pytest.raises(StorageError, match="there is no file"):
                await RestingEngine(path).start()
        path.write_text("nothing of SQLite's")
        await refused(path, StorageCorruptError, "is no SQLite database")
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE t (x)")
        database.close()
        await refused(path, StorageCorruptError, "SQLite database of another program")
        path.unlink()
        async with engine(path):
            await refused(path, EngineLockedError, "already open in this process")
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 3")
        database.close()
        await refused(path, StorageVersionError, "schema version 3, and this durable works with")
        path.unlink()
        path.touch()
        await refused(path, StorageError, "is empty: no engine has ever started on it")

    asyncio.run(main())


class Plan(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> None:
        ctx.set("stage", 1)


@pytest.mark.parametrize("changes", [False, True])
def test_keys_of_a_file_from_before_ids_had_to_be_readable_are_known_here_too(tmp_path: Path, changes: bool) -> None:
    """A workflow whose retention is over has no state any more: its run tells, whose id the key determines."""
    path = tmp_path / "durable.db"

    def engine() -> Engine:
        return Engine(path, services=[Plan()], workflow_completion_retention="1ms")

    async def story() -> None:
        async with engine():
            pass
        with sqlite3.connect(path) as database:
            database.execute("INSERT INTO meta (name, value) VALUES ('full_ids', 1)")
        database.close()
        async with engine() as running:
            await running.call(Plan.run, key="rome")
        await asyncio.sleep(0.01)
        async with RestingEngine(path, changes=changes) as resting:
            assert resting._registry.id_span == FULL
            assert await resting.stored_state("Plan", "rome") == {}

    asyncio.run(story())
