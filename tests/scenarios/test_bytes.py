"""C-006, where nobody knows the other's annotation: bytes come out as they went in, whoever writes and reads."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest

from durable import (
    Context,
    Engine,
    ObjectContext,
    Serde,
    SharedWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    connect,
    handler,
)
from durable.ingress import create_app
from durable.serde import BYTES_MARK, serde_for
from durable.testing import Sim, check

#: With what begins as marked bytes do, now and in earlier versions.
VALUES = (b"xy", b"", b"\0", b"\0xy", b"12", b'"quoted"', b"null", b"\xff\xfe", BYTES_MARK, BYTES_MARK + b"xy")
HEX = Serde[str](lambda text: bytes.fromhex(text), lambda data: data.hex())
READERS: dict[str, Any] = {"bytes": bytes, "any": Any, "optional": bytes | None, "a serde": Annotated[str, HEX]}


def seen(value: Any) -> str:
    """As hexadecimal digits, whatever the reader makes of it."""
    return value if isinstance(value, str) else bytes(value).hex()


class Flow(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, reader: str) -> str:
        return seen(await ctx.promise("p", READERS[reader]))

    @handler
    async def settle(self, ctx: SharedWorkflowContext, value: Annotated[str, HEX]) -> None:
        await ctx.promise("p").resolve(bytes.fromhex(value))


class Kept(VirtualObject):
    @handler
    async def write(self, ctx: ObjectContext, value: bytes) -> None:
        ctx.set("v", value)

    @handler
    async def read(self, ctx: ObjectContext, reader: str) -> str:
        return seen(await ctx.get("v", READERS[reader]))


@handler(service="S")
async def wait(ctx: Context, reader: str) -> str:
    awakeable = ctx.awakeable(READERS[reader])
    await ctx.run(hand_over, awakeable.id)
    signal = ctx.signal("s", READERS[reader])
    return seen(await awakeable) + "/" + seen(await signal)


#: Where the ids of awakeables are handed over: a queue for each story.
QUEUES: list[asyncio.Queue[str]] = []


async def hand_over(id: str) -> None:
    QUEUES[-1].put_nowait(id)


@handler(service="S")
async def resolve(ctx: Context, asked: tuple[str, str, Annotated[bytes, "as base64"]]) -> None:
    id, awakeable, value = asked
    ctx.resolve_awakeable(awakeable, value)
    ctx.send_signal(id, "s", value)


@handler(service="S")
async def untyped(ctx: Context):  # type: ignore[no-untyped-def]
    return await ctx.run(lambda: b"\0xy")


@handler(service="S")
async def attach(ctx: Context, asked: tuple[str, str]) -> str:
    id, reader = asked
    return seen(await ctx.attach(id, READERS[reader]))


@pytest.mark.parametrize("reader", READERS)
def test_a_handler_reads_what_another_wrote(reader: str) -> None:
    def services(sim: Sim) -> Iterable[object]:
        return [wait, resolve, untyped, attach, Flow(), Kept()]

    async def scenario(sim: Sim) -> Any:
        QUEUES.append(asyncio.Queue())
        waiting = await sim.send("S/wait", reader)
        awakeable = await QUEUES[-1].get()
        await sim.call("S/resolve", (waiting.id, awakeable, b"\0xy"))
        found = [await sim.result(waiting.id)]
        flow = await sim.send("Flow/run", reader, key="k")
        await sim.call("Flow/settle", "007879", key="k")
        found.append(await sim.result(flow.id))
        await sim.call("Kept/write", b"\0xy", key="k")
        found.append(await sim.call("Kept/read", reader, key="k"))
        gave = await sim.send("S/untyped")
        await sim.result(gave.id)
        found.append(await sim.call("S/attach", (gave.id, reader)))
        return found

    assert check(services, scenario) == ["007879/007879", "007879", "007879", "007879"]


@pytest.mark.parametrize("by", ["engine", "client", "http"])
def test_a_handler_reads_what_came_from_outside(by: str, tmp_path: Path) -> None:
    async def story() -> None:
        QUEUES.append(asyncio.Queue())
        async with Engine(tmp_path / "db", services=[wait, Flow(), Kept()]) as engine:
            web = httpx.AsyncClient(
                transport=httpx.ASGITransport(create_app(engine, signals=True, promises=True)),
                base_url="http://localhost",
            )
            async with web, connect(tmp_path / "db") as client:
                for place, value in enumerate(VALUES):
                    for reader in READERS:
                        waiting = await engine.send(wait, reader)
                        flow = await engine.send(Flow.run, reader, key=f"{place} {reader}")
                        awakeable = await QUEUES[-1].get()
                        if by == "http":
                            media = {"content-type": "application/octet-stream"}
                            for path in (
                                f"awakeables/{awakeable}/resolve",
                                f"signals/{waiting.id}/s/resolve",
                                f"promises/Flow/{place}%20{reader}/p/resolve",
                            ):
                                answer = await web.post(f"/restate/{path}", content=value, headers=media)
                                assert answer.status_code == 202, (path, answer.text)
                        else:
                            api: Any = client if by == "client" else engine
                            await api.resolve_awakeable(awakeable, value)
                            await api.send_signal(waiting.id, "s", value)
                            await api.resolve_promise("Flow", f"{place} {reader}", "p", value)
                        if by == "http" and not value and reader != "bytes":
                            continue  # an empty body is no value
                        assert await waiting.result() == f"{value.hex()}/{value.hex()}", (value, reader)
                        assert await flow.result() == value.hex()
                        if by != "http":
                            await api.patch_state("Kept", "k", {"v": value})
                            assert await engine.call(Kept.read, reader, key="k") == value.hex()
                            assert dict(await api.get_state("Kept", "k")) == {"v": value}

    asyncio.run(story())


@pytest.mark.parametrize("value", VALUES)
def test_what_is_written_and_read_with_an_annotation_is_the_bytes_themselves(value: bytes) -> None:
    serde = serde_for(bytes)
    assert serde.decode(serde.encode(value)) == value
    if not value.startswith(BYTES_MARK):
        assert serde.encode(value) == value


@pytest.mark.parametrize("value", [b"xy", b"", b"\0xy"])
def test_what_earlier_versions_marked_is_still_read(value: bytes) -> None:
    assert serde_for(Any).decode(b"\0" + value) == value
