"""What a handler can do durably.

Every operation is a plain method that takes its place in the journal *when it is called* and returns a future, so
`asyncio.gather(ctx.run(a), ctx.run(b))` is in source order and replays.
"""

import random as _random
import uuid as _uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, cast, overload

from durable.core.commands import (
    AttachTo,
    AwaitAwakeable,
    AwaitSignal,
    Cancel,
    CompleteEntry,
    ReadOutput,
    SendSignal,
    SetState,
    Tell,
)
from durable.core.duration import Duration
from durable.core.ids import awakeable_id, fingerprint, is_invocation_id, parse_awakeable_id, seed
from durable.core.journal import Kind, Outcome
from durable.core.retry import RetryPolicy
from durable.core.state_version import state_version
from durable.errors import OutputNotReadyError, TerminalError
from durable.futures import DurableFuture
from durable.operations import Awakeable, Call, Operations, Promise, Request, SendHandle, StepOptions, found
from durable.outcomes import outcome_of
from durable.saga import Saga
from durable.serde import reader, serde_for, stable, writer
from durable.service import Handler

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_CALL, _SEND = Kind.CALL, Kind.SEND

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class Context:
    """What every handler gets: its steps, sleeps, calls, sends and waits all go through this.

    Handlers of a service get a `Context`. Handlers of a virtual object get an `ObjectContext`, which adds state; a
    workflow's `run` gets a `WorkflowContext`, which adds promises too. Shared handlers get the `Shared…` variants,
    which can only read state.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._random: _random.Random | None = None

    @property
    def request(self) -> Request:
        """Id, headers, idempotency key and attempt of this invocation."""
        return self._operations.request

    # ---- steps ----

    @overload
    def run(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> DurableFuture[T]: ...  # an async function
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> DurableFuture[Any]:
        """Execute a plain function once and record its result; a sync function runs in a worker thread.

        It starts when it is awaited, or when the handler goes on without awaiting it. If it raises a `TerminalError`,
        that is recorded and raised here; any other exception ends the attempt, which is retried by policy.
        """
        return self._operations.run(_PLAIN, fn, args, kwargs)

    def with_options(
        self,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        interruptible: bool = False,
    ) -> "Step":
        """`run` with a name, its own retry policy, a time limit for each execution, or open to interruption.

        When the policy given as `retry` is exhausted, a `TerminalError` is raised here; the invocation's own retry
        budget is not used. An execution that takes longer than `timeout` has failed (the thread of a sync function
        runs on to its end). A cancel interrupts an `interruptible` step; it waits until any other step has ended and
        is recorded.
        """
        return Step(self._operations, self._operations.options(name, retry, timeout, interruptible))

    def sleep(self, duration: Duration, *, name: str = "") -> DurableFuture[None]:
        """Wait for `duration`, across restarts. Zero or less returns at once."""
        return self._operations.sleep(duration, name)

    def now(self) -> datetime:
        """The current time, in UTC. It is recorded: a replay gets the same."""
        data = self._operations.read(Kind.NOW, "", lambda: str(self._operations.now_ms()).encode())
        return datetime.fromtimestamp(int(data) / 1000, UTC)

    def random(self) -> _random.Random:
        """A random generator seeded by the invocation: the same numbers on every attempt."""
        if self._random is None:
            self._random = _random.Random(seed(self._operations.seed))
        return self._random

    def uuid(self) -> _uuid.UUID:
        """A version 4 UUID from `random()`."""
        return _uuid.UUID(int=self.random().getrandbits(128), version=4)

    def saga(self) -> Saga:
        """`async with ctx.saga() as saga:` runs what was registered if a terminal error or a cancellation ends it."""
        return Saga(self._operations)

    # ---- other handlers ----

    @overload
    def call(
        self,
        target: Handler[None, O],
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[O]: ...
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
    ) -> Call[O]: ...
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
    ) -> Call[Any]: ...
    def call(
        self,
        target: Handler[Any, Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[Any]:
        """Invoke a handler and wait for its result. If it ends with a terminal error, that is raised here."""
        id, future = self._operations.invoke(_CALL, target, arg, key, idempotency_key, headers, None)
        call = cast(Call[Any], future)
        call.id = id
        return call

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
    ) -> SendHandle[O]: ...
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
    ) -> SendHandle[O]: ...
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
    ) -> SendHandle[Any]: ...
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
    ) -> SendHandle[Any]:
        """Invoke a handler, now or after `delay`, and go on. No cancel or kill of this invocation reaches it."""
        id, _ = self._operations.invoke(_SEND, target, arg, key, idempotency_key, headers, delay)
        output = target.signature().output if isinstance(target, Handler) else Any
        return SendHandle(self, id, output)

    @overload
    def attach(self, id: str, /) -> DurableFuture[Any]: ...
    @overload
    def attach(self, id: str, type: type[T], /) -> DurableFuture[T]: ...
    @overload
    def attach(self, id: str, type: Any, /) -> DurableFuture[Any]: ...
    def attach(self, id: str, type: Any = Any, /) -> DurableFuture[Any]:
        """Wait for the result of any invocation. Raises `TerminalError` if it is unknown (404) or malformed (400)."""
        return self._operations.open(
            Kind.ATTACH, "", AttachTo(_checked(id)), reader(type), detail=id, fingerprint=id.encode()
        )

    @overload
    def output(self, id: str, /) -> DurableFuture[Any]: ...
    @overload
    def output(self, id: str, type: type[T], /) -> DurableFuture[T]: ...
    @overload
    def output(self, id: str, type: Any, /) -> DurableFuture[Any]: ...
    def output(self, id: str, type: Any = Any, /) -> DurableFuture[Any]:
        """The result of any invocation, if it has one now. Otherwise awaiting this raises `OutputNotReadyError`."""
        not_ready = OutputNotReadyError(f"invocation {id} has not completed yet")
        decode = found(reader(type), not_ready)
        asked = ReadOutput(_checked(id))
        return self._operations.open(Kind.OUTPUT, "", asked, decode, detail=id, fingerprint=id.encode())

    def cancel(self, id: str) -> None:
        """Cancel another invocation, unless it has ended. Raises `TerminalError` for a malformed id (400)."""
        asked = Tell(Cancel(_checked(id)))
        self._operations.note(Kind.CANCEL, "", asked, detail=id, fingerprint=id.encode())

    # ---- the outside ----

    @overload
    def awakeable(self, /) -> Awakeable[Any]: ...
    @overload
    def awakeable(self, type: type[T], /) -> Awakeable[T]: ...
    @overload
    def awakeable(self, type: Any, /) -> Awakeable[Any]: ...
    def awakeable(self, type: Any = Any, /) -> Awakeable[Any]:
        """Something that the outside completes: hand its `.id` to whoever will resolve it, then await it."""
        decode = reader(type)
        future = cast(Awakeable[Any], self._operations.open(Kind.AWAKEABLE, "", AwaitAwakeable(), decode))
        future.id = future.id or awakeable_id(self.request.id, future.entry, self._operations.run_number)
        return future

    def resolve_awakeable(self, id: str, value: Any = None) -> None:
        """Complete an awakeable with a value. A second completion, and one of what does not exist, is ignored."""
        data = self._operations.encode(writer(Any), value, "the value of an awakeable")
        self._complete_awakeable(id, Outcome(True, data), stable(value, data))

    def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        """Complete an awakeable with a `TerminalError`. Otherwise like `resolve_awakeable`."""
        outcome = outcome_of(TerminalError(message, code))
        self._complete_awakeable(id, outcome, outcome.value)

    def _complete_awakeable(self, id: str, outcome: Outcome, said: bytes) -> None:
        parsed = parse_awakeable_id(id) if isinstance(id, str) else None
        if parsed is None:
            raise TerminalError(f"{id!r} is not an awakeable id: those start with sign_1", 400)
        invocation, entry, run = parsed
        asked = Tell(CompleteEntry(invocation, entry, outcome, run=run))
        print_ = fingerprint(id.encode(), said)
        self._operations.note(Kind.COMPLETE_AWAKEABLE, "", asked, detail=id, fingerprint=print_)

    @overload
    def signal(self, name: str, /) -> DurableFuture[Any]: ...
    @overload
    def signal(self, name: str, type: type[T], /) -> DurableFuture[T]: ...
    @overload
    def signal(self, name: str, type: Any, /) -> DurableFuture[Any]: ...
    def signal(self, name: str, type: Any = Any, /) -> DurableFuture[Any]:
        """Wait for the next signal of that name. A signal that came earlier is taken at once."""
        return self._operations.open(Kind.SIGNAL, name, AwaitSignal(), reader(type), detail=name)

    def send_signal(self, id: str, name: str, value: Any = None) -> None:
        """Send a named signal to another invocation, which may wait for it now or later.

        It is ignored if there is no such invocation, or if it has ended.
        """
        data = self._operations.encode(writer(Any), value, f"the value of signal {name!r}")
        self._signal(id, name, Outcome(True, data), stable(value, data))

    def reject_signal(self, id: str, name: str, message: str, code: int = 500) -> None:
        """Send a failure as a named signal: whoever waits for it gets a `TerminalError`."""
        outcome = outcome_of(TerminalError(message, code))
        self._signal(id, name, outcome, outcome.value)

    def _signal(self, id: str, name: str, outcome: Outcome, said: bytes) -> None:
        asked = Tell(SendSignal(_checked(id), name, outcome))
        print_ = fingerprint(id.encode(), said)
        self._operations.note(Kind.SEND_SIGNAL, name, asked, detail=id, fingerprint=print_)


_PLAIN = StepOptions()


class Step:
    """What `ctx.with_options(...)` returns: `run` with these options."""

    def __init__(self, operations: Operations, options: StepOptions) -> None:
        self._operations = operations
        self._options = options

    @overload
    def run(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> DurableFuture[T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> DurableFuture[Any]:
        """See `Context.run`."""
        return self._operations.run(self._options, fn, args, kwargs)


class SharedObjectContext(Context):
    """For shared handlers of a virtual object, which can read its state."""

    @property
    def key(self) -> str:
        """The object's key."""
        return self._operations.key or ""

    @overload
    def get(self, name: str, /) -> DurableFuture[Any]: ...
    @overload
    def get(self, name: str, type: type[T], /) -> DurableFuture[T | None]: ...
    @overload
    def get(self, name: str, type: Any, /) -> DurableFuture[Any]: ...
    def get(self, name: str, type: Any = Any, /) -> DurableFuture[Any]:
        """A state value, or None if it is not set. What was read is recorded: a replay gets the same."""
        operations = self._operations
        data = operations.read(Kind.GET, name, lambda: _optional(operations.state(name)))
        return _known(operations, Kind.GET, data, found(reader(type), None), name)

    def state_keys(self) -> DurableFuture[list[str]]:
        """The names of all state values, sorted."""
        operations = self._operations
        data = operations.read(
            Kind.STATE_KEYS, "", lambda: serde_for(list[str]).encode(sorted(operations.state_names()))
        )
        return _known(operations, Kind.STATE_KEYS, data, serde_for(list[str]).decode)

    def state_version(self) -> DurableFuture[str]:
        """A version of the whole state, which changes when any value does; as in `Engine.get_state`."""
        operations = self._operations

        def version() -> bytes:
            values = {name: operations.state(name) or b"" for name in operations.state_names()}
            return serde_for(str).encode(state_version(values))

        data = operations.read(Kind.STATE_KEYS, "version", version)
        return _known(operations, Kind.STATE_KEYS, data, serde_for(str).decode)


class ObjectContext(SharedObjectContext):
    """For exclusive handlers of a virtual object, which can read and write its state.

    A write takes effect when it is made, and stays even if the handler fails later.
    """

    def set(self, name: str, value: Any, type: Any = Any, /) -> None:
        """Write a state value."""
        serde = writer(type)
        data = self._operations.encode(serde, value, f"the state value {name!r}")
        self._write(Kind.SET, name, data, stable(value, data, serde))

    def set_raw(self, name: str, value: bytes, /) -> None:
        """Write a state value that is already serialized."""
        self._operations.check(value, f"the state value {name!r}")
        self._write(Kind.SET, name, value, value)

    def clear(self, name: str, /) -> None:
        """Delete a state value."""
        self._write(Kind.CLEAR, name, None)

    def clear_all(self) -> None:
        """Delete all state values of this key."""
        self._write(Kind.CLEAR_ALL, None, None)

    def _write(self, kind: Kind, name: str | None, value: bytes | None, said: bytes | None = None) -> None:
        operations = self._operations
        asked = SetState(operations.service, operations.key or "", name, value)
        print_ = None if said is None else fingerprint(said)
        detail = None if print_ is None else print_.hex()
        operations.note(kind, name or "", asked, detail=detail, fingerprint=print_)
        operations.set_state(name, value)


class _Promises(Context):
    """Named durable promises, shared by all handlers of one workflow key."""

    @overload
    def promise(self, name: str, /) -> Promise[Any]: ...
    @overload
    def promise(self, name: str, type: type[T], /) -> Promise[T]: ...
    @overload
    def promise(self, name: str, type: Any, /) -> Promise[Any]: ...
    def promise(self, name: str, type: Any = Any, /) -> Promise[Any]:
        """The promise of that name."""
        return Promise(self._operations, name, type)


class SharedWorkflowContext(_Promises, SharedObjectContext):
    """For all handlers of a workflow except `run`: they can read state, and await and settle promises."""


class WorkflowContext(_Promises, ObjectContext):
    """For a workflow's `run`: it can read and write state, and await and settle promises."""


# ---- small helpers ----


def _known(
    operations: Operations, kind: Kind, data: bytes, decode: Callable[[bytes], T], name: str = ""
) -> DurableFuture[T]:
    future: DurableFuture[T] = DurableFuture(operations, 0, kind, decode, name)
    future.outcome = Outcome(True, data)
    operations.made(future, 3)
    return future


def _optional(data: bytes | None) -> bytes:
    return b"0" if data is None else b"1" + data


def _checked(id: str) -> str:
    """The id, if it has the form of one: an id is data, so another text ends the handler as an unknown id does."""
    if not isinstance(id, str) or not is_invocation_id(id):
        raise TerminalError(f"{id!r} is not an invocation id (`inv_1` and 33 letters or digits)", 400)
    return id
