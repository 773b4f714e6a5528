"""What a turn leads to once it is committed: one deed for each kind of action, in a table."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from durable import log
from durable.core.alike import Alike
from durable.core.commands import Command, Invoke, OpenEntry, Submit
from durable.core.effects import (
    Action,
    Completed,
    Deliver,
    Failed,
    Interrupt,
    InterruptSteps,
    KeepWarm,
    KeyReused,
    Lost,
    MayDeadlock,
    Paused,
    Reply,
    StartAttempt,
    Then,
    Unload,
)
from durable.core.invocation import Submission
from durable.core.record_commands import Take
from durable.core.sources import GroupPartition, Position
from durable.core.turn import Turn
from durable.core.world import World
from durable.runtime import lines
from durable.runtime.attempt import Attempt
from durable.runtime.clock import Clock
from durable.runtime.deadlocks import Deadlocks
from durable.runtime.observer import Observer
from durable.runtime.replies import Replies
from durable.runtime.roster import Roster
from durable.runtime.timers import Timers


class Engine(Protocol):
    """What deeds need of the engine's loop."""

    clock: Clock
    observer: Observer | None
    world: World
    positions: dict[GroupPartition, Position]

    def fail(self, error: BaseException) -> None:
        """Nothing can be promised any more."""
        ...

    def time(self) -> float:
        """By the clock of its event loop."""
        ...


class Deeds:
    """Does what committed turns decided: to attempts, to whoever waits for an answer, to timers."""

    def __init__(
        self, engine: Engine, replies: Replies, roster: Roster, deadlocks: Deadlocks, timers: Timers
    ) -> None:
        self._engine = engine
        self._replies = replies
        self._roster = roster
        self._attempts = roster.attempts
        self._deadlocks = deadlocks
        self._timers = timers
        #: Whom their policy ends in this turn, which the log has said.
        self._ended: set[int] = set()
        #: What each kind of action means: of those in `Action`, none is missing.
        self.table: dict[type[Action], Callable[[Any], None]] = {
            Deliver: self._deliver,
            StartAttempt: self._start_attempt,
            Completed: self._complete,
            Reply: replies.reply,
            Interrupt: self._interrupt,
            KeepWarm: self._keep_warm,
            InterruptSteps: self._interrupt_steps,
            Unload: self._unload,
            MayDeadlock: self._may_deadlock,
            Failed: self._failed,
            Paused: self._paused,
            Lost: self._lost,
            KeyReused: _key_reused,
        }

    def act(self, turn: Turn, seconds: float) -> None:
        """Do all that the turn decided, also where one deed raises: that is a bug, and the engine fails of it.

        `seconds`: how long its commit took.
        """
        table = self.table
        self._roster.acting_since = self._engine.time()
        failed: BaseException | None = None
        if self._engine.observer is not None:
            _tell_of_new_ones(self._engine.observer, turn)
        if (turn.writes.created or turn.writes.in_line) and log.invocation.hears(log.DEBUG):
            for one in turn.writes.with_all().created.values():
                lines.accepted(one)
        for action in turn.actions:
            try:
                table[type(action)](action)
            except BaseException as error:
                failed = failed or error
        engine = self._engine
        try:
            if turn.writes.timers_removed:
                self._timers.remove(turn.writes.timers_removed)
            if turn.writes.timers_added:
                self._timers.add(turn.writes.timers_added)
            for place, position in turn.writes.positions.items():
                if position is None:
                    engine.positions.pop(place, None)
                else:
                    engine.positions[place] = position
            self._roster.room.make(engine.world.in_line, engine.world.free)
            if engine.observer is not None:
                engine.observer.turn_committed(turn.size, turn.writes.rows, seconds)
        except BaseException as error:
            failed = failed or error
        if isinstance(failed, KeyboardInterrupt | SystemExit):  # meant for the process; what was decided is done
            raise failed
        if failed is not None:
            engine.fail(failed)

    def _deliver(self, action: Deliver) -> None:
        attempt = self._attempts.get(action.seq)
        if attempt is not None and attempt.number == action.attempt:
            attempt.deliver(action.entry, action.outcome, action.notified)

    def _start_attempt(self, action: StartAttempt) -> None:
        submission = action.invocation.submission
        key = submission.key
        keyed = None if key is None else self._engine.world.keys.get((submission.service, key))
        self._roster.admit(action, keyed)

    def _complete(self, action: Completed) -> None:
        seq, observer = action.invocation.seq, self._engine.observer
        self._roster.release(seq)
        self._deadlocks.ended(seq)
        self._replies.completed(action)
        if observer is not None:
            observer.invocation_ended(action.invocation, action.outcome)
        lines.completed(action, told=seq in self._ended)
        self._ended.discard(seq)

    def _interrupt(self, action: Interrupt) -> None:
        self._roster.release(action.seq)

    def _keep_warm(self, action: KeepWarm) -> None:
        self._roster.kept(action.seq)

    def _interrupt_steps(self, action: InterruptSteps) -> None:
        attempt = self._current(action)
        if attempt is not None:
            attempt.interrupt_steps()

    def _unload(self, action: Unload) -> None:
        attempt = self._current(action)
        if attempt is not None:
            attempt.close(pausing=True)

    def _current(self, action: InterruptSteps | Unload) -> Attempt | None:
        """The attempt that is meant, unless it is over."""
        attempt = self._attempts.get(action.seq)
        return attempt if attempt is not None and attempt.number == action.attempt else None

    def _may_deadlock(self, action: MayDeadlock) -> None:
        self._deadlocks.began_to_wait(action.seq)

    def _failed(self, action: Failed) -> None:
        attempt = self._attempts.get(action.invocation.seq)
        error = attempt.error if attempt is not None and attempt.number == action.attempt else None
        self._roster.release(action.invocation.seq)
        if self._engine.observer is not None:
            self._engine.observer.attempt_failed(action)
        lines.failed(action, error, self._engine.clock.now_ms())
        if action.then is Then.END:
            self._ended.add(action.invocation.seq)

    def _paused(self, action: Paused) -> None:
        if self._engine.observer is not None:
            self._engine.observer.invocation_paused(action.invocation.submission)
        lines.paused(action.invocation.submission)

    def _lost(self, action: Lost) -> None:
        if self._engine.observer is not None:
            self._engine.observer.attempt_lost(action.invocation.submission, action.attempt)


def _key_reused(action: KeyReused) -> None:
    lines.key_reused(action.submission, action.said, refused=action.refused)


def _tell_of_new_ones(observer: Observer, turn: Turn) -> None:
    """What became of each invocation that the turn was asked for; and others that it made (restarts)."""
    accepted = turn.writes.with_all().created
    for one in accepted.values():
        observer.invocation_accepted(one.submission, one.created_at)
    asked = [submission for command in turn.asked for submission in _asked_for(command)]
    if len(asked) > len(accepted):
        new = {id(one.submission) for one in accepted.values()}
        for submission in asked:
            if id(submission) not in new:
                observer.invocation_dismissed(submission)


def _asked_for(command: Command) -> Iterable[Submission]:
    if isinstance(command, Submit):
        return (command.submission,)
    if isinstance(command, OpenEntry) and isinstance(command.asked, Invoke):
        return (command.asked.submission,)
    if isinstance(command, Take):
        records = command.records
        return () if isinstance(records, Alike) else (record.submission for record in records)
    return ()
