"""An engine reached over HTTP without an ASGI server of one's own: `Engine.serve` and `durable serve`.

Ports are taken before the engine starts, so that one that is taken already costs nothing. Both servers run on the
engine's event loop, and end before it does: whoever still waits is told to come back, and no work is lost.
"""

import asyncio
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import msgspec
import uvicorn

from durable import admin, ingress, log
from durable.engine import Engine
from durable.errors import EngineFailedError, EngineNotRunningError, UsageError

#: How often it is looked whether the engine has failed, in seconds.
LOOK_EVERY_S = 0.5


class Endpoint(msgspec.Struct, frozen=True, eq=False):
    """An ASGI app, and where it is reached."""

    #: What people call it: "ingress", "admin".
    name: str
    host: str
    #: 0 has the system choose one.
    port: int
    app: Any


def endpoints_of(
    engine: Engine,
    *,
    host: str,
    port: int | None,
    admin_host: str,
    admin_port: int | None,
    ingress_app: Any = None,
    admin_app: Any = None,
) -> list[Endpoint]:
    """An engine's, with the apps that were given, or those with default options; none where the port is None."""
    found = []
    if port is not None:
        found.append(Endpoint("ingress", host, port, ingress_app or ingress.create_app(engine)))
    if admin_port is not None:
        url = _url(host, port) if port else None  # one that the system chooses is not known yet
        found.append(
            Endpoint("admin", admin_host, admin_port, admin_app or admin.create_app(engine, ingress_url=url))
        )
    return found


async def serve(
    engine: Engine,
    endpoints: Sequence[Endpoint],
    *,
    grace_s: float,
    ready: Callable[[dict[str, str]], None] | None = None,
) -> None:
    """Run until SIGTERM, Ctrl-C, a cancellation, or a failure of the engine, which is raised.

    An engine that runs already is left running. `ready` is told the URLs, by the endpoints' names, once all are open.
    Raises `UsageError` for a port that cannot be had, and what `Engine.start` raises.
    """
    with ExitStack() as taken:
        listening = [taken.enter_context(_listen(endpoint)) for endpoint in endpoints]
        async with _running(engine):
            servers = [_server(endpoint, grace_s) for endpoint in endpoints]
            with _told_to_end(servers) as told:
                async with _serving(servers, listening):
                    urls = {
                        endpoint.name: _url(endpoint.host, one.getsockname()[1])
                        for endpoint, one in zip(endpoints, listening, strict=True)
                    }
                    log.engine.info("serving %s", ", ".join(f"{name} on {url}" for name, url in urls.items()))
                    if ready is not None:
                        ready(urls)
                    while not told.is_set() and engine.failure is None:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(told.wait(), LOOK_EVERY_S)
            if engine.failure is not None:
                raise engine.failure


@asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[None]:
    """Start and close the engine, unless somebody else does."""
    try:
        engine.check_running()
    except (EngineNotRunningError, EngineFailedError):
        async with engine:
            yield
    else:
        yield


@contextmanager
def _listen(endpoint: Endpoint) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    with socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    ) as one:  # TCP by name: answers are sent at once
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((endpoint.host, endpoint.port))
            one.listen(1024)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"the {endpoint.name} cannot be served on {endpoint.host}:{endpoint.port} ({why}): give another host "
                "or port, or end the program that has this one"
            ) from None
        one.setblocking(False)
        yield one


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for all servers of the process: see `_told_to_end`."""
        yield


def _server(endpoint: Endpoint, grace_s: float) -> _Server:
    return _Server(
        uvicorn.Config(
            endpoint.app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(grace_s),
        )
    )


@asynccontextmanager
async def _serving(servers: Sequence[_Server], listening: Sequence[socket.socket]) -> AsyncIterator[None]:
    tasks = [
        asyncio.ensure_future(server.serve(sockets=[one])) for server, one in zip(servers, listening, strict=True)
    ]
    try:
        while not all(server.started for server in servers):
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.01)
        yield
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


@contextmanager
def _told_to_end(servers: Sequence[_Server]) -> Iterator[asyncio.Event]:
    """Set by SIGTERM and Ctrl-C, on the main thread; told again, nobody is waited for."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        for server in servers if told.is_set() else ():
            server.force_exit = True
        told.set()

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError, RuntimeError, NotImplementedError):
            handler = signal.getsignal(number) or signal.SIG_DFL  # None: it was not set by Python
            loop.add_signal_handler(number, tell)
            before[number] = handler
    try:
        yield told
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
