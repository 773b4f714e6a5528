"""Which attempts there are, and whose coroutine has not returned yet.

Who may run is decided by the core: each attempt here has a slot. Or it had one and was suspended because others
needed that, and its handler is kept ("warm"): it goes on as the next attempt, where that comes soon.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from durable import log
from durable.core.commands import (
    Command,
    Cool,
    Fail,
    Finish,
    Finished,
    NoteDamage,
    OpenEntry,
    Record,
    Suspend,
    Trust,
    Unloaded,
)
from durable.core.effects import StartAttempt
from durable.core.ids import IdSpan
from durable.core.invocation import Invocation, KeyedObject, Problem, damage
from durable.core.journal import Failure
from durable.core.limits import Limits
from durable.core.reasons import ADVICE, Reason
from durable.core.retry import RetryPolicy
from durable.core.sealed import why_of
from durable.core.waiting import entries
from durable.errors import CodecError, KeyMissingError, StorageCorruptError
from durable.runtime.alarms import Alarms
from durable.runtime.attempt import Attempt
from durable.runtime.blocked import Blocked
from durable.runtime.clock import Clock
from durable.runtime.failures import problem_of
from durable.runtime.lending import Lending
from durable.runtime.observer import Observer
from durable.runtime.registry import Registered, Registry
from durable.runtime.rest import Rest
from durable.runtime.room import Room
from durable.runtime.steps import Steps
from durable.runtime.tasks import let_go, unmourned
from durable.runtime.watch import Watch
from durable.service import Handler
from durable.store import Store

#: How many of what is left at the end a line of the log names.
NAMED_MAX = 10
#: How many times are remembered at which the event loop stood still.
STALLS = 100
#: What only an attempt asks for.
Asks = Record | Finished | OpenEntry | Finish | Fail | Suspend | Unloaded


class Runtime(Protocol):
    """What the roster needs of the engine's loop."""

    store: Store
    registry: Registry
    clock: Clock
    limits: Limits
    #: The context variables of whoever started the engine: handlers begin with them, and its callbacks run in them.
    context: Context
    observer: Observer | None
    #: What those lend that wait for the engine.
    lending: Lending
    #: Whether what may only be a mistake is an error.
    strict: bool

    def submit(self, command: Command) -> None:
        """Have a command settled in the next turn."""
        ...

    def when_settled(self, then: Callable[[], None]) -> None:
        """Call `then` when what was submitted so far is committed and has been acted upon."""
        ...

    def fail(self, error: BaseException) -> None:
        """Nothing can be promised any more."""
        ...

    def cut_off(self) -> bool:
        """Whether the event loop is coming to its end, and all its tasks were cancelled."""
        ...


class Roster:
    """See the module's docstring. It is the host of its attempts (`attempt.Host`)."""

    def __init__(self, engine: Runtime, loop: asyncio.AbstractEventLoop, defaults: RetryPolicy, slots: int) -> None:
        #: The current attempt of each invocation that has one, or the last one that is warm.
        self.attempts: dict[int, Attempt] = {}
        self._engine = engine
        #: Have a command settled in the next turn.
        self.submit: Callable[[Command], None] = engine.submit
        #: See `Runtime`.
        self.when_settled = engine.when_settled
        self.cut_off = engine.cut_off
        self.rest = Rest(loop, engine.context)
        self.alarms = Alarms(loop, engine.context)
        self._loop = loop
        self.context = engine.context
        self.observer = engine.observer
        self.limits = engine.limits
        self.lending = engine.lending
        self.strict = engine.strict
        self._defaults = defaults
        self._watch = Watch(loop, self.attempts)
        self._blocked = Blocked(loop, engine.clock, lambda: self.attempts or self._lingering, self._stalled)
        #: When the event loop stood still last, on its own clock, and for how many seconds.
        self.stalls: deque[tuple[float, float]] = deque(maxlen=STALLS)
        self.room = Room(slots)
        #: The suspect that is alone among its like: nobody need wait for it while it only waits.
        self._on_trial: Attempt | None = None
        self._trial_ends: asyncio.TimerHandle | None = None
        #: Attempts whose journal is to be read, with the ordinal up to which it is replayed; and is being read.
        self._to_launch: deque[tuple[Attempt, int]] = deque()
        self._launching: dict[int, asyncio.Task[None]] = {}
        #: Coroutines of attempts that are over and have not returned yet.
        self._lingering: dict[asyncio.Task[None], str] = {}
        #: Steps of attempts that may have begun one which nobody awaits yet.
        self._left_behind: list[Steps] = []
        #: Failures that are to be reported when those are settled that were, and how many were.
        self._reports: deque[Callable[[], None]] = deque()
        self._reported = 0
        self._reporting = False
        self._closing = False
        #: Since when what the last turn decided is done, on the event loop's clock.
        self.acting_since = loop.time()

    # ---- beginning ----

    def admit(self, start: StartAttempt, keyed: KeyedObject | None) -> None:
        """Start the attempt; what is delivered from now on finds it."""
        invocation = start.invocation
        submission = invocation.submission
        handler = self._engine.registry.get(submission.service, submission.handler)
        if start.warm:
            kept = self.attempts.get(invocation.seq)
            if kept is not None and kept.warm and kept.handler is handler and not self._closing:
                kept.go_on(start.attempt)
                self._watch.begin(kept)
                return
        if invocation.seq in self.attempts:
            self.release(invocation.seq)
        if invocation.sealed is not None:  # nobody else's trouble, either
            self.submit(NoteDamage(invocation.seq, damage(invocation.sealed), start.attempt))
            return
        if handler is None:
            self._fail_unknown(invocation)
            return
        attempt = Attempt(self, invocation, start.attempt, handler, keyed, self._loop)
        self.attempts[invocation.seq] = attempt
        if start.trial_ms:
            self._end_trial()
            self._on_trial = attempt
            self._trial_ends = self._loop.call_later(start.trial_ms / 1000, self.submit, Trust(attempt.seq))
        if self._closing:
            return
        self._blocked.begin()
        if attempt.is_first:
            attempt.start()
        else:
            self._to_launch.append((attempt, start.until))
            self._launch()
        self._watch.begin(attempt)

    def _launch(self) -> None:
        """Read journals, a few at a time: a commit that comes in between has to wait for them."""
        while self._to_launch and len(self._launching) < self.limits.journals and not self._closing:
            attempt, until = self._to_launch.popleft()
            if attempt.active:
                self._launching[attempt.seq] = unmourned(
                    self._loop.create_task(self._start_from_journal(attempt, until))
                )

    async def _start_from_journal(self, attempt: Attempt, until: int) -> None:
        try:
            rows = await self._engine.store.journal(attempt.seq)
        except (
            StorageCorruptError,
            KeyMissingError,
        ) as error:  # its own, nobody else's trouble
            if attempt.active:
                cause = why_of(error) if isinstance(error, KeyMissingError) else str(error)
                self.submit(NoteDamage(attempt.seq, damage(cause), attempt.number))
            return
        except Exception as error:
            self._engine.fail(error)
            return
        finally:
            self._launching.pop(attempt.seq, None)
            self._launch()
        if attempt.active and self.attempts.get(attempt.seq) is attempt:
            attempt.touched = self._loop.time()
            attempt.start(rows, until)

    def _fail_unknown(self, invocation: Invocation) -> None:
        """Its handler is not registered (any more): it is paused, never lost."""
        submission = invocation.submission
        message = f"no handler {submission.service}/{submission.handler} is registered. {ADVICE[Reason.HANDLER_GONE]}"
        problem = Problem(message, "NotFoundError", code=404, reason=Reason.HANDLER_GONE)
        failure = Failure(message, 404).outcome()
        self.submit(Fail(invocation.seq, invocation.attempt, problem, self._defaults, failure=failure))

    def refused(self, command: Command, error: Exception) -> Fail | None:
        """The store refused what an attempt asked for: it is over; returns what is to be settled instead."""
        if not isinstance(command, Asks):
            return None
        attempt = self.attempts.get(command.seq)
        if attempt is not None and attempt.number == command.attempt:
            attempt.end()
        reason: str = Reason.COMMIT_REFUSED
        if isinstance(cause := error.__cause__, CodecError):
            error, reason = cause, cause.reason
        problem = problem_of(error, getattr(command, "entry", 0), getattr(command, "name", ""), reason)
        return Fail(command.seq, command.attempt, problem, self._defaults)

    # ---- ending ----

    def release(self, seq: int) -> None:
        """The attempt of this invocation is over."""
        attempt = self.attempts.pop(seq, None)
        if attempt is not None:
            attempt.error = None
            self.room.forget(attempt)
            if attempt is self._on_trial:
                self._end_trial()
            if attempt.active or attempt.warm:
                attempt.end()
            self._linger(attempt)

    def kept(self, seq: int) -> None:
        """The attempt of this invocation is over, and its slot another's: its handler is kept."""
        attempt = self.attempts.get(seq)
        if attempt is not None:
            self.room.forget(attempt)

    def cool(self, attempt: Attempt) -> None:
        """Keep it no longer: it has been for long enough, or does something by itself."""
        self.release(attempt.seq)
        self.submit(Cool(attempt.seq, attempt.number))

    def _stalled(self, seconds: float) -> None:
        self.stalls.append((self._loop.time(), seconds))
        self._watch.stalled(seconds)

    def _end_trial(self) -> None:
        self._on_trial = None
        if self._trial_ends is not None:
            self._trial_ends.cancel()
            self._trial_ends = None

    def close(self) -> None:
        """Start nothing new; let the steps that run end and be recorded."""
        self._closing = True
        while self._reports:
            self._reports.popleft()()
        self._watch.close()
        for task in self._launching.values():
            task.cancel()
        for attempt in list(self.attempts.values()):
            if attempt.warm:
                self.release(attempt.seq)
            attempt.close()

    def end_all(self) -> None:
        """End the attempts that are still there, and name the steps that still run."""
        running: list[str] = []
        for attempt in list(self.attempts.values()):
            running += [f"{name!r} of {attempt.target} {attempt.submission.id}" for name in attempt.running_steps()]
            attempt.end()
            self._linger(attempt)
        if running:
            log.engine.warning(
                "when the engine shut down, %s still ran; they run again at the next start: %s",
                _counted(len(running), "step"),
                _some(running),
            )

    def fail(self) -> None:
        """The engine has failed: all are over."""
        for attempt in list(self.attempts.values()):
            attempt.end()
            self._linger(attempt)
        self.attempts.clear()
        self.room.clear()

    def tasks(self) -> "list[asyncio.Future[Any]]":
        """Coroutines of handlers that have not returned yet."""
        tasks = [task for attempt in self.attempts.values() for task in attempt.tasks()]
        return [*tasks, *(task for task in self._lingering if not task.done())]

    def bury(self) -> None:
        """Stop waiting, and log each coroutine that has not returned."""
        left = [name for task, name in self._lingering.items() if not task.done()]
        if left:
            log.engine.warning(
                "when the engine shut down, %s did not end; what is left of them has no effect any more: %s",
                _counted(len(left), "handler"),
                _some(left),
            )
        self.forget()

    def forget(self) -> None:
        """Let go what is left; needs no event loop."""
        self._end_trial()
        for task in self.tasks():
            if not task.done():
                let_go(task)
        self.attempts.clear()
        self.room.clear()
        self._blocked.close()

    def _linger(self, attempt: Attempt) -> None:
        task = attempt.task
        if task is not None and not task.done() and task not in self._lingering:
            self._lingering[task] = f"{attempt.target} {attempt.submission.id}"
            task.add_done_callback(self._gone)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        self._lingering.pop(task, None)

    # ---- what can be seen ----

    def awaited(self, invocation: Invocation) -> list[int]:
        """The entries its handler waits for at this moment."""
        attempt = self.attempts.get(invocation.seq)
        if attempt is not None and attempt.active:
            return entries(attempt.waiting_for()) if attempt.idle else []
        return [] if invocation.waiting is None else invocation.waiting.entries()

    # ---- what attempts need ----

    def now_ms(self) -> int:
        """The time."""
        return self._engine.clock.now_ms()

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """A handler by name. Raises `NotFoundError`."""
        return self._engine.registry.find(target)

    def id_span(self) -> IdSpan:
        """Within what the ids of this file are that keys determine."""
        return self._engine.registry.id_span

    def left_behind(self, steps: Steps) -> None:
        """At the end of this round of the event loop, start the one that nobody has awaited by then."""
        if not self._left_behind:
            self._loop.call_soon(self._start_left_behind, context=self.context)
        self._left_behind.append(steps)

    def _start_left_behind(self) -> None:
        left, self._left_behind = self._left_behind, []
        for steps in left:
            if steps.left_over is not None:
                steps.start_left_over()

    def in_turn(self, report: Callable[[], None]) -> None:
        """A failure costs more than anything else: a few at a time are reported, so that others pass between them."""
        if not self._reported:
            self._loop.call_soon(self._reports_settled, context=self.context)
        if self._reported < self.limits.failures:
            self._reported += 1
            report()
        else:
            self._reports.append(report)

    def _reports_settled(self) -> None:
        if self._reported and not self._reporting:
            self._reporting = True
            self.when_settled(self._next_reports)

    def _next_reports(self) -> None:
        self._reporting = False
        self._reported = 0
        for _ in range(min(self.limits.failures, len(self._reports))):
            self._reported += 1
            self._reports.popleft()()
        self._reports_settled()

    def parked(self, attempt: Attempt) -> None:
        """The handler only waits now: without an inactivity timeout, or where others wait for it, it is unloaded."""
        if attempt.handler.settings.inactivity_timeout_ms == 0 or attempt is self._on_trial:
            self.room.unload(attempt)
        else:
            self.room.waits(attempt)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED_MAX]) + (", …" if len(names) > NAMED_MAX else "")
