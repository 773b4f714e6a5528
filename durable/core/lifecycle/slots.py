"""Gives slots that became free in a turn to those that wait for one, in the order in which they began to wait."""

from durable.core.commands import Lend, Trust
from durable.core.effects import Need
from durable.core.invocation import Status
from durable.core.needs import need_invocation
from durable.core.turn import Turn, is_suspect


def hand_out(turn: Turn) -> Need | None:
    """Start who can be started; or say what has to be loaded for that.

    Whoever ran in two processes that crashed is started alone among its like, as soon as nothing stands against it.
    """
    world = turn.world
    while not world.recovering and world.free > 0:
        alone = bool(world.suspects) and not world.on_trial
        if alone:
            seq = next(iter(world.suspects))
        elif world.ready:
            seq = next(iter(world.ready))
        elif world.horizon is not None:
            turn.take_in_rows()  # it may be their turn before they are stored
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


def lend(turn: Turn, command: Lend) -> None:
    """While something in it waits for the engine, lend its slot. Afterwards more may run than there are slots."""
    lent, seq = turn.world.lent, command.seq
    if seq in turn.world.running:
        turn.replaced.append((lent, seq, lent.get(seq)))
        lent[seq] = lent.get(seq, 0) + command.more
        if lent[seq] <= 0:
            del lent[seq]


def trust(turn: Turn, command: Trust) -> None:
    """A suspect has run so long without harm that the next one may start beside it."""
    if turn.world.on_trial == command.seq:
        turn.world.on_trial = 0
