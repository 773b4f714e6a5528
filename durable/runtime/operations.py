"""What a context asks of its attempt: each operation takes its entry in the journal and becomes a command."""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextvars import copy_context
from typing import Any, NoReturn, Protocol, TypeVar

from durable.callbacks import Listener
from durable.core.commands import Command, Invoke, OpenEntry, Record, Sleep
from durable.core.duration import Duration, parse
from durable.core.ids import IdSpan, child_id, fingerprint
from durable.core.invocation import Caller, Flavor, KeyedObject, Submission
from durable.core.journal import GIVEN_UP, Kind, Outcome, Row
from durable.core.reasons import Reason
from durable.core.retry import RetryPolicy
from durable.core.topics import JOINED
from durable.errors import InvalidRequestError, NotFoundError, UsageError
from durable.futures import DurableFuture
from durable.operations import Request, StepOptions
from durable.runtime.forgotten import Unused
from durable.runtime.observer import Observer
from durable.runtime.registry import Registered, check_headers, check_text
from durable.runtime.reuse import Reuse
from durable.runtime.step import Step, callee_of
from durable.serde import Serde, check_data, encoded, stable
from durable.service import Handler

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_RUN, _CALL, _SEND = Kind.RUN, Kind.CALL, Kind.SEND

T = TypeVar("T")


class Clockwork(Protocol):
    """What operations need of the runtime."""

    def now_ms(self) -> int:
        """The time."""
        ...

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """A handler by name."""
        ...

    def id_span(self) -> IdSpan:
        """Within what the ids of this file are that keys determine."""
        ...


class Journal(Listener, Protocol):
    """What operations need of their attempt."""

    seq: int
    number: int
    submission: Submission
    observer: Observer | None
    delivered: int
    active: bool
    #: How many bytes a value may have.
    value_size_max: int
    #: What its handler has made and not used.
    unused: Unused

    @property
    def request(self) -> Request:
        """What the handler was asked."""
        ...

    @property
    def target(self) -> str:
        """See `Submission.target`."""
        ...

    @property
    def seed(self) -> str:
        """What the handler's random numbers follow from."""
        ...

    @property
    def run_id(self) -> str:
        """See `Invocation.run`."""
        ...

    @property
    def run_number(self) -> int:
        """See `Invocation.run_number`."""
        ...

    @property
    def ending(self) -> bool:
        """Whether it is told to end."""
        ...

    @property
    def cancels(self) -> int:
        """How many cancels could be raised in its handler so far."""
        ...

    @property
    def deaf(self) -> bool:
        """Whether the attempt no longer answers its handler: then what that waits for never comes."""
        ...

    @property
    def next_entry(self) -> int:
        """The entry that `take` would take."""
        ...

    @property
    def recorded(self) -> bool:
        """Whether that entry is in the journal."""
        ...

    @property
    def host(self) -> Clockwork:
        """The runtime."""
        ...

    def wait(self, future: DurableFuture[Any]) -> Generator[Any, None, Any]:
        """See `futures.Waits`."""
        ...

    def submit(self, command: Command) -> None:
        """Have a command settled."""
        ...

    def check_cancel(self, kind: Kind, name: str) -> bool:
        """Raise the cancel that is due; True where one has come that waits for steps to end: nothing begins then."""
        ...

    def take(self, kind: Kind, name: str, print_: bytes | None) -> tuple[int, Row | None]:
        """The next entry, and its row where it is recorded already."""
        ...

    def expect(self, future: DurableFuture[Any]) -> None:
        """Its outcome will be delivered."""
        ...

    def asked_more(self) -> None:
        """An entry that waits for nothing was taken."""
        ...

    def run(self, future: DurableFuture[Any], step: Step, *, announced: bool = False) -> None:
        """A step was asked for."""
        ...

    def read_damage(self, cause: str) -> NoReturn:
        """The handler asked for something that is damaged: its attempt is broken. Raises `StorageCorruptError`."""
        ...


#: What handlers have written that have written nothing.
_UNWRITTEN: dict[str, bytes | None] = {}


class Operations:
    """See the module's docstring. Implements `context.Operations`."""

    __slots__ = ("_attempt", "_cleared", "_keyed", "_written", "key", "made", "service", "wait")

    def __init__(self, attempt: Journal, keyed: KeyedObject | None) -> None:
        self.service = attempt.submission.service
        self.key = attempt.submission.key
        self._attempt = attempt
        #: See `futures.Waits`.
        self.wait = attempt.wait
        self.made = attempt.unused.made
        self._keyed = keyed
        #: What this attempt wrote over the committed state.
        self._written = _UNWRITTEN
        self._cleared = False

    @property
    def request(self) -> Request:
        """What the handler was asked."""
        return self._attempt.request

    @property
    def listener(self) -> Listener:
        """See `callbacks.Listens`."""
        return self._attempt

    def raises(self) -> None:
        """See `futures.Waits`."""
        self._attempt.unused.raised = True

    def options(
        self, name: str | None, retry: RetryPolicy | None, timeout: Duration | None, interruptible: bool
    ) -> StepOptions:
        """Validated step options."""
        if name is not None:
            check_text("step's name", name, recorded=True)  # if it is not, `take` refuses it
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise UsageError(f"with_options(retry=...) takes a RetryPolicy, not {retry!r}")
        return StepOptions(name, retry, None if timeout is None else _parse("timeout", timeout), interruptible)

    @property
    def ending(self) -> bool:
        """See `saga.Runs`. Whoever is told so has heard that the attempt ends (`deaf`)."""
        return self._attempt.deaf or self._attempt.ending or not self._attempt.active

    @property
    def run_number(self) -> int:
        """See `Invocation.run_number`."""
        return self._attempt.run_number

    @property
    def seed(self) -> str:
        """What the handler's random numbers follow from."""
        return self._attempt.seed

    def run(
        self,
        options: StepOptions,
        fn: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        announced: bool = False,
    ) -> DurableFuture[Any]:
        """A step: known, or to be executed when it is awaited or left behind."""
        attempt = self._attempt
        if attempt.deaf:
            return self._never()
        if not callable(fn):
            if inspect.iscoroutine(fn):
                fn.close()
            raise UsageError(
                f"ctx.run(fn, *args) takes a function and its arguments, not {fn!r}: do not call it yourself"
            )
        callee = callee_of(fn)
        name = options.name or callee.name
        if attempt.check_cancel(_RUN, name) and not announced:
            return self._give_up(_RUN, name, None)
        step = Step(fn, args, kwargs, name, options, callee, attempt.delivered, copy_context())
        entry, row = attempt.take(_RUN, name, None)
        step.recorded = row is not None
        if attempt.observer is not None:
            attempt.observer.step_asked(attempt.submission, attempt.number, entry, step, step.recorded)
        future: DurableFuture[Any] = DurableFuture(self, entry, _RUN, callee.decode, name)
        attempt.run(future, step, announced=announced)
        self.made(future, 3)
        return future

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
        if self._attempt.deaf:
            return self._never()
        if self._attempt.check_cancel(kind, name):
            return self._give_up(kind, name, fingerprint)
        entry, row = self._attempt.take(kind, name, fingerprint)
        return self._open(entry, row, kind, name, asked, decode, detail, fingerprint)

    def _open(
        self,
        entry: int,
        row: Row | None,
        kind: Kind,
        name: str,
        asked: Any,
        decode: Callable[[bytes], T] | None,
        detail: str | None,
        print_: bytes | None,
    ) -> DurableFuture[T]:
        future: DurableFuture[T] = DurableFuture(self, entry, kind, decode, name)
        if row is not None and row.ok is None and row.detail is not None and kind in (_CALL, Kind.AWAKEABLE):
            future.id = row.detail.removeprefix(JOINED)
        if row is None:
            attempt = self._attempt
            if attempt.observer is not None:
                attempt.observer.entry_made(attempt.submission, attempt.number, entry, kind, name)
            attempt.submit(
                OpenEntry(
                    attempt.seq,
                    attempt.number,
                    entry,
                    kind,
                    name,
                    attempt.delivered,
                    asked,
                    detail,
                    print_,
                )
            )
        self._attempt.expect(future)
        if kind is not _CALL and kind is not Kind.COMPLETE_PROMISE:
            self.made(future, 4)  # of these, the one is done anyway, the other has no id yet
        return future

    def note(
        self, kind: Kind, name: str, asked: Any, *, detail: str | None = None, fingerprint: bytes | None
    ) -> str | None:
        """An entry that waits for nothing; returns its detail, which may be a recorded one."""
        if self._attempt.deaf:
            return detail
        entry, row = self._attempt.take(kind, name, fingerprint)
        if row is None:
            attempt = self._attempt
            if attempt.observer is not None:
                attempt.observer.entry_made(attempt.submission, attempt.number, entry, kind, name)
            attempt.submit(
                OpenEntry(
                    attempt.seq,
                    attempt.number,
                    entry,
                    kind,
                    name,
                    attempt.delivered,
                    asked,
                    detail,
                    fingerprint,
                )
            )
        self._attempt.asked_more()
        return detail if row is None else row.detail

    def read(self, kind: Kind, name: str, look: Callable[[], bytes]) -> bytes:
        """An entry whose value is at hand now, and recorded for replays."""
        if self._attempt.deaf:
            return look()
        entry, row = self._attempt.take(kind, name, None)
        if row is not None:
            data = row.value or b""
        else:
            attempt, data = self._attempt, look()
            if attempt.observer is not None:
                attempt.observer.entry_made(attempt.submission, attempt.number, entry, kind, name)
            attempt.submit(
                Record(
                    attempt.seq,
                    attempt.number,
                    entry,
                    kind,
                    name,
                    attempt.delivered,
                    Outcome(True, data),
                )
            )
        self._attempt.asked_more()
        return data

    def sleep(self, duration: Duration, name: str) -> DurableFuture[None]:
        """A timer that is due `duration` from now."""
        delay_ms = _delay_ms(duration)
        if self._attempt.deaf:
            return self._never()
        if self._attempt.check_cancel(Kind.SLEEP, name):
            return self._give_up(Kind.SLEEP, name, None)
        entry, row = self._attempt.take(Kind.SLEEP, name, None)
        due_at = self._attempt.host.now_ms() + delay_ms
        return self._open(entry, row, Kind.SLEEP, name, Sleep(due_at), _nothing, str(due_at), None)

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
        """A call or a send."""
        attempt = self._attempt
        if attempt.deaf:
            return "", self._never()
        try:
            handler = attempt.host.find(target)
        except NotFoundError as error:
            error.reason = Reason.HANDLER_GONE
            raise
        data = handler.encode_input(arg)
        name = f"{handler.service}/{handler.name}" if key is None else f"{handler.service}/{key}/{handler.name}"
        given_up = kind is _CALL and attempt.check_cancel(kind, name)
        print_ = fingerprint(stable(arg, data, handler.input), (idempotency_key or "").encode("utf-8", "replace"))
        due_at = None if delay is None else attempt.host.now_ms() + _parse("delay", delay)
        entry = attempt.next_entry  # taken below, when nothing can be refused any more
        own = attempt.submission.id
        caller = Caller(attempt.seq, own, entry, attempt.target, kind is _CALL)
        recorded = attempt.recorded
        submission = handler.submission(
            child_id(own, entry, attempt.run_id),
            data,
            key=key,
            headers=check_headers(headers, attempt.value_size_max, recorded=recorded),
            idempotency_key=idempotency_key,
            caller=caller,
            due_at=due_at,
            id_span=attempt.host.id_span(),
            observer=None if recorded or given_up else attempt.observer,
            recorded=recorded,
        )
        has_key = idempotency_key is not None and submission.flavor is not Flavor.WORKFLOW
        again = Reuse(handler, submission) if has_key and not recorded else None
        if kind is _SEND:
            id = self.note(kind, name, Invoke(submission, again=again), detail=submission.id, fingerprint=print_)
            return id or submission.id, DurableFuture(self, entry, kind, None)
        if given_up:
            return submission.id, self._give_up(kind, name, print_)
        entry, row = attempt.take(kind, name, print_)
        asked = Invoke(submission, attempt.cancels, again)
        future = self._open(entry, row, kind, name, asked, handler.output.decode, submission.id, print_)
        future.id = id = future.id or submission.id
        self.made(future, 3)
        return id, future

    def _give_up(self, kind: Kind, name: str, print_: bytes | None) -> DurableFuture[Any]:
        """Nothing new begins while a cancel waits for steps to end: it is raised where this is awaited."""
        attempt = self._attempt
        entry, row = attempt.take(kind, name, print_)
        future: DurableFuture[Any] = DurableFuture(self, entry, kind, None)
        if row is None:
            detail = None if print_ is None else print_.hex()
            attempt.submit(
                Record(attempt.seq, attempt.number, entry, kind, name, attempt.delivered, GIVEN_UP, True, detail)
            )
        attempt.expect(future)
        return future

    def _never(self) -> DurableFuture[Any]:
        """A future that never completes."""
        return DurableFuture(self, 0, Kind.AWAKEABLE, None)

    def encode(self, serde: Serde[Any], value: Any, door: str) -> bytes:
        """See `operations.Operations`."""
        return encoded(serde, value, door, self._attempt.value_size_max)

    def check(self, data: bytes, door: str) -> None:
        """See `operations.Operations`."""
        check_data(data, door, self._attempt.value_size_max)

    def state(self, name: str) -> bytes | None:
        """A state value: this handler's own writes over what is committed."""
        if name in self._written:
            return self._written[name]
        if self._cleared or self._keyed is None or self._keyed.over(self._attempt.host.now_ms()):
            return None
        cause = self._keyed.state_damage(name)
        if cause is not None:
            self._attempt.read_damage(cause)
        return self._keyed.state.get(name)

    def state_names(self) -> list[str]:
        """The names of all state values."""
        names: set[str] = set()
        if not self._cleared and self._keyed is not None and not self._keyed.over(self._attempt.host.now_ms()):
            names = self._keyed.state.keys() | self._keyed.damaged_state.keys()
            for cause in self._keyed.lost_state.values():
                self._attempt.read_damage(cause)
        for name, value in self._written.items():
            (names.discard if value is None else names.add)(name)
        return list(names)

    def set_state(self, name: str | None, value: bytes | None) -> None:
        """Change what `state` returns."""
        if name is None:
            self._written = _UNWRITTEN
            self._cleared = True
        else:
            self._written = self._written if self._written is not _UNWRITTEN else {}
            self._written[name] = value

    def now_ms(self) -> int:
        """The engine's clock."""
        return self._attempt.host.now_ms()


def _delay_ms(duration: Duration) -> int:
    """A duration, where a negative number means no wait at all."""
    if isinstance(duration, int | float) and not isinstance(duration, bool) and duration < 0:
        return 0
    if hasattr(duration, "total_seconds") and duration.total_seconds() < 0:
        return 0
    return _parse("a sleep", duration)


def _parse(what: str, duration: Duration) -> int:
    try:
        return parse(duration)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequestError(f"{what}: {error}") from None


def _nothing(data: bytes) -> None:
    return None
