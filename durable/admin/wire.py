"""Bodies as they travel: Restate's names, fields and forms, and what people see of an engine put into them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from durable.core.ids import is_subscription_id
from durable.views import moments
from durable.views.invocations import EntryView, InvocationView, JournalPage
from durable.views.services import HandlerView, Notice, RetryPolicyView, ServiceView

#: The form of an invocation's id, as documents say it.
INVOCATION_ID = "^inv_1[0-9A-Za-z]{33}$"
DEPLOYMENT_ID = "^dp_1[0-9A-Za-z]{22}$"
SUBSCRIPTION_ID = "^sub_1[0-9A-Za-z]{22}$"
#: Text that is read as a duration, and text that is read as a moment.
DurationText = Annotated[str, msgspec.Meta(examples=["10s", "1h 30m", "PT5M"])]
MomentText = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
KeyText = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1})]
InvocationId = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": INVOCATION_ID})]
SubscriptionId = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SUBSCRIPTION_ID})]

# ---- the engine ----


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """What answers here."""

    #: Of this package.
    version: str
    #: Of Restate's admin API.
    min_admin_api_version: int
    max_admin_api_version: int
    ingress_endpoint: str | None = None
    features: dict[str, bool] | UnsetType = UNSET


# ---- services ----


class HandlerMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One handler: its types, and the options that it sets itself; those it leaves out are its service's.

    `public` is what holds for it.
    """

    name: str
    #: Absent in plain services.
    ty: Literal["Exclusive", "Shared", "Workflow"] | None = None
    documentation: str | None = None
    metadata: dict[str, str] = {}
    idempotency_retention: str | None = None
    journal_retention: str | None = None
    inactivity_timeout: str | None = None
    abort_timeout: str | None = None
    enable_lazy_state: bool | None = None
    public: bool
    input_description: str
    output_description: str
    input_json_schema: dict[str, Any] | None = None
    output_json_schema: dict[str, Any] | None = None
    retry_policy: RetryPolicyView | None = None
    info: tuple[Notice, ...] = ()


class ServiceMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One service, with the options that hold for handlers that say nothing themselves. Durations are text."""

    name: str
    ty: Literal["Service", "VirtualObject", "Workflow"]
    handlers: list[HandlerMetadata]
    deployment_id: str
    revision: int
    documentation: str | None = None
    metadata: dict[str, str] = {}
    public: bool
    idempotency_retention: str
    #: Only workflows have one.
    workflow_completion_retention: str | None = None
    journal_retention: str
    inactivity_timeout: str
    abort_timeout: str
    enable_lazy_state: bool
    retry_policy: RetryPolicyView
    info: tuple[Notice, ...] = ()


class Services(msgspec.Struct, frozen=True):
    """All services."""

    services: list[ServiceMetadata]


class Handlers(msgspec.Struct, frozen=True):
    """All handlers of a service."""

    handlers: list[HandlerMetadata]


class ModifyService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; what is left out or null stays. Durations as in "5 hours", "1h 30m" or "PT5M".

    These are all that Restate's clients send. Any other field is refused: a name that is mistyped must not look as
    if it had changed something.
    """

    public: bool | None = None
    idempotency_retention: DurationText | None = None
    workflow_completion_retention: DurationText | None = None
    journal_retention: DurationText | None = None
    inactivity_timeout: DurationText | None = None
    abort_timeout: DurationText | None = None
    #: Names of options that the class decides again.
    reset: tuple[str, ...] = ()


def service_metadata(view: ServiceView) -> ServiceMetadata:
    """A service as it travels."""
    fields = {name: getattr(view, name) for name in ServiceMetadata.__struct_fields__}
    return ServiceMetadata(**{**fields, "handlers": [_handler_metadata(view, one) for one in view.handlers]})


def _handler_metadata(service: ServiceView, view: HandlerView) -> HandlerMetadata:
    fields = {name: getattr(view, name) for name in HandlerMetadata.__struct_fields__}
    return HandlerMetadata(**{**fields, "public": service.public if view.public is None else view.public})


# ---- state ----


class ModifyState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole new state of one key, by name, each value as the numbers of its bytes."""

    object_key: str
    new_state: dict[str, list[int]]
    #: The version of the state that this is meant to replace; without one, whatever is there.
    version: str | None = None
    #: Only null: there are no scopes here.
    scope: None = None


class State(msgspec.Struct, frozen=True):
    """The state of one key: values as they are stored, in base64; null where payloads are not shown."""

    version: str
    state: dict[str, bytes | None]


class ReplaceState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole new state of one key, by name, each value as it is stored, in base64."""

    key: str
    state: dict[str, bytes]
    #: The version of the state that this is meant to replace; without one, whatever is there.
    version: str | None = None
    #: With one, it can be repeated and takes effect once.
    idempotency_key: KeyText | None = None


# ---- deployments ----


class ServiceNameRevision(msgspec.Struct, frozen=True):
    """A service of a deployment."""

    name: str
    revision: int


class _Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """The code that runs in this process, which is the only deployment there is."""

    id: str
    #: Names this process; nothing can be sent there.
    uri: str
    protocol_type: Literal["RequestResponse", "BidiStream"] = "BidiStream"
    http_version: str = "HTTP/2.0"
    created_at: str
    min_protocol_version: int = 5
    max_protocol_version: int = 5
    sdk_version: str


class Deployment(_Deployment, frozen=True, kw_only=True):
    """The code that runs in this process, with the names of its services."""

    services: list[ServiceNameRevision]


class DetailedDeployment(_Deployment, frozen=True, kw_only=True):
    """The code that runs in this process, with its services."""

    services: list[ServiceMetadata]


class Deployments(msgspec.Struct, frozen=True):
    """All deployments: one."""

    deployments: list[Deployment]


# ---- invocations ----


class Restarted(msgspec.Struct, frozen=True):
    """The id of the invocation that does another one again."""

    new_invocation_id: str


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which invocations a batch operation is for."""

    invocation_ids: list[str]
    #: For resume and restart-as-new: "keep", "latest" or the id of the running deployment.
    deployment: str | None = None


class NotDone(msgspec.Struct, frozen=True):
    """An invocation that a batch operation could not be done to."""

    invocation_id: str
    error: str


class OldAndNew(msgspec.Struct, frozen=True, omit_defaults=True):
    """An invocation that was restarted, and the one that does it again."""

    old_invocation_id: str
    #: Absent in a dry run.
    new_invocation_id: str | None = None


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of each."""

    succeeded: list[str]
    failed: list[NotDone]
    #: Whether this is what would become of each.
    dry_run: bool = False
    #: In a dry run: "done", "accepted" (it takes effect when the handler comes to it) or "unchanged", by id.
    outcomes: dict[str, str] = {}


class BatchRestartResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of each."""

    succeeded: list[OldAndNew]
    failed: list[NotDone]
    #: Whether this is what would become of each.
    dry_run: bool = False


class Sid(msgspec.Struct, frozen=True):
    """The oldest form of naming an invocation."""

    sid: InvocationId


class Listed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One invocation, with the names that it has in the table `sys_invocation`; what is null is left out."""

    id: str
    target: str
    target_service_name: str
    target_service_key: str | None = None
    target_handler_name: str
    status: str
    created_at: str
    modified_at: str
    completed_at: str | None = None
    #: The start of a scheduled one.
    scheduled_start_at: str | None = None
    #: When one that is backing off is tried again.
    next_retry_at: str | None = None
    idempotency_key: str | None = None
    #: "ingress", "service" or "restart_as_new".
    invoked_by: str
    invoked_by_id: str | None = None
    invoked_by_target: str | None = None
    restarted_from: str | None = None
    #: How often its handler was started.
    attempts: int = 0
    #: Failed attempts since the last progress.
    retry_count: int = 0
    last_failure: str | None = None
    #: Why it is paused, where no retry can help; and what to do about it.
    reason: str | None = None
    advice: str | None = None
    completion_result: str | None = None
    #: A cancel, a pause that waits until steps have ended.
    cancelling: bool = False
    pausing: bool = False


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value as its serializer wrote it: JSON (up to 1 MiB), or bytes; one of the two."""

    json: msgspec.Raw | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a journal; 0 is the input."""

    index: int
    #: "input", "run", "sleep", "call", "send", "awakeable", "signal", "promise", "get", "set", …, "output".
    kind: str
    name: str = ""
    #: "open", "done", "success" or "failure".
    result: str
    value: Payload | None = None
    #: A sleep's due time, a callee's id, a topic.
    detail: str | None = None
    appended_at: str
    completed_at: str | None = None


class Journal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a handler did, in its order, a page at a time; empty where it was purged."""

    invocation_id: str
    entries: list[Entry]
    #: What to give as `after` for the next page; absent where there is none.
    next: int | None = None


class Wait(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an invocation waits for before it goes on."""

    kind: str
    entry: int = 0
    name: str = ""
    detail: str | None = None
    due_at: str | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why its last attempt failed."""

    message: str
    #: The exception's class.
    type: str = ""
    stacktrace: str = ""
    #: The entry that failed, and its name; absent where the handler itself did.
    entry: int = 0
    name: str = ""
    at: str | None = None
    code: int = 500
    #: Why it was paused at once, where no retry can help; and what to do about it.
    reason: str = ""
    advice: str = ""
    #: With a reason: the handler has not seen a cancel yet, and cannot be told of it before that is cured.
    cancel_waits: bool = False


class Described(Listed, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of one invocation."""

    headers: dict[str, str] = {}
    input: Payload | None = None
    output: Payload | None = None
    failure: Failure | None = None
    waits_for: list[Wait] = []
    journal_size: int = 0


def instant(ms: int | None) -> str | None:
    """A moment as it travels, if there is one."""
    return None if ms is None else moments.instant(ms)


def listed(view: InvocationView) -> Listed:
    """An invocation as it travels in a list."""
    return Listed(**_listed(view))


def described(view: InvocationView, *, show_payloads: bool) -> Described:
    """An invocation as it travels alone."""
    return Described(
        **_listed(view),
        headers=view.headers if show_payloads else {},
        input=payload(view.input, show_payloads),
        output=payload(view.output, show_payloads),
        failure=_failure(view),
        waits_for=[
            Wait(kind=one.kind, entry=one.entry, name=one.name, detail=one.detail, due_at=instant(one.due_at))
            for one in view.waits_for
        ],
        journal_size=len(view.journal),
    )


def _failure(view: InvocationView) -> Failure | None:
    problem = view.last_failure
    if problem is None:
        return None
    told = {**msgspec.structs.asdict(problem), "at": instant(problem.at or None), "advice": view.advice}
    return Failure(**told)


def hidden(view: InvocationView, *, show_payloads: bool) -> InvocationView:
    """A view as Python has it, without what is withheld."""
    if show_payloads:
        return view
    return msgspec.structs.replace(view, headers={}, input=None, output=None, journal=_hidden(view.journal))


def hidden_journal(page: JournalPage, *, show_payloads: bool) -> JournalPage:
    """The same of a page of a journal."""
    return page if show_payloads else msgspec.structs.replace(page, entries=_hidden(page.entries))


def _hidden(entries: tuple[EntryView, ...]) -> tuple[EntryView, ...]:
    return tuple(msgspec.structs.replace(one, value=None) for one in entries)


def journal(page: JournalPage, *, show_payloads: bool) -> Journal:
    """A page of a journal as it travels."""
    return Journal(page.id, [_entry(one, show_payloads) for one in page.entries], page.next)


def _entry(one: EntryView, show_payloads: bool) -> Entry:
    shown = None if one.kind == "sleep" or one.result == "open" else payload(one.value, show_payloads)
    return Entry(
        index=one.entry,
        kind=one.kind,
        name=one.name,
        result=one.result,
        value=shown,
        detail=instant(int(one.detail)) if one.kind == "sleep" and one.detail else one.detail,
        appended_at=instant(one.recorded_at) or "",
        completed_at=instant(one.completed_at),
    )


#: To see that a value is JSON it must be decoded, which keeps everything else in the process waiting.
_JSON_MAX = 1024 * 1024


def payload(value: bytes | None, show: bool) -> Payload | None:
    """A stored value; None where there is none, and where it is withheld."""
    if not value or not show:
        return None
    if len(value) > _JSON_MAX:
        return Payload(base64=value)
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Payload(base64=value)
    return Payload(json=msgspec.Raw(value))


def _caller_kind(id: str | None) -> str:
    return "subscription" if id is not None and is_subscription_id(id) else "service"


def _listed(view: InvocationView) -> dict[str, Any]:
    restarted, called = view.restarted_from is not None, view.caller_id is not None
    problem = view.last_failure
    return {
        "id": view.id,
        "target": view.target,
        "target_service_name": view.service,
        "target_service_key": view.key,
        "target_handler_name": view.handler,
        "status": view.status,
        "created_at": instant(view.created_at),
        "modified_at": instant(view.modified_at),
        "completed_at": instant(view.completed_at),
        "scheduled_start_at": instant(view.due_at) if view.status == "scheduled" else None,
        "next_retry_at": instant(view.due_at) if view.status == "backing-off" else None,
        "idempotency_key": view.idempotency_key,
        "invoked_by": "restart_as_new" if restarted else _caller_kind(view.caller_id) if called else "ingress",
        "invoked_by_id": view.caller_id,
        "invoked_by_target": view.caller_target,
        "restarted_from": view.restarted_from,
        "attempts": view.attempt,
        "retry_count": view.failures,
        "last_failure": None if problem is None else f"[{problem.code}] {problem.message}",
        "reason": (problem and problem.reason) or None,
        "advice": view.advice or None,
        "completion_result": view.completion_result,
        "cancelling": view.cancelling,
        "pausing": view.pausing,
    }
