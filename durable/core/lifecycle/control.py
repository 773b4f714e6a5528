"""What an operator can do to an invocation: cancel, kill, resume, forget; and what a start of the engine does."""

from durable.core.commands import Attach, Cancel, Configure, Expire, Kill, Recover, Resume
from durable.core.effects import Interrupt, Need
from durable.core.invocation import Invocation, Status
from durable.core.journal import CANCELLED, KILLED, Kind
from durable.core.lifecycle.submit import expired
from durable.core.lifecycle.wake import deliver_cancel
from durable.core.turn import Turn, need_id, need_invocation
from durable.core.world import World


def needs_id(world: World, command: Attach | Cancel | Kill | Resume, need: Need) -> None:
    """The invocation it is about."""
    need_id(world, need, command.id)


def needs_seq(world: World, command: Recover | Expire, need: Need) -> None:
    """The invocation it is about."""
    need_invocation(world, need, command.seq)


def attach(turn: Turn, command: Attach) -> None:
    """Find it, and what it ended with if it has."""
    invocation = turn.world.find(command.id)
    if invocation is None or expired(invocation, turn.now):
        turn.reply(command.token, "not-found")
    else:
        turn.reply(command.token, "found", invocation)


def cancel(turn: Turn, command: Cancel) -> None:
    """Open calls are cancelled first and end before the handler is told; sends are left alone."""
    invocation = turn.world.find(command.id)
    if invocation is None:
        turn.reply(command.token, "not-found")
        return
    if invocation.status is Status.COMPLETED:
        turn.reply(command.token, "completed", invocation)
        return
    if invocation.status in (Status.SCHEDULED, Status.PENDING):
        turn.complete(invocation, CANCELLED)
        turn.reply(command.token, "done", invocation)
        return
    turn.reply(command.token, "accepted", invocation)
    calls = open_calls(invocation)
    if not calls:
        deliver_cancel(turn, invocation)
        return
    invocation.cancelling = True
    turn.touch(invocation)
    for id in calls:
        turn.tell(Cancel(id))


def kill(turn: Turn, command: Kill) -> None:
    """End it and the calls it waits for, in this transaction, without running any of their code."""
    invocation = turn.world.find(command.id)
    if invocation is None:
        turn.reply(command.token, "not-found")
        return
    if invocation.status is Status.COMPLETED:
        turn.reply(command.token, "completed", invocation)
        return
    for id in open_calls(invocation):
        turn.tell(Kill(id))
    if invocation.status is Status.RUNNING:
        turn.actions.append(Interrupt(invocation.seq, invocation.attempt, "killed"))
    turn.complete(invocation, KILLED)
    turn.reply(command.token, "done", invocation)


def resume(turn: Turn, command: Resume) -> None:
    """A fresh budget for a paused one; an immediate retry for one that is backing off."""
    invocation = turn.world.find(command.id)
    if invocation is None:
        turn.reply(command.token, "not-found")
        return
    if invocation.status in (Status.PAUSED, Status.BACKING_OFF, Status.SUSPENDED):
        if invocation.status is Status.PAUSED:
            invocation.failures = 0
            invocation.step_failures = {}
        turn.drop_timer(invocation)
        turn.start(invocation)
    turn.reply(command.token, str(invocation.status), invocation)


def recover(turn: Turn, command: Recover) -> None:
    """Its turn had come when the engine stopped: it gets its next attempt."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None:
        return
    if invocation.status is Status.RUNNING:
        turn.start(invocation)
    else:  # its row is damaged, so it was loaded as paused: from now on it is stored so
        turn.touch(invocation)


def configure(turn: Turn, command: Configure) -> None:
    """Keep a service's options."""
    turn.writes.settings[command.service] = command.text
    turn.reply(command.token, "done")


def expire(turn: Turn, command: Expire) -> None:
    """Forget it, if its retention is over."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is not None and expired(invocation, turn.now):
        turn.forget(invocation)


def open_calls(invocation: Invocation) -> list[str]:
    """The ids of the calls it waits for."""
    return [waits.ref for waits in invocation.open.values() if waits.kind is Kind.CALL and isinstance(waits.ref, str)]
