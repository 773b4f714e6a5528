"""The app: what happens to every request before and after its operation."""

import inspect
import ipaddress
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
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
)
from durable.admin.errors import BadRequest, answer_to, problem
from durable.admin.openapi import openapi_operation
from durable.admin.operations import Admin, Call, Operation, Routes, empty
from durable.admin.sql.reader import QueryLimits
from durable.engine import Engine
from durable.web.security import (
    LOOPBACK,
    SAFE,
    Facts,
    Limits,
    Policy,
    deeper_than,
    host_names,
    printable,
    refusal_of,
    too_long,
)

#: Decides in place of a token, or besides it, who is let in.
Authorize = Callable[[Request], bool | Awaitable[bool]]
#: A body above this is decoded in a thread.
_SMALL = 256 * 1024


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
    policy = Policy(
        hosts=host_names([allowed_hosts] if isinstance(allowed_hosts, str) else allowed_hosts),
        token=_token(token, token_file, token_variable),
        limits=limits or Limits(),
    )
    admin = Admin(
        engine=engine,
        show_payloads=show_payloads,
        limits=policy.limits,
        ingress_url=ingress_url,
        query_limits=query_limits or QueryLimits(),
        readers=query.readers(),
        created_at=time.time_ns() // 1_000_000,
        backup_folder=None if backup_folder is None else os.fspath(backup_folder),
    )
    return App(admin, policy, authorize)


def _token(token: str | None, file: str | os.PathLike[str] | None, variable: str | None) -> bytes | None:
    given = [one for one in (token, file, variable) if one is not None]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError("give the token once: as token=, token_file= or token_variable=")
    if file is not None:
        token = Path(file).read_text("utf-8").strip()
    elif variable is not None:
        token = os.environ.get(variable, "").strip()
    if not token:
        raise ValueError(f"the token ({given[0] if token is None or variable or file else 'token='}) is empty")
    return token.encode()


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
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": f"{message['type']}.complete"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            self._look_where_it_is_served(scope)
            request = Request(scope, receive)
            response = await self._respond(request)
            response.headers["x-content-type-options"] = "nosniff"
            response.headers["cache-control"] = "no-store"
            if request.method not in SAFE:
                target = f"{request.method} {printable(scope['path'])}"
                log.info("admin: %s answered %d", target[:1000], response.status_code)
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        refusal = refusal_of(facts_of(request), self._policy)
        if refusal is not None:
            return problem(refusal.status, refusal.message, refusal.headers)
        if self._authorize is not None:
            allowed = self._authorize(request)
            if not (await allowed if inspect.isawaitable(allowed) else allowed):
                return problem(403, "not allowed")
        found = ROUTES.find(route_path(request.scope))
        if found is None:
            return problem(404, "there is no such route; GET /openapi describes those there are")
        methods, path = found
        operation = methods.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            allow = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
            return problem(405, f"this route takes {', '.join(allow)}", {"allow": ", ".join(allow)})
        try:
            query = _read_query(request, operation)
            body = await self._read_body(request, operation)
            call = Call(admin=self._admin, request=request, path=path, query=query, body=body)
            return await operation.run(call)
        except ClientDisconnect:
            return empty(400)
        except Exception as error:
            return answer_to(error, operation)

    async def _read_body(self, request: Request, operation: Operation) -> Any:
        limits, chunks, length = self._policy.limits, [], 0
        async for chunk in request.stream():
            length += len(chunk)
            if length > limits.body_bytes:
                refusal = too_long(limits)
                raise BadRequest(refusal.status, refusal.message)
            chunks.append(chunk)
        if operation.body is None or (not length and operation.body_optional):
            return None
        body = b"".join(chunks)
        if length > _SMALL:
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
        log.warning(
            "the admin API is served %s without a token: whoever reaches it can read and stop everything; give "
            "create_app() a token=, token_file=, token_variable= or authorize=",
            printable(where),
        )


def route_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted under."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and path.startswith(f"{root}/"):
        return str(path[len(root) :])
    return str(path)


def facts_of(request: Request) -> Facts:
    """What the request says of itself."""
    scope, headers = request.scope, request.headers
    length = headers.get("content-length", "")
    return Facts(
        method=request.method,
        scheme=str(scope.get("scheme", "http")),
        path=scope["path"],
        target_bytes=len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")),
        host=tuple(headers.getlist("host")),
        origin=tuple(headers.getlist("origin")),
        fetch_site=tuple(headers.getlist("sec-fetch-site")),
        content_type=tuple(headers.getlist("content-type")),
        authorization=tuple(headers.getlist("authorization")),
        content_length=int(length) if length.isdecimal() and length.isascii() and len(length) < 20 else None,
        has_body=length not in ("", "0") or "transfer-encoding" in headers,
        header_bytes=sum(len(name) + len(value) for name, value in headers.raw),
        headers=len(headers.raw),
    )


def _read_query(request: Request, operation: Operation) -> Any:
    if operation.query is None:
        return None
    try:
        text = request.scope.get("query_string", b"").decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise BadRequest(400, "the query string is no valid UTF-8, or too long") from None
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise BadRequest(400, f"the query parameter {twice[0]!r} is given twice")
    try:
        return msgspec.convert(dict(pairs), operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(400, f"query parameters: {error}") from None


def _decode(body: bytes, kind: Any, levels: int) -> Any:
    if deeper_than(body, levels):
        raise BadRequest(400, f"the body is no JSON, or nested deeper than {levels} levels")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(422, f"the body does not fit: {error}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadRequest(400, f"the body is no JSON: {error}") from None


def _is_loopback(host: str) -> bool:
    if host in LOOPBACK or host.rpartition(":")[0] in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
