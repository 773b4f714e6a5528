"""A journal mismatch has the code 570 at every door. It ends no invocation: restored code gives what it waits for."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import Context, Engine, RetryPolicy, TerminalError, connect, handler
from durable.admin import create_app
from durable.ingress import create_app as create_ingress
from tests.runtime.support import settled

MISMATCH = 570
KILLING = RetryPolicy("1ms", max_attempts=2, on_max_attempts="kill")
#: Whether the code is again what it was at the first attempt.
restored: list[bool] = []


@pytest.fixture(autouse=True)
def _changed() -> Iterator[None]:
    restored.clear()
    yield
    restored.clear()


def name(ctx: Context) -> str:
    """Of the step that the code of this attempt begins with."""
    return "charge" if ctx.request.attempt == 1 or restored else "refund"


@handler(service="Shop", retry=KILLING)
async def order(ctx: Context) -> str:
    await ctx.with_options(name=name(ctx)).run(str)
    if not restored:
        raise ConnectionError("to be tried again")
    return "ordered"


@handler(service="Shop", retry=KILLING)
async def swallows(ctx: Context) -> str:
    try:
        await ctx.with_options(name=name(ctx)).run(str)
    except Exception as error:
        raise TerminalError("not possible", code=400) from error
    raise ConnectionError("to be tried again")


@handler(service="Shop")
async def caller(ctx: Context) -> str:
    return await ctx.call(order)


@pytest.mark.parametrize("target", [order, swallows], ids=["raised", "swallowed"])
def test_every_door_tells_the_code(target: Any, tmp_path: Path) -> None:
    async def story() -> None:
        async with Engine(tmp_path / "db", services=[order, swallows]) as engine, connect(tmp_path / "db") as client:
            handle = await engine.send(target)
            assert (await settled(engine, handle.id)).status == "paused"
            for door in (engine, client):
                failure = (await door.describe(handle.id)).last_failure
                assert failure is not None
                assert (failure.code, failure.reason) == (MISMATCH, "journal-mismatch")
            transport = httpx.ASGITransport(create_app(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                shown = (await http.get(f"/invocations/{handle.id}")).json()
                assert shown["last_failure"].startswith(f"[{MISMATCH}] ")

    asyncio.run(story())


@pytest.mark.parametrize("by", ["the engine", "a client", "HTTP", "a handler"])
def test_who_waits_gets_no_end_of_it_but_what_restored_code_gives(by: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with Engine(tmp_path / "db", services=[order, caller]) as engine, connect(tmp_path / "db") as client:
            transport = httpx.ASGITransport(create_ingress(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:

                async def post() -> Any:
                    return (await http.post("/Shop/order")).json()

                ways: dict[str, Any] = {
                    "the engine": lambda: engine.call(order),
                    "a client": lambda: client.call(order),
                    "HTTP": post,
                    "a handler": lambda: engine.call(caller),
                }
                waiting = asyncio.ensure_future(ways[by]())
                while not (found := await engine.invocations(handler="order", status="paused")):
                    assert not waiting.done()
                    await asyncio.sleep(0.01)
                assert not waiting.done()
                restored.append(True)
                await engine.resume(found[0].id)
                assert await waiting == "ordered"

    asyncio.run(story())
