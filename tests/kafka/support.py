"""What tests of subscriptions share: an engine beside a broker, producers, and waiting until something has come."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from confluent_kafka import Producer

from durable import Engine, SubscriptionView

#: For how long a test waits for what must come.
PATIENCE_S = 30.0
EARLIEST = {"auto.offset.reset": "earliest"}
#: As quick as tests need it.
QUICK = {"fetch.wait.max.ms": "20", "heartbeat.interval.ms": "100", "retry.backoff.ms": "20"}


class Broker(Protocol):
    """A cluster, mocked or real."""

    address: str
    session_timeout_ms: int

    def create(self, topic: str, partitions: int = 4) -> None: ...
    def delete(self, topic: str) -> None: ...
    def delete_records(self, topic: str, partition: int, before: int) -> None: ...
    def down(self) -> None: ...
    def up(self) -> None: ...


def produce(broker: Broker, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], **how: Any) -> None:
    """Write records of a key and a value, in their order."""
    producer = Producer({"bootstrap.servers": broker.address, "enable.idempotence": True, "log_level": 0})
    for key, value in records:
        producer.produce(topic, key=key, value=value, **how)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0, "the broker did not take all of it"


def cluster_of(broker: Broker) -> dict[str, str]:
    return {"bootstrap.servers": broker.address, "session.timeout.ms": str(broker.session_timeout_ms), **QUICK}


def engine_on(broker: Broker, *services: object, path: Any = ":memory:", **options: Any) -> Engine:
    return Engine(path, services=services, **{"kafka_clusters": {"main": cluster_of(broker)}, **options})


async def until(condition: Callable[[], Awaitable[Any]], what: str = "") -> Any:
    """Wait until it is true; returns what it gave then."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"it did not come: {what or condition}"
        await asyncio.sleep(0.01)


async def state_of(engine: Engine, id: str, state: str, reason: str = "") -> SubscriptionView:
    """Wait for a state of a subscription, with this reason."""

    async def reached() -> SubscriptionView | None:
        view = await engine.subscription(id)
        return view if (view.state, view.reason) == (state, reason) else None

    found: SubscriptionView = await until(reached, f"{state} {reason}, and is {await engine.subscription(id)}")
    return found


async def taken(engine: Engine, id: str, count: int) -> SubscriptionView:
    """Wait until so many records were taken."""

    async def reached() -> SubscriptionView | None:
        view = await engine.subscription(id)
        return view if view.taken >= count else None

    found: SubscriptionView = await until(reached, f"{count} records of {await engine.subscription(id)}")
    assert found.taken == count, found
    return found


async def all_ended(engine: Engine, count: int, **wanted: Any) -> None:
    """Wait until so many invocations have ended."""

    async def reached() -> bool:
        return (await engine.count_invocations(**wanted)).get("completed", 0) >= count

    await until(reached, f"{count} ended")
    assert sum((await engine.count_invocations(**wanted)).values()) == count
