"""How many records a second become invocations, beside a bare aiokafka loop that only reads them?

Both begin with the same: they connect, join a group of their own and fetch the first record, and the clock runs from
before that. Both read what is committed only, and tell the broker every five seconds how far they are, as aiokafka
does unless it is told otherwise. The bare loop is the one that aiokafka's documentation shows (`async for`).

CPU is that of all threads of the process, the engine's start and the broker's too; what a disk takes is not in it.

A record is accepted once its invocation is durable. There are two cases: each invocation runs at once, on the same
event loop, and ends; or all slots are taken by handlers that wait, and they only become rows. The broker is
librdkafka's mock, in threads of this process that hold no interpreter lock.
"""

import asyncio
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer

from benchmarks import floor
from benchmarks.support import SERVICE, folder, nothing
from benchmarks.table import Result
from durable import Context, Engine, Handler, handler
from tests.kafka.mock import Mock

RECORDS, PARTITIONS, ROUNDS = 48_000, 12, 3


@handler(service=SERVICE)
async def waiting(ctx: Context, number: int) -> None:
    """Has its slot for as long as it takes."""
    await asyncio.Event().wait()


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
        bare = rows = accepted = ended = alone = 0.0
        bare_cpu = alone_cpu = float("inf")
        for turn in range(ROUNDS):  # one after the other, so that all of them meet the same machine
            began = time.process_time()
            bare = max(bare, asyncio.run(_bare(broker.address, f"bare {turn}")))
            bare_cpu = min(bare_cpu, time.process_time() - began)
            with folder() as path:
                running = asyncio.run(_ours(broker.address, path / "bench.db", nothing))
                accepted, ended = max(accepted, running[0]), max(ended, running[1])
            with folder() as path:
                began = time.process_time()
                alone = max(alone, asyncio.run(_ours(broker.address, path / "bench.db", waiting))[0])
                alone_cpu = min(alone_cpu, time.process_time() - began)
            with folder() as path:
                rows = max(rows, floor.records(path, *_rows()))
    finally:
        broker.close()
    return [
        Result("Kafka records/s into invocations (floor: a bare consumer)", accepted, "/s", bare, 0.5, "higher"),
        Result("(the same, until all of them have run)", ended, "/s", bare, None, "higher"),
        Result("the same, while none of them can run", alone, "/s", bare, 0.5, "higher"),
        Result("(the same, CPU a record)", 1e6 * alone_cpu / RECORDS, "us", 1e6 * bare_cpu / RECORDS, None, "lower"),
        Result("(the rows of these records, written bare)", rows, "/s", bare, None, "higher"),
    ]


def _rows() -> tuple[list[dict[str, str]], list[bytes]]:
    """Headers and values as the records have them."""
    headers = [
        {
            "kafka.offset": str(number // PARTITIONS),
            "kafka.topic": "bench",
            "kafka.partition": str(number % PARTITIONS),
            "restate.subscription.id": "sub_1" + "0" * 22,
            "kafka.timestamp": str(1_893_456_000_000 + number),
            "kafka.key": "a2V5IDEyMw==",
        }
        for number in range(RECORDS)
    ]
    return headers, [b"%d" % number for number in range(RECORDS)]


async def _bare(address: str, group: str) -> float:
    consumer = AIOKafkaConsumer(
        "bench",
        bootstrap_servers=address,
        group_id=group,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    began = time.perf_counter()
    await consumer.start()
    try:
        count = 0
        async for _ in consumer:
            count += 1
            if count == RECORDS:
                break
        return RECORDS / (time.perf_counter() - began)
    finally:
        await consumer.stop()


async def _ours(address: str, path: Path, sink: Handler[int, object]) -> tuple[float, float]:
    """Records a second until all are accepted; and until all have run, where they can."""
    clusters = {"main": {"bootstrap.servers": address}}
    slots = 1 if sink is waiting else 1000
    async with Engine(
        path, services=[nothing, waiting], kafka_clusters=clusters, max_concurrent_invocations=slots
    ) as engine:
        began = time.perf_counter()
        id = (await engine.subscribe("kafka://main/bench", sink, {"auto.offset.reset": "earliest"})).id
        while (await engine.subscription(id)).taken < RECORDS:
            await asyncio.sleep(0.005)
        accepted = time.perf_counter() - began
        if sink is waiting:
            engine.abandon()
            return RECORDS / accepted, 0
        while (await engine.count_invocations()).get("completed", 0) < RECORDS:
            await asyncio.sleep(0.02)
        return RECORDS / accepted, RECORDS / (time.perf_counter() - began)
