"""One attempt of one invocation: a task that runs the handler, first over its journal, then onwards.

An attempt never changes anything itself. What the handler asks for becomes commands; what has been committed comes
back through `deliver`. When it is over, however it ended, nothing it still does has any effect.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from durable import log
from durable.core.commands import Finish
from durable.core.ids import IdSpan
from durable.core.invocation import Invocation, KeyedObject
from durable.core.journal import CANCELLED, Kind, Outcome, Row, given_up
from durable.core.reasons import Reason
from durable.errors import JournalMismatchError, SerializationError, UsageError, ValueTooLargeError
from durable.futures import DurableFuture
from durable.outcomes import error_of
from durable.runtime import lines, suspending
from durable.runtime.arrivals import Arrivals
from durable.runtime.cancels import NO_CANCELS, Cancels
from durable.runtime.current import CURRENT, leave
from durable.runtime.failures import forget_frames
from durable.runtime.forgotten import Unused, tell
from durable.runtime.lending import Lending
from durable.runtime.operations import Operations
from durable.runtime.registry import KEY_LENGTH_MAX, Registered, check_text
from durable.runtime.step import Step
from durable.runtime.steps import NO_STEPS, Steps
from durable.runtime.suspending import CALLS, Suspending
from durable.runtime.tasks import current_task, unmourned
from durable.runtime.variables import own_decimals
from durable.service import Handler


class Host(suspending.Host, Protocol):
    """What an attempt needs of the runtime."""

    #: What those lend that wait for the engine.
    lending: Lending
    #: Whether what may only be a mistake is an error.
    strict: bool

    def now_ms(self) -> int:
        """The time."""
        ...

    def find(self, target: Handler[Any, Any] | str) -> Registered:
        """A handler by name."""
        ...

    def id_span(self) -> IdSpan:
        """Within what the ids of this file are that keys determine."""
        ...

    def left_behind(self, steps: Steps) -> None:
        """A step was made that nobody awaits yet: `start_left_over` is due soon."""
        ...


class Attempt(Suspending):
    """See the module's docstring. Implements `futures.Waits`, `steps.Owner` and `arrivals.Receiver`."""

    __slots__ = (
        "_arrivals", "_keyed", "_steps", "_variables", "cancel_accepted", "is_first", "lending", "unused",
        "value_size_max",
    )  # fmt: skip
    host: Host
    #: See `lending.Borrower`.
    in_thread = False

    def __init__(
        self,
        host: Host,
        invocation: Invocation,
        number: int,
        handler: Registered,
        keyed: KeyedObject | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(host, invocation, number, handler, loop)
        #: Whether there can be nothing in its journal yet.
        self.is_first = number == 1 and invocation.last_entry == 0 and invocation.cancels == 0
        #: How many bytes a value may have.
        self.value_size_max = handler.value_size_max
        self._keyed = keyed
        self._steps = NO_STEPS
        self._arrivals = Arrivals(self, host.limits.replayed, host.limits.replayed_s)
        self.unused = Unused(self._arrivals)
        self.lending = host.lending
        #: Whether a cancel waits until calls and steps have ended.
        self.cancel_accepted = invocation.cancelling > 0
        #: The context variables of its handler.
        self._variables = self.context

    @property
    def run_id(self) -> str:
        """See `Invocation.run`."""
        return self._invocation.run

    @property
    def run_number(self) -> int:
        """See `Invocation.run_number`."""
        return self._invocation.run_number

    @property
    def seed(self) -> str:
        """What the handler's random numbers follow from."""
        return self.submission.seed or self.run_id

    # ---- life ----

    def start(self, rows: Sequence[Row] = (), until: int = 0) -> None:
        """Run the handler over what is recorded, up to an ordinal; what comes later is news."""
        self._arrivals.start(rows, until)
        self._variables = self.context.copy()
        self.task = unmourned(self.loop.create_task(self._run(), context=self._variables))

    async def _run(self) -> None:
        mark = CURRENT.set(self)
        own_decimals()
        self._rest.mark()
        try:
            over_already = not self.active  # killed or paused by the turn that began it
            if over_already:
                return
            lines.began(self.submission, self.number)
            if self.observer is not None:
                self.observed = True
                self.observer.attempt_started(self.submission, self.number)
            try:
                context = self.handler.context(Operations(self, self._keyed))
                try:
                    arguments = self.handler.arguments(self.submission.input)
                except SerializationError as error:
                    error.reason = Reason.INPUT_NOT_READABLE
                    raise
                value = await self.handler.fn(context, *arguments)
                if not self.active:
                    if not self._closing:  # a close or a pause may be why: its last step was still awaited
                        log.invocation.warning(
                            "%s %s: the handler went on after its attempt had ended",
                            self.target,
                            self.submission.id,
                            about=self.about,
                        )
                    return
                if self._told:
                    self._end_failed()  # if no other step of the handler is still to end
                    return
                self._check_end()
                forgotten = self.unused.forgotten(returned=not self._cancels.raised)
                if forgotten and self.host.strict:
                    self.broken = UsageError(f"the handler ended and never awaited {'; '.join(forgotten)}")
                    raise self.broken
                try:
                    outcome = Outcome(True, self.handler.encode_result(value))
                except SerializationError as error:
                    if not issubclass(type(error), ValueTooLargeError):
                        error.reason = Reason.RESULT_NOT_STORABLE
                    raise
            except BaseException as error:
                failure = self._raised(error)
                if failure is None:
                    if not self.active and self.error is None:  # else the log has yet to show it
                        forget_frames(error)
                    return
                outcome, forgotten = failure, self.unused.forgotten(returned=False)
            self._finished = True
            self.submit(Finish(self.seq, self.number, outcome))
            if forgotten:
                self.host.when_settled(partial(tell, self.about, forgotten))
            self._over("finished")
        finally:
            leave(mark)
            if self.warm:
                self.host.cool(self)
            self._let_go()

    def go_on(self, number: int) -> None:
        """Its invocation has its next attempt: its handler is still there, and has been sent all that came since."""
        self.active, self.warm = True, False
        self.number, self.notified = number, 0
        self.touched = self.loop.time()
        lines.began(self.submission, number)
        if self.observer is not None:
            self._variables.run(self.observer.attempt_started, self.submission, number)
        self.loop.call_soon(self._hear, context=self.host.context)  # unless the turn that began it ends it

    def _hear(self) -> None:
        self._arrivals.pump()
        if self.active and self._waiters.some_wait:
            self.host.parked(self)

    def stalled(self, seconds: float) -> None:
        """The event loop stood still for so long: that is not counted against its time-outs."""
        self.touched = min(self.loop.time(), self.touched + seconds)
        self._steps.stalled(seconds)

    def a_step_ended(self) -> None:
        """See `steps.Owner`."""
        self.touched = self.loop.time()
        if self._waiters.blocked or self._arrivals.replay is not None:
            self.at_rest()
        if self._failure is not None and not self._steps.running:
            self.loop.call_soon(self._end_failed)
        if self._closing:
            self.loop.call_soon(self._end_if_drained)

    # ---- what was committed comes back ----

    def deliver(self, entry: int, outcome: Outcome, notified: bool) -> None:
        """An entry has its outcome (entry 0: the invocation was cancelled)."""
        if notified:
            self.notified += 1
        elif entry in self._steps.handed_in:
            self._steps.handed_in.remove(entry)
            if self.observer is not None:
                self.observer.step_recorded(self.submission, self.number, entry)
        if not self.active and not self.warm:
            return
        if self._closing:
            self.loop.call_soon(self._end_if_drained)
        self.touched = self.host.acting_since
        self._arrivals.add(entry, outcome)

    def wants(self, entry: int) -> bool:
        """See `arrivals.Receiver`."""
        return entry in self._pending

    def at_rest(self) -> None:
        """See `arrivals.Receiver`."""
        self._tell_if_stuck()
        if self._waiters.blocked and self._steps.quiet:
            self.host.parked(self)

    def arrive(self, entry: int, outcome: Outcome) -> None:
        """See `arrivals.Receiver`."""
        self.delivered += 1
        if entry == 0:
            self._cancel(outcome)
        else:
            future = self._pending.pop(entry)
            self._received += len(outcome.value)
            step = future.step
            if step is not None:
                future.step = None
                if not step.started:
                    self._steps.unrecorded.pop(entry, None)
            elif future.kind in CALLS:
                self.calls -= 1
            if self._cancels.any and self._cancels.pending and _follows_a_cancel(future, outcome):
                self._cancels.tell_after(future, outcome, self.delivered)
            else:
                future.complete(outcome, self.delivered)
        if self._cancels.any:
            self._cancels.raise_where_it_waits(self.delivered)
        awaited = self._awaited
        woken = not self.flows or (self.flows == 1 and awaited is not None and awaited.outcome is not None)
        if not woken and self._steps.quiet and self._waiters.some_wait:
            self.host.parked(self)  # what ran beside the wait has ended
        if self._closing:
            self.loop.call_soon(self._end_if_drained)

    def interrupt_steps(self) -> None:
        """A cancel was accepted: it is told when calls and steps have ended, but some steps need not go on."""
        self.cancel_accepted = True
        self._steps.interrupt()

    def _cancel(self, outcome: Outcome) -> None:
        if self._cancels is NO_CANCELS:
            self._cancels = Cancels(self._waiters, self._pending)
        self._cancels.came(self.delivered, outcome)
        self.cancel_accepted = False
        self._steps.interrupt()
        self._steps.cancelled()

    # ---- taking entries ----

    def check_cancel(self, kind: Kind, name: str) -> bool:
        """See `operations.Journal`."""
        replay = self._arrivals.replay
        if replay is not None:
            raised = self._cancels.raised
            self._arrivals.catch_up()
            if self._cancels.raised > raised and not replay.was_given_up(self.asked + 1, kind, name):
                raise error_of(self._cancels.last)  # the other flows were told of it just now, and so was this one
        if self._arrivals.news:
            self._arrivals.hand_over_cancels()
        cancels = self._cancels
        if not cancels.any:
            return False
        cancels.check(self.delivered)
        return cancels.pending

    @property
    def told(self) -> bool:
        """See `arrivals.Receiver`."""
        return self._cancels.any

    @property
    def next_entry(self) -> int:
        """The entry that `take` would take."""
        return self.asked + 1

    @property
    def recorded(self) -> bool:
        """Whether that entry is in the journal."""
        replay = self._arrivals.replay
        return replay is not None and self.asked + 1 in replay.commands

    def take(self, kind: Kind, name: str, print_: bytes | None) -> tuple[int, Row | None]:
        """The next entry, and its row where it is recorded already."""
        if not self.active or self.broken is not None:
            self._check_active()
        entry = self.asked + 1
        if CURRENT.get() is not self or get_ident() != self._thread:
            self._check_place()
        if len(name) > KEY_LENGTH_MAX or not name.isascii() or "\0" in name:
            check_text("name", name, recorded=self.recorded)
        steps, arrivals = self._steps, self._arrivals
        if steps.unrecorded or steps.left_over is not None:
            steps.record_open()
        if not arrivals.concurrent and current_task(self.loop) is not self.task:
            arrivals.concurrent = True  # a flow of its own, and others will wake beside it
        self.activity += 1
        if arrivals.replay is None:
            self.asked = entry
            return entry, None
        if arrivals.caught_up != entry:
            arrivals.catch_up()
        self.asked = entry
        try:
            row = arrivals.match(entry, kind, name, print_)
        except JournalMismatchError as error:
            self.breaks(error)  # whatever the handler does with it
            raise
        if row is not None and steps.holds and not self.repeating:
            steps.release()
        return entry, row

    def expect(self, future: DurableFuture[Any]) -> None:
        """Its outcome will be delivered, once somebody waits."""
        self._pending[future.entry] = future
        if future.kind in CALLS:
            self.calls += 1
        if self.flows:
            self._arrivals.asked_more()

    def asked_more(self) -> None:
        """See `operations.Journal`."""
        self._arrivals.asked_more()

    def run(self, future: DurableFuture[Any], step: Step, *, announced: bool = False) -> None:
        """A step was asked for: it starts when it is awaited, or when the handler goes on without it.

        An announced one is in the journal before it starts, and runs in a task of its own.
        """
        steps, entry, replay = self._steps, future.entry, self._arrivals.replay
        if steps is NO_STEPS:
            steps = self._steps = Steps(self, self.host.limits.begun)
        future.step = step
        if not step.recorded:
            steps.unrecorded[entry] = step
        if not step.options.interruptible:
            future.begun = step.seen
        self._pending[entry] = future
        if self.flows:
            self._arrivals.asked_more()
        if replay is None or not replay.has_outcome(entry):
            if steps.left_over is not None:
                steps.start_left_over()
            steps.left_over = future
            if announced:
                steps.start_left_over()
            else:
                self.host.left_behind(steps)


Attempt.outermost = Attempt._run.__code__


def _follows_a_cancel(future: DurableFuture[Any], outcome: Outcome) -> bool:
    """Whether it is told after a cancel that is on its way: a failed call, a stopped step, what was given up."""
    return outcome == CANCELLED or given_up(outcome.value) or (future.kind is Kind.CALL and not outcome.ok)
