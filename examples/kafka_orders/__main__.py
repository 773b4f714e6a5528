"""The shop writes orders to a topic; a worker places them, and is killed halfway. `--help` has the options."""

import argparse
import asyncio
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from confluent_kafka import Producer

from durable import Engine
from examples.kafka_orders.services import Orders

CUSTOMERS = ("ada", "grace", "edsger")


class Worker:
    """A process that reads, until it is killed."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "examples.kafka_orders.worker", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "reading\n"
        print(f"worker {self._process.pid} reads")

    def kill(self) -> None:
        """With SIGKILL: it cannot tell the broker, or anybody, how far it is."""
        with self._process:
            self._process.kill()
        print(f"worker {self._process.pid} gets SIGKILL")


def taken(path: Path) -> int:
    """How many records were taken by now, also of a process that is gone."""
    with closing(sqlite3.connect(path)) as database:
        [count] = database.execute("SELECT coalesce(sum(taken), 0) FROM positions").fetchone()
    return int(count)


def wait_for(path: Path, count: int) -> None:
    """Until so many records were taken."""
    deadline = time.monotonic() + 60
    while taken(path) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {taken(path)} of {count} records came within a minute")
        time.sleep(0.02)


def write_orders(producer: Producer, topic: str, first: int, last: int) -> None:
    """Orders of each customer in their order; the key decides the partition."""
    for number in range(first, last):
        customer = CUSTOMERS[number % len(CUSTOMERS)]
        producer.produce(topic, b'{"number": %d}' % number, customer.encode())
    producer.flush(30)


async def compare(path: Path, orders: int) -> bool:
    """What the file says: each order once, in order, and the one that nobody could read."""
    async with Engine(path, services=[Orders()]) as engine:
        for one in await engine.subscriptions():
            await engine.unsubscribe(one.id)
        while set(await engine.count_invocations()) != {"completed"}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        right = True
        for place, customer in enumerate(CUSTOMERS):
            placed = (await engine.get_state("Orders", customer))["placed"]
            right &= placed == list(range(place, orders, len(CUSTOMERS)))
            print(f"{customer}: {len(placed)} orders, the last one is {placed[-1]}")
        [unreadable] = await engine.invocations(failure="cannot be accepted")
        print(f"failed: {unreadable.target}, record {unreadable.headers['kafka.offset']} of its partition")
        return right


def main() -> int:
    """Tell the story; exit code 1 where an order is missing, there twice, or out of order."""
    parser = argparse.ArgumentParser(prog="python -m examples.kafka_orders", description=__doc__)
    parser.add_argument("--broker", help="host:port; without one, a mock broker of librdkafka is started")
    parser.add_argument("--orders", type=int, default=60)
    asked = parser.parse_args()
    topic = f"orders-{time.time_ns()}"
    settings = {"bootstrap.servers": asked.broker} if asked.broker else {"test.mock.num.brokers": 1}
    producer = Producer({**settings, "bootstrap.servers": asked.broker or "mock", "log_level": 0})
    brokers = producer.list_topics(timeout=30).brokers.values()
    broker = ",".join(f"{one.host}:{one.port}" for one in brokers)
    half = asked.orders // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.db"
        write_orders(producer, topic, 0, half)
        producer.produce(topic, b"one lamp, please", b"ada")
        producer.flush(30)
        for first, last, until in ((0, 0, half // 2), (half, asked.orders, asked.orders + 1)):
            write_orders(producer, topic, first, last)
            worker = Worker(str(path), broker, topic)
            try:
                wait_for(path, until)
            finally:
                worker.kill()
        right = asyncio.run(compare(path, asked.orders))
    print("every order was placed once, in order" if right else "WRONG: see above")
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
