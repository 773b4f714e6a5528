"""Records by the thousand, while the engine is killed, its group is shared anew, and the broker goes away.

In the suite with few; `python -m tests.kafka.campaign --records 100000 --partitions 12 --apache` with many.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer

from tests.kafka.apache import Apache
from tests.kafka.mock import Mock
from tests.kafka.support import cluster_of


class Campaign:
    """One topic, two subscriptions, one database; what happens to them follows from a seed."""

    def __init__(self, broker: Any, folder: Path, *, records: int, partitions: int, keys: int, seed: int) -> None:
        self.broker = broker
        self.path = folder / "durable.db"
        self.topic = f"campaign-{seed}-{time.time_ns()}"
        self.count = records
        self.draw = random.Random(seed)
        self.kills = self.rebalances = self.stops = 0
        self._partitions = partitions
        self._keys = keys
        self._worker: subprocess.Popen[str] | None = None
        broker.create(self.topic, partitions)

    def produce(self, pace_s: float) -> None:
        """Write the numbers of each key in their order, while everything else happens."""
        settings = {"bootstrap.servers": self.broker.address, "enable.idempotence": True, "log_level": 0}
        producer = Producer(settings)
        numbers: dict[int, int] = defaultdict(int)
        draw = random.Random(1)
        for written in range(self.count):
            key = draw.randrange(self._keys)
            numbers[key] += 1
            while True:
                try:
                    producer.produce(self.topic, b"%d" % numbers[key], b"k%d" % key, partition=key % self._partitions)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            if pace_s and written % 50 == 0:
                time.sleep(pace_s)
        assert producer.flush(300) == 0

    def run(self, *, kills: int, rebalances: int, stops: int, pace_s: float = 0.0, patience_s: float = 60) -> None:
        """Let it happen, then have the rest taken, and compare. Raises `AssertionError`."""
        events = ["kill"] * kills + ["rebalance"] * rebalances + ["stop"] * stops
        self.draw.shuffle(events)
        producing = threading.Thread(target=self.produce, args=[pace_s])
        producing.start()
        try:
            self._start()
            for event in events:
                time.sleep(self.draw.uniform(0.2, 1.0))
                getattr(self, f"_{event}")()
            producing.join()
            self._wait_for("DONE", patience_s)
            self._kill(again=False)
            self.compare()
        finally:
            producing.join()
            self._end_worker()

    def _start(self) -> None:
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka.worker", str(self.path), self.topic],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps({"cluster": cluster_of(self.broker), "count": self.count}) + "\n")
        self._worker.stdin.flush()
        self._wait_for("READY", 60)

    def _wait_for(self, word: str, patience_s: float) -> None:
        worker = self._worker
        assert worker is not None and worker.stdout is not None
        timer = threading.Timer(patience_s, worker.kill)
        timer.start()
        line = worker.stdout.readline().strip()
        timer.cancel()
        assert line == word, f"it said {line!r} and not {word} within {patience_s} s"

    def _kill(self, *, again: bool = True) -> None:
        self._end_worker()
        if again:
            self.kills += 1
            self._start()

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            with worker:  # closes its pipes
                worker.kill()

    def _rebalance(self) -> None:
        """Somebody else comes into the groups, has some of the partitions for a while, and goes."""
        self.rebalances += 1
        others = []
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            groups = [group for (group,) in database.execute("SELECT id FROM subscriptions")]
        for group in groups:
            settings: dict[str, Any] = {"partition.assignment.strategy": "roundrobin", "enable.auto.commit": False}
            settings |= {"session.timeout.ms": self.broker.session_timeout_ms, "heartbeat.interval.ms": 100}
            bootstrap = {"bootstrap.servers": self.broker.address, "group.id": group, "log_level": 0}
            consumer = Consumer({**bootstrap, **settings})
            consumer.subscribe([self.topic])
            others.append(consumer)
        patience = time.monotonic() + 60
        while not all(consumer.assignment() for consumer in others):
            assert time.monotonic() < patience, "the groups were not shared anew"
            for consumer in others:
                consumer.poll(0.02)
        until = time.monotonic() + self.draw.uniform(0.1, 0.5)
        while time.monotonic() < until:
            for consumer in others:
                consumer.poll(0.02)
        for consumer in others:
            consumer.close()

    def _stop(self) -> None:
        self.stops += 1
        self.broker.down()
        time.sleep(self.draw.uniform(0.2, 1.0))
        self.broker.up()

    def compare(self) -> None:
        """Each record became one invocation of each subscription, in the order of its key."""
        columns = "caller_id, headers, status, ok"
        with closing(sqlite3.connect(self.path)) as database:
            found = database.execute(f"SELECT {columns} FROM _invocations ORDER BY seq").fetchall()
            states = database.execute("SELECT key, name, value FROM _state").fetchall()
        by_subscription: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for caller, headers, status, ok in found:
            assert (status, ok) == ("completed", 1)
            told = json.loads(headers)
            by_subscription[caller][int(told["kafka.partition"])].append(int(told["kafka.offset"]))
        assert len(by_subscription) == 2
        for partitions in by_subscription.values():
            assert sum(map(len, partitions.values())) == self.count, "not each record is one invocation"
            for offsets in partitions.values():
                assert offsets == list(range(len(offsets))), "a record is missing, is there twice, or is out of order"
        wrong = {key: value for key, name, value in states if name == "wrong"}
        assert not wrong, f"the order of a key was not kept: {wrong}"
        assert sum(int(value) for _, name, value in states if name == "last") == self.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rebalances", type=int, default=10)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--apache", action="store_true", help="a real Apache Kafka instead of librdkafka's mock")
    asked = parser.parse_args()
    began = time.monotonic()
    broker: Any = Apache() if asked.apache else Mock()
    try:
        with tempfile.TemporaryDirectory() as folder:
            many = {"records": asked.records, "partitions": asked.partitions, "keys": 50 * asked.partitions}
            campaign = Campaign(broker, Path(folder), **many, seed=asked.seed)
            campaign.run(
                kills=asked.kills, rebalances=asked.rebalances, stops=asked.stops, pace_s=0.02, patience_s=1800
            )
    finally:
        broker.close()
    print(  # noqa: T201
        f"{asked.records} records x 2 subscriptions, {campaign.kills} kills, {campaign.rebalances} rebalances, "
        f"{campaign.stops} stops of the broker: each taken once, in order; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
