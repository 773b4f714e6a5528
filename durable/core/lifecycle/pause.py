"""Pause: running steps end and are recorded, then nothing happens until somebody resumes the invocation."""

from durable.core.commands import Pause, Resume, Unloaded
from durable.core.effects import Answer, Interrupt, Need, Unload
from durable.core.invocation import Status
from durable.core.lifecycle.after import Again, after, park
from durable.core.lifecycle.record import attempt_of
from durable.core.needs import need_id, need_journal
from durable.core.reasons import Reason
from durable.core.turn import Turn
from durable.core.world import World


def pause(turn: Turn, command: Pause) -> None:
    """Pause it at once if no attempt runs, otherwise when its steps have ended."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    turn.reply(command.token, invocation.status, invocation)
    if command.dry:
        return
    if invocation.status is Status.RUNNING and not invocation.pausing:
        invocation.pausing = True
        turn.touch(invocation)
        turn.actions.append(Unload(invocation.seq, invocation.attempt))
    elif invocation.status in (Status.SUSPENDED, Status.BACKING_OFF, Status.READY):
        invocation.pausing = True
        turn.drop_timer(invocation)
        park(turn, invocation)


def unloaded(turn: Turn, command: Unloaded) -> None:
    """The attempt is gone: pause it now, or run it again if it was resumed or cancelled meanwhile."""
    invocation = attempt_of(turn, command.seq, command.attempt)
    if invocation is None:
        return
    if invocation.pausing:
        turn.actions.append(Interrupt(invocation.seq))
    after(turn, invocation, Again())


def needs_resume(world: World, command: Resume, need: Need) -> None:
    """The invocation and, if it was paused as damaged, its whole journal, to see whether it still is."""
    need_id(world, need, command.id)
    invocation = world.find(command.id)
    if invocation is not None and invocation.problem is not None and invocation.problem.reason == Reason.DAMAGED:
        need_journal(world, need, invocation.seq)


def resume(turn: Turn, command: Resume) -> None:
    """A fresh budget for a paused one; an immediate retry for one that is backing off."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if invocation.damaged and invocation.status is not Status.COMPLETED:
        turn.reply(command.token, Answer.DAMAGED, invocation)
        return
    cause = turn.world.unreadable.get(invocation.seq)
    if cause is not None and invocation.status is Status.PAUSED:
        turn.reply(command.token, Answer.DAMAGED, invocation, cause=cause)
        return
    turn.reply(command.token, invocation.status, invocation)
    if command.dry:
        return
    if invocation.status is Status.RUNNING and invocation.pausing:
        invocation.pausing = False
        turn.touch(invocation)
    elif invocation.status in (Status.PAUSED, Status.BACKING_OFF, Status.SUSPENDED):
        if invocation.status is Status.PAUSED:
            invocation.failures = 0
            invocation.step_failures = {}
        turn.drop_timer(invocation)
        turn.cool(invocation)
        turn.start(invocation)
