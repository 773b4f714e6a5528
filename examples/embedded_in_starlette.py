"""An engine inside a Starlette service: POST asks for a report, GET fetches it, DELETE changes one's mind.

    # from the root of the repository:
    REPORTS_DB=reports.db uvicorn --timeout-graceful-shutdown 3 --factory examples.embedded_in_starlette:create_app

    curl -i localhost:8000/reports -H 'Idempotency-Key: may' -d '{"month": "May"}'
    curl -i localhost:8000/reports/inv_1...                         # the id that the first one answered

`engine.lifespan` is all that the app needs: the engine starts and stops with it. A report takes a while, and
each chapter is a step. Kill the server (`kill -9`) after some chapters and start it again: the rest is written,
those that are there are not written again, and the id from before the kill still leads to the report.

    python examples/embedded_in_starlette.py reports.db             # the same without a server, in one go
"""

import asyncio
import os
import sys
import tempfile

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from durable import Context, Engine, RequestError, TerminalError, handler


class Wanted(msgspec.Struct, frozen=True):
    """What the report is about."""

    month: str


CHAPTERS = ("sales", "costs", "outlook")


# ---- what is durable ----


@handler(service="Reports")  # named here, so that it is the same however this module is imported
async def write_report(ctx: Context, wanted: Wanted) -> list[str]:
    """Chapter by chapter."""
    return [await ctx.run(write_chapter, chapter, wanted.month) for chapter in CHAPTERS]


async def write_chapter(chapter: str, month: str) -> str:
    """Stands for slow work."""
    print(f"writing about the {chapter} of {month}")
    await asyncio.sleep(0.2)
    return f"the {chapter} of {month}: fine"


# ---- the web ----


async def ask(request: Request) -> Response:
    """Answers as soon as the request cannot be lost any more."""
    key = request.headers.get("Idempotency-Key")
    if not key:
        return JSONResponse({"error": "the Idempotency-Key header is missing"}, status_code=400)
    try:
        wanted = msgspec.json.decode(await request.body(), type=Wanted)
    except msgspec.DecodeError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    handle = await engine_of(request).send(write_report, wanted, idempotency_key=key)
    status = "accepted" if handle.accepted else "known"
    place = {"Location": f"/reports/{handle.id}"}
    return JSONResponse({"id": handle.id, "status": status}, status_code=202, headers=place)


async def fetch(request: Request) -> Response:
    """The report, the reason why there is none, or how far it is."""
    id, engine = request.path_params["id"], engine_of(request)
    view = await engine.describe(id)
    if view.status != "completed":
        written = sum(entry.kind == "run" and entry.result == "success" for entry in view.journal)
        return JSONResponse({"status": view.status, "chapters": written})
    try:
        return JSONResponse({"status": view.status, "report": await engine.output(id, list[str])})
    except TerminalError as error:
        return JSONResponse({"status": "failed", "error": error.message})


async def forget(request: Request) -> Response:
    """Cancels. The chapter that is being written is finished first."""
    await engine_of(request).cancel(request.path_params["id"])
    return JSONResponse({"status": "cancelling"}, status_code=202)


async def refuse(request: Request, error: Exception) -> Response:
    """The engine's own refusals know their status: 404 for an unknown report, 409 for cancelling a finished one."""
    assert isinstance(error, RequestError)
    return JSONResponse({"error": str(error)}, status_code=error.code)


def engine_of(request: Request) -> Engine:
    """The app's engine."""
    engine: Engine = request.app.state.engine
    return engine


def create_app(path: str | None = None) -> Starlette:
    """The app, on a database file of its own."""
    engine = Engine(path or os.environ.get("REPORTS_DB", "reports.db"), services=[write_report])
    routes = [
        Route("/reports", ask, methods=["POST"]),
        Route("/reports/{id}", fetch, methods=["GET"]),
        Route("/reports/{id}", forget, methods=["DELETE"]),
    ]
    app = Starlette(routes=routes, exception_handlers={RequestError: refuse}, lifespan=engine.lifespan)
    app.state.engine = engine
    return app


async def demo(path: str) -> None:
    """A reader who wants the report of May and, for a moment, that of June."""
    app = create_app(path)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reports")
    async with app.router.lifespan_context(app), client as http:
        places: dict[str, str] = {}
        for month in ("May", "June"):
            answer = await http.post("/reports", json={"month": month}, headers={"Idempotency-Key": month})
            print(f"POST {month}: {answer.status_code} {answer.json()['status']}")
            places[month] = answer.headers["Location"]
        print(f"DELETE June: {(await http.delete(places['June'])).status_code}")
        for month, place in places.items():
            progress = {"status": "accepted"}
            while progress["status"] not in ("completed", "failed"):
                await asyncio.sleep(0.05)
                progress = (await http.get(place)).json()
            print(f"GET {month}: {progress['status']}, {progress.get('report') or progress.get('error')}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(demo(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/reports.db"))
