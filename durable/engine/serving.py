"""An engine served over HTTP by itself, for scripts that have no ASGI server."""

from importlib import import_module
from typing import Any

from durable.core.duration import Duration, parse
from durable.engine.control import Control
from durable.errors import UsageError


class Serving(Control):
    """What is above the engine, and runs it."""

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int | None = 8080,
        *,
        admin_host: str = "127.0.0.1",
        admin_port: int | None = 9070,
        ingress: Any = None,
        admin: Any = None,
        grace: Duration = "3s",
    ) -> None:
        """Run with the ingress and the admin API over HTTP until SIGTERM or Ctrl-C: for a script without a server.

            asyncio.run(Engine("orders.db", services=[checkout]).serve())

        Starts the engine and closes it again, unless it is already running. A port of None leaves that API out. Pass
        apps made by `create_app(engine, ...)` as `ingress` and `admin` if the defaults do not fit (other host names,
        a token). At the end, waiting clients have `grace` to get their answers; after that they are told to come
        back, and what they wait for goes on after the next start. Needs the extra `http`.

        Raises `UsageError` if a port is taken, before anything has started; the errors of `start`; and the engine's
        failure, if that ends it.
        """
        try:
            edge = import_module("durable.serving")  # by name: it stands above the engine, which does not need it
        except ModuleNotFoundError as error:
            raise UsageError(f"serve() needs {error.name}: pip install 'durable-engine[http]'") from None
        endpoints = edge.endpoints_of(
            self,
            host=host,
            port=port,
            admin_host=admin_host,
            admin_port=admin_port,
            ingress_app=ingress,
            admin_app=admin,
        )
        await edge.serve(self, endpoints, grace_s=parse(grace) / 1000)
