"""`durable.fastapi`: errors as answers, the engine as a dependency."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket

from durable import Context, Engine, InvalidRequestError, NotFoundError, TerminalError, UsageError, handler
from durable.fastapi import Durable, install
from durable.testing import MemoryStore


@handler(service="Shop")
async def buy(ctx: Context, item: str) -> str:
    if item == "unicorn":
        raise TerminalError("not for sale", code=418, metadata={"item": item})
    return f"one {item}"


def service() -> FastAPI:
    engine = Engine(services=[buy], store=MemoryStore())
    app = FastAPI(lifespan=engine.lifespan)
    install(app, engine)

    @app.get("/buy/{item}")
    async def order(item: str, engine: Durable) -> str:
        return await engine.call(buy, item)

    @app.get("/look/{id}")
    async def look(id: str, engine: Durable) -> str:
        return (await engine.describe(id)).status

    @app.websocket("/talk")
    async def talk(websocket: WebSocket, engine: Durable) -> None:
        await websocket.accept()
        await websocket.send_text(await engine.call(buy, await websocket.receive_text()))
        await engine.describe("nonsense")

    return app


def story(app: FastAPI, tell: Callable[[httpx.AsyncClient], Awaitable[None]], *, running: bool = True) -> None:
    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
            if running:
                async with app.router.lifespan_context(app):
                    await tell(http)
            else:
                await tell(http)

    asyncio.run(main())


def test_what_the_engine_raises_is_answered() -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        async def asked(path: str) -> tuple[int, object]:
            answer = await http.get(path)
            return answer.status_code, answer.json()

        assert await asked("/buy/lamp") == (200, "one lamp")
        assert await asked("/buy/unicorn") == (418, {"detail": "not for sale", "metadata": {"item": "unicorn"}})
        status, told = await asked("/look/inv_1" + "0" * 33)
        assert (status, "does not exist" in str(told)) == (404, True)
        status, told = await asked("/look/nonsense")
        assert (status, "is not an invocation id" in str(told)) == (400, True)

    story(service(), tell)


def test_before_the_engine_runs_clients_are_told_to_come_back() -> None:
    async def tell(http: httpx.AsyncClient) -> None:
        answer = await http.get("/buy/lamp")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "not running" in answer.json()["detail"]

    story(service(), tell, running=False)


def test_a_websocket_has_the_engine_too_and_sees_its_errors() -> None:
    async def main() -> list[str]:
        app = service()
        said = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "lamp"}])
        sent: list[str] = []

        async def receive() -> dict[str, str]:
            return next(said)

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message.get("text", message["type"]))

        scope = {"type": "websocket", "path": "/talk", "query_string": b"", "headers": [], "subprotocols": []}
        async with app.router.lifespan_context(app):
            with pytest.raises(InvalidRequestError, match="is not an invocation id"):
                await app(scope, receive, send)
        return sent

    assert asyncio.run(main()) == ["websocket.accept", "one lamp"]


def test_an_app_without_an_engine_says_what_to_call() -> None:
    app = FastAPI()

    @app.get("/")
    async def look(engine: Durable) -> str:
        raise NotFoundError("never asked")

    async def tell(http: httpx.AsyncClient) -> None:
        with pytest.raises(UsageError, match=r"install\(app, engine\)"):
            await http.get("/")

    story(app, tell)
