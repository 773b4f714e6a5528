"""Handlers that cannot work as they are declared are refused where the engine is made, not when they run."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    Context,
    DeclarationError,
    Engine,
    Handler,
    ObjectContext,
    Service,
    SharedObjectContext,
    SharedWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)

#: What each kind of handler gets.
GIVEN: dict[str, type[Context]] = {
    "function": Context,
    "service": Context,
    "exclusive": ObjectContext,
    "shared": SharedObjectContext,
    "run": WorkflowContext,
    "workflow's other": SharedWorkflowContext,
}
ANNOTATIONS: list[Any] = [
    Context,
    ObjectContext,
    SharedObjectContext,
    WorkflowContext,
    SharedWorkflowContext,
    Any,
    None,
    "Absent",
]


def method(annotation: Any, name: str = "work", **options: Any) -> Any:
    async def work(self: Any, ctx: Any) -> None:
        raise AssertionError("never called")

    work.__annotations__["ctx"] = annotation
    if annotation is None:
        del work.__annotations__["ctx"]
    declare: Callable[[Any], Handler[Any, Any]] = handler(name=name, **options)
    return declare(work)


def declared(kind: str, annotation: Any) -> object:
    if kind == "function":

        async def work(ctx: Any) -> None:
            raise AssertionError("never called")

        work.__annotations__["ctx"] = annotation
        if annotation is None:
            del work.__annotations__["ctx"]
        return handler(service="Worker")(work)
    base: Any = {"service": Service, "exclusive": VirtualObject, "shared": VirtualObject}.get(kind, Workflow)
    body = {"work": method(annotation, shared=kind == "shared")}
    if base is Workflow:
        body = {"run": method(annotation if kind == "run" else Any, "run"), "work": method(Any)}
        if kind != "run":
            body["work"] = method(annotation)
    return type(base)("Worker", (base,), body)()


@pytest.mark.parametrize("kind", GIVEN)
def test_a_context_that_a_handler_does_not_get_is_refused(kind: str) -> None:
    given = GIVEN[kind]
    for annotation in ANNOTATIONS:
        if annotation not in GIVEN.values() or issubclass(given, annotation):
            Engine(":memory:", services=[declared(kind, annotation)])
            continue
        with pytest.raises(DeclarationError) as caught:
            Engine(":memory:", services=[declared(kind, annotation)])
        assert annotation.__name__ in str(caught.value)
        assert f"gets a {given.__name__}" in str(caught.value)
        assert "Worker/" in str(caught.value)


def test_shared_is_refused_where_handlers_always_run_beside_each_other() -> None:
    async def work(ctx: Context) -> None:
        raise AssertionError("never called")

    class Worker(Service):
        @handler(shared=True)
        async def work(self, ctx: Context) -> None:
            raise AssertionError("never called")

    declare: Any = handler(service="Worker", shared=True)
    for service in (declare(work), Worker()):
        with pytest.raises(DeclarationError, match="Worker/work: shared=True is for handlers of a VirtualObject"):
            Engine(":memory:", services=[service])


# ---- what cannot be a handler ----


class Unstorable:
    """Nobody knows how to write it."""


async def plain(ctx: Context) -> None:
    raise AssertionError("never called")


#: `class Name(*bases): …`, for what a type checker refuses.
make: Any = type


def make_static(how: Any) -> Any:
    return how(plain)


def refused(declare: Callable[[], object]) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


def test_what_cannot_be_stored_names_the_handler_and_its_parameter() -> None:
    @handler(service="Shop")
    async def takes(ctx: Context, money: Unstorable) -> None: ...

    @handler(service="Shop")
    async def gives(ctx: Context) -> Unstorable:
        return Unstorable()

    class Box(VirtualObject):
        @handler
        async def put(self, ctx: ObjectContext, it: Unstorable) -> None: ...

    told = [refused(lambda one=one: Engine(":memory:", services=[one])) for one in (takes, gives, Box())]  # type: ignore[misc]
    wanted = ("Shop/takes: its input 'money'", "Shop/gives: what it returns", "Box/put: its input 'it'")
    for text, begin in zip(told, wanted, strict=True):
        assert text.startswith(f"{begin} cannot be stored: cannot store `Unstorable`")


@pytest.mark.parametrize("annotation", [int, str, Engine, list[int]])
def test_a_first_parameter_that_is_no_context_is_refused(annotation: Any) -> None:
    for kind, given in GIVEN.items():
        if kind == "workflow's other":
            continue  # its `run` is refused first
        text = refused(lambda kind=kind: Engine(":memory:", services=[declared(kind, annotation)]))  # type: ignore[misc]
        assert "is the context" in text
        assert f"ctx: {given.__name__}" in text


def test_a_context_of_ones_own_is_refused() -> None:
    """Nobody would make one."""

    class MyContext(Context):
        pass

    assert "is the context, but is annotated as MyContext: write" in refused(
        lambda: Engine(":memory:", services=[declared("function", MyContext)])
    )


@pytest.mark.parametrize(
    ("wrong", "way"),
    [
        (functools.partial(plain), "not a functools.partial: write `async def name(ctx, …): return await plain(…)`"),
        (make_static(staticmethod), "not a staticmethod: write an ordinary method"),
        (make_static(classmethod), "not a classmethod: write an ordinary method"),
        (lambda ctx: None, "write `async def <lambda>(…)`"),
        (
            refused,
            "@handler refused: a handler is an `async def` function taking a context: write `async def refused(…)`",
        ),
        (Unstorable, "decorate its methods"),
        (Unstorable(), "a handler is an `async def` function taking a context"),
    ],
)
def test_what_is_no_async_function_is_refused_with_what_to_write(wrong: Any, way: str) -> None:
    declare: Any = handler
    assert way in refused(lambda: declare(wrong))
    assert way in refused(lambda: handler(name="named")(wrong))


def test_a_generator_is_refused() -> None:
    async def yields(ctx: Context) -> Any:
        yield 1

    assert "not a generator: it returns its result" in refused(lambda: handler(yields))


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_handler_that_is_made_static_afterwards_is_refused(kind: Any) -> None:
    body = {"work": kind(handler(plain))}
    text = refused(lambda: make("Shop", (Service,), body))
    assert f"@handler Shop.work is a {kind.__name__}" in text
    assert "async def work(self, ctx, …)" in text


def test_a_class_that_is_no_service_cannot_have_handlers() -> None:
    class Audits:
        @handler
        async def audit(self, ctx: Context) -> None: ...

    way = "Audits.audit: a class with handlers derives from Service, VirtualObject or Workflow: write `class Au"
    assert way in refused(lambda: Engine(":memory:", services=[Audits()]))
    assert way in refused(lambda: make("Shop", (Audits, Service), {}))
    assert way in refused(lambda: Audits.audit.service_name)


def test_a_mixin_that_is_a_service_lends_its_handlers() -> None:
    class Audits(Service):
        @handler
        async def audit(self, ctx: Context) -> str:
            return type(self).__name__

    class Shop(Audits):
        @handler
        async def sell(self, ctx: Context) -> None: ...

    Engine(":memory:", services=[Shop()])
    assert [one.name for one in Shop.handlers()] == ["audit", "sell"]


def test_a_class_of_two_kinds_is_refused() -> None:
    assert "class Both is both a Service and a VirtualObject" in refused(
        lambda: make("Both", (Service, VirtualObject), {})
    )


@pytest.mark.parametrize("hides", [plain, None, 7, property(lambda self: 1)])
def test_a_subclass_that_hides_a_handler_is_refused(hides: Any) -> None:
    class Base(Service):
        @handler
        async def work(self, ctx: Context) -> None: ...

    text = refused(lambda: make("Derived", (Base,), {"work": hides}))
    assert "Derived.work hides the handler Base.work: decorate it with @handler, too" in text


def test_a_subclass_may_take_the_place_of_a_handler() -> None:
    class Base(Service):
        @handler
        async def work(self, ctx: Context) -> int:
            return 1

    class Derived(Base):
        @handler
        async def work(self, ctx: Context) -> int:
            return 2

    async def story() -> int:
        async with Engine(":memory:", services=[Derived()]) as engine:
            return await engine.call(Derived.work)

    assert asyncio.run(story()) == 2
