"""What answers at the control socket: admin API and ingress, served by uvicorn on the engine's own event loop.

There is no server of uvicorn's here, which would handle signals and run a lifespan: only its protocol, on connections
that the engine has accepted. It is imported at the first one: see `engine.door`.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from durable.admin import app as admin
from durable.admin.limits import Limits as AdminLimits
from durable.engine import Engine
from durable.ingress import app as ingress
from durable.ingress.policy import Limits as IngressLimits
from durable.remote.connections import HEAD_BYTES_MAX

#: How long a connection is kept on which nothing is asked: longer than clients use it.
KEEP_S = 3600
#: Whoever may ask here may do everything: what these limit is what the engine itself limits.
_BODY_BYTES = 2**30
_BATCH = 1_000_000


class Server:
    """Answers on behalf of an engine. See `engine.door.Answering`."""

    def __init__(self, engine: Engine) -> None:
        common = {"body_bytes": _BODY_BYTES, "target_bytes": HEAD_BYTES_MAX, "header_bytes": HEAD_BYTES_MAX}
        operating = admin.create_local_app(engine, AdminLimits(batch=_BATCH, batch_streamed=_BATCH, **common))
        invoking = ingress.create_local_app(
            engine, IngressLimits(requests=_BATCH, receiving_bytes=2 * _BODY_BYTES, **common)
        )
        self._loop = asyncio.get_running_loop()
        self._state = ServerState()
        self._config = Config(
            _Both(operating, invoking),
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,  # logging is the application's
            timeout_keep_alive=KEEP_S,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
        self._config.load()

    async def take(self, connected: socket.socket) -> None:
        """See `Answering`."""
        await self._loop.connect_accepted_socket(self._protocol, connected)

    def _protocol(self) -> H11Protocol:
        return _Protocol(self._config, self._state, {}, self._loop)

    def let_idle_go(self) -> None:
        """See `Answering`."""
        for connection in list(self._state.connections):
            assert isinstance(connection, H11Protocol)
            if connection.cycle is None or connection.cycle.response_complete:
                connection.shutdown()

    async def end(self, grace_s: float) -> None:
        """See `Answering`."""
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = set(self._state.tasks)
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=grace_s)
            for task in slow:
                task.cancel()  # which they answer
            if slow:
                await asyncio.wait(slow, timeout=grace_s)
        self.abort()

    def abort(self) -> None:
        """See `Answering`."""
        for connection in list(self._state.connections):
            with suppress(RuntimeError):  # the event loop is closed
                connection.transport.abort()

    def descriptors(self) -> Iterator[int]:
        """See `Answering`."""
        for connection in self._state.connections:
            yield connection.transport.get_extra_info("socket").fileno()


class _Protocol(H11Protocol):
    """Without an access log: that is for requests of strangers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.access_log = False


class _Both:
    """Two apps, each under its prefix."""

    def __init__(self, operating: ASGIApp, invoking: ASGIApp) -> None:
        self._apps = {"/admin": operating, "/ingress": invoking}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix, slash, _ = scope["path"][1:].partition("/")
        app = self._apps.get(f"/{prefix}") if slash else None
        if app is None:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            body = b'{"message":"the admin API answers under /admin, the ingress under /ingress"}'
            await send({"type": "http.response.body", "body": body})
        else:
            await app({**scope, "root_path": f"/{prefix}"}, receive, send)
