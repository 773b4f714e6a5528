"""Records become invocations, over the wire: what each kind of handler gets, in which order, and exactly once."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable import (
    ConflictError,
    Context,
    Engine,
    ObjectContext,
    SharedObjectContext,
    SharedWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from tests.kafka.support import EARLIEST, Broker, all_ended, engine_on, produce, state_of, taken, until

pytestmark = pytest.mark.anyio


class Counter(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, value: int) -> int:
        count = (await ctx.get("count", int) or 0) + value
        ctx.set("count", count)
        ctx.set("seen", [*(await ctx.get("seen", list[int]) or []), value])
        return count

    @handler(shared=True)
    async def seen(self, ctx: SharedObjectContext) -> list[int]:
        return await ctx.get("seen", list[int]) or []


class Told(VirtualObject):
    """What a handler is told of its record."""

    @handler
    async def headers(self, ctx: ObjectContext, value: Any) -> dict[str, str]:
        return dict(ctx.request.headers)


@handler(service="Plain")
async def echo(ctx: Context, value: int) -> int:
    return value


@handler(service="Plain")
async def nothing(ctx: Context, value: int | None) -> str:
    return repr(value)


@handler(service="Plain")
async def raw(ctx: Context, value: bytes) -> str:
    return value.decode()


class Greeting(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, name: str) -> str:
        return f"hello {name}"


class Gate(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        return await ctx.promise("open", str)

    @handler
    async def open(self, ctx: SharedWorkflowContext, how: str) -> None:
        ctx.promise("open", str).resolve(how)


async def test_three_records_of_a_key_are_added_up(broker: Broker, topic: str) -> None:
    """C-088: topic to an object's handler, and to a plain service by its value."""
    async with engine_on(broker, Counter(), echo) as engine:
        adding = await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)
        echoing = await engine.subscribe(f"kafka://main/{topic}", "service://Plain/echo", EARLIEST)
        produce(broker, topic, [(b"a", b"1"), (b"a", b"2"), (b"a", b"3")])
        await all_ended(engine, 3, caller=adding.id)
        await all_ended(engine, 3, caller=echoing.id)
        assert (await engine.get_state("Counter", "a"))["count"] == 6
        echoed = [await engine.attach(one.id) for one in await engine.invocations(caller=echoing.id)]
        assert sorted(echoed) == [1, 2, 3]


async def test_records_start_workflows_and_settle_their_promises(broker: Broker, topic: str) -> None:
    """C-088: topic to a workflow's run, by key; to its shared handler, which those hear of who wait."""
    async with engine_on(broker, Greeting(), Gate()) as engine:
        await engine.subscribe(f"kafka://main/{topic}", Greeting.run, EARLIEST)
        produce(broker, topic, [(key, b'"%s"' % key.upper()) for key in (b"a", b"b", b"c", b"a")])
        results = [engine.workflow(Greeting.run, key) for key in "abc"]
        await all_ended(engine, 3, service="Greeting")
        assert [await one.result() for one in results] == ["hello A", "hello B", "hello C"]

        other = f"{topic}-promises"
        broker.create(other)
        waiting = [await engine.send(Gate.run, key=key) for key in "ab"]
        await engine.subscribe(f"kafka://main/{other}", Gate.open, EARLIEST)
        produce(broker, other, [(b"a", b'"wide"'), (b"b", b'"a crack"')])
        assert [await one.result() for one in waiting] == ["wide", "a crack"]


async def test_a_handler_knows_where_its_record_is_from(broker: Broker, topic: str) -> None:
    async with engine_on(broker, Told()) as engine:
        subscription = await engine.subscribe(f"kafka://main/{topic}", Told.headers, EARLIEST)
        headers = [
            ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("twice", b"first"),
            ("twice", "zwölf".encode()),
            ("raw", b"\xff\x00"),
            ("kafka.offset", b"not this one"),
        ]
        produce(broker, topic, [(b"\xc3\xa4?", b"1")], partition=2, headers=headers, timestamp=1_700_000_000_123)
        produce(broker, topic, [(None, b"2")], partition=1)
        await all_ended(engine, 2)
        by_partition = {}
        for one in await engine.invocations():
            told = await engine.attach(one.id)
            by_partition[told["kafka.partition"]] = (one, told)
        one, told = by_partition["2"]
        assert (one.key, one.caller_id, one.caller_target) == ("ä?", subscription.id, f"kafka://main/{topic}")
        assert told == {
            "kafka.offset": "0",
            "kafka.topic": topic,
            "kafka.partition": "2",
            "kafka.timestamp": "1700000000123",
            "kafka.key": "w6Q_",
            "restate.subscription.id": subscription.id,
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "twice": "zwölf",
            "raw-bin": "_wA=",
        }
        keyless, told = by_partition["1"]
        assert keyless.key == "" and "kafka.key" not in told


async def test_tombstones_are_none_or_empty_by_the_handlers_type(broker: Broker, topic: str) -> None:
    async with engine_on(broker, nothing, raw, echo) as engine:
        ids = [
            (await engine.subscribe(f"kafka://main/{topic}", f"service://Plain/{name}", EARLIEST)).id
            for name in ("nothing", "raw", "echo")
        ]
        produce(broker, topic, [(b"k", None)])
        await all_ended(engine, 3)
        none, empty, needed = [(await engine.invocations(caller=id))[0] for id in ids]
        assert await engine.attach(none.id) == "None"
        assert await engine.attach(empty.id) == ""
        assert needed.completion_result == "failure"
        failure = msgspec.json.decode((await engine.describe(needed.id)).output or b"")
        assert "tombstone" in failure["message"]


async def test_each_of_two_subscriptions_gets_all_in_the_order_of_a_key(broker: Broker, topic: str) -> None:
    records = [(b"k%d" % (number % 7), str(number).encode()) for number in range(200)]
    expected = {f"k{key}": list(range(key, 200, 7)) for key in range(7)}

    class Other(Counter):
        pass

    async with engine_on(broker, Counter(), Other()) as engine:
        first = await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)
        second = await engine.subscribe(f"kafka://main/{topic}", Other.add, EARLIEST)
        await asyncio.to_thread(produce, broker, topic, records)
        for one, service in ((first, "Counter"), (second, "Other")):
            await all_ended(engine, 200, caller=one.id)
            states = {key: (await engine.get_state(service, key))["seen"] for key in expected}
            assert states == expected
        view = await taken(engine, first.id, 200)
        assert (view.state, view.failed, view.skipped) == ("running", 0, 0)
        assert view.lag == 0 and sum(at.position for at in view.partitions) == 200
        assert view.last_record_at is not None and len(view.partitions) == 4


async def test_what_was_taken_is_not_taken_again_after_a_kill(broker: Broker, topic: str, tmp_path: Path) -> None:
    """The broker was told nothing: it delivers all of it again."""
    path = tmp_path / "durable.db"
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, {**EARLIEST, "group.id": topic})).id
        produce(broker, topic, [(b"k", b"%d" % number) for number in range(20)])
        await taken(engine, id, 20)
        engine.abandon()
    produce(broker, topic, [(b"k", b"%d" % number) for number in range(20, 30)])
    async with engine_on(broker, Counter(), path=path) as engine:
        await taken(engine, id, 30)
        await all_ended(engine, 30)
        assert (await engine.get_state("Counter", "k"))["seen"] == list(range(30))


async def test_a_subscription_made_again_with_the_same_group_goes_on_behind_the_last_record(
    broker: Broker, topic: str
) -> None:
    async with engine_on(broker, Counter()) as engine:
        options = {**EARLIEST, "group.id": f"group of {topic}"}
        first = await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)
        produce(broker, topic, [(b"k", b"1"), (b"k", b"2")])
        await taken(engine, first.id, 2)
        await engine.unsubscribe(first.id)
        assert await engine.subscriptions() == []
        await all_ended(engine, 2)  # what was accepted is still processed
        produce(broker, topic, [(b"k", b"3")])
        again = await engine.subscribe(f"kafka://main/{topic}", Counter.add, options)
        assert again.id != first.id
        await until(lambda: seen(engine, [1, 2, 3]))


async def seen(engine: Engine, values: list[int]) -> bool:
    return bool((await engine.get_state("Counter", "k")).get("seen") == values)


async def test_latest_begins_behind_what_is_there_and_keeps_that_place(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    """What comes while the engine is down is not lost, though it has never taken a record."""
    path = tmp_path / "durable.db"
    produce(broker, topic, [(b"k", b"1")])
    async with engine_on(broker, Counter(), path=path) as engine:
        subscription = await engine.subscribe(f"kafka://main/{topic}", Counter.add)
        view = await state_of(engine, subscription.id, "running")
        assert sum(at.position for at in view.partitions) == 1
        engine.abandon()
    produce(broker, topic, [(b"k", b"2")])
    async with engine_on(broker, Counter(), path=path) as engine:
        await until(lambda: seen(engine, [2]))


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "closed"])
async def test_a_paused_subscription_reads_nothing_until_it_is_resumed(
    broker: Broker, topic: str, tmp_path: Path, crash: bool
) -> None:
    path = tmp_path / "durable.db"
    async with engine_on(broker, Counter(), path=path) as engine:
        id = (await engine.subscribe(f"kafka://main/{topic}", Counter.add, EARLIEST)).id
        produce(broker, topic, [(b"k", b"1")])
        await taken(engine, id, 1)
        await engine.pause_subscription(id)
        if crash:
            engine.abandon()
    produce(broker, topic, [(b"k", b"2")])
    async with engine_on(broker, Counter(), path=path) as engine:
        assert (await engine.subscription(id)).state == "paused"
        await engine.resume_subscription(id)
        await until(lambda: seen(engine, [1, 2]))
        assert (await engine.subscription(id)).state == "running"


async def test_to_subscribe_again_is_the_same_subscription(broker: Broker, topic: str) -> None:
    async with engine_on(broker, Counter()) as engine:
        source = f"kafka://main/{topic}"
        one = await engine.subscribe(source, Counter.add, EARLIEST)
        assert (await engine.subscribe(source, Counter.add, EARLIEST)).id == one.id
        other = await engine.subscribe(source, Counter.add, EARLIEST, again=True)
        assert other.id != one.id
        assert (await engine.subscribe(source, Counter.add, EARLIEST)).id == one.id
        with pytest.raises(ConflictError, match=f"{one.id}, {other.id}"):  # nobody knows which one is to change
            await engine.subscribe(source, Counter.add)
        assert [view.options["auto.offset.reset"] for view in await engine.subscriptions()] == ["earliest"] * 2


@pytest.mark.parametrize("group", [{}, {"group.id": "one of many"}], ids=["own group", "named group"])
async def test_options_that_change_in_code_hold_for_the_subscription_that_is_there(
    broker: Broker, topic: str, tmp_path: Path, group: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The next version of a program asks for a larger poll: nothing is read twice, and nothing left out."""
    path, source = tmp_path / "durable.db", f"kafka://main/{topic}"
    async with engine_on(broker, Counter(), path=path) as engine:
        first = await engine.subscribe(source, Counter.add, {**EARLIEST, **group})
        produce(broker, topic, [(b"k", b"1"), (b"k", b"2")])
        await until(lambda: seen(engine, [1, 2]))
    async with engine_on(broker, Counter(), path=path) as engine:
        changed = await engine.subscribe(source, Counter.add, {"max.poll.records": "7", **group})
        assert changed.id == first.id and changed.options["max.poll.records"] == "7"
        assert [one.id for one in await engine.subscriptions()] == [first.id]
        assert "other options from now on: auto.offset.reset, max.poll.records" in caplog.text
        produce(broker, topic, [(b"k", b"3")])
        await until(lambda: seen(engine, [1, 2, 3]))
    async with engine_on(broker, Counter(), path=path) as engine:
        assert (await engine.subscription(first.id)).options == changed.options
        assert await engine.count_invocations() == {"completed": 3}


async def test_another_group_is_another_subscription_and_the_log_names_both(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(broker, Counter()) as engine:
        source = f"kafka://main/{topic}"
        one = await engine.subscribe(source, Counter.add)
        assert one.id not in caplog.text
        other = await engine.subscribe(source, Counter.add, {"group.id": "mine"})
        assert other.id != one.id and len(await engine.subscriptions()) == 2
        [line] = [line for line in caplog.messages if "beside" in line]
        assert one.id in line and "mine" in line and "engine.unsubscribe" in line
