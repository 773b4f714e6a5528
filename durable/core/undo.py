"""Takes back a turn that the store refused: nothing of it is stored, so nothing of it may stay in memory.

What it may have changed is read again. Three things are in no table: how many outcomes from outside an attempt was
sent, whether a cancel came during it, and whether it was started by this process. They are taken back as far as the
turn changed them; where it began a new attempt they are chosen so that at worst one attempt too many begins.
"""

from collections.abc import Mapping, Set

from durable.core.effects import Deliver, Need, StartAttempt
from durable.core.invocation import Invocation, KeyedObject, Status
from durable.core.turn import Turn
from durable.core.world import Loaded, World


def needs(turn: Turn, live: Mapping[int, int]) -> Need:
    """What to read again. `live`: the invocations that have an attempt, and how many outcomes that one was sent."""
    world = turn.world
    seqs = _touched(turn) | (live.keys() - world.invocations.keys())
    return Need(seqs=seqs - turn.writes.created.keys(), keys=set(world.keys))


def undo(turn: Turn, loaded: Loaded, live: Mapping[int, int]) -> None:
    """Reset the world to what is stored. Numbers that the turn took stay taken, because a row may have them."""
    world, writes = turn.world, turn.writes
    if writes.ordinals_reserved is not None:
        world.ordinals_reserved = 0  # what it reserved is not: the next one does
    for table, key, before_it in reversed(turn.replaced):
        if before_it is None:
            table.pop(key, None)
        else:
            table[key] = before_it
    stored = {invocation.seq: invocation for invocation in loaded.invocations}
    for seq in _touched(turn) | stored.keys():
        before, now = world.invocations.get(seq), stored.get(seq)
        world.forget(seq)
        if now is None or now.status is not Status.RUNNING:
            continue  # loaded when somebody asks for it
        _recall(turn, before, now, live.get(seq))
        if before is not None:
            _become(before, now)
            now = before
        world.add(now)
        if seq in loaded.signals:
            world.signals[seq] = loaded.signals[seq]
    _slots(world, _touched(turn) | stored.keys())
    for found in loaded.keys:
        _become(world.keys[found.service, found.key], found)
    world.visitors.clear()
    world.end_turn()


def _slots(world: World, touched: Set[int]) -> None:
    """Who has an attempt has a slot. Who waits for one is read again, in its order."""
    for seq in touched:
        one = world.invocations.get(seq)
        if one is not None and one.status is Status.RUNNING and one.started:
            world.running.add(seq)
        else:
            world.running.discard(seq)
            world.lent.pop(seq, None)
    if world.on_trial not in world.running:
        world.on_trial = 0
    world.ready.clear()
    world.behind.clear()
    world.suspects.clear()
    world.horizon = 0


def _touched(turn: Turn) -> set[int]:
    """Every invocation of which the turn may have changed something."""
    writes = turn.writes
    return {
        *turn.world.visitors,
        *writes.created,
        *writes.changed,
        *writes.purged,
        *writes.journals_purged,
        *(row.invocation for row in writes.journal),
        *(seq for _, seq, _ in writes.timers_added | writes.timers_removed),
        *(seq for _, seq, _ in writes.listeners_added | writes.listeners_removed),
        *(seq for seq, _ in writes.signals_added),
        *(seq for seq, _ in writes.signals_removed),
    }


def _recall(turn: Turn, before: Invocation | None, now: Invocation, sent: int | None) -> None:
    """What no table has, as it was when the turn began."""
    restarted = any(type(one) is StartAttempt and one.invocation.seq == now.seq for one in turn.actions)
    if before is None or restarted:
        now.notified = 0 if sent is None else sent + 1  # more than it has seen: it does not wait for what has come
        now.cancelled = now.cancels > 0
        now.started = sent is not None
    else:
        sent_now = [one.entry for one in turn.actions if type(one) is Deliver and one.notified and one.seq == now.seq]
        now.notified = before.notified - len(sent_now)
        now.cancelled = now.cancels > 0 if 0 in sent_now else before.cancelled
        now.started = before.started


def _become(one: Invocation | KeyedObject, other: Invocation | KeyedObject) -> None:
    """In place: actions still to come hold invocations, running attempts read their object's state."""
    for field in other.__struct_fields__:
        setattr(one, field, getattr(other, field))
