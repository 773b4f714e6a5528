"""The ingress of an engine with the services of `tests.ingress.services`: prints its port and serves it."""

import asyncio
import socket
import sys

import uvicorn

from durable import Engine
from durable.ingress import create_app
from tests.ingress.services import services


async def main(path: str) -> None:
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # so that answers are sent at once
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # now: who reads the port may connect before the server is up
        async with Engine(path, services=services(), synchronous="NORMAL") as engine:
            config = uvicorn.Config(create_app(engine), log_level="warning", h11_max_incomplete_event_size=1 << 20)
            print(listening.getsockname()[1], flush=True)  # noqa: T201
            await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
