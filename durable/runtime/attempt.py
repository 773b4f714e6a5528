"""One attempt of one invocation: a task that runs the handler, first over its journal, then onwards.

An attempt never changes anything itself. What the handler asks for becomes commands; what has been committed comes
back through `deliver`. When it is over, however it ended, nothing it still does has any effect.
"""

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from durable.context import Request, StepOptions
from durable.core.commands import Command, Fail, Finish, Finished, Invoke, OpenEntry, Record, Sleep, Suspend
from durable.core.duration import Duration, parse
from durable.core.ids import child_id, fingerprint
from durable.core.invocation import Caller, Invocation, KeyedObject
from durable.core.journal import CANCELLED, Failure, Kind, Outcome, Row
from durable.core.replay import Replay, stuck
from durable.core.retry import RetryPolicy
from durable.core.waiting import Group
from durable.errors import (
    AttemptEnded,
    JournalMismatchError,
    RetryableError,
    TerminalError,
    UsageError,
)
from durable.futures import DurableFuture, error_of, outcome_of
from durable.runtime.failures import contains_end, failure_of_exception, problem_of
from durable.runtime.registry import Registered
from durable.runtime.steps import NO_TIMEOUT, call_step, step_name, timed_out
from durable.serde import return_annotation, serde_for
from durable.service import Handler

T = TypeVar("T")
log = logging.getLogger("durable")

#: How many recorded outcomes are delivered in one go before the event loop gets its turn.
REPLAY_SLICE = 1000


class Host(Protocol):
    """What an attempt needs of the runtime."""

    def submit(self, command: Command) -> None:
        """Have a command settled in the next turn."""
        ...

    def now_ms(self) -> int:
        """The time."""
        ...

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """A handler by name."""
        ...

    def left_behind(self, attempt: "Attempt") -> None:
        """A step was made that nobody awaits yet: `start_left_over` is due soon."""
        ...

    def parked(self, attempt: "Attempt") -> None:
        """The handler only waits now."""
        ...


class _Step:
    """A step nobody has executed yet."""

    __slots__ = (
        "args",
        "decode",
        "encode",
        "fn",
        "interruptible",
        "kwargs",
        "name",
        "options",
        "recorded",
        "seen",
        "started",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str,
        options: StepOptions,
        seen: int,
    ) -> None:
        serde = serde_for(return_annotation(fn))
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.name = name
        self.options = options
        self.interruptible = options.interruptible
        self.seen = seen
        self.encode = serde.encode
        self.decode = serde.decode
        #: Whether a command row says that it is running.
        self.recorded = False
        self.started = False


class Attempt:
    """See the module's docstring. Implements `context.Operations`."""

    def __init__(
        self,
        host: Host,
        invocation: Invocation,
        number: int,
        handler: Registered,
        keyed: KeyedObject | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        submission = invocation.submission
        self.host = host
        self.seq = invocation.seq
        self.number = number
        self.handler = handler
        self.key = submission.key
        self.service = submission.service
        self.target = submission.target
        self.request = Request(
            submission.id, submission.target, submission.headers, submission.idempotency_key, number, submission.input
        )
        self.task: asyncio.Task[None] | None = None
        #: Whether it counts among the concurrent attempts.
        self.has_slot = False
        #: Whether there can be nothing in its journal yet.
        self.is_first = number == 1 and invocation.last_entry == 0
        self.loop = loop
        self.active = True
        #: When something last happened, on the event loop's clock.
        self.touched = loop.time()
        #: Completions from outside that were handed to it: see `Invocation.notified`.
        self.notified = 0
        #: Whether a suspension was offered and not yet answered.
        self.offered = False
        self._keyed = keyed
        self._written: dict[str, bytes | None] = {}
        self._cleared = False
        self._asked = 0
        self._delivered = 0
        self._pending: dict[int, DurableFuture[Any]] = {}
        #: Steps that are open, by entry; those in `_unrecorded` have no row yet.
        self._unrecorded: dict[int, _Step] = {}
        self._left_over: DurableFuture[Any] | None = None
        self._steps = 0
        self._step_tasks: dict[asyncio.Task[None], DurableFuture[Any]] = {}
        self._blocked: dict[asyncio.Future[None], DurableFuture[Any]] = {}
        self._flows = 0
        self._cancels = 0
        self._replay: Replay | None = None
        self._started = False
        self._held_back: list[tuple[int, Outcome]] = []
        self._failure: Fail | None = None
        self._closing = False
        #: Step results that are handed in and not yet durable.
        self._handed_in = 0
        self._broken: BaseException | None = None

    # ---- life ----

    def start(self, rows: Sequence[Row], until: int) -> None:
        """Run the handler over what is recorded."""
        replay = Replay(rows, until)
        self._replay = replay if replay.commands or replay.outcomes_left else None
        self._started = True
        self.touched = self.loop.time()
        self._pump()
        self.task = self.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            context = self.handler.context(self)
            arguments = self._arguments()
            value = await self.handler.fn(context, *arguments)
            if not self.active:
                log.warning("%s %s: the handler went on after its attempt had ended", self.target, self.request.id)
                return
            self._check_end()
            outcome = Outcome(True, self._encode_result(value))
        except AttemptEnded:
            self._end_failed()  # of its failing step, if that is why; else it has ended already
            return
        except BaseException as error:
            if not self.active:
                return
            if contains_end(error):
                return
            failure = failure_of_exception(error)
            if failure is None:
                self._fail(self._broken or error)
                self._end_failed()
                return
            try:
                self._check_end()
            except JournalMismatchError as other:
                self._fail(other)
                self._end_failed()
                return
            outcome = failure
        self.active = False
        self.host.submit(Finish(self.seq, self.number, outcome))
        self._unwind()

    def _arguments(self) -> tuple[Any, ...]:
        return self.handler.arguments(self.request.body)

    def _encode_result(self, value: Any) -> bytes:
        data = self.handler.output.encode(value)
        self.handler.output.decode(data)  # what a caller could not read is a failure here, not there
        return data

    def _check_end(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._replay is not None:
            self._replay.check_end(self._asked)

    def end(self) -> None:
        """The attempt is over (suspended, killed, paused, shut down): let the handler's coroutine go."""
        self.active = False
        self._unwind()

    def close(self) -> None:
        """Let the steps that run end and be recorded, then end: nothing new is started from now on."""
        self._closing = True
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._closing and self.active and self._steps == 0 and not self._handed_in:
            self.end()

    def abort(self) -> None:
        """The handler does not yield: its attempt has failed."""
        self._steps = 0
        self._fail(TimeoutError("the abort timeout ran out: the handler did not yield after its inactivity timeout"))
        self._end_failed()

    def _unwind(self) -> None:
        """Raise `AttemptEnded` wherever the handler waits for something durable; cancel what waits elsewhere."""
        for waiter in list(self._blocked):
            if not waiter.done():
                waiter.set_exception(AttemptEnded())
                waiter.exception()  # retrieved: nobody may be left to await it
        for task in list(self._step_tasks):
            task.cancel()
        self._pending.clear()
        self._unrecorded.clear()
        self._left_over = None
        if self.task is not None and not self.task.done():
            self.loop.call_soon(self._cancel_if_stuck, 3)

    def _cancel_if_stuck(self, patience: int) -> None:
        """A handler in a durable wait is already on its way out; one that waits for something else is cancelled."""
        if self.task is None or self.task.done():
            return
        if patience:
            self.loop.call_soon(self._cancel_if_stuck, patience - 1)
        else:
            self.task.cancel()

    def _fail(self, error: BaseException, step: "_Step | None" = None, entry: int = 0) -> None:
        """End the attempt with a failure that may be retried, once its other steps have ended and are recorded."""
        if not self.active or self._failure is not None:
            return
        problem = problem_of(error, entry, step.name if step is not None else "")
        step_policy = None
        if step is not None and step.options.retry is not None:
            step_policy = step.options.retry.merged_over(self.handler.policy)
        retry_after_ms = None
        if isinstance(error, RetryableError) and error.retry_after is not None:
            try:
                retry_after_ms = parse(error.retry_after)
            except ValueError as bad:
                log.warning("%s: RetryableError(retry_after=...): %s", self.target, bad)
        self._failure = Fail(
            self.seq,
            self.number,
            problem,
            self.handler.policy,
            step_policy,
            retry_after_ms,
            Failure(problem.message, 500).outcome(),
            step.recorded if step is not None else False,
            step.seen if step is not None else 0,
        )
        if self._steps == 0:
            self._end_failed()

    def _end_failed(self) -> None:
        """No step runs any more: report the failure and let the handler go."""
        failure = self._failure
        if failure is None or not self.active or self._steps:
            return
        self.active = False
        self.host.submit(failure)
        self._unwind()

    # ---- what was committed comes back ----

    def deliver(self, entry: int, outcome: Outcome, notified: bool) -> None:
        """An entry has its outcome (entry 0: the invocation was cancelled)."""
        if notified:
            self.notified += 1
        if not self.active:
            return
        self.touched = self.loop.time()
        self.offered = False
        if not self._started or self._replay is not None:
            self._held_back.append((entry, outcome))
            if self._started:
                self._pump()
        elif entry == 0 or entry in self._pending:
            self._arrive(entry, outcome)
        else:
            self._held_back.append((entry, outcome))

    def _pump(self) -> None:
        """Deliver what is recorded, as far as the handler has come, then what was held back meanwhile."""
        replay = self._replay
        if replay is not None:
            for _ in range(REPLAY_SLICE):
                arrival = replay.next_arrival(self._asked)
                if arrival is None:
                    break
                self._arrive(*arrival)
            else:
                self.loop.call_soon(self._pump)
                return
            if replay.outcomes_left or self._asked < replay.last:
                return
            self._replay = None
        if self._held_back and self.active:
            held_back, self._held_back = self._held_back, []
            for entry, outcome in held_back:
                if entry == 0 or entry in self._pending:
                    self._arrive(entry, outcome)
                elif entry > self._asked:
                    self._held_back.append((entry, outcome))

    def _arrive(self, entry: int, outcome: Outcome) -> None:
        self._delivered += 1
        if entry == 0:
            self._cancel()
            return
        future = self._pending.pop(entry)
        if future.step is not None and future.step.started:
            self._handed_in -= 1
        future.step = None
        future.complete(outcome, self._delivered)
        self._wake()
        if self._closing:
            self.loop.call_soon(self._end_if_drained)

    def _wake(self) -> None:
        for waiter, future in self._blocked.items():
            if future.outcome is not None and not waiter.done():
                waiter.set_result(None)

    def _cancel(self) -> None:
        """Raise once: now where the handler waits, else at the next operation that would start or wait."""
        self._cancels += 1
        hit = False
        for waiter, future in self._blocked.items():
            if not waiter.done() and future.interruptible:
                waiter.set_exception(error_of(CANCELLED))
                waiter.exception()
                hit = True
        for task, future in list(self._step_tasks.items()):
            if future.interruptible:
                task.cancel()
        if hit:
            self._cancels -= 1

    # ---- waiting ----

    @property
    def crowded(self) -> bool:
        """Whether other flows of the handler wait too."""
        return self._flows > 0

    def wait(self, future: DurableFuture[Any]) -> Generator[Any, None, None]:
        """Give way until the future has its outcome (and, for a step nobody started, run it here)."""
        self._check_active()
        if future is self._left_over:
            self._left_over = None
        step: _Step | None = future.step
        to_start = step is not None and not step.started and not self._is_recorded(future)
        if self._cancels and future.outcome is None and (future.interruptible or to_start):
            self._raise_cancel()
        self._flows += 1
        try:
            if step is not None and to_start and not step.interruptible:
                step.started = True
                yield from self._execute(future, step).__await__()
                return
            if self._left_over is not None or to_start:
                self._left_over = self._left_over or future
                self.start_left_over()
            yield from self._block(future)
        finally:
            self._flows -= 1

    def _block(self, future: DurableFuture[Any]) -> Generator[Any, None, None]:
        waiter: asyncio.Future[None] = self.loop.create_future()
        if future.outcome is not None:
            waiter.set_result(None)
        self._blocked[waiter] = future
        self.touched = self.loop.time()
        try:
            if self._steps == 0 and self._handed_in == 0:
                self.host.parked(self)
            yield from waiter
        except asyncio.CancelledError:
            if self.active and timed_out(asyncio.current_task()):
                raise UsageError(NO_TIMEOUT) from None
            raise
        finally:
            del self._blocked[waiter]

    def _is_recorded(self, future: DurableFuture[Any]) -> bool:
        """Whether its outcome is in the journal and only waits for the handler to come so far."""
        return self._replay is not None and self._replay.has_outcome(future.entry)

    def _check_active(self) -> None:
        if not self.active:
            raise AttemptEnded
        if self._broken is not None:
            raise self._broken
        if self._failure is not None or self._closing:
            raise AttemptEnded

    def _raise_cancel(self) -> None:
        if self._cancels:
            self._cancels -= 1
            raise error_of(CANCELLED)

    def waiting_for(self) -> int | Group:
        """What would let the handler go on, as an expression."""
        nodes = tuple(future.waiting_for() for waiter, future in self._blocked.items() if not waiter.done())
        return nodes[0] if len(nodes) == 1 else Group("any", nodes)

    @property
    def idle(self) -> bool:
        """Whether the handler only waits, for things that can come while it is unloaded."""
        return (
            self.active
            and self._steps == 0
            and self._handed_in == 0
            and self._started
            and bool(self._blocked)
            and self._replay is None
            and self._left_over is None
            and self._failure is None
            and all(not waiter.done() for waiter in self._blocked)
        )

    def offer_suspension(self) -> None:
        """Offer to give up its memory; the answer is `end`, or a delivery."""
        if self._replay is not None and self._blocked and not self._steps and not self._handed_in:
            # everything waits, and the journal has more: the code does not come to what is recorded
            self._broken = stuck(self._replay, self._asked)
            self._fail(self._broken)
            self._end_failed()
        elif self.idle and not self.offered:
            self.offered = True
            self.host.submit(Suspend(self.seq, self.number, self.waiting_for(), self.notified))

    # ---- taking entries ----

    def _take(self, kind: Kind, name: str, print_: bytes | None) -> tuple[int, Row | None]:
        """The next entry, and its row where it is recorded already."""
        if not self.active or self._closing or self._broken is not None or self._failure is not None:
            self._check_active()
        entry = self._asked + 1
        if self._unrecorded:
            self._record_open_steps()
        self._asked = entry
        replay = self._replay
        if replay is None:
            return entry, None
        try:
            return entry, replay.match(entry, kind, name, print_)
        except JournalMismatchError as error:
            self._broken = error  # whatever the handler does with it, nothing is executed any more
            raise

    def _record_open_steps(self) -> None:
        """The handler goes on while steps are open: from now on the journal says that they run."""
        for entry, step in self._unrecorded.items():
            step.recorded = True
            self.host.submit(Record(self.seq, self.number, entry, Kind.RUN, step.name, step.seen))
        self._unrecorded.clear()
        if self._left_over is not None:
            self.start_left_over()

    # ---- context.Operations: steps ----

    def options(
        self, name: str | None, retry: RetryPolicy | None, timeout: Duration | None, interruptible: bool
    ) -> StepOptions:
        """Validated step options."""
        return StepOptions(name, retry, None if timeout is None else parse(timeout), interruptible)

    def run(
        self, options: StepOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DurableFuture[Any]:
        """A step: known, or to be executed when it is awaited or left behind."""
        self._raise_cancel()
        name = options.name or step_name(fn)
        entry, row = self._take(Kind.RUN, name, None)
        step = _Step(fn, args, kwargs, name, options, self._delivered)
        future: DurableFuture[Any] = DurableFuture(self, entry, Kind.RUN, step.decode)
        self._pending[entry] = future
        future.step = step
        if row is not None:
            step.recorded = True
        else:
            self._unrecorded[entry] = step
        if self._replay is not None:
            self._pump()
        if future.outcome is None:
            self._left_over = future
            self.host.left_behind(self)
        return future

    def start_left_over(self) -> None:
        """A step was made and not awaited at once: it runs beside the handler."""
        future, self._left_over = self._left_over, None
        if future is None or not self.active or future.step is None or future.step.started:
            return
        if self._is_recorded(future):
            return
        step = future.step
        step.started = True
        if not step.recorded and self._unrecorded.pop(future.entry, None) is not None:
            step.recorded = True
            self.host.submit(Record(self.seq, self.number, future.entry, Kind.RUN, step.name, step.seen))
        task = self.loop.create_task(self._execute_beside(future, step))
        self._step_tasks[task] = future
        task.add_done_callback(self._step_tasks.pop)

    async def _execute_beside(self, future: DurableFuture[Any], step: _Step) -> None:
        with suppress(AttemptEnded, asyncio.CancelledError):
            await self._execute(future, step)

    async def _execute(self, future: DurableFuture[Any], step: _Step) -> None:
        """Run the step's function, hand in what it gave, and wait until that is durable."""
        self._steps += 1
        outcome: Outcome | None = None
        try:
            value = await call_step(step.fn, step.args, step.kwargs, step.options.timeout_ms)
            data = step.encode(value)
            future.preset(step.decode(data))
            outcome = Outcome(True, data)
        except TerminalError as error:
            outcome = outcome_of(error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            too_late = self.active and timed_out(task)
            if not self.active or (task is not None and task.cancelling() and not too_late):
                raise
            self._fail(UsageError(NO_TIMEOUT) if too_late else error, step, future.entry)
        except AttemptEnded:
            raise
        except BaseException as error:
            self._fail(error, step, future.entry)
        finally:
            self._steps -= 1
            self.touched = self.loop.time()
            if self._failure is not None and not self._steps:
                self.loop.call_soon(self._end_failed)
        if not self.active:
            raise AttemptEnded
        if outcome is not None:
            self._hand_in(future, step, outcome)
        waiter: asyncio.Future[None] = self.loop.create_future()
        self._blocked[waiter] = future
        try:
            await waiter
        finally:
            del self._blocked[waiter]

    def _hand_in(self, future: DurableFuture[Any], step: _Step, outcome: Outcome) -> None:
        """Have the step's outcome recorded: with its command where that is not recorded yet."""
        self._handed_in += 1
        entry, submit = future.entry, self.host.submit
        if step.recorded:
            submit(Finished(self.seq, self.number, entry, step.name, outcome))
        else:
            self._unrecorded.pop(entry, None)
            submit(Record(self.seq, self.number, entry, Kind.RUN, step.name, step.seen, outcome, True))

    # ---- context.Operations: everything else ----

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
        self._raise_cancel()
        entry, row = self._take(kind, name, fingerprint)
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
        future: DurableFuture[T] = DurableFuture(self, entry, kind, decode)
        self._pending[entry] = future
        if row is None:
            self.host.submit(
                OpenEntry(self.seq, self.number, entry, kind, name, self._delivered, asked, detail, print_)
            )
        if self._replay is not None or self._held_back:
            self._pump()
        return future

    def note(
        self, kind: Kind, name: str, asked: Any, *, detail: str | None = None, fingerprint: bytes | None
    ) -> None:
        """An entry that waits for nothing."""
        entry, row = self._take(kind, name, fingerprint)
        if row is None:
            self.host.submit(
                OpenEntry(self.seq, self.number, entry, kind, name, self._delivered, asked, detail, fingerprint)
            )
        if self._replay is not None:
            self._pump()

    def read(self, kind: Kind, name: str, look: Callable[[], bytes]) -> bytes:
        """An entry whose value is at hand now, and recorded for replays."""
        entry, row = self._take(kind, name, None)
        if row is not None:
            data = row.value or b""
        else:
            data = look()
            self.host.submit(Record(self.seq, self.number, entry, kind, name, self._delivered, Outcome(True, data)))
        if self._replay is not None:
            self._pump()
        return data

    def sleep(self, duration: Duration, name: str) -> DurableFuture[None]:
        """A timer that is due `duration` from now."""
        delay_ms = _delay_ms(duration)
        self._raise_cancel()
        entry, row = self._take(Kind.SLEEP, name, None)
        due_at = self.host.now_ms() + delay_ms
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
        if kind is Kind.CALL:
            self._raise_cancel()
        handler = self.host.find(target)
        data = handler.encode_input(arg)
        name = f"{handler.service}/{handler.name}" if key is None else f"{handler.service}/{key}/{handler.name}"
        print_ = fingerprint(data)
        due_at = None if delay is None else self.host.now_ms() + parse(delay)
        entry, row = self._take(kind, name, print_)
        caller = Caller(self.seq, self.request.id, entry, self.target, kind is Kind.CALL)
        submission = handler.submission(
            child_id(self.request.id, entry),
            data,
            key=key,
            headers=dict(headers or {}),
            idempotency_key=idempotency_key,
            caller=caller,
            due_at=due_at,
        )
        if kind is Kind.SEND:
            if row is None:
                self.host.submit(
                    OpenEntry(
                        self.seq, self.number, entry, kind, name, self._delivered, Invoke(submission),
                        submission.id, print_,
                    )
                )  # fmt: skip
            if self._replay is not None:
                self._pump()
            return submission.id, DurableFuture(self, entry, kind, None)
        future = self._open(entry, row, kind, name, Invoke(submission), handler.output.decode, submission.id, print_)
        future.id = submission.id
        return submission.id, future

    def state(self, name: str) -> bytes | None:
        """A state value: this handler's own writes over what is committed."""
        if name in self._written:
            return self._written[name]
        if self._cleared or self._keyed is None:
            return None
        return self._keyed.state.get(name)

    def state_names(self) -> list[str]:
        """The names of all state values."""
        names = set() if self._cleared or self._keyed is None else set(self._keyed.state)
        for name, value in self._written.items():
            (names.discard if value is None else names.add)(name)
        return list(names)

    def set_state(self, name: str | None, value: bytes | None) -> None:
        """Change what `state` returns."""
        if name is None:
            self._written.clear()
            self._cleared = True
        else:
            self._written[name] = value

    def now_ms(self) -> int:
        """The engine's clock."""
        return self.host.now_ms()


def _delay_ms(duration: Duration) -> int:
    """A duration, where a negative number means no wait at all."""
    if isinstance(duration, int | float) and not isinstance(duration, bool) and duration < 0:
        return 0
    if hasattr(duration, "total_seconds") and duration.total_seconds() < 0:
        return 0
    return parse(duration)


def _nothing(data: bytes) -> None:
    return None
