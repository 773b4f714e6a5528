"""The client for code that blocks: `def` endpoints, Django, scripts, notebooks.

Its event loop runs in a thread of its own, so it works in any thread, beside any event loop, and after a fork.
"""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, Unpack, overload

from durable.api import Wanted
from durable.client import Applied, Handle
from durable.core.duration import Duration, parse
from durable.errors import InvalidRequestError
from durable.kafka.state import ClusterView, SubscriptionView
from durable.remote.background import Ask, Background
from durable.remote.client import Client
from durable.runtime.deadlocks import Deadlock
from durable.service import Configuration, Handler
from durable.views.invocations import InvocationPage, InvocationView, JournalPage
from durable.views.state import StateView

if TYPE_CHECKING:
    from durable.views.services import ServiceView

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class SyncHandle(Generic[T_co]):
    """An accepted invocation, as `Handle` is."""

    def __init__(self, client: "SyncClient", handle: Handle[T_co]) -> None:
        self._client = client
        self._handle = handle

    @property
    def id(self) -> str:
        """The invocation's id."""
        return self._handle.id

    @property
    def accepted(self) -> bool:
        """False if an idempotency key named an invocation that already existed."""
        return self._handle.accepted

    @property
    def input_differs(self) -> bool:
        """Whether that one was accepted with another input: the result is the first one's."""
        return self._handle.input_differs

    def result(self, timeout: Duration | None = None) -> T_co:
        """Wait for the result. Raises the invocation's `TerminalError`; `NotFoundError` once it is forgotten.

        Raises `TimeoutError` if it takes longer than `timeout`; the invocation goes on.
        """
        return self._client._run(lambda _: self._handle.result(), timeout)

    def output(self) -> T_co:
        """The result as it is now. Raises `OutputNotReadyError` (470) while there is none."""
        return self._client._run(lambda _: self._handle.output())

    def cancel(self, *, kill: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.cancel`."""
        return self._client._run(lambda _: self._handle.cancel(kill=kill, idempotency_key=idempotency_key))

    def describe(self) -> InvocationView:
        """See `Engine.describe`."""
        return self._client._run(lambda _: self._handle.describe())

    def __repr__(self) -> str:
        return repr(self._handle)


class SyncClient:
    """An engine that runs in another process, or on the event loop of another thread: made by `connect_sync`.

        with durable.connect_sync("orders.db") as client:
            receipt = client.call(checkout, order, idempotency_key=order.id)

    It has the methods of `Client`, which block until they have an answer. Any thread may use it. It can be a global
    variable: each process opens it when it first uses it, and it need not be closed.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._background = Background(client)

    # ---- life ----

    def open(self) -> Self:
        """Check that an engine answers there; `with` does this. Raises `EngineUnreachableError`."""
        self._run(_nothing)
        return self

    def close(self) -> None:
        """End its thread and let the connections go. Idempotent; it is opened again when it is used again."""
        self._background.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, ask: Ask[T], timeout: Duration | None = None) -> T:
        """Have it done on the event loop, and wait. Whoever is interrupted meanwhile stops waiting."""
        try:
            seconds = None if timeout is None else parse(timeout) / 1000
        except ValueError as error:
            raise InvalidRequestError(f"timeout: {error}") from None
        return self._background.run(ask, seconds)

    # ---- invoking ----

    @overload
    def call(
        self,
        target: Handler[None, O],
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> O: ...
    @overload
    def call(
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
    def call(
        self,
        target: str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any: ...
    def call(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """See `Engine.call`."""
        return self._run(
            lambda client: client.call(target, arg, key=key, idempotency_key=idempotency_key, headers=headers)
        )

    @overload
    def send(
        self,
        target: Handler[None, O],
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SyncHandle[O]: ...
    @overload
    def send(
        self,
        target: Handler[I, O],
        arg: I,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SyncHandle[O]: ...
    @overload
    def send(
        self,
        target: str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SyncHandle[Any]: ...
    def send(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SyncHandle[Any]:
        """See `Engine.send`."""
        return SyncHandle(
            self,
            self._run(
                lambda client: client.send(
                    target, arg, key=key, delay=delay, idempotency_key=idempotency_key, headers=headers
                )
            ),
        )

    # ---- finding again ----

    @overload
    def invocation(self, id: str, /) -> SyncHandle[Any]: ...
    @overload
    def invocation(self, id: str, type: type[O], /) -> SyncHandle[O]: ...
    @overload
    def invocation(self, id: str, type: Any, /) -> SyncHandle[Any]: ...
    def invocation(self, id: str, type: Any = Any, /) -> SyncHandle[Any]:
        """See `Engine.invocation`."""
        return SyncHandle(self, self._client.invocation(id, type))

    def workflow(self, target: Handler[Any, O] | str, key: str) -> SyncHandle[O]:
        """See `Engine.workflow`."""
        return SyncHandle(self, self._client.workflow(target, key))

    def idempotent(
        self, target: Handler[Any, O] | str, idempotency_key: str, *, key: str | None = None
    ) -> SyncHandle[O]:
        """See `Engine.idempotent`."""
        return SyncHandle(self, self._client.idempotent(target, idempotency_key, key=key))

    @overload
    def attach(self, id: str, /) -> Any: ...
    @overload
    def attach(self, id: str, type: type[O], /) -> O: ...
    @overload
    def attach(self, id: str, type: Any, /) -> Any: ...
    def attach(self, id: str, type: Any = Any, /) -> Any:
        """See `Engine.attach`."""
        return self._run(lambda client: client.attach(id, type))

    @overload
    def output(self, id: str, /) -> Any: ...
    @overload
    def output(self, id: str, type: type[O], /) -> O: ...
    @overload
    def output(self, id: str, type: Any, /) -> Any: ...
    def output(self, id: str, type: Any = Any, /) -> Any:
        """See `Engine.output`."""
        return self._run(lambda client: client.output(id, type))

    # ---- steering ----

    def cancel(
        self, id: str, *, kill: bool = False, dry_run: bool = False, idempotency_key: str | None = None
    ) -> Applied:
        """See `Engine.cancel`."""
        return self._run(
            lambda client: client.cancel(id, kill=kill, dry_run=dry_run, idempotency_key=idempotency_key)
        )

    def kill(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.kill`."""
        return self._run(lambda client: client.kill(id, dry_run=dry_run, idempotency_key=idempotency_key))

    def pause(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.pause`."""
        return self._run(lambda client: client.pause(id, dry_run=dry_run, idempotency_key=idempotency_key))

    def resume(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.resume`."""
        return self._run(lambda client: client.resume(id, dry_run=dry_run, idempotency_key=idempotency_key))

    def resume_all(self, *, reason: str | None = None, service: str | None = None) -> list[str]:
        """See `Engine.resume_all`."""
        return self._run(lambda client: client.resume_all(reason=reason, service=service))

    def restart_as_new(
        self, id: str, *, from_entry: int = 0, dry_run: bool = False, idempotency_key: str | None = None
    ) -> SyncHandle[Any]:
        """See `Engine.restart_as_new`."""
        return SyncHandle(
            self,
            self._run(
                lambda client: client.restart_as_new(
                    id, from_entry=from_entry, dry_run=dry_run, idempotency_key=idempotency_key
                )
            ),
        )

    def purge(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """See `Engine.purge`."""
        self._run(lambda client: client.purge(id, dry_run=dry_run, idempotency_key=idempotency_key))

    def purge_journal(self, id: str, *, dry_run: bool = False, idempotency_key: str | None = None) -> None:
        """See `Engine.purge_journal`."""
        self._run(lambda client: client.purge_journal(id, dry_run=dry_run, idempotency_key=idempotency_key))

    # ---- completing from outside ----

    def resolve_awakeable(self, id: str, value: Any = None, *, idempotency_key: str | None = None) -> None:
        """See `Engine.resolve_awakeable`."""
        self._run(lambda client: client.resolve_awakeable(id, value, idempotency_key=idempotency_key))

    def reject_awakeable(self, id: str, message: str, code: int = 500, *, idempotency_key: str | None = None) -> None:
        """See `Engine.reject_awakeable`."""
        self._run(lambda client: client.reject_awakeable(id, message, code, idempotency_key=idempotency_key))

    def send_signal(self, id: str, name: str, value: Any = None, *, idempotency_key: str | None = None) -> None:
        """See `Engine.send_signal`."""
        self._run(lambda client: client.send_signal(id, name, value, idempotency_key=idempotency_key))

    def reject_signal(
        self, id: str, name: str, message: str, code: int = 500, *, idempotency_key: str | None = None
    ) -> None:
        """See `Engine.reject_signal`."""
        self._run(lambda client: client.reject_signal(id, name, message, code, idempotency_key=idempotency_key))

    def resolve_promise(
        self, workflow: str, key: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> None:
        """See `Engine.resolve_promise`."""
        self._run(lambda client: client.resolve_promise(workflow, key, name, value, idempotency_key=idempotency_key))

    def reject_promise(
        self,
        workflow: str,
        key: str,
        name: str,
        message: str,
        code: int = 500,
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """See `Engine.reject_promise`."""
        self._run(
            lambda client: client.reject_promise(workflow, key, name, message, code, idempotency_key=idempotency_key)
        )

    # ---- reading ----

    def invocations(
        self, *, limit: int = 100, before: InvocationView | None = None, **wanted: Unpack[Wanted]
    ) -> list[InvocationView]:
        """See `Engine.invocations`."""
        return self._run(lambda client: client.invocations(limit=limit, before=before, **wanted))

    def page(
        self, *, limit: int = 100, cursor: str | None = None, counts: bool = False, **wanted: Unpack[Wanted]
    ) -> InvocationPage:
        """See `Engine.page`."""
        return self._run(lambda client: client.page(limit=limit, cursor=cursor, counts=counts, **wanted))

    def count_invocations(self, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """See `Engine.count_invocations`."""
        return self._run(lambda client: client.count_invocations(**wanted))

    def describe(self, id: str) -> InvocationView:
        """See `Engine.describe`."""
        return self._run(lambda client: client.describe(id))

    def journal(self, id: str, *, after: int | None = None, limit: int = 1000) -> JournalPage:
        """See `Engine.journal`."""
        return self._run(lambda client: client.journal(id, after=after, limit=limit))

    def deadlocks(self) -> list[Deadlock]:
        """See `Engine.deadlocks`."""
        return self._run(lambda client: client.deadlocks())

    def services(self) -> "list[ServiceView]":
        """See `Engine.services`."""
        return self._run(lambda client: client.services())

    def service(self, name: str) -> "ServiceView":
        """See `Engine.service`."""
        return self._run(lambda client: client.service(name))

    def configure(self, service: str, **options: Unpack[Configuration]) -> None:
        """See `Engine.configure`."""
        self._run(lambda client: client.configure(service, **options))

    def get_state(self, service: str, key: str) -> StateView:
        """See `Engine.get_state`."""
        return self._run(lambda client: client.get_state(service, key))

    def patch_state(
        self,
        service: str,
        key: str,
        state: Mapping[str, Any],
        *,
        expected_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """See `Engine.patch_state`."""
        self._run(
            lambda client: client.patch_state(
                service, key, state, expected_version=expected_version, idempotency_key=idempotency_key
            )
        )

    def backup(self, path: str | os.PathLike[str]) -> None:
        """See `Engine.backup`."""
        self._run(lambda client: client.backup(path))

    # ---- Kafka ----

    def subscribe(
        self,
        source: str,
        sink: str | Handler[Any, Any],
        options: Mapping[str, str] | None = None,
        *,
        again: bool = False,
        idempotency_key: str | None = None,
    ) -> SubscriptionView:
        """See `Engine.subscribe`."""
        return self._run(
            lambda client: client.subscribe(source, sink, options, again=again, idempotency_key=idempotency_key)
        )

    def subscriptions(self, *, source: str | None = None, sink: str | None = None) -> list[SubscriptionView]:
        """See `Engine.subscriptions`."""
        return self._run(lambda client: client.subscriptions(source=source, sink=sink))

    def subscription(self, id: str) -> SubscriptionView:
        """See `Engine.subscription`."""
        return self._run(lambda client: client.subscription(id))

    def unsubscribe(self, id: str, *, idempotency_key: str | None = None) -> None:
        """See `Engine.unsubscribe`."""
        self._run(lambda client: client.unsubscribe(id, idempotency_key=idempotency_key))

    def pause_subscription(self, id: str) -> None:
        """See `Engine.pause_subscription`."""
        self._run(lambda client: client.pause_subscription(id))

    def resume_subscription(
        self,
        id: str,
        *,
        position: Literal["stored", "committed", "earliest", "latest"] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """See `Engine.resume_subscription`."""
        self._run(lambda client: client.resume_subscription(id, position=position, idempotency_key=idempotency_key))

    def kafka_clusters(self) -> list[ClusterView]:
        """See `Engine.kafka_clusters`."""
        return self._run(lambda client: client.kafka_clusters())

    def kafka_cluster(self, name: str) -> ClusterView:
        """See `Engine.kafka_cluster`."""
        return self._run(lambda client: client.kafka_cluster(name))

    def add_kafka_cluster(
        self, name: str, properties: Mapping[str, str], *, idempotency_key: str | None = None
    ) -> ClusterView:
        """See `Engine.add_kafka_cluster`."""
        return self._run(lambda client: client.add_kafka_cluster(name, properties, idempotency_key=idempotency_key))

    def change_kafka_cluster(self, name: str, properties: Mapping[str, str]) -> ClusterView:
        """See `Engine.change_kafka_cluster`."""
        return self._run(lambda client: client.change_kafka_cluster(name, properties))

    def remove_kafka_cluster(self, name: str, *, force: bool = False, idempotency_key: str | None = None) -> None:
        """See `Engine.remove_kafka_cluster`."""
        self._run(lambda client: client.remove_kafka_cluster(name, force=force, idempotency_key=idempotency_key))


async def _nothing(client: Client) -> None:
    """All that is to be done is to open it."""


def connect_sync(
    where: str | os.PathLike[str],
    *,
    admin: str | None = None,
    token: str | None = None,
    reconnect_for: Duration = "1m",
) -> SyncClient:
    """A client for code that blocks; otherwise as `connect`.

        with durable.connect_sync("orders.db") as client:
            client.send(remind, order.id, delay="1d")

    It may be used where an event loop runs (in a notebook), but not on the one that runs the engine: that would wait
    for itself, and is refused with a `UsageError`.
    """
    return SyncClient(Client(where, admin=admin, token=token, reconnect_for=reconnect_for))
