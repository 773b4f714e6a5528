"""The same stories, and two more, on a real Apache Kafka: the one that `DURABLE_TEST_KAFKA` names, or one of our own.

One test, so that one broker is started however many processes pytest uses. In CI it is a failure where there is none.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.kafka import test_faults, test_reading
from tests.kafka.apache import Apache, missing
from tests.kafka.campaign import Campaign
from tests.kafka.logins import who_may_read_reads_and_no_secret_shows
from tests.kafka.support import EARLIEST, engine_on, produce, taken, until
from tests.kafka.test_reading import Counter, seen

Story = Callable[[Apache, str, Path], Awaitable[None]]


async def partitions_that_are_added_are_read_from_their_first_record(
    broker: Apache, topic: str, folder: Path
) -> None:
    """Although `auto.offset.reset` is `latest`: what came before the new partition was noticed is not lost."""
    options = {"metadata.max.age.ms": "500"}
    async with engine_on(broker, Counter()) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)).id

        async def places(count: int) -> bool:
            return len((await engine.subscription(id)).partitions) == count

        await until(lambda: places(4))
        await asyncio.to_thread(broker.grow, topic, 6)
        await asyncio.to_thread(produce, broker, topic, [(b"k", b"1"), (b"k", b"2")], partition=5)
        await until(lambda: places(6))
        await taken(engine, id, 2)
        await until(lambda: seen(engine, [1, 2]))


async def what_transactions_leave_at_the_end_is_no_lag(broker: Apache, topic: str, folder: Path) -> None:
    """Marks of commits and aborted records have offsets, and are nobody's records."""

    def write(values: list[bytes], *, commit: bool) -> None:
        producer = Producer({"bootstrap.servers": broker.address, "transactional.id": topic, "log_level": 0})
        producer.init_transactions(30)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, b"k", partition=1)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)

    async with engine_on(broker, Counter(), path=folder / "durable.db") as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id

        async def is_through(count: int) -> bool:
            view = await engine.subscription(id)
            return (view.taken, view.lag) == (count, 0)

        await asyncio.to_thread(write, [b"1", b"2"], commit=True)
        await until(lambda: is_through(2))
        await asyncio.to_thread(write, [b"3"], commit=False)
        await asyncio.to_thread(write, [b"4"], commit=True)
        await until(lambda: is_through(3))
        await asyncio.to_thread(write, [b"5"], commit=False)
        await engine.pause_subscription(id)
        await engine.resume_subscription(id)
        await until(lambda: is_through(3))
        await until(lambda: seen(engine, [1, 2, 4]))


async def a_broker_that_is_killed_and_started_again_has_lost_nothing(
    broker: Apache, topic: str, folder: Path
) -> None:
    if not broker.is_ours:
        return
    async with engine_on(broker, Counter()) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        await asyncio.to_thread(produce, broker, topic, [(b"k", b"1")])
        await taken(engine, id, 1)
        await asyncio.to_thread(broker.down)
        await asyncio.to_thread(broker.up)
        await asyncio.to_thread(produce, broker, topic, [(b"k", b"2")])
        await taken(engine, id, 2)
        await until(lambda: seen(engine, [1, 2]))


def told(story: Any, **more: Any) -> Story:
    """A test of the mock broker, told of this one."""
    wanted = story.__code__.co_varnames[: story.__code__.co_argcount]

    def tell(broker: Apache, topic: str, folder: Path) -> Awaitable[None]:
        given = {"broker": broker, "topic": topic, "tmp_path": folder, **more}
        told: Awaitable[None] = story(**{name: given[name] for name in wanted})
        return told

    return tell


async def a_campaign(broker: Apache, topic: str, folder: Path) -> None:
    campaign = Campaign(broker, folder, records=1000, partitions=4, keys=20, seed=3)
    await asyncio.to_thread(campaign.run, kills=2, rebalances=2, stops=0, pace_s=0.05)


STORIES: dict[str, Story] = {
    "three records of a key": told(test_reading.test_three_records_of_a_key_are_added_up),
    "a kill": told(test_reading.test_what_was_taken_is_not_taken_again_after_a_kill),
    "latest": told(test_reading.test_latest_begins_behind_what_is_there_and_keeps_that_place),
    "a topic created again": told(test_faults.test_a_topic_that_was_created_again_is_not_taken_for_the_old_one),
    "records that are gone": told(test_faults.records_that_are_gone_are_counted),
    "partitions added": partitions_that_are_added_are_read_from_their_first_record,
    "a campaign": a_campaign,
    "transactions": what_transactions_leave_at_the_end_is_no_lag,
    "logins": who_may_read_reads_and_no_secret_shows,
    "a broker killed": a_broker_that_is_killed_and_started_again_has_lost_nothing,
}


@pytest.mark.timeout(400)
@pytest.mark.process
def test_every_story_is_true_of_a_real_broker(tmp_path: Path) -> None:
    """C-088, R-31."""
    address = os.environ.get("DURABLE_TEST_KAFKA", "")
    reason = "" if address else missing()
    if reason:
        assert not os.environ.get("CI"), f"in CI a broker must run, and {reason}"
        pytest.skip(f"no Apache Kafka: {reason}; DURABLE_TEST_KAFKA=host:port names one")
    broker = Apache(address, secured=not address)
    try:
        for number, (name, story) in enumerate(STORIES.items()):
            topic = f"story-{os.getpid()}-{number}"
            folder = tmp_path / str(number)
            folder.mkdir()
            broker.create(topic)
            try:
                asyncio.run(_tell(story, broker, topic, folder))
            except BaseException as error:
                error.add_note(f"in the story of {name}")
                raise
    finally:
        broker.close()


async def _tell(story: Story, broker: Apache, topic: str, folder: Path) -> None:
    await story(broker, topic, folder)
