"""An invocation, and the keyed object it may run on, as the core holds them in memory.

    scheduled ── due ──► pending ── key is free ──► running ──► completed
                            ▲                      ▲ │ │ │
        submit ─────────────┴──────────────────────┘ │ │ └──► suspended ── awaited entry completes ──► running
                                                     │ └────► backing-off ── retry is due ───────────► running
                                                     └──────► paused ─────── resume, cancel ─────────► running

Each way to `running` leads through `ready` where no slot is free: its turn has come, and others run.
"""

from collections import deque
from collections.abc import Container
from enum import StrEnum

import msgspec

from durable.core.ids import IdSpan, claimed_id, run_number
from durable.core.journal import INTERRUPTIBLE, Failure, Kind, Outcome
from durable.core.reasons import Reason
from durable.core.sealed import Why
from durable.core.waiting import Awaited
from durable.errors import KeyMissingError


class Status(StrEnum):
    """Where in its life an invocation is."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    SUSPENDED = "suspended"
    PAUSED = "paused"
    COMPLETED = "completed"


class Flavor(StrEnum):
    """What kind of handler an invocation runs."""

    SERVICE = "service"
    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    WORKFLOW = "workflow"
    WORKFLOW_SHARED = "workflow-shared"


class Open(msgspec.Struct, frozen=True, gc=False):
    """An entry without an outcome: what it is, and what it hangs on."""

    kind: Kind
    #: A sleep's due time, a call's child id, a promise's or attach's topic, a signal's name.
    ref: str | int | None = None

    @property
    def is_step(self) -> bool:
        """Whether it is a step that a cancel has to wait for."""
        return self.kind is Kind.RUN and self.ref != INTERRUPTIBLE


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Which handler asked for an invocation."""

    seq: int
    id: str
    entry: int
    target: str
    #: A call waits for the result; a send does not.
    waits: bool


class Submission(msgspec.Struct, frozen=True, gc=False):
    """Everything that is fixed when an invocation is accepted."""

    id: str
    service: str
    handler: str
    key: str | None
    flavor: Flavor
    input: bytes
    headers: dict[str, str] = {}
    idempotency_key: str | None = None
    caller: Caller | None = None
    #: When it is to start, in ms since the epoch; None for now.
    due_at: int | None = None
    #: How long the result is kept after completion, in ms; 0 forgets it at once.
    completion_retention_ms: int = 0
    #: How long the journal is kept after completion, in ms.
    journal_retention_ms: int = 0
    #: The invocation this one does again.
    restarted_from: str | None = None
    #: The invocation whose random numbers it repeats, because it begins with that one's journal.
    seed: str | None = None
    #: Of a restart: the id that the first of them had.
    origin: str | None = None

    @property
    def target(self) -> str:
        """`service/handler` or `service/key/handler`."""
        if self.key is None:
            return f"{self.service}/{self.handler}"
        return f"{self.service}/{self.key}/{self.handler}"


#: The built-in handler that replaces the state of a key.
PATCH_STATE = "$patch-state"
#: The type of the problem of an invocation that is damaged, or reads what is.
DAMAGED_TYPE = "StorageCorruptError"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why an attempt failed, as an operator reads it."""

    message: str
    type: str = ""
    stacktrace: str = ""
    #: The entry that failed, 0 where the handler itself did.
    entry: int = 0
    name: str = ""
    at: int = 0
    code: int = 500
    #: A `Reason` where it was paused at once, because trying again cannot help; empty for ordinary failures.
    reason: str = ""
    #: With a reason: the handler has not seen a cancel yet, and cannot be told of it before that is cured.
    cancel_waits: bool = False


class Invocation(msgspec.Struct, gc=False):
    """One accepted request and where it stands."""

    seq: int
    submission: Submission
    created_at: int
    status: Status
    #: The fence: commands of any other attempt are ignored.
    attempt: int = 0
    #: Failed attempts since the last journaled progress: the retry budget.
    failures: int = 0
    #: The same for single steps that have a retry policy of their own, by entry. Where a policy limits how long tries
    #: go on, the time of the first failure is beside it, by the negative number; that of the handler itself at 0.
    step_failures: dict[int, int] = {}
    problem: Problem | None = None
    #: The start of a scheduled one, the next retry of one that is backing off.
    due_at: int | None = None
    #: Its place in its key's queue, while it holds or waits for the key.
    queued: int | None = None
    #: What a suspended one waits for.
    waiting: Awaited | None = None
    #: A cancel was accepted and is not delivered yet: it waits until the open calls have ended, and the steps that
    #: ran when it came, which are those below this entry. 0: there is none.
    cancelling: int = 0
    #: An operator has paused it: while it runs, that waits until its steps have ended.
    pausing: bool = False
    #: Another handler is attached to its outcome.
    listened: bool = False
    outcome: Outcome | None = None
    completed_at: int | None = None
    modified_at: int = 0
    #: Of a completed one: whether its journal is still there. Of any other: False where it had ended and its result
    #: is damaged, so that its handler must not run again.
    journal_kept: bool = True
    #: Its place among those that wait for a slot; 0 where it does not.
    place: int = 0
    #: In how many processes, one after the other, an attempt of it was running when they ended without a clean close.
    crashes: int = 0

    # What follows is read from the journal when an invocation is loaded, and kept while it is in memory.
    #: The last entry that is recorded.
    last_entry: int = 0
    #: Entries without an outcome.
    open: dict[int, Open] = {}
    #: Completions that came before their entry was recorded (an awakeable's id can be known outside first).
    early: dict[int, Outcome] = {}
    #: Outcomes of calls that ended under a pending cancel; they are delivered after it.
    kept: dict[int, Outcome] = {}
    #: How many outcomes from outside this attempt was sent. If `Suspend` reports fewer, it starts again at once.
    notified: int = 0
    #: A cancel came during this attempt; and how many came ever.
    cancelled: bool = False
    cancels: int = 0
    #: Its attempt was started by this process.
    started: bool = False
    #: What is stored of it cannot be read: it was loaded as paused, and can only be killed.
    damaged: bool = False
    #: It was found damaged when it was loaded, and is not stored as paused yet.
    unnoted: bool = False
    #: Something that is stored of it cannot be decoded, so its handler cannot run here; and why.
    sealed: Why | None = None

    @property
    def id(self) -> str:
        """The public id."""
        return self.submission.id

    def expired(self, now: int) -> bool:
        """Whether its retention is over. From that moment on it is gone for everybody, swept away already or not."""
        return self.completed_at is not None and self.completed_at + self.submission.completion_retention_ms <= now

    @property
    def run(self) -> str:
        """What its children's ids and random numbers follow from: its id, but that a key's next run has the same."""
        submission = self.submission
        if submission.idempotency_key is None and submission.flavor is not Flavor.WORKFLOW:
            return submission.id
        return f"{submission.id}.{self.seq}.{self.created_at}"

    @property
    def run_number(self) -> int:
        """Tells the awakeables of this run from those of another one with the same id."""
        return run_number(self.run) if self.run != self.id else 0

    def found_damaged(self, cause: str) -> None:
        """Note that what is stored of it cannot be read: it is paused, and one that has ended stays as it is."""
        self.damaged = True
        if self.status is Status.COMPLETED:
            self.problem = damage(cause)
            return
        if self.status in (Status.SCHEDULED, Status.PENDING):
            self.queued = None  # its turn never comes
        noted = self.status is Status.PAUSED and self.problem is not None and self.problem.reason == Reason.DAMAGED
        if not noted:
            self.problem, self.unnoted = damage(cause), True
        self.status, self.waiting, self.cancelling, self.pausing = Status.PAUSED, None, 0, False


class Signal(msgspec.Struct, frozen=True, gc=False):
    """A signal that arrived before anybody waited for it."""

    ordinal: int
    name: str
    outcome: Outcome


class KeyedObject(msgspec.Struct, gc=False):
    """One key of a virtual object or workflow: who may run, its state, its promises."""

    service: str
    key: str
    #: Exclusive invocations in acceptance order; the first one holds the key.
    queue: deque[int]
    state: dict[str, bytes]
    #: Settled promises of a workflow.
    promises: dict[str, Outcome]
    #: State and promises that are there and cannot be read, with the cause.
    damaged_state: dict[str, str] = {}
    damaged_promises: dict[str, str] = {}
    #: The same of rows whose name is damaged, by the name that they have now.
    lost_state: dict[str, str] = {}
    lost_promises: dict[str, str] = {}
    #: Names whose rows are there, but under another name or key, or may be on a page that cannot be read.
    moved_state: Container[str] = ()
    moved_promises: Container[str] = ()
    #: When the retention of the workflow's completed run is over, and with it state and promises; as far as known:
    #: a start on the key learns it.
    over_at: int | None = None

    def over(self, now: int) -> bool:
        """Whether what is here belongs to a run that is over, though nobody has swept it away yet."""
        return self.over_at is not None and self.over_at <= now

    def forget(self) -> None:
        """The workflow is over: its state and promises are gone."""
        for named in (self.state, self.damaged_state, self.lost_state):
            named.clear()
        self.moved_state = self.moved_promises = ()
        for settled in (self.promises, self.damaged_promises, self.lost_promises):
            settled.clear()
        self.over_at = None

    def state_damage(self, name: str) -> str | None:
        """Why the state of this name cannot be told, or None where it can."""
        if name not in self.state and name in self.moved_state:
            return f"the state {name!r} of {self.service}/{self.key} is damaged: {_MOVED}"
        return _damage(name, self.state, self.damaged_state, self.lost_state)

    def promise_damage(self, name: str) -> str | None:
        """Why nobody can tell whether and how this promise is settled, or None."""
        if name not in self.promises and name in self.moved_promises:
            return f"the promise {name!r} of {self.service}/{self.key} is damaged: {_MOVED}"
        return _damage(name, self.promises, self.damaged_promises, self.lost_promises)


#: What may have become of the row of a name.
_MOVED = "its row has another name or key, or is on a page that cannot be read"


def _damage(name: str, sound: Container[str], damaged: dict[str, str], lost: dict[str, str]) -> str | None:
    if name in damaged:
        return damaged[name]
    return None if name in sound else lost.get(name)


def damage(cause: str, reason: str = Reason.DAMAGED) -> Problem:
    """The problem of an invocation that is paused because something that is stored cannot be read."""
    if isinstance(cause, Why):
        return Problem(str(cause), KeyMissingError.__name__, reason=Reason.KEY_MISSING)
    return Problem(cause, DAMAGED_TYPE, reason=reason)


def visits_a_workflow(submission: Submission) -> bool:
    """Whether it runs on a key beside a workflow's run (or, for a patch of the state, may do so)."""
    return submission.flavor is Flavor.WORKFLOW_SHARED or submission.handler == PATCH_STATE


def run_id(service: str, key: str, span: IdSpan) -> str:
    """The id of a workflow's run on a key."""
    return claimed_id(service, key, "run", "", span=span)


def forgotten(service: str, key: str, promise: str) -> Failure:
    """What those get who wait for a promise of a workflow's run that is purged, or whose retention is over."""
    return Failure(
        f"the workflow {service}/{key} is forgotten: it was purged, or its retention is over; its promise "
        f"{promise!r} will not be settled any more",
        410,
    )


def already_started(target: str) -> Failure:
    """What a second call of a workflow's run handler gets."""
    return Failure(f"the workflow {target} was already started: its run handler runs once per key", 409)
