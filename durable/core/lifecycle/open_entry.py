"""Write an entry that sets something in motion: a timer, another invocation, a wait for the outside."""

from durable.core.commands import (
    AttachTo,
    AwaitAwakeable,
    AwaitPromise,
    AwaitSignal,
    Cancel,
    CompletePromise,
    Invoke,
    OpenEntry,
    PeekPromise,
    ReadOutput,
    SetState,
    Sleep,
    Submit,
    Tell,
)
from durable.core.effects import Need
from durable.core.invocation import Invocation, Open, damage, visits_a_workflow
from durable.core.journal import COMMAND, EMPTY, GIVEN_UP, Failure, Kind, Outcome, row_of
from durable.core.lifecycle.damage import hold
from durable.core.lifecycle.promise import settle_promise
from durable.core.lifecycle.record import attempt_of, settle_budget
from durable.core.needs import need_id, need_run, need_topic
from durable.core.reasons import Reason
from durable.core.topics import output_topic, promise_topic
from durable.core.turn import Turn
from durable.core.world import World

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_CALL = Kind.CALL
#: What is asked of a workflow's promises; of what is on a key.
_OF_PROMISES = (AwaitPromise, PeekPromise, CompletePromise)
_OF_KEYS = (*_OF_PROMISES, SetState)
#: A value that may be absent: `0`, or `1` (`FOUND`) followed by the value.
NOTHING = Outcome(True, b"0")
FOUND = b"1"


def needs(world: World, command: OpenEntry, need: Need) -> None:
    """What the asked-for thing touches besides the invocation itself, which is running."""
    asked = command.asked
    if isinstance(asked, Invoke):  # the hot path
        return
    if isinstance(asked, (AttachTo, ReadOutput)):
        need_id(world, need, asked.id)
    elif isinstance(asked, _OF_KEYS):
        if not isinstance(asked, SetState) or world.keys[asked.service, asked.key].over_at is not None:
            need_run(world, need, asked.service, asked.key)
        if isinstance(asked, CompletePromise):
            need_topic(world, need, promise_topic(asked.service, asked.key, command.name))


def open_entry(turn: Turn, command: OpenEntry) -> None:
    """Write the command row, then do what it asks for."""
    invocation = attempt_of(turn, command.seq, command.attempt)
    if invocation is None:
        return
    asked = command.asked
    if isinstance(asked, _OF_KEYS):
        renew(turn, invocation, asked)
    if isinstance(asked, _OF_PROMISES):
        cause = turn.world.keys[asked.service, asked.key].promise_damage(command.name)
        if cause is not None:  # nothing is written: a resume asks again
            hold(turn, invocation, damage(cause, Reason.READS_DAMAGED))
            return
    invocation.last_entry = command.entry
    settle_budget(turn, invocation, command.entry)
    written, value = (True, asked.value) if isinstance(asked, SetState) else (None, command.fingerprint)
    turn.writes.journal.append(
        row_of(
            (
                command.seq,
                command.entry,
                COMMAND,
                command.kind,
                command.name,
                command.detail,
                command.seen,
                None,
                written,
                value,
                turn.now,
            )
        )
    )
    match asked:  # the most frequent first
        case Invoke():
            invoke(turn, invocation, command, asked)
        case SetState():
            set_state(turn, asked)
        case Tell():
            turn.tell(asked.command)
        case Sleep():
            start_sleep(turn, invocation, command.entry, asked.due_at)
        case AwaitAwakeable():
            early = invocation.early.pop(command.entry, None)
            if early is None:
                invocation.open[command.entry] = Open(Kind.AWAKEABLE)
            else:
                turn.complete_entry(invocation, command.entry, early, Kind.AWAKEABLE)
        case AwaitSignal():
            await_signal(turn, invocation, command)
        case AwaitPromise():
            known = turn.world.keys[asked.service, asked.key].promises.get(command.name)
            if known is None:
                topic = promise_topic(asked.service, asked.key, command.name)
                invocation.open[command.entry] = Open(Kind.PROMISE, topic)
                turn.listen(topic, invocation.seq, command.entry)
            else:
                turn.complete_entry(invocation, command.entry, known, Kind.PROMISE)
        case PeekPromise():
            known = turn.world.keys[asked.service, asked.key].promises.get(command.name)
            turn.complete_entry(invocation, command.entry, glance(known), Kind.PEEK_PROMISE)
        case CompletePromise():
            first = settle_promise(turn, asked.service, asked.key, command.name, asked.outcome)
            taken = Failure(f"the promise {command.name!r} was already completed", 409)
            turn.complete_entry(invocation, command.entry, EMPTY if first else taken.outcome(), Kind.COMPLETE_PROMISE)
        case AttachTo():
            attach_to(turn, invocation, command.entry, asked.id)
        case ReadOutput():
            other = turn.find(asked.id)
            seen = unknown(asked.id) if other is None else glance(other.outcome)
            turn.complete_entry(invocation, command.entry, seen, Kind.OUTPUT)


def renew(turn: Turn, invocation: Invocation, asked: AwaitPromise | PeekPromise | CompletePromise | SetState) -> None:
    """On a workflow's key, beside its run: that may be over by now."""
    if visits_a_workflow(invocation.submission):
        turn.renew(asked.service, asked.key)


def invoke(turn: Turn, invocation: Invocation, command: OpenEntry, asked: Invoke) -> None:
    """A send is made whatever happens. A call under a cancel is cancelled; one the cancel overtook is never made."""
    if command.kind is not _CALL:
        turn.tell(Submit(asked.submission, again=asked.again))
    elif asked.cancels < invocation.cancels:
        turn.complete_entry(invocation, command.entry, GIVEN_UP, _CALL)
    else:
        invocation.open[command.entry] = Open(_CALL, asked.submission.id)
        turn.tell(Submit(asked.submission, again=asked.again))
        if invocation.cancelling:
            if invocation.seq in turn.world.leaves:
                turn.world.leaves[invocation.seq][1].append(command.entry)
            turn.tell(Cancel(asked.submission.id))


def start_sleep(turn: Turn, invocation: Invocation, entry: int, due_at: int) -> None:
    """A timer, unless the moment is already there."""
    if due_at <= turn.now:
        turn.complete_entry(invocation, entry, EMPTY, Kind.SLEEP)
        return
    invocation.open[entry] = Open(Kind.SLEEP, due_at)
    turn.add_timer(due_at, invocation.seq, entry)


def await_signal(turn: Turn, invocation: Invocation, command: OpenEntry) -> None:
    """The oldest signal of that name that nobody took, or the next one to come."""
    waiting = turn.world.signals.get(invocation.seq, [])
    for signal in waiting:
        if signal.name == command.name:
            waiting.remove(signal)
            turn.drop_signal(invocation.seq, signal)
            turn.complete_entry(invocation, command.entry, signal.outcome, Kind.SIGNAL)
            return
    invocation.open[command.entry] = Open(Kind.SIGNAL, command.name)


def attach_to(turn: Turn, invocation: Invocation, entry: int, id: str) -> None:
    """Another invocation's outcome, now or when it ends."""
    other = turn.find(id)
    if other is None:
        turn.complete_entry(invocation, entry, unknown(id), Kind.ATTACH)
    elif other.outcome is not None:
        turn.complete_entry(invocation, entry, other.outcome, Kind.ATTACH)
    else:
        topic = output_topic(id)
        invocation.open[entry] = Open(Kind.ATTACH, topic)
        turn.listen(topic, invocation.seq, entry)
        other.listened = True
        turn.touch(other)
        turn.may_deadlock(other)


def set_state(turn: Turn, asked: SetState) -> None:
    """Write, delete or clear state keys."""
    target = turn.world.keys[asked.service, asked.key]
    key = (asked.service, asked.key)
    if asked.name is None:
        target.state.clear()
        target.damaged_state.clear()
        target.lost_state.clear()
        target.moved_state = ()
        turn.writes.state_cleared.add(key)
        for written in [written for written in turn.writes.state if written[:2] == key]:
            del turn.writes.state[written]
        return
    target.damaged_state.pop(asked.name, None)
    target.lost_state.pop(asked.name, None)
    if asked.value is None:
        target.state.pop(asked.name, None)
        turn.writes.state[(*key, asked.name)] = None
    else:
        target.state[asked.name] = asked.value
        turn.writes.state[(*key, asked.name)] = asked.value


def glance(outcome: Outcome | None) -> Outcome:
    """A look that does not wait: nothing, the failure, or the value."""
    if outcome is None:
        return NOTHING
    return Outcome(True, FOUND + outcome.value) if outcome.ok else outcome


def unknown(id: str) -> Outcome:
    """There is no such invocation."""
    return Failure(f"there is no invocation {id}", 404).outcome()
