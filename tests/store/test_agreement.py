"""Random turns, written to both stores: whatever is asked of them afterwards, they tell the same."""

from pathlib import Path
from typing import Any

import pytest

from durable.core.effects import Need
from durable.store import Store
from durable.store.filter import Filter
from durable.store.sqlite import SqliteStore
from tests.core.driver import TURNS, Driver
from tests.store.support import opened, play


async def told(store: Store, need: Need, now: int) -> dict[str, Any]:
    """All that a store has."""
    found = await store.load(need)
    return {
        "invocations": {one.seq: one for one in found.invocations},
        "keys": {(one.service, one.key): one for one in found.keys},
        "topics": {topic: sorted(map(tuple, who)) for topic, who in found.topics.items()},
        "signals": found.signals,
        "journals": found.journals,
        "timers": [tuple(timer) for timer in await store.timers(None, 1000)],
        "attached": list(await store.attached("", 1000)),
        "running": list(await store.running(0, 1000)),
        "listing": list((await store.find(Filter(limit=1000))).found),
        "expired": [
            {(one.seq, one.workflow, one.journal_only) for one in await store.expired(now + later, 1000)}
            for later in (0, 500, 1500, 10**9)
        ],
    }


@pytest.mark.parametrize("seed", range(400, 406))
def test_both_stores_have_the_same_after_every_turn(tmp_path: Path, seed: int) -> None:
    driver = Driver(seed)

    async def story() -> None:
        async with opened(SqliteStore(tmp_path / "durable.db", synchronous="NORMAL")) as (store, _):
            need = Need()
            for number in range(TURNS):
                commands = driver.crash() if number % 13 == 12 else driver.commands()
                turn = driver.settle(commands)
                await store.commit(turn.writes)
                tables = driver.core.tables
                need.seqs |= tables.invocations.keys()
                need.journals |= need.seqs
                need.topics |= tables.listeners.keys()
                need.keys |= tables.state.keys() | tables.promises.keys() | {("O", "k"), ("O", "l")}
                assert await told(store, need, driver.core.now) == await told(
                    driver.core.store, need, driver.core.now
                )

    play(story)
