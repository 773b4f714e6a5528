"""Pauses an invocation whose rows, or what it reads, cannot be read. Everybody else goes on."""

import msgspec

from durable.core.commands import KeyFree, NoteDamage
from durable.core.effects import Answer, Interrupt, Then
from durable.core.invocation import Invocation, Problem, Status
from durable.core.invocation import damage as problem_of
from durable.core.lifecycle.after import park
from durable.core.reasons import Reason
from durable.core.turn import Turn


def to_note(invocation: Invocation) -> NoteDamage:
    """The command for an invocation that was found damaged when it was loaded."""
    return NoteDamage(invocation.seq, invocation.problem or problem_of("what is stored of it is damaged"))


def note_damage(turn: Turn, command: NoteDamage) -> None:
    """Store it as paused, with the cause, and end its attempt. An invocation that has ended stays as it is."""
    turn.reply(command.token, Answer.DONE)
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None or invocation.status is Status.COMPLETED:
        return
    if command.attempt and (invocation.attempt != command.attempt or invocation.status is not Status.RUNNING):
        return
    hold(turn, invocation, command.problem)


def hold(turn: Turn, invocation: Invocation, problem: Problem) -> None:
    """Pause it because something is damaged."""
    if invocation.status in (Status.SCHEDULED, Status.PENDING):
        invocation.queued = None  # its turn never comes
    if invocation.status is Status.RUNNING:
        turn.actions.append(Interrupt(invocation.seq))
    invocation.problem = msgspec.structs.replace(problem, at=turn.now)
    invocation.pausing = invocation.unnoted = False
    if problem.reason == Reason.DAMAGED:
        invocation.cancelling = 0
    turn.drop_timer(invocation)
    turn.failed(invocation, Then.PAUSE)
    park(turn, invocation)
    if invocation.queued is None:
        leave_queue(turn, invocation)


def leave_queue(turn: Turn, invocation: Invocation) -> None:
    """Its place in its key's queue is damaged: whoever is first without it may start."""
    target = turn.object_of(invocation.submission)
    if target is None:
        return
    if invocation.seq in target.queue:
        target.queue.remove(invocation.seq)
    if target.queue:
        turn.tell(KeyFree(target.queue[0]))
