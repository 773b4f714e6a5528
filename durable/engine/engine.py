"""The object you embed: it opens the file, runs handlers, and closes in order."""

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast

from durable import telemetry as telemetries
from durable.api import EngineApi, Invokes, typed_as
from durable.client import Handle, value_of
from durable.codec import Codec
from durable.core import commands as ask
from durable.core.duration import Duration, parse
from durable.core.effects import Answer
from durable.core.ids import claimed_id
from durable.core.invocation import Flavor, already_started
from durable.core.journal import Outcome
from durable.core.limits import Limits
from durable.core.retry import DEFAULT, RetryPolicy
from durable.engine.access import check_count, check_value_size, checked
from durable.engine.changing import change_of
from durable.engine.door import Answering, Door, can_answer
from durable.engine.encoding import Encoding
from durable.engine.follower import follower_of
from durable.engine.forwarding import forwarding
from durable.engine.life import Life
from durable.engine.measuring import Measuring
from durable.engine.outlook import outlook
from durable.engine.serving import Serving
from durable.engine.signals import closes_when_told
from durable.engine.standby import Standby
from durable.engine.subscribing import Subscribing
from durable.errors import EngineNotRunningError, InvalidRequestError, UsageError
from durable.outcomes import error_of
from durable.runtime.clock import Clock, SystemClock
from durable.runtime.loop import Loop
from durable.runtime.observer import Observer, observers_of
from durable.runtime.registry import (
    VALUE_SIZE_MAX,
    Registered,
    Registry,
    check_headers,
    check_idempotency_key,
    check_text,
)
from durable.runtime.replies import Wanted
from durable.runtime.reuse import Reuse
from durable.serde import reader
from durable.service import Configuration, Handler, Settings, checked_reuse
from durable.store import Store
from durable.store.paths import MEMORY, database_path
from durable.store.sqlite import SqliteStore

O = TypeVar("O")  # noqa: E741


@forwarding
class Engine(Serving, Subscribing, Measuring, Encoding):
    """Durable handlers on one SQLite file, in this process.

        async with Engine("app.db", services=[checkout, Parcels(http)]) as engine:
            receipt = await engine.call(checkout, order, idempotency_key=order.id)

    `services` are functions decorated with `@handler` and instances of `Service`, `VirtualObject` and `Workflow`.
    Durations are seconds, a `timedelta`, or text such as "5m". Classes and handlers override the options given here:

    - `retry`: 500 ms, doubled up to 1 minute, 70 attempts, then paused.
    - `inactivity_timeout` (1 minute): a handler that has only waited for this long is suspended; it then holds no
      memory.
    - `abort_timeout` (10 minutes): a handler that does not yield for this long after that is interrupted.
    - `journal_retention`, `idempotency_retention`, `workflow_completion_retention` (1 day each): how long a completed
      invocation is kept, counted from its completion; 0 keeps nothing.
    - `on_key_reuse` ("answer"): what happens when an idempotency key comes with another input than the first time.
      "answer" gives the result of the first input and logs it; "refuse" raises a `ConflictError`, in handlers a
      recorded `TerminalError` (409). A refused `ctx.send`, for which nobody waits, is only logged.
    - `max_concurrent_invocations` (1000): how many handlers run at a time; the others wait in the file, in order. A
      few thousand more may stay in memory while they wait for their calls, for at most an `inactivity_timeout`.
    - `max_step_threads` (128): how many plain (sync) steps run at a time, each in one of the engine's own threads;
      the others wait. A step does not count while it waits for `engine.call()`.
    - `synchronous`: "FULL" survives power loss; "NORMAL" survives a killed process, and is faster.
    - `max_value_size` (64 MiB): the most bytes that a stored argument, result, state value, signal … may have, and
      that all headers of a request may have together. More is refused with `ValueTooLargeError`. At most 256 MiB.
    - `shutdown_timeout` (5 seconds): how long leaving the `async with` block may take.
    - `busy_timeout` (5 seconds): how long a start waits if another program (a database browser, a copy) has locked
      the file, before it raises `StorageBusyError`. A running engine waits as long as it takes.
    - `control_socket`: whether programs of the same user can reach the engine through a socket beside the file
      (`durable.connect("app.db")`); this needs the extra `http`.
    - `standby`: if another engine has the file, this one does not fail. It forwards what it is asked to that engine,
      through the control socket; when that engine is gone, one of those on standby takes over. So each worker of
      `uvicorn --workers 4` may have an engine: all can call, and the handlers run in one of them (see `role`).
    - `strict`: whether a handler is paused as `misuse`, with the line, if it forgets an `await`, or if it reads the
      clock, draws at random, opens files or sockets, or invokes through the engine outside of its steps. For
      development and tests: Python code on the event loop runs about half as fast.
    - `telemetry`: whether to report to OpenTelemetry; by default, if the process has a provider installed.
    - `codec`: encodes every stored value, for instance `durable.encryption.AesGcm(...)`, so that the file and its
      backups do not show what your values are. Names, ids and times stay in clear.
    - `kafka_clusters`: the options of each cluster, by its name; options have librdkafka's names. See `subscribe`.

    `Engine(":memory:")` keeps everything in the memory of this engine object: nothing survives the process, and there
    is nothing to back up. It is for tests, and for work that need not survive. `~` in a path is the home directory.

    A closed engine can be started again in the same way, on another event loop too, so one module-level engine can
    serve all tests.

    For tests, `store` replaces the file, `clock` the system's clock, and `limits` how much is in memory at a time.
    `observer` (one or several) follows what happens.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        services: Iterable[object] = (),
        *,
        retry: RetryPolicy = DEFAULT,
        inactivity_timeout: Duration = "1m",
        abort_timeout: Duration = "10m",
        journal_retention: Duration = "1d",
        idempotency_retention: Duration = "1d",
        workflow_completion_retention: Duration = "1d",
        on_key_reuse: Literal["answer", "refuse"] = "answer",
        max_concurrent_invocations: int = 1000,
        max_step_threads: int = 128,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        shutdown_timeout: Duration = "5s",
        busy_timeout: Duration = "5s",
        store: Store | None = None,
        clock: Clock | None = None,
        max_value_size: int = VALUE_SIZE_MAX,
        observer: Observer | Iterable[Observer] | None = None,
        telemetry: bool | None = None,
        kafka_clusters: Mapping[str, Mapping[str, Any]] | None = None,
        limits: Limits = Limits(),  # noqa: B008 (it is frozen)
        control_socket: bool = True,
        standby: bool = False,
        strict: bool = False,
        codec: Codec | None = None,
    ) -> None:
        if (path is None) == (store is None):
            raise ValueError("Engine(path, services=[...]) needs the path of its database file (or a store=)")
        check_count("max_concurrent_invocations", max_concurrent_invocations)
        check_count("max_step_threads", max_step_threads)
        if not isinstance(retry, RetryPolicy):
            raise UsageError(f"retry takes a RetryPolicy(...), not {retry!r}")
        if isinstance(services, str | bytes) or not isinstance(services, Iterable):
            raise UsageError(f"services takes a list of handlers and service instances, not {services!r}")
        check_value_size(max_value_size)
        defaults = Settings(
            public=True,
            retry=retry.merged_over(DEFAULT),
            inactivity_timeout_ms=parse(inactivity_timeout),
            abort_timeout_ms=parse(abort_timeout),
            journal_retention_ms=parse(journal_retention),
            idempotency_retention_ms=parse(idempotency_retention),
            workflow_completion_retention_ms=parse(workflow_completion_retention),
            on_key_reuse=checked_reuse(on_key_reuse, "Engine"),
        )
        if store is None:
            assert path is not None
            store = _store_at(path, synchronous, parse(busy_timeout) / 1000)
        if codec is not None:
            store = _behind(codec, store)
        super().__init__(store, Registry(services, defaults, max_value_size), clock or SystemClock())
        self._defaults = defaults
        self._max_concurrent = max_concurrent_invocations
        self._max_threads = max_step_threads
        self._strict = strict
        self._limits = limits
        self._observers = observers_of(observer)
        self._telemetry = telemetry
        self._control_socket = control_socket
        self._follower = follower_of(self.path, self._registry, control_socket) if standby else None
        self._shutdown_s = parse(shutdown_timeout) / 1000
        self._set_clusters(kafka_clusters)

    # ---- life ----

    async def start(self) -> Self:
        """Open the file and go on with everything that is unfinished. `async with` does this for you.

        Raises `EngineLockedError` if another engine has the file (with `standby`, `EngineUnreachableError` if that
        engine does not answer for a minute); `EngineNotRunningError` if this engine was already started; and other
        `StorageError`s.
        """
        await self._previous_life()
        self._noise = b""  # a forked child has its own
        if self._follower is None or self.path is None:
            self._life = self._begin()
        else:
            path, follower = self.path, self._follower
            ahead = partial(outlook, path, self._store, self._registry, self._clusters)
            self._life = Standby(path, follower, self._begin, ahead)
        await self._life.start()
        return self

    def _begin(self) -> Life:
        return Life(self._new_loop(), self._door(), self._new_reading)

    def _new_loop(self) -> Loop:
        """The heart of the next life."""
        return Loop(
            self._store,
            self._registry,
            self._clock,
            max_concurrent=self._max_concurrent,
            max_threads=self._max_threads,
            strict=self._strict,
            limits=self._limits,
            defaults=self._defaults.retry,
            declaration=_declaration,
            observer=self._counting([*self._observers, *telemetries.observers(self._telemetry, self._observers)]),
        )

    def _door(self) -> Door | None:
        if not self._control_socket or self.path is None or not can_answer():
            return None
        return Door(self.path, lambda module: cast(Answering, module.Server(self)))

    async def _previous_life(self) -> None:
        """Wait for the end of a life that ends; take the place of one that was left behind."""
        while (life := self._life) is not None and not life.over:
            life.check_place()
            if life.failure is not None:
                await life.close(0)
            elif life.ends:
                await life.ended()
            else:
                raise EngineNotRunningError("this engine was already started: close it before it is started again")
        if life is not None:
            life.abandon()

    async def close(self) -> None:
        """End all attempts without losing anything they did, and release the file. Idempotent.

        Running steps may finish, and are recorded, within `shutdown_timeout`. Handlers are unwound, not failed: no
        compensation runs, and the next start continues them.
        """
        await self._close_within(self._shutdown_s)

    async def _close_within(self, grace_s: float) -> None:
        if self._life is not None:
            self._life.check_place()
            await self._life.close(grace_s)

    def abandon(self) -> None:
        """Stop at once and write nothing more, as if the process had been killed: for tests of what follows a crash.

        The file is released; the next start continues from what is durable. Handlers are unwound. Idempotent.
        """
        if self._life is not None:
            self._life.check_place()
            self._life.abandon()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        if error is None and self.failure is not None:
            raise self.failure

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """For ASGI frameworks: `Starlette(lifespan=engine.lifespan)`, `FastAPI(lifespan=engine.lifespan)`.

        When the process is told to end (SIGTERM, Ctrl-C), requests that wait for a result get an error after half of
        `shutdown_timeout`; otherwise the server would wait for them for ever.
        """
        async with self:
            with closes_when_told(self._close_within, self._shutdown_s):
                yield

    # ---- invoking ----

    @typed_as(Invokes.call)
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

        If the caller is cancelled, the invocation goes on. With an idempotency key, a repeated call gets the result
        of the first. Raises the invocation's `TerminalError`; `NotFoundError` for an unknown handler;
        `InvalidRequestError` or `SerializationError` for a bad key or argument; `ValueTooLargeError` (413).
        """
        loop = self._running()
        if loop.crowded:
            loop = await self._admitted(loop)
        loop.misplaced.asks("call", target)
        handler, submit, reuse = self._submission(loop, target, arg, key, idempotency_key, headers, None)
        if handler.flavor is Flavor.WORKFLOW:
            outcome = await loop.ask(submit, Wanted.NEW_OUTCOME)
            if not isinstance(outcome, Outcome):
                raise error_of(already_started(f"{handler.service}/{key}").outcome())
        else:
            outcome = await loop.ask(submit, Wanted.OUTCOME, None if reuse is None else reuse.look)
        return value_of(outcome, handler.output.decode, f"the result of {handler.service}/{handler.name}")

    @typed_as(Invokes.send)
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

        You can send any number at once, such as `asyncio.gather` over a million sends. The engine takes a thousand at
        a time, in order; the others only cost their tasks. An invocation that has no slot yet (see
        `max_concurrent_invocations`) is not kept in memory either.

        Raises the same errors as `call`, except those of the handler: they come from `handle.result()`.
        """
        loop = self._running()
        if loop.crowded:
            loop = await self._admitted(loop)
        loop.misplaced.asks("send", target)
        handler, submit, reuse = self._submission(loop, target, arg, key, idempotency_key, headers, delay)
        reply = await self._ask(submit, look=None if reuse is None else reuse.look)
        differs = reuse is not None and reuse.differs
        accepted = reply.result is Answer.ACCEPTED
        return Handle(self, reply.id, handler.output.decode, accepted=accepted, input_differs=differs)

    def _submission(
        self,
        loop: Loop,
        target: Handler[Any, Any] | str,
        arg: Any,
        key: str | None,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        delay: Duration | None,
    ) -> tuple[Registered, Any, Reuse | None]:
        handler = self._registry.find(target)
        if handler.settings.public is False:
            raise InvalidRequestError(
                f"{handler.service}/{handler.name} is not public: only other handlers may call it"
            )
        data = handler.encode_input(arg)
        now = self._clock.now_ms()
        due_at = None
        if delay is not None:
            try:
                due_at = now + parse(delay)
            except ValueError as error:
                raise InvalidRequestError(f"delay: {error}") from None
        submission = handler.submission(
            self._new_id(now),
            data,
            key=key,
            headers=check_headers(headers, self._registry.value_size_max),
            idempotency_key=idempotency_key,
            caller=None,
            due_at=due_at,
            id_span=self._registry.id_span,
            observer=loop.observer,
        )
        reuse = None if idempotency_key is None else Reuse(handler, submission)
        return handler, lambda token: ask.Submit(submission, token), reuse

    # ---- finding again ----

    @typed_as(EngineApi.invocation)
    def invocation(self, id: str, type: Any = Any, /) -> Handle[Any]:
        """The handle of an invocation. It is not looked up until it is used. Raises `InvalidRequestError`."""
        return Handle(self, checked(id), reader(type))

    def workflow(self, target: Handler[Any, O] | str, key: str) -> Handle[O]:
        """The handle of a workflow's run, by its key."""
        check_text("key", key)
        handler = self._registry.find(target)
        id = claimed_id(handler.service, key, "run", "", span=self._registry.id_span)
        return Handle(self, id, handler.output.decode)

    def idempotent(self, target: Handler[Any, O] | str, idempotency_key: str, *, key: str | None = None) -> Handle[O]:
        """The handle of the invocation that an idempotency key names."""
        check_idempotency_key(idempotency_key)
        if key is not None:
            check_text("key", key)
        handler = self._registry.find(target)
        id = claimed_id(handler.service, key, handler.name, idempotency_key, span=self._registry.id_span)
        return Handle(self, id, handler.output.decode)

    @typed_as(EngineApi.attach)
    async def attach(self, id: str, type: Any = Any, /) -> Any:
        """Wait for an invocation's result, decoded as `type`. Raises its error, or `NotFoundError`."""
        return await self.invocation(id, type).result()

    @typed_as(EngineApi.output)
    async def output(self, id: str, type: Any = Any, /) -> Any:
        """An invocation's result as it is now. Raises `OutputNotReadyError`, its error, or `NotFoundError`."""
        return await self.invocation(id, type).output()

    # ---- services ----

    async def configure(self, service: str, **options: Unpack[Configuration]) -> None:
        """Set options of a service at run time: `public`, the timeouts and the retentions.

        They are stored in the file, override what the class sets (not what a handler sets), and apply to invocations
        accepted from now on. An option that is not given keeps its configured value; None gives the decision back to
        the class. Raises `NotFoundError`, `InvalidRequestError`.
        """
        life = self._living()
        change = change_of(self._registry, service, options)
        async with life.configuring:  # each change is made to what the one before it left
            text = change.over(self._registry.configured.get(service, Settings()))
            await self._ask(lambda token: ask.Configure(service, text, token))
            self._registry.configure(service, text)


def _store_at(path: str | os.PathLike[str], synchronous: Literal["FULL", "NORMAL"], busy_timeout_s: float) -> Store:
    if database_path(path) == MEMORY:
        from durable.store.memory import MemoryStore  # only where it is wanted

        return MemoryStore()
    return SqliteStore(path, synchronous=synchronous, busy_timeout=busy_timeout_s)


def _behind(codec: Codec, store: Store) -> Store:
    from durable.codec import checked as checked_codec  # only where there is one
    from durable.store.encoded import EncodedStore

    return EncodedStore(store, checked_codec(codec))


def _declaration(registry: Registry, service: str) -> str:
    from durable.views.services import declaration  # only once an engine runs: it needs schema libraries

    return declaration(registry, service)
