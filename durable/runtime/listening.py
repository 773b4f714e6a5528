"""Flows that are no more than a callback: what asyncio's own functions add to a durable future.

Each does what a task would that awaits the future, in the same rounds of the event loop: its flow begins in the next
round, it goes on in the round after the outcome came, and asyncio hears of that in the one after. It never executes a
step: those that nobody awaited by then run beside the handler.
"""

import asyncio
from functools import partial
from typing import Any, cast

from durable.callbacks import DoneCallback
from durable.core.invocation import Invocation
from durable.errors import AttemptEnded, UsageError
from durable.futures import DurableFuture
from durable.runtime.current import CURRENT
from durable.runtime.registry import Registered
from durable.runtime.tasks import current_task
from durable.runtime.timeouts import NO_TIMEOUT
from durable.runtime.waits import Host, Waiting


class Listening(Waiting):
    """The part of an `Attempt` that calls callbacks. Implements `callbacks.Listener`."""

    __slots__ = ("_judged", "_new")

    def __init__(
        self, host: Host, invocation: Invocation, number: int, handler: Registered, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(host, invocation, number, handler, loop)
        #: Those that were added in this round of the event loop.
        self._new: list[DoneCallback] | None = None
        #: Whether a time-out cancelled a task, when it had been cancelled so many times.
        self._judged: tuple[asyncio.Task[Any] | None, int, bool] = None, 0, False

    def listen(self, one: DoneCallback) -> None:
        """See `callbacks.Listener`."""
        self._check_loop()
        if CURRENT.get() is not self:
            if self.flows or not one.future.completed:
                self._check_place()
        elif one.context.get(CURRENT) is not self:  # made elsewhere: what runs for a handler is known by its context
            one.context.run(CURRENT.set, self)
        one.added_by = current_task(self.loop)
        if self._new is None:
            self._new = []
            self.loop.call_soon(self._begin_new, context=one.context)
        self._new.append(one)

    def _begin_new(self) -> None:
        """The flows begin that were added in this round."""
        new, self._new = self._new or [], None
        self.activity += 1
        usual = self.active and not self.ending and not self._cancels.any
        begun: list[DoneCallback] = []
        for one in new:
            future = _future_of(one)
            future.made = None
            if one.error is not None:  # it was cancelled at once
                self.woken(one)
            elif one.function is not None and ((usual and future.outcome is None) or self._is_to_wait(one, future)):
                self.flows += 1
                self._waiters.listen(one, future)
                if not begun or begun[-1].function != one.function:
                    begun.append(one)
        if begun:
            self._have_begun(begun)

    def _is_to_wait(self, one: DoneCallback, future: DurableFuture[Any]) -> bool:
        """Whether this flow is to wait; tell it what it need not wait for."""
        if future.outcome is None and (self._closing or self._failure is not None or not self.active) and self.deaf:
            if self.active:
                one.stage = "waits"
                self._waiters.at_the_end(one)
            return False
        try:
            if future.outcome is None or self.flows or self._cancels.any:
                if not self.active or self.broken is not None:
                    self._check_active()
                if self._cancels.any:
                    self._cancels.check_wait(future, self.delivered, one)
        except (AttemptEnded, Exception) as error:
            one.error = error.with_traceback(None)
        if one.error is None and future.outcome is None:
            return True
        if one.error is None and self.flows:  # other flows were woken before this one asked: it goes on after them
            one.stage = "woken"
            self.loop.call_soon(self.woken, one, context=one.context)
        else:
            one.tell()
        return False

    def _have_begun(self, begun: list[DoneCallback]) -> None:
        """Some wait: `begun` has one of each kind."""
        arrivals = self._arrivals
        arrivals.concurrent = True
        future = _future_of(begun[-1])
        if arrivals.replay is not None or arrivals.news:
            arrivals.waits(future)
        self._steps.start_left_over()
        self._awaited = future
        if self._alarms.shown:
            self._alarms.begun += [(self, one) for one in begun]
        else:
            self.loop.call_soon(partial(self.refuse_limits, begun), context=self.context)  # when their tasks wait
        self._only_waits()

    def woken(self, one: DoneCallback) -> None:
        """See `callbacks.Listener`."""
        if one in self._waiters.blocked:
            self._stop(one)
        elif one.error is None:  # the outcome was known
            try:
                self._check_active()
            except (AttemptEnded, Exception) as error:
                one.error = error.with_traceback(None)
        if isinstance(one.error, asyncio.CancelledError) and self.active and self._was_timed_out(one, one.error):
            one.error = UsageError(NO_TIMEOUT)
        one.tell()

    def _was_timed_out(self, one: DoneCallback, error: asyncio.CancelledError) -> bool:
        """See `timed_out`. That may take long, and many callbacks are cancelled at once."""
        task = one.added_by
        cancels = 0 if task is None else task.cancelling()
        if self._judged[:2] != (task, cancels):
            self._judged = task, cancels, self.timed_out(error, flow=one)
        return self._judged[2]

    def stop_listening(self, one: DoneCallback) -> None:
        """See `callbacks.Listener`."""
        if one.stage == "waits" and one in self._waiters.blocked:
            self._stop(one)
            one.stage = "woken"

    def _stop(self, one: DoneCallback) -> None:
        self._waiters.end(one)
        self.flows -= 1
        self.activity += 1
        self._awaited = None


def _future_of(one: DoneCallback) -> DurableFuture[Any]:
    return cast(DurableFuture[Any], one.future)
