"""The program that is killed: `python -m examples.kafka_orders.worker FILE BROKER TOPIC SESSION_MS`."""

import asyncio
import sys

from durable import Engine
from examples.kafka_orders.services import Orders


async def main(path: str, broker: str, topic: str, session_ms: str) -> None:
    """Read orders for ever. After `session_ms` without a sign of life the broker gives its partitions to others."""
    cluster = {"bootstrap.servers": broker, "session.timeout.ms": session_ms, "heartbeat.interval.ms": "300"}
    async with Engine(path, services=[Orders()], kafka_clusters={"shop": cluster}) as engine:
        await engine.subscribe(f"kafka://shop/{topic}", Orders.place, {"auto.offset.reset": "earliest"})
        print("reading", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
