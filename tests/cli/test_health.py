"""`durable health`: how an engine fares, of one that runs and of a file that nobody runs."""

import asyncio
import json
from pathlib import Path

from durable import Context, Engine, handler
from tests.cli.typed import Typed, typed


@handler(service="Shop")
async def ends_badly(ctx: Context) -> object:
    return object()  # which cannot be stored: it is paused


def test_it_says_why_and_exits_with_1_unless_all_is_well(tmp_path: Path) -> None:
    db = tmp_path / "app.db"

    async def main() -> list[Typed]:
        async with Engine(db, services=[ends_badly]) as engine:
            well = await asyncio.to_thread(typed, "health", "--db", db)
            handle = await engine.send(ends_badly)
            while (await handle.describe()).status != "paused":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            paused = await asyncio.to_thread(typed, "health", "--db", db)
            return [well, paused, await asyncio.to_thread(typed, "health", "--db", db, "--json")]

    well, paused, document = asyncio.run(main())
    assert (well.code, well.out.splitlines()[0]) == (0, "ok")
    assert "Role" in well.out and "MiB" in well.out
    assert paused.code == 1
    assert paused.out.splitlines()[:2] == [
        "degraded",
        "- 1 invocation is paused: mend the cause, then engine.resume(id) or engine.resume_all(reason=...)",
    ]
    assert json.loads(document.out)["paused"] == 1
    stopped = typed("health", "--db", db)
    assert stopped.code == 1
    assert stopped.out.splitlines()[:2] == ["failing", "- the engine does not run"]
    assert "Paused" in stopped.out, "what waits in the file is told all the same"
