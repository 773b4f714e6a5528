"""R-07, R-12: what a start finds changed, in the code or in the file. It pauses, and can be healed."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    ObjectContext,
    VirtualObject,
    handler,
)
from durable.testing import run
from tests.runtime.support import (
    Neighbour,
    engine_on,
    settled,
)

# ---- after a change of the code ----


def test_a_handler_that_is_gone_pauses_its_invocations_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    executions: list[str] = []

    async def step() -> str:
        executions.append("step")
        return "done"

    @handler(service="Old", name="take")
    async def take(ctx: Context) -> str:
        first = await ctx.run(step)
        await ctx.sleep("1h")
        return first

    async def story() -> None:
        async with engine_on(path, take) as engine:
            poisoned = await engine.send(take)
            await asyncio.sleep(1)
        neighbour = Neighbour()
        async with engine_on(path, neighbour.live) as engine:
            beside = await engine.send(neighbour.live)
            view = await settled(engine, poisoned.id)
            assert view.status == "paused"
            assert view.last_failure is not None
            assert "Old/take" in view.last_failure.message
            await neighbour.undisturbed(engine, beside.id)
            assert [one.id for one in await engine.invocations(status="paused")] == [poisoned.id]
        async with engine_on(path, take) as engine:
            await engine.resume(poisoned.id)
            assert await engine.attach(poisoned.id) == "done"
        assert executions == ["step"]

    run(story)


def _taking(annotation: Any, output: Any = Any) -> Any:
    async def take(ctx: Context, value: Any) -> Any:
        await ctx.sleep(5)
        return value

    take.__annotations__ |= {"value": annotation, "return": output}
    return handler(service="Changed")(take)


def _stepping(output: Any) -> Any:
    async def step() -> Any:
        return 7

    step.__annotations__["return"] = output

    @handler(service="Changed", name="take")
    async def take(ctx: Context, value: Any) -> Any:
        seen = await ctx.run(step)
        await ctx.sleep(5)
        return [seen, value]

    return take


@pytest.mark.parametrize(
    ("before", "after", "healed"),
    [
        pytest.param(_taking(str), _taking(int), "seven", id="its input"),
        pytest.param(_taking(str, str), _taking(str, int), "seven", id="its output"),
        pytest.param(_stepping(int), _stepping(dict[str, str]), [7, "seven"], id="a step's result"),
    ],
)
def test_what_no_longer_decodes_after_a_change_of_the_code_pauses_and_can_be_healed(
    tmp_path: Path, before: Any, after: Any, healed: Any
) -> None:
    path = tmp_path / "durable.db"

    async def story() -> None:
        async with engine_on(path, before) as engine:
            poisoned = await engine.send("Changed/take", "seven")
            await asyncio.sleep(1)
        neighbour = Neighbour()
        async with engine_on(path, after, neighbour.live) as engine:
            beside = await engine.send(neighbour.live)
            view = await settled(engine, poisoned.id)
            assert view.status == "paused"
            assert view.last_failure is not None
            assert view.last_failure.type == "SerializationError"
            await neighbour.undisturbed(engine, beside.id)
        async with engine_on(path, before) as engine:
            await engine.resume(poisoned.id)
            assert await engine.attach(poisoned.id) == healed

    run(story)


def test_state_that_no_longer_decodes_pauses_one_key(tmp_path: Path) -> None:
    class Count(VirtualObject):
        @handler
        async def add(self, ctx: ObjectContext) -> int:
            count = (await ctx.get("count", int) or 0) + 1
            ctx.set("count", count)
            return count

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Count()) as engine:
            await engine.patch_state("Count", "bad", {"count": "many"})
            poisoned = await engine.send(Count.add, key="bad")
            assert (await settled(engine, poisoned.id)).status == "paused"
            assert await engine.call(Count.add, key="good") == 1
            await engine.kill(poisoned.id)
            await engine.patch_state("Count", "bad", {"count": 41})
            assert await engine.call(Count.add, key="bad") == 42

    run(story)


def test_a_keyed_handler_that_became_a_plain_one_pauses_its_invocations(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"

    class Thing(VirtualObject):
        @handler
        async def take(self, ctx: ObjectContext) -> None:
            ctx.set("n", 1)
            await ctx.sleep(5)

    @handler(service="Thing", name="take")
    async def plain(ctx: Context) -> None:
        await ctx.sleep(5)

    async def story() -> None:
        async with engine_on(path, Thing()) as engine:
            poisoned = await engine.send(Thing.take, key="k")
            await asyncio.sleep(1)
        neighbour = Neighbour()
        async with engine_on(path, plain, neighbour.live) as engine:
            beside = await engine.send(neighbour.live)
            assert (await settled(engine, poisoned.id)).status == "paused"
            await neighbour.undisturbed(engine, beside.id)

    run(story)


# ---- rows that somebody damaged ----

DAMAGE = {
    "headers that are no JSON": "UPDATE _invocations SET headers = '{' WHERE seq = 1",
    "headers of another type": "UPDATE _invocations SET headers = '[1]' WHERE seq = 1",
    "a flavor that is none": "UPDATE _invocations SET flavor = 'vanilla' WHERE seq = 1",
    "step failures that are none": "UPDATE _invocations SET step_failures = '[]' WHERE seq = 1",
    "a failure that is none": "UPDATE _invocations SET last_failure = '7' WHERE seq = 1",
    "an entry of an unknown kind": "UPDATE journal SET kind = 'dance' WHERE invocation = 1 AND entry = 1",
    "a due time that is none": "UPDATE journal SET detail = 'noon' WHERE invocation = 1 AND kind = 'sleep'",
    "a missing entry": "DELETE FROM journal WHERE invocation = 1 AND entry = 1",
    "an outcome that is no failure": "UPDATE journal SET ok = 0, value = x'ff' WHERE invocation = 1 AND entry = 1",
    "a value that is none": "UPDATE journal SET value = x'ff' WHERE invocation = 1 AND entry = 1",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_one_damaged_row_pauses_one_invocation_and_the_others_go_on(tmp_path: Path, damage: str) -> None:
    """R-07, R-12: one bad row never stops a start."""
    path = tmp_path / "durable.db"

    @handler(service="Row")
    async def take(ctx: Context) -> int:
        seen = await ctx.run(lambda: 7)
        await ctx.sleep(5)
        return seen

    async def story() -> None:
        async with engine_on(path, take) as engine:
            poisoned = await engine.send(take)
            sound = await engine.send(take)
            await asyncio.sleep(1)
        database = sqlite3.connect(path)
        assert database.execute(damage).rowcount == 1
        database.commit()
        database.close()
        async with engine_on(path, take) as engine:
            assert await engine.attach(sound.id) == 7
            assert engine.failure is None
            assert {one.id: one.status for one in await engine.invocations()} == {
                poisoned.id: "paused",
                sound.id: "completed",
            }
            await engine.kill(poisoned.id)
            assert await engine.call(take) == 7

    run(story)


# ---- the process itself ----

EXITS = """
import asyncio, os, sys
from durable import Context, Engine, handler

async def step(marker):
    if not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(7)
    return "survived"

@handler(service="Exits")
async def exits(ctx: Context, marker: str) -> str:
    return await ctx.run(step, marker)

async def main():
    async with Engine(sys.argv[1], services=[exits]) as engine:
        print(await engine.call(exits, sys.argv[2], idempotency_key="once"))

asyncio.run(main())
"""


@pytest.mark.process
def test_a_step_that_ends_the_process_runs_again_in_the_next_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXITS, str(tmp_path / "durable.db"), str(tmp_path / "marker")]
    assert subprocess.run(command, check=False, timeout=30).returncode == 7
    again = subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)
    assert again.stdout == "survived\n", again.stderr
