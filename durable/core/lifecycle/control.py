"""What the engine itself asks: find an invocation, go on after a start, keep what services look like."""

from durable.core.commands import (
    Attach,
    Cancel,
    Configure,
    Crash,
    Declare,
    Kill,
    NoteDamage,
    Pause,
    Recover,
    Recovered,
)
from durable.core.effects import Answer, Lost, Need, Then
from durable.core.invocation import Invocation, Problem, Status
from durable.core.journal import Failure
from durable.core.lifecycle.after import Again, BackOff, after
from durable.core.lifecycle.finish import give_up
from durable.core.needs import need_id, need_invocation
from durable.core.turn import Turn, is_suspect
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
    """It had a slot when the engine stopped: it gets its next attempt, unless it was to be paused."""
    turn.reply(command.token, Answer.DONE)
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None:
        return
    if invocation.started:  # by this process, since: it needs nothing
        return
    if invocation.status is not Status.RUNNING:
        return
    if command.crash is None or invocation.pausing or not crashed(turn, invocation, command.crash):
        after(turn, invocation, Again())


def crashed(turn: Turn, invocation: Invocation, crash: Crash) -> bool:
    """The attempt that was running counts as failed; True where that has delayed, paused or ended the invocation.

    It may have killed the process, and so may any other that ran beside it. So only a crash in which no other suspect
    was running uses its budget up, and never the first one: that may be a power cut. Whoever is charged backs off
    like any other that failed, where others run or wait: until it kills the next process, they get their work done.
    """
    invocation.crashes += 1
    message = f"the process ended without a clean close while attempt {invocation.attempt} was running"
    invocation.problem = Problem(message, "ProcessEnded", at=turn.now)
    turn.actions.append(Lost(invocation, invocation.attempt))
    failures = invocation.failures + invocation.crashes
    if crash.policy is None or not is_suspect(invocation):
        return False
    if crash.policy.exhausted(failures):
        invocation.failures, invocation.crashes = failures, 0
        give_up(turn, invocation, crash.policy, Failure(message).outcome())
        return True
    world = turn.world
    if not (world.running or world.suspects or world.ready or world.horizon is not None):
        return False
    retry_at = turn.now + crash.policy.delay_ms(failures)
    turn.failed(invocation, Then.RETRY, retry_at)
    after(turn, invocation, BackOff(retry_at))
    return True


def recovered(turn: Turn, command: Recovered) -> None:
    """Whoever had a slot has one again, or waits: what is left is handed out at the end of this turn."""
    turn.world.recovering = False
    turn.reply(command.token, Answer.DONE)


def configure(turn: Turn, command: Configure) -> None:
    """Keep a service's options."""
    turn.writes.settings[command.service] = command.text
    turn.reply(command.token, Answer.DONE)


def declare(turn: Turn, command: Declare) -> None:
    """Keep a service's revision."""
    turn.writes.declared[command.service] = (command.revision, command.declaration)
