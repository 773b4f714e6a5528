"""`python -m tests.serving.asgi FILE`: somebody's app under their ASGI server, whose requests wait for days."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from durable import Context, Engine, EngineNotRunningError, handler


@handler(service="Slow")
async def slow(ctx: Context) -> str:
    """Takes a thousand days."""
    await ctx.sleep("1000d")
    return "done"


def app_on(path: str) -> Starlette:
    """It has one route, which waits."""
    engine = Engine(path, services=[slow], shutdown_timeout="500ms", control_socket=False)

    async def waits(request: Request) -> Response:
        try:
            return PlainTextResponse(await engine.call(slow, idempotency_key="one"))
        except EngineNotRunningError as error:
            return PlainTextResponse(str(error), 503)

    return Starlette(routes=[Route("/", waits)], lifespan=engine.lifespan)


if __name__ == "__main__":
    uvicorn.run(app_on(sys.argv[1]), port=0)
