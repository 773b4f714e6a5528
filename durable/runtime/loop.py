"""Take the waiting commands, load what they concern, settle them, commit in one transaction, act.

One turn is under way at a time. While its commit is being fsynced, commands gather for the next: a turn *is* a group
commit. Nothing is acted upon before the commit returned, and an action that a crash swallows is decided again when
the engine starts: there is no recovery besides the `Recover` command.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from durable.core.commands import Command, Declare, Expire, Fail, Recover, TimerFired
from durable.core.effects import (
    Completed,
    Deliver,
    Failed,
    Interrupt,
    InterruptSteps,
    MayDeadlock,
    Need,
    Reply,
    StartAttempt,
    Timer,
    Unload,
)
from durable.core.invocation import Invocation, Problem
from durable.core.journal import Failure
from durable.core.retry import RetryPolicy
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.waiting import entries
from durable.core.world import World
from durable.errors import EngineFailedError, EngineNotRunningError
from durable.runtime.attempt import Attempt
from durable.runtime.blocked import Blocked
from durable.runtime.clock import Clock
from durable.runtime.deadlocks import Deadlocks
from durable.runtime.registry import Registered, Registry
from durable.runtime.replies import Replies
from durable.runtime.timers import WINDOW, Timers
from durable.runtime.watch import Watch
from durable.service import Handler
from durable.store import Expired, Store

log = logging.getLogger("durable")

#: How many invocations one turn of recovery takes.
BATCH = 500
#: How many completed invocations one turn of clean-up forgets.
CLEAN_BATCH = 100
#: How often results past their retention are looked for: as often as the shortest retention, within these.
CLEAN_EVERY_S, CLEAN_EVERY_S_MIN = 3600.0, 60.0


class Loop:
    """The engine's heart: everything that changes passes through here."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        *,
        max_concurrent: int = 1000,
        timer_window: int = WINDOW,
        defaults: RetryPolicy,
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.failure: BaseException | None = None
        self.attempts: dict[int, Attempt] = {}
        #: How often each service's declaration has changed, counted from 1.
        self.revisions: dict[str, int] = {}
        self._defaults = defaults
        self._max_concurrent = max_concurrent
        self._timer_window = timer_window
        self._queue: list[Command] = []
        self._turning = False
        self._kicked = False
        self._closing = False
        self._loading: asyncio.Task[None] | None = None
        self._committing: asyncio.Future[None] | None = None
        #: Attempts that wait for a slot, and the ordinal up to which their journal is replayed.
        self._ready: deque[tuple[Attempt, int]] = deque()
        #: How many attempts have a slot.
        self._slots_taken = 0
        self._room: asyncio.Future[None] | None = None
        self._launching: dict[int, asyncio.Task[None]] = {}
        #: Coroutines of attempts that are over and have not returned yet.
        self._lingering: dict[asyncio.Task[None], str] = {}
        self._left_behind: list[Attempt] = []
        self._cleaner: asyncio.TimerHandle | None = None
        self._chores: set[asyncio.Task[None]] = set()

    # ---- life ----

    async def start(self) -> None:
        """Open the store, give every invocation whose turn it is its next attempt, and arm the timers."""
        self._loop = asyncio.get_running_loop()
        self._replies = Replies(self._loop)
        opened = await self.store.open()
        for service, text in opened.settings.items():
            self.registry.configure(service, text)
        self._watch = Watch(self._loop, self.attempts)
        self.deadlocks = Deadlocks(self.store, self.attempts, self._loop, self._chore)
        busy = lambda: self.attempts or self._lingering  # noqa: E731
        self._blocked = Blocked(self._loop, self.clock, busy, self._watch.stalled)
        self.world = World(opened.next_ordinal, opened.next_seq)
        self.timers = Timers(
            self.store, self.clock, self._loop, self._timers_due, self._fail, window=self._timer_window
        )
        try:
            await self.timers.start()
            if self.failure is not None:
                raise self.failure
        except BaseException:
            await self.store.close()
            raise
        self._declare(opened.declared)
        self._chore(self._recover())
        self._chore(self.deadlocks.begin())
        self._clean()

    def _declare(self, declared: dict[str, tuple[int, str]]) -> None:
        """A service that is not what it was has a new revision."""
        from durable.runtime.catalog import declaration  # only once an engine runs: it needs schema libraries

        for service in self.registry.declared:
            revision, before = declared.get(service, (0, ""))
            now = declaration(self.registry, service)
            self.revisions[service] = revision if now == before else revision + 1
            if now != before:
                self.submit(Declare(service, revision + 1, now))

    async def _recover(self) -> None:
        """In batches, so that a new invocation does not wait for a hundred thousand old ones."""
        after, new = 0, self.world.next_seq
        while not self._closing:
            seqs = [seq for seq in await self.store.running(after, BATCH) if seq < new]
            if not seqs:
                return
            after = seqs[-1]
            for seq in seqs[:-1]:
                if seq not in self.attempts:
                    self.submit(Recover(seq))
            await self.ask(partial(Recover, seqs[-1]))
            if len(self._ready) >= BATCH:
                self._room = self._loop.create_future()
                await self._room

    async def close(self, grace_s: float) -> None:
        """End the attempts, let what they handed in become durable, close the store: within `grace_s` seconds."""
        if self._closing:
            return
        self._closing = True
        self.timers.close()
        self._watch.close()
        self.deadlocks.close()
        if self._cleaner is not None:
            self._cleaner.cancel()
        for task in [*self._chores, *self._launching.values()]:
            task.cancel()
        for attempt in list(self.attempts.values()):
            attempt.close()
        deadline = self._loop.time() + grace_s
        await self._drain(deadline - grace_s / 5)
        for attempt in list(self.attempts.values()):
            for name in attempt.running_steps():
                log.warning(
                    "%s %s: step %r still ran when the engine shut down; it runs again at the next start",
                    attempt.target,
                    attempt.request.id,
                    name,
                )
            attempt.end()
            self._linger(attempt)
        await self._drain(deadline)
        for name in self._lingering.values():
            log.warning("%s did not end when the engine shut down; its coroutine is left behind", name)
        while busy := self.busy():
            await asyncio.wait(busy)
        closed = EngineNotRunningError("the engine was closed before this was answered; attach again after a start")
        self._replies.fail_all(closed)
        self._blocked.close()
        await self.store.close()

    async def _drain(self, deadline: float) -> None:
        """Wait until every coroutine of a handler has returned and nothing is left to commit."""
        while self._loop.time() < deadline:
            tasks = [attempt.task for attempt in self.attempts.values() if attempt.task is not None]
            tasks = [task for task in [*tasks, *self._lingering] if not task.done()]
            waits: list[asyncio.Future[Any]] = [*tasks, *self.busy()]
            if not waits:
                if not self._queue or self.failure is not None:
                    return
                await asyncio.sleep(0)
                continue
            await asyncio.wait(waits, timeout=deadline - self._loop.time(), return_when=asyncio.FIRST_COMPLETED)

    def _fail(self, error: BaseException) -> None:
        """Nothing can be promised any more: stop everything, tell everybody, acknowledge nothing."""
        if self.failure is not None:
            return
        if not isinstance(error, EngineFailedError):
            wrapped = EngineFailedError(f"the engine stopped: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            error = wrapped
        self.failure = error
        self.deadlocks.close()
        log.critical("%s", error, exc_info=error.__cause__)
        self._queue.clear()
        for attempt in list(self.attempts.values()):
            attempt.end()
            self._linger(attempt)
        self.attempts.clear()
        self._ready.clear()
        self._replies.fail_all(error)

    # ---- turns ----

    def submit(self, command: Command) -> None:
        """Have a command settled in the next turn."""
        if self.failure is not None:
            return
        self._queue.append(command)
        if not self._turning and not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._begin)

    def ask(self, make: Callable[[int], Command], *, result: bool = False) -> "asyncio.Future[Any]":
        """Submit a command that is answered: by its `Reply`, or with `result=True` by the outcome it leads to."""
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise EngineNotRunningError("the engine is shutting down")
        command, future = self._replies.expect(make, result=result)
        self.submit(command)
        return future

    def _begin(self) -> None:
        """Take what is queued and settle it at once; where something has to be loaded first, in a task."""
        self._kicked = False
        if self._turning or not self._queue or self.failure is not None:
            return
        commands, self._queue = self._queue, []
        self._turning = True
        try:
            turn = Turn(self.world, commands, self.clock.now_ms())
            need = advance(turn)
            if need is None:
                self._commit(turn)
            else:
                self._loading = self._loop.create_task(self._load(turn, need))
        except Exception as error:
            self._fail(error)

    async def _load(self, turn: Turn, need: Need | None) -> None:
        try:
            while need is not None:
                self.world.admit(need, await self.store.load(need))
                need = advance(turn)
            self._commit(turn)
        except Exception as error:
            self._fail(error)
        finally:
            self._loading = None

    def _commit(self, turn: Turn) -> None:
        if not turn.writes:
            self._committed(turn)
            return
        self._committing = asyncio.ensure_future(self.store.commit(turn.writes))
        self._committing.add_done_callback(lambda commit: self._commit_returned(turn, commit))

    def _commit_returned(self, turn: Turn, commit: "asyncio.Future[None]") -> None:
        self._committing = None
        error = None if commit.cancelled() else commit.exception()
        if commit.cancelled():
            error = EngineFailedError("a commit was cancelled; whether it took effect is unknown")
        if error is not None:
            self._turning = False
            self._fail(error)
        else:
            self._committed(turn)

    def _committed(self, turn: Turn) -> None:
        """What the turn decided is durable: go on with the next one, then act upon this one."""
        self.world.end_turn()
        self._turning = False
        if self.failure is not None:
            return
        self._begin()  # the disk works while what was committed is acted upon
        self._act(turn)

    @property
    def closing(self) -> bool:
        """Whether it shuts down, or has."""
        return self._closing

    def busy(self) -> "list[asyncio.Future[Any]]":
        """What a turn that is under way waits for."""
        return [future for future in (self._loading, self._committing) if future is not None]

    # ---- acting ----

    def _act(self, turn: Turn) -> None:
        attempts = self.attempts
        for action in turn.actions:
            kind = type(action)
            if kind is Deliver:
                assert isinstance(action, Deliver)
                attempt = attempts.get(action.seq)
                if attempt is not None and attempt.number == action.attempt:
                    attempt.deliver(action.entry, action.outcome, action.notified)
            elif kind is StartAttempt:
                assert isinstance(action, StartAttempt)
                self._admit(action)
            elif kind is Completed:
                assert isinstance(action, Completed)
                self._release(action.seq)
                self._replies.completed(action)
            elif kind is Reply:
                assert isinstance(action, Reply)
                self._replies.reply(action)
            elif kind is Interrupt:
                assert isinstance(action, Interrupt)
                self._release(action.seq)
            elif kind is InterruptSteps or kind is Unload:
                assert isinstance(action, InterruptSteps | Unload)
                attempt = attempts.get(action.seq)
                if attempt is not None and attempt.number == action.attempt:
                    if kind is Unload:
                        attempt.close(pausing=True)
                    else:
                        attempt.interrupt_steps()
            elif kind is MayDeadlock:
                assert isinstance(action, MayDeadlock)
                self.deadlocks.suspect(action.seq)
            elif kind is Failed:
                assert isinstance(action, Failed)
                self._release(action.invocation.seq)
                self._log_failure(action)
        if turn.writes.timers_removed:
            self.timers.remove(turn.writes.timers_removed)
        if turn.writes.timers_added:
            self.timers.add(turn.writes.timers_added)
        if self._ready:
            self._launch_ready()

    def _log_failure(self, failed: Failed) -> None:
        invocation = failed.invocation
        problem = invocation.problem
        where = f" in step {problem.name!r}" if problem is not None and problem.name else ""
        if failed.retry_at is not None:
            delay_ms = max(0, failed.retry_at - self.clock.now_ms())
            then = f"retrying in {delay_ms} ms"
        else:
            then = str(invocation.status)
        log.warning(
            "%s %s: attempt %d failed%s: %s; %s",
            invocation.submission.target,
            invocation.id,
            invocation.attempt,
            where,
            problem.message if problem is not None else "",
            then,
        )

    # ---- attempts ----

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

    def _admit(self, start: StartAttempt) -> None:
        """Make the attempt, so that what is delivered from now on finds it; it starts when there is a slot."""
        invocation = start.invocation
        submission = invocation.submission
        self._release(invocation.seq)
        handler = self.registry.get(submission.service, submission.handler)
        if handler is None:
            self._fail_unknown(invocation)
            return
        keyed = None
        if submission.key is not None:
            keyed = self.world.keys.get((submission.service, submission.key))
        attempt = Attempt(self, invocation, start.attempt, handler, keyed, self._loop)
        self.attempts[invocation.seq] = attempt
        self._ready.append((attempt, start.until))

    def _launch_ready(self) -> None:
        """Start attempts while there is room; where there is none, those that only wait make some."""
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
                if attempt.offered or attempt.idle:
                    attempt.offer_suspension()
                    wanted -= 1
        if self._room is not None and len(self._ready) < BATCH:
            self._room.set_result(None)
            self._room = None

    def _launch(self, attempt: Attempt, until: int) -> None:
        attempt.has_slot = True
        self._slots_taken += 1
        self._blocked.begin()
        if attempt.is_first:
            attempt.start((), until)
        else:
            self._launching[attempt.seq] = self._loop.create_task(self._start_from_journal(attempt, until))
        self._watch.begin(attempt)

    async def _start_from_journal(self, attempt: Attempt, until: int) -> None:
        try:
            rows = await self.store.journal(attempt.seq)
        except Exception as error:
            self._fail(error)
            return
        finally:
            self._launching.pop(attempt.seq, None)
        if attempt.active and self.attempts.get(attempt.seq) is attempt:
            attempt.start(rows, until)

    def _fail_unknown(self, invocation: Invocation) -> None:
        """Its handler is not registered (any more): that is retried by policy, and then paused, never lost."""
        submission = invocation.submission
        message = (
            f"no handler {submission.service}/{submission.handler} is registered: add it to Engine(services=[...]),"
            " or kill this invocation"
        )
        problem = Problem(message, "NotFoundError", code=404)
        failure = Failure(message, 404).outcome()
        policy = self._defaults
        self.submit(Fail(invocation.seq, invocation.attempt, problem, policy, failure=failure))

    def _release(self, seq: int) -> None:
        """The attempt of this invocation is over."""
        attempt = self.attempts.pop(seq, None)
        if attempt is not None:
            if attempt.has_slot:
                attempt.has_slot = False
                self._slots_taken -= 1
            if attempt.active:
                attempt.end()
            self._linger(attempt)

    def _linger(self, attempt: Attempt) -> None:
        task = attempt.task
        if task is not None and not task.done() and task not in self._lingering:
            self._lingering[task] = f"{attempt.target} {attempt.request.id}"
            task.add_done_callback(self._gone)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        self._lingering.pop(task, None)

    # ---- what attempts need (see attempt.Host) ----

    def now_ms(self) -> int:
        """The time."""
        return self.clock.now_ms()

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """A handler by name. Raises `NotFoundError`."""
        return self.registry.find(target)

    def left_behind(self, attempt: Attempt) -> None:
        """A step was made and not awaited yet; if it still is not when this round of the event loop is over, …"""
        if not self._left_behind:
            self._loop.call_soon(self._start_left_behind)
        self._left_behind.append(attempt)

    def _start_left_behind(self) -> None:
        attempts, self._left_behind = self._left_behind, []
        for attempt in attempts:
            attempt.start_left_over()

    def parked(self, attempt: Attempt) -> None:
        """The handler only waits now: with an inactivity timeout of zero it is unloaded at once."""
        if attempt.handler.settings.inactivity_timeout_ms == 0 or self._ready:
            self._loop.call_soon(self._offer_soon, attempt, attempt.touched, 4)

    def _offer_soon(self, attempt: Attempt, touched: float, hops: int) -> None:
        """A few rounds of the event loop later, so that the handler's other flows have had theirs."""
        if hops:
            self._loop.call_soon(self._offer_soon, attempt, touched, hops - 1)
        elif attempt.active:
            attempt.offer_suspension()

    # ---- timers and clean-up ----

    def _timers_due(self, timers: list[Timer]) -> None:
        for due_at, seq, entry in timers:
            self.submit(TimerFired(due_at, seq, entry))

    def _clean(self) -> None:
        self._cleaner = None
        if not self._closing and self.failure is None:
            self._chore(self._forget_expired())

    async def _forget_expired(self) -> None:
        """In small batches, so that no turn is held up by them."""
        before: Sequence[Expired] = ()
        while not self._closing:
            found = await self.store.expired(self.clock.now_ms(), CLEAN_BATCH)
            if not found or found == before:  # what cannot be forgotten must not keep it busy
                break
            before = found
            for one in found[:-1]:
                self.submit(Expire(one.seq, one.workflow, one.journal_only))
            last = found[-1]
            await self.ask(partial(Expire, last.seq, last.workflow, last.journal_only))
        if not self._closing and self.failure is None:
            delay_s = min(CLEAN_EVERY_S, max(CLEAN_EVERY_S_MIN, self.registry.shortest_retention_ms() / 1000))
            self._cleaner = self._loop.call_later(delay_s, self._clean)

    def _chore(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chore_done)

    def _chore_done(self, task: "asyncio.Task[None]") -> None:
        self._chores.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self._fail(error)
