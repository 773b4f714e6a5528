"""An engine inside a FastAPI app: its refusals as answers, and the engine as a dependency.

    engine = Engine("orders.db", services=[fulfil])
    app = FastAPI(lifespan=engine.lifespan)
    install(app, engine)

    @app.post("/orders")
    async def accept(order: Order, engine: Durable) -> Receipt:
        return await engine.call(fulfil, order)         # what it raises becomes an answer

Needs `fastapi`, which your app has anyway, and the extra `http`.
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
    """Have an app answer with the engine's errors, and give its routes the engine where they ask for `Durable`.

    Call it before the app starts. It neither starts nor closes the engine: `FastAPI(lifespan=engine.lifespan)` does.
    An app that is mounted in another one needs its own.
    """
    app.state.durable = engine
    app.add_exception_handler(DurableError, answer)


def engine_of(connection: HTTPConnection) -> Engine:
    """The engine of the app that a request, or a websocket, came to. Raises `UsageError` where there is none."""
    engine = getattr(connection.app.state, "durable", None)
    if not isinstance(engine, Engine):
        raise UsageError("this app has no engine: call durable.fastapi.install(app, engine) where you make the app")
    return engine


#: The type of a route's parameter that is to be the engine: `async def accept(order: Order, engine: Durable)`.
Durable = Annotated[Engine, Depends(engine_of)]


def answer(request: HTTPConnection, error: Exception) -> Response:
    """What an error of this package says to a client, in FastAPI's form: `{"detail": …}`.

    A refusal has its own status: 404, 409, 413, … A handler's `TerminalError` has its code, and its metadata if there
    is any. While no engine runs it is a 503 with `retry-after`.
    """
    if not isinstance(request, Request):  # a websocket is not answered
        raise error
    if isinstance(error, TerminalError):
        metadata = {"metadata": error.metadata} if error.metadata else {}
        status = error.code if 400 <= error.code <= 599 else 500
        return JSONResponse({"detail": error.message, **metadata}, status)
    refusal = refusal_for(error, f"{request.method} {request.url.path[:1000]}")
    return JSONResponse({"detail": refusal.message}, refusal.status, dict(refusal.headers))
