"""What a path asks for: pure, and tried as a table.

Restate's ingress has two families of paths, and so has this one:

    /Greeter/greet    /Cart/{key}/add    .../send           the older one
    /restate/call/Greeter/greet          /restate/send/Cart/{key}/add

Paths are taken apart before they are decoded, so that a key may have a slash (`%2F`).
"""

from collections.abc import Callable
from typing import ClassVar, TypeAlias
from urllib.parse import unquote

import msgspec

from durable.web.errors import BadRequest

# ---- which invocation ----


class InvocationTarget(msgspec.Struct, frozen=True, tag_field="target", tag="invocation", rename="camel"):
    """The one with this id."""

    invocation_id: str


class IdempotentTarget(msgspec.Struct, frozen=True, tag_field="target", tag="idempotentInvocation", rename="camel"):
    """The one that an idempotency key names."""

    service: str
    handler: str
    idempotency_key: str
    key: str | None = None
    scope: str | None = None


class WorkflowTarget(msgspec.Struct, frozen=True, tag_field="target", tag="workflow", rename="camel"):
    """The run of a workflow."""

    workflow_name: str
    workflow_key: str
    scope: str | None = None


Target: TypeAlias = InvocationTarget | IdempotentTarget | WorkflowTarget

# ---- what is asked ----


class Invoke(msgspec.Struct, frozen=True):
    """Have a handler invoked, and wait for its result or not."""

    methods: ClassVar = ("GET", "POST")
    service: str
    key: str | None
    handler: str
    send: bool = False


class Result(msgspec.Struct, frozen=True):
    """The result of an invocation: wait for it, or as it is now. Without a target, the body names it."""

    target: Target | None
    wait: bool

    @property
    def methods(self) -> tuple[str, ...]:
        """A body goes with POST."""
        return ("POST",) if self.target is None else ("GET",)


class Lookup(msgspec.Struct, frozen=True):
    """The id of the invocation that the body names."""

    methods: ClassVar = ("POST",)


class Complete(msgspec.Struct, frozen=True):
    """Complete an awakeable."""

    methods: ClassVar = ("POST",)
    id: str
    ok: bool


class Settle(msgspec.Struct, frozen=True):
    """Settle a workflow's promise."""

    methods: ClassVar = ("POST",)
    workflow: str
    key: str
    name: str
    ok: bool


class Signal(msgspec.Struct, frozen=True):
    """Hand a signal to an invocation."""

    methods: ClassVar = ("POST",)
    id: str
    name: str
    ok: bool


class Health(msgspec.Struct, frozen=True):
    """Whether the engine runs."""

    methods: ClassVar = ("GET",)


class Describe(msgspec.Struct, frozen=True):
    """The OpenAPI document of a service."""

    methods: ClassVar = ("GET",)
    service: str


Ask: TypeAlias = Invoke | Result | Lookup | Complete | Settle | Signal | Health | Describe

_INVOKE = "bad path, expected either /:service-name/:handler or /:object-name/:object-key/:handler"
_VERB = (
    "bad path, expected /restate/call/:service/:handler, /restate/call/:object/:key/:handler, the same with send, "
    "/restate/attach/:invocation_id, /restate/output/:invocation_id, or /restate/lookup"
)
_AWAKEABLE = "bad path, expected either /restate/awakeables/:id/resolve or /restate/awakeables/:id/reject"
_PROMISE = "bad path, expected /restate/promises/:workflow/:key/:name/resolve or .../reject"
_SIGNAL = "bad path, expected /restate/signals/:invocation_id/:name/resolve or .../reject"
_WORKFLOW = "bad path, expected either /restate/workflow/:name/:key/output or /restate/workflow/:name/:key/attach"
_INVOCATION = (
    "bad path, expected /restate/invocation/:invocation_id/output, "
    "/restate/invocation/:service/:handler/:idempotency_key/output, "
    "/restate/invocation/:object/:key/:handler/:idempotency_key/output, or the same with attach"
)
_SCOPE = "scoped invocations are not supported: this engine has no limit rules"


def parse(path: str, keyed: Callable[[str], bool | None]) -> Ask:
    """What a path asks for, as it was sent; `keyed` tells whether a service runs on keys (None: there is none).

    Raises `BadRequest`: 400 for a path of no known form, 404 for one that names what there is not.
    """
    parts = path.split("/")
    if len(parts) > 2 and not parts[-1]:
        parts.pop()  # one slash too many at the end
    if len(parts) < 3 or parts[0] or not parts[1]:
        raise BadRequest(400, f"bad path: {path[:1000]}")
    parts = parts[1:] if "%" not in path else [_decoded(part) for part in parts[1:]]
    if parts[0] != "restate":
        return _older(parts, keyed)
    verb, rest = parts[1], parts[2:]
    match verb:
        case "call" | "send":
            return _invoke(rest, keyed, send=verb == "send", bad_path=_VERB)
        case "attach" | "output":
            if len(rest) > 1:
                raise BadRequest(400, _VERB)
            return Result(InvocationTarget(rest[0]) if rest else None, verb == "attach")
        case "lookup":
            if rest:
                raise BadRequest(400, _VERB)
            return Lookup()
        case "awakeables" | "a":
            [id], ok = _completed(rest, 2, _AWAKEABLE)
            return Complete(id, ok)
        case "promises":
            [workflow, key, name], ok = _completed(rest, 4, _PROMISE)
            return Settle(workflow, key, name, ok)
        case "signals":
            [id, name], ok = _completed(rest, 3, _SIGNAL)
            return Signal(id, name, ok)
        case "invocation":
            return _invocation(rest, keyed)
        case "workflow":
            if len(rest) != 3:
                raise BadRequest(400, _WORKFLOW)
            return Result(WorkflowTarget(rest[0], rest[1]), _waits(rest[2]))
        case "health":
            if not rest:
                return Health()
        case "openapi":
            if len(rest) == 1:
                return Describe(rest[0])
        case "scope":
            raise BadRequest(400, _SCOPE)
    raise BadRequest(404, "not found")


def _older(parts: list[str], keyed: Callable[[str], bool | None]) -> Invoke:
    most = 3 if _is_keyed(parts[0], keyed) else 2
    send = len(parts) == most + 1 and parts[-1] == "send"
    return _invoke(parts[:-1] if send else parts, keyed, send=send, bad_path=_INVOKE)


def _invoke(parts: list[str], keyed: Callable[[str], bool | None], *, send: bool, bad_path: str) -> Invoke:
    if not parts:
        raise BadRequest(400, bad_path)
    service, rest = parts[0], parts[1:]
    on_a_key = _is_keyed(service, keyed)
    if len(rest) != 1 + on_a_key:
        raise BadRequest(400, bad_path)
    return Invoke(service, rest[0] if on_a_key else None, rest[-1], send)


def _invocation(parts: list[str], keyed: Callable[[str], bool | None]) -> Result:
    """The older form of attach and output, by id or by idempotency key."""
    if len(parts) < 2:
        raise BadRequest(400, _INVOCATION)
    named, wait = parts[:-1], parts[-1]
    if len(named) == 1:
        return Result(InvocationTarget(named[0]), _waits(wait))
    on_a_key = _is_keyed(named[0], keyed)
    if len(named) != 3 + on_a_key:
        raise BadRequest(400, _INVOCATION)
    key = named[1] if on_a_key else None
    return Result(IdempotentTarget(named[0], named[-2], named[-1], key), _waits(wait))


def _is_keyed(service: str, keyed: Callable[[str], bool | None]) -> bool:
    answer = keyed(service)
    if answer is None:
        shown = service[:1000]
        raise BadRequest(404, f"service '{shown}' not found, make sure to register the service before calling it.")
    return answer


def _waits(word: str) -> bool:
    if word not in ("attach", "output"):
        raise BadRequest(404, "not found")
    return word == "attach"


def _completed(parts: list[str], length: int, bad_path: str) -> tuple[list[str], bool]:
    if len(parts) != length:
        raise BadRequest(400, bad_path)
    if parts[-1] not in ("resolve", "reject"):
        raise BadRequest(404, "not found")
    return parts[:-1], parts[-1] == "resolve"


def _decoded(part: str) -> str:
    if "%" not in part:
        return part
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(400, f"bad path, cannot decode {part[:100]!r}: it is no valid UTF-8") from None
