"""Records become invocations: each once, in the order of its partition, in one turn with the position behind them.

The engine's own position is the truth. What the broker remembers of a group decides only where a partition begins
that has none here.
"""

from bisect import bisect_left

import msgspec

from durable.core.alike import Alike
from durable.core.commands import Submit
from durable.core.effects import Answer, Need
from durable.core.invocation import Status
from durable.core.lifecycle import submit
from durable.core.needs import need_id
from durable.core.record_commands import (
    Begin,
    ChangeSubscription,
    HoldSubscription,
    Offered,
    Reposition,
    SetCluster,
    Subscribe,
    Take,
    Unsubscribe,
)
from durable.core.sources import Position
from durable.core.turn import Turn
from durable.core.world import World


def subscribe(turn: Turn, command: Subscribe) -> None:
    """Store it; its id is new. No two have the same millisecond, so the time alone says which one is older."""
    newest = max((one.created_at for one in turn.world.subscriptions.values()), default=0)
    subscription = msgspec.structs.replace(
        command.subscription, created_at=max(command.subscription.created_at, newest + 1)
    )
    turn.put(turn.world.subscriptions, turn.writes.subscriptions, subscription.id, subscription)
    turn.reply(command.token, Answer.ACCEPTED, id=subscription.id)


def unsubscribe(turn: Turn, command: Unsubscribe) -> None:
    """Forget it, and the positions of a group that nobody else can be in."""
    world = turn.world
    subscription = world.subscriptions.get(command.id)
    if subscription is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    turn.put(world.subscriptions, turn.writes.subscriptions, command.id, None)
    if subscription.owns_group and not subscription.damage:
        for place in [place for place in world.positions if place.group == subscription.group]:
            turn.put(world.positions, turn.writes.positions, place, None)
    turn.reply(command.token, Answer.DONE)


def change(turn: Turn, command: ChangeSubscription) -> None:
    """Its group and its positions stay as they are."""
    _change(turn, command.id, command.token, options=command.options)


def hold(turn: Turn, command: HoldSubscription) -> None:
    """While it is held, take nothing for it."""
    _change(turn, command.id, command.token, paused=command.held)


def reposition(turn: Turn, command: Reposition) -> None:
    """What is known of its partitions is void, but for `stored`: then only what was wrong with it is."""
    world = turn.world
    subscription = world.subscriptions.get(command.id)
    _change(turn, command.id, command.token, start=command.start, paused=False)
    if subscription is None or subscription.damage:
        return
    group = (subscription.cluster, subscription.group, subscription.topic)
    for place, position in [one for one in world.positions.items() if one[0][:3] == group]:
        kept = msgspec.structs.replace(position, fingerprint=0) if command.start == "stored" else None
        turn.put(world.positions, turn.writes.positions, place, kept)


def _change(turn: Turn, id: str, token: int, **fields: object) -> None:
    subscription = turn.world.subscriptions.get(id)
    if subscription is None:
        turn.reply(token, Answer.NOT_FOUND)
    elif subscription.damage:
        turn.reply(token, Answer.DAMAGED, cause=subscription.damage)
    else:
        changed = msgspec.structs.replace(subscription, **fields)
        turn.put(turn.world.subscriptions, turn.writes.subscriptions, id, changed)
        turn.reply(token, Answer.DONE)


def begin(turn: Turn, command: Begin) -> None:
    """Keep it, unless a position was damaged that may have been one of these: then an operator decides."""
    world = turn.world
    subscription = world.subscriptions.get(command.id)
    if subscription is None or subscription.paused:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    new = {place: next for place, next in command.positions.items() if place not in world.positions}
    if new and world.lost_positions and not subscription.start:
        turn.reply(command.token, Answer.DAMAGED, cause=world.lost_positions)
        return
    for place, next in new.items():
        turn.put(world.positions, turn.writes.positions, place, Position(next))
    if subscription.start:
        done = msgspec.structs.replace(subscription, start="")
        turn.put(world.subscriptions, turn.writes.subscriptions, command.id, done)
    turn.reply(command.token, Answer.DONE)


def needs(world: World, command: Take, need: Need) -> None:
    """What submitting those needs that were not taken before."""
    position = world.positions.get(command.place)
    if position is None or isinstance(command.records, Alike):  # of a plain service nothing is there yet
        return
    for record in command.records:
        submission = record.submission
        if submission.key is not None and record.offset >= position.next:
            if submit.is_claimed(submission):
                need_id(world, need, submission.id)
            submit.need_key(world, submission, need)


def take(turn: Turn, command: Take) -> None:
    """Accept what was not taken before, as the offsets tell: after a crash, records are offered again."""
    world, place = turn.world, command.place
    subscription, position = world.subscriptions.get(command.id), world.positions.get(place)
    if subscription is None or subscription.paused:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if position is None or (command.since > position.next and not command.gone):
        turn.reply(command.token, Answer.GAP, position=position)
        return
    records = command.records
    offsets = records.offsets if isinstance(records, Alike) else [record.offset for record in records]
    first = bisect_left(offsets, position.next)
    last = _fingerprint(records, first - 1) if first and offsets[first - 1] == position.next - 1 else 0
    if _differ(last, position.fingerprint):
        turn.reply(command.token, Answer.RECREATED, position=position)
        return
    new, failed = len(offsets) - first, 0
    if isinstance(records, Alike):
        accept_alike(turn, records, first)
    else:
        for record in records[first:]:
            accept(turn, record)
            failed += record.failure is not None
    skipped = max(0, command.since - position.next)
    if new or skipped:
        position = Position(
            next=offsets[-1] + 1 if new else command.since,
            fingerprint=_fingerprint(records, len(offsets) - 1) if new else 0,
            taken=position.taken + new,
            failed=position.failed + failed,
            skipped=position.skipped + skipped,
            taken_at=turn.now if new else position.taken_at,
        )
        turn.put(world.positions, turn.writes.positions, place, position)
    turn.reply(command.token, Answer.ACCEPTED, position=position)


def _fingerprint(records: tuple[Offered, ...] | Alike, index: int) -> int:
    return records.fingerprint(index) if isinstance(records, Alike) else records[index].fingerprint


def _differ(one: int, other: int) -> bool:
    return one != other and one != 0 and other != 0


def accept(turn: Turn, record: Offered) -> None:
    """One record: it is submitted; or it has failed already, for somebody to look at and to restart."""
    submission = record.submission
    claimed = submit.is_claimed(submission)
    if record.failure is None:
        if claimed:
            submit.submit(turn, Submit(submission))
        else:
            submit.begin(turn, submission)
        return
    if claimed:
        existing = turn.world.find(submission.id)
        if existing is not None and not existing.expired(turn.now):
            return  # the workflow of this key was started by somebody else
        if existing is not None:
            turn.forget(existing)
    turn.complete(turn.create(submission, Status.PENDING), record.failure)


def accept_alike(turn: Turn, records: Alike, first: int) -> None:
    """Those that can run begin. The others wait: in memory while there is room, and then as rows."""
    for index in range(first, len(records)):
        if turn.world.full:
            turn.line_up_rows(records, index)
            return
        submit.begin(turn, records.submission(index))


def set_cluster(turn: Turn, command: SetCluster) -> None:
    """Store it, or remove it."""
    if command.cluster is None and command.name not in turn.world.clusters:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if command.new and command.name in turn.world.clusters:
        turn.reply(command.token, Answer.CONFLICT)
        return
    turn.put(turn.world.clusters, turn.writes.clusters, command.name, command.cluster)
    turn.reply(command.token, Answer.DONE)
