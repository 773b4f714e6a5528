"""The command line reads and steers subscriptions, of an engine that runs, through the socket beside its file."""

import asyncio
from pathlib import Path

import pytest

from tests.cli.typed import Typed, typed
from tests.kafka.support import Broker, engine_on, produce, state_of, taken
from tests.kafka.test_reading import Counter

pytestmark = pytest.mark.anyio


async def test_a_subscription_is_created_watched_and_steered(broker: Broker, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "durable.db"

    async def ask(*words: str) -> Typed:
        return await asyncio.to_thread(typed, "subscriptions", *words, "--db", path)

    async with engine_on(broker, Counter(), path=path) as engine:
        source, sink = f"kafka://main/{topic}", "service://Counter/add"
        created = await ask("create", source, sink, "--option", "auto.offset.reset=earliest")
        assert created.code == 0, created
        id = created.out.strip()
        await asyncio.to_thread(produce, broker, topic, [(b"k", b"1"), (b"k", b"2")])
        await taken(engine, id, 2)
        [listed] = (await ask("list", "--json")).json
        assert (listed["id"], listed["source"], listed["sink"], listed["taken"]) == (id, source, sink, 2)
        shown = (await ask("list")).out
        assert id in shown and "running" in shown and source in shown
        more = await ask("create", source, sink, "--option", "max.poll.records=5", "--json")
        assert (more.json["id"], more.json["options"]["max.poll.records"]) == (id, "5")
        assert (await ask("pause", id)).code == 0
        await state_of(engine, id, "paused")
        assert (await ask("resume", id, "--position", "earliest")).code == 0
        await state_of(engine, id, "running")
        second = (await ask("create", source, sink, "--again")).out.strip()
        assert second != id and (await ask("delete", second)).code == 0
        assert (await ask("delete", id)).code == 0
        assert await engine.subscriptions() == []
        again = await ask("delete", id)
        assert again.code != 0 and id in again.err
        refused = await ask("create", source, "service://Counter/none")
        assert refused.code != 0 and "cannot find service/handler" in refused.err
