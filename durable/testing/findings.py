"""Mistakes of handlers that a simulation finds; and what each invocation waits for when nothing goes on."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from durable.core.effects import Writes
from durable.core.invocation import Invocation, Status, Submission
from durable.core.journal import COMMAND, COMPLETION, Kind
from durable.core.reasons import Reason
from durable.runtime.observer import Observer
from durable.runtime.step import Step
from durable.store.memory import Tables
from durable.store.rows import journal_of
from durable.testing.arguments import Asked, asked, differences
from durable.testing.checkers import stored
from durable.testing.virtual import SimulationStuck
from durable.views.invocations import InvocationView, WaitView, describe

#: An invocation that has begun so many attempts and got nowhere in any of them never will.
ATTEMPTS_MAX = 1000
PARTS = (COMMAND, COMPLETION)
#: How many invocations are named where nothing goes on.
NAMED_MAX = 20


class NotDeterministic(AssertionError):
    """A handler did something other than what its journal records; the message names the handler, and shows both.

    Or it passed other data to a step than when that was recorded.
    """


class StepRanAgain(AssertionError):
    """A step ran more often than the engine promises; the message names it."""


class Findings(Observer):
    """Follows all engines of one simulation, and what they write."""

    def __init__(self, tables: Tables, interruptions: Callable[[], int]) -> None:
        self._tables = tables
        self._interruptions = interruptions
        #: What is wrong, once: the first is what a check raises.
        self.wrong: dict[str, AssertionError] = {}
        #: Why the scenario can never end, where that is certain.
        self.stuck: SimulationStuck | None = None
        #: Whether a journal that does not fit is what the scenario is about.
        self.code_changes = False
        #: Called with each of these; and where an engine has failed.
        self.on_finding: Callable[[], None] = lambda: None
        self.on_failed: Callable[[], None] = lambda: None
        #: Steps that run at the moment: (invocation's number, entry), and their names.
        self._running: dict[tuple[int, int], str] = {}
        #: What each step was asked with by the attempt that had it recorded.
        self._asked: dict[tuple[int, int], Asked] = {}
        self._returned: Counter[tuple[int, int]] = Counter()
        #: By invocation's number: how long its journal was when an attempt began, and in how many of them in a row.
        self._nowhere: dict[int, tuple[int, int]] = {}

    def _found(self, error: AssertionError) -> None:
        self.wrong.setdefault(str(error), error)
        self.on_finding()

    # ---- what is written ----

    def around(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """See `durable.testing.faults.around`: what a crash swallows is seen, too."""
        if name == "commit" and not self.code_changes:
            self._look(arguments[0])
        return method(*arguments)

    def _look(self, writes: Writes) -> None:
        for invocation in writes.changed.values():
            problem = invocation.problem
            if problem is not None and problem.reason == Reason.JOURNAL_MISMATCH:
                self._found(NotDeterministic(f"{invocation.submission.target} {invocation.id}: {problem.message}"))

    # ---- what is done ----

    def engine_failed(self, error: BaseException) -> None:
        """The next engine is wanted."""
        self.on_failed()

    def attempt_started(self, submission: Submission, attempt: int) -> None:
        """Count those that begin where the one before has begun."""
        seq = self._tables.ids.get(submission.id, 0)
        for one in [one for one in self._running if one[0] == seq]:  # cut off by a crash
            del self._running[one]
        length = len(self._tables.journal.get(seq, ()))
        before, times = self._nowhere.get(seq, (length, 0))
        self._nowhere[seq] = (length, times + 1 if before == length else 1)
        if times >= ATTEMPTS_MAX and self.stuck is None:
            self.stuck = SimulationStuck(
                f"{submission.target} {submission.id} has begun {times} attempts and got nowhere in any of them"
            )
            self.on_stuck(self.stuck)
            self.on_finding()

    def step_asked(self, submission: Submission, attempt: int, entry: int, step: Step, recorded: bool) -> None:
        """A replay asks with the arguments of the attempt that had it recorded."""
        place = (self._tables.ids.get(submission.id, 0), entry)
        now = asked(step.fn, step.args, step.kwargs, attempt)
        before = self._asked.setdefault(place, now) if recorded else now
        self._asked[place] = before
        other = "; ".join(differences(before, now))
        if other and not self.code_changes:
            self._found(
                NotDeterministic(
                    f"{_step(submission, entry, step.name)} is recorded, and a replay asks for it with other "
                    f"arguments: {other}. Its result is that of the first: put what may change into a step, or use "
                    "ctx.random(), ctx.uuid() and ctx.now()"
                )
            )

    def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
        """A step whose result is stored never runs again."""
        seq = self._tables.ids.get(submission.id, 0)
        self._running[seq, entry] = name
        rows = self._tables.journal.get(seq, {})
        if any(row.kind == Kind.RUN and row.ok is not None for part in PARTS if (row := rows.get((entry, part)))):
            self._found(StepRanAgain(f"{_step(submission, entry, name)} runs again, though its result is stored"))

    def step_ended(
        self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
    ) -> None:
        """It returns once more for each interruption, at most."""
        seq = self._tables.ids.get(submission.id, 0)
        self._running.pop((seq, entry), None)
        if error is not None:
            return
        self._returned[seq, entry] += 1
        times, interruptions = self._returned[seq, entry], self._interruptions()
        if times > 1 + interruptions:
            self._found(
                StepRanAgain(
                    f"{_step(submission, entry, name)} returned {times} times, with {interruptions} interruptions"
                )
            )

    # ---- where everybody stands ----

    def only_chores(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether no timer is stored, and all that is scheduled on the event loop is the engine's own.

        Who sleeps, in a handler, a step or the scenario, has something scheduled that is not.
        """
        scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
        return not self._tables.timers and all(_ours(one) for one in scheduled if not one.cancelled())

    def on_stuck(self, error: Exception) -> bool:
        """Have an error tell where everybody stands."""
        for line in self.standing():
            error.add_note(line)
        return False

    def standing(self) -> list[str]:
        """A line for each invocation that has not ended: its status, and what it waits for."""
        found = stored(self._tables)
        waiting = [one for one in found.values() if one.status is not Status.COMPLETED]
        lines = [self._stands(one, found) for one in waiting[:NAMED_MAX]]
        if len(waiting) > NAMED_MAX:
            lines.append(f"… and {len(waiting) - NAMED_MAX} more have not ended")
        return lines

    def _stands(self, invocation: Invocation, found: dict[int, Invocation]) -> str:
        submission = invocation.submission
        key = (submission.service, submission.key)
        queue = {one.queued: one.id for one in found.values() if (one.submission.service, one.submission.key) == key}
        holder = queue[min(place for place in queue if place is not None)] if invocation.queued is not None else None
        rows = [(*row, None) for _, row in sorted(self._tables.journal.get(invocation.seq, {}).items())]
        view = describe(invocation, journal_of(rows), list(invocation.open), holder)
        what = [f"step {name!r} runs" for (seq, _), name in self._running.items() if seq == invocation.seq]
        what += [text for one in view.waits_for if (text := _wait(one))]
        whose = f"{submission.target} {invocation.id} is {view.status}"
        if view.attempt > 1:
            whose += f" (attempt {view.attempt})"
        return f"{whose}: {', '.join(what) or 'nothing that is recorded'}{''.join(_failure(view))}"


def _ours(handle: asyncio.TimerHandle) -> bool:
    callback = getattr(handle, "_callback", None)
    return type(getattr(callback, "__self__", None)).__module__.startswith("durable.")


def _step(submission: Submission, entry: int, name: str) -> str:
    return f"the step {name!r} (entry {entry}) of {submission.target} {submission.id}"


def _wait(one: WaitView) -> str:
    due = "" if one.due_at is None else f" until {datetime.fromtimestamp(one.due_at / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    match one.kind:
        case "resume":
            return ""  # its failure says more
        case "key":
            return f"waits for the key of {one.name}, which {one.detail} holds"
        case "slot":
            return "waits for a slot"
        case "start" | "retry":
            return f"waits for its {one.kind}{due}"
    name = f" {one.name!r}" if one.name else ""
    detail = f" {one.detail}" if one.detail and not due and one.detail.startswith("inv_") else ""
    return f"waits for {one.kind}{name}{detail}{due} (entry {one.entry})"


def _failure(view: InvocationView) -> Iterator[str]:
    if view.last_failure is not None:
        yield f"; its last attempt failed: {view.last_failure.message}"
        if view.advice:
            yield f" {view.advice}"
    elif view.status == Status.PAUSED:
        yield "; somebody has paused it"
