"""What an engine says of its services, and when it takes a service for changed."""

import dataclasses
import enum
import itertools
import os
import subprocess
import sys
import time
from abc import ABC
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import attrs
import msgspec
import pydantic
import pytest

from durable import (
    Context,
    ObjectContext,
    RetryPolicy,
    Serde,
    Service,
    SharedObjectContext,
    SharedWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.ids import READABLE
from durable.core.retry import DEFAULT
from durable.runtime.registry import Registry
from durable.service import Options, Settings, settings_of
from durable.views.services import (
    CAPPED,
    IGNORED,
    HandlerView,
    Notice,
    RetryPolicyView,
    ServiceView,
    declaration,
    deployment_id,
    service_views,
)

DAY = 86_400_000
#: What an engine says where nobody else does.
DEFAULTS = Settings(
    public=True,
    retry=DEFAULT,
    inactivity_timeout_ms=60_000,
    abort_timeout_ms=600_000,
    journal_retention_ms=DAY,
    idempotency_retention_ms=DAY,
    workflow_completion_retention_ms=DAY,
)


def registry_of(*services: object, defaults: Settings = DEFAULTS) -> Registry:
    return Registry(services, defaults)


def only_service(*services: object) -> ServiceView:
    [view] = service_views(registry_of(*services), {})
    return view


def only_handler(*services: object) -> HandlerView:
    [view] = only_service(*services).handlers
    return view


def configure(registry: Registry, service: str, **options: Unpack[Options]) -> None:
    registry.configure(service, msgspec.json.encode(settings_of(options, "test")).decode())


def codes(view: ServiceView | HandlerView) -> list[str]:
    return [notice.code for notice in view.info]


class Item(msgspec.Struct):
    """Something to buy."""

    name: str
    price: float = 0.0


class Tree(msgspec.Struct):
    children: list["Tree"] = []


@dataclasses.dataclass
class Order:
    items: list[Item]


class Address(TypedDict):
    street: str


@attrs.define
class Parcel:
    weight: int


class Customer(pydantic.BaseModel):
    name: str
    friends: list["Customer"] = []


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Opaque:
    pass


OPAQUE: Any = Opaque()
ROT = Serde[str](lambda text: text[::-1].encode(), lambda data: data.decode()[::-1], "text/x-reversed")


# ---- a service, and its handlers ----


class Basket(VirtualObject):
    """What somebody is about to buy."""

    @handler
    async def add(self, ctx: ObjectContext, item: Item) -> int:
        """Put one more thing in."""
        return 1

    @handler(shared=True)
    async def count(self, ctx: SharedObjectContext) -> int:
        return 0


def test_a_service_shows_what_holds_for_it_with_defaults_filled_in() -> None:
    registry = registry_of(Basket())
    [view] = service_views(registry, {"Basket": 3})
    assert msgspec.to_builtins(view) == {
        "name": "Basket",
        "ty": "VirtualObject",
        "handlers": [
            {
                "name": "add",
                "ty": "Exclusive",
                "documentation": "Put one more thing in.",
                "input_description": "JSON 'Item'",
                "output_description": "JSON integer",
                "input_content_type": "application/json",
                "output_content_type": "application/json",
                "input_json_schema": {
                    "$ref": "#/$defs/Item",
                    "$defs": {
                        "Item": {
                            "title": "Item",
                            "description": "Something to buy.",
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "price": {"type": "number", "default": 0.0}},
                            "required": ["name"],
                        }
                    },
                },
                "output_json_schema": {"type": "integer"},
            },
            {
                "name": "count",
                "ty": "Shared",
                "input_description": "none",
                "output_description": "JSON integer",
                "output_content_type": "application/json",
                "output_json_schema": {"type": "integer"},
            },
        ],
        "deployment_id": deployment_id(registry),
        "revision": 3,
        "documentation": "What somebody is about to buy.",
        "public": True,
        "idempotency_retention": "1d",
        "journal_retention": "1d",
        "inactivity_timeout": "1m",
        "abort_timeout": "10m",
        "enable_lazy_state": False,
        "retry_policy": {
            "initial_interval": "500ms",
            "exponentiation_factor": 2.0,
            "max_interval": "1m",
            "max_attempts": 70,
            "on_max_attempts": "Pause",
        },
    }
    assert msgspec.json.decode(msgspec.json.encode(view), type=ServiceView) == view


class SignUp(Workflow, workflow_completion_retention="7d"):
    @handler
    async def run(self, ctx: WorkflowContext, name: str) -> None: ...

    @handler
    async def verify(self, ctx: SharedWorkflowContext, code: str) -> None: ...


class Mail(Service):
    @handler
    async def send(self, ctx: Context, text: str) -> None: ...


@handler(service="Tools")
async def ping(ctx: Context) -> str:
    return "pong"


@handler(service="Tools")
async def echo(ctx: Context, text: str) -> str:
    return text


def test_services_and_handlers_are_sorted_and_typed_and_built_in_ones_do_not_show() -> None:
    views = service_views(registry_of(SignUp(), ping, echo, Mail(), Basket()), {"Mail": 2})
    assert [(view.name, view.ty, view.revision) for view in views] == [
        ("Basket", "VirtualObject", 1),
        ("Mail", "Service", 2),
        ("SignUp", "Workflow", 1),
        ("Tools", "Service", 1),
    ]
    assert [(one.name, one.ty) for view in views for one in view.handlers] == [
        ("add", "Exclusive"),
        ("count", "Shared"),
        ("send", None),
        ("run", "Workflow"),
        ("verify", "Shared"),
        ("echo", None),
        ("ping", None),
    ]


def test_only_a_workflow_has_a_workflow_completion_retention() -> None:
    views = service_views(registry_of(SignUp(), Mail(), Basket()), {})
    assert {view.name: view.workflow_completion_retention for view in views} == {
        "SignUp": "7d",
        "Mail": None,
        "Basket": None,
    }


def test_an_engine_without_services_shows_none() -> None:
    assert service_views(registry_of(), {"Gone": 4}) == []


# ---- options: who says what ----


class Shop(
    Service,
    public=False,
    journal_retention="12h",
    inactivity_timeout="30s",
    retry=RetryPolicy(max_attempts=None, initial_interval=1),
):
    @handler
    async def plain(self, ctx: Context) -> None: ...

    @handler(
        public=True,
        journal_retention=0,
        idempotency_retention="2d",
        inactivity_timeout="1m 30s",
        abort_timeout=5,
        retry=RetryPolicy(factor=1, on_max_attempts="kill"),
    )
    async def special(self, ctx: Context) -> None: ...


def test_a_handler_shows_only_what_it_says_itself() -> None:
    plain, special = only_service(Shop()).handlers
    assert plain == HandlerView(name="plain", input_description="none", output_description="none")
    assert special == HandlerView(
        name="special",
        input_description="none",
        output_description="none",
        public=True,
        journal_retention="0s",
        idempotency_retention="2d",
        inactivity_timeout="1m 30s",
        abort_timeout="5s",
        retry_policy=RetryPolicyView(exponentiation_factor=1.0, on_max_attempts="Kill"),
    )


def test_a_service_shows_what_its_class_says_over_the_engines_defaults() -> None:
    view = only_service(Shop())
    assert view.public is False
    assert (view.journal_retention, view.idempotency_retention) == ("12h", "1d")
    assert (view.inactivity_timeout, view.abort_timeout) == ("30s", "10m")
    assert view.retry_policy == RetryPolicyView(
        initial_interval="1s",
        exponentiation_factor=2.0,
        max_interval="1m",
        max_attempts=None,
        on_max_attempts="Pause",
    )


def test_what_was_configured_shows_on_the_service_and_not_on_its_handlers() -> None:
    registry = registry_of(Shop(), Mail())
    mail, shop = service_views(registry, {})
    configure(registry, "Shop", public=True, journal_retention="6h", abort_timeout="1d 12h")
    assert service_views(registry, {}) == [
        mail,
        msgspec.structs.replace(shop, public=True, journal_retention="6h", abort_timeout="1d 12h"),
    ]


def test_no_limit_of_attempts_is_told_from_nothing_said() -> None:
    class Calls(Service):
        @handler(retry=RetryPolicy(max_attempts=None))
        async def endless(self, ctx: Context) -> None: ...

        @handler(retry=RetryPolicy(max_interval="5m"))
        async def slow(self, ctx: Context) -> None: ...

    endless, slow = only_service(Calls()).handlers
    assert msgspec.to_builtins(endless.retry_policy) == {"max_attempts": None}
    assert msgspec.to_builtins(slow.retry_policy) == {"max_interval": "5m"}


def test_metadata_of_a_class_is_merged_with_its_bases_and_a_handler_shows_its_own() -> None:
    class Base(Service, metadata={"team": "core", "tier": "2"}):
        pass

    class Payments(Base, metadata={"tier": "1", "pager": "yes"}):
        @handler(metadata={"tier": "0"})
        async def charge(self, ctx: Context) -> None: ...

        @handler
        async def refund(self, ctx: Context) -> None: ...

    view = only_service(Payments())
    assert view.metadata == {"team": "core", "tier": "1", "pager": "yes"}
    assert [one.metadata for one in view.handlers] == [{"tier": "0"}, {}]


# ---- documentation ----


def test_a_service_is_documented_by_its_class_or_a_base_of_the_authors() -> None:
    class Documented(Service):
        """Line one.

        Line two.
        """

        @handler
        async def do(self, ctx: Context) -> None: ...

    class Child(Documented):
        pass

    class Plain(ABC, Service):
        @handler
        async def do(self, ctx: Context) -> None: ...

    @dataclasses.dataclass
    class Injected(Service):
        client: object = dataclasses.field(default=object())

        @handler
        async def do(self, ctx: Context) -> None: ...

    assert Injected.__doc__ is not None and "0x" in Injected.__doc__  # of no use to a reader, and never the same
    views = service_views(registry_of(Documented(), Child(), Plain(), Injected(), ping), {})
    assert {view.name: view.documentation for view in views} == {
        "Child": "Line one.\n\nLine two.",
        "Documented": "Line one.\n\nLine two.",
        "Injected": None,
        "Plain": None,
        "Tools": None,
    }


# ---- types ----


async def of_struct(ctx: Context, arg: Item) -> Tree: ...  # type: ignore[empty-body]
async def of_dataclass(ctx: Context, arg: Order) -> list[Order]: ...  # type: ignore[empty-body]
async def of_typed_dict(ctx: Context, arg: Address) -> dict[str, Address]: ...  # type: ignore[empty-body]
async def of_attrs(ctx: Context, arg: Parcel) -> Parcel: ...  # type: ignore[empty-body]
async def of_pydantic(ctx: Context, arg: Customer) -> list[Customer]: ...  # type: ignore[empty-body]
async def of_enum(ctx: Context, arg: Color) -> bool: ...  # type: ignore[empty-body]
async def of_builtins(ctx: Context, arg: list[int]) -> float: ...  # type: ignore[empty-body]
async def of_bytes(ctx: Context, arg: bytes) -> bytes: ...  # type: ignore[empty-body]
async def of_own_format(ctx: Context, arg: Annotated[str, ROT]) -> Annotated[str, ROT]: ...  # type: ignore[empty-body]
async def of_nothing(ctx: Context) -> None: ...
async def of_none(ctx: Context, arg: None) -> None: ...
async def of_anything(ctx: Context, arg: Any) -> Any: ...


@pytest.mark.parametrize(
    ("fn", "taken", "given"),
    [
        (of_struct, "JSON 'Item'", "JSON 'Tree'"),
        (of_dataclass, "JSON 'Order'", "JSON array"),
        (of_typed_dict, "JSON 'Address'", "JSON object"),
        (of_attrs, "JSON 'Parcel'", "JSON 'Parcel'"),
        (of_pydantic, "JSON 'Customer'", "JSON array"),
        (of_enum, "JSON 'Color'", "JSON boolean"),
        (of_builtins, "JSON array", "JSON number"),
        (of_anything, "application/json", "application/json"),
        (of_bytes, "application/octet-stream", "application/octet-stream"),
        (of_own_format, "text/x-reversed", "text/x-reversed"),
        (of_nothing, "none", "none"),
        (of_none, "none", "none"),
    ],
)
def test_types_are_described_and_what_is_json_has_a_schema(fn: Any, taken: str, given: str) -> None:
    view = only_handler(handler(fn))
    assert (view.input_description, view.output_description) == (taken, given)
    for description, content_type, schema in (
        (taken, view.input_content_type, view.input_json_schema),
        (given, view.output_content_type, view.output_json_schema),
    ):
        if description == "none":
            assert (content_type, schema) == (None, None)
        elif "JSON" in description:
            assert content_type == "application/json" and schema
        else:
            assert content_type == description and not schema


def test_a_recursive_type_is_described_once_and_refers_to_itself() -> None:
    for fn, name, field in ((of_struct, "Tree", "children"), (of_pydantic, "Customer", "friends")):
        schema = only_handler(handler(fn)).output_json_schema
        assert schema is not None
        items = schema["$defs"][name]["properties"][field]["items"]
        assert items == {"$ref": f"#/$defs/{name}"}


@handler(service="Pages")
async def page(ctx: Context, number: int = 1) -> None: ...


@handler(service="Search")
async def search(ctx: Context, filters: Item | None = None) -> None: ...


@handler(service="Odd")
async def odd(ctx: Context, thing: Item = OPAQUE) -> None: ...


@handler(service="Raw")
async def raw(ctx: Context, data: bytes = b"\xff") -> None: ...


def test_the_schema_of_an_argument_that_may_be_left_out_has_its_default() -> None:
    assert only_handler(page).input_json_schema == {"type": "integer", "default": 1}
    assert only_handler(page).input_description == "JSON integer"
    schema = only_handler(search).input_json_schema
    assert schema is not None and schema["default"] is None and "anyOf" in schema
    schema = only_handler(odd).input_json_schema
    assert schema is not None and "default" not in schema
    assert only_handler(raw).input_json_schema is None


def test_what_one_caller_does_to_a_schema_no_other_sees() -> None:
    registry = registry_of(page)
    [before] = service_views(registry, {})
    schema = before.handlers[0].input_json_schema
    assert schema is not None
    schema.clear()
    [after] = service_views(registry, {})
    assert after.handlers[0].input_json_schema == {"type": "integer", "default": 1}


# ---- notices ----


def test_a_journal_that_is_kept_longer_than_its_invocation_is_noticed() -> None:
    class Long(Service, journal_retention="3d", idempotency_retention="2h"):
        @handler
        async def do(self, ctx: Context) -> None: ...

    view = only_service(Long())
    assert view.info == (
        Notice(
            message="the journal of a call with an idempotency key is kept for 2h, not 3d: "
            "idempotency_retention caps journal_retention",
            code=CAPPED,
        ),
    )
    assert codes(view.handlers[0]) == []


def test_a_notice_stands_where_the_option_does() -> None:
    class Mixed(Workflow):
        @handler(journal_retention="3d")
        async def run(self, ctx: WorkflowContext) -> None: ...

        @handler
        async def look(self, ctx: SharedWorkflowContext) -> None: ...

    registry = registry_of(Mixed())
    [view] = service_views(registry, {})
    assert {one.name: codes(one) for one in view.handlers} == {"look": [], "run": [CAPPED]}
    assert codes(view) == []

    configure(registry, "Mixed", idempotency_retention="1h")
    [view] = service_views(registry, {})
    assert {one.name: codes(one) for one in view.handlers} == {"look": [], "run": [CAPPED]}
    assert codes(view) == [CAPPED]

    configure(registry, "Mixed", workflow_completion_retention="10d")
    [view] = service_views(registry, {})
    assert codes(view) == [] and not any(codes(one) for one in view.handlers)


def test_where_every_handler_decides_for_itself_the_service_needs_no_notice() -> None:
    class Spoken(Service, journal_retention="3d"):
        @handler(idempotency_retention="4d")
        async def keep(self, ctx: Context) -> None: ...

        @handler(journal_retention="1h")
        async def forget(self, ctx: Context) -> None: ...

    view = only_service(Spoken())
    assert codes(view) == [] and not any(codes(one) for one in view.handlers)


def test_an_option_without_effect_is_noticed() -> None:
    class Plain(Service, workflow_completion_retention="3d"):
        @handler
        async def do(self, ctx: Context) -> None: ...

    class Flow(Workflow, workflow_completion_retention="3d"):
        @handler(idempotency_retention="3d")
        async def run(self, ctx: WorkflowContext) -> None: ...

        @handler(workflow_completion_retention="3d")
        async def look(self, ctx: SharedWorkflowContext) -> None: ...

    assert codes(only_service(Plain())) == [IGNORED]
    view = only_service(Flow())
    assert codes(view) == []
    assert {one.name: codes(one) for one in view.handlers} == {"look": [IGNORED], "run": [IGNORED]}


def test_retentions_are_noticed_as_capped_exactly_where_invocations_are() -> None:
    names = ("journal_retention", "idempotency_retention", "workflow_completion_retention")
    for said in itertools.product((None, "1h", "3d"), repeat=6):
        chosen = [
            {name: text for name, text in zip(names, half, strict=True) if text} for half in (said[:3], said[3:])
        ]
        registry = registry_of(both(*chosen)())
        [view] = service_views(registry, {})
        for shown in view.handlers:
            found = registry.find(f"{view.name}/{shown.name}")
            idempotency_key = None if shown.name == "run" else "once"
            submission = found.submission(
                "",
                b"",
                key="k",
                headers={},
                idempotency_key=idempotency_key,
                caller=None,
                due_at=None,
                id_span=READABLE,
                observer=None,
            )
            is_capped = submission.journal_retention_ms < (found.settings.journal_retention_ms or 0)
            cap = "workflow_completion_retention" if shown.name == "run" else "idempotency_retention"
            here = chosen[1] if shown.name == "run" else {}
            speaks = shown if {"journal_retention", cap} & here.keys() else view
            noticed = [notice for notice in speaks.info if notice.code == CAPPED and f" {cap} caps" in notice.message]
            assert len(noticed) == is_capped, (chosen, shown.name)


def both(of_class: Mapping[str, Any], of_run: Mapping[str, Any]) -> type[Workflow]:
    class Both(Workflow, **of_class):
        @handler(**of_run)
        async def run(self, ctx: WorkflowContext) -> None: ...

        @handler
        async def look(self, ctx: SharedWorkflowContext) -> None: ...

    return Both


# ---- declarations: what is a change ----


def method(
    returns: Any = int,
    takes: Any = str,
    default: Any = None,
    doc: str | None = "Works.",
    name: str = "work",
    **options: Any,
) -> Any:
    async def work(self: Any, ctx: ObjectContext, arg: Any) -> Any: ...

    work.__annotations__ = {"arg": takes, "return": returns}
    work.__doc__ = doc
    work.__defaults__ = None if default is None else (default,)
    return handler(name=name, **options)(work)


def worker(*handlers: Any, base: Any = VirtualObject, doc: str | None = "Does it.", **options: Any) -> Registry:
    body = {one.name: one for one in handlers or (method(),)}
    declared = type(base)("Worker", (base,), {"__doc__": doc, **body}, **options)
    return registry_of(declared())


def digest(registry: Registry) -> str:
    return declaration(registry, "Worker")


class Smaller(msgspec.Struct):
    name: str


class Other:
    class Smaller(msgspec.Struct):
        name: str
        note: str = ""


#: Each one declares something different.
CHANGES: dict[str, Callable[[], Registry]] = {
    "nothing": worker,
    "a handler more": lambda: worker(method(), method(name="rest")),
    "a handler of another name": lambda: worker(method(name="rest")),
    "shared": lambda: worker(method(shared=True)),
    "another kind": lambda: worker(base=Service),
    "another result": lambda: worker(method(returns=str)),
    "another argument": lambda: worker(method(takes=int)),
    "raw bytes": lambda: worker(method(takes=bytes)),
    "another format": lambda: worker(method(takes=Annotated[str, ROT])),
    "a default": lambda: worker(method(default="a")),
    "another default": lambda: worker(method(default="b")),
    "raw bytes and a default": lambda: worker(method(takes=bytes, default=b"")),
    "a struct": lambda: worker(method(takes=Smaller)),
    "a struct with a field more": lambda: worker(method(takes=Other.Smaller)),
    "a model": lambda: worker(method(takes=Customer)),
    "another docstring": lambda: worker(method(doc="Works hard.")),
    "no docstring": lambda: worker(method(doc=None)),
    "another docstring of the class": lambda: worker(doc="Does it well."),
    "no docstring of the class": lambda: worker(doc=None),
    "an option": lambda: worker(method(abort_timeout="1h")),
    "another option": lambda: worker(method(inactivity_timeout="1h")),
    "another value": lambda: worker(method(abort_timeout="2h")),
    "what the default is": lambda: worker(method(abort_timeout="10m")),
    "private": lambda: worker(method(public=False)),
    "public": lambda: worker(method(public=True)),
    "a retry policy": lambda: worker(method(retry=RetryPolicy(max_attempts=3))),
    "no limit": lambda: worker(method(retry=RetryPolicy(max_attempts=None))),
    "metadata": lambda: worker(method(metadata={"team": "a"})),
    "an option of the class": lambda: worker(abort_timeout="1h"),
    "a private class": lambda: worker(public=False),
    "a retry policy of the class": lambda: worker(retry=RetryPolicy(max_attempts=3)),
    "metadata of the class": lambda: worker(metadata={"team": "a"}),
    "other metadata of the class": lambda: worker(metadata={"team": "b"}),
}


def test_every_change_of_what_is_declared_changes_the_declaration() -> None:
    seen: dict[str, str] = {}
    for name, make in CHANGES.items():
        found = digest(make())
        assert found == digest(make()), f"{name}: declared twice"
        assert found not in seen, f"{name} is taken for {seen[found]}"
        seen[found] = name


def test_the_same_said_in_other_words_is_no_change() -> None:
    same = [
        (
            worker(method(abort_timeout="90s", retry=RetryPolicy(max_interval="1m", factor=2))),
            worker(method(abort_timeout=90, retry=RetryPolicy(max_interval=60.0, factor=2.0))),
        ),
        (worker(method(), method(name="rest")), worker(method(name="rest"), method())),
        (worker(metadata={"a": "1", "b": "2"}), worker(metadata={"b": "2", "a": "1"})),
    ]
    for one, other in same:
        assert digest(one) == digest(other)


def test_what_the_engine_says_and_what_was_configured_is_no_change() -> None:
    other = msgspec.structs.replace(
        DEFAULTS, public=False, retry=RetryPolicy(max_attempts=1), journal_retention_ms=0, abort_timeout_ms=1
    )
    registry = registry_of(Shop(), SignUp())
    before = {service: declaration(registry, service) for service in ("Shop", "SignUp")}
    configure(registry, "Shop", public=True, journal_retention="9d")
    configure(registry, "SignUp", workflow_completion_retention="1h")  # which adds a notice
    elsewhere = registry_of(SignUp(), Shop(), Mail(), defaults=other)
    for service, found in before.items():
        assert declaration(registry, service) == found
        assert declaration(elsewhere, service) == found


def test_all_declarations_together_name_the_deployment() -> None:
    def deployment(*services: object) -> str:
        registry = registry_of(*services)
        [name] = {view.deployment_id for view in service_views(registry, {})}
        assert name == deployment_id(registry)
        return name

    first = deployment(Mail(), Basket())
    assert first.startswith("dp_1") and len(first) == 26 and first[4:].isalnum()
    assert deployment(Basket(), Mail()) == first
    assert deployment(Basket()) != deployment(Mail()) != first
    assert deployment(Mail(), Basket(), ping) != first


# ---- the same in every process ----

Size = Literal["s", "m", "l", "xl"]


class Basics(msgspec.Struct):
    tags: frozenset[str] = frozenset({"red", "green", "blue", "black"})
    size: Size = "m"
    color: Color = Color.RED
    either: int | str | None = None
    anything: Any = frozenset({"one", "two", "three"})


class Profile(pydantic.BaseModel):
    tags: frozenset[str] = frozenset({"red", "green", "blue", "black"})
    sizes: set[Size] = {"s", "m", "l"}
    both: dict[str, set[str]] = {"a": {"x", "y", "z"}}


class Sample(pydantic.BaseModel):
    sizes: set[Size] = pydantic.Field(examples=[{"s", "xl", "m"}])


@handler(service="Samples")
async def sampled(ctx: Context, arg: Sample) -> None: ...


@dataclasses.dataclass
class Hashed(Service, metadata={"b": "1", "a": "2", "c": "3"}):
    client: object = dataclasses.field(default=object())

    @handler
    async def basics(self, ctx: Context, arg: Basics = Basics()) -> set[str]:  # noqa: B008
        return set()

    @handler
    async def profile(self, ctx: Context, arg: Profile = Profile()) -> Profile:  # noqa: B008
        return arg

    @handler
    async def plain(self, ctx: Context, arg: frozenset[str] = frozenset({"a", "b", "c", "d"})) -> None: ...

    @handler
    async def default(self, ctx: Context, arg: Profile | None) -> tuple[int, str]:
        return (1, "")


def everything() -> str:
    registry = registry_of(Hashed(), Basket(), Shop(), SignUp(), sampled, ping)
    found = [declaration(registry, service) for service in sorted(registry.declared)]
    return " ".join([*found, deployment_id(registry)])


def test_a_declaration_is_the_same_in_every_process() -> None:
    root = Path(__file__).parents[2]
    code = "from tests.views.test_services import everything; print(everything())"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2", "3")
    ]
    printed = {process.communicate(timeout=60)[0].strip() for process in running}
    assert printed == {everything()}


# ---- cost ----


def test_nothing_is_described_before_somebody_asks() -> None:
    asked: list[str] = []

    def schema() -> dict[str, Any]:
        asked.append("schema")
        return {"type": "string"}

    lazy = Serde[str](ROT.encode, ROT.decode, "application/json", schema)

    @handler(service="Lazy")
    async def lazily(ctx: Context, arg: Annotated[str, lazy]) -> None: ...

    registry = registry_of(lazily)
    assert not asked
    assert service_views(registry, {})[0].handlers[0].input_json_schema == {"type": "string"}
    assert asked == ["schema"]


def test_a_declaration_is_made_within_a_millisecond() -> None:
    registry = registry_of(Basket(), Shop(), SignUp())

    def took(service: str) -> float:
        began = time.perf_counter()
        declaration(registry, service)
        return time.perf_counter() - began

    for service in registry.declared:
        assert min(took(service) for _ in range(20)) < 0.001


def test_a_service_without_pydantic_types_is_described_without_pydantic() -> None:
    code = (
        "import sys; from durable import *; from durable.runtime.registry import Registry; "
        "from durable.views.services import declaration; from durable.service import Settings\n"
        "async def f(ctx: Context, arg: int) -> str: ...\n"
        "declaration(Registry([handler(service='S')(f)], Settings()), 'S')\n"
        "print(*sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not [name for name in printed.split() if name.startswith("pydantic")]
