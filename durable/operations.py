"""What a context asks of its attempt, and what its operations return."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from durable.callbacks import Listener
from durable.core.commands import AwaitPromise, CompletePromise, PeekPromise
from durable.core.duration import Duration
from durable.core.ids import fingerprint
from durable.core.journal import Kind, Outcome
from durable.core.retry import RetryPolicy
from durable.core.topics import promise_topic
from durable.errors import TerminalError
from durable.futures import DurableFuture
from durable.outcomes import outcome_of
from durable.serde import Serde, reader, stable, writer
from durable.service import Handler

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Request(msgspec.Struct, frozen=True, gc=False):
    """What the handler was asked."""

    #: The invocation's id: the same on every attempt, another one after `restart_as_new`.
    id: str
    #: `service/handler` or `service/key/handler`.
    target: str
    headers: Mapping[str, str]
    idempotency_key: str | None
    #: 1 on the first attempt; it grows with every retry, every resumption, and every restart of the engine.
    attempt: int
    #: The raw input.
    body: bytes
    #: The id that this invocation had before it was first restarted as new: the same on every attempt and after every
    #: `restart_as_new`. If it was never restarted as new, this is its id.
    origin: str = ""


class StepOptions(msgspec.Struct, frozen=True):
    """How one step is executed."""

    name: str | None = None
    retry: RetryPolicy | None = None
    timeout_ms: int | None = None
    interruptible: bool = False


class Operations(Protocol):
    """All that a context needs of the attempt it belongs to."""

    key: str | None
    service: str

    @property
    def ending(self) -> bool:
        """See `saga.Runs`."""
        ...

    @property
    def run_number(self) -> int:
        """See `Invocation.run_number`."""
        ...

    @property
    def seed(self) -> str:
        """What the handler's random numbers follow from."""
        ...

    @property
    def request(self) -> Request:
        """What the handler was asked."""
        ...

    def wait(self, future: DurableFuture[Any]) -> Any:
        """See `futures.Waits`."""
        ...

    def run(
        self,
        options: StepOptions,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        announced: bool = False,
    ) -> DurableFuture[Any]:
        """A step; an announced one is in the journal before it starts."""
        ...

    def options(
        self, name: str | None, retry: RetryPolicy | None, timeout: Duration | None, interruptible: bool
    ) -> StepOptions:
        """Validated step options."""
        ...

    def sleep(self, duration: Duration, name: str) -> DurableFuture[None]:
        """A timer."""
        ...

    def invoke(
        self,
        kind: Kind,
        target: Handler[Any, Any] | str,
        arg: Any,
        key: str | None,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        delay: Duration | None,
    ) -> tuple[str, DurableFuture[Any]]:
        """A call or a send: the other invocation's id, and its result."""
        ...

    def open(
        self,
        kind: Kind,
        name: str,
        asked: Any,
        decode: Callable[[bytes], T] | None,
        *,
        detail: str | None = None,
        fingerprint: bytes | None = None,
    ) -> DurableFuture[T]:
        """An entry that waits for something."""
        ...

    def made(self, one: Any, depth: int, /) -> None:
        """See `futures.Waits`."""
        ...

    @property
    def listener(self) -> Listener:
        """See `callbacks.Listens`."""
        ...

    def raises(self) -> None:
        """See `futures.Waits`."""
        ...

    def note(
        self, kind: Kind, name: str, asked: Any, *, detail: str | None = None, fingerprint: bytes | None
    ) -> str | None:
        """An entry that waits for nothing; returns its detail, which may be a recorded one."""
        ...

    def read(self, kind: Kind, name: str, look: Callable[[], bytes]) -> bytes:
        """An entry whose value is at hand now, and recorded for replays."""
        ...

    def encode(self, serde: Serde[Any], value: Any, door: str) -> bytes:
        """The stored form of a value that goes in at `door`. Raises `SerializationError`, `ValueTooLargeError`."""
        ...

    def check(self, data: bytes, door: str) -> None:
        """The same for a value that is serialized already."""
        ...

    def state(self, name: str) -> bytes | None:
        """A state value as this handler sees it."""
        ...

    def state_names(self) -> list[str]:
        """The names of all state values."""
        ...

    def set_state(self, name: str | None, value: bytes | None) -> None:
        """Change what `state` returns."""
        ...

    def now_ms(self) -> int:
        """The engine's clock."""
        ...


class Call(DurableFuture[T_co]):
    """A call under way: await it for the result. `id` is the id of the invocation that was called."""

    __slots__ = ()


class Attaches(Protocol):
    """What a handle needs of its context."""

    def attach(self, id: str, type: Any, /) -> DurableFuture[Any]:
        """Wait for an invocation's result."""
        ...

    def cancel(self, id: str) -> None:
        """Cancel an invocation."""
        ...


class SendHandle(Generic[T_co]):
    """A sent invocation, which runs independently of its sender."""

    def __init__(self, context: "Attaches", id: str, output: Any) -> None:
        self._context = context
        self._output = output
        #: The invocation's id; the same on every replay.
        self.id = id

    def attach(self) -> DurableFuture[T_co]:
        """Wait for its result."""
        return cast(DurableFuture[T_co], self._context.attach(self.id, self._output))

    def cancel(self) -> None:
        """Cancel it."""
        self._context.cancel(self.id)


class Awakeable(DurableFuture[T_co]):
    """Something that the outside completes: pass `id` on; whoever has it can resolve or reject it, once."""

    __slots__ = ()


class Promise(Generic[T]):
    """A workflow's durable promise, by name: settled once, awaited by any of its handlers."""

    def __init__(self, operations: Operations, name: str, type: Any) -> None:
        self._operations = operations
        self._name = name
        self._serde = writer(type)
        self._read = reader(type)
        #: See `DurableFuture.made`.
        self.made: Any = None
        operations.made(self, 3)

    @property
    def operation(self) -> str:
        """See `DurableFuture`."""
        return f"ctx.promise({self._name!r})"

    @property
    def lost(self) -> str:
        """See `DurableFuture`."""
        return "By itself it does nothing."

    @property
    def acts(self) -> bool:
        """See `DurableFuture`."""
        return False

    def __await__(self) -> Generator[Any, None, T]:
        return self.future().__await__()

    def future(self) -> DurableFuture[T]:
        """A future for it, which can be combined with others."""
        self.made = None
        operations = self._operations
        service, key = operations.service, operations.key or ""
        asked = AwaitPromise(service, key)
        return operations.open(
            Kind.PROMISE, self._name, asked, self._read, detail=promise_topic(service, key, self._name)
        )

    def with_timeout(self, duration: Duration) -> DurableFuture[T]:
        """Wait for it for at most `duration`. Raises `DurableTimeoutError`."""
        return self.future().with_timeout(duration)

    def peek(self) -> DurableFuture[T | None]:
        """Its value if it was resolved, None if it is not settled yet. Raises its error if it was rejected."""
        self.made = None
        asked = PeekPromise(self._operations.service, self._operations.key or "")
        return self._operations.open(Kind.PEEK_PROMISE, self._name, asked, found(self._read, None))

    def resolve(self, value: T) -> DurableFuture[None]:
        """Settle it with a value. Awaiting this raises `TerminalError` (409) if it was settled before."""
        data = self._operations.encode(self._serde, value, f"the value of promise {self._name!r}")
        return self._complete(Outcome(True, data), stable(value, data, self._serde))

    def reject(self, message: str, code: int = 500) -> DurableFuture[None]:
        """Settle it with a failure. Awaiting this raises `TerminalError` (409) if it was settled before."""
        outcome = outcome_of(TerminalError(message, code))
        return self._complete(outcome, outcome.value)

    def _complete(self, outcome: Outcome, said: bytes) -> DurableFuture[None]:
        self.made = None
        asked = CompletePromise(self._operations.service, self._operations.key or "", outcome)
        return self._operations.open(Kind.COMPLETE_PROMISE, self._name, asked, nothing, fingerprint=fingerprint(said))


def found(decode: Callable[[bytes], Any], nothing: Any) -> Callable[[bytes], Any]:
    """Decode a look at something that may be missing: then return, or if it is an exception raise, `nothing`."""

    def look(data: bytes) -> Any:
        if data[:1] == b"1":
            return decode(data[1:])
        if isinstance(nothing, Exception):
            raise nothing
        return nothing

    return look


def nothing(data: bytes) -> None:
    """Decode an outcome that carries no value."""
    return None
