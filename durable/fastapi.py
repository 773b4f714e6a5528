"""An engine inside a FastAPI app: its errors become responses, and routes get the engine as a dependency.

    engine = Engine("orders.db", services=[fulfil])
    app = FastAPI(lifespan=engine.lifespan)
    install(app, engine)

    @app.post("/orders")
    async def accept(order: Order, engine: Durable) -> Receipt:
        return await engine.call(fulfil, order)         # its errors become responses

Needs `fastapi`, which your app already has, and the extra `http`.
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection

from durable.engine import Engine
from durable.errors import DurableError, TerminalError, UsageError
from durable.web.errors import refusal_for

__all__ = ["Durable", "answer", "engine_of", "install"]


def install(app: FastAPI, engine: Engine) -> None:
    """Turn the engine's errors into the app's responses, and give the engine to routes that ask for `Durable`.

    Call it before the app starts. It neither starts nor closes the engine; `FastAPI(lifespan=engine.lifespan)` does.
    An app that is mounted in another app needs its own call.
    """
    app.state.durable = engine
    app.add_exception_handler(DurableError, answer)


def engine_of(connection: HTTPConnection) -> Engine:
    """The engine of the app that got this request or websocket. Raises `UsageError` if the app has none."""
    engine = getattr(connection.app.state, "durable", None)
    if not isinstance(engine, Engine):
        raise UsageError("this app has no engine: call durable.fastapi.install(app, engine) where you make the app")
    return engine


#: Annotate a route's parameter with this to get the engine: `async def accept(order: Order, engine: Durable)`.
Durable = Annotated[Engine, Depends(engine_of)]


def answer(request: HTTPConnection, error: Exception) -> Response:
    """The response for an error of this package, in FastAPI's form: `{"detail": …}`.

    A refusal has its own status: 404, 409, 413, … A handler's `TerminalError` has its code, and its metadata if there
    is any. While no engine runs, it is a 503 with `retry-after`.
    """
    if not isinstance(request, Request):  # a websocket is not answered
        raise error
    if isinstance(error, TerminalError):
        metadata = {"metadata": error.metadata} if error.metadata else {}
        status = error.code if 400 <= error.code <= 599 else 500
        return JSONResponse({"detail": error.message, **metadata}, status)
    refusal = refusal_for(error, f"{request.method} {request.url.path[:1000]}")
    return JSONResponse({"detail": refusal.message}, refusal.status, dict(refusal.headers))
