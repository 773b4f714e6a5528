"""Take the waiting commands, load what they concern, settle them, commit in one transaction, act.

One turn is under way at a time. While its commit is being fsynced, commands gather for the next: a turn *is* a group
commit. Nothing is acted upon before the commit returned, and an action that a crash swallows is decided again when
the engine starts: there is no recovery besides the `Recover` command.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from durable import log
from durable.core.commands import Command, Declare, TimerFired
from durable.core.effects import Need, Timer
from durable.core.limits import Limits
from durable.core.retry import RetryPolicy
from durable.core.settle import advance
from durable.core.sources import GroupPartition, Position
from durable.core.turn import Turn
from durable.core.world import World
from durable.errors import EngineFailedError, EngineNotRunningError
from durable.runtime.attempt import Attempt
from durable.runtime.backlog import Backlog
from durable.runtime.clock import Clock
from durable.runtime.current import CURRENT, InStep
from durable.runtime.deadlocks import Deadlocks
from durable.runtime.deeds import Deeds
from durable.runtime.failures import describe
from durable.runtime.lending import Lending
from durable.runtime.misplaced import Misplaced
from durable.runtime.observer import Observer
from durable.runtime.recovery import Recovery
from durable.runtime.refused import one_by_one
from durable.runtime.registry import Registry
from durable.runtime.replies import Look, Replies, Wanted
from durable.runtime.roster import Roster
from durable.runtime.sweep import Sweep
from durable.runtime.tasks import Chores, unmourned
from durable.runtime.threads import Threads, end_idle_threads
from durable.runtime.timers import Timers
from durable.runtime.winding_down import wind_down
from durable.store import CommitRefused, Opened, Store, check_in_clear

#: How many commits are remembered, for whoever asks how the engine fares.
COMMITS = 200


class Loop:
    """The engine's heart: everything that changes passes through here.

    It lives once, on the event loop on which it is made: from `start` to `close`, `abandon`, or a failure.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        *,
        max_concurrent: int,
        max_threads: int,
        strict: bool = False,
        limits: Limits,
        defaults: RetryPolicy,
        declaration: Callable[[Registry, str], str],
        observer: Observer | None = None,
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.observer = observer
        self.failure: BaseException | None = None
        #: Set once there is one.
        self.failed = asyncio.Event()
        #: How often each service's declaration has changed, counted from 1.
        self.revisions: dict[str, int] = {}
        #: A digest of what a service's code declares.
        self._declaration = declaration
        self.limits = limits
        self.strict = strict
        #: Ends the look at what handlers call, while a strict engine has one.
        self._looking: Callable[[], None] | None = None
        self.misplaced = Misplaced(strict=strict)
        self._slots = max_concurrent
        self._defaults = defaults
        self._turning = False
        self._kicked = False
        #: Whether it shuts down, or has.
        self.closing = False
        #: Whether nothing is settled any more.
        self._halted = False
        #: Whether it is closed, or was abandoned: nothing happens any more, and the store may be used again.
        self.over = False
        #: When the last commits were made, on the event loop's clock, and how long they took; since when one is made.
        self.commits: deque[tuple[float, float]] = deque(maxlen=COMMITS)
        self.committing_since: float | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._committing: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._chores = Chores(self._loop, self.fail)
        self.context = copy_context()
        self._backlog = Backlog(self._loop, self.context, limits)
        #: See `Backlog`.
        self.when_settled = self._backlog.when_settled
        self.admitted = self._backlog.admitted
        #: Empty until the store is open.
        self.world = World(0, 0)
        #: How far partitions of topics have been taken, as far as that is durable.
        self.positions: dict[GroupPartition, Position] = {}
        self.replies = Replies(self._loop)
        self.lending = Lending(self._loop, self.submit, Threads(self._loop, max_threads, self.context))
        self.roster = Roster(self, self._loop, defaults, max_concurrent)
        self.attempts = self.roster.attempts
        self.deadlocks = Deadlocks(store, self.attempts, self._loop, self._chores.begin)
        self.timers = Timers(store, clock, self._loop, self._timers_due, self.fail, limits)
        self._sweep = Sweep(self, self._loop, self._chores.begin)
        self.deeds = Deeds(self, self.replies, self.roster, self.deadlocks, self.timers)
        #: Do what a committed turn leads to.
        self.act = self.deeds.act

    # ---- life ----

    async def start(self) -> None:
        """Open the store, give every invocation whose turn it is its next attempt, and arm the timers."""
        opened = await self.store.open()
        try:
            check_in_clear(opened.keys, self._name)
            self._begin_with(opened, self._slots)
            for service, text in opened.settings.items():
                self.registry.configure(service, text)
            self.world.recovering = True
            recovery = Recovery(self.store, opened.next_seq, self.limits.recovered, self.submit, self.ask)
            if opened.crashed:
                await recovery.look(self.registry, self._defaults)
            await self.timers.start()
            if self.failure is not None:
                raise self.failure
            self._declare(opened.declared)
        except BaseException:
            self._halted = True
            self.timers.close()
            if not self.over:
                await self.store.close()
            raise
        if self.strict:
            from durable.runtime.strict import lookout  # most programs are not

            self._looking = lookout.end
            lookout.begin()
        self._begin_keeping()
        self._chores.begin(recovery.run())
        self._chores.begin(self.deadlocks.begin())
        self._sweep.begin()
        before = "; the engine before it ended without a clean close" if opened.crashed else ""
        services = len(self.registry.declared)
        log.engine.info("%s: the engine runs; services: %d%s", self._name, services, before)
        if self.observer is not None:
            self.observer.engine_started()

    def _begin_with(self, opened: Opened, slots: int) -> None:
        """Take over what the store found."""
        self.registry.forget_configuration()
        self.registry.id_span = opened.id_span
        self.world = World(
            opened.next_ordinal,
            opened.next_seq,
            slots=slots,
            limits=self.limits,
            ready=opened.ready,
            id_span=opened.id_span,
        )
        self.world.subscriptions |= opened.sources.subscriptions
        self.world.clusters |= opened.sources.clusters
        self.world.positions |= opened.sources.positions
        self.world.lost_positions = opened.sources.lost_positions
        self.positions |= opened.sources.positions

    def _begin_keeping(self) -> None:
        """Notice the end of the event loop, and of the file."""
        self._keeper = unmourned(self._loop.create_task(self._keep()))
        self._chores.begin(self.store.lost())

    def _declare(self, declared: dict[str, tuple[int, str]]) -> None:
        """A service that is not what it was has a new revision."""
        for service in self.registry.declared:
            revision, before = declared.get(service, (0, ""))
            now = self._declaration(self.registry, service)
            self.revisions[service] = revision if now == before else revision + 1
            if now != before:
                self.submit(Declare(service, revision + 1, now))

    async def close(self, grace_s: float) -> None:
        """End the attempts, let what they handed in become durable, close the store: within `grace_s` seconds."""
        if self.closing:
            return
        self._stop()
        self.roster.close()
        try:
            await wind_down(self, grace_s)
        except BaseException:
            self.abandon()
            raise
        if self.over:  # abandoned meanwhile, and perhaps the store is somebody else's by now
            return
        if self.busy():
            log.engine.warning(
                "the engine was closed while a commit was under way; whether it took effect is unknown"
            )
            self.abandon()
            return
        self._halted = True
        end_idle_threads()
        closed = EngineNotRunningError("the engine was closed before this was answered; attach again after a start")
        self.replies.fail_all(closed)
        try:
            if self.failure is None:
                await self.store.sign_off()
            await self.store.close()
        except EngineNotRunningError:  # abandoned meanwhile: there is nothing left to close
            self._let_go()
            return
        except BaseException:
            self._let_go()  # all the same
            raise
        self.over = True
        log.engine.info("%s: the engine was closed", self._name)
        self._tell_the_end()

    def _stop(self) -> None:
        """Begin nothing any more by itself."""
        self._look_away()
        self.closing = True
        self._backlog.open_the_door()
        self.timers.close()
        self.lending.threads.close()
        self.deadlocks.close()
        self._sweep.close()
        self._chores.cancel()
        if self._keeper is not None:
            self._keeper.cancel()

    def _look_away(self) -> None:
        end, self._looking = self._looking, None
        if end is not None:
            end()

    def abandon(self) -> None:
        """Stop at once and write nothing more, as if the process had been killed. Idempotent; needs no event loop."""
        if self.over:
            return
        self._halted = True
        self._backlog.clear()
        self._look_away()
        try:
            if not self._loop.is_closed():
                self._stop()
                if self._loading is not None:
                    self._loading.cancel()
                told = EngineNotRunningError("the engine was stopped before this was answered; attach after a start")
                self.replies.fail_all(told)
                self.roster.fail()
            self.roster.forget()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if not self.over:
            self.over = True
            end_idle_threads()
            if self._keeper is not None:
                log.engine.info("%s: the engine has stopped without a clean close", self._name)
            self._tell_the_end()
            self.store.abandon()

    @property
    def _name(self) -> str:
        """What it runs on."""
        return str(getattr(self.store, "path", "an engine without a file"))

    def _tell_the_end(self) -> None:
        if self.observer is not None and self._keeper is not None:  # it was told of a start
            self.observer.engine_stopped()

    async def _keep(self) -> None:
        """Wait for the end of the event loop: whoever ends it in good order cancels all its tasks, and so this one.

        An engine that was not closed by then is gone. Its handlers did not fail: nothing they make of it is recorded.
        """
        try:
            await self._loop.create_future()
        finally:
            self.cut_off()

    def cut_off(self) -> bool:
        """Whether the event loop is coming to its end, and all its tasks were cancelled: then it is over."""
        keeper = self._keeper
        if keeper is None or self.closing or not keeper.cancelling():
            return False
        self.abandon()
        return True

    def fail(self, error: BaseException) -> None:
        """Nothing can be promised any more: stop everything, tell everybody, acknowledge nothing."""
        if self.failure is not None or self._halted:
            return
        if not isinstance(error, EngineFailedError):
            wrapped = EngineFailedError(f"the engine stopped: {describe(error)}")
            wrapped.__cause__ = error
            error = wrapped
        self.failure = error
        self.failed.set()
        self._backlog.clear()
        self.replies.fail_all(error)
        self._backlog.open_the_door()
        self.deadlocks.close()
        self.roster.fail()
        if self.observer is not None:
            self.observer.engine_failed(error)
        log.engine.critical("%s", error, cause=error.__cause__)

    # ---- turns ----

    def submit(self, command: Command) -> None:
        """Have a command settled in the next turn."""
        if self.failure is not None or self._halted:
            return
        self._backlog.commands.append(command)
        if not self._turning and not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._begin, context=self.context)

    def time(self) -> float:
        """By the clock of its event loop."""
        return self._loop.time()

    @property
    def queued(self) -> int:
        """How many commands wait to be settled."""
        return len(self._backlog.commands)

    def observe(self, observer: Observer | None) -> None:
        """From now on, this one is told; attempts that run already tell whom they told before."""
        self.observer = self.roster.observer = observer

    @property
    def crowded(self) -> bool:
        """See `Backlog`."""
        return self._backlog.crowded

    def ask(
        self, make: Callable[[int], Command], wanted: Wanted = Wanted.REPLY, look: Look | None = None
    ) -> "asyncio.Future[Any]":
        """Submit a command, and get what is wanted of it. See `Replies.expect`."""
        if self.failure is not None:
            raise self.failure
        if self.closing:
            raise EngineNotRunningError("the engine is shutting down")
        command, future = self.replies.expect(make, wanted, look)
        self.submit(command)
        here = CURRENT.get()
        if here is not None and wanted is not Wanted.REPLY and isinstance(here, InStep | Attempt):
            here.lending.lend(here, future)
        return future

    def _begin(self) -> None:
        """Take what is queued and settle it at once; where something has to be loaded first, in a task."""
        self._kicked = False
        if self._turning or not self._backlog.commands or self.failure is not None or self._halted:
            return
        self._turning = True
        try:
            self.roster.alarms.look()
            turn = Turn(self.world, self._backlog.take(), self.clock.now_ms())
            need = advance(turn)
            if need is None:
                self._commit(turn)
            else:
                self._load_beside(self._load(turn, need))
        except Exception as error:
            self.fail(error)

    def _load_beside(self, work: Coroutine[Any, Any, None]) -> None:
        loading = unmourned(self._loop.create_task(work))
        if not loading.done():  # with an eager task factory it may be
            self._loading = loading

    async def _load(self, turn: Turn, need: Need | None) -> None:
        try:
            while need is not None:
                self.world.admit(need, await self.store.load(need))
                need = advance(turn)
            self._commit(turn)
        except Exception as error:
            self.fail(error)
        finally:
            if self._loading is asyncio.current_task():  # and not one that settles it again
                self._loading = None

    def _commit(self, turn: Turn) -> None:
        if not turn.writes:
            self._committed(turn)
            return
        try:
            self.committing_since = began = self._loop.time()
            self._committing = asyncio.ensure_future(self.store.commit(turn.writes))
        except CommitRefused as refused:
            self._settle_again(turn, refused)
            return
        self._committing.add_done_callback(lambda commit: self._commit_returned(turn, commit, began))

    def _commit_returned(self, turn: Turn, commit: "asyncio.Future[None]", began: float) -> None:
        self._committing = self.committing_since = None
        error = None if commit.cancelled() else commit.exception()
        if commit.cancelled():
            error = EngineFailedError("a commit was cancelled; whether it took effect is unknown")
        if isinstance(error, CommitRefused):
            self._settle_again(turn, error)
        elif error is not None:
            self._turning = False
            self.fail(error)
        else:
            now = self._loop.time()
            self.commits.append((now, now - began))
            self._committed(turn, now - began)

    def _committed(self, turn: Turn, seconds: float = 0.0) -> None:
        """What the turn decided is durable: go on with the next one, then act upon this one."""
        self.world.end_turn()
        self._turning = False
        if self.failure is not None or self._halted:
            return
        settled = self._backlog.settled()
        self._begin()  # the disk works while what was committed is acted upon
        self.act(turn, seconds)
        self._backlog.acted_upon(settled)

    # ---- a turn that the store refused ----

    def _settle_again(self, turn: Turn, refused: CommitRefused) -> None:
        """Nothing of it was written: each of its commands gets a turn of its own, so that only one of them fails."""
        self.committing_since = None
        log.engine.warning("%s; its %d commands are settled again, one by one", refused, len(turn.asked))
        self._load_beside(self._one_by_one(turn))

    async def _one_by_one(self, refused: Turn) -> None:
        try:
            await one_by_one(self, refused)
        except Exception as error:
            self.fail(error)
        finally:
            self._loading = None
        self._turning = False
        if not self.stopped:
            settled = self._backlog.settled()
            self._begin()
            self._backlog.acted_upon(settled)

    @property
    def stopped(self) -> bool:
        """See `refused.Host`."""
        return self.failure is not None or self._halted

    def busy(self) -> "list[asyncio.Future[Any]]":
        """What a turn that is under way waits for."""
        return [future for future in (self._loading, self._committing) if future is not None]

    # ---- timers ----

    def _timers_due(self, timers: list[Timer]) -> None:
        for due_at, seq, entry in timers:
            self.submit(TimerFired(due_at, seq, entry))
