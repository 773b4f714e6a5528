"""The consumer of one subscription: it reads, lets the engine take the records, and then tells the broker.

One turn takes the records of one poll. Meanwhile the next poll is made ready (or a few, if no record can run now) and
waits for that turn, so a slow engine gets no more than it can take.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from durable import log
from durable.core.alike import Alike
from durable.core.effects import Reply
from durable.core.record_commands import Offered, Take
from durable.core.sources import Subscription
from durable.errors import EngineFailedError, EngineNotRunningError, InvalidRequestError
from durable.kafka.host import Host
from durable.kafka.options import NOT_INSTALLED, Settings, Unresolved, settings
from durable.kafka.partitions import Partitions
from durable.kafka.records import Records
from durable.kafka.state import State
from durable.kafka.trouble import Ended, Failed, Trouble, told
from durable.runtime.lines import about
from durable.store import CommitRefused

#: How long it waits before it tries again: at first, and at most.
RETRY_S, RETRY_S_MAX = 0.2, 10.0
#: How long it waits for records at a time; so often at least it looks whether the engine is still there.
POLL_S = 0.5
#: How long no broker may answer for a partition that is being read, beyond what a broker may wait for records.
SILENCE_S = 5.0
#: Of how many polls, and how many bytes, the records may be got ready while a commit is under way.
HELD_POLLS, HELD_SIZE = 4, 4 * 2**20
#: How long the end of a session may take.
STOP_S = 2.0


T = TypeVar("T")


class _Offer(NamedTuple):
    """What one poll brought of a partition, and what it becomes."""

    partition: int
    #: The offset of the first record.
    first: int
    offered: tuple[Offered, ...] | Alike
    #: None of what is alike: while many are held, the garbage collector would go over all of them again and again.
    records: Sequence[Any]


class _Asked(NamedTuple):
    """An offer that the engine has been asked to take: where the partition was before, and the answer."""

    offer: _Offer
    before: int
    answer: "asyncio.Future[Reply]"


class Reader:
    """Reads for one subscription, until it is stopped."""

    def __init__(
        self,
        host: Host,
        subscription: Subscription,
        options: Callable[[], Mapping[str, Any]],
        records: Records,
        now_ms: Callable[[], int],
    ) -> None:
        self.subscription = subscription
        self.state: State = "starting"
        self.reason = self.cause = ""
        self.since = now_ms()
        self.partitions = Partitions(host, subscription)
        self._host = host
        self._options = options
        self._records = records
        self._now_ms = now_ms
        #: Whether its group has told it which partitions it has.
        self._joined = False
        #: What the engine was asked to take, and has not been looked at since.
        self._asked: list[_Asked] = []
        #: What it has not been asked for yet.
        self._held: list[_Offer] = []
        #: What the broker has been told.
        self._told: dict[int, int] = {}
        self._tell_at = 0.0
        #: What the client could not do last.
        self._complaint: BaseException | None = None
        #: Since when, in ms since the epoch, no records came; 0 where that begins with the next poll.
        self._quiet_since = 0
        self._abandoned = False
        #: Set to try again now; and to stop.
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- life ----

    def start(self) -> None:
        """Begin. If it has failed, or waits for a retry, try again now."""
        self._wake.set()
        if self._task is None or self._task.done():
            self._stop.clear()
            self._abandoned = False
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Leave the group, and tell the broker the position. Raises nothing."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            self._stop.set()
            self._wake.set()
            await asyncio.wait([task], timeout=2 * STOP_S)
            task.cancel()

    def abandon(self) -> None:
        """Stop as a killed process would: the broker is told nothing."""
        self._abandoned = True
        if self._task is not None and not self._task.get_loop().is_closed():
            self._stop.set()
            self._wake.set()

    def _is(self, state: State, reason: str = "", cause: str = "") -> None:
        if (state, reason, cause) == (self.state, self.reason, self.cause):
            return
        self.state, self.reason, self.cause, self.since = state, reason, cause, self._now_ms()
        if state in ("retrying", "failed"):
            self.partitions.ends.clear()
            log.kafka.warning(
                "%s (%s) is %s: %s: %s", self.subscription.id, self.subscription.source, state, reason, cause
            )
        elif state == "running":
            log.kafka.info("%s (%s) is running", self.subscription.id, self.subscription.source)

    async def _run(self) -> None:
        delay = RETRY_S
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except Ended:
                return
            except (EngineFailedError, EngineNotRunningError):
                return
            except Failed as failed:
                self._is("failed", failed.reason, str(failed))
                return
            except Exception as error:
                if self._host.failure is not None:
                    return
                self._is("retrying", *self._told_of(error))
            if self._stop.is_set():
                return
            if time.monotonic() - began > 2 * RETRY_S_MAX:
                delay = RETRY_S
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)
            delay = min(2 * delay, RETRY_S_MAX)

    def _hear(self, line: str, error: BaseException | None) -> None:
        """What the client says."""
        log.kafka.debug("%s: %s", self.subscription.id, line)
        if error is not None and told(error)[0] != "broker":  # and not what follows from that
            self._complaint = error

    def _told_of(self, error: Exception) -> tuple[str, str]:
        """A word and a sentence for an error; where it only says that no broker was reached, for its cause."""
        word, sentence = told(error)
        if word == "connection" and self._complaint is not None:
            return told(self._complaint)
        return word, sentence

    # ---- a session ----

    async def _session(self) -> None:
        read = self._settings()
        try:
            from aiokafka import AIOKafkaConsumer
        except ImportError:
            raise Failed("not-installed", NOT_INSTALLED) from None
        from durable.kafka.client import Rebalanced, listen, token_provider

        arguments = dict(read.client)
        if read.token is not None:
            arguments["sasl_oauth_token_provider"] = token_provider(*read.token)
        try:
            consumer = AIOKafkaConsumer(**arguments, enable_auto_commit=False, auto_offset_reset="none")
        except Exception as error:
            raise Failed("bad-options", f"the client does not take these options: {error}") from error
        self.partitions.leave()
        self._joined, self._asked, self._held, self._told = False, [], [], {}
        self._complaint, self._quiet_since = None, 0
        listen(self._hear)
        starting = asyncio.ensure_future(consumer.start())
        try:
            await self._unless_stopped(asyncio.shield(starting))
            if self.subscription.topic not in await consumer.topics():
                raise Trouble("topic-missing", f"there is no topic {self.subscription.topic}, or it may not be read")
            consumer.subscribe([self.subscription.topic], listener=Rebalanced(self._rebalanced))
            while True:
                await self._round(consumer, read)
        finally:
            await asyncio.wait([starting], timeout=STOP_S)  # cut off, it would leave a connection behind
            starting.cancel()
            await self._leave(consumer, read)

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """Its result. Raises `Ended` where this is to stop first."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                raise Ended
            return working.result()
        finally:
            stopping.cancel()
            working.cancel()

    def _settings(self) -> Settings:
        id = self.subscription.id
        try:
            return settings(self._options(), f"the options of {id}")
        except Unresolved as error:
            raise Failed(error.reason, str(error)) from error
        except (InvalidRequestError, OSError, ValueError) as error:
            raise Failed("bad-options", str(error)) from error

    async def _leave(self, consumer: Any, read: Settings) -> None:
        """The end of a session, whatever it was: what the broker does not answer in time is left."""
        with suppress(Exception):
            if not self._abandoned and self._host.failure is None:
                async with asyncio.timeout(STOP_S / 2):
                    with suppress(Failed, Ended):
                        await self._finish(consumer, read)
                    await self._tell(consumer)
        stopping = asyncio.ensure_future(consumer.stop())
        with suppress(Exception):
            await asyncio.wait([stopping], timeout=STOP_S)
        if not stopping.done():
            stopping.cancel()
            consumer._closed = True  # it said what it could; nothing of it is to be warned about
        elif not stopping.cancelled() and stopping.exception() is not None:
            log.kafka.info("%s: the end of its connection: %r", self.subscription.id, stopping.exception())

    def _rebalanced(self, begins: bool) -> None:
        """The group shares its partitions anew: what is read is entered again."""
        self._joined = begins
        self.partitions.leave()

    async def _round(self, consumer: Any, read: Settings) -> None:
        self._check()
        partitions = self.partitions
        if partitions.fresh and self._joined:
            await self._finish(consumer, read)
            partitions.fresh, partitions.ends, self._held = False, {}, []
            if consumer.assignment():  # where the group has more members than the topic has partitions, there is none
                await partitions.enter(consumer, read.reset)
            self._is("running")
        some = await self._poll(consumer, read)
        if some is None:
            return
        if not some or not self._may_hold_more(read):
            await self._finish(consumer, read)
            held, self._held = self._held, []
            if held:
                await self._ask(consumer, read, held)
        self._mind_silence(consumer, read, quiet=not some)
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + read.commit_interval_s
            await self._tell_if_possible(consumer)
        await self._look(consumer, read)

    async def _poll(self, consumer: Any, read: Settings) -> bool | None:
        """Hold what comes; whether something did. None: where to read is to be decided first."""
        from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError, UnsupportedCodecError

        partitions = self.partitions
        wait_s = 0 if self._asked else POLL_S
        try:
            polled = consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=read.poll_records)
            batches: Mapping[Any, Sequence[Any]] = await self._unless_stopped(polled)
        except NoOffsetForPartitionError:
            partitions.fresh |= not partitions.since
            return None
        except OffsetOutOfRangeError:
            partitions.fresh = True
            return None
        except UnsupportedCodecError as error:
            how = "records are compressed, and what decompresses them is not installed"
            raise Failed(
                "not-installed", f"{how}: pip install 'durable-engine[kafka]' and restart ({error})"
            ) from error
        handler = self._records.handler
        for tp, records in batches.items():
            if tp.partition in partitions.since:
                offered = self._records.offered(records, handler)
                kept = () if isinstance(offered, Alike) else records
                self._held.append(_Offer(tp.partition, records[0].offset, offered, kept))
        return bool(batches)

    def _may_hold_more(self, read: Settings) -> bool:
        """Whether to poll once more before asking: while a commit is under way, which makes the next one larger.

        Only of what becomes rows, and while nothing else waits to be settled: where handlers run and end, what is
        taken ahead of them is written, read and written again, and the last one ends later.
        """
        if not self._host.world.full or self._host.queued or all(one.answer.done() for one in self._asked):
            return False
        records = size = 0
        for offer in self._held:
            if not isinstance(offer.offered, Alike):
                return False
            records += len(offer.offered)
            size += sum(map(len, offer.offered.inputs))
        return records < HELD_POLLS * read.poll_records and size < HELD_SIZE

    def _check(self) -> None:
        if self._host.failure is not None:
            raise self._host.failure
        subscription = self._host.world.subscriptions.get(self.subscription.id)
        if subscription is None or subscription.paused:
            raise Ended
        handler = self._records.handler
        if handler is not None and handler.settings.public is False:
            raise Failed("not-public", f"{subscription.sink} is not public: no record may invoke it")

    # ---- taking ----

    async def _ask(self, consumer: Any, read: Settings, offers: Sequence[_Offer]) -> None:
        """Have the engine take all that one poll brought, in one turn: see `_finish`."""
        if self._host.crowded:
            await self._wait(consumer, read, self._host.admitted())
        partitions = self.partitions
        for offer in offers:
            number = offer.partition
            since, position = partitions.since.get(number), partitions.position(number)
            if since is None or position is None:  # it was given to somebody else meanwhile
                continue
            if offer.first < since:
                raise Trouble("moved", f"partition {number} was read from {offer.first} on, not {since}")
            take = partial(Take, self.subscription.id, partitions.place(number), since, offer.offered)
            self._asked.append(_Asked(offer, position.next, self._host.ask(take)))

    async def _finish(self, consumer: Any, read: Settings) -> None:
        """Wait until what the engine was asked to take is durable, and see what became of it."""
        if not self._asked:
            return
        answers = asyncio.gather(*(one.answer for one in self._asked), return_exceptions=True)
        await self._wait(consumer, read, answers)
        asked, self._asked = self._asked, []
        for offer, before, answer in asked:
            if isinstance(answer.exception(), CommitRefused):
                await self._one_by_one(offer, before)
            else:
                self._done(offer.partition, offer.offered, answer.result(), before)

    def _done(self, number: int, offered: Sequence[Offered] | Alike, reply: Reply, before: int) -> None:
        """What became of some records: where the partition is now, and which of them have failed."""
        position = self.partitions.taken(number, reply)
        if position is None:
            return
        if number in self.partitions.since:  # and not given to somebody else meanwhile
            self.partitions.since[number] = position.next
        for one in () if isinstance(offered, Alike) else offered:  # of those none fails
            if one.failure is not None and one.offset >= before:
                log.kafka.warning(
                    "%s (%s): record %d of partition %d became the failed invocation %s: %s",
                    self.subscription.id,
                    self.subscription.source,
                    one.offset,
                    number,
                    one.submission.id,
                    one.failure.value.decode(errors="replace"),
                    about=about(one.submission),
                )

    async def _one_by_one(self, offer: _Offer, before: int) -> None:
        """The store refused them all together: only whoever is to blame fails."""
        number, offered = offer.partition, offer.offered
        if isinstance(offered, Alike):
            singly = self._records.singly(offered)
        else:
            singly = self._records.one_by_one(offer.records, self._records.handler)
        for one in singly:
            since = self.partitions.since.get(number)
            if since is None:
                return
            take = partial(Take, self.subscription.id, self.partitions.place(number), since)
            try:
                reply = await self._host.ask(partial(take, (one,)))
            except CommitRefused as refused:
                one = self._records.refused(one, refused)
                reply = await self._host.ask(partial(take, (one,)))
            self._done(number, (one,), reply, before)

    async def _wait(self, consumer: Any, read: Settings, future: "asyncio.Future[Any]") -> None:
        """Wait for the engine. Where that takes long, partitions are paused and polls go on, to stay in the group."""
        patience = min(2.0, read.poll_interval_s / 3)
        done, _ = await asyncio.wait([future], timeout=patience)
        if done:
            return
        paused = consumer.assignment()
        consumer.pause(*paused)
        try:
            while not done:
                await consumer.getmany(timeout_ms=0)
                done, _ = await asyncio.wait([future], timeout=patience)
        finally:
            consumer.resume(*(consumer.assignment() & paused))
            self._quiet_since = 0

    # ---- telling the broker ----

    async def _tell(self, consumer: Any) -> None:
        """Commit how far the partitions are that it has."""
        ours = [tp for tp in consumer.assignment() if tp.partition in self.partitions.since]
        durable = self._host.positions
        stored = {tp: at.next for tp in ours if (at := durable.get(self.partitions.place(tp.partition))) is not None}
        new = {tp: next for tp, next in stored.items() if self._told.get(tp.partition) != next}
        if new:
            await consumer.commit(new)
            self._told |= {tp.partition: next for tp, next in new.items()}

    async def _tell_if_possible(self, consumer: Any) -> None:
        from aiokafka.errors import KafkaError

        try:
            await self._tell(consumer)
        except KafkaError as error:  # the group is being shared anew, or its coordinator is away: the next time
            log.kafka.info("%s: the broker was not told how far it is: %s", self.subscription.id, error)

    def _mind_silence(self, consumer: Any, read: Settings, *, quiet: bool) -> None:
        """Say so where no broker answers for a partition; the client goes on trying, and what comes is read."""
        if not self._joined or self.partitions.fresh:  # it is not there yet
            self._quiet_since = 0
            return
        now = int(time.time() * 1000)
        if not quiet or not 0 < self._quiet_since <= now:
            self._quiet_since = now
            if self.state == "retrying" and not quiet:
                self._is("running")
            return
        silent = [
            tp.partition
            for tp in consumer.assignment()
            if tp.partition in self.partitions.since and (consumer.last_poll_timestamp(tp) or 0) < self._quiet_since
        ]
        if self.state == "retrying":
            if not silent:
                self._is("running")
        elif now - self._quiet_since >= 1000 * SILENCE_S + read.client.get("fetch_max_wait_ms", 500):
            if silent:
                cause = "nothing is heard" if self._complaint is None else told(self._complaint)[1]
                self._is("retrying", "connection", f"no broker answers for partitions {sorted(silent)}: {cause}")
            else:
                self._quiet_since = now

    async def _look(self, consumer: Any, read: Settings) -> None:
        """Where the partitions end that it reads: behind the last record that it can have.

        What follows may be the marks of transactions, aborted records, or offsets whose records were compacted away.
        """
        if self.state != "running":
            return
        committed = read.client.get("isolation_level") == "read_committed"
        ends = self.partitions.ends
        for tp in consumer.assignment():
            end, stable = consumer.highwater(tp), consumer.last_stable_offset(tp)
            if end is None or tp.partition not in self.partitions.since:
                continue
            if committed and stable is not None and 0 <= stable < end:
                end = stable
            position = self.partitions.position(tp.partition)
            all_taken = not self._asked and not self._held
            if all_taken and position is not None and position.next < end and await consumer.position(tp) >= end:
                end = position.next
            ends[tp.partition] = end
