"""The part of the store that is in memory: what runs now, and what this turn had to load.

The world belongs to the core. The runtime fills it with what the store returned for a `Need`, and empties it of what
no longer runs after each turn.
"""

from collections import OrderedDict, deque

import msgspec

from durable.core.alike import InLine
from durable.core.effects import Key, Listener, Need
from durable.core.ids import READABLE, IdSpan
from durable.core.invocation import Invocation, KeyedObject, Signal, Status
from durable.core.journal import Row
from durable.core.limits import Limits
from durable.core.once import Answered, Place
from durable.core.sources import Cluster, GroupPartition, Position, Subscription


class Loaded(msgspec.Struct):
    """What the store has for a `Need`."""

    invocations: list[Invocation] = []
    keys: list[KeyedObject] = []
    #: Who listens to a topic: (seq, entry).
    topics: dict[str, list[tuple[int, int]]] = {}
    #: Who waits for any promise of a key.
    waiting: dict[Key, list[Listener]] = {}
    signals: dict[int, list[Signal]] = {}
    journals: dict[int, list[Row]] = {}
    #: Whose journal was asked for and is damaged, with the cause.
    unreadable: dict[int, str] = {}
    answered: dict[Place, Answered] = {}
    #: Who waits for a slot, as asked: (place, seq), by place.
    ready: list[tuple[int, int]] = []


#: Looked up once: up to Python 3.11, each look at a member of an enum takes longer than the rest of a comparison.
_RUNNING, _PENDING = Status.RUNNING, Status.PENDING
#: From how many open entries on a suspended invocation is not read again each time one of them completes.
WIDE = 64


class World:
    """Invocations, objects and ordinals the core decides with."""

    def __init__(
        self,
        next_ordinal: int,
        next_seq: int,
        *,
        slots: int = 1000,
        limits: Limits = Limits(),  # noqa: B008 (it is frozen)
        ready: bool = False,
        id_span: IdSpan = READABLE,
    ) -> None:
        #: How many invocations may run at the same time.
        self.slots = slots
        self.id_span = id_span
        self.limits = limits
        #: Who has a slot.
        self.running: set[int] = set()
        #: Who has lent it, because it waits for the engine itself: with how many of its flows.
        self.lent: dict[int, int] = {}
        #: The first of those that wait for one, by place: these are in memory, and of the others only that there are.
        self.ready: OrderedDict[int, int] = OrderedDict()
        #: Everybody who waits and has a place up to here is in `ready`; None: there are no others.
        self.horizon = 0 if ready else None
        #: Who has come to wait in this turn, and is not in `ready`.
        self.behind: list[Invocation | InLine] = []
        #: Suspended or in line for a slot, with their handlers still in memory: what each counts, those first that
        #: were first; and how much that is together.
        self.warm: dict[int, int] = {}
        self.warmth = 0
        #: Who was running in two processes that crashed waits here, until no other such one runs; and who does.
        self.suspects: dict[int, None] = {}
        self.on_trial = 0
        #: Until all that ran before have been asked about, nobody gets a slot who waits for one.
        self.recovering = False
        self.next_ordinal = next_ordinal
        self.ordinals_reserved = next_ordinal
        self.next_seq = next_seq
        self.invocations: dict[int, Invocation] = {}
        self.by_id: dict[str, int] = {}
        self.keys: OrderedDict[Key, KeyedObject] = OrderedDict()
        self.signals: dict[int, list[Signal]] = {}
        #: All there are, with how far each partition has been taken; `lost_positions` says what is damaged of these.
        self.subscriptions: dict[str, Subscription] = {}
        self.clusters: dict[str, Cluster] = {}
        self.positions: dict[GroupPartition, Position] = {}
        self.lost_positions = ""
        #: Valid for one turn: what the store said, with this turn's changes on top.
        self.topics: dict[str, set[tuple[int, int]]] = {}
        self.waiting: dict[Key, set[Listener]] = {}
        self.answered: dict[Place, Answered | None] = {}
        self.absent: set[int | str] = set()
        #: Whole journals, valid for one turn.
        self.journals: dict[int, list[Row]] = {}
        #: Those that are damaged, with the cause; valid for one turn, too.
        self.unreadable: dict[int, str] = {}
        #: Loaded just now, and damaged: that is to be noted before anything else is done with them.
        self.unnoted: list[Invocation] = []
        #: Touched by this turn and not running: they leave memory after it.
        self.visitors: set[int] = set()
        #: Suspended, and with so many open entries that they are not read again for each that completes: how many
        #: those are, those first that were suspended first; and how many that is together.
        self.wide: dict[int, int] = {}
        self.width = 0
        #: What the cancels that are under way may still wait for: entries, and when they were looked for (at which
        #: cancel and attempt, and whether that ran).
        self.leaves: dict[int, tuple[tuple[int, int, bool], list[int]]] = {}
        self._evict_above = limits.idle_keys

    def admit(self, need: Need, loaded: Loaded) -> None:
        """Take in what the store returned for `need`."""
        for invocation in loaded.invocations:
            if invocation.seq not in self.invocations and invocation.seq not in self.absent:
                self.invocations[invocation.seq] = invocation
                self.by_id[invocation.id] = invocation.seq
                self.visitors.add(invocation.seq)
                if invocation.seq in loaded.signals:
                    self.signals[invocation.seq] = loaded.signals[invocation.seq]
                if invocation.unnoted:
                    self.unnoted.append(invocation)
        self.absent.update(seq for seq in need.seqs if seq not in self.invocations)
        self.absent.update(id for id in need.ids if id not in self.by_id)
        for found in loaded.keys:
            self.keys.setdefault((found.service, found.key), found)
        for key in need.keys:
            if key not in self.keys:
                self.keys[key] = KeyedObject(key[0], key[1], deque(), {}, {})
        for seq in need.journals:
            self.journals[seq] = loaded.journals.get(seq, [])
        self.unreadable |= loaded.unreadable
        for topic in need.topics:
            self.topics.setdefault(topic, set(loaded.topics.get(topic, ())))
        for key in need.waiting:
            self.waiting.setdefault(key, set(loaded.waiting.get(key, ())))
        for asked in need.answered:
            self.answered.setdefault(asked, loaded.answered.get(asked))
        if need.ready is not None:
            self._admit_ready(loaded.ready, last=len(loaded.ready) < need.ready[1])

    def _admit_ready(self, found: list[tuple[int, int]], *, last: bool) -> None:
        """The next that wait for a slot; with the last of those that are stored, also who came in this turn."""
        for place, seq in found:
            self.horizon = place
            invocation = self.invocations.get(seq)
            if invocation is not None and invocation.place == place:  # what this turn has changed is not stored yet
                self.ready[seq] = place
        if last:
            self.horizon = None
            behind, self.behind = self.behind, []
            for one in behind:
                assert isinstance(one, Invocation), "see `Turn.take_in_rows`"
                if one.status is Status.READY:
                    self.line_up(one)

    def line_up(self, invocation: Invocation) -> None:
        """It waits for a slot, behind all others: in memory, as long as there is room for it."""
        if self.horizon is None and len(self.ready) < self.limits.ready:
            self.ready[invocation.seq] = invocation.place
            return
        if self.horizon is None:
            self.horizon = next(reversed(self.ready.values()))
        self.behind.append(invocation)

    def line_up_rows(self, some: InLine) -> None:
        """They wait for a slot, behind all others, as rows: they are read when it is their turn."""
        if self.horizon is None:
            self.horizon = next(reversed(self.ready.values()), some.place - 1)
        self.behind.append(some)

    def took_in(self, some: InLine, new: list[Invocation]) -> None:
        """These are in memory after all."""
        place = next(place for place, one in enumerate(self.behind) if one is some)
        self.behind[place : place + 1] = new

    @property
    def full(self) -> bool:
        """Whether whoever comes now waits for a slot, and there is no room in memory for it."""
        if self.horizon is not None:
            return True
        return self.free <= 0 and len(self.ready) >= self.limits.ready

    @property
    def free(self) -> int:
        """How many slots nobody has; negative for a while where some have taken back theirs."""
        return self.slots + len(self.lent) - len(self.running)

    @property
    def in_line(self) -> int:
        """How many wait for a slot and could have one: 0, or at least so many."""
        count = len(self.ready) or (self.limits.ready if self.horizon is not None else 0)
        return count + (1 if self.suspects and not self.on_trial else 0)

    def add(self, invocation: Invocation) -> None:
        """Take in an invocation that this turn creates."""
        self.invocations[invocation.seq] = invocation
        self.by_id[invocation.id] = invocation.seq
        self.absent.discard(invocation.id)
        self.visitors.add(invocation.seq)

    def find(self, id: str) -> Invocation | None:
        """The invocation with this id, if it is in memory."""
        seq = self.by_id.get(id)
        return None if seq is None else self.invocations.get(seq)

    def end_turn(self) -> None:
        """Forget what was loaded for this turn only."""
        for seq in self.visitors:
            invocation = self.invocations.get(seq)
            if invocation is None or invocation.status is _RUNNING or seq in self.ready or seq in self.warm:
                continue
            if invocation.status is _PENDING and len(self.invocations) < self.limits.pending:
                continue
            if len(invocation.open) >= WIDE and invocation.status is Status.SUSPENDED:
                self._keep_wide(seq, len(invocation.open))
            else:
                self.forget(seq)
        self.visitors.clear()
        self.topics.clear()
        self.waiting.clear()
        self.answered.clear()
        self.absent.clear()
        self.journals.clear()
        self.unreadable.clear()
        self.behind.clear()
        if len(self.keys) > self._evict_above:
            self._evict_keys()

    def forget(self, seq: int) -> None:
        """Drop an invocation from memory; the store has it."""
        invocation = self.invocations.pop(seq, None)
        if invocation is not None:
            self.by_id.pop(invocation.id, None)
            self.signals.pop(seq, None)
            self._narrow(seq)
            self.leaves.pop(seq, None)
            if seq in self.warm:
                self.cool(seq)

    def keep_warm(self, seq: int, weight: int) -> list[int]:
        """Its handler stays in memory; returns whose does not any more, so that there is room for it."""
        self.warm[seq] = weight
        self.warmth += weight
        gone = []
        while self.warmth > self.limits.warm:
            gone.append(next(iter(self.warm)))
            self.cool(gone[-1])
        return gone

    def _keep_wide(self, seq: int, open_entries: int) -> None:
        """It stays in memory; those that were suspended first leave it, so that there is room."""
        self._narrow(seq)
        self.wide[seq] = open_entries
        self.width += open_entries
        while self.width > self.limits.wide:
            first = next(iter(self.wide))
            self._narrow(first)
            if self.invocations[first].status is Status.SUSPENDED and first not in self.warm:
                self.forget(first)

    def _narrow(self, seq: int) -> None:
        self.width -= self.wide.pop(seq, 0)

    def cool(self, seq: int) -> bool:
        """Its handler does not stay in memory; whether it did so far."""
        weight = self.warm.pop(seq, 0)
        self.warmth -= weight
        return weight > 0

    def _evict_keys(self) -> None:
        in_use = {
            (invocation.submission.service, invocation.submission.key) for invocation in self.invocations.values()
        }
        for key in list(self.keys):
            if len(self.keys) <= self.limits.idle_keys // 2:
                break
            if key not in in_use:
                del self.keys[key]
        self._evict_above = max(self.limits.idle_keys, 2 * len(self.keys))
