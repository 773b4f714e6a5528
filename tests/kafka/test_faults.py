"""What goes wrong beside the engine: each has a name, delays nothing else, and nothing is taken twice or left out."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer, Producer, TopicPartition

from durable import Context, Engine, ObjectContext, SubscriptionView, VirtualObject, handler
from durable.errors import NotFoundError
from durable.store import CommitRefused
from durable.store.memory import MemoryStore
from durable.testing.faults import around
from tests.kafka.mock import Mock
from tests.kafka.support import EARLIEST, Broker, all_ended, cluster_of, engine_on, produce, state_of, taken, until
from tests.kafka.test_reading import Counter, seen

pytestmark = pytest.mark.anyio


@handler(service="Plain")
async def quick(ctx: Context) -> int:
    return 1


async def nothing_is_delayed(engine: Engine) -> None:
    took_s = []
    for _ in range(3):  # a busy machine may delay one of them
        began = time.monotonic()
        assert await engine.call(quick) == 1
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 2


async def test_a_broker_that_is_down_at_the_start_is_tried_again(own_mock: Mock) -> None:
    own_mock.create("t")
    produce(own_mock, "t", [(b"k", b"1")])
    own_mock.down()
    async with engine_on(own_mock, Counter(), quick) as engine:
        id = (await engine.subscribe("kafka://main/t", Counter.add, EARLIEST)).id
        view = await state_of(engine, id, "retrying", "connection")
        assert own_mock.address.partition(":")[2] in view.cause
        await nothing_is_delayed(engine)
        own_mock.up()
        await taken(engine, id, 1)
        await state_of(engine, id, "running")


async def test_a_broker_that_is_lost_and_comes_back_has_lost_nothing(
    own_mock: Mock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its state tells, once; what the client library says again and again is in nobody's log."""
    monkeypatch.setattr("durable.kafka.reader.SILENCE_S", 0.5)
    own_mock.create("t")
    async with engine_on(own_mock, Counter(), quick) as engine:
        id = (await engine.subscribe("kafka://main/t", Counter.add, EARLIEST)).id
        produce(own_mock, "t", [(b"k", b"1")])
        await taken(engine, id, 1)
        own_mock.down()
        view = await state_of(engine, id, "retrying", "connection")
        assert "no broker answers for partitions [0, 1, 2, 3]" in view.cause and view.lag is None
        await nothing_is_delayed(engine)
        own_mock.up()
        await state_of(engine, id, "running")
        await asyncio.to_thread(produce, own_mock, "t", [(b"k", b"2"), (b"k", b"3")])
        await taken(engine, id, 3)
        await until(lambda: seen(engine, [1, 2, 3]))
    said = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(said) == 1 and said[0].name == "durable.kafka" and "no broker answers" in said[0].getMessage()


async def test_a_topic_that_is_missing_is_waited_for(broker: Broker, topic: str) -> None:
    missing = f"{topic}-missing"
    async with engine_on(broker, Counter(), quick) as engine:
        id = (await engine.subscribe(f"kafka://main/{missing}", Counter.add, EARLIEST)).id
        assert missing in (await state_of(engine, id, "retrying", "topic-missing")).cause
        await nothing_is_delayed(engine)
        broker.create(missing)
        produce(broker, missing, [(b"k", b"1")])
        await taken(engine, id, 1)


async def test_a_topic_that_was_created_again_is_not_taken_for_the_old_one(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    """Its offsets look alike, and there are as many of them: only its records tell."""
    path = tmp_path / "durable.db"
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        produce(broker, topic, [(b"k", b"1"), (b"k", b"2")])
        await taken(engine, id, 2)
    broker.delete(topic)
    broker.create(topic)
    produce(broker, topic, [(b"k", b"3"), (b"k", b"4"), (b"k", b"5")])
    async with engine_on(broker, Counter(), path=path) as engine:
        view = await state_of(engine, id, "failed", "topic-recreated")
        assert "resume_subscription" in view.cause
        assert (await engine.get_state("Counter", "k"))["seen"] == [1, 2]
        await engine.resume_subscription(id, position="earliest")
        await until(lambda: seen(engine, [1, 2, 3, 4, 5]))


async def test_a_topic_that_ends_before_what_was_taken_is_named(
    broker: Broker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.kafka.reader.RETRY_S", 0.05)
    path = tmp_path / "durable.db"
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        produce(broker, topic, [(b"k", b"1"), (b"k", b"2")])
        await taken(engine, id, 2)
    broker.delete(topic)
    broker.create(topic)
    async with engine_on(broker, Counter(), path=path) as engine:
        await state_of(engine, id, "retrying", "ends-before")
        view = await state_of(engine, id, "failed", "topic-recreated")
        assert "ends at 0, and was taken up to 2" in view.cause
        await engine.resume_subscription(id, position="latest")
        await state_of(engine, id, "running")
        produce(broker, topic, [(b"k", b"9")])
        await until(lambda: seen(engine, [1, 2, 9]))


async def records_that_are_gone_are_counted(broker: Broker, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        produce(broker, topic, [(b"k", b"%d" % number) for number in range(3)], partition=1)
        await taken(engine, id, 3)
        await engine.pause_subscription(id)
        produce(broker, topic, [(b"k", b"%d" % number) for number in range(3, 10)], partition=1)
        broker.delete_records(topic, 1, 8)
        await engine.resume_subscription(id)
        view = await taken(engine, id, 5)
        assert view.skipped == 5
        await until(lambda: seen(engine, [0, 1, 2, 8, 9]))


async def test_records_that_are_gone_before_they_are_read_are_counted_and_said(
    broker: Broker, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await records_that_are_gone_are_counted(broker, topic, tmp_path)
    assert "records 3 to 7 of partition 1 were gone" in caplog.text


def move_group(broker: Broker, group: str, topic: str, partition: int, offset: int) -> None:
    """As a member of it: some brokers let nobody else do so."""
    settings = {"session.timeout.ms": broker.session_timeout_ms, "heartbeat.interval.ms": 100}
    settings |= {"enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": group, **settings})
    consumer.subscribe([topic])
    deadline = time.monotonic() + 20
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.05)
    consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
    consumer.close()


@pytest.mark.parametrize(("position", "expected"), [("stored", [1, 2, 3, 4, 5]), ("committed", [1, 2, 5])])
async def test_a_group_that_somebody_moved_on_waits_for_a_decision(
    broker: Broker, topic: str, tmp_path: Path, position: Any, expected: list[int]
) -> None:
    """As after a backup of the database was restored: the broker knows of more than is here."""
    path, options = tmp_path / "durable.db", {**EARLIEST, "group.id": topic}
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)).id
        produce(broker, topic, [(b"k", b"1"), (b"k", b"2")], partition=0)
        await taken(engine, id, 2)
    produce(broker, topic, [(b"k", b"3"), (b"k", b"4"), (b"k", b"5")], partition=0)
    await asyncio.to_thread(move_group, broker, topic, topic, 0, 4)
    async with engine_on(broker, Counter(), path=path) as engine:
        await state_of(engine, id, "failed", "behind-group")
        await engine.resume_subscription(id, position=position)
        await until(lambda: seen(engine, expected))
        engine.abandon()
    async with engine_on(broker, Counter(), path=path) as engine:  # that was decided once and for all
        await state_of(engine, id, "running")


async def test_a_group_that_somebody_moved_back_goes_on_where_it_was(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    path, options = tmp_path / "durable.db", {**EARLIEST, "group.id": topic}
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)).id
        produce(broker, topic, [(b"k", b"1"), (b"k", b"2")], partition=0)
        await taken(engine, id, 2)
    await asyncio.to_thread(move_group, broker, topic, topic, 0, 0)
    produce(broker, topic, [(b"k", b"3")], partition=0)
    async with engine_on(broker, Counter(), path=path) as engine:
        await until(lambda: seen(engine, [1, 2, 3]))


async def test_a_subscription_whose_cluster_is_not_configured_any_more_says_so_and_waits(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    path = tmp_path / "durable.db"
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
    async with engine_on(broker, Counter(), path=path, kafka_clusters={"other": cluster_of(broker)}) as engine:
        view = await state_of(engine, id, "failed", "no-cluster")
        assert view.cause == "Kafka cluster 'main' not found. Available clusters: [other]"
    produce(broker, topic, [(b"k", b"1")])
    async with engine_on(broker, Counter(), path=path) as engine:
        await taken(engine, id, 1)


class Strict(VirtualObject):
    @handler
    async def take(self, ctx: ObjectContext, value: int) -> int:
        return value


async def test_records_that_cannot_be_run_become_failed_invocations_and_the_others_go_on(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with engine_on(broker, Strict(), max_value_size=1024) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Strict.take, EARLIEST)).id
        bad = [(b"\xff\xfe", b"1"), (b"nul\0", b"2"), (b"k", b'"text"'), (b"k", b"9" * 2000)]
        produce(broker, topic, [*bad, (b"k", b"7")], partition=3)
        view = await taken(engine, id, 5)
        assert view.failed == 4
        await all_ended(engine, 5)
        found = {int(one.headers["kafka.offset"]): one for one in await engine.invocations(caller=id)}

        async def said() -> bool:  # they are there before the reader hears of it
            return len([line for line in caplog.records if "became the failed invocation" in line.getMessage()]) == 4

        await until(said)
        assert [found[offset].key for offset in range(5)] == ["\\xff\\xfe", "nul\\x00", "k", "k", "k"]
        assert await engine.attach(found[4].id) == 7
        for offset, words in enumerate(("no UTF-8", "NUL", "Expected `int`", "1,024")):
            one = await engine.describe(found[offset].id)
            assert one.completion_result == "failure" and words in (one.output or b"").decode(), one
            assert one.input == bad[offset][1]
            [line] = [said for said in caplog.records if one.id in said.getMessage() and said.name == "durable.kafka"]
            assert vars(line)["invocation_id"] == one.id and vars(line)["key"] == one.key
        again = await engine.restart_as_new(found[0].id)
        assert await again.result() == 1


async def test_records_of_a_handler_that_is_gone_can_be_restarted_when_it_is_back(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    path = tmp_path / "durable.db"
    async with engine_on(broker, Strict(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Strict.take, EARLIEST)).id
    produce(broker, topic, [(b"k", b"5")])
    async with engine_on(broker, quick, path=path) as engine:
        view = await taken(engine, id, 1)
        assert view.failed == 1
    async with engine_on(broker, Strict(), path=path) as engine:
        [failed] = await engine.invocations(caller=id)
        assert (failed.target, failed.completion_result) == ("Strict/k/take", "failure")
        assert await (await engine.restart_as_new(failed.id)).result() == 5


def refusing(match: Callable[[Any], bool]) -> Any:
    """A store that refuses turns in which such an invocation is created."""

    def do(name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if name == "commit" and any(match(one.submission) for one in arguments[0].with_all().created.values()):
            raise CommitRefused("this one cannot be stored")
        return method(*arguments)

    return around(MemoryStore(), do)


async def test_a_record_that_the_store_refuses_is_the_only_one_that_fails(broker: Broker, topic: str) -> None:
    store = refusing(lambda submission: submission.input == b"13")
    async with engine_on(broker, Counter(), path=None, store=store) as engine:
        produce(broker, topic, [(b"k", b"%d" % number) for number in range(10, 17)], partition=0)
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        view = await taken(engine, id, 7)
        assert view.failed == 1
        await until(lambda: seen(engine, [10, 11, 12, 14, 15, 16]))
        [failed] = await engine.invocations(caller=id, failure="cannot be stored")
        assert failed.headers["kafka.offset"] == "3"


@pytest.mark.parametrize("slots", [1, 1000])
async def test_a_record_of_a_plain_service_that_the_store_refuses_is_the_only_one_that_fails(
    broker: Broker, topic: str, slots: int
) -> None:
    """Also where most of them have to wait for a slot: then they are columns, and no record is left of them."""
    ran: list[int] = []

    @handler(service="Plain")
    async def take(ctx: Context, number: int) -> None:
        ran.append(number)

    store = refusing(lambda submission: submission.input == b"13")
    numbers = [number for number in range(10, 17) if number != 13]
    async with engine_on(broker, take, path=None, store=store, max_concurrent_invocations=slots) as engine:
        produce(broker, topic, [(b"k", b"%d" % number) for number in range(10, 17)], partition=0)
        id = (await engine.subscribe(f"kafka://main/{topic}", take, EARLIEST)).id
        view = await taken(engine, id, 7)
        assert view.failed == 1
        await all_ended(engine, 7)
        [failed] = await engine.invocations(caller=id, failure="cannot be stored")
        assert failed.headers["kafka.offset"] == "3" and failed.headers["kafka.key"] == "aw=="
        assert (await engine.describe(failed.id)).input == b""
        found = await engine.invocations(caller=id)
        assert sorted(one.headers["kafka.offset"] for one in found) == [str(offset) for offset in range(7)]
        assert sorted(ran) == numbers


async def test_a_slow_store_stops_the_polls_and_the_consumer_stays_in_its_group(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits take longer than a consumer may be silent. Nothing is read meanwhile, and no partition is lost."""
    slow = asyncio.Event()
    waiting = asyncio.Event()

    async def commit(method: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if arguments[0].positions and slow.is_set():
            waiting.set()
            await asyncio.sleep(2.5)
        await method(*arguments)

    def do(name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return commit(method, arguments) if name == "commit" else method(*arguments)

    joined: list[Any] = []
    from durable.kafka.reader import Reader

    rebalanced = Reader._rebalanced

    def note(reader: Reader, begins: bool) -> None:
        joined.append(begins)
        rebalanced(reader, begins)

    monkeypatch.setattr(Reader, "_rebalanced", note)
    options = {**EARLIEST, "max.poll.interval.ms": "1000", "max.poll.records": "10"}
    async with engine_on(broker, Counter(), path=None, store=around(MemoryStore(), do)) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)).id
        await state_of(engine, id, "running")
        before = len(joined)
        slow.set()
        produce(broker, topic, [(b"k", b"%d" % number) for number in range(100)], partition=0)
        await waiting.wait()
        await asyncio.sleep(2)
        backlog = engine._running()._backlog
        assert len(backlog.commands) + backlog._taken - backlog._settled <= 1, "one poll at a time"
        slow.clear()
        await taken(engine, id, 100)
        assert len(joined) == before, "it has left its group"
        await until(lambda: seen(engine, list(range(100))))


async def test_the_broker_is_told_only_what_is_durable(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next records are got ready and asked for while a commit is under way: told early, they would be missing."""
    durable: dict[int, int] = {}

    async def commit(method: Callable[..., Any], writes: Any) -> None:
        if writes.positions:
            await asyncio.sleep(0.03)
        await method(writes)
        durable.update({place.partition: at.next for place, at in writes.positions.items()})

    def do(name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return commit(method, *arguments) if name == "commit" else method(*arguments)

    told: list[tuple[int, int]] = []
    tell = AIOKafkaConsumer.commit

    async def note(consumer: Any, offsets: dict[Any, int]) -> None:
        told.extend((next, durable[tp.partition]) for tp, next in offsets.items())
        await tell(consumer, offsets)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", note)
    options = {**EARLIEST, "max.poll.records": "10", "auto.commit.interval.ms": "1"}
    produce(broker, topic, [(b"k", b"%d" % number) for number in range(100)], partition=0)
    async with engine_on(broker, Counter(), path=None, store=around(MemoryStore(), do)) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)).id
        await taken(engine, id, 100)
        assert (await engine.subscription(id)).state == "running"
    assert all(next <= stored for next, stored in told)
    assert max(told) == (100, 100) and len(told) > 2


async def test_authentication_that_is_refused_is_said(broker: Broker, topic: str) -> None:
    """This broker asks for none, and understands none."""
    refused = {
        **cluster_of(broker),
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.username": "u",
        "sasl.password": "p",
    }
    async with engine_on(broker, Counter(), quick, kafka_clusters={"main": refused}) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id

        async def told() -> SubscriptionView | None:
            view = await engine.subscription(id)
            return view if view.state == "retrying" else None

        view = await until(told)
        assert view.cause
        await nothing_is_delayed(engine)


async def test_a_secret_that_is_not_there_is_named_and_not_its_value(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_PASSWORD", raising=False)
    async with engine_on(broker, Counter()) as engine:
        options = {"sasl.password": "${env:KAFKA_PASSWORD}"}
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)).id
        assert "KAFKA_PASSWORD" in (await state_of(engine, id, "failed", "secret-missing")).cause
        monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
        await engine.resume_subscription(id)
        await state_of(engine, id, "running")  # the broker asks for none
        assert "s3cret" not in repr(await engine.subscriptions())


async def test_a_handler_that_is_not_public_any_more_stops_its_subscription(broker: Broker, topic: str) -> None:
    async with engine_on(broker, Counter()) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        await state_of(engine, id, "running")
        await engine.configure("Counter", public=False)
        await state_of(engine, id, "failed", "not-public")
        await engine.configure("Counter", public=True)
        await engine.resume_subscription(id)
        produce(broker, topic, [(b"k", b"1")])
        await taken(engine, id, 1)


async def test_a_subscription_that_is_unknown_is_not_found(broker: Broker) -> None:
    async with engine_on(broker, Counter()) as engine:
        for ask in (engine.subscription, engine.unsubscribe, engine.pause_subscription, engine.resume_subscription):
            with pytest.raises(NotFoundError):
                await ask("sub_1" + "0" * 22)


async def test_what_records_are_compressed_with_is_read_or_named(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs = ("gzip", "snappy", "lz4", "zstd")
    async with engine_on(broker, Counter()) as engine:
        monkeypatch.setattr("aiokafka.codec.has_zstd", lambda: False)
        ids = {}
        for codec in codecs:
            broker.create(f"{topic}-{codec}", 1)
            producer = Producer({"bootstrap.servers": broker.address, "compression.type": codec, "log_level": 0})
            for number in range(20):
                producer.produce(f"{topic}-{codec}", b"1" + b" " * 200, b"%d" % number)
            assert await asyncio.to_thread(producer.flush, 30) == 0
            ids[codec] = (await engine.subscribe(f"kafka://main/{topic}-{codec}", Counter.add, EARLIEST)).id
        view = await state_of(engine, ids["zstd"], "failed", "not-installed")
        assert "durable-engine[kafka]" in view.cause and "zstd" in view.cause and view.taken == 0
        for codec in codecs[:3]:
            await taken(engine, ids[codec], 20)
        monkeypatch.undo()  # as a restart would find it
        await engine.resume_subscription(ids["zstd"])
        await taken(engine, ids["zstd"], 20)
