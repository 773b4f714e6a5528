"""Several engines on one file: whoever holds it reads; the others ask it, and read on when they take over."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import Engine, NotFoundError, Role
from tests.kafka.support import EARLIEST, Broker, all_ended, engine_on, produce, state_of, taken, until
from tests.kafka.test_reading import Counter, seen

pytestmark = pytest.mark.anyio


def standing_by(broker: Broker, path: Path) -> Engine:
    return engine_on(broker, Counter(), path=path, standby=True)


@pytest.mark.parametrize("end", ["close", "abandon"])
async def test_a_subscription_made_on_standby_moves_to_the_next_holder(
    broker: Broker, topic: str, tmp_path: Path, end: str
) -> None:
    """Each record is taken once, in order, also those that come while nobody reads."""
    path = tmp_path / "durable.db"
    async with AsyncExitStack() as running:
        first, second = [await running.enter_async_context(standing_by(broker, path)) for _ in range(2)]
        assert [first.role, second.role] == [Role.HOLDER, Role.STANDBY]
        id = (await second.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        assert [one.id for one in await first.subscriptions()] == [id]
        await asyncio.to_thread(produce, broker, topic, [(b"k", b"%d" % number) for number in range(20)])
        await taken(second, id, 20)
        if end == "close":
            await first.close()
        else:
            first.abandon()
        await asyncio.to_thread(produce, broker, topic, [(b"k", b"%d" % number) for number in range(20, 30)])
        await taken(second, id, 30)
        assert [one.role for one in (second,)] == [Role.HOLDER]
        await until(lambda: seen(second, list(range(30))))
        await all_ended(second, 30, caller=id)


async def test_what_is_asked_on_standby_is_done_by_the_holder(broker: Broker, topic: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as running:
        path = tmp_path / "durable.db"
        first, second = [await running.enter_async_context(standing_by(broker, path)) for _ in range(2)]
        client = await running.enter_async_context(durable.connect(path))
        source = f"kafka://main/{topic}"
        view = await second.subscribe(source, Counter.add, EARLIEST)
        assert (await client.subscribe(source, "service://Counter/add", EARLIEST)).id == view.id
        for one in (second, client):
            api: Any = one
            await state_of(api, view.id, "running")
            await api.pause_subscription(view.id)
            assert (await first.subscription(view.id)).state == "paused"
            await api.resume_subscription(view.id)
        [cluster] = await second.kafka_clusters()
        assert (cluster.name, cluster.from_code, cluster.subscriptions) == ("main", True, (view.id,))
        await second.unsubscribe(view.id)
        for asked in (first, second, client):
            with pytest.raises(NotFoundError):
                await asked.subscription(view.id)
