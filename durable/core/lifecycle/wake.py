"""Complete an entry from outside its attempt, and start the handler again where it waited for just that."""

from durable.core.commands import CompleteEntry, KeyFree, Notify, SendSignal, TimerFired
from durable.core.effects import Deliver, Need
from durable.core.invocation import Invocation, Signal, Status
from durable.core.journal import CANCELLED, COMPLETION, EMPTY, Kind, Outcome, Row
from durable.core.turn import Turn, need_id, need_invocation
from durable.core.waiting import reduce
from durable.core.world import World


def needs_seq(world: World, command: TimerFired | Notify | KeyFree, need: Need) -> None:
    """The invocation it is about."""
    need_invocation(world, need, command.seq)


def needs_id(world: World, command: CompleteEntry | SendSignal, need: Need) -> None:
    """The invocation it is about."""
    need_id(world, need, command.id)


def timer_fired(turn: Turn, command: TimerFired) -> None:
    """A sleep is over, a scheduled start or a retry is due; a timer nobody waits for any more is dropped."""
    turn.remove_timer(command.due_at, command.seq, command.entry)
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None:
        return
    if command.entry:
        waits = invocation.open.get(command.entry)
        if waits is not None and waits.kind is Kind.SLEEP and waits.ref == command.due_at:
            arrive(turn, invocation, command.entry, EMPTY)
    elif invocation.due_at == command.due_at:
        invocation.due_at = None
        turn.touch(invocation)
        if invocation.status is Status.BACKING_OFF:
            turn.start(invocation)
        elif invocation.status is Status.SCHEDULED:
            invocation.status = Status.PENDING
            if turn.enqueue(invocation):
                turn.start(invocation)


def key_free(turn: Turn, command: KeyFree) -> None:
    """The next in a key's queue starts."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is not None and invocation.status is Status.PENDING:
        turn.start(invocation)


def notify(turn: Turn, command: Notify) -> None:
    """A call ended, a promise was settled, an attached invocation ended."""
    invocation = turn.world.invocations.get(command.seq)
    if invocation is None or command.entry not in invocation.open:
        return
    if invocation.cancelling and not other_calls(invocation, command.entry):
        call = invocation.open[command.entry].kind is Kind.CALL
        if call and not command.outcome.ok:
            deliver_cancel(turn, invocation)
            arrive(turn, invocation, command.entry, command.outcome)
        else:
            arrive(turn, invocation, command.entry, command.outcome)
            if call:
                deliver_cancel(turn, invocation)
        return
    arrive(turn, invocation, command.entry, command.outcome)


def complete_entry(turn: Turn, command: CompleteEntry) -> None:
    """Complete an awakeable; a second completion is ignored."""
    invocation = turn.world.find(command.id)
    if invocation is None:
        turn.reply(command.token, "not-found")
        return
    waits = invocation.open.get(command.entry)
    if waits is not None and waits.kind is Kind.AWAKEABLE:
        arrive(turn, invocation, command.entry, command.outcome)
    elif invocation.status is not Status.COMPLETED and command.entry > invocation.last_entry:
        keep_early(turn, invocation, command.entry, command.outcome)
    turn.reply(command.token, "done", invocation)


def keep_early(turn: Turn, invocation: Invocation, entry: int, outcome: Outcome) -> None:
    """The awakeable's id got out before its entry was recorded: keep the outcome until it is."""
    if entry in invocation.early:
        return
    invocation.early[entry] = outcome
    turn.writes.journal.append(
        Row(
            invocation.seq, entry, COMPLETION, Kind.AWAKEABLE, None, None, 0,
            None, outcome.ok, outcome.value, turn.now,
        )
    )  # fmt: skip


def send_signal(turn: Turn, command: SendSignal) -> None:
    """Hand a signal to the first that waits for its name, or keep it."""
    invocation = turn.world.find(command.id)
    if invocation is None:
        turn.reply(command.token, "not-found")
        return
    turn.reply(command.token, "done", invocation)
    if invocation.status is Status.COMPLETED:
        return
    for entry in sorted(invocation.open):
        waits = invocation.open[entry]
        if waits.kind is Kind.SIGNAL and waits.ref == command.name:
            arrive(turn, invocation, entry, command.outcome)
            return
    signal = Signal(turn.ordinal(), command.name, command.outcome)
    turn.world.signals.setdefault(invocation.seq, []).append(signal)
    turn.writes.signals_added.append((invocation.seq, signal))


def arrive(turn: Turn, invocation: Invocation, entry: int, outcome: Outcome) -> None:
    """An open entry has its outcome: write it, and wake the handler if that is what it waits for."""
    kind = invocation.open.pop(entry).kind
    turn.complete_entry(invocation, entry, outcome, kind)
    turn.progress(invocation)
    if invocation.status is Status.SUSPENDED and invocation.waiting is not None:
        waiting = reduce(invocation.waiting, entry, outcome.ok)
        if waiting is None:
            turn.start(invocation)
        elif waiting != invocation.waiting:
            invocation.waiting = waiting
            turn.touch(invocation)


def other_calls(invocation: Invocation, entry: int) -> bool:
    """Whether a call besides this one is still open."""
    return any(waits.kind is Kind.CALL and number != entry for number, waits in invocation.open.items())


def deliver_cancel(turn: Turn, invocation: Invocation) -> None:
    """No call is open any more: the handler itself is told."""
    invocation.cancelling = False
    ordinal = turn.ordinal()
    turn.writes.journal.append(
        Row(
            invocation.seq, 0, ordinal, Kind.CANCEL, None, None, 0,
            ordinal, CANCELLED.ok, CANCELLED.value, turn.now,
        )
    )  # fmt: skip
    turn.touch(invocation)
    if invocation.status is Status.RUNNING:
        invocation.notified += 1
        turn.actions.append(Deliver(invocation.seq, invocation.attempt, 0, CANCELLED, notified=True))
    else:
        turn.drop_timer(invocation)
        turn.start(invocation)
