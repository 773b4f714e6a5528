"""The app: what happens to every request before and after its operation."""

import asyncio
import ipaddress
import os
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from durable import log
from durable.admin import (
    absent,
    deployments,
    health,
    invocations,
    looking,
    query,
    service_openapi,
    services,
    starting,
    state,
    subscriptions,
)
from durable.admin.errors import answer_to, problem
from durable.admin.limits import Limits
from durable.admin.openapi import openapi_operation
from durable.admin.operations import SMALL, Admin, Call, Operation, Routes, empty
from durable.admin.policy import not_json, refusal_of
from durable.admin.sql.reader import QueryLimits
from durable.engine import Engine
from durable.web.access import Authorize, allowed, token_of
from durable.web.errors import BadRequest
from durable.web.requests import ClientGone, acknowledge, body_of, facts_of, query_of, route_path
from durable.web.security import (
    LOOPBACK,
    SAFE,
    Policy,
    Refusal,
    deeper_than,
    host_names,
)


def create_app(
    engine: Engine,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    token_variable: str | None = None,
    authorize: Authorize | None = None,
    allowed_hosts: Iterable[str] = LOOPBACK,
    show_payloads: bool = True,
    limits: Limits | None = None,
    query_limits: QueryLimits | None = None,
    ingress_url: str | None = None,
    backup_folder: str | os.PathLike[str] | None = None,
) -> "App":
    """The admin API of an engine as an ASGI app, to be mounted under any prefix, before or after the engine starts.

        app = FastAPI(lifespan=engine.lifespan)
        app.mount("/durable", create_app(engine, token_variable="DURABLE_ADMIN_TOKEN"))

    In Litestar it is a route handler: `asgi("/durable", is_mount=True, copy_scope=True)(create_app(engine, ...))`.
    What Restate's `restate` command line asks for works as it does there: `RESTATE_ADMIN_URL=http://localhost:8000/durable`.
    The app neither starts nor closes the engine; until it runs, every answer but that of `GET /version` is a 503.

    - `token`, or a file or environment variable that has it: asked for as `Authorization: Bearer ...`.
    - `authorize`: called with every request (a `starlette.requests.Request`), before anything is looked at; where it
      returns False, the answer is 403.
    - `allowed_hosts`: names under which the app is reached, as in `Host`; by default only those of this machine.
      "*" allows every name: then any web page in an operator's browser can reach the app.
    - `show_payloads=False`: inputs, results, recorded values, state and headers are left out of every answer.
    - `limits`, `query_limits`: see `Limits` and `QueryLimits`.
    - `ingress_url`: where handlers can be invoked over HTTP, if anywhere, for `GET /version` and OpenAPI documents.
    - `backup_folder`: where `POST /backup` may write; without one it is refused.

    Raises `ValueError` for an empty token, a token that is given twice, or what is no host name.
    """
    limits = limits or Limits()
    policy = Policy(
        hosts=host_names([allowed_hosts] if isinstance(allowed_hosts, str) else allowed_hosts),
        token=token_of(token, token_file, token_variable),
        limits=limits,
    )
    admin = Admin(
        engine=engine,
        show_payloads=show_payloads,
        limits=limits,
        ingress_url=ingress_url,
        query_limits=query_limits or QueryLimits(),
        readers=query.readers(),
        created_at=time.time_ns() // 1_000_000,
        backup_folder=None if backup_folder is None else os.fspath(backup_folder),
    )
    engine.measure()
    return App(admin, policy, authorize)


def create_local_app(engine: Engine, limits: Limits) -> "App":
    """The admin API of the control socket, whose clients may do everything."""
    admin = Admin(
        engine=engine,
        limits=limits,
        readers=query.readers(),
        created_at=time.time_ns() // 1_000_000,
        backup_anywhere=True,
    )
    return App(admin, Policy(limits=limits), None)


#: Every operation there is; the OpenAPI document describes them.
OPERATIONS: tuple[Operation, ...] = (
    *health.OPERATIONS,
    *invocations.OPERATIONS,
    *looking.OPERATIONS,
    *starting.OPERATIONS,
    *services.OPERATIONS,
    *service_openapi.OPERATIONS,
    *state.OPERATIONS,
    *deployments.OPERATIONS,
    *subscriptions.OPERATIONS,
    *query.OPERATIONS,
    *absent.OPERATIONS,
)
ROUTES = Routes((*OPERATIONS, openapi_operation(OPERATIONS)))


class App:
    """An ASGI app; see `create_app`."""

    def __init__(self, admin: Admin, policy: Policy, authorize: Authorize | None) -> None:
        self._admin = admin
        self._policy = policy
        self._authorize = authorize
        self._open = policy.token is None and authorize is None
        if self._open and any(not _is_loopback(host) for host in policy.hosts):
            self._warn(f"for the hosts {', '.join(sorted(policy.hosts))}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; acknowledge the start and end of a server, which change nothing here."""
        if scope["type"] != "http":
            await acknowledge(scope, receive, send)
        else:
            self._look_where_it_is_served(scope)
            request = Request(scope, receive)
            response = await self._respond(request)
            response.headers["x-content-type-options"] = "nosniff"
            response.headers["cache-control"] = "no-store"
            if request.method not in SAFE:
                target = f"{request.method} {scope['path']}"
                log.http.info("admin: %s answered %d", target[:1000], response.status_code)
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        facts = facts_of(request.scope)
        refusal = refusal_of(facts, self._policy)
        if refusal is not None:
            return problem(refusal)
        if not await allowed(self._authorize, request):
            return problem(Refusal(403, "not allowed"))
        found = ROUTES.find(route_path(request.scope))
        if found is None:
            return problem(Refusal(404, "there is no such route; GET /openapi describes those there are"))
        methods, path = found
        operation = methods.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            allow = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
            return problem(Refusal(405, f"this route takes {', '.join(allow)}", {"allow": ", ".join(allow)}))
        refusal = not_json(facts)
        if refusal is not None:
            return problem(refusal)
        try:
            query = _read_query(request, operation)
            body = await self._read_body(request, operation)
            call = Call(admin=self._admin, request=request, path=path, query=query, body=body)
            return await operation.run(call)
        except ClientGone:
            return empty(400)
        except asyncio.CancelledError:  # by the server, which is ending and sends what is answered now
            return problem(_ENDING)
        except Exception as error:
            return answer_to(error, operation)

    async def _read_body(self, request: Request, operation: Operation) -> Any:
        limits = self._admin.limits
        body = await body_of(request.receive, limits)
        if operation.body is None or (not body and operation.body_optional):
            return None
        if len(body) > SMALL:
            return await to_thread.run_sync(_decode, body, operation.body, limits.body_depth)
        return _decode(body, operation.body, limits.body_depth)

    def _look_where_it_is_served(self, scope: Scope) -> None:
        """Once, and in the log: an app that anybody on the network can ask."""
        if not self._open:
            return
        host, port = scope.get("server") or ("localhost", None)
        if port is not None and not _is_loopback(str(host)):
            self._warn(f"on {host}:{port}")

    def _warn(self, where: str) -> None:
        self._open = False
        log.http.warning(
            "the admin API is served %s without a token: whoever reaches it can read and stop everything; give "
            "create_app() a token=, token_file=, token_variable= or authorize=",
            where,
        )


_ENDING = Refusal(503, "the server is stopping: ask again after the next start", {"retry-after": "1"})


def _read_query(request: Request, operation: Operation) -> Any:
    if operation.query is None:
        return None
    try:
        return msgspec.convert(query_of(request.scope), operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(400, f"query parameters: {error}") from None


def _decode(body: bytes, kind: Any, levels: int) -> Any:
    if not body:
        raise BadRequest(400, "there is no body, and JSON is needed")
    if deeper_than(body, levels):
        raise BadRequest(400, f"the body is no JSON, or nested deeper than {levels} levels")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        known = "" if "unknown field" not in str(error) else f"; known are {', '.join(_fields(kind))}"
        raise BadRequest(422, f"the body does not fit: {error}{known}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest(400, f"the body is no JSON: {error}") from None


def _fields(kind: Any) -> tuple[str, ...]:
    return getattr(kind, "__struct_encode_fields__", ())


def _is_loopback(host: str) -> bool:
    if host in LOOPBACK or host.rpartition(":")[0] in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
