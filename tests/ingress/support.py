"""An engine in memory, its ingress, and a client that asks it in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from durable import Engine
from durable.ingress import App, create_app
from durable.testing import MemoryStore, Tables, VirtualClock, run
from tests.ingress.services import services

#: An id of the right form that nobody has.
UNKNOWN = "inv_1" + "0" * 33
JSON = {"content-type": "application/json"}


class Served:
    """A running engine, its ingress, and a client."""

    def __init__(self, engine: Engine, app: App, http: httpx.AsyncClient) -> None:
        self.engine = engine
        self.app = app
        self.http = http

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST, with JSON where there is a body; an underscore in the name of a header stands for a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, headers=named, **({} if body is None else {"json": body}))

    async def get(self, path: str) -> httpx.Response:
        """GET."""
        return await self.http.get(path)

    async def awakeable(self) -> str:
        """The id of the awakeable that a waiter is waiting for."""
        while not (id := await self.engine.call("Cart/read", key="id")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return str(id)


@asynccontextmanager
async def served(
    *, tables: Tables | None = None, engine: Engine | None = None, **options: Any
) -> AsyncIterator[Served]:
    """The services of `tests.ingress.services`, with `create_app(engine, **options)`."""
    if engine is None:
        clock = VirtualClock(asyncio.get_running_loop())
        engine = Engine(services=services(), store=MemoryStore(tables), clock=clock, inactivity_timeout=0)
    app = create_app(engine, **options)
    transport = httpx.ASGITransport(app)
    async with engine, httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as http:
        yield Served(engine, app, http)


def story(tell: Callable[[Served], Awaitable[None]], **options: Any) -> None:
    """Run a test on virtual time, with an engine that is served."""

    async def main() -> None:
        async with served(**options) as ingress:
            await tell(ingress)

    run(main)


class Asked:
    """One request as a server hands it over, whose body, and whose client, do what a test says."""

    def __init__(
        self,
        path: str = "/Echo/nothing",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        raw_path: bytes | None = None,
        root_path: str = "",
    ) -> None:
        path, _, query = path.partition("?") if raw_path is None else (path, "", "")
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode() if raw_path is None else raw_path,
            "query_string": query.encode(),
            "root_path": root_path,
            "headers": [
                (name.encode(), value.encode()) for name, value in {"host": "localhost", **(headers or {})}.items()
            ],
        }
        #: What the client sends: parts of the body, then its going away.
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answers: list[Any] = []

    def part(self, body: bytes = b"", *, more: bool = False) -> "Asked":
        """A part of the body arrives."""
        self.events.put_nowait({"type": "http.request", "body": body, "more_body": more})
        return self

    def leave(self) -> "Asked":
        """The client goes away."""
        self.events.put_nowait({"type": "http.disconnect"})
        return self

    async def of(self, app: App) -> "Asked":
        """Ask."""
        await app(self.scope, self.events.get, self._take)
        return self

    async def _take(self, message: Any) -> None:
        self.answers.append(message)

    @property
    def status(self) -> int | None:
        """Of the answer, if there is one."""
        return self.answers[0]["status"] if self.answers else None

    @property
    def body(self) -> bytes:
        """Of the answer."""
        body: bytes = self.answers[1]["body"]
        return body

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {name.decode(): value.decode() for name, value in self.answers[0]["headers"]}
