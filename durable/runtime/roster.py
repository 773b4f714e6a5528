"""Which attempts there are: who runs, who waits for a slot, and whose coroutine has not returned yet."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from durable import log
from durable.core.commands import Command, Fail, Finish, Finished, NoteDamage, OpenEntry, Record, Suspend, Unloaded
from durable.core.effects import StartAttempt
from durable.core.invocation import Invocation, KeyedObject, Problem, damage
from durable.core.journal import Failure
from durable.core.reasons import ADVICE, Reason
from durable.core.retry import RetryPolicy
from durable.core.waiting import entries
from durable.errors import StorageCorruptError
from durable.runtime.attempt import Attempt
from durable.runtime.blocked import Blocked
from durable.runtime.clock import Clock
from durable.runtime.failures import problem_of
from durable.runtime.observer import Observer
from durable.runtime.registry import Registered, Registry
from durable.runtime.rest import Rest
from durable.runtime.tasks import let_go, unmourned
from durable.runtime.watch import Watch
from durable.service import Handler
from durable.store import Store

#: How many of what is left at the end a line of the log names.
NAMED_MAX = 10
#: What only an attempt asks for.
Asks = Record | Finished | OpenEntry | Finish | Fail | Suspend | Unloaded
#: Up to how many attempts wait for a slot before whoever brings more of them is made to wait.
READY_MAX = 500


class Runtime(Protocol):
    """What the roster needs of the engine's loop."""

    store: Store
    registry: Registry
    clock: Clock
    #: The context variables of whoever started the engine: handlers begin with them, and its callbacks run in them.
    context: Context
    observer: Observer | None

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

    def __init__(
        self, engine: Runtime, loop: asyncio.AbstractEventLoop, max_concurrent: int, defaults: RetryPolicy
    ) -> None:
        #: The current attempt of each invocation that has one.
        self.attempts: dict[int, Attempt] = {}
        self._engine = engine
        #: Have a command settled in the next turn.
        self.submit: Callable[[Command], None] = engine.submit
        #: See `Runtime`.
        self.when_settled = engine.when_settled
        self.cut_off = engine.cut_off
        #: See `Rest`.
        self.when_at_rest = Rest(loop, engine.context).when_at_rest
        self._loop = loop
        self.context = engine.context
        self.observer = engine.observer
        self._max_concurrent = max_concurrent
        self._defaults = defaults
        self._watch = Watch(loop, self.attempts)
        self._blocked = Blocked(loop, engine.clock, lambda: self.attempts or self._lingering, self._watch.stalled)
        #: Attempts that wait for a slot, and the ordinal up to which their journal is replayed.
        self._ready: deque[tuple[Attempt, int]] = deque()
        #: How many attempts have a slot.
        self._slots_taken = 0
        self._room: asyncio.Future[None] | None = None
        self._launching: dict[int, asyncio.Task[None]] = {}
        #: Coroutines of attempts that are over and have not returned yet.
        self._lingering: dict[asyncio.Task[None], str] = {}
        self._left_behind: list[Attempt] = []
        self._closing = False

    # ---- beginning ----

    def admit(self, start: StartAttempt, keyed: KeyedObject | None) -> None:
        """Make the attempt, so that what is delivered from now on finds it; it starts when there is a slot."""
        invocation = start.invocation
        submission = invocation.submission
        self.release(invocation.seq)
        handler = self._engine.registry.get(submission.service, submission.handler)
        if handler is None:
            self._fail_unknown(invocation)
            return
        attempt = Attempt(self, invocation, start.attempt, handler, keyed, self._loop)
        self.attempts[invocation.seq] = attempt
        self._ready.append((attempt, start.until))

    def launch_ready(self) -> None:
        """Start attempts while there is room; where there is none, those that only wait make some."""
        if not self._ready:
            return
        if self._closing:
            self._ready.clear()
        while self._ready and self._slots_taken < self._max_concurrent:
            attempt, until = self._ready.popleft()
            if attempt.active:
                self._launch(attempt, until)
        if self._ready:
            wanted = len(self._ready)
            for attempt in self.attempts.values():
                if wanted <= 0:
                    return
                if attempt.idle:
                    attempt.give_way()
                    wanted -= 1
        if self._room is not None and len(self._ready) < READY_MAX:
            self._room.set_result(None)
            self._room = None

    async def has_room(self) -> None:
        """Wait until not too many attempts wait for a slot."""
        if len(self._ready) >= READY_MAX:
            self._room = self._loop.create_future()
            await self._room

    def _launch(self, attempt: Attempt, until: int) -> None:
        attempt.has_slot = True
        self._slots_taken += 1
        self._blocked.begin()
        if attempt.is_first:
            attempt.start((), until)
        else:
            self._launching[attempt.seq] = unmourned(self._loop.create_task(self._start_from_journal(attempt, until)))
        self._watch.begin(attempt)

    async def _start_from_journal(self, attempt: Attempt, until: int) -> None:
        try:
            rows = await self._engine.store.journal(attempt.seq)
        except StorageCorruptError as error:  # its own journal, or the pages it is on: nobody else's trouble
            if attempt.active:
                self.submit(NoteDamage(attempt.seq, damage(str(error)), attempt.number))
            return
        except Exception as error:
            self._engine.fail(error)
            return
        finally:
            self._launching.pop(attempt.seq, None)
        if attempt.active and self.attempts.get(attempt.seq) is attempt:
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
        problem = problem_of(error, getattr(command, "entry", 0), getattr(command, "name", ""), Reason.COMMIT_REFUSED)
        return Fail(command.seq, command.attempt, problem, self._defaults)

    # ---- ending ----

    def release(self, seq: int) -> None:
        """The attempt of this invocation is over."""
        attempt = self.attempts.pop(seq, None)
        if attempt is not None:
            if attempt.has_slot:
                attempt.has_slot = False
                self._slots_taken -= 1
            if attempt.active:
                attempt.end()
            self._linger(attempt)

    def close(self) -> None:
        """Start nothing new; let the steps that run end and be recorded."""
        self._closing = True
        self._watch.close()
        for task in self._launching.values():
            task.cancel()
        for attempt in list(self.attempts.values()):
            attempt.close()

    def end_all(self) -> None:
        """End the attempts that are still there, and name the steps that still run."""
        running: list[str] = []
        for attempt in list(self.attempts.values()):
            running += [f"{name!r} of {attempt.target} {attempt.request.id}" for name in attempt.running_steps()]
            attempt.end()
            self._linger(attempt)
        if running:
            log.warning(
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
        self._ready.clear()

    def tasks(self) -> "list[asyncio.Future[Any]]":
        """Coroutines of handlers that have not returned yet."""
        tasks = [task for attempt in self.attempts.values() for task in attempt.tasks()]
        return [*tasks, *(task for task in self._lingering if not task.done())]

    def bury(self) -> None:
        """Stop waiting, and log each coroutine that has not returned."""
        left = [name for task, name in self._lingering.items() if not task.done()]
        if left:
            log.warning(
                "when the engine shut down, %s did not end; what is left of them has no effect any more: %s",
                _counted(len(left), "handler"),
                _some(left),
            )
        self.forget()

    def forget(self) -> None:
        """Let go what is left; needs no event loop."""
        for task in self.tasks():
            if not task.done():
                let_go(task)
        self.attempts.clear()
        self._ready.clear()
        self._blocked.close()

    def _linger(self, attempt: Attempt) -> None:
        task = attempt.task
        if task is not None and not task.done() and task not in self._lingering:
            self._lingering[task] = f"{attempt.target} {attempt.request.id}"
            task.add_done_callback(self._gone)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        self._lingering.pop(task, None)

    # ---- what can be seen ----

    def executes(self, seq: int) -> bool:
        """Whether an attempt of this invocation is under way."""
        attempt = self.attempts.get(seq)
        return attempt is not None and attempt.has_slot

    def awaited(self, invocation: Invocation) -> list[int]:
        """The entries its handler waits for at this moment."""
        attempt = self.attempts.get(invocation.seq)
        if attempt is not None:
            return entries(attempt.waiting_for()) if attempt.idle else []
        return [] if invocation.waiting is None else entries(invocation.waiting)

    # ---- what attempts need ----

    def now_ms(self) -> int:
        """The time."""
        return self._engine.clock.now_ms()

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """A handler by name. Raises `NotFoundError`."""
        return self._engine.registry.find(target)

    def left_behind(self, attempt: Attempt) -> None:
        """Start the step at the end of this round of the event loop, unless somebody has awaited it by then."""
        if not self._left_behind:
            self._loop.call_soon(self._start_left_behind, context=self.context)
        self._left_behind.append(attempt)

    def _start_left_behind(self) -> None:
        attempts, self._left_behind = self._left_behind, []
        for attempt in attempts:
            attempt.start_left_over()

    def parked(self, attempt: Attempt) -> None:
        """The handler only waits now: with an inactivity timeout of zero it is unloaded at once."""
        if attempt.handler.settings.inactivity_timeout_ms == 0 or self._ready:
            attempt.give_way()


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED_MAX]) + (", …" if len(names) > NAMED_MAX else "")
