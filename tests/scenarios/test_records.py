"""Records are taken once and in order, wherever the process dies between poll, store and the broker's commit."""

import random
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from durable import Context, Engine, ObjectContext, VirtualObject, handler
from durable.core.effects import Answer
from durable.core.invocation import Flavor
from durable.core.record_commands import Begin, Subscribe, Take
from durable.core.sources import GroupPartition, Subscription
from durable.kafka.records import Records, fingerprint
from durable.testing import Sim, check


class Record:
    """One of the fake topic."""

    def __init__(self, partition: int, offset: int, key: bytes, value: bytes) -> None:
        self.topic, self.partition, self.offset, self.key, self.value = "t", partition, offset, key, value
        self.timestamp = 1_700_000_000_000 + offset
        self.headers: tuple[tuple[str, bytes], ...] = ()


class Topic:
    """A topic that holds still: its records, and what its broker remembers of a group, which lags behind."""

    def __init__(self, partitions: int, count: int, seed: int) -> None:
        draw = random.Random(seed)
        self.records: list[list[Record]] = [[] for _ in range(partitions)]
        for number in range(count):
            key = draw.randrange(6)
            log = self.records[key % partitions]
            value = b"not a number" if number % 11 == 5 else b"%d" % number
            log.append(Record(key % partitions, len(log), b"k%d" % key, value))
        self.draw = draw

    def expected(self, key: int) -> list[int]:
        log = self.records[key % len(self.records)]
        mine = [one.value for one in log if one.key == b"k%d" % key]
        return [int(value) for value in mine if value.isdigit()]


class Seen(VirtualObject):
    @handler
    async def take(self, ctx: ObjectContext, value: int) -> None:
        ctx.set("seen", [*(await ctx.get("seen", list[int]) or []), value])


def subscription(id: str, service: str, handler: str, flavor: Flavor) -> Subscription:
    sink = f"service://{service}/{handler}"
    return Subscription(id, "kafka://c/t", sink, {}, "c", "t", id, service, handler, str(flavor), 1)


async def read(sim: Sim, topic: Topic, one: Subscription) -> None:
    """A reader's life: it begins where the engine says, reads some more again than it should, and dies with it."""
    places = [GroupPartition("c", one.group, "t", number) for number in range(len(topic.records))]
    await sim.repeat(lambda engine: ask(engine, partial(Subscribe, one)))
    await sim.repeat(lambda engine: ask(engine, partial(Begin, one.id, dict.fromkeys(places, 0))))

    async def poll(engine: Engine) -> bool:
        """All partitions of one poll, in one turn; returns whether anything is left."""
        loop = engine._running()
        records = Records(one, engine._registry, engine._new_ids)
        asked = []
        for place, log in zip(places, topic.records, strict=True):
            since = max(0, loop.world.positions[place].next - topic.draw.randrange(3))
            some = log[since : since + topic.draw.randrange(1, 6)]
            found = records.handler
            offered = records.offered(some, found)
            asked.append(loop.ask(partial(Take, one.id, place, since, offered)))
        replies = [await answer for answer in asked]
        assert {reply.result for reply in replies} == {Answer.ACCEPTED}
        return any(reply.position.next < len(log) for reply, log in zip(replies, topic.records, strict=True))

    while await sim.repeat(poll):
        pass


async def ask(engine: Engine, make: Any) -> None:
    await engine._running().ask(make)


@pytest.mark.parametrize("seed", range(2))
def test_each_record_is_taken_once_and_in_the_order_of_its_key(seed: int) -> None:
    """C-088, R-31: a crash before and after every commit, and the broker delivers again what was taken."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Plain")
        async def add(ctx: Context, value: int) -> int:
            return value

        return [Seen(), add]

    async def scenario(sim: Sim) -> Any:
        topic = Topic(partitions=3, count=40, seed=seed)
        ids = ["sub_1" + "0" * 22, "sub_1" + "1" * 22]
        await read(sim, topic, subscription(ids[0], "Seen", "take", Flavor.EXCLUSIVE))
        await read(sim, topic, subscription(ids[1], "Plain", "add", Flavor.SERVICE))

        async def ended() -> bool:
            return set(await sim.engine.count_invocations()) == {"completed"}

        await sim.until(ended)
        for key in range(6):
            state = await sim.repeat(lambda engine, key=key: engine.get_state("Seen", f"k{key}"))  # type: ignore[misc]
            assert (state.get("seen") or []) == topic.expected(key)
        found: dict[str, list[tuple[str, str, str | None]]] = {}
        for id in ids:
            listed = await sim.repeat(lambda engine, id=id: engine.invocations(caller=id, limit=1000))  # type: ignore[misc]
            where = ("kafka.partition", "kafka.offset")
            found[id] = sorted((*(one.headers[name] for name in where), one.completion_result) for one in listed)
            assert len({one[:2] for one in found[id]}) == len(found[id]) == 40
        return found

    found = check(services, scenario, most=25)
    assert sum(result == "failure" for *_, result in found["sub_1" + "0" * 22]) == 4


def test_fingerprints_tell_records_apart() -> None:
    one = Record(0, 0, b"ab", b"c")
    others = [Record(0, 0, b"a", b"bc"), Record(0, 0, b"ab", b"d"), Record(0, 1, b"ab", b"c")]
    assert len({fingerprint(one), *map(fingerprint, others)}) == 4
    assert fingerprint(one) == fingerprint(Record(3, 0, b"ab", b"c")) != 0
