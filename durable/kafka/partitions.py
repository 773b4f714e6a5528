"""The partitions that a subscription reads: where reading begins in each, and how far it has come.

The engine's own positions are the truth. Reading begins at the record that was taken last, which is compared with
what is stored of it. This finds a topic that was created again, although its offsets look alike. What the broker
remembers of the group only decides where a partition begins that has no position here.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from durable import log
from durable.core.effects import Answer, Reply
from durable.core.record_commands import Begin, Take
from durable.core.sources import GroupPartition, Position, Subscription
from durable.kafka.host import Host
from durable.kafka.trouble import Ended, Failed, Trouble

#: After how many looks a topic that ends before the position is another one: after a change of leaders the end may be
#: behind for a moment.
LOOKS = 6


class Partitions:
    """The partitions that the group has given to one reader."""

    def __init__(self, host: Host, subscription: Subscription) -> None:
        self._host = host
        self._subscription = subscription
        #: Whether they are to be entered, before anything is read of them.
        self.fresh = True
        #: From where on nothing has been left out; those that are not here are not entered.
        self.since: dict[int, int] = {}
        #: Where they end, as last heard.
        self.ends: dict[int, int] = {}
        self._looks = 0

    def leave(self) -> None:
        """Forget them: they may belong to another consumer by now."""
        self.fresh = True
        self.since = {}

    def place(self, number: int) -> GroupPartition:
        """The name under which the position of a partition is stored."""
        one = self._subscription
        return GroupPartition(one.cluster, one.group, one.topic, number)

    def position(self, number: int) -> Position | None:
        """How far a partition has been taken."""
        return self._host.world.positions.get(self.place(number))

    async def enter(self, consumer: Any, reset: str) -> None:
        """Go to the position of each partition, and decide where new ones begin."""
        from aiokafka.errors import KafkaError

        assigned = {one.partition: one for one in consumer.assignment()}
        start = self._host.world.subscriptions[self._subscription.id].start
        await self._begin(consumer, reset, start, assigned.values())
        firsts = await consumer.beginning_offsets(list(assigned.values()))
        ends = await consumer.end_offsets(list(assigned.values()))
        for number, tp in assigned.items():
            position = self.position(number)
            if position is None:  # the topic has grown meanwhile
                self.fresh = True
                continue
            first, end = firsts[tp], ends[tp]
            if not start:
                await self._compare_with_group(consumer, tp, position)
            if position.next > end:
                self._ends_before(number, position, end)
            if position.next < first:
                position = await self._skip(number, position, first)
            # the last one again, to compare it
            since = max(first, position.next - 1) if position.fingerprint else position.next
            with suppress(KafkaError):  # it is not assigned any more: that is told, too
                consumer.seek(tp, since)
                self.since[number], self.ends[number] = since, end
        self._looks = 0

    async def _begin(self, consumer: Any, reset: str, start: str, assigned: Iterable[Any]) -> None:
        """Keep a position for every partition of the topic that has none, also for those that others read."""
        from aiokafka import TopicPartition

        topic = self._subscription.topic
        everywhere = {*(consumer.partitions_for_topic(topic) or ()), *(one.partition for one in assigned)}
        known = {place.partition for place in self._host.world.positions if place[:3] == self.place(0)[:3]}
        new = [TopicPartition(topic, number) for number in sorted(everywhere - known)]
        if not new and not start:
            return
        grown = bool(known) and not start
        found: dict[int, int] = {}
        if new and start not in ("earliest", "latest"):
            found = {tp.partition: at for tp in new if (at := await consumer.committed(tp)) is not None}
        left = [tp for tp in new if tp.partition not in found]
        if left:
            where = start if start in ("earliest", "latest") else "earliest" if grown else reset
            if where == "none":
                raise Failed(
                    "no-position",
                    f"the group {self._subscription.group} has no offset of partition {left[0].partition}, and "
                    "auto.offset.reset says that none is to be chosen",
                )
            offsets = consumer.beginning_offsets if where == "earliest" else consumer.end_offsets
            found |= {tp.partition: at for tp, at in (await offsets(left)).items()}
        if start:  # that is decided: what the broker has of the group becomes the same
            here = {tp: at.next for tp in assigned if (at := self.position(tp.partition)) is not None}
            await consumer.commit(here | {tp: found[tp.partition] for tp in assigned if tp.partition in found})
        begin = {self.place(number): at for number, at in found.items()}
        reply = await self._host.ask(partial(Begin, self._subscription.id, begin))
        if reply.result is Answer.DAMAGED:
            raise Failed(
                "position-damaged",
                f"{reply.cause}; it may be one of these: say where to begin, "
                f"engine.resume_subscription({self._subscription.id!r}, position=...)",
            )
        if reply.result is not Answer.DONE:
            raise Ended

    async def _compare_with_group(self, consumer: Any, tp: Any, position: Position) -> None:
        committed = await consumer.committed(tp)
        if committed is None or committed <= position.next:
            return  # the broker is told last, so it may be behind
        raise Failed(
            "behind-group",
            f"partition {tp.partition}: {position.next} comes next by what is stored here, and {committed} by what "
            f"the broker has of the group {self._subscription.group}: somebody else has read in it or moved it, or a "
            "backup of the database was restored. Say where to go on: "
            f'engine.resume_subscription({self._subscription.id!r}, position="stored") or "committed"',
        )

    def _ends_before(self, number: int, position: Position, end: int) -> None:
        cause = f"partition {number} ends at {end}, and was taken up to {position.next}"
        self._looks += 1
        if self._looks < LOOKS:
            raise Trouble("ends-before", f"{cause}; looking again")
        self._looks = 0
        raise self._created_again(f"{cause}: it has lost records, or was deleted and created again")

    def _created_again(self, cause: str) -> Failed:
        return Failed(
            "topic-recreated",
            f"{cause}. Nothing was taken of what it has now. Say where to go on: "
            f'engine.resume_subscription({self._subscription.id!r}, position="earliest") or "latest"',
        )

    async def _skip(self, number: int, position: Position, first: int) -> Position:
        """What lay between is gone from the broker: that is counted and said, and the rest is taken."""
        log.kafka.warning(
            "%s (%s): records %d to %d of partition %d were gone before they could be read: they are skipped",
            self._subscription.id,
            self._subscription.source,
            position.next,
            first - 1,
            number,
        )
        take = partial(Take, self._subscription.id, self.place(number), first, (), gone=True)
        return self.taken(number, await self._host.ask(take)) or position

    def taken(self, number: int, reply: Reply) -> Position | None:
        """Note the result of a `Take`: the position, or None if the partition has to be entered again."""
        if reply.result is Answer.ACCEPTED:
            return reply.position
        if reply.result is Answer.RECREATED:
            raise self._created_again(f"partition {number} has another record where the last one was taken")
        if reply.result is Answer.GAP:
            self.fresh = True
            self.since.pop(number, None)
            return None
        raise Ended
