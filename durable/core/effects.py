"""What a turn leads to: writes for the store, in one transaction, and actions for the runtime, after the commit.

The third kind of effect, telling another invocation, never leaves the core: it is a command of the same turn.
"""

from enum import StrEnum

import msgspec

from durable.core.alike import InLine
from durable.core.invocation import Invocation, Problem, Signal, Status, Submission
from durable.core.journal import Outcome, Row
from durable.core.once import Answered, Place
from durable.core.sources import Cluster, GroupPartition, Position, Subscription

#: (service, key)
Key = tuple[str, str]
#: (due_at, seq, entry)
Timer = tuple[int, int, int]
#: (topic, seq, entry)
Listener = tuple[str, int, int]


class Writes(msgspec.Struct):
    """The rows of one transaction. Where order matters, the last write of a turn has already won."""

    created: dict[int, Invocation] = {}
    #: More that are created, which are not in memory: see `with_all`.
    in_line: list[InLine] = []
    changed: dict[int, Invocation] = {}
    purged: list[int] = []
    journal: list[Row] = []
    #: None deletes.
    state: dict[tuple[str, str, str], bytes | None] = {}
    #: Keys whose whole state goes before `state` is written.
    state_cleared: set[Key] = set()
    promises: dict[tuple[str, str, str], Outcome] = {}
    promises_cleared: set[Key] = set()
    timers_added: set[Timer] = set()
    timers_removed: set[Timer] = set()
    listeners_added: set[Listener] = set()
    listeners_removed: set[Listener] = set()
    signals_added: list[tuple[int, Signal]] = []
    signals_removed: list[tuple[int, int]] = []
    #: Options set at run time, by service.
    settings: dict[str, str] = {}
    #: Revision and declaration of services that were declared anew.
    declared: dict[str, tuple[int, str]] = {}
    #: Invocations that stay, and whose journal goes.
    journals_purged: list[int] = []
    #: None deletes.
    subscriptions: dict[str, Subscription | None] = {}
    positions: dict[GroupPartition, Position | None] = {}
    clusters: dict[str, Cluster | None] = {}
    #: What was asked with idempotency keys. Those of what is purged or cleared go with it.
    answered: dict[Place, Answered] = {}
    #: Those that are kept until a moment up to this one go.
    answered_until: int | None = None
    #: Ordinals up to here are taken; the next start continues after them.
    ordinals_reserved: int | None = None
    #: Keys that values are encoded with from now on, with what each made of a probe; None where none is any more.
    keys: dict[str, bytes | None] = {}

    def __bool__(self) -> bool:
        return self != _NOTHING

    def with_all(self) -> "Writes":
        """The same with each that is created by itself."""
        if not self.in_line:
            return self
        created = self.created | {new.seq: new for some in self.in_line for new in some.invocations()}
        return msgspec.structs.replace(self, created=created, in_line=[])

    @property
    def rows(self) -> int:
        """How many rows it writes, changes or deletes (what is deleted by key or invocation counts as one)."""
        tables = msgspec.structs.astuple(self)
        more = sum(map(len, self.in_line)) - len(self.in_line)
        return more + sum(len(table) for table in tables if table is not None and not isinstance(table, int))


_NOTHING = Writes()


class Need(msgspec.Struct):
    """What the next command needs to know and memory does not have."""

    seqs: set[int] = set()
    ids: set[str] = set()
    keys: set[Key] = set()
    topics: set[str] = set()
    #: Workflow keys: who waits for any of their promises.
    waiting: set[Key] = set()
    #: Whose whole journal is needed.
    journals: set[int] = set()
    #: How something was answered before.
    answered: set[Place] = set()
    #: The next that wait for a slot: those behind a place, and at most how many.
    ready: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        known_by_name = self.seqs or self.ids or self.keys or self.topics or self.waiting or self.journals
        return bool(known_by_name or self.ready or self.answered)


# ---- actions ----


class StartAttempt(msgspec.Struct, frozen=True, gc=False):
    """Run the handler, from its journal."""

    invocation: Invocation
    attempt: int
    #: Outcomes from this ordinal on are delivered, not replayed.
    until: int
    #: Of a suspect: for how long no other one starts, in ms, as long as nothing else is heard of it.
    trial_ms: int = 0
    #: Whether the handler of the attempt before was kept, and was sent all that came since: it may go on as this one.
    warm: bool = False


class Deliver(msgspec.Struct, frozen=True, gc=False):
    """Tell an attempt that an entry has its outcome."""

    seq: int
    attempt: int
    entry: int
    outcome: Outcome
    #: Counted in `Invocation.notified`: it came from outside the attempt.
    notified: bool = False


class Interrupt(msgspec.Struct, frozen=True, gc=False):
    """End an invocation's attempt without an outcome."""

    seq: int


class KeepWarm(msgspec.Struct, frozen=True, gc=False):
    """An attempt is suspended; its handler stays in memory until an `Interrupt` or the next attempt."""

    seq: int


class InterruptSteps(msgspec.Struct, frozen=True, gc=False):
    """Stop the interruptible steps of an attempt: a cancel is coming."""

    seq: int
    attempt: int


class Unload(msgspec.Struct, frozen=True, gc=False):
    """Start nothing new in an attempt, and report `Unloaded` once its steps have ended."""

    seq: int
    attempt: int


class MayDeadlock(msgspec.Struct, frozen=True, gc=False):
    """A handler began to wait for something that leads to this one, which may wait for the handler."""

    seq: int


class Completed(msgspec.Struct, frozen=True, gc=False):
    """Tell everybody who waits for an invocation how it ended."""

    invocation: Invocation
    outcome: Outcome


class Answer(StrEnum):
    """The result of a command. If the status of the invocation decides it, the answer is that `Status` instead."""

    DONE = "done"
    ACCEPTED = "accepted"
    PREVIOUSLY_ACCEPTED = "previously-accepted"
    FOUND = "found"
    NOT_FOUND = "not-found"
    #: The promise was settled before, there is a cluster of that name; with a key: what is `UNCHANGED` without one.
    CONFLICT = "conflict"
    #: It came too late: the awakeable was completed before, the invocation has ended.
    UNCHANGED = "unchanged"
    #: Its stored row cannot be read.
    DAMAGED = "damaged"
    #: Whether it was asked before with the same key cannot be told: that row cannot be read.
    UNSURE = "unsure"
    #: A workflow runs once per key.
    WORKFLOW = "workflow"
    JOURNAL_GONE = "journal-gone"
    #: Its journal has no such entry.
    OUT_OF_RANGE = "out-of-range"
    #: An entry that would be kept (`Reply.entry`) has no outcome.
    OPEN_ENTRY = "open-entry"
    #: Records were offered that do not follow upon those that were taken.
    GAP = "gap"
    #: Another record stands where the last one was taken.
    RECREATED = "recreated"


class Found(msgspec.Struct, frozen=True, gc=False):
    """The facts about an existing invocation that never change."""

    service: str
    handler: str
    #: When it starts, while it is scheduled.
    due_at: int | None
    #: When its result is forgotten; None while it has none.
    expires_at: int | None
    #: What it was asked with.
    input: bytes = b""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The answer to the command with this token. An attached caller waits for `seq`, or gets `outcome` at once."""

    token: int
    result: Answer | Status
    seq: int = 0
    id: str = ""
    outcome: Outcome | None = None
    #: The entry that an `OPEN_ENTRY` is about.
    entry: int = 0
    #: What is damaged.
    cause: str = ""
    #: Of an invocation that was there already; of what was asked before, the one it was asked of.
    found: Found | None = None
    #: How far the partition has been taken that a `Take` was about.
    position: Position | None = None
    #: It was asked before with the same idempotency key, and that was something else.
    differs: bool = False


class Then(StrEnum):
    """What follows a failed attempt."""

    #: Another one, at `Failed.retry_at`.
    RETRY = "retry"
    #: Another one at once: its handler has a cancel to see, or that a step has failed for good.
    GO_ON = "go-on"
    #: Nothing, until somebody resumes it.
    PAUSE = "pause"
    #: Its failure is the invocation's.
    END = "end"


class Failed(msgspec.Struct, frozen=True, gc=False):
    """An attempt has failed: end it, and tell observers."""

    invocation: Invocation
    #: Which one: the invocation may have its next one by now.
    attempt: int
    problem: Problem | None
    then: Then
    #: When it is tried again, where it is retried.
    retry_at: int | None = None
    #: How many tries there were, of the invocation or of the step, where that is why there are no more.
    tries: int = 0


class Paused(msgspec.Struct, frozen=True, gc=False):
    """For observers: an invocation is paused until somebody resumes it."""

    invocation: Invocation


class KeyReused(msgspec.Struct, frozen=True, gc=False):
    """For the log: a handler used an idempotency key again, for something else."""

    submission: Submission
    said: str
    refused: bool


class Lost(msgspec.Struct, frozen=True, gc=False):
    """For observers: an attempt ended with its process, which could not report it."""

    invocation: Invocation
    attempt: int


Action = (
    StartAttempt
    | Deliver
    | Interrupt
    | KeepWarm
    | InterruptSteps
    | Unload
    | MayDeadlock
    | Completed
    | Reply
    | Failed
    | Paused
    | Lost
    | KeyReused
)
