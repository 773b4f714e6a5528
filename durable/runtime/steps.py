"""The steps of one attempt: started when they are awaited or left behind, and recorded when they have ended."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from contextvars import Token
from types import coroutine
from typing import Any, Protocol

from durable.core.commands import Command, Finished, Record
from durable.core.invocation import Submission
from durable.core.journal import CANCELLED, INTERRUPTIBLE, Kind, Outcome
from durable.errors import AttemptEnded, UsageError
from durable.futures import DurableFuture
from durable.runtime.current import CURRENT, GONE, InStep, leave
from durable.runtime.failures import failure_of_exception
from durable.runtime.lending import Lending
from durable.runtime.observer import Observer
from durable.runtime.step import Step, call_step
from durable.runtime.tasks import current_task, unmourned
from durable.runtime.timeouts import NO_TIMEOUT
from durable.runtime.variables import DECIMALS, own_decimals, within
from durable.runtime.waiters import Waiter
from durable.serde import check_data, named
from durable.serde.scalars import write

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_RUN = Kind.RUN


class Owner(Protocol):
    """What steps need of their attempt."""

    active: bool
    seq: int
    number: int
    task: asyncio.Task[None] | None
    #: Why nothing may be executed any more.
    broken: BaseException | None
    #: How many bytes a result may have.
    value_size_max: int
    loop: asyncio.AbstractEventLoop
    submission: Submission
    observer: Observer | None
    #: What its steps lend while they wait for the engine; it has the threads.
    lending: Lending

    @property
    def ending(self) -> bool:
        """Whether it is told to end: nothing begins any more."""
        ...

    @property
    def cancel_due(self) -> bool:
        """Whether a cancel is recorded that the handler has not seen: what may be interrupted does not begin."""
        ...

    @property
    def cancel_accepted(self) -> bool:
        """Whether a cancel waits for calls and steps to end: what may be interrupted does not begin any more."""
        ...

    def submit(self, command: Command) -> None:
        """Have a command settled."""
        ...

    def at_rest(self) -> None:
        """Nothing is executed any more, perhaps: then the handler may be unloaded."""
        ...

    @property
    def repeating(self) -> bool:
        """Whether the handler has yet to ask for something that is recorded."""
        ...

    def held_back(self) -> None:
        """A step of which the journal says that it runs does not begin again yet: `Steps.release` follows."""
        ...

    def is_recorded(self, future: DurableFuture[Any]) -> bool:
        """Whether the outcome is in the journal and only waits for the handler to come so far."""
        ...

    def fail(self, error: BaseException, step: Step | None = None, entry: int = 0, *, returned: bool = False) -> None:
        """End the attempt with a failure, once no step runs. `returned`: what the step gave cannot be kept."""
        ...

    def timed_out(self, error: asyncio.CancelledError, *, ours: bool = False) -> bool:
        """Whether a time-out of asyncio or anyio cancelled the step."""
        ...

    def a_step_ended(self) -> None:
        """Called whenever an execution is over, however it ended."""
        ...

    def step_waits(self) -> None:
        """The handler waits for a step that waits for something: perhaps for long."""
        ...


#: What most handlers never have: an attempt gets its own of each when it has the first.
_NO_QUEUE: deque[DurableFuture[Any]] = deque()
_NO_TASKS: dict[asyncio.Task[None], DurableFuture[Any]] = {}
_NO_LIMITS: set[asyncio.Timeout] = set()
_NONE_HELD: dict[int, DurableFuture[Any]] = {}
_NONE_INTERRUPTED: list[tuple[int, Step]] = []


class Steps:
    """The steps of one attempt that are not complete yet."""

    __slots__ = (
        "_at_once", "_executing", "_held", "_interrupted", "_limits", "_owner", "_queued", "_starting", "_tasks",
        "_withheld", "gates", "handed_in", "left_over", "running", "unrecorded",
    )  # fmt: skip

    def __init__(self, owner: Owner, at_once: int) -> None:
        self._owner: Owner = owner
        #: How many of them may be about to begin: of a crowd, so many begin in one round of the event loop.
        self._at_once = at_once
        self._queued = _NO_QUEUE
        #: Executions under way: their names, by entry.
        self.running: dict[int, str] = {}
        #: In which tasks.
        self._executing: dict[int, asyncio.Task[Any] | None] = {}
        self._starting = 0
        #: Outcomes that were handed in and are not durable yet.
        self.handed_in: set[int] = set()
        #: The step that was made last, while nobody has awaited it.
        self.left_over: DurableFuture[Any] | None = None
        #: Open steps of which the journal knows nothing yet, by entry.
        self.unrecorded: dict[int, Step] = {}
        self._tasks = _NO_TASKS
        #: The time limits of executions under way.
        self._limits = _NO_LIMITS
        #: Held back (see `holds`): those left behind, and those that a flow is to execute itself, with its waiter.
        self._held = _NONE_HELD
        self.gates: list[tuple[Waiter, Step]] = []
        #: Stopped by a cancel that is not delivered yet; and interruptible ones that do not begin because of it.
        self._interrupted = _NONE_INTERRUPTED
        self._withheld: list[DurableFuture[Any]] = []

    @property
    def executes(self) -> bool:
        """Whether a step is still on its way, whatever becomes of it."""
        return bool(self._executing or self._tasks)

    def let_go(self) -> None:
        """The attempt is over and no step is on its way."""
        self._owner = GONE

    @property
    def quiet(self) -> bool:
        """Whether nothing is executed and nothing waits for the disk."""
        return not self.running and not self.handed_in and not self._starting  # which goes on while some are queued

    def record_open(self) -> None:
        """The handler goes on while steps are open: from now on the journal says that they run."""
        if self.unrecorded:
            for entry, step in self.unrecorded.items():
                self._record_open(entry, step)
            self.unrecorded.clear()
        if self.left_over is not None:
            self.start_left_over()

    def _record_open(self, entry: int, step: Step) -> None:
        owner, step.recorded = self._owner, True
        detail = INTERRUPTIBLE if step.options.interruptible else None
        owner.submit(Record(owner.seq, owner.number, entry, _RUN, step.name, step.seen, detail=detail))

    def start_left_over(self) -> None:
        """A step was made and not awaited at once: it runs beside the handler."""
        future, self.left_over = self.left_over, None
        if future is not None:
            self._start(future)

    def _start(self, future: DurableFuture[Any]) -> None:
        if not self._owner.active or future.step is None or future.step.started or self._owner.is_recorded(future):
            return
        self.record_open()
        if future.step.options.interruptible and (self._owner.cancel_accepted or self._owner.cancel_due):
            self._withheld.append(future)
            return
        if self._owner.repeating and not future.step.released:
            self._held = self._held if self._held is not _NONE_HELD else {}
            self._held[future.entry] = future
            self._owner.held_back()
            return
        future.step.started = True
        if self._starting < self._at_once:
            self._begin(future)
        else:
            self._queued = self._queued if self._queued is not _NO_QUEUE else deque()
            self._queued.append(future)

    @property
    def holds(self) -> bool:
        """Whether steps are held back: the journal says that they run, and has entries behind them.

        They run again once the handler has asked for all of those. Code that asks for something else is found before
        that, and so no step runs in an attempt that ends as a mismatch. The exception is a handler at rest, one of
        whose flows waits for something that no journal knows: it may be what such a step does.
        """
        return bool(self._held or self.gates)

    def release(self) -> None:
        """What is held back begins."""
        held, self._held = self._held, _NONE_HELD
        for future in held.values():
            if future.step is not None:
                future.step.released = True
                self._start(future)
        gates, self.gates = self.gates, []
        for gate, step in gates:
            step.released = True
            if not gate.done():
                gate.set_result(None)

    def _begin(self, future: DurableFuture[Any]) -> None:
        owner, step = self._owner, future.step
        here = InStep(owner.submission, owner.number, owner.seq, owner.lending, step.name)
        step.context.run(_apart, here)  # it is no flow of the handler
        task = unmourned(owner.loop.create_task(self._beside(future, here), context=step.context))
        self._tasks = self._tasks if self._tasks is not _NO_TASKS else {}
        self._tasks[task] = future
        self._starting += 1
        task.add_done_callback(self._gone)

    def _began(self) -> None:
        """One more has come to its first line, or never will: the next one of a crowd follows."""
        self._starting -= 1
        if self._queued and self._owner.ending:
            self._hold_back(self._queued)
            self._queued = _NO_QUEUE
        elif self._queued:
            self._begin(self._queued.popleft())

    def _hold_back(self, futures: "Iterable[DurableFuture[Any]]") -> None:
        """They do not begin after all."""
        for future in futures:
            future.step.started = False

    async def _beside(self, future: DurableFuture[Any], here: InStep) -> None:
        self._began()
        future.step.begun = True
        with suppress(AttemptEnded, asyncio.CancelledError):
            await self.execute(future, here)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        step = self._tasks.pop(task).step
        if step is not None and not step.begun:  # cancelled before its first line
            self._began()
            step.started = False
        error = None if task.cancelled() else task.exception()
        if error is not None and self._owner.active:  # a bug of ours: the handler must not wait for ever
            self._owner.fail(error)

    @coroutine
    def execute(self, future: DurableFuture[Any], beside: InStep | None = None) -> Generator[Any, None, None]:
        """Run the step's function, and hand in what it gave.

        `beside`: marks a task of its own, whose context variables are the step's.
        """
        step: Step = future.step
        step.started = True
        outcome: Outcome | None = None
        raised: BaseException | None = None
        waits = returned = False
        owner, entry, callee = self._owner, future.entry, step.callee
        observer = owner.observer
        self.running[entry] = step.name
        self._executing[entry] = current_task(owner.loop)
        here = beside or InStep(owner.submission, owner.number, owner.seq, owner.lending, step.name)
        mark: Token[object] | None = None
        if observer is not None:
            in_step = _here if beside is not None else step.context.run
            in_step(observer.step_started, owner.submission, owner.number, entry, step.name)
        try:
            if callee.is_async and step.options.timeout_ms is None:  # the hot path
                running = step.fn(*step.args, **step.kwargs)
            else:
                running = self._call(step, here)
            if beside is not None:
                waits = True
                value = yield from running.__await__()
            else:
                try:
                    waited = step.context.run(_start, running, here)
                except StopIteration as end:  # it waits for nothing
                    value = end.value
                else:
                    mark, waits = CURRENT.set(here), True
                    owner.step_waits()
                    value = yield from within(step.context, running, waited)
            returned = True
            data = write(value) if type(value) in callee.scalars else None
            scalar = data is not None
            if data is None:
                mark = mark or CURRENT.set(here)  # a Serde may be a user's
                data = callee.encode(value)
            if type(data) is not bytes or len(data) > owner.value_size_max:
                check_data(data, f"the result of step {step.name!r}", owner.value_size_max)
            future.preset(value if scalar else callee.decode(data))
            outcome = Outcome(True, data)
        except asyncio.CancelledError as error:
            raised = error
            self._cancelled(error, future, step)
        except BaseException as error:
            raised = error
            if owner.active:
                outcome = None if returned else failure_of_exception(error)
                if outcome is None:
                    failure = named(error, f"the result of step {step.name!r}") if returned else error
                    owner.fail(failure, step, entry, returned=returned)
            elif not issubclass(type(error), Exception):
                raise
        finally:
            if mark is not None:
                leave(mark)
            self.running.pop(entry, None)
            del self._executing[entry]
            if waits or raised is not None:  # else nothing else has happened meanwhile
                owner.a_step_ended()
            if observer is not None:
                in_step(observer.step_ended, owner.submission, owner.number, entry, step.name, raised)
        if not owner.active:
            raise AttemptEnded
        if outcome is not None:
            self._hand_in(entry, step, outcome)

    async def _call(self, step: Step, here: InStep) -> Any:
        """One execution: an async function here, a sync one in a thread; `TimeoutError` when its time is over."""
        if step.options.timeout_ms is None:
            return await call_step(step.fn, step.args, step.kwargs, here)
        async with asyncio.timeout(step.options.timeout_ms / 1000) as limit:
            self._limits = self._limits if self._limits is not _NO_LIMITS else set()
            self._limits.add(limit)
            try:
                return await call_step(step.fn, step.args, step.kwargs, here)
            finally:
                self._limits.discard(limit)

    def stalled(self, seconds: float) -> None:
        """The event loop stood still for so long: that is not counted against anybody's time limit."""
        for limit in self._limits:
            at = limit.when()
            if at is not None and not limit.expired():
                limit.reschedule(at + seconds)

    def _cancelled(self, error: asyncio.CancelledError, future: DurableFuture[Any], step: Step) -> None:
        """By the engine, by the handler's own task group, by `asyncio.timeout`, or raised by the step itself?"""
        task = asyncio.current_task()
        timed_out = self._owner.active and self._owner.timed_out(error, ours=step.interrupted)
        if not self._owner.active:  # or not any more: the event loop ends
            raise error
        if timed_out:
            self._owner.fail(UsageError(NO_TIMEOUT), step, future.entry)
        elif step.interrupted:
            if self._owner.cancel_accepted:
                self._interrupted = self._interrupted if self._interrupted is not _NONE_INTERRUPTED else []
                self._interrupted.append((future.entry, step))
                self._owner.at_rest()
            else:
                self._hand_in(future.entry, step, CANCELLED)
            raise error
        elif task is not None and task.cancelling():
            if task is not self._owner.task and self._owner.broken is None:  # the handler's own task group gave it up
                self._hand_in(future.entry, step, CANCELLED)
            raise error
        else:
            self._owner.fail(error, step, future.entry)

    def give_up(self, future: DurableFuture[Any]) -> None:
        """The flow that was about to execute it was cancelled by the handler: it never begins."""
        owner, step = self._owner, future.step
        if step is None or step.started or step.options.interruptible or not owner.active or owner.broken is not None:
            return
        if not owner.is_recorded(future):
            step.started = True
            self._hand_in(future.entry, step, CANCELLED)

    def _hand_in(self, entry: int, step: Step, outcome: Outcome) -> None:
        """Have the outcome recorded: with its command, where that is not recorded yet."""
        self.handed_in.add(entry)
        owner = self._owner
        if step.recorded:
            owner.submit(Finished(owner.seq, owner.number, entry, step.name, outcome))
        else:
            self.unrecorded.pop(entry, None)
            owner.submit(Record(owner.seq, owner.number, entry, _RUN, step.name, step.seen, outcome, True))

    def tasks(self) -> list[asyncio.Task[None]]:
        """Those of steps that run beside the handler."""
        return [task for task in self._tasks if not task.done()]

    def interrupt(self) -> None:
        """A cancel has come: stop those that are open to interruption."""
        queued = [future for future in self._queued if future.step.options.interruptible]
        if queued:
            self._hold_back(queued)
            self._queued = deque(future for future in self._queued if future.step.started)
            self._withheld += queued
        for future in [future for future in self._held.values() if future.step.options.interruptible]:
            del self._held[future.entry]
            self._withheld.append(future)
        for task, future in list(self._tasks.items()):
            step = future.step
            if step is not None and step.options.interruptible and not step.interrupted:
                step.interrupted = True
                task.cancel()

    def cancelled(self) -> None:
        """The cancel has come: record what was stopped by it, or did not begin because of it."""
        for entry, step in self._interrupted:
            self._hand_in(entry, step, CANCELLED)
        self._interrupted = _NONE_INTERRUPTED
        for future in self._withheld:
            if future.step is not None and not future.step.started:
                future.step.started = True
                self._hand_in(future.entry, future.step, CANCELLED)
        self._withheld.clear()

    def drop(self) -> None:
        """The attempt is over: stop what runs, but for the handler's own task, which is unwound."""
        flows = {task for task in self._executing.values() if task is not None and task is not self._owner.task}
        for task in flows | self._tasks.keys():
            task.cancel()
        self._queued.clear()
        self._held.clear()
        self.gates.clear()
        self.unrecorded.clear()
        self._interrupted = _NONE_INTERRUPTED
        self._withheld.clear()
        self.left_over = None


#: Those of an attempt that has asked for none yet: nothing is noted here.
NO_STEPS = Steps(GONE, 0)


def _here(fn: Callable[..., None], *arguments: Any) -> None:
    fn(*arguments)


def _apart(here: InStep) -> None:
    """What runs here is a step."""
    CURRENT.set(here)
    own_decimals()


def _start(running: Coroutine[Any, Any, Any], here: InStep) -> Any:
    """Run it up to where it waits for the first time."""
    CURRENT.set(here)
    if DECIMALS.get(None) is not None:
        own_decimals()
    return running.send(None)
