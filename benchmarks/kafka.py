"""How many records a second become invocations, beside a bare aiokafka loop that only reads them?

The broker is librdkafka's mock, in threads of this process that hold no interpreter lock.
"""

import asyncio
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer

from benchmarks.support import folder, nothing
from benchmarks.table import Result
from durable import Engine
from tests.kafka.mock import Mock

RECORDS, PARTITIONS, ROUNDS = 20_000, 12, 3


def kafka() -> list[Result]:
    """Small records of twelve partitions, read from the first one on."""
    broker = Mock()
    try:
        broker.create("bench", PARTITIONS)
        producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
        for number in range(RECORDS):
            producer.produce("bench", b"%d" % number, b"key %d" % (number % 1000), partition=number % PARTITIONS)
            producer.poll(0)
        assert producer.flush(60) == 0
        bare, accepted, ended = 0.0, 0.0, 0.0
        for turn in range(ROUNDS):  # one after the other, so that both meet the same machine
            bare = max(bare, asyncio.run(_bare(broker.address, f"bare {turn}")))
            with folder() as path:
                rates = asyncio.run(_ours(broker.address, path / "bench.db"))
                accepted, ended = max(accepted, rates[0]), max(ended, rates[1])
    finally:
        broker.close()
    return [
        Result("Kafka records/s into invocations (floor: a bare consumer)", accepted, "/s", bare, 0.5, "higher"),
        Result("(the same, until all of them have run)", ended, "/s", bare, None, "higher"),
    ]


async def _bare(address: str, group: str) -> float:
    consumer = AIOKafkaConsumer(
        "bench",
        bootstrap_servers=address,
        group_id=group,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        count, began = 0, time.perf_counter()
        async for _ in consumer:
            count += 1
            if count == RECORDS:
                break
        return RECORDS / (time.perf_counter() - began)
    finally:
        await consumer.stop()


async def _ours(address: str, path: Path) -> tuple[float, float]:
    clusters = {"main": {"bootstrap.servers": address}}
    async with Engine(path, services=[nothing], kafka_clusters=clusters) as engine:
        options = {"auto.offset.reset": "earliest"}
        id = (await engine.subscribe("kafka://main/bench", nothing, options)).id
        while (await engine.subscription(id)).state != "running":
            await asyncio.sleep(0.001)
        began = time.perf_counter()
        while (await engine.subscription(id)).taken < RECORDS:
            await asyncio.sleep(0.005)
        accepted = time.perf_counter() - began
        while (await engine.count_invocations()).get("completed", 0) < RECORDS:
            await asyncio.sleep(0.02)
        return RECORDS / accepted, RECORDS / (time.perf_counter() - began)
