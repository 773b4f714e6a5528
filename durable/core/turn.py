"""One turn under way: what it was asked, what it decided so far, and the small verbs every decision is made of."""

from collections import deque
from collections.abc import Iterable
from typing import Any, TypeVar

from durable.core.alike import Alike, InLine
from durable.core.commands import Command, KeyFree, Notify
from durable.core.effects import (
    Action,
    Answer,
    Completed,
    Deliver,
    Failed,
    Found,
    Interrupt,
    KeepWarm,
    MayDeadlock,
    Reply,
    StartAttempt,
    Then,
    Writes,
)
from durable.core.invocation import (
    Flavor,
    Invocation,
    KeyedObject,
    Signal,
    Status,
    Submission,
    forgotten,
    run_id,
    visits_a_workflow,
)
from durable.core.journal import COMMAND, Kind, Outcome, Row
from durable.core.once import NOBODY, Answered, Place, owned_by
from durable.core.sources import Position
from durable.core.topics import output_topic, promise_topic
from durable.core.world import World

#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_RUNNING, _COMPLETED = Status.RUNNING, Status.COMPLETED

K = TypeVar("K")
V = TypeVar("V")

#: After how many crashes in a row an invocation is under suspicion: such ones are started one at a time.
SUSPECT = 2
#: For how long a suspect that nothing is heard of is alone among its like: twice as long after each further crash.
TRIAL_MS, TRIAL_MS_MAX = 1_000, 3_600_000


class Turn:
    """The commands of one turn, applied one by one to the world."""

    def __init__(self, world: World, commands: Iterable[Command], now: int) -> None:
        self.world = world
        self.now = now
        #: What it was asked from outside: to ask it again, one by one, where the store refuses it all together.
        self.asked: tuple[Command, ...] = tuple(commands)
        self.commands: deque[Command] = deque(self.asked)
        #: How many came from outside.
        self.size = len(self.asked)
        #: What the command that is being applied told others: settled next, before what came from outside.
        self.told: list[Command] = []
        self.writes = Writes()
        self.actions: list[Action] = []
        #: Who started to listen to a topic in this turn: the store does not know them yet.
        self._listening: dict[str, set[tuple[int, int]]] = {}
        #: What stood before in tables of which memory holds all: to be put back where the store refuses the turn.
        self.replaced: list[tuple[dict[Any, Any], Any, Any]] = []

    # ---- the small verbs ----

    def find(self, id: str) -> Invocation | None:
        """The invocation with this id, unless it is over: every command that names one looks here."""
        invocation = self.world.find(id)
        return None if invocation is None or invocation.expired(self.now) else invocation

    def renew(self, service: str, key: str) -> None:
        """Where a workflow's run on this key is over, forget it: what is done from now on is the next one's."""
        run = self.world.find(run_id(service, key, self.world.id_span))
        if run is not None and run.expired(self.now):
            self.forget(run)
        elif run is not None and run.completed_at is not None:
            self.world.keys[service, key].over_at = run.completed_at + run.submission.completion_retention_ms

    def ordinal(self) -> int:
        """The next number of the sequence that orders everything."""
        world = self.world
        number = world.next_ordinal
        if number >= world.ordinals_reserved:
            world.ordinals_reserved = number + world.limits.ordinals
            self.writes.ordinals_reserved = world.ordinals_reserved
        world.next_ordinal = number + 1
        return number

    def ordinals(self, count: int) -> int:
        """The first of the next so many numbers of that sequence."""
        world, first = self.world, self.world.next_ordinal
        if first + count > world.ordinals_reserved:
            world.ordinals_reserved = first + count - 1 + world.limits.ordinals
            self.writes.ordinals_reserved = world.ordinals_reserved
        world.next_ordinal = first + count
        return first

    def put(self, table: dict[K, V], writes: dict[K, V | None], key: K, value: V | None) -> None:
        """Change a row of a table of which memory holds all; None deletes it."""
        self.replaced.append((table, key, table.get(key)))
        writes[key] = value
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def tell(self, command: Command) -> None:
        """Have another invocation settle `command` in this same turn."""
        self.told.append(command)

    def touch(self, invocation: Invocation) -> None:
        """Note that an invocation's row has to be written."""
        invocation.modified_at = self.now
        if invocation.seq not in self.writes.created:
            self.writes.changed[invocation.seq] = invocation

    def create(self, submission: Submission, status: Status) -> Invocation:
        """A new invocation, with the next sequence number."""
        seq = self.world.next_seq
        self.world.next_seq = seq + 1
        invocation = Invocation(seq, submission, self.now, status, modified_at=self.now)
        self.world.add(invocation)
        self.writes.created[seq] = invocation
        return invocation

    def start(self, invocation: Invocation) -> None:
        """Its turn has come: it gets its next attempt, or waits until there is a slot for it."""
        submission = invocation.submission
        if submission.key is not None and invocation.queued is None and submission.flavor is Flavor.EXCLUSIVE:
            self._queue_again(invocation)
            if invocation.status is Status.PENDING:
                return
        world, seq = self.world, invocation.seq
        invocation.due_at = None
        invocation.waiting = None
        invocation.pausing = False
        invocation.started = True
        if seq in world.running:  # it has one, and the attempt that is over has done no harm
            self.trusted(invocation)
            self.run(invocation)
        elif is_suspect(invocation) and world.on_trial:
            self.wait(invocation)
            world.suspects[seq] = None
        elif world.free > 0 and (world.recovering or (not world.ready and world.horizon is None)):
            self.run(invocation)
        else:
            self.wait(invocation)
            world.line_up(invocation)

    def run(self, invocation: Invocation) -> None:
        """Give it a slot, and its next attempt."""
        world, submission = self.world, invocation.submission
        if submission.key is not None and visits_a_workflow(submission):
            self.renew(submission.service, submission.key)
        world.running.add(invocation.seq)
        invocation.status = _RUNNING
        invocation.attempt += 1
        invocation.place = 0
        invocation.notified = 0
        invocation.cancelled = False
        invocation.started = True
        trial_ms = 0
        if is_suspect(invocation):
            world.on_trial = invocation.seq
            trial_ms = min(TRIAL_MS << (invocation.crashes - SUSPECT), TRIAL_MS_MAX)
        self.touch(invocation)
        warm = bool(world.warm) and world.cool(invocation.seq)
        self.actions.append(StartAttempt(invocation, invocation.attempt, world.next_ordinal, trial_ms, warm))

    def keep_warm(self, invocation: Invocation, weight: int) -> None:
        """Its attempt is over, and its handler stays in memory as long as there is room for it."""
        self.actions.append(KeepWarm(invocation.seq))
        for seq in self.world.keep_warm(invocation.seq, weight):
            self.world.visitors.add(seq)
            self.actions.append(Interrupt(seq))

    def cool(self, invocation: Invocation) -> None:
        """What comes now is told to no handler that was kept: the next attempt is a replay."""
        if self.world.cool(invocation.seq):
            self.world.visitors.add(invocation.seq)
            self.actions.append(Interrupt(invocation.seq))

    def wait(self, invocation: Invocation) -> None:
        """It waits for a slot, behind all who wait already."""
        invocation.status = Status.READY
        invocation.place = self.ordinal()
        self.touch(invocation)
        self.world.visitors.add(invocation.seq)

    def line_up_rows(self, records: Alike, first: int) -> None:
        """Those from `first` on wait for a slot, behind all who wait already, and are not in memory."""
        world, count = self.world, len(records) - first
        some = InLine(records, first, world.next_seq, self.ordinals(count), self.now)
        world.next_seq += count
        self.writes.in_line.append(some)
        world.line_up_rows(some)

    def take_in_rows(self) -> None:
        """Have those in memory that this turn has lined up as rows: the store does not know them yet."""
        for some in self.writes.in_line:
            new = list(some.invocations())
            for invocation in new:
                self.world.add(invocation)
                self.writes.created[invocation.seq] = invocation
            self.world.took_in(some, new)
        self.writes.in_line = []

    def leave(self, invocation: Invocation, status: Status) -> None:
        """It needs no slot now: it is written as it stands, and leaves memory when the turn is over."""
        world, seq = self.world, invocation.seq
        if seq in world.running:
            world.running.remove(seq)
            world.lent.pop(seq, None)
            self.trusted(invocation)
        else:
            world.ready.pop(seq, None)
            invocation.place = 0
        invocation.status = status
        self.touch(invocation)
        world.visitors.add(seq)

    def trusted(self, invocation: Invocation) -> None:
        """What it did has harmed nobody: it is no suspect any more, and the next one can be tried."""
        invocation.crashes = 0
        if self.world.on_trial == invocation.seq:
            self.world.on_trial = 0

    def _queue_again(self, invocation: Invocation) -> None:
        """Its place in its key's queue was damaged: it gets the last one."""
        free = self.enqueue(invocation)
        invocation.status = Status.PAUSED if free else Status.PENDING
        invocation.pausing = False
        self.touch(invocation)

    def failed(self, invocation: Invocation, then: Then, retry_at: int | None = None, tries: int = 0) -> None:
        """Have its attempt of now, which has failed, ended and told of."""
        self.actions.append(Failed(invocation, invocation.attempt, invocation.problem, then, retry_at, tries))

    def complete_entry(self, invocation: Invocation, entry: int, outcome: Outcome, kind: Kind) -> None:
        """Write the outcome of an open entry, and let its attempt know."""
        self.writes.journal.append(Row.completion(invocation.seq, entry, kind, outcome, self.ordinal(), self.now))
        if invocation.status is _RUNNING:
            invocation.notified += 1
            self.actions.append(Deliver(invocation.seq, invocation.attempt, entry, outcome, notified=True))
        elif invocation.seq in self.world.warm:
            self.actions.append(Deliver(invocation.seq, invocation.attempt, entry, outcome))

    def complete(self, invocation: Invocation, outcome: Outcome) -> None:
        """End an invocation: everything it holds is let go, everybody who waits is told."""
        submission = invocation.submission
        if self.world.warm:
            self.cool(invocation)
        self.leave(invocation, _COMPLETED)
        invocation.outcome = outcome
        invocation.completed_at = self.now
        invocation.waiting = None
        invocation.cancelling = 0
        invocation.pausing = False
        self.drop_timer(invocation)
        if invocation.open:
            self.abandon_open_entries(invocation)
        for signal in self.world.signals.pop(invocation.seq, ()):
            self.drop_signal(invocation.seq, signal)
        self.actions.append(Completed(invocation, outcome))
        if submission.caller is not None and submission.caller.waits:
            self.tell(Notify(submission.caller.seq, submission.caller.entry, outcome, submission.id))
        if invocation.listened:
            topic = output_topic(submission.id)
            for seq, entry in self.take_listeners(topic):
                self.tell(Notify(seq, entry, outcome, topic))
        if invocation.queued is not None:
            self.free_key(invocation)
        if submission.key is not None and submission.flavor is Flavor.WORKFLOW:
            self.world.keys[submission.service, submission.key].over_at = (
                self.now + submission.completion_retention_ms
            )
        if submission.completion_retention_ms <= 0:
            self.forget(invocation)
        elif submission.journal_retention_ms <= 0:
            self.forget_journal(invocation)

    def forget(self, invocation: Invocation) -> None:
        """Delete every trace of a completed invocation."""
        seq, submission = invocation.seq, invocation.submission
        if submission.key is not None and submission.flavor is Flavor.WORKFLOW:
            key = (submission.service, submission.key)
            self.writes.state_cleared.add(key)
            self.writes.promises_cleared.add(key)
            for table in (self.writes.state, self.writes.promises):
                for name in [name for name in table if name[:2] == key]:
                    del table[name]
            if key in self.world.keys:
                self.world.keys[key].forget()
            self.tell_of_promises(*key)
            self._forget_answers(promise_topic(*key, ""))
        self._forget_answers(owned_by(seq))
        self.writes.changed.pop(seq, None)
        self.writes.purged.append(seq)
        self.world.absent.add(seq)
        self.world.absent.add(submission.id)
        self.world.forget(seq)

    def forget_journal(self, invocation: Invocation) -> None:
        """Delete the journal of a completed invocation; its result stays."""
        invocation.journal_kept = False
        self.touch(invocation)
        self.writes.journals_purged.append(invocation.seq)

    def drop_timer(self, invocation: Invocation) -> None:
        """Disarm the invocation's own timer, if it has one."""
        if invocation.due_at is not None:
            self.remove_timer(invocation.due_at, invocation.seq, 0)
            invocation.due_at = None

    def add_timer(self, due_at: int, seq: int, entry: int) -> None:
        """Have `TimerFired` come at `due_at`."""
        self.writes.timers_added.add((due_at, seq, entry))

    def remove_timer(self, due_at: int, seq: int, entry: int) -> None:
        """Take a timer back."""
        timer = (due_at, seq, entry)
        if timer in self.writes.timers_added:
            self.writes.timers_added.remove(timer)
        else:
            self.writes.timers_removed.add(timer)

    def abandon_open_entries(self, invocation: Invocation) -> None:
        """Nobody waits for these any more: their timers and listeners go, the calls run on."""
        for entry, waits in invocation.open.items():
            if isinstance(waits.ref, int):
                self.remove_timer(waits.ref, invocation.seq, entry)
            elif waits.kind in (Kind.PROMISE, Kind.ATTACH):
                self.unlisten(str(waits.ref), invocation.seq, entry)
        invocation.open = {}

    def unlisten(self, topic: str, seq: int, entry: int) -> None:
        """The entry has no use for the topic's news any more."""
        listener = (topic, seq, entry)
        self.writes.listeners_added.discard(listener)
        self.writes.listeners_removed.add(listener)
        self._listening.get(topic, set()).discard((seq, entry))

    def amend(self, seq: int, entry: int, detail: str) -> None:
        """Note in a command row of this turn what its entry turned out to hang on."""
        journal = self.writes.journal
        for place in range(len(journal) - 1, -1, -1):
            row = journal[place]
            if row.invocation == seq and row.entry == entry and row.part == COMMAND:
                journal[place] = row._replace(detail=detail)
                return

    def drop_signal(self, seq: int, signal: Signal) -> None:
        """A kept signal is taken, or nobody will take it any more."""
        if (seq, signal) in self.writes.signals_added:
            self.writes.signals_added.remove((seq, signal))
        else:
            self.writes.signals_removed.append((seq, signal.ordinal))

    def listen(self, topic: str, seq: int, entry: int) -> None:
        """Complete `entry` when the topic has news."""
        listener = (topic, seq, entry)
        self.writes.listeners_added.add(listener)
        self.writes.listeners_removed.discard(listener)
        self._listening.setdefault(topic, set()).add((seq, entry))

    def take_listeners(self, topic: str) -> list[tuple[int, int]]:
        """Everybody who listens to a topic, oldest first; they stop listening."""
        stored, new = self.world.topics.get(topic, set()), self._listening.pop(topic, set())
        taken = [one for one in sorted(stored | new) if (topic, *one) not in self.writes.listeners_removed]
        for seq, entry in taken:
            self.writes.listeners_added.discard((topic, seq, entry))
            if (seq, entry) in stored:
                self.writes.listeners_removed.add((topic, seq, entry))
        return taken

    def tell_of_promises(self, service: str, key: str) -> None:
        """The workflow's run is forgotten: whoever waits for a promise of it is told."""
        start = promise_topic(service, key, "")
        waiting = set(self.world.waiting.get((service, key), ()))
        for topic, new in self._listening.items():
            if topic.startswith(start):
                waiting |= {(topic, *one) for one in new}
        for listener in sorted(waiting - self.writes.listeners_removed):
            topic, seq, entry = listener
            self.unlisten(*listener)
            self.tell(Notify(seq, entry, forgotten(service, key, topic.removeprefix(start)).outcome(), topic))

    # ---- keys ----

    def object_of(self, submission: Submission) -> KeyedObject | None:
        """The object an invocation runs on, which its command has had loaded."""
        if submission.key is None:
            return None
        return self.world.keys[submission.service, submission.key]

    def enqueue(self, invocation: Invocation) -> bool:
        """Queue an exclusive invocation for its key; True where the key was free and it may start."""
        target = self.object_of(invocation.submission)
        if target is None or invocation.submission.flavor is not Flavor.EXCLUSIVE:
            return True
        invocation.queued = self.ordinal()
        target.queue.append(invocation.seq)
        return len(target.queue) == 1

    def may_deadlock(self, invocation: Invocation) -> None:
        """A handler began to wait for this one, and where it is pending, for the one that holds its key.

        A circle is closed by its last edge, and all others are there then: where this one has nothing open, no circle
        is closed.
        """
        target = self.object_of(invocation.submission) if invocation.status is Status.PENDING else None
        first = target.queue[0] if target is not None and target.queue else invocation.seq
        begin = self.world.invocations.get(first)  # one that is not in memory is looked at later
        if begin is None or any(waits.kind in (Kind.CALL, Kind.ATTACH) for waits in begin.open.values()):
            self.actions.append(MayDeadlock(first))

    def free_key(self, invocation: Invocation) -> None:
        """Leave the key's queue; whoever is first then, and was not before, may start."""
        target = self.object_of(invocation.submission)
        invocation.queued = None
        if target is None:
            return
        held = bool(target.queue) and target.queue[0] == invocation.seq
        if invocation.seq in target.queue:  # a damaged one may be found in another queue than its own
            target.queue.remove(invocation.seq)
        if held and target.queue:
            self.tell(KeyFree(target.queue[0]))

    # ---- replies ----

    def answered(self, place: Place) -> Answered | None:
        """How it was answered when it was asked before with the same key."""
        found = self.world.answered[place]
        over = found is not None and place.owner == NOBODY and not found.damage and found.until <= self.now
        return None if over else found

    def remember(self, place: Place, answered: Answered) -> None:
        """Answer it so from now on."""
        self.world.answered[place] = self.writes.answered[place] = answered
        if place.owner == NOBODY:
            self.writes.answered_until = self.now

    def _forget_answers(self, owner: str) -> None:
        """What it was asked in this turn, or is asked in what is left of it; the store forgets the rest."""
        for place in [place for place in self.world.answered if place.owner == owner]:
            self.world.answered[place] = None
            self.writes.answered.pop(place, None)

    def reply(
        self,
        token: int,
        result: Answer | Status,
        invocation: Invocation | None = None,
        *,
        cause: str = "",
        entry: int = 0,
        position: Position | None = None,
        id: str = "",
    ) -> None:
        """Answer the command with this token, once the turn is committed."""
        if not token:
            return
        if invocation is None:
            self.actions.append(Reply(token, result, id=id, cause=cause, position=position))
        else:
            if invocation.damaged and invocation.problem is not None:
                cause = invocation.problem.message
            seq, id, outcome = invocation.seq, invocation.id, invocation.outcome
            found = found_of(invocation) if result in _WAS_THERE else None
            self.actions.append(Reply(token, result, seq, id, outcome, entry, cause, found))


_WAS_THERE = (Answer.FOUND, Answer.PREVIOUSLY_ACCEPTED)


def found_of(invocation: Invocation) -> Found:
    """What is told of it to whoever asked for a new one and got this."""
    submission, expires_at = invocation.submission, None
    if invocation.completed_at is not None:
        expires_at = invocation.completed_at + submission.completion_retention_ms
    due_at = invocation.due_at if invocation.status is Status.SCHEDULED else None
    return Found(submission.service, submission.handler, due_at, expires_at, submission.input)


def is_suspect(invocation: Invocation) -> bool:
    """Whether it was running in two processes, one after the other, that ended without a clean close."""
    return invocation.crashes >= SUSPECT
