"""What the engine itself asks: find an invocation, go on after a start, keep what services look like."""

from durable.core.commands import Attach, Cancel, Configure, Declare, Kill, NoteDamage, Pause, Recover
from durable.core.effects import Answer, Need
from durable.core.invocation import Status
from durable.core.lifecycle.after import Again, after
from durable.core.turn import Turn, need_id, need_invocation
from durable.core.world import World


def needs_id(world: World, command: Attach | Cancel | Kill | Pause, need: Need) -> None:
    """The invocation it is about."""
    need_id(world, need, command.id)


def needs_seq(world: World, command: Recover | NoteDamage, need: Need) -> None:
    """The invocation it is about."""
    need_invocation(world, need, command.seq)


def attach(turn: Turn, command: Attach) -> None:
    """Find it, and what it ended with if it has."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
    else:
        turn.reply(command.token, Answer.FOUND, invocation)


def recover(turn: Turn, command: Recover) -> None:
    """Its turn had come when the engine stopped: it gets its next attempt, unless it was to be paused."""
    turn.reply(command.token, Answer.DONE)
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None:
        return
    if invocation.started:  # by this process, since: it needs nothing
        return
    if invocation.status is Status.RUNNING:
        after(turn, invocation, Again())


def configure(turn: Turn, command: Configure) -> None:
    """Keep a service's options."""
    turn.writes.settings[command.service] = command.text
    turn.reply(command.token, Answer.DONE)


def declare(turn: Turn, command: Declare) -> None:
    """Keep a service's revision."""
    turn.writes.declared[command.service] = (command.revision, command.declaration)
