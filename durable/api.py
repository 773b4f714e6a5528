"""What can be asked of an engine, whether it runs in this process or in another one.

`Engine` and `Client` both fulfil `EngineApi`: code that is annotated with it works with either.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from durable.client import Applied, Handle
from durable.core.duration import Duration
from durable.kafka.state import ClusterView, SubscriptionView
from durable.runtime.deadlocks import Deadlock
from durable.service import Configuration, Handler
from durable.views.invocations import InvocationPage, InvocationView, JournalPage
from durable.views.state import StateView

if TYPE_CHECKING:  # schemas need libraries that a start should not wait for
    from durable.views.services import ServiceView

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
F = TypeVar("F")


def typed_as(declared: F) -> Callable[[Callable[..., Any]], F]:
    """A method that type checkers see with the signatures of `declared`, which has them once for all who fulfil it.

    (That its own parameters are the same is what `tests/remote/test_api.py` looks at.)
    """
    return lambda method: cast(F, method)


class Wanted(TypedDict, total=False):
    """Which invocations to list. None means no condition."""

    service: str | None
    handler: str | None
    key: str | None
    #: One of scheduled, pending, ready, running, backing-off, suspended, paused, completed, or several.
    status: str | Iterable[str] | None
    #: Why it was paused at once: a reason that `resume_all` also takes.
    reason: str | None
    #: Accepted at this moment or later, or before it, in ms since the epoch.
    created_after: int | None
    created_before: int | None
    #: Text in the last failure, or in the failure that it ended with. Case-sensitive.
    failure: str | None
    #: The id of the invocation that called or sent it.
    caller: str | None
    idempotency_key: str | None


class Invokes(Protocol):
    """Invoking handlers. A target is a handler, or "service/handler"."""

    @overload
    async def call(
        self,
        target: Handler[None, O],
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> O: ...
    @overload
    async def call(
        self,
        target: Handler[I, O],
        arg: I,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> O: ...
    @overload
    async def call(
        self,
        target: str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any: ...
    async def call(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Invoke a handler and wait for its result.

        With an idempotency key, a repeated call gets the result of the first. Raises the invocation's
        `TerminalError`; `NotFoundError` for an unknown handler; `InvalidRequestError` or `SerializationError` for a
        bad key or argument; `ValueTooLargeError` (413).
        """
        ...

    @overload
    async def send(
        self,
        target: Handler[None, O],
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Handle[O]: ...
    @overload
    async def send(
        self,
        target: Handler[I, O],
        arg: I,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Handle[O]: ...
    @overload
    async def send(
        self,
        target: str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Handle[Any]: ...
    async def send(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Handle[Any]:
        """Invoke a handler, now or after `delay`, without waiting for its result. Returns once that is durable.

        Raises the same errors as `call`, except those of the handler: they come from `handle.result()`.
        """
        ...


class EngineApi(Invokes, Protocol):
    """What `Engine` and `Client` have in common; `Engine` documents each method.

    They raise the same errors; a `Client` may also raise an `EngineUnreachableError`.
    """

    # ---- finding again ----

    @overload
    def invocation(self, id: str, /) -> Handle[Any]: ...
    @overload
    def invocation(self, id: str, type: type[O], /) -> Handle[O]: ...
    @overload
    def invocation(self, id: str, type: Any, /) -> Handle[Any]: ...
    def invocation(self, id: str, type: Any = Any, /) -> Handle[Any]:
        """The handle of an invocation. It is not looked up until it is used."""
        ...

    def workflow(self, target: Handler[Any, O] | str, key: str) -> Handle[O]:
        """The handle of a workflow's run, by its key."""
        ...

    def idempotent(self, target: Handler[Any, O] | str, idempotency_key: str, *, key: str | None = None) -> Handle[O]:
        """The handle of the invocation that an idempotency key names."""
        ...

    @overload
    async def attach(self, id: str, /) -> Any: ...
    @overload
    async def attach(self, id: str, type: type[O], /) -> O: ...
    @overload
    async def attach(self, id: str, type: Any, /) -> Any: ...
    async def attach(self, id: str, type: Any = Any, /) -> Any:
        """Wait for an invocation's result, decoded as `type`."""
        ...

    @overload
    async def output(self, id: str, /) -> Any: ...
    @overload
    async def output(self, id: str, type: type[O], /) -> O: ...
    @overload
    async def output(self, id: str, type: Any, /) -> Any: ...
    async def output(self, id: str, type: Any = Any, /) -> Any:
        """An invocation's result as it is now."""
        ...

    # ---- steering ----

    async def cancel(
        self, id: str, *, kill: bool = False, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Applied:
        """Ask an invocation to stop, and let it compensate."""
        ...

    async def kill(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """End an invocation now, without running any more of its code."""
        ...

    async def pause(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """Let running steps end; then nothing happens until it is resumed or cancelled."""
        ...

    async def resume(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """Start a paused invocation again; retry at once one that is backing off."""
        ...

    async def resume_all(self, *, reason: str | None = None, service: str | None = None) -> list[str]:
        """Resume every paused invocation, or those of one service, or those paused for one reason."""
        ...

    async def restart_as_new(
        self, id: str, *, from_entry: int = 0, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Handle[Any]:
        """Run a completed invocation again, as a new one."""
        ...

    async def purge(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """Forget a completed invocation."""
        ...

    async def purge_journal(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """Forget the journal of a completed invocation."""
        ...

    # ---- completing from outside ----

    async def resolve_awakeable(self, id: str, value: Any = None, *, idempotency_key: str | None = None) -> Applied:
        """Complete an awakeable."""
        ...

    async def reject_awakeable(
        self, id: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> Applied:
        """Complete an awakeable with a `TerminalError`."""
        ...

    async def send_signal(
        self, id: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> Applied:
        """Send a named signal to an invocation."""
        ...

    async def reject_signal(
        self, id: str, name: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> Applied:
        """Send a failure as a named signal."""
        ...

    async def resolve_promise(
        self, workflow: str, key: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> None:
        """Settle a workflow's promise."""
        ...

    async def reject_promise(
        self,
        workflow: str,
        key: str,
        name: str,
        message: str,
        code: int = 500,
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """Settle a workflow's promise with a `TerminalError`."""
        ...

    # ---- reading ----

    async def invocations(
        self, *, limit: int = 100, before: InvocationView | None = None, **wanted: Unpack[Wanted]
    ) -> list[InvocationView]:
        """Invocations, newest first. For the next page, pass the last one as `before`."""
        ...

    async def page(
        self, *, limit: int = 100, cursor: str | None = None, counts: bool = False, **wanted: Unpack[Wanted]
    ) -> InvocationPage:
        """A page of what `invocations` lists, in bounded time."""
        ...

    async def count_invocations(self, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """How many invocations there are, by status."""
        ...

    async def describe(self, id: str) -> InvocationView:
        """All that is known of one invocation, with its journal."""
        ...

    async def journal(self, id: str, *, after: int | None = None, limit: int = 1000) -> JournalPage:
        """A page of an invocation's journal."""
        ...

    async def deadlocks(self) -> list[Deadlock]:
        """Handlers that wait for each other in a circle."""
        ...

    async def services(self) -> "list[ServiceView]":
        """The services: their types, schemas, documentation, options in force, and revision."""
        ...

    async def service(self, name: str) -> "ServiceView":
        """One of the services."""
        ...

    async def configure(self, service: str, **options: Unpack[Configuration]) -> None:
        """Set options of a service at run time."""
        ...

    async def get_state(self, service: str, key: str) -> StateView:
        """The committed state of one key of a virtual object or workflow."""
        ...

    async def patch_state(
        self,
        service: str,
        key: str,
        state: Mapping[str, Any],
        *,
        expected_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Replace the whole state of one key."""
        ...

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy of the database to a new file."""
        ...

    # ---- Kafka ----

    async def subscribe(
        self,
        source: str,
        sink: str | Handler[Any, Any],
        options: Mapping[str, str] | None = None,
        *,
        again: bool = False,
        idempotency_key: str | None = None,
    ) -> SubscriptionView:
        """Invoke a handler for each record of a topic."""
        ...

    async def subscriptions(self, *, source: str | None = None, sink: str | None = None) -> list[SubscriptionView]:
        """All subscriptions, oldest first, and how each of them is doing."""
        ...

    async def subscription(self, id: str) -> SubscriptionView:
        """One subscription."""
        ...

    async def unsubscribe(self, id: str, *, idempotency_key: str | None = None) -> None:
        """Delete a subscription."""
        ...

    async def pause_subscription(self, id: str) -> None:
        """Stop a subscription from reading until it is resumed."""
        ...

    async def resume_subscription(
        self,
        id: str,
        *,
        position: Literal["stored", "committed", "earliest", "latest"] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Let a subscription go on, perhaps from another position."""
        ...

    async def kafka_clusters(self) -> list[ClusterView]:
        """All Kafka clusters that subscriptions can name."""
        ...

    async def kafka_cluster(self, name: str) -> ClusterView:
        """One Kafka cluster."""
        ...

    async def add_kafka_cluster(
        self, name: str, properties: Mapping[str, str], *, idempotency_key: str | None = None
    ) -> ClusterView:
        """Keep a Kafka cluster in the file."""
        ...

    async def change_kafka_cluster(self, name: str, properties: Mapping[str, str]) -> ClusterView:
        """Replace the options of a cluster that is kept in the file."""
        ...

    async def remove_kafka_cluster(
        self, name: str, *, force: bool = False, idempotency_key: str | None = None
    ) -> None:
        """Forget a cluster that is kept in the file."""
        ...
