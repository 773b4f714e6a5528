"""With a codec everything is as without one: whatever commit the process dies at, and wherever it waits."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from durable import (
    Context,
    InvocationCancelled,
    ObjectContext,
    SharedWorkflowContext,
    TerminalError,
    UsageError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.encryption import AesGcm, new_key
from durable.testing import Sim, check, run
from tests.codec.support import keyed
from tests.runtime.support import engine_on


class OutOfStock(TerminalError):
    def __init__(self, item: str) -> None:
        super().__init__(f"no {item}", 409, {"item": item})
        self.item = item


def services(sim: Sim) -> Iterable[object]:
    async def reserve(item: str) -> dict[str, str]:
        sim.effect("reserve")
        if item == "horse":
            raise OutOfStock(item)
        return {"reserved": item}

    async def undo(item: str) -> None:
        sim.effect("undo")

    class Stock(VirtualObject):
        @handler
        async def take(self, ctx: ObjectContext, item: str) -> list[str]:
            taken = [*(await ctx.get("taken", list[str]) or []), item]
            ctx.set("taken", taken)
            await ctx.run(reserve, item)
            return taken

    class Flow(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext, items: list[str]) -> list[Any]:
            got: list[Any] = [ctx.request.headers["for"]]
            for item in items:
                try:
                    got.append(await ctx.call(Stock.take, item, key="a", headers={"for": "ada"}))
                except OutOfStock as error:
                    got.append([error.item, error.metadata])
            await ctx.promise("own", list[Any]).resolve(got)
            waiting = ctx.awakeable(str)
            ctx.resolve_awakeable(waiting.id, "woken")
            got += [await waiting, await ctx.promise("own", list[Any]), await ctx.promise("outside", str)]
            return got

        @handler
        async def look(self, ctx: SharedWorkflowContext) -> None: ...

    @handler(service="Plain")
    async def trip(ctx: Context, item: str) -> str:
        async with ctx.saga() as saga:
            saga.add_compensation(undo, item)
            return await ctx.signal("never", str)

    return [Stock(), Flow(), trip]


async def scenario(sim: Sim) -> Any:
    flow = await sim.send("Flow/run", ["lamp", "horse"], key="f", headers={"for": "ada"})
    await sim.repeat(lambda engine: _settled(engine))
    trip = await sim.send("Plain/trip", "lamp")
    await sim.until(lambda: _began(sim, trip.id))
    await sim.cancel(trip.id)
    try:
        await trip.result()
    except InvocationCancelled as error:
        cancelled = error.message
    return [await flow.result(), cancelled]


async def _settled(engine: Any) -> None:
    await engine.resolve_promise("Flow", "f", "outside", "told")


async def _began(sim: Sim, id: str) -> bool:
    return len((await sim.describe(id)).journal) > 1


def test_nothing_is_otherwise_with_a_codec_in_any_mode() -> None:
    assert check(services, scenario, codec=keyed("k1"), most=12) == check(services, scenario, most=1)


def test_on_a_file_an_engine_that_dies_at_any_moment_is_gone_on_with(tmp_path: Path) -> None:
    """SQLite, abandoned as by a kill after 0, 1, 2 … seconds of work; each engine has another newest key."""
    path, ran = tmp_path / "app.db", []

    async def step(number: int) -> int:
        ran.append(number)
        return number

    @handler(service="S")
    async def work(ctx: Context, numbers: list[int]) -> list[int]:
        got = []
        for number in numbers:
            got.append(await ctx.run(step, number))
            await ctx.sleep("1s")
        return got

    keys: list[str] = []

    async def life(seconds: float | None) -> Any:
        keys.append(f"k{len(keys)}")
        engine = engine_on(path, work, codec=keyed(*keys))
        await engine.start()
        handle = await engine.send(work, list(range(5)), idempotency_key="once")
        if seconds is None:
            result = await handle.result()
            await engine.close()
            return result
        await asyncio.sleep(seconds)
        engine.abandon()
        return None

    for seconds in (0.0, 0.1, 1.1, 2.1):
        run(lambda seconds=seconds: life(seconds))  # type: ignore[misc]
    assert run(lambda: life(None)) == list(range(5))
    assert sorted(set(ran)) == list(range(5))


def test_what_aes_gcm_encrypts_is_bound_to_key_and_place() -> None:
    codec, place = AesGcm({"a": new_key(), "b": os.urandom(32)}), b"here"
    assert (codec.key_id, set(codec.key_ids)) == ("b", {"a", "b"})
    for value in (b"", b"x", os.urandom(100_000)):
        for key_id in ("a", "b"):
            encrypted = codec.encode(value, key_id, place)
            assert encrypted != codec.encode(value, key_id, place) and (len(value) < 2 or value not in encrypted)
            assert codec.decode(encrypted, key_id, place) == value
            wrong = [(encrypted, key_id, b"there"), (encrypted, "b" if key_id == "a" else "a", place)]
            wrong += [(encrypted[:-1], key_id, place), (encrypted[:20], key_id, place)]
            wrong += [(bytes([encrypted[at] ^ 1 if at == i else encrypted[at] for at in range(60)]), key_id, place)
                      for i in (0, 20, 50) if len(encrypted) == 60]  # fmt: skip
            for data, key, where in wrong:
                with pytest.raises((InvalidTag, ValueError)):
                    codec.decode(data, key, where)


@pytest.mark.parametrize(
    "keys",
    [{}, [], None, "key", {"k": b"short"}, {"k": "no base64!"}, {"k": None}, {1: bytes(32)}, {"k": "c2hvcnQ="}],
)
def test_what_is_no_key_is_refused(keys: Any) -> None:
    with pytest.raises(UsageError):
        AesGcm(keys)


def test_a_codec_reads_what_another_one_of_the_same_keys_wrote_and_draws_salts_of_its_own() -> None:
    key = new_key()
    one, other = AesGcm({"k": key}), AesGcm({"k": key})
    first, second = one.encode(b"v", "k", b"p"), other.encode(b"v", "k", b"p")
    assert other.decode(first, "k", b"p") == one.decode(second, "k", b"p") == b"v"
    assert first[:16] != second[:16]
    assert one.encode(b"v", "k", b"p")[:16] == first[:16]
