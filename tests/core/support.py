"""What tests of the core need: a core that keeps what it wrote, and short ways to write submissions and commands."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from durable.core.commands import (
    Asked,
    AwaitAwakeable,
    Command,
    Fail,
    Finish,
    Finished,
    Invoke,
    OpenEntry,
    Record,
    Recover,
    Recovered,
    Sleep,
    Submit,
    Suspend,
    TimerFired,
)
from durable.core.effects import Deliver, Need, Reply, StartAttempt
from durable.core.ids import invocation_id
from durable.core.invocation import Caller, Flavor, Invocation, KeyedObject, Problem, Status, Submission
from durable.core.journal import CANCELLED, EMPTY, INTERRUPTIBLE, Failure, Kind, Outcome, failure_of
from durable.core.limits import Limits
from durable.core.retry import RetryPolicy
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.waiting import Group
from durable.core.world import World
from durable.store.memory import MemoryStore
from durable.store.rows import invocation_of

A = TypeVar("A")

#: Retentions of a day, in ms.
DAY = 86_400_000


class Core:
    """A world, the tables it writes, and a clock that is set by hand."""

    def __init__(self, slots: int = 1000, limits: Limits = Limits()) -> None:  # noqa: B008 (it is frozen)
        self.store = MemoryStore()
        at_once(self.store.open())
        self.tables = self.store.tables
        self.world = World(next_ordinal=16, next_seq=1, slots=slots, limits=limits)
        self.now = 1_000_000
        #: How many slots were lent at a time, at most: whoever has borrowed one keeps it.
        self.borrowed = 0
        #: Each row that was read, and what it says: what changes is another row.
        self._read: dict[int, tuple[object, Invocation]] = {}

    def settle(self, *commands: Command) -> Turn:
        """One whole turn: settle, commit, and forget what was loaded for it only."""
        turn = Turn(self.world, commands, self.now)
        while (need := advance(turn)) is not None:
            self.world.admit(need, at_once(self.store.load(need)))
        at_once(self.store.commit(turn.writes))
        self.world.end_turn()
        self.check_slots()
        return turn

    def check_slots(self) -> None:
        """Who runs has a slot, there are no more than there are slots, and nobody waits beside a free one."""
        world = self.world
        stored = self._stored()
        running = {one.seq for one in stored if one.status is Status.RUNNING}
        asked = {one.seq for one in stored if one.status is Status.RUNNING and one.seq not in world.running}
        assert running - asked == world.running, "who has a slot runs"
        self.borrowed = max(self.borrowed, len(world.lent))
        assert len(world.running) <= world.slots + self.borrowed, "nobody runs without a slot"
        for seq in asked:  # what has not been recovered yet
            assert seq not in world.invocations or not world.invocations[seq].started, "who runs has a slot"
        waiting = [one for one in stored if one.status is Status.READY]
        assert len({one.place for one in waiting}) == len(waiting), "who waits for a slot has a place of its own"
        assert all((one.place > 0) == (one.status is Status.READY) for one in stored), "nobody else has one"
        in_memory = [one.seq for one in sorted(waiting, key=lambda one: one.place) if one.seq in world.ready]
        assert in_memory == list(world.ready), "those that wait are in order"
        for one in waiting:
            behind = world.horizon is not None and one.place > world.horizon
            known = behind or one.seq in world.ready or one.seq in world.suspects
            assert known, f"{one.id} waits for a slot and is forgotten"
        free = world.free > 0 and not world.recovering
        assert not free or not [one for one in waiting if one.seq not in world.suspects], "a slot is free"
        assert sum(world.warm.values()) == world.warmth <= world.limits.warm, "no more is kept than may be"
        kept = {one.seq for one in stored if one.status in (Status.SUSPENDED, Status.READY)}
        assert world.warm.keys() <= kept & world.invocations.keys(), "who waits is kept, and is in memory"

    def _stored(self) -> list[Invocation]:
        """All that is stored."""
        before = self._read
        self._read = {
            seq: before[seq] if seq in before and before[seq][0] is row else (row, invocation_of(row))
            for seq, row in self.tables.invocations.items()
        }
        return [one for _, one in self._read.values()]

    def submit(self, submission: Submission, token: int = 0) -> Invocation:
        """Submit, and return the invocation as it is kept."""
        self.settle(Submit(submission, token))
        return self.invocation(submission.id)

    def invocation(self, id: str) -> Invocation:
        """An invocation as it is now: from memory, or else from the tables."""
        found = self.world.find(id)
        if found is None:
            [found] = at_once(self.store.load(Need(ids={id}))).invocations
        return found

    @property
    def somebody_waits(self) -> bool:
        """Whether an invocation waits for a slot."""
        return any(invocation_of(row).status is Status.READY for row in self.tables.invocations.values())

    def exists(self, id: str) -> bool:
        """Whether the tables have it."""
        return id in self.tables.ids

    def object(self, service: str, key: str) -> KeyedObject:
        """A key's state and queue, from the tables."""
        return at_once(self.store.load(Need(keys={(service, key)}))).keys[0]

    def fire_timers(self) -> Turn:
        """Let the clock jump to the next timer and settle all that are due then."""
        self.now = min(due_at for due_at, _, _ in self.tables.timers)
        return self.settle(*(TimerFired(*timer) for timer in sorted(self.tables.timers) if timer[0] <= self.now))

    def crash(self) -> Turn:
        """Forget all that is not stored, and start again from that."""
        old = self.world
        new = max(self.tables.invocations, default=0) + 1
        self.world = World(self.tables.ordinals, new, slots=old.slots, limits=old.limits, ready=self.somebody_waits)
        self.world.recovering = True
        self.world.subscriptions |= self.tables.subscriptions
        self.world.positions |= self.tables.positions
        return self.settle(*(Recover(seq) for seq, _ in at_once(self.store.running(0, 1000))), Recovered())


def at_once(work: Coroutine[Any, Any, A]) -> A:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        value: A = stop.value
        return value
    raise AssertionError("it waits")


def submission(
    number: int,
    *,
    key: str | None = None,
    flavor: Flavor | None = None,
    idempotency_key: str | None = None,
    caller: Caller | None = None,
    due_at: int | None = None,
    retention_ms: int = DAY,
    journal_ms: int | None = None,
) -> Submission:
    """The `number`-th request of a service `S` without, of an object `O` with a key."""
    if flavor is None:
        flavor = Flavor.SERVICE if key is None else Flavor.EXCLUSIVE
    return Submission(
        id_of(number),
        "S" if key is None else "O",
        "h",
        key,
        flavor,
        b"input",
        {},
        idempotency_key,
        caller,
        due_at,
        retention_ms,
        retention_ms if journal_ms is None else journal_ms,
    )


def id_of(number: int) -> str:
    """The id of the `number`-th submission."""
    return invocation_id(number, number)


# ---- what an attempt asks for: its next entry ----


def step(who: Invocation, value: bytes = b"1", *, awaited: bool = True) -> Record:
    """A step, complete as written."""
    return Record(who.seq, who.attempt, who.last_entry + 1, Kind.RUN, "step", 0, Outcome(True, value), awaited)


def runs(who: Invocation, *, interruptible: bool = False) -> Record:
    """A step that runs while the handler goes on."""
    detail = INTERRUPTIBLE if interruptible else None
    return Record(who.seq, who.attempt, who.last_entry + 1, Kind.RUN, "slow", 0, detail=detail)


def ends(who: Invocation, entry: int, outcome: Outcome | None = None) -> Finished:
    """The outcome of a step that ran."""
    return Finished(who.seq, who.attempt, entry, "slow", outcome or ONE)


def opened(who: Invocation, kind: Kind, asked: Asked, name: str = "", detail: str | None = None) -> OpenEntry:
    """An entry that sets something in motion."""
    return OpenEntry(who.seq, who.attempt, who.last_entry + 1, kind, name, 0, asked, detail)


def sleep(who: Invocation, due_at: int) -> OpenEntry:
    return opened(who, Kind.SLEEP, Sleep(due_at), detail=str(due_at))


def awakeable(who: Invocation) -> OpenEntry:
    return opened(who, Kind.AWAKEABLE, AwaitAwakeable())


def call(who: Invocation, number: int, *, waits: bool = True, cancels: int | None = None, **more: Any) -> OpenEntry:
    """A call (or, where it does not wait, a send) of the `number`-th submission, by a handler that saw `cancels`."""
    caller = Caller(who.seq, who.id, who.last_entry + 1, who.submission.target, waits)
    asked = Invoke(submission(number, caller=caller, **more), who.cancels if cancels is None else cancels)
    return opened(who, Kind.CALL if waits else Kind.SEND, asked, "S/h", id_of(number))


def finish(who: Invocation, outcome: Outcome = EMPTY) -> Finish:
    return Finish(who.seq, who.attempt, outcome)


def fail(who: Invocation, policy: RetryPolicy, *, entry: int = 0, **more: Any) -> Fail:
    problem = Problem("it broke", "Broken", entry=entry, name="step" if entry else "")
    return Fail(who.seq, who.attempt, problem, policy, **more)


def actions(turn: Turn, kind: type[A]) -> list[A]:
    """The actions of one kind."""
    found: list[A] = [action for action in turn.actions if isinstance(action, kind)]
    return found


def started(turn: Turn) -> list[int]:
    """Whose attempts a turn starts."""
    return [action.invocation.seq for action in actions(turn, StartAttempt)]


ONE = Outcome(True, b"1")
TWO = Outcome(True, b"2")
NO = Failure("no", 418).outcome()
THREE_TIMES = RetryPolicy("100ms", 2.0, "1m", 3, "pause")


def cancelled_by(outcome: Outcome) -> Outcome:
    """What a handler is told whose call ended so under the cancel."""
    return msgspec.structs.replace(failure_of(CANCELLED), cause=failure_of(outcome)).outcome()


def entries(core: Core, who: Invocation) -> list[tuple[int, int, str, bool | None]]:
    """Its journal as (entry, part, kind, ok)."""
    return [(row.entry, row.part, row.kind, row.ok) for row in at_once(core.store.journal(who.seq))]


def replies(turn: Turn) -> list[tuple[int, str]]:
    return [(reply.token, reply.result) for reply in actions(turn, Reply)]


def delivered(turn: Turn) -> list[tuple[int, int, Outcome]]:
    return [(action.seq, action.entry, action.outcome) for action in actions(turn, Deliver)]


def suspend(who: Invocation, waiting: int | Group, notified: int | None = None, *, weight: int = 0) -> Suspend:
    return Suspend(who.seq, who.attempt, waiting, who.notified if notified is None else notified, weight)
