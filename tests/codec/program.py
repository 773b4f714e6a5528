"""A program that puts a text of its own through every door by which values come into a database."""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from durable import (
    Context,
    Engine,
    EngineApi,
    InvocationCancelled,
    ObjectContext,
    Promise,
    RetryableError,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.record_commands import Begin, Subscribe, Take
from durable.core.sources import GroupPartition, Subscription
from durable.kafka.records import Records

#: What every one of these texts begins with.
MARK = "for-no-eyes"
#: Parameters that carry values; and those that name things, or say how.
VALUES = {"arg", "value", "message", "headers", "state"}
NAMES = {
    "self", "target", "name", "key", "id", "type", "idempotency_key", "delay", "duration", "kill", "dry_run",
    "reason", "service", "from_entry", "code", "workflow", "limit", "before", "cursor", "counts", "wanted", "after",
    "options", "expected_version", "path", "source", "sink", "position", "properties", "force", "fn", "args",
    "kwargs", "again", "retry", "timeout", "interruptible", "topic", "start", "group", "offset", "partition",
}  # fmt: skip
#: The classes whose methods are doors; the values of files (`configure`, clusters) are operators' and in clear.
ASKED: tuple[tuple[str, type], ...] = (
    ("Engine", EngineApi),
    ("Context", ObjectContext),
    ("Context", WorkflowContext),
    ("Promise", Promise),
)


def doors() -> set[str]:
    """Every parameter that carries a value. Raises `AssertionError` for one that nobody has thought about."""
    found = set()
    for kind, asked in ASKED:
        for name, method in inspect.getmembers(asked, inspect.isfunction):
            for parameter in inspect.signature(method).parameters if not name.startswith("_") else ():
                assert parameter in VALUES | NAMES, f"does {kind}.{name}({parameter}) carry a value?"
                if parameter in VALUES:
                    found.add(f"{kind}.{name}({parameter})")
    return found


#: Doors without a parameter.
OTHERS = {
    "result of a step", "result of a handler", "error of a step", "error of a handler", "error that is retried",
    "metadata", "attribute", "record", "header of a record",
}  # fmt: skip


class Said:
    """Makes the texts, and remembers for which doors."""

    def __init__(self) -> None:
        self.doors: set[str] = set()

    def __call__(self, door: str) -> str:
        self.doors.add(door)
        return f"{MARK} {door}"

    def texts(self) -> set[str]:
        """All of them."""
        return {f"{MARK} {door}" for door in self.doors}


class OutOfStock(TerminalError):
    """A failure with an attribute."""

    def __init__(self, message: str, item: str) -> None:
        super().__init__(message, 409, {"why": item})
        self.item = item


class Record:
    """One that came from Kafka."""

    def __init__(self, said: Said) -> None:
        self.topic, self.partition, self.offset, self.timestamp = "t", 0, 0, 1_700_000_000_000
        self.key = b"k"
        self.value = f'"{said("record")}"'.encode()
        self.headers = (("h", said("header of a record").encode()),)


def services(said: Said) -> list[object]:
    """Handlers that ask for everything there is to ask for."""

    def give(door: str) -> str:
        return said(door)

    def fail(door: str) -> str:
        raise OutOfStock(said(door), said("attribute"))

    @handler(service="Plain")
    async def echo(ctx: Context, text: Any) -> Any:
        return text

    @handler(service="Plain")
    async def failing(ctx: Context, text: str) -> str:
        raise OutOfStock(said("error of a handler"), said("metadata"))

    @handler(service="Plain")
    async def retried(ctx: Context, text: str) -> str:
        raise RetryableError(said("error that is retried"), retry_after="1h")

    @handler(service="Plain")
    async def waiting(ctx: Context) -> list[Any]:
        first, second = ctx.awakeable(str), ctx.awakeable(str)
        got = [await first]
        try:
            await second
        except TerminalError as error:
            got.append(error.message)
        got.append(await ctx.signal("word", str))
        try:
            await ctx.signal("bad", str)
        except TerminalError as error:
            got.append(error.message)
        return got

    @handler(service="Plain")
    async def idle(ctx: Context) -> None:
        try:
            await ctx.awakeable(str)
        except InvocationCancelled:
            raise

    @handler(service="Plain")
    async def asks(ctx: Context, others: dict[str, list[str]]) -> Any:
        got: list[Any] = [await ctx.run(give, "result of a step")]
        ctx.now()
        try:
            await ctx.run(fail, "error of a step")
        except TerminalError as error:
            got.append(error.message)
        header = {"h": said("Context.call(headers)")}
        got.append(await ctx.call(echo, said("Context.call(arg)"), headers=header))
        header = {"h": said("Context.send(headers)")}
        sent = ctx.send(echo, said("Context.send(arg)"), headers=header)
        got.append(await ctx.attach(sent.id, str))
        got.append(await ctx.output(sent.id, str))
        first, second = others["awakeables"]
        ctx.resolve_awakeable(first, said("Context.resolve_awakeable(value)"))
        ctx.reject_awakeable(second, said("Context.reject_awakeable(message)"))
        [waiting, idle] = others["ids"]
        ctx.send_signal(waiting, "word", said("Context.send_signal(value)"))
        ctx.reject_signal(waiting, "bad", said("Context.reject_signal(message)"))
        ctx.cancel(idle)
        await ctx.sleep("1s")
        return [said("result of a handler"), got]

    class Box(VirtualObject):
        @handler
        async def fill(self, ctx: ObjectContext) -> list[Any]:
            ctx.set("gone", said("Context.set(value)"))
            ctx.clear("gone")
            ctx.set_raw("raw", f'"{said("Context.set_raw(value)")}"'.encode())
            ctx.set("kept", said("Context.set(value)"))
            names = await ctx.state_keys()
            return [names, await ctx.get("kept", str), await ctx.get("nothing", str)]

        @handler
        async def empty(self, ctx: ObjectContext) -> None:
            ctx.clear_all()

    class Flow(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> list[Any]:
            await ctx.promise("own", str).resolve(said("Promise.resolve(value)"))
            await ctx.promise("bad", str).reject(said("Promise.reject(message)"))
            got = [await ctx.promise("own", str).peek(), await ctx.promise("outside", str)]
            try:
                await ctx.promise("rejected", str)
            except TerminalError as error:
                got.append(error.message)
            return got

        @handler
        async def look(self, ctx: SharedWorkflowContext) -> None: ...

    return [echo, failing, retried, waiting, idle, asks, Box(), Flow()]


async def _until(what: Callable[[], Any]) -> Any:
    for _ in range(2000):
        if found := await what():
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come")


async def _awakeables(engine: Engine, id: str, count: int) -> list[str]:
    async def look() -> list[str]:
        found = [one.detail for one in (await engine.describe(id)).journal if one.kind == "awakeable"]
        return [str(one) for one in found] if len(found) >= count else []

    found: list[str] = await _until(look)
    return found


async def ask_for_everything(engine: Engine, said: Said) -> dict[str, Any]:
    """Ask for everything from outside; returns what came of it."""
    got: dict[str, Any] = {}
    headers = {"h": said("Engine.call(headers)")}
    got["call"] = await engine.call("Plain/echo", said("Engine.call(arg)"), headers=headers, idempotency_key="1")
    headers = {"h": said("Engine.send(headers)")}
    first = await engine.send("Plain/echo", said("Engine.send(arg)"), headers=headers)
    got["send"] = await first.result()
    try:
        await engine.call("Plain/failing", said("Engine.call(arg)"))
    except OutOfStock as error:
        got["failing"] = [error.message, error.item, error.metadata]
    retried = await engine.send("Plain/retried", "x")
    await _until(lambda: _status(engine, retried.id, "backing-off"))
    got["retried"] = (await engine.describe(retried.id)).last_failure

    outside = await engine.send("Plain/waiting")
    one, two = await _awakeables(engine, outside.id, 2)
    await engine.resolve_awakeable(one, said("Engine.resolve_awakeable(value)"))
    await engine.send_signal(outside.id, "word", said("Engine.send_signal(value)"))
    await engine.reject_signal(outside.id, "bad", said("Engine.reject_signal(message)"))
    await engine.reject_awakeable(two, said("Engine.reject_awakeable(message)"))
    got["waiting"] = await outside.result()

    inside = await engine.send("Plain/waiting")
    both = await _awakeables(engine, inside.id, 2)
    idle = await engine.send("Plain/idle")
    await _awakeables(engine, idle.id, 1)
    got["asks"] = await engine.call("Plain/asks", {"awakeables": both, "ids": [inside.id, idle.id]})
    got["inside"] = await inside.result()
    await _until(lambda: _status(engine, idle.id, "completed"))

    got["box"] = await engine.call("Box/fill", key="a")
    got["emptied"] = await engine.call("Box/empty", key="b")
    await engine.patch_state("Box", "c", {"patched": said("Engine.patch_state(state)")})
    got["state"] = [await engine.get_state("Box", key) for key in "ac"]
    flow = await engine.send("Flow/run", key="f")
    await engine.resolve_promise("Flow", "f", "outside", said("Engine.resolve_promise(value)"))
    await engine.reject_promise("Flow", "f", "rejected", said("Engine.reject_promise(message)"))
    got["flow"] = await flow.result()

    waiting = await engine.send("Plain/idle")  # what is kept for one that never asks for it
    await engine.send_signal(waiting.id, "later", said("Engine.send_signal(value)"), idempotency_key="once")
    await engine.pause(waiting.id)
    got["again"] = await (await engine.restart_as_new(first.id)).result()
    got["record"] = await _taken(engine, said)
    return got


async def _status(engine: Engine, id: str, status: str) -> bool:
    return (await engine.describe(id)).status == status


async def _taken(engine: Engine, said: Said) -> Any:
    """A record becomes an invocation."""
    loop = engine._running()
    one = Subscription("sub_1" + "0" * 22, "kafka://c/t", "service://Plain/echo", {}, "c", "t", "g", "Plain", "echo",
                       "service", 1)  # fmt: skip
    place = GroupPartition("c", "g", "t", 0)
    await loop.ask(partial(Subscribe, one))
    await loop.ask(partial(Begin, one.id, {place: 0}))
    records = Records(one, engine._registry, engine._new_ids)
    offered = records.one_by_one([Record(said)], records.handler)
    await loop.ask(partial(Take, one.id, place, 0, offered))
    return await engine.attach(offered[0].submission.id, str)
