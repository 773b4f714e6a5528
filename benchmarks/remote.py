"""What does a call from another process cost, through the control socket, beside one that does nothing there?"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support import folder, in_flight, nothing
from benchmarks.table import Result

#: Calls that wait at the same time, and how many there are in a round.
WIDTH, COUNT, ROUNDS = 64, 2_000, 5


@contextlib.contextmanager
def _served(path: Path) -> Iterator[tuple[str, str]]:
    """A process with an engine, and a bare handler behind a socket like its own: the two databases to connect to."""
    ours, bare = str(path / "bench.db"), str(path / "bare.db")
    Path(bare).touch()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.remote", ours, bare], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        yield ours, bare
    finally:
        process.kill()
        process.wait()


def remote() -> list[Result]:
    """Calls a second through the socket and how long one takes, in turns with the bare handler: the median round."""
    import durable
    from durable.remote.wire import Session, check, place_of

    async def measured() -> list[Result]:
        with folder() as path, _served(path) as (ours, bare):
            session = Session(place_of(bare))
            async with durable.connect(ours) as client, durable.Engine(path / "here.db", services=[nothing]) as here:

                async def asked(number: int) -> None:
                    check(await session.request("POST", "/ingress/restate/call/Bench/nothing", json=number))

                async def called(number: int) -> None:
                    await client.call(nothing, number)

                async def direct(number: int) -> None:
                    await here.call(nothing, number)

                rows = []
                for width, count, who in ((WIDTH, COUNT, f"{WIDTH} at a time"), (1, COUNT // 10, "one at a time")):
                    rates: dict[str, list[float]] = {"ours": [], "bare": [], "here": []}
                    spent = []
                    for _ in range(ROUNDS + 1):  # the first one warms up
                        rates["bare"].append(await in_flight(count, width, asked))
                        began = time.process_time()
                        rates["ours"].append(await in_flight(count, width, called))
                        spent.append((time.process_time() - began) / count * 1e6)
                        rates["here"].append(await in_flight(count, width, direct))
                    ours_, bare_, here_ = (statistics.median(one[1:]) for one in rates.values())
                    beside = f"socket call, {who} (floor: engine.call in process)"
                    rows.append(Result(beside, 1e6 / ours_, "us", 1e6 / here_))
                    if width > 1:
                        name = f"socket calls/s, {who} (floor: bare Starlette there)"
                        rows.append(Result(name, ours_, "/s", bare_))
                        cpu = statistics.median(spent[1:])
                        rows.append(Result(f"socket call, {who}, CPU of the client", cpu, "us"))
                session.close()
                return rows

    return asyncio.run(measured())


async def _serve(ours: str, bare: str) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from durable import Engine

    async def answer(request: Request) -> Response:
        await request.body()
        return Response(b"7", media_type="application/json")

    app = Starlette(routes=[Route("/ingress/restate/call/Bench/nothing", answer, methods=["POST"])])
    config = uvicorn.Config(app, uds=f"{bare}.sock", http="h11", log_level="error", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    async with Engine(ours, services=[nothing]):
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print("running", flush=True)
        await serving


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
