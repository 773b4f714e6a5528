"""The cancels of one attempt that have come and that its handler has not seen.

A cancel is raised once the steps have ended that ran when it came; what the handler asks for until then is given up.
It is raised in every flow that waits: there at once, where a flow awaits a step at its next operation. Where nobody
waits, at the next operation that would start or wait. What was given up, and calls that failed, are told after it, so
that one cancel is one error.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from durable.callbacks import DoneCallback
from durable.core.journal import CANCELLED, Outcome
from durable.futures import DurableFuture
from durable.outcomes import error_of
from durable.runtime.current import GONE
from durable.runtime.waiters import Flow, Waiters


class Cancel:
    """One that has come."""

    __slots__ = ("before", "outcome", "rank", "ready")

    def __init__(self, rank: int, outcome: Outcome, before: "list[DurableFuture[Any]]") -> None:
        #: Its place among the outcomes.
        self.rank = rank
        self.outcome = outcome
        #: The steps that ran when it came; of those that have ended since, some.
        self.before = before
        #: The rank from which on it can be raised.
        self.ready: int | None = None


class Cancels:
    """Decides what is raised where; knows who waits for what, and what has no outcome yet."""

    __slots__ = ("_after", "_due", "_owed", "_pending", "_waiters", "any", "count", "last", "raised")

    def __init__(self, waiters: Waiters, pending: "Mapping[int, DurableFuture[Any]]") -> None:
        self._waiters = waiters
        self._pending = pending
        self._due: list[Cancel] = []
        #: Flows that are told when they go on.
        self._owed: dict[Flow, Outcome] = {}
        #: What is told after the next cancel.
        self._after: list[tuple[DurableFuture[Any], Outcome]] = []
        #: How many could be raised so far, in this attempt and its replay.
        self.count = 0
        #: How many were raised, and the last of them.
        self.raised = 0
        self.last = CANCELLED
        #: Whether one is due, or owed to a flow: otherwise there is nothing to check.
        self.any = False

    @property
    def pending(self) -> bool:
        """Whether one has come that nobody has seen: nothing new begins before it is raised."""
        return bool(self._due)

    def came(self, rank: int, outcome: Outcome) -> None:
        """A cancel is the outcome of this rank."""
        before = [one for one in self._pending.values() if one.begun is not None and one.begun < rank]
        self._due.append(Cancel(rank, outcome, before))
        self.any = True

    def raise_where_it_waits(self, rank: int) -> None:
        """Raise the oldest one in every flow that waits, if the steps have ended that ran when it came."""
        if not self._due:
            return
        for one in self._due:
            if one.ready is None and not self._steps_run(one):
                one.ready = rank
                self.count += 1
        if self._due[0].ready is None:
            return
        waiters = [
            waiter for waiter, future in self._waiters.blocked.items() if future.interruptible and not waiter.done()
        ]
        for waiter in waiters:
            waiter.set_exception(error_of(self._due[0].outcome))
            waiter.exception()  # retrieved: its flow may be gone
        if waiters:
            self._raised(rank, {self._waiters.flow_of[waiter] for waiter in waiters})

    def _steps_run(self, one: Cancel) -> bool:
        """Whether one still runs that did when the cancel came."""
        before = one.before
        while before and (before[-1].begun is None or self._pending.get(before[-1].entry) is not before[-1]):
            before.pop()
        return bool(before)

    def tell_after(self, future: DurableFuture[Any], outcome: Outcome, rank: int) -> None:
        """A call has failed, or something was given up: of that and the cancel, the cancel is told first."""
        future.begun = None  # a step that does not run: what waits for it is interrupted after all
        self.raise_where_it_waits(rank)
        if self._due:
            self._after.append((future, outcome))
        else:
            future.complete(outcome, rank)

    def check(self, rank: int, one: DoneCallback | None = None) -> None:
        """Raise the one that is due, or owed to this flow, which is about to begin something.

        `one`: the flow, where it is no task.
        """
        flow: Flow = one or asyncio.current_task()
        if self._owed:
            owed = self._owed.pop(flow, None)
            self.any = bool(self._due or self._owed)
            if owed is not None:
                raise error_of(owed)
        if self._due and self._due[0].ready is not None:
            raise error_of(self._raised(rank, {flow}))

    def check_wait(self, future: DurableFuture[Any], rank: int, one: DoneCallback | None = None) -> None:
        """Raise the one that interrupts this wait, or would have interrupted it before its outcome came.

        `one`: see `check`.
        """
        if not future.interruptible:
            return
        if future.outcome is None:
            self.check(rank, one)
        elif self._due:
            ready = self._due[0].ready
            if ready is not None and ready < future.rank:
                raise error_of(self._raised(rank, {one or asyncio.current_task()}))

    def _raised(self, rank: int, told: set[Flow]) -> Outcome:
        """These flows are told; the others that are in a wait are told when they go on, unless that is their end."""
        self.last = outcome = self._due.pop(0).outcome
        self.raised += 1
        for flow in self._waiters.flow_of.values():
            if flow not in told and type(flow) is not DoneCallback:
                self._owed[flow] = outcome
        self.any = bool(self._due or self._owed)
        after, self._after = self._after, []
        for future, ended in after:
            future.complete(ended, rank)
        return outcome


#: Those of an attempt to which none has come: most never have one, and nothing is noted here.
NO_CANCELS = Cancels(Waiters(GONE), {})
