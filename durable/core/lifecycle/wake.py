"""Completes an entry from outside its attempt, and starts the handler again if it waited for just that."""

from durable.core.commands import CompleteEntry, KeyFree, Notify, SendSignal, TimerFired
from durable.core.effects import Answer, Need
from durable.core.invocation import Invocation, Signal, Status
from durable.core.journal import EMPTY, Kind
from durable.core.lifecycle.arrive import arrive, keep
from durable.core.lifecycle.cancel import call_ended
from durable.core.needs import need_id, need_invocation
from durable.core.turn import Turn
from durable.core.world import World

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_CALL = Kind.CALL


def needs_seq(world: World, command: TimerFired | Notify | KeyFree, need: Need) -> None:
    """The invocation it is about."""
    need_invocation(world, need, command.seq)


def needs_id(world: World, command: CompleteEntry | SendSignal, need: Need) -> None:
    """The invocation it is about."""
    need_id(world, need, command.id)


def timer_fired(turn: Turn, command: TimerFired) -> None:
    """A sleep is over, a scheduled start or a retry is due; a timer nobody waits for any more is dropped.

    What counts is the moment that is stored with the entry or the invocation; the timer only reminds of it.
    """
    turn.remove_timer(command.due_at, command.seq, command.entry)
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None:
        return
    if command.entry:
        waits = invocation.open.get(command.entry)
        if waits is not None and waits.kind is Kind.SLEEP and isinstance(waits.ref, int) and waits.ref <= turn.now:
            turn.remove_timer(waits.ref, command.seq, command.entry)
            arrive(turn, invocation, command.entry, EMPTY)
        else:
            arm(turn, invocation)
    elif invocation.due_at is not None and invocation.due_at > turn.now:
        arm(turn, invocation)
    elif invocation.due_at is not None:
        turn.drop_timer(invocation)
        turn.touch(invocation)
        if invocation.status is Status.BACKING_OFF:
            turn.start(invocation)
        elif invocation.status is Status.SCHEDULED:
            invocation.status = Status.PENDING
            if turn.enqueue(invocation):
                turn.start(invocation)
            elif invocation.listened:
                turn.may_deadlock(invocation)


def arm(turn: Turn, invocation: Invocation) -> None:
    """Make a timer for all it waits for: one that came without reason may be damaged, and the right one missing."""
    if invocation.due_at is not None:
        turn.add_timer(invocation.due_at, invocation.seq, 0)
    for entry, waits in invocation.open.items():
        if waits.kind is Kind.SLEEP and isinstance(waits.ref, int):
            turn.add_timer(waits.ref, invocation.seq, entry)


def key_free(turn: Turn, command: KeyFree) -> None:
    """The first in a key's queue starts."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is not None and invocation.status is Status.PENDING:
        target = turn.object_of(invocation.submission)
        if target is None or not target.queue or target.queue[0] == invocation.seq:
            turn.start(invocation)


def notify(turn: Turn, command: Notify) -> None:
    """A call ended, a promise was settled, an attached invocation ended; news for an entry that waits for that."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None or command.entry not in invocation.open:
        return
    waits = invocation.open[command.entry]
    if waits.ref != command.ref:
        return
    if waits.kind is _CALL:
        call_ended(turn, invocation, command.entry, command.outcome)
    else:
        arrive(turn, invocation, command.entry, command.outcome)


def complete_entry(turn: Turn, command: CompleteEntry) -> None:
    """Complete an awakeable, if it is not too late: a second completion is ignored."""
    invocation = turn.find(command.id)
    if invocation is None or command.run not in (0, invocation.run_number):
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if invocation.damaged and invocation.status is not Status.COMPLETED:
        turn.reply(command.token, Answer.DAMAGED, invocation)
        return
    waits = invocation.open.get(command.entry)
    if waits is not None and waits.kind is Kind.AWAKEABLE:
        arrive(turn, invocation, command.entry, command.outcome)
    elif (
        invocation.status is not Status.COMPLETED
        and command.entry > invocation.last_entry
        and command.entry not in invocation.early
    ):
        invocation.early[command.entry] = command.outcome
        keep(turn, invocation, command.entry, command.outcome, Kind.AWAKEABLE)
    else:
        _too_late(turn, command, invocation)
        return
    turn.reply(command.token, Answer.DONE, invocation)


def _too_late(turn: Turn, command: CompleteEntry | SendSignal, invocation: Invocation) -> None:
    """Nothing changes. For whoever has a key, that is a refusal: they want to know that theirs has taken effect."""
    turn.reply(command.token, Answer.UNCHANGED if command.once is None else Answer.CONFLICT, invocation)


def send_signal(turn: Turn, command: SendSignal) -> None:
    """Hand a signal to the first that waits for its name, or keep it, if its invocation has not ended."""
    invocation = turn.find(command.id)
    if invocation is None:
        turn.reply(command.token, Answer.NOT_FOUND)
        return
    if invocation.damaged and invocation.status is not Status.COMPLETED:
        turn.reply(command.token, Answer.DAMAGED, invocation)
        return
    if invocation.status is Status.COMPLETED:
        _too_late(turn, command, invocation)
        return
    turn.reply(command.token, Answer.DONE, invocation)
    for entry in sorted(invocation.open):
        waits = invocation.open[entry]
        if waits.kind is Kind.SIGNAL and waits.ref == command.name:
            arrive(turn, invocation, entry, command.outcome)
            return
    signal = Signal(turn.ordinal(), command.name, command.outcome)
    turn.world.signals.setdefault(invocation.seq, []).append(signal)
    turn.writes.signals_added.append((invocation.seq, signal))
