"""What a route is: data that says how it is asked and answered, and the function that does it.

The dispatcher reads path, query and body by what stands here, and `GET /openapi` is written from it: neither can say
anything that the other does not do.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from anyio import CapacityLimiter
from starlette.requests import Request
from starlette.responses import Response

from durable.admin.limits import Limits
from durable.admin.sql.reader import QueryLimits
from durable.engine import Engine
from durable.remote.envelope import EXACT
from durable.web.requests import envelope_of, key_of

#: Oldest and newest version of Restate's admin API whose prefix is understood; without a prefix it is the newest.
VERSION_MIN, VERSION_MAX = 2, 4

#: Bodies of more bytes are read and written in a thread.
SMALL = 256 * 1024


class Admin(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is fixed when an app is made."""

    engine: Engine
    #: Whether inputs, outputs, recorded values, state and headers are shown.
    show_payloads: bool = True
    limits: Limits = Limits()
    #: Where this engine can be invoked over HTTP, if anywhere.
    ingress_url: str | None = None
    query_limits: QueryLimits = QueryLimits()
    #: Threads in which SQL runs.
    readers: CapacityLimiter
    #: When the app was made, in ms since the epoch: for clients, when this code was deployed.
    created_at: int = 0
    #: The folder that `POST /backup` writes to; None where it is refused.
    backup_folder: str | None = None
    #: Whether it writes to any path.
    backup_anywhere: bool = False


class Call(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One request to one operation, read and checked."""

    admin: Admin
    request: Request
    #: What the path names.
    path: Mapping[str, str]
    #: An instance of `Operation.query`, or None.
    query: Any = None
    #: An instance of `Operation.body`, or None.
    body: Any = None

    @property
    def engine(self) -> Engine:
        """The engine that is administered."""
        return self.admin.engine

    @property
    def idempotency_key(self) -> str | None:
        """What makes it take effect once, if it has that. Raises `BadRequest`."""
        said = envelope_of(self.request.scope)
        return key_of(self.request.scope) if said is None else said.idempotency_key

    @property
    def exact(self) -> bool:
        """Whether a client of ours asks, which wants views and words as Python has them."""
        return EXACT in self.request.headers.get("accept", "")


class Answer(msgspec.Struct, frozen=True):
    """One way in which an operation answers."""

    description: str
    #: The type of its JSON body; None for an empty one.
    body: Any = None
    #: The media type; JSON where there is a body.
    media: str = "application/json"
    #: Other media types in which it comes where `Accept` asks for them.
    also: tuple[str, ...] = ()
    #: Where its body names what other operations ask for: a parameter's name, and a JSON pointer.
    names: Mapping[str, str] = {}


class Operation(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One method of one path."""

    method: str
    #: `/invocations/{id}/cancel`: a part in braces is anything without a slash.
    path: str
    run: Callable[[Call], Awaitable[Response]]
    tag: str
    summary: str
    #: A struct with a field for each query parameter; a request with any other is refused.
    query: Any = None
    #: A struct for the JSON body; None where none is read.
    body: Any = None
    #: Whether the body may be left out; the content type may not, where the method is POST.
    body_optional: bool = False
    #: Whether it takes an `idempotency-key`: asked again with the same one, it is not done again.
    once: bool = False
    #: Answers by status, besides those that every operation has.
    answers: Mapping[int, Answer]
    #: Its `operationId`, where `run` does several; otherwise that is the name of `run`.
    name: str = ""

    @property
    def id(self) -> str:
        """Its name in the OpenAPI document."""
        return self.name or self.run.__name__

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what its path names."""
        return tuple(_PART.findall(self.path))


class Routes:
    """All operations, found by path and method."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = tuple(operations)
        self._paths: dict[str, tuple[re.Pattern[str], dict[str, Operation]]] = {}
        if len({one.id for one in self.operations}) < len(self.operations):
            raise ValueError("two operations have the same name")
        for one in self.operations:
            _, methods = self._paths.setdefault(one.path, (_pattern(one.path), {}))
            if one.method in methods:
                raise ValueError(f"two operations are {one.method} {one.path}")
            methods[one.method] = one

    def find(self, path: str) -> tuple[Mapping[str, Operation], Mapping[str, str]] | None:
        """The operations of a path by method, and what the path names; None where there is no such path."""
        path = _VERSION.sub("", path, count=1)
        for pattern, methods in self._paths.values():
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groupdict()
        return None


_PART = re.compile(r"\{(\w+)\}")
_VERSION = re.compile(rf"/v[{VERSION_MIN}-{VERSION_MAX}](?=/)")


def _pattern(path: str) -> re.Pattern[str]:
    parts = _PART.split(path)
    literal = [f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)]
    return re.compile("".join(literal))


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(_encode(value), status, dict(headers or {}), media_type="application/json")


def empty(status: int = 200) -> Response:
    """An answer without a body."""
    return Response(status_code=status)


_encode = msgspec.json.Encoder().encode
