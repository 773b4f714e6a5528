"""A file in which every table has rows, what each invocation in it must end with, and how a damaged one fares."""

import asyncio
import shutil
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from durable import (
    Context,
    DurableError,
    NotFoundError,
    ObjectContext,
    SharedWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.effects import Answer
from durable.core.reasons import Reason
from durable.core.record_commands import Begin, Subscribe
from durable.core.sources import GroupPartition, Subscription
from durable.errors import StorageError
from durable.testing import run
from tests.runtime.support import engine_on

#: The files of one database, by the ends of their names.
ENDS = ("", "-wal")
SUBSCRIPTION = "sub_1" + "0" * 22
#: What only a codec fills: `tests/codec` damages it.
EMPTY = "codec_keys"
#: Longer than anything in the file waits.
HOUR = 3600.0


async def step(number: int) -> int:
    return number


@handler(service="Plain")
async def work(ctx: Context, number: int) -> int:
    seen = await ctx.run(step, number)
    await ctx.sleep("10m")
    return await ctx.run(step, seen + 1)


@handler(service="Plain")
async def parent(ctx: Context, number: int) -> int:
    return await ctx.call(work, number)


@handler(service="Plain")
async def watch(ctx: Context, id: str) -> int:
    return await ctx.attach(id, int)


@handler(service="Plain")
async def listen(ctx: Context) -> str:
    await ctx.sleep("10m")
    return await ctx.signal("word", str)


class Account(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        balance = (await ctx.get("balance", int) or 0) + amount
        ctx.set("balance", balance)
        await ctx.sleep("10m")
        return balance


class Approval(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> list[str]:
        ready = await ctx.promise("ready", str).peek()
        await ctx.sleep("10m")
        return [str(ready), await ctx.promise("ready", str), await ctx.promise("go", str)]

    @handler(shared=True)
    async def waiting(self, ctx: SharedWorkflowContext) -> str:
        return await ctx.promise("go", str)


SERVICES: tuple[object, ...] = (work, parent, watch, listen, Account(), Approval())
#: What must come of each invocation, by number; and whom it waits for.
EXPECTED: dict[int, Any] = {}
WAITS_FOR: dict[int, set[int]] = {}
IDS: dict[int, str] = {}


async def _subscribed(engine: Any) -> None:
    """A subscription that is paused, so that nothing reads, and how far it is."""
    loop = engine._running()
    await engine.add_kafka_cluster("c", {"bootstrap.servers": "localhost:1"})
    subscription = await loop.ask(
        partial(
            Subscribe,
            Subscription(
                SUBSCRIPTION, "kafka://c/t", "service://Plain/work", {}, "c", "t", "g", "Plain", "work", "service", 1
            ),
        )
    )
    assert subscription.result is Answer.ACCEPTED
    await loop.ask(partial(Begin, SUBSCRIPTION, {GroupPartition("c", "g", "t", 0): 5}))
    await engine.pause_subscription(SUBSCRIPTION)


def make(path: Path) -> None:
    """Write the file of an engine that was closed in the middle of everything, and those of one that was killed."""

    async def story() -> None:
        async with engine_on(path, *SERVICES, inactivity_timeout="5s") as engine:

            async def sent(target: Any, value: Any, expected: Any, *, waits: tuple[int, ...] = (), **how: Any) -> str:
                handle = await engine.send(target, value, **how)
                [seq] = [one.seq for one in await engine.invocations() if one.id == handle.id]
                EXPECTED[seq], WAITS_FOR[seq], IDS[seq] = expected, set(waits), handle.id
                return handle.id

            await engine.configure("Plain", journal_retention="2h")
            await _subscribed(engine)
            first = await sent(work, 1, 2)
            await sent(work, 2, 3, idempotency_key="two")
            await sent(parent, 10, 11)
            await asyncio.sleep(1)
            [child] = [one for one in await engine.invocations() if one.caller_id == IDS[3]]
            EXPECTED[child.seq], WAITS_FOR[child.seq], IDS[child.seq] = 11, set(), child.id
            WAITS_FOR[3] = {child.seq}
            await sent(watch, first, 2, waits=(1,))
            await sent(Account.add, 5, 5, key="a")
            await sent(Account.add, 6, 11, waits=(6,), key="a")
            await sent(Account.add, 7, 7, key="b")
            listening = await sent(listen, None, "hello")
            await engine.send_signal(listening, "word", "hello", idempotency_key="once")
            await engine.resolve_promise("Approval", "w", "ready", "yes")
            await sent(Approval.run, None, ["yes", "yes", "now"], key="w")
            await sent(Approval.waiting, None, "now", key="w")
            await sent(work, 20, 21, delay="20m")
            await asyncio.sleep(60)
            ended = await engine.call("Account/$patch-state", {"note": b'"kept"'}, key="c")
            assert ended is None
            for end in ENDS:
                shutil.copy(path.with_name(path.name + end), killed(path).with_name(killed(path).name + end))

    run(story)
    with sqlite3.connect(path) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            found = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            assert bool(found) is not (table == EMPTY), f"nothing is in {table}"
    database.close()


def killed(path: Path) -> Path:
    """The file of an engine that was killed, with its WAL."""
    return path.with_name("killed-" + path.name)


def dependents(owners: set[int]) -> set[int]:
    """Those, and whoever waits for one of them."""
    while True:
        more = owners | {seq for seq, others in WAITS_FOR.items() if others & owners}
        if more == owners:
            return owners
        owners = more


def live(path: Path, owners: set[int] | None, *, earlier: bool = False) -> str:
    """Start an engine on a damaged file, let everything end, and return what became of it: for the report.

    Raises `AssertionError` for a wrong value, for an innocent one that was stopped, for what is listed otherwise than
    it is described. `owners` are those whose rows are damaged; None where nobody knows. An `earlier` file may be as
    it was some commits before: what it does not know has never been.
    """

    async def story() -> str:
        engine = engine_on(path, *SERVICES, inactivity_timeout="5s")
        try:
            await engine.start()
        except StorageError as error:
            assert "durable.restore" in str(error) and str(path) in str(error), f"no way out is named: {error}"
            return f"refused: {type(error).__name__}"
        try:
            return await _watched(engine, owners, earlier)
        finally:
            await engine.close()

    return run(story)


async def _subscription_is_told(engine: Any, earlier: bool) -> None:
    """It is as it was, or says that it is damaged and can be deleted; of a position that is lost none is made up.

    `earlier`: the last commits may be what is missing, that of its pause too.
    """
    for one in await engine.subscriptions():
        if one.reason == "damaged" or (earlier and one.state != "paused"):
            await engine.unsubscribe(one.id)
        else:
            assert (one.id, one.state) == (SUBSCRIPTION, "paused")
            lost = engine._running().world.lost_positions
            assert [at.position for at in one.partitions] == ([] if lost else [5])


async def _watched(engine: Any, owners: set[int] | None, earlier: bool) -> str:
    try:
        await asyncio.sleep(HOUR / 2)
        await engine.resolve_promise("Approval", "w", "go", "now")
    except DurableError as error:
        assert isinstance(error, StorageError), f"{error!r} is not named"
        if engine.failure is not None:
            return f"stopped: {error}"
    await asyncio.sleep(HOUR)
    try:
        assert await asyncio.wait_for(engine.call(work, 100), HOUR) == 101, "a new one is not served"
        listed = {one.id: one for one in await engine.invocations(limit=100)}
        paused = {one.id for one in await engine.invocations(status="paused")}
    except StorageError as error:
        return f"stopped: {error}"
    assert engine.failure is None, engine.failure
    assert paused == {id for id, one in listed.items() if one.status == "paused"}, "listings do not agree"
    unreadable = [one for one in listed.values() if one.id not in IDS.values() and one.status == "paused"]
    damaged: set[int] = set()
    stopped: set[int] = set()
    for seq, expected in EXPECTED.items():
        try:
            view = await engine.describe(IDS[seq])
        except NotFoundError:
            if earlier:
                continue
            assert unreadable, f"{seq} is gone"  # its id is damaged: it is listed with what is left of it
            damaged.add(seq)
            continue
        except StorageError as error:
            return f"stopped: {error}"
        status = listed[view.id].status if view.id in listed else view.status
        assert view.status == status, f"{seq} is described as {view.status} and listed as {status}"
        if view.status == "completed" and (view.last_failure is None or view.last_failure.reason != Reason.DAMAGED):
            value = await engine.attach(IDS[seq])
            assert value == expected, f"{seq} ended with {value!r}, not {expected!r}"
        elif view.last_failure is not None and view.last_failure.reason in (Reason.DAMAGED, Reason.READS_DAMAGED):
            assert view.last_failure.message, "a cause is named"
            damaged.add(seq)
        elif not (earlier and view.handler == "listen"):  # its signal may be what is missing
            stopped.add(seq)
    allowed = set() if owners is None else dependents(set(owners) | damaged)
    await _subscription_is_told(engine, earlier)
    if owners is not None:
        assert damaged <= allowed, f"{damaged} are damaged, only {owners} should be"
        assert stopped <= allowed, f"innocent ones were stopped: {stopped - allowed}"
    else:
        assert stopped <= dependents(set(damaged)), f"innocent ones were stopped: {stopped - dependents(damaged)}"
    return f"damaged: {sorted(damaged)}" if damaged else "whole"
