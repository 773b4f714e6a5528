"""Slots that became free in a turn go to those that wait for one, in the order in which they came to wait.

A handler that only waits for other invocations lends its slot to others: it stays in memory, and has the first that
is free again when there is news for it. So a chain of calls may be deeper than there are slots.
"""

from durable.core.commands import Lend, LendInStep, TakeBack, Trust
from durable.core.effects import Need
from durable.core.invocation import Invocation, Status
from durable.core.turn import Turn, is_suspect, need_id, need_invocation
from durable.core.world import World


def hand_out(turn: Turn) -> Need | None:
    """Start who can be started; or say what has to be loaded for that.

    Whoever ran in two processes that crashed is started alone among its like, as soon as nothing stands against it.
    """
    world = turn.world
    while world.lent.returning and world.free > 0:
        turn.take_back(next(iter(world.lent.returning)))
    while not world.recovering and world.free > 0:
        alone = bool(world.suspects) and not world.on_trial
        if alone:
            seq = next(iter(world.suspects))
        elif world.ready:
            seq = next(iter(world.ready))
        elif world.horizon is not None:
            return Need(ready=(world.horizon, world.limits.ready))
        else:
            return None
        need = Need()
        need_invocation(world, need, seq)
        if need:
            if not alone:  # the others will need theirs, too
                for later in world.ready:
                    need_invocation(world, need, later)
            return need
        if alone:
            del world.suspects[seq]
        else:
            del world.ready[seq]
        invocation = world.invocations.get(seq)
        if invocation is None or invocation.status is not Status.READY:
            continue  # a suspect that was killed or paused meanwhile
        if is_suspect(invocation) and world.on_trial:
            world.suspects[seq] = None
        else:
            turn.run(invocation)
    return None


def trust(turn: Turn, command: Trust) -> None:
    """A suspect has run for so long without harm that the next one may start beside it."""
    if turn.world.on_trial == command.seq:
        turn.world.on_trial = 0


def lend(turn: Turn, command: Lend) -> None:
    """The handler only waits, unless something has come for it that it had not seen."""
    world, invocation = turn.world, turn.world.invocations.get(command.seq)
    if invocation is None or invocation.attempt != command.attempt or command.seq not in world.running:
        return
    if invocation.notified == command.notified:
        turn.lend(command.seq, in_step=False)


def needs_lend_in_step(world: World, command: LendInStep, need: Need) -> None:
    """Whom the step waits for, and who holds that one's key."""
    need_id(world, need, command.id)
    holder = _holder(world, world.find(command.id))
    if not need and holder is not None:
        need_invocation(world, need, holder)


def lend_in_step(turn: Turn, command: LendInStep) -> None:
    """Whom the step waits for is the next to run, as the handler cannot be unloaded; or else who holds its key."""
    world, invocation = turn.world, turn.world.invocations.get(command.seq)
    if invocation is None or invocation.attempt != command.attempt or invocation.status is not Status.RUNNING:
        return
    if world.lent.only_waits(command.seq):
        turn.take_back(command.seq)
    if command.seq in world.running:
        turn.lend(command.seq, in_step=True)
    awaited = turn.find(command.id)
    holder = _holder(world, awaited)
    for one in (awaited, None if holder is None else world.invocations.get(holder)):
        if one is not None and one.status is Status.READY and not is_suspect(one):
            world.hurry(one)
    if awaited is not None and awaited.status is not Status.COMPLETED:
        turn.may_deadlock(awaited)


def take_back(turn: Turn, command: TakeBack) -> None:
    """Its code runs already, so it has its slot again, whoever else is in it."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is not None and invocation.attempt == command.attempt and command.seq in turn.world.lent:
        turn.take_back(command.seq)


def _holder(world: World, invocation: Invocation | None) -> int | None:
    """Who holds the key for which this one waits."""
    if invocation is None or invocation.status is not Status.PENDING or invocation.submission.key is None:
        return None
    target = world.keys.get((invocation.submission.service, invocation.submission.key))
    return target.queue[0] if target is not None and target.queue else None
