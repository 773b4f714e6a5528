"""What does a durable call over HTTP cost, beside a Starlette handler that does nothing?"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.support import folder
from benchmarks.table import Result

#: Clients that each wait for their answer before they ask again.
CLIENTS = 256
ROUNDS, COUNT = 5, 4_000


class _Measured(NamedTuple):
    """What a call costs."""

    #: Answers a second.
    rate: float
    #: How long 99 of 100 take at most, in ms.
    tail: float
    #: CPU time of the thread that serves, in us a call: what is left of the rate on a machine that does other things.
    cpu: float


class _Client(asyncio.Protocol):
    """One connection that asks the same again and again; notes how long each answer takes."""

    def __init__(self, request: bytes, left: list[int], took: list[float]) -> None:
        self._request = request
        self._left = left
        self._took = took
        self._received = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if self._left[0] <= 0:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._left[0] -= 1
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        assert head.startswith(b"HTTP/1.1 200"), self._received
        self._took.append(time.perf_counter() - self._asked)
        self._received = b""
        self._ask()


async def _round(port: int, path: str, clients: int, count: int) -> tuple[float, float]:
    request = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n7"
    ).encode()
    left, took = [count], list[float]()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    asking = [
        (await loop.create_connection(lambda: _Client(request, left, took), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    await asyncio.gather(*(one.done for one in asking))
    return count / (time.perf_counter() - began), statistics.quantiles(took, n=100)[98] * 1000


@contextlib.contextmanager
def _served(path: Path) -> Iterator[tuple[int, int]]:
    """A process with both apps, each on a port of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ingress", str(path / "bench.db")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        bare, ours = process.stdout.readline().split()
        yield int(bare), int(ours)
    finally:
        process.kill()
        process.wait()


def ingress() -> list[Result]:
    """Calls a second and the slowest hundredth, in turns with the bare handler: the median round."""

    async def rounds(bare: int, ours: int, clients: int, count: int) -> list[tuple[_Measured, _Measured]]:
        def spent() -> float:
            return float(urllib.request.urlopen(f"http://localhost:{bare}/spent").read())

        measured = []
        for each in (count // 4, *[count] * ROUNDS):  # the first one warms up
            pair = []
            for port, path in ((ours, "/restate/call/Bench/nothing"), (bare, "/nothing")):
                before = spent()
                rate, tail = await _round(port, path, clients, each)
                pair.append(_Measured(rate, tail, (spent() - before) / each * 1e6))
            measured.append((pair[0], pair[1]))
        return measured[1:]

    results = []
    with folder() as path, _served(path) as (bare, ours):
        for clients, count, target in ((CLIENTS, COUNT, 0.5), (1, COUNT // 20, None)):
            measured = asyncio.run(rounds(bare, ours, clients, count))
            mine, floor = sorted(measured, key=lambda one: one[0].rate / one[1].rate)[ROUNDS // 2]
            tails = [statistics.median(one[side].tail for one in measured) for side in (0, 1)]
            cpu = [statistics.median(one[side].cpu for one in measured) for side in (0, 1)]
            who = f"{clients} clients" if clients > 1 else "one client"
            results += [
                Result(f"HTTP calls/s, {who} (floor: bare Starlette)", mine.rate, "/s", floor.rate, target, "higher"),
                Result(f"HTTP call, {who}, p99 (floor: bare Starlette)", tails[0], "ms", tails[1]),
                Result(f"HTTP call, {who}, CPU of the event loop (same floor)", cpu[0], "us", cpu[1]),
            ]
    return results


async def _serve(path: str) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from benchmarks.support import nothing
    from durable import Engine
    from durable.ingress import create_app

    async def bare(request: Request) -> Response:
        return Response(b"7", media_type="application/json")

    async def spent(request: Request) -> Response:
        return Response(str(time.thread_time()))

    routes = [Route("/nothing", bare, methods=["POST"]), Route("/spent", spent)]
    async with Engine(path, services=[nothing]) as engine:
        servers = [
            uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False, lifespan="off"))
            for app in (Starlette(routes=routes), create_app(engine))
        ]
        serving = [asyncio.ensure_future(server.serve()) for server in servers]
        while not all(server.started for server in servers):
            await asyncio.sleep(0.01)
        ports = [server.servers[0].sockets[0].getsockname()[1] for server in servers]
        print(*ports, flush=True)
        await asyncio.gather(*serving)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
