"""What an engine's services look like to those who operate them.

A service shows what holds for it, defaults and `Engine.configure` included; a handler shows only what it says itself.
`declaration` is a digest of what code says, and of nothing else: where it changes, the service has a new revision.

Everything is computed when it is asked for.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from durable.core.duration import Duration, parse, render
from durable.core.ids import READABLE, base62
from durable.core.invocation import Flavor
from durable.core.retry import RetryPolicy
from durable.runtime.registry import Registered, Registry
from durable.serde import Serde
from durable.service import Handler, Service, Settings, VirtualObject, Workflow
from durable.signature import REQUIRED

#: The codes of notices: a retention that another one shortens; an option that means nothing where it stands.
CAPPED: Final = "retention-capped"
IGNORED: Final = "option-ignored"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something about the options of a service or handler that may surprise whoever set them."""

    message: str
    #: `CAPPED` or `IGNORED`.
    code: str


class RetryPolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A retry policy; a handler's has only the fields that the handler sets itself, and leaves out the others."""

    #: The wait after the first failure.
    initial_interval: str | UnsetType = UNSET
    #: What each wait is multiplied by to give the next.
    exponentiation_factor: float | UnsetType = UNSET
    #: The longest wait.
    max_interval: str | UnsetType = UNSET
    #: How many tries there are, counting the first; None is no limit.
    max_attempts: int | UnsetType | None = UNSET
    #: How long after the first failure the next try may begin; left out where that is not limited.
    max_duration: str | UnsetType = UNSET
    #: What happens when tries run out.
    on_max_attempts: Literal["Pause", "Kill"] | UnsetType = UNSET


class HandlerView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One handler: its types, and the options that it sets itself (None where its service decides)."""

    name: str
    #: "Exclusive" and "Shared" run on a key; "Workflow" is a workflow's `run`; None in a plain service.
    ty: Literal["Exclusive", "Shared", "Workflow"] | None = None
    #: Whether it may be called from outside.
    public: bool | None = None
    #: Its docstring.
    documentation: str | None = None
    #: Free text for operators, without the service's.
    metadata: dict[str, str] = {}
    #: "JSON string", "JSON 'Order'", a content type, or "none" where it takes no argument.
    input_description: str
    #: The same for its result.
    output_description: str
    #: What its argument is sent as; None where it takes none.
    input_content_type: str | None = None
    #: Whether it takes an argument that may be left out.
    input_optional: bool = False
    #: What its result is sent as; None where it gives none.
    output_content_type: str | None = None
    #: Describes the argument, without references to other documents; one that may be left out has a `default`.
    input_json_schema: dict[str, Any] | None = None
    #: Describes the result.
    output_json_schema: dict[str, Any] | None = None
    #: How long the result of an invocation with an idempotency key is kept.
    idempotency_retention: str | None = None
    #: How long a workflow's result, state and promises are kept; only `run` decides that.
    workflow_completion_retention: str | None = None
    #: How long the journal of a completed invocation is kept.
    journal_retention: str | None = None
    #: How long it may wait without anything happening before it is unloaded.
    inactivity_timeout: str | None = None
    #: How long after that it is interrupted where it does not yield.
    abort_timeout: str | None = None
    #: Always None, as there is nothing to choose: see `ServiceView.enable_lazy_state`.
    enable_lazy_state: bool | None = None
    #: The fields that it sets itself; None where it sets none.
    retry_policy: RetryPolicyView | None = None
    #: What may surprise in the options it sets itself.
    info: tuple[Notice, ...] = ()


class ServiceView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One service as it is now: options as they hold for handlers that say nothing themselves."""

    name: str
    ty: Literal["Service", "VirtualObject", "Workflow"]
    #: Sorted by name.
    handlers: list[HandlerView]
    #: Stands for everything that the code of this engine declares; changes when any of its services does.
    deployment_id: str
    #: How often the declaration has changed in this file, starting with 1.
    revision: int
    #: The docstring of its class.
    documentation: str | None = None
    #: Free text for operators.
    metadata: dict[str, str] = {}
    #: Whether it may be called from outside.
    public: bool
    #: How long the result of an invocation with an idempotency key is kept.
    idempotency_retention: str
    #: How long a workflow's result, state and promises are kept; None where the service is no workflow.
    workflow_completion_retention: str | None = None
    #: How long the journal of a completed invocation is kept.
    journal_retention: str
    #: How long a handler may wait without anything happening before it is unloaded.
    inactivity_timeout: str
    #: How long after that it is interrupted where it does not yield.
    abort_timeout: str
    #: Always False: a key's state is in memory while a handler runs on it, and there is nothing to load later.
    enable_lazy_state: bool
    #: Every field is set.
    retry_policy: RetryPolicyView
    #: What may surprise in its options.
    info: tuple[Notice, ...] = ()


def service_views(registry: Registry, revisions: Mapping[str, int]) -> list[ServiceView]:
    """All services, sorted by name. A service that `revisions` does not name is in its first."""
    deployment = deployment_id(registry)
    return [
        _service_view(registry, service, revisions.get(service, 1), deployment)
        for service in sorted(registry.declared)
    ]


def declaration(registry: Registry, service: str) -> str:
    """A digest of everything code says of a service, the same in every process.

    That is its kind, documentation, metadata and options, and the same of its handlers, with their flavors and types;
    two annotations are the same where content type and JSON schema are (a newer msgspec or pydantic may word a schema
    anew). What the engine's defaults and `Engine.configure` say is not in it.
    """
    first = registry.declared[service][0]
    declared = {
        "ty": _kind(first),
        "documentation": _documentation(first),
        "options": _said(_class_settings(first)),
        "handlers": [
            (_handler_view(handler, registered), registered.default is REQUIRED)
            for handler, registered in _registered(registry, service)
        ],
    }
    return _digest(declared).hex()


def deployment_id(registry: Registry) -> str:
    """A name for all declarations of an engine: its code is what is deployed."""
    digest = _digest({service: declaration(registry, service) for service in registry.declared})
    return f"dp_1{base62(int.from_bytes(digest, 'big') % READABLE.entropies, 22)}"


# ---- views ----


def _service_view(registry: Registry, service: str, revision: int, deployment: str) -> ServiceView:
    first = registry.declared[service][0]
    settings = registry.effective(service, _class_settings(first))
    options = _said(settings)
    if _kind(first) != "Workflow":
        options.pop("workflow_completion_retention", None)
    return ServiceView(
        name=service,
        ty=_kind(first),
        handlers=[
            msgspec.structs.replace(
                _handler_view(handler, registered),
                info=_handler_notices(handler, registered.settings),
                input_optional=registered.has_input and registered.nothing() is not None,
            )
            for handler, registered in _registered(registry, service)
        ],
        deployment_id=deployment,
        revision=revision,
        documentation=_documentation(first),
        enable_lazy_state=False,
        info=_service_notices(registry, service, settings),
        **options,
    )


def _handler_view(handler: Handler[Any, Any], registered: Registered) -> HandlerView:
    """What code says, and nothing that follows from it or from what others say."""
    taken, given = registered.input, registered.output
    return HandlerView(
        name=handler.name,
        ty=_FLAVORS[handler.flavor],
        documentation=handler.documentation or None,
        input_description=taken.description(),
        output_description=given.description(),
        input_content_type=taken.content_type or None,
        output_content_type=given.content_type or None,
        input_json_schema=_input_schema(registered),
        output_json_schema=_schema(given),
        **_said(handler.settings),
    )


def _registered(registry: Registry, service: str) -> Iterator[tuple[Handler[Any, Any], Registered]]:
    for handler in sorted(registry.declared[service], key=lambda one: one.name):
        registered = registry.get(service, handler.name)
        assert registered is not None, "what is declared is registered"
        yield handler, registered


def _schema(serde: Serde[Any]) -> dict[str, Any] | None:
    return serde.schema() if serde.content_type else None


def _input_schema(handler: Registered) -> dict[str, Any] | None:
    schema = _schema(handler.input)
    if schema is not None and handler.default is not REQUIRED:
        with suppress(Exception):  # a default need not be of the annotated type, nor JSON
            schema["default"] = msgspec.json.decode(handler.input.encode(handler.default))
    return schema


def _said(settings: Settings) -> dict[str, Any]:
    """The options that are set, as views name and write them."""
    said: dict[str, Any] = {"metadata": dict(settings.metadata)}
    if settings.public is not None:
        said["public"] = settings.public
    for name in _DURATIONS:
        ms = getattr(settings, f"{name}_ms")
        if ms is not None:
            said[name] = render(ms)
    if settings.retry != RetryPolicy():
        said["retry_policy"] = _retry_view(settings.retry)
    return said


def _retry_view(policy: RetryPolicy) -> RetryPolicyView:
    return RetryPolicyView(
        initial_interval=_interval(policy.initial_interval),
        exponentiation_factor=UNSET if policy.factor is UNSET else float(policy.factor),
        max_interval=_interval(policy.max_interval),
        max_attempts=policy.max_attempts,
        max_duration=UNSET if policy.max_duration is None else _interval(policy.max_duration),
        on_max_attempts=_ON_MAX_ATTEMPTS[policy.on_max_attempts],
    )


def _interval(value: Duration | UnsetType) -> str | UnsetType:
    return UNSET if isinstance(value, UnsetType) else render(parse(value))


def _kind(handler: Handler[Any, Any]) -> Literal["Service", "VirtualObject", "Workflow"]:
    return _KINDS[handler.flavor]


def _class_settings(handler: Handler[Any, Any]) -> Settings:
    return Settings() if handler.owner is None else handler.owner.settings()


def _documentation(handler: Handler[Any, Any]) -> str | None:
    """The docstring of a handler's class, or of the nearest base that has one; not the one dataclasses make up."""
    for base in handler.owner.__mro__ if handler.owner is not None else ():
        text = inspect.cleandoc(base.__doc__ or "")
        made_up = text.startswith(f"{base.__name__}(") and text.endswith(")")
        if text and not made_up and base not in _BASES and issubclass(base, _BASES):
            return text
    return None


_FLAVORS: Final[Mapping[Flavor, Literal["Exclusive", "Shared", "Workflow"] | None]] = {
    Flavor.SERVICE: None,
    Flavor.EXCLUSIVE: "Exclusive",
    Flavor.SHARED: "Shared",
    Flavor.WORKFLOW: "Workflow",
    Flavor.WORKFLOW_SHARED: "Shared",
}
_KINDS: Final[Mapping[Flavor, Literal["Service", "VirtualObject", "Workflow"]]] = {
    Flavor.SERVICE: "Service",
    Flavor.EXCLUSIVE: "VirtualObject",
    Flavor.SHARED: "VirtualObject",
    Flavor.WORKFLOW: "Workflow",
    Flavor.WORKFLOW_SHARED: "Workflow",
}
_BASES: Final = (Service, VirtualObject, Workflow)
_ON_MAX_ATTEMPTS: Final[Mapping[str | UnsetType, Literal["Pause", "Kill"] | UnsetType]] = {
    "pause": "Pause",
    "kill": "Kill",
    UNSET: UNSET,
}
_DURATIONS: Final = (
    "idempotency_retention",
    "workflow_completion_retention",
    "journal_retention",
    "inactivity_timeout",
    "abort_timeout",
)


# ---- notices ----


def _service_notices(registry: Registry, service: str, settings: Settings) -> tuple[Notice, ...]:
    """About options that handlers take over as they are."""
    handlers = registry.declared[service]
    found = []
    for cap in ("workflow_completion_retention", "idempotency_retention"):
        if any(_cap(handler) == cap and not _decides(handler, cap) for handler in handlers):
            found += _capped(settings, cap)
    given = registry.configured.get(service, Settings()).over(_class_settings(handlers[0]))
    if given.workflow_completion_retention_ms is not None and _kind(handlers[0]) != "Workflow":
        found.append(_ignored("workflow_completion_retention", "only workflows have one"))
    return tuple(found)


def _handler_notices(handler: Handler[Any, Any], settings: Settings) -> tuple[Notice, ...]:
    """About what a handler says itself; `settings` are those that hold for it."""
    cap = _cap(handler)
    found = _capped(settings, cap) if _decides(handler, cap) else []
    if handler.settings.workflow_completion_retention_ms is not None and handler.flavor is not Flavor.WORKFLOW:
        found.append(_ignored("workflow_completion_retention", "only a workflow's run has one"))
    if handler.settings.idempotency_retention_ms is not None and handler.flavor is Flavor.WORKFLOW:
        found.append(_ignored("idempotency_retention", "a workflow's run takes no idempotency key besides its key"))
    return tuple(found)


def _cap(handler: Handler[Any, Any]) -> str:
    """The retention that the journal's cannot exceed (see `Registered.submission`)."""
    return "workflow_completion_retention" if handler.flavor is Flavor.WORKFLOW else "idempotency_retention"


def _decides(handler: Handler[Any, Any], cap: str) -> bool:
    return handler.settings.journal_retention_ms is not None or getattr(handler.settings, f"{cap}_ms") is not None


def _capped(settings: Settings, cap: str) -> list[Notice]:
    journal_ms = settings.journal_retention_ms or 0
    cap_ms = getattr(settings, f"{cap}_ms") or 0
    if journal_ms <= cap_ms:
        return []
    whose = (
        "a run's journal"
        if cap == "workflow_completion_retention"
        else "the journal of a call with an idempotency key"
    )
    message = f"{whose} is kept for {render(cap_ms)}, not {render(journal_ms)}: {cap} caps journal_retention"
    return [Notice(message=message, code=CAPPED)]


def _ignored(option: str, reason: str) -> Notice:
    return Notice(message=f"{option} has no effect here: {reason}", code=IGNORED)


# ---- digest ----


def _digest(declared: Any) -> bytes:
    text = _encode(declared)
    if b'"default":' in text or b'"examples":' in text:
        text = _encode(_in_order(msgspec.json.decode(text)))
    return blake2b(text, digest_size=16, person=b"declaration").digest()


def _in_order(node: Any, *, value: bool = False) -> Any:
    """Sort the arrays in a schema's defaults and examples: one that is a set is in the order of its hashes."""
    if isinstance(node, dict):
        return {
            name: _in_order(inner, value=value or name in ("default", "examples")) for name, inner in node.items()
        }
    if isinstance(node, list):
        items = [_in_order(inner, value=value) for inner in node]
        return sorted(items, key=_encode) if value else items
    return node


_encode = msgspec.json.Encoder(order="deterministic").encode
