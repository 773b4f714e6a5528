"""An engine with some of everything, in a thread: whoever types commands needs no event loop."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from durable import Engine
from durable.serving import endpoints_of, serve
from tests.cli.program import make


class Scene(msgspec.Struct, frozen=True, eq=False):
    """What runs, and where."""

    path: Path
    engine: Engine
    loop: asyncio.AbstractEventLoop
    ingress: str
    admin: str

    def ask(self, work: Callable[[Engine], Any]) -> Any:
        """Something of the engine, from this thread."""

        async def asked() -> Any:
            return await work(self.engine)

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(30)

    def names(self) -> dict[str, str]:
        """What transcripts call it."""
        found = self.ask(lambda engine: engine.invocations())
        ids = {one.handler.upper() if one.status != "pending" else "VISITED": one.id for one in reversed(found)}
        ids["LATER"] = next(one.id for one in found if one.status == "scheduled")
        ids["GREET"] = next(one.id for one in found if one.handler == "greet" and one.status == "completed")
        ids["AWAKEABLE"] = f"sign_1{ids['WAIT'].removeprefix('inv_1')}1"
        return {**ids, "DB": str(self.path), "INGRESS": self.ingress, "ADMIN": self.admin}

    def reaches(self, id: str, status: str) -> None:
        async def wait(engine: Engine) -> None:
            while (await engine.describe(id)).status != status:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        self.ask(wait)


async def play(engine: Engine) -> None:
    """Some of everything, in an order that is always the same."""

    async def reach(id: str, *statuses: str) -> None:
        while (await engine.describe(id)).status not in statuses:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await engine.call("Shop/greet", "Ada")
    await engine.call("Shop/buy", 5, idempotency_key="order-5")
    await reach((await engine.send("Shop/stuck")).id, "paused")
    await reach((await engine.send("Shop/refuse")).id, "completed")
    outer = (await engine.send("Shop/outer")).id
    while not (children := (await engine.describe(outer)).children):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await reach(children[0].id, "suspended")
    await reach(outer, "suspended")
    await engine.call("Cart/add", "lamp", key="k")
    visit = (await engine.send("Cart/visit", "a", key="a")).id
    while not (await engine.describe(visit)).children:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await reach(visit, "suspended")
    await engine.send("Shop/greet", "Zoe", delay="1h")


@contextmanager
def scene(path: Path) -> Iterator[Scene]:
    """Run it until the block ends."""
    ready, over = threading.Event(), threading.Event()
    found: dict[str, Any] = {}
    engine = make(str(path))

    async def main() -> None:
        loop = found["loop"] = asyncio.get_running_loop()
        stop = found["stop"] = asyncio.Event()
        async with engine:
            await play(engine)

            def told(urls: dict[str, str]) -> None:
                found.update(urls)
                ready.set()

            endpoints = endpoints_of(engine, host="127.0.0.1", port=0, admin_host="127.0.0.1", admin_port=0)
            serving = loop.create_task(serve(engine, endpoints, grace_s=1, ready=told))
            await stop.wait()
            serving.cancel()
            await asyncio.wait([serving])

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            over.set()
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60) and not over.is_set(), "the engine did not start"
    try:
        yield Scene(path, engine, found["loop"], found["ingress"], found["admin"])
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(30)
