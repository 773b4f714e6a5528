"""The part of the store that is in memory: what runs now, and what this turn had to load.

The world belongs to the core. The runtime fills it with what the store returned for a `Need`, and empties it of what
no longer runs after each turn.
"""

from collections import OrderedDict, deque

import msgspec

from durable.core.effects import Key, Listener, Need
from durable.core.invocation import Invocation, KeyedObject, Signal, Status
from durable.core.journal import Row


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


#: How many objects without a running invocation stay in memory, so that the next call of a busy key reads nothing.
IDLE_KEYS = 1024
#: Up to how many invocations in memory, those that wait for a key stay there too.
PENDING = 4096
#: How many ordinals are reserved at a time; a start skips at most this many.
ORDINALS = 1_000_000


class World:
    """Invocations, objects and ordinals the core decides with."""

    def __init__(self, next_ordinal: int, next_seq: int) -> None:
        self.next_ordinal = next_ordinal
        self.ordinals_reserved = next_ordinal
        self.next_seq = next_seq
        self.invocations: dict[int, Invocation] = {}
        self.by_id: dict[str, int] = {}
        self.keys: OrderedDict[Key, KeyedObject] = OrderedDict()
        self.signals: dict[int, list[Signal]] = {}
        #: Valid for one turn: what the store said, with this turn's changes on top.
        self.topics: dict[str, set[tuple[int, int]]] = {}
        self.waiting: dict[Key, set[Listener]] = {}
        self.absent: set[int | str] = set()
        #: Whole journals, valid for one turn.
        self.journals: dict[int, list[Row]] = {}
        #: Those that are damaged, with the cause; valid for one turn, too.
        self.unreadable: dict[int, str] = {}
        #: Loaded just now, and damaged: that is to be noted before anything else is done with them.
        self.unnoted: list[Invocation] = []
        #: Touched by this turn and not running: they leave memory after it.
        self.visitors: set[int] = set()
        self._evict_above = IDLE_KEYS

    def admit(self, need: Need, loaded: Loaded) -> None:
        """Take in what the store returned for `need`."""
        for invocation in loaded.invocations:
            if invocation.seq not in self.invocations:
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
            if invocation is None or invocation.status is Status.RUNNING:
                continue
            if invocation.status is Status.PENDING and len(self.invocations) < PENDING:
                continue
            self.forget(seq)
        self.visitors.clear()
        self.topics.clear()
        self.waiting.clear()
        self.absent.clear()
        self.journals.clear()
        self.unreadable.clear()
        if len(self.keys) > self._evict_above:
            self._evict_keys()

    def forget(self, seq: int) -> None:
        """Drop an invocation from memory; the store has it."""
        invocation = self.invocations.pop(seq, None)
        if invocation is not None:
            self.by_id.pop(invocation.id, None)
            self.signals.pop(seq, None)

    def _evict_keys(self) -> None:
        in_use = {
            (invocation.submission.service, invocation.submission.key) for invocation in self.invocations.values()
        }
        for key in list(self.keys):
            if len(self.keys) <= IDLE_KEYS // 2:
                break
            if key not in in_use:
                del self.keys[key]
        self._evict_above = max(IDLE_KEYS, 2 * len(self.keys))
