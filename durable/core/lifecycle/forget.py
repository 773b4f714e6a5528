"""Forgets completed invocations: when their retention is over, or when an operator says so."""

from durable.core.commands import Expire, Purge
from durable.core.effects import Answer, Need
from durable.core.invocation import Status
from durable.core.needs import need_id, need_invocation
from durable.core.turn import Turn
from durable.core.world import World


def needs_purge(world: World, command: Purge, need: Need) -> None:
    """The invocation it is about."""
    need_id(world, need, command.id)


def needs_expire(world: World, command: Expire, need: Need) -> None:
    """A workflow, whose key may have been started again since. For all others, the number is enough."""
    if command.workflow and not command.journal_only:
        need_invocation(world, need, command.seq)


def purge(turn: Turn, command: Purge) -> None:
    """Delete it (a workflow's run with its state and promises), or only its journal."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
    elif invocation.status is not Status.COMPLETED:
        turn.reply(command.token, invocation.status, invocation)
    else:
        if command.dry:
            pass
        elif command.journal_only:
            turn.forget_journal(invocation)
        else:
            turn.forget(invocation)
        turn.reply(command.token, Answer.DONE, invocation)


def expire(turn: Turn, command: Expire) -> None:
    """A retention never changes once it has begun, so what the store found to be over is over."""
    turn.reply(command.token, Answer.DONE)
    invocation = turn.world.invocations.get(command.seq)
    if command.journal_only:
        turn.writes.journals_purged.append(command.seq)
        if invocation is not None:
            invocation.journal_kept = False
    elif invocation is not None:
        if invocation.damaged or invocation.expired(turn.now):
            turn.forget(invocation)
    elif not command.workflow:
        turn.writes.purged.append(command.seq)
