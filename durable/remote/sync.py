"""The client for code that blocks: `def` endpoints, Django, scripts, notebooks.

Its event loop runs in a thread of its own, so it works in any thread, beside any event loop, and after a fork.
"""

import os
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from durable.client import Applied, Handle
from durable.core.duration import Duration, parse
from durable.errors import InvalidRequestError
from durable.remote.background import Ask, Background
from durable.remote.client import Client
from durable.service import Handler
from durable.views.invocations import InvocationView

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


def blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[SyncClient, P], T]":
    """A method of `Client` as one that blocks until it has its answer."""

    @wraps(method)
    def wait(self: "SyncClient", /, *args: P.args, **options: P.kwargs) -> T:
        return self._run(lambda client: method(client, *args, **options))

    return wait


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

    cancel = blocking(Client.cancel)
    kill = blocking(Client.kill)
    pause = blocking(Client.pause)
    resume = blocking(Client.resume)
    resume_all = blocking(Client.resume_all)

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

    purge = blocking(Client.purge)
    purge_journal = blocking(Client.purge_journal)

    # ---- completing from outside ----

    resolve_awakeable = blocking(Client.resolve_awakeable)
    reject_awakeable = blocking(Client.reject_awakeable)
    send_signal = blocking(Client.send_signal)
    reject_signal = blocking(Client.reject_signal)
    resolve_promise = blocking(Client.resolve_promise)
    reject_promise = blocking(Client.reject_promise)

    # ---- reading ----

    invocations = blocking(Client.invocations)
    page = blocking(Client.page)
    count_invocations = blocking(Client.count_invocations)
    describe = blocking(Client.describe)
    journal = blocking(Client.journal)
    deadlocks = blocking(Client.deadlocks)
    services = blocking(Client.services)
    service = blocking(Client.service)
    configure = blocking(Client.configure)
    get_state = blocking(Client.get_state)
    patch_state = blocking(Client.patch_state)
    backup = blocking(Client.backup)

    # ---- Kafka ----

    subscribe = blocking(Client.subscribe)
    subscriptions = blocking(Client.subscriptions)
    subscription = blocking(Client.subscription)
    unsubscribe = blocking(Client.unsubscribe)
    pause_subscription = blocking(Client.pause_subscription)
    resume_subscription = blocking(Client.resume_subscription)
    kafka_clusters = blocking(Client.kafka_clusters)
    kafka_cluster = blocking(Client.kafka_cluster)
    add_kafka_cluster = blocking(Client.add_kafka_cluster)
    change_kafka_cluster = blocking(Client.change_kafka_cluster)
    remove_kafka_cluster = blocking(Client.remove_kafka_cluster)


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
