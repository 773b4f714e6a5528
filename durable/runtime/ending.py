"""How an attempt comes to its end, and what its handler meets from then on.

It ends when its handler returns or raises; when it has failed, or is closed, once its steps have ended and are
recorded; or at once, from outside. After that nothing the handler still does has any effect.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable
from typing import Any, NoReturn, Protocol

import msgspec

from durable.core.commands import Command, Fail, Unloaded
from durable.core.invocation import Invocation
from durable.core.journal import Failure, Outcome
from durable.core.reasons import Reason
from durable.core.replay import stuck
from durable.core.sealed import Why
from durable.errors import (
    AttemptEnded,
    DurableError,
    JournalMismatchError,
    NotInHandlerError,
    StorageCorruptError,
    UsageError,
)
from durable.futures import DurableFuture
from durable.log import About
from durable.operations import Request
from durable.runtime import lines
from durable.runtime.arrivals import Arrivals
from durable.runtime.cancels import NO_CANCELS
from durable.runtime.deadlines import around
from durable.runtime.failures import (
    contains_end,
    failure_of_exception,
    problem_of,
    reason_of,
    reason_of_step,
    retry_after_ms,
)
from durable.runtime.flows import all_wait
from durable.runtime.forgotten import Unused
from durable.runtime.observer import Observer
from durable.runtime.registry import Registered
from durable.runtime.rest import Rest
from durable.runtime.step import Step
from durable.runtime.steps import Steps
from durable.runtime.timeouts import NO_TIMEOUT, timed_out
from durable.runtime.waiters import Flow, Waiters

#: The code of a journal mismatch, as in Restate.
MISMATCH = 570
#: How often a handler may catch `AttemptEnded` in one round of the event loop before it is left waiting for ever.
STRIKES = 100


class Host(Protocol):
    """What the end of an attempt needs of the runtime."""

    observer: Observer | None
    #: Tells when a handler is at rest.
    rest: Rest

    def submit(self, command: Command) -> None:
        """Have a command settled in the next turn."""
        ...

    def in_turn(self, report: Callable[[], None]) -> None:
        """Call `report`: at once, or a little later where many attempts fail at the same time."""
        ...

    def cool(self, attempt: Any) -> None:
        """A handler that was kept does something by itself: it is let go."""
        ...

    def cut_off(self) -> bool:
        """Whether the event loop comes to its end, and all its tasks were cancelled: then this attempt is over."""
        ...


class Ending:
    """The part of an `Attempt` that ends it."""

    __slots__ = (
        "_cancels", "_closing", "_failure", "_finished", "_invocation", "_pausing", "_pending", "_request", "_rest",
        "_strikes", "_stuck_asked", "_told", "_waiters", "active", "asked", "broken", "error", "handler", "host",
        "loop", "number", "observed", "observer", "seq", "submission", "submit", "task", "warm",
    )  # fmt: skip
    #: Set by the attempt, which owns them.
    _steps: Steps
    _arrivals: Arrivals
    unused: Unused
    #: Counts what its handler does.
    activity: int

    def __init__(
        self, host: Host, invocation: Invocation, number: int, handler: Registered, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.host = host
        #: Has a command settled in the next turn.
        self.submit = host.submit
        #: Of which only what is fixed may be read: the rest has gone on.
        self._invocation = invocation
        self.submission = invocation.submission
        self.seq = invocation.seq
        self.number = number
        self.handler = handler
        self._request: Request | None = None
        self.observer = host.observer
        self.loop = loop
        self.task: asyncio.Task[None] | None = None
        self.active = True
        #: Whether its observer was told that it has started.
        self.observed = False
        #: Whether it was suspended and its handler is kept: it may go on as the next attempt.
        self.warm = False
        #: How many entries the handler has asked for.
        self.asked = 0
        self._pending: dict[int, DurableFuture[Any]] = {}
        self._waiters = Waiters(loop)
        self._cancels = NO_CANCELS
        self._rest = host.rest
        #: Whether it is to be told, when it is at rest, that it waits for something else than its journal has next.
        self._stuck_asked = False
        #: Says how it has failed, once that can be reported.
        self._failure: Callable[[], Fail] | None = None
        #: And with what, until the log has said so.
        self.error: BaseException | None = None
        self._closing = False
        #: Whether somebody waits for `Unloaded`: it is closed because it is to be paused.
        self._pausing = False
        #: Whether its handler was told that the attempt ends: what it returns after that means nothing.
        self._told = False
        #: Whether its handler has returned, or raised what ends the invocation.
        self._finished = False
        #: Why nothing may be executed any more: code and journal disagree, or a wait cannot be replayed.
        self.broken: BaseException | None = None
        #: How often, in this round of the event loop, the handler went on although its attempt is over.
        self._strikes = 0

    @property
    def target(self) -> str:
        """See `Submission.target`."""
        return self.submission.target

    @property
    def request(self) -> Request:
        """What the handler was asked: made when somebody wants to know."""
        request = self._request
        if request is None or request.attempt != self.number:
            one = self.submission
            request = self._request = Request(
                one.id,
                one.target,
                one.headers,
                one.idempotency_key,
                self.number,
                one.input,
                one.origin or one.id,
            )
        return request

    @property
    def about(self) -> About:
        """What a line of the log about it is marked with."""
        return lines.about(self.submission, self.number)

    # ---- its handler's end ----

    def _raised(self, error: BaseException) -> Outcome | None:
        """What left the handler: the outcome it stands for, or None where the attempt has not finished with it."""
        if self.host.cut_off() or not self.active:
            return None
        if self._told or (contains_end(error) and (self._failure is not None or self._closing)):
            self._end_failed()  # if no other step of the handler is still to end
            return None
        failure = failure_of_exception(error)
        if failure is None:
            self.fail(self.broken or error)
            self._end_failed()
            return None
        try:
            self._check_end()
        except DurableError as other:  # it does not end as its journal does, or is broken
            self.fail(other)
            self._end_failed()
            return None
        return failure

    def _check_end(self) -> None:
        if self.broken is not None:
            raise self.broken
        if self._arrivals.replay is not None:
            self._arrivals.replay.check_end(self.asked)

    # ---- a failure ----

    def fail(self, error: BaseException, step: Step | None = None, entry: int = 0, *, returned: bool = False) -> None:
        """End the attempt with a failure that may be retried, once its other steps have ended and are recorded."""
        if not self.active or self._failure is not None:
            return
        policy = self.handler.policy
        step_policy, step_pauses = None, False
        if step is not None and step.options.retry is not None:
            step_policy = step.options.retry.merged_over(policy)
            step_pauses = step.options.retry.on_max_attempts == "pause"
        reason = reason_of(error) if step is None else reason_of_step(error, returned=returned)

        def failure() -> Fail:
            problem = problem_of(error, entry, step.name if step is not None else "", reason)
            if error is self.broken and isinstance(error, StorageCorruptError):
                problem = msgspec.structs.replace(problem, reason=Reason.READS_DAMAGED)
            if issubclass(type(error), JournalMismatchError):
                problem = msgspec.structs.replace(problem, code=MISMATCH)
            return Fail(
                self.seq,
                self.number,
                problem,
                policy,
                step_policy,
                retry_after_ms(error, self.about),
                Failure(problem.message, problem.code).outcome(),
                step.recorded if step is not None else False,
                step.seen if step is not None else 0,
                self._cancels.count,
                self.cancel_due,
                step_pauses,
            )

        self._failure, self.error = failure, error
        if self.broken is not None:
            self._steps.running.clear()  # what still runs belongs to a handler that cannot go on: it is cut off
        if not self._steps.running:
            self._end_failed()

    def _end_failed(self) -> None:
        """No step runs any more: report the failure and let the handler go."""
        if self._failure is not None and self.active and not self._steps.running:
            self.host.in_turn(self._report)

    def _report(self) -> None:
        failure = self._failure
        if failure is not None and self.active:
            self.submit(failure())
            self._failure = None
            self._over("failed", self.error)

    @property
    def cancels(self) -> int:
        """See `operations.Journal`."""
        return self._cancels.count

    @property
    def cancel_due(self) -> bool:
        """Whether a cancel came that the handler has not seen."""
        return self._cancels.pending or self._arrivals.cancel_left

    def breaks(self, error: BaseException) -> BaseException:
        """Nothing is executed any more; returns why: the first error of that kind.

        Whatever the handler asks for from now on raises it. If it asks for nothing, because another flow waits for
        something durable and so for ever, the attempt ends when it is at rest.
        """
        if self.broken is None:
            self.broken = error
            self.when_at_rest(self._end_broken)
        return self.broken

    def _end_broken(self) -> None:
        if self.broken is not None and self._waiters.some_wait:
            self.fail(self.broken)

    # ---- a wait that leads to nothing ----

    def when_at_rest(self, then: Callable[[], None]) -> None:
        """See `arrivals.Receiver`."""
        self._rest.when_at_rest(self, then)

    @property
    def is_stuck(self) -> bool:
        """Whether everything waits, and the journal has more: the code does not come to what is recorded."""
        arrivals = self._arrivals
        return arrivals.replaying and not arrivals.settling and bool(self._waiters.blocked) and self._steps.quiet

    def _tell_if_stuck(self) -> None:
        """Once it is at rest: where it waits, and the journal holds something else next, no time can help."""
        if self._arrivals.replaying and not self._stuck_asked:
            self._stuck_asked = True
            self.when_at_rest(self._end_if_stuck)

    def _end_if_stuck(self) -> None:
        self._stuck_asked = False
        if self.ending:
            return
        if self.is_stuck and all_wait(self, self._waiters.flow_of.values(), self.loop):
            self._stuck()
        elif self._steps.holds and not self._arrivals.settling:
            self._steps.release()  # a flow waits for something of its own: for what such a step does, perhaps

    def _stuck(self) -> None:
        replay = self._arrivals.replay
        assert replay is not None, "who is stuck has more in its journal"
        self.broken = stuck(replay, self.asked)
        self.fail(self.broken)
        self._end_failed()

    def refuse_limits(self, flows: Iterable[Flow], timers: Iterable[asyncio.TimerHandle] = ()) -> bool:
        """See `alarms.Waiting`."""
        if not self.active or self._failure is not None or self.broken is not None:
            return False
        found = around(flows, self.task, timers)
        if found is not None:
            self.fail(UsageError(f"{NO_TIMEOUT} (It is {found}.)"))
        return found is not None

    # ---- an end from outside ----

    def end(self) -> None:
        """The attempt is over (killed, paused, shut down): let the handler's coroutine go."""
        self.error = None
        self._over("ended")

    def close(self, *, pausing: bool = False) -> None:
        """Let the steps that run end and be recorded, then end: nothing new is started from now on."""
        self._closing = True
        self._pausing = self._pausing or pausing
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._closing and self.active and self._steps.quiet and self._failure is None:
            if self._pausing:
                self.submit(Unloaded(self.seq, self.number))
            self._over("unloaded")

    def abort(self) -> None:
        """The handler does not yield: its attempt has failed."""
        self._steps.running.clear()
        self.fail(TimeoutError("the abort timeout ran out: the handler did not yield after its inactivity timeout"))
        self._end_failed()

    def _over(self, how: str, error: BaseException | None = None, *, keep: bool = False) -> None:
        """From now on nothing that the handler still does has any effect. `keep`: it is not unwound."""
        was_active, self.active = self.active, False
        self.warm = keep
        if self.observed and was_active and self.observer is not None:
            self.observer.attempt_ended(self.submission, self.number, how, error)
        if was_active:
            lines.over(self.submission, self.number, how)
        if not keep:
            self._unwind()

    def _unwind(self) -> None:
        """Raise `AttemptEnded` wherever the handler waits for something durable; cancel what waits elsewhere."""
        self.unused.clear()
        if self._finished and not self._pending:
            return  # nothing waits, and its coroutine is at its end: that lets go
        self._waiters.unwind()
        self._steps.drop()
        for future in self._pending.values():
            future.abandon()
        self._pending.clear()
        if self.task is not None and not self.task.done():
            self.loop.call_soon(self._cancel_if_stuck, 3)
        else:
            self._let_go()

    def _cancel_if_stuck(self, patience: int) -> None:
        """A handler in a durable wait is already on its way out; one that waits for something else is cancelled."""
        if self.task is None or self.task.done():
            return
        if patience:
            self.loop.call_soon(self._cancel_if_stuck, patience - 1)
        else:
            self.task.cancel()

    def _let_go(self) -> None:
        """It is over, and its coroutine is at its end: nothing refers to itself any more, so it is freed at once."""
        if not self.active and not self._steps.executes:
            self._steps.let_go()
            self._arrivals.let_go()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Its handler's and its steps' coroutines that have not returned."""
        own = [self.task] if self.task is not None and not self.task.done() else []
        return [*own, *self._steps.tasks()]

    def running_steps(self) -> list[str]:
        """The names of the steps that are being executed."""
        return list(self._steps.running.values())

    # ---- what its handler meets ----

    @property
    def ending(self) -> bool:
        """Whether it is told to end."""
        return self._closing or self._failure is not None or self.broken is not None

    @property
    def deaf(self) -> bool:
        """Whether the attempt no longer answers its handler.

        While its steps end it is about to be ended: an error in one of its flows would have the others cancelled,
        with their steps, so whatever it asks for never comes. Nor does it for a handler that swallows `AttemptEnded`
        again and again: a `while True: try: … except BaseException: pass` must not hold up the event loop.
        """
        if self.active:
            if not (self._closing or self._failure is not None) or self.broken is not None:
                return False
            self._told = True
            return True
        return self._strikes > STRIKES

    def _forgive(self) -> None:
        self._strikes = 0

    def _check_active(self) -> None:
        if self._finished:
            raise NotInHandlerError(
                f"{self.target}: its handler has ended, so its context does nothing any more; await everything that "
                "uses it before the handler returns"
            )
        if not self.active:
            if self.warm:
                self.host.cool(self)
            if not self._strikes:
                self.loop.call_soon(self._forgive)
            self._strikes += 1
            raise AttemptEnded(f"this attempt of {self.target} is over")
        if self.broken is not None:
            raise self.broken

    def _never(self) -> Generator[Any, None, None]:
        """Wait until the attempt is unwound; where it was unwound already, for ever."""
        yield from self._waiters.until_unwound() if self.active else self.loop.create_future()

    def timed_out(self, error: asyncio.CancelledError, *, ours: bool = False, flow: Flow = None) -> bool:
        """Whether a time-out of asyncio or anyio cancelled the wait: then the attempt is broken for good.

        `flow`: the one that waited, if that is not the task that runs.
        """
        if self.host.cut_off() or not timed_out(error, flow or asyncio.current_task(), self.task, ours=ours):
            return False
        self.breaks(UsageError(NO_TIMEOUT))
        if self._failure is not None:  # it was refused already, and let its steps end: it does so no longer
            self._steps.running.clear()
            self._end_failed()
        return True

    def read_damage(self, cause: str) -> NoReturn:
        """See `operations.Journal`."""
        if isinstance(cause, Why):
            raise self.breaks(cause.error())
        raise self.breaks(
            StorageCorruptError(
                f"{cause}. To go on, restore a backup; or kill this invocation and write it anew, with "
                "engine.patch_state"
            )
        )
