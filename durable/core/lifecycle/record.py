"""Write what a step gave: the hot path."""

from durable.core.commands import Finished, Record
from durable.core.effects import Deliver
from durable.core.invocation import Invocation, Open, Status
from durable.core.journal import COMMAND, Row, row_of
from durable.core.lifecycle.cancel import leaf_ended
from durable.core.turn import Turn

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_RUNNING = Status.RUNNING


def record(turn: Turn, command: Record) -> None:
    """An entry that sets nothing else in motion."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None or invocation.attempt != command.attempt or invocation.status is not _RUNNING:
        return
    outcome = command.outcome
    invocation.last_entry = command.entry
    turn.writes.journal.append(
        row_of(
            (
                command.seq,
                command.entry,
                COMMAND,
                command.kind,
                command.name,
                command.detail,
                command.seen,
                turn.ordinal() if command.awaited else None,
                None if outcome is None else outcome.ok,
                None if outcome is None else outcome.value,
                turn.now,
            )
        )
    )
    if outcome is None:
        invocation.open[command.entry] = Open(command.kind, command.detail)
        return
    settle_budget(turn, invocation, command.entry)
    if command.awaited:
        turn.actions.append(Deliver(command.seq, command.attempt, command.entry, outcome))


def finished(turn: Turn, command: Finished) -> None:
    """The outcome of a step that was left running while the handler went on."""
    invocation = attempt_of(turn, command.seq, command.attempt)
    if invocation is None:
        return
    waits = invocation.open.pop(command.entry)
    outcome = command.outcome
    turn.writes.journal.append(
        Row.completion(command.seq, command.entry, waits.kind, outcome, turn.ordinal(), turn.now)
    )
    settle_budget(turn, invocation, command.entry)
    turn.actions.append(Deliver(command.seq, command.attempt, command.entry, outcome))
    leaf_ended(turn, invocation)


def settle_budget(turn: Turn, invocation: Invocation, entry: int) -> None:
    """Progress was journaled: failures before it no longer count."""
    if invocation.failures or invocation.step_failures or invocation.problem is not None:
        invocation.failures = 0
        invocation.problem = None
        turn.trusted(invocation)
        forget_tries(invocation, entry)
        turn.touch(invocation)


def forget_tries(invocation: Invocation, entry: int) -> None:
    """Failures of this step, and of the handler itself, no longer count."""
    gone = (0, entry, -entry)
    invocation.step_failures = {key: one for key, one in invocation.step_failures.items() if key not in gone}


def attempt_of(turn: Turn, seq: int, attempt: int) -> Invocation | None:
    """The invocation, if this is its current attempt."""
    invocation = turn.world.invocations.get(seq)
    if invocation is None or invocation.attempt != attempt or invocation.status is not _RUNNING:
        return None
    return invocation
