"""The program that is killed: `python -m examples.kafka_orders.worker FILE BROKER TOPIC`."""

import asyncio
import sys

from durable import Engine
from examples.kafka_orders.services import Orders


async def main(path: str, broker: str, topic: str) -> None:
    """Read orders for ever. After six seconds without a sign of life the broker gives its partitions to others."""
    cluster = {"bootstrap.servers": broker, "session.timeout.ms": "6000", "heartbeat.interval.ms": "300"}
    async with Engine(path, services=[Orders()], kafka_clusters={"shop": cluster}) as engine:
        await engine.subscribe(f"kafka://shop/{topic}", Orders.place, {"auto.offset.reset": "earliest"})
        print("reading", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
