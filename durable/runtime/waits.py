"""How the flows of a handler wait: the part of an `Attempt` that awaits durable futures."""

import asyncio
import sys
from collections.abc import Generator
from contextvars import Context
from threading import get_ident
from types import CodeType
from typing import Any, ClassVar, Literal, Protocol

from durable.core.invocation import Invocation
from durable.core.limits import Limits
from durable.core.waiting import Group
from durable.errors import NotInHandlerError, UsageError, WrongLoopError
from durable.futures import DurableFuture
from durable.runtime import ending
from durable.runtime.alarms import Alarms
from durable.runtime.crowd import Crowd
from durable.runtime.current import CURRENT, InStep
from durable.runtime.deadlines import durable_wait, place
from durable.runtime.ending import Ending
from durable.runtime.registry import Registered
from durable.runtime.tasks import current_task
from durable.runtime.timeouts import NO_TIMEOUT
from durable.runtime.waiters import Waiter


class Host(ending.Host, Protocol):
    """What waiting needs of the runtime."""

    limits: Limits
    #: The context variables that handlers begin with: those of whoever started the engine.
    context: Context
    #: Since when what a turn decided is done, on the event loop's clock.
    acting_since: float
    #: Which timers handlers have set.
    alarms: Alarms

    def parked(self, attempt: Any) -> None:
        """The handler only waits now."""
        ...


#: How a flow waits: for what others do; while it executes the step itself; for the same, once that is held back no
#: longer. Or not at all.
How = Literal["waits", "executes", "held"] | None


#: Most attempts wait where nothing has to be looked at. (An empty set is an object, too, for the garbage collector.)
_NOWHERE: frozenset[tuple[int, ...]] = frozenset()


class Waiting(Ending):
    """See the module's docstring. Implements `futures.Waits`, and what `steps.Owner` says of waiting."""

    __slots__ = (
        "_alarms", "_at_once", "_awaited", "_crowd", "_looked_at", "_thread", "activity", "context", "delivered",
        "flows", "touched",
    )  # fmt: skip
    host: Host
    #: Where a handler's own frames end.
    outermost: ClassVar[CodeType]

    def __init__(
        self, host: Host, invocation: Invocation, number: int, handler: Registered, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(host, invocation, number, handler, loop)
        self.context = host.context
        #: When something last happened, on the event loop's clock.
        self.touched = host.acting_since
        #: Counts what its handler does.
        self.activity = 0
        #: How many outcomes the handler has seen.
        self.delivered = 0
        #: How many flows of the handler wait.
        self.flows = 0
        #: Of how many that are about to execute a step, those that come after them stand in line.
        self._at_once = host.limits.begun
        self._crowd: Crowd | None = None
        #: What the first of them waits for.
        self._awaited: DurableFuture[Any] | None = None
        self._thread = get_ident()
        self._alarms = host.alarms
        #: Where it has been looked for time-outs around its waits.
        self._looked_at = _NOWHERE

    @durable_wait
    def wait(self, future: DurableFuture[Any], place: Waiter | None = None) -> Generator[Any, None, Any]:
        """Give way until the future has its outcome (and, for a step nobody started, run it here): its value.

        `place`: where the flow was among those that wait for it, until it had to begin again.
        """
        if future.outcome is None:
            if (self._closing or self._failure is not None or not self.active) and self.deaf:
                yield from self._never()
        elif not self.flows and not self._cancels.any:
            return future.value()
        if CURRENT.get() is not self:
            self._check_place()
        if not self.active or self.broken is not None:
            self._check_active()
        self.activity += 1
        if self._cancels.any:
            self._cancels.check_wait(future, self.delivered)
        how = self._begin(future)
        if how is None:
            if self.flows:  # other flows were woken before this one asked: it goes on after them
                try:
                    yield
                except asyncio.CancelledError as error:
                    if self.active and self.timed_out(error):
                        raise UsageError(NO_TIMEOUT) from None
                    raise
                self._check_active()
            return future.value()
        waiter: Waiter | None = None
        try:
            if how == "executes" and (self.flows > self._at_once or (self._crowd is not None and self._crowd.line)):
                place = yield from self._stand_in_line(future, place)
                if future.step is None or future.step.started:
                    how = "waits"  # another one that came before executes it
            if how == "executes":
                if place is None and self.flows > 1 and future.awaited:
                    place = self._waiters.place(future)
                yield from self._steps.execute(future)
            waiter = self._waiters.begin(future)
            if self.flows > 1 and (how == "executes" or place is not None):
                future.move_up(waiter, place)  # in a replay it waits before those that came since
            if how == "held":
                self._steps.gates.append((waiter, future.step))
            if how != "executes":
                self._only_waits()
            yield from waiter
            place = waiter if how == "held" else None
        except asyncio.CancelledError as error:
            if waiter is not None and self.active and self.timed_out(error):
                raise UsageError(NO_TIMEOUT) from None
            raise
        finally:
            if waiter is not None:
                self._waiters.end(waiter, keeps_place=place is waiter)
                del waiter  # an exception in it refers to this frame
            self.flows -= 1
            self.activity += 1
            self._awaited = None
            if not self._arrivals.concurrent:
                self._rest.mark()
        if how == "held":
            return (yield from self.wait(future, place))  # it is released
        return future.value()

    def _begin(self, future: DurableFuture[Any]) -> How:
        """The flow of now is about to wait for this, if it has no outcome."""
        flow, arrivals, steps = current_task(self.loop), self._arrivals, self._steps
        if future.outcome is None:
            if not arrivals.concurrent and (self.flows or flow is not self.task or self._rest.others(self)):
                arrivals.concurrent = True  # it is not the handler alone: another waits, or is about to run
            if arrivals.replay is not None or arrivals.news:
                arrivals.waits(future)
        if future.outcome is not None:
            return None
        if future is steps.left_over:
            steps.left_over = None
        how: How = "waits"
        step = future.step
        if step is not None and not step.started and (arrivals.replay is None or not self.is_recorded(future)):
            if step.options.interruptible:
                steps.start_left_over()
                steps.left_over = future
            else:
                held = arrivals.replay is not None and self.repeating and not step.released
                how = "held" if held else "executes"
        if how == "waits":
            steps.start_left_over()
        self.flows += 1
        self._awaited = future
        if self._alarms.shown:
            self._alarms.begun.append((self, flow))
        else:
            self._look_at_frames(flow)
        return how

    def _stand_in_line(self, future: DurableFuture[Any], place: Waiter | None) -> Generator[Any, None, Waiter | None]:
        """Many flows are about to execute a step, each its own: come back when this one may.

        Takes and returns its place among those that wait for the same step.
        """
        if self._crowd is None:
            self._crowd = Crowd(self.loop, self.context, self._at_once)
        if self._crowd.admits():
            return place
        waiter = self._waiters.begin(future)
        if place is not None:
            future.move_up(waiter, place)
        self._crowd.join(waiter)
        admitted = False
        try:
            yield from waiter
            admitted = True
        except asyncio.CancelledError as error:
            if self.active and self.timed_out(error):
                raise UsageError(NO_TIMEOUT) from None
            self._steps.give_up(future)
            raise
        finally:
            self._waiters.end(waiter, keeps_place=admitted)
            place = waiter if admitted else None
            del waiter  # an exception in it refers to this frame
            self.activity += 1
        if self.deaf:
            yield from self._never()
        if not self.active or self.broken is not None:
            self._check_active()
        if self._cancels.any:
            self._cancels.check_wait(future, self.delivered)
        return place

    def _look_at_frames(self, flow: "asyncio.Task[Any] | None") -> None:
        """The event loop does not show its timers: each place is looked at once where a time-out may be around."""
        here = place(sys._getframe(3), self.outermost, alone=flow is self.task)
        if here is not None and here not in self._looked_at:
            self._looked_at |= {here}
            self.loop.call_soon(self.refuse_limits, (flow,), context=self.context)  # when it waits

    def step_waits(self) -> None:
        """See `steps.Owner`."""
        self._alarms.look_soon()

    @property
    def repeating(self) -> bool:
        """Whether the handler does now what it did before: it has yet to ask for something that is recorded."""
        replay = self._arrivals.replay
        return replay is not None and self.asked < replay.last

    def held_back(self) -> None:
        """See `steps.Owner`."""
        self._tell_if_stuck()

    def _only_waits(self) -> None:
        self.touched = self.loop.time()
        self._alarms.look_soon()
        if self._steps.quiet:
            self.host.parked(self)
        if self._arrivals.replay is not None:
            self._tell_if_stuck()

    def is_recorded(self, future: DurableFuture[Any]) -> bool:
        """Whether its outcome is in the journal and only waits for the handler to come so far."""
        replay = self._arrivals.replay
        return replay is not None and replay.has_outcome(future.entry)

    def one_waits(self) -> bool:
        """See `arrivals.Receiver`."""
        if self.flows != 1 or self._awaited is None or self._awaited.outcome is not None:
            return False
        return not (self._cancels.raised and self._waiters.woken(self.task))

    def waiting_for(self) -> int | Group:
        """What would let the handler go on, as an expression."""
        return self._waiters.expression()

    def _check_place(self) -> None:
        """The context and its futures belong to one handler, and to its event loop."""
        here = CURRENT.get()
        if isinstance(here, InStep):
            raise UsageError(
                f"{self.target}: a step cannot use the context, because what a step does is not replayed. Use the "
                "context in the handler, around the step. (A compensation is a step, too: to have a handler undo "
                "something, use engine.send() with an idempotency key.)"
            )
        if here is not self:
            raise NotInHandlerError(
                f"this context (or future) belongs to {self.target} {self.submission.id}: only that handler, and "
                "tasks it started, can use it"
            )
        self._check_loop()

    def _check_loop(self) -> None:
        if asyncio._get_running_loop() is not self.loop:
            raise WrongLoopError(f"{self.target}: a context can only be used on its own event loop, not in a thread")
