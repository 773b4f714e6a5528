"""Handlers that cannot work as they are declared are refused where the engine is made, not when they run."""

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
