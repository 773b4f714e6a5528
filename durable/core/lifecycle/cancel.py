"""Cancel: leaf first, one exception per cancel. Kill: the whole call tree at once, without running its code."""

import msgspec

from durable.core.commands import Cancel, Kill
from durable.core.effects import Answer, Deliver, Interrupt, InterruptSteps
from durable.core.invocation import Invocation, Status
from durable.core.journal import CANCELLED, GIVEN_UP, KILLED, Kind, Outcome, Row, failure_of
from durable.core.lifecycle.arrive import arrive, keep
from durable.core.turn import Turn


def cancel(turn: Turn, command: Cancel) -> None:
    """Open calls are cancelled and end before the handler is told, and so do the steps that run; sends are spared."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if invocation.status is Status.COMPLETED or invocation.damaged:
        ended = invocation.status is Status.COMPLETED
        turn.reply(command.token, Status.COMPLETED if ended else Answer.DAMAGED, invocation)
        return
    if invocation.status in (Status.SCHEDULED, Status.PENDING):
        if not command.dry:
            turn.complete(invocation, CANCELLED)
        turn.reply(command.token, Answer.DONE, invocation)
        return
    turn.reply(command.token, Answer.ACCEPTED, invocation)
    if command.dry:
        return
    invocation.cancelling = invocation.last_entry + 1
    invocation.pausing = False
    turn.cool(invocation)
    turn.touch(invocation)
    if invocation.status is Status.RUNNING:
        turn.actions.append(InterruptSteps(invocation.seq, invocation.attempt))
    for id in open_calls(invocation):
        turn.tell(Cancel(id))
    leaf_ended(turn, invocation)


def kill(turn: Turn, command: Kill) -> None:
    """End it and the calls it waits for, in this transaction, without running any of their code."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if invocation.status is Status.COMPLETED:
        turn.reply(command.token, Status.COMPLETED, invocation)
        return
    if command.dry:
        turn.reply(command.token, Answer.DONE, invocation)
        return
    for id in open_calls(invocation):
        turn.tell(Kill(id))
    if invocation.status is Status.RUNNING:
        turn.actions.append(Interrupt(invocation.seq))
    turn.complete(invocation, KILLED)
    turn.reply(command.token, Answer.DONE, invocation)


def open_calls(invocation: Invocation) -> list[str]:
    """The ids of the calls that have not ended."""
    return [
        waits.ref
        for entry, waits in invocation.open.items()
        if waits.kind is Kind.CALL and isinstance(waits.ref, str) and entry not in invocation.kept
    ]


def has_leaves(invocation: Invocation) -> bool:
    """Whether a cancel still has to wait: for a call, or for a step that ran already when it came."""
    return any(is_leaf(invocation, entry) for entry in invocation.open)


def leaves_left(turn: Turn, invocation: Invocation) -> bool:
    """The same, asked each time that one of them ends: of ten thousand, not all may be looked at again."""
    world, seq = turn.world, invocation.seq
    at = (invocation.cancelling, invocation.attempt, invocation.status is Status.RUNNING)
    before, leaves = world.leaves.get(seq, (None, []))
    if before != at:
        leaves = [entry for entry in invocation.open if is_leaf(invocation, entry)]
        world.leaves[seq] = at, leaves
    while leaves and not is_leaf(invocation, leaves[-1]):
        leaves.pop()
    return bool(leaves)


def is_leaf(invocation: Invocation, entry: int) -> bool:
    """Whether a cancel waits for this one."""
    waits = invocation.open.get(entry)
    if waits is None:
        return False
    if waits.kind is Kind.CALL:
        return entry not in invocation.kept
    return waits.is_step and invocation.status is Status.RUNNING and entry < invocation.cancelling


def call_ended(turn: Turn, invocation: Invocation, entry: int, outcome: Outcome) -> None:
    """A call has its result. A failure under a cancel is told after the cancel: the handler sees one error."""
    if not invocation.cancelling or outcome.ok:
        arrive(turn, invocation, entry, outcome)
    else:
        invocation.kept[entry] = outcome
        keep(turn, invocation, entry, outcome, Kind.CALL)
    leaf_ended(turn, invocation)


def leaf_ended(turn: Turn, invocation: Invocation) -> None:
    """Something a cancel may have waited for has ended: if it was the last, the handler itself is told."""
    if invocation.cancelling and not leaves_left(turn, invocation):
        deliver_cancel(turn, invocation)


def deliver_cancel(turn: Turn, invocation: Invocation) -> None:
    """The cancel is an entry of its own; what the cancelled calls ended with comes after it."""
    invocation.cancelling = 0
    turn.world.leaves.pop(invocation.seq, None)
    invocation.failures = 0
    invocation.step_failures = {}
    invocation.cancels += 1
    outcome = CANCELLED
    failed = sorted(invocation.kept.items())
    if failed:
        failure = msgspec.structs.replace(failure_of(failed[0][1]), cause=None)
        outcome = msgspec.structs.replace(failure_of(CANCELLED), cause=failure).outcome()
    turn.writes.journal.append(Row.completion(invocation.seq, 0, Kind.CANCEL, outcome, turn.ordinal(), turn.now))
    turn.touch(invocation)
    if invocation.status is Status.RUNNING:
        invocation.notified += 1
        invocation.cancelled = True
        turn.actions.append(Deliver(invocation.seq, invocation.attempt, 0, outcome, notified=True))
    else:
        give_steps_up(turn, invocation)
    invocation.kept = {}
    for entry, ended in failed:
        del invocation.open[entry]
        turn.complete_entry(invocation, entry, ended, Kind.CALL)
    paused = invocation.status is Status.PAUSED and invocation.pausing  # by an operator, after the cancel
    if invocation.status not in (Status.RUNNING, Status.READY) and not paused:
        turn.drop_timer(invocation)
        turn.start(invocation)


def give_steps_up(turn: Turn, invocation: Invocation) -> None:
    """No step runs, so those without an outcome have failed and were to be tried again: a cancel ends that."""
    for entry, waits in list(invocation.open.items()):
        if waits.kind is Kind.RUN:
            del invocation.open[entry]
            turn.complete_entry(invocation, entry, GIVEN_UP, Kind.RUN)
