"""What can be asked of the core. Every command is data; `settle` decides what it does.

The commands of an attempt carry its number; those of any attempt but the current one are ignored. Commands from
outside carry a `token`, by which the runtime finds who waits for the reply, and may carry a key that makes them take
effect `once`.
"""

from typing import Protocol

import msgspec

from durable.core.invocation import Problem, Submission
from durable.core.journal import Kind, Outcome
from durable.core.once import Once
from durable.core.record_commands import (
    Begin,
    ChangeSubscription,
    HoldSubscription,
    Reposition,
    SetCluster,
    Subscribe,
    Take,
    Unsubscribe,
)
from durable.core.retry import RetryPolicy
from durable.core.waiting import Group


class Again(Protocol):
    """Compares a request with the first one that came with its idempotency key. Pure."""

    @property
    def refuses(self) -> bool:
        """Whether one with another input is refused; else its answer is the first one's."""
        ...

    def said(self, id: str, found: bytes) -> str:
        """How it differs from that one, which has this id and this input; nothing where it does not."""
        ...


class Submit(msgspec.Struct, frozen=True, gc=False):
    """Accept an invocation (or find the one its idempotency key already names)."""

    submission: Submission
    token: int = 0
    #: Whether it may have been accepted before, under this very id.
    repeated: bool = False
    #: Of one that a handler asks for with an idempotency key.
    again: Again | None = None


# ---- what an attempt asks for ----


class Record(msgspec.Struct, frozen=True, gc=False):
    """Write an entry that sets nothing else in motion: a step, a read, a moment in time.

    With an `outcome` the entry is complete as written; without one it is a step that is still running.
    """

    seq: int
    attempt: int
    entry: int
    kind: Kind
    name: str
    seen: int
    outcome: Outcome | None = None
    #: Whether the attempt waits for this outcome to be durable.
    awaited: bool = False
    #: Of a step that runs: `INTERRUPTIBLE`; of what is given up, the fingerprint of what was to be passed on.
    detail: str | None = None


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Write the outcome of a step that was recorded as running."""

    seq: int
    attempt: int
    entry: int
    name: str
    outcome: Outcome


class Sleep(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry at `due_at`."""

    due_at: int


class Invoke(msgspec.Struct, frozen=True, gc=False):
    """Start another invocation; a call completes the entry with its result."""

    submission: Submission
    #: How many cancels had reached the handler: a call it asked for before it saw the last one is never made.
    cancels: int = 0
    #: See `Submit`.
    again: Again | None = None


class AwaitAwakeable(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry when the outside does."""


class AwaitSignal(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry with the next signal of that name."""


class AwaitPromise(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry when the workflow's promise is settled."""

    service: str
    key: str


class PeekPromise(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry at once with the promise's outcome, or with nothing."""

    service: str
    key: str


class CompletePromise(msgspec.Struct, frozen=True, gc=False):
    """Settle a promise; the entry tells whether it was the first to do so."""

    service: str
    key: str
    outcome: Outcome


class SetState(msgspec.Struct, frozen=True, gc=False):
    """Write, or with None delete, one state key; `name` None clears them all."""

    service: str
    key: str
    name: str | None
    value: bytes | None


class AttachTo(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry with another invocation's outcome."""

    id: str


class ReadOutput(msgspec.Struct, frozen=True, gc=False):
    """Complete the entry at once with another invocation's outcome, or with nothing."""

    id: str


class Tell(msgspec.Struct, frozen=True, gc=False):
    """Pass a command on to another invocation; the entry itself waits for nothing."""

    command: "CompleteEntry | SendSignal | Cancel"


Asked = (
    Sleep
    | Invoke
    | AwaitAwakeable
    | AwaitSignal
    | AwaitPromise
    | PeekPromise
    | CompletePromise
    | SetState
    | AttachTo
    | ReadOutput
    | Tell
)


class OpenEntry(msgspec.Struct, frozen=True, gc=False):
    """Write an entry and set in motion what it asks for."""

    seq: int
    attempt: int
    entry: int
    kind: Kind
    name: str
    seen: int
    asked: "Asked"
    #: Kept with the entry, to find again what it hangs on.
    detail: str | None = None
    #: Of what is passed on, for a replay to compare.
    fingerprint: bytes | None = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The handler returned, or ended with a terminal failure."""

    seq: int
    attempt: int
    outcome: Outcome


class Fail(msgspec.Struct, frozen=True, gc=False):
    """The attempt failed in a way that may be retried."""

    seq: int
    attempt: int
    problem: Problem
    policy: RetryPolicy
    #: Set where the failing step has a policy of its own: it alone decides then.
    step_policy: RetryPolicy | None = None
    retry_after_ms: int | None = None
    #: What callers get when the policy gives up.
    failure: Outcome | None = None
    #: Whether the failing step is recorded as running already.
    step_open: bool = False
    step_seen: int = 0
    #: How many cancels had reached it, and whether one was among them that the handler has not seen.
    cancels: int = 0
    cancel_due: bool = False
    #: Whether the step's policy says itself that it is paused with no try left.
    step_pauses: bool = False


class Suspend(msgspec.Struct, frozen=True, gc=False):
    """The handler only waits, so its attempt has let it go."""

    seq: int
    attempt: int
    waiting: int | Group
    #: How many completions had reached it by then.
    notified: int
    #: Where its handler is still there and may stay for now: what it counts among those (`Limits.warm`).
    weight: int = 0


class Cool(msgspec.Struct, frozen=True, gc=False):
    """The handler of a suspended invocation is no longer in memory: its next attempt is a replay."""

    seq: int
    #: The attempt that was suspended.
    attempt: int


# ---- what happens outside ----


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer is due. Entry 0 is the invocation's own: its start, or its next attempt."""

    due_at: int
    seq: int
    entry: int


class CompleteEntry(msgspec.Struct, frozen=True, gc=False):
    """Complete an awakeable."""

    id: str
    entry: int
    outcome: Outcome
    token: int = 0
    #: Of which run of that id it is; 0 is any.
    run: int = 0
    once: Once | None = None


class SendSignal(msgspec.Struct, frozen=True, gc=False):
    """Hand a named signal to an invocation."""

    id: str
    name: str
    outcome: Outcome
    token: int = 0
    once: Once | None = None


class SettlePromise(msgspec.Struct, frozen=True, gc=False):
    """Resolve or reject a workflow's promise from outside."""

    service: str
    key: str
    name: str
    outcome: Outcome
    token: int = 0
    once: Once | None = None


class Attach(msgspec.Struct, frozen=True, gc=False):
    """Find an invocation, and its outcome if it has ended."""

    id: str
    token: int = 0


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Ask an invocation to stop: its handler sees one `InvocationCancelled`."""

    id: str
    token: int = 0
    #: Say what would become of it, and change nothing.
    dry: bool = False
    once: Once | None = None


class Kill(msgspec.Struct, frozen=True, gc=False):
    """End an invocation and every call it waits for, without running any of their code."""

    id: str
    token: int = 0
    #: Say what would become of it, and change nothing.
    dry: bool = False
    once: Once | None = None


class Pause(msgspec.Struct, frozen=True, gc=False):
    """Let running steps end; then nothing more happens until it is resumed or cancelled."""

    id: str
    token: int = 0
    #: Say what would become of it, and change nothing.
    dry: bool = False
    once: Once | None = None


class Unloaded(msgspec.Struct, frozen=True, gc=False):
    """The attempt that was to be paused has no running step left, and is gone."""

    seq: int
    attempt: int


class Resume(msgspec.Struct, frozen=True, gc=False):
    """Start a paused invocation again, with a fresh retry budget; retry at once one that is backing off."""

    id: str
    token: int = 0
    #: Say what would become of it, and change nothing.
    dry: bool = False
    once: Once | None = None


class Restart(msgspec.Struct, frozen=True, gc=False):
    """Run a completed invocation again, as a new one that keeps the first entries of its journal."""

    id: str
    new_id: str
    from_entry: int = 0
    token: int = 0
    #: Say what would become of it, and change nothing.
    dry: bool = False
    #: Its headers, where those of the old one will not do.
    headers: dict[str, str] | None = None
    once: Once | None = None


class Purge(msgspec.Struct, frozen=True, gc=False):
    """Forget a completed invocation, or only its journal."""

    id: str
    journal_only: bool = False
    token: int = 0
    #: Say what would become of it, and change nothing.
    dry: bool = False
    once: Once | None = None


class Crash(msgspec.Struct, frozen=True, gc=False):
    """How the process ended before: without a clean close, while an attempt of the invocation was running."""

    #: Set where no other suspect was running: it may have been this one, so its budget is looked at.
    policy: RetryPolicy | None = None


class Recover(msgspec.Struct, frozen=True, gc=False):
    """After a start: give every invocation that had a slot its next attempt."""

    seq: int
    token: int = 0
    #: None after a clean close.
    crash: Crash | None = None


class Recovered(msgspec.Struct, frozen=True, gc=False):
    """After a start: everything that had a slot has been recovered, so others may have the slots that are left."""

    token: int = 0


class Lend(msgspec.Struct, frozen=True, gc=False):
    """A step of an invocation (or its handler) waits for the engine: meanwhile its slot goes to another one.

    `more`: 1 when one begins to wait, -1 when it goes on.
    """

    seq: int
    more: int


class Trust(msgspec.Struct, frozen=True, gc=False):
    """A suspect has run long enough without harm: other suspects may start beside it."""

    seq: int


class NoteDamage(msgspec.Struct, frozen=True, gc=False):
    """The stored rows of an invocation, or what it reads, are damaged: it is paused for that reason."""

    seq: int
    problem: Problem
    #: Of the attempt that found it; 0 where it was read otherwise.
    attempt: int = 0
    token: int = 0


class Configure(msgspec.Struct, frozen=True, gc=False):
    """Store options that were set at run time; `text` is how the runtime writes them."""

    service: str
    text: str
    token: int = 0


class Declare(msgspec.Struct, frozen=True, gc=False):
    """Store how a service was declared last, and how often that has changed."""

    service: str
    revision: int
    declaration: str


class Expire(msgspec.Struct, frozen=True, gc=False):
    """Forget a completed invocation whose retention is over; or only its journal, if only that one's is over."""

    seq: int
    #: A workflow's run, whose state goes with it.
    workflow: bool = False
    journal_only: bool = False
    token: int = 0


# ---- what invocations tell each other ----


class Notify(msgspec.Struct, frozen=True, gc=False):
    """Complete an entry of another invocation: a call's result, a promise, an attach."""

    seq: int
    entry: int
    outcome: Outcome
    #: What the entry must hang on (`Open.ref`): a damaged address never completes somebody else's entry.
    ref: str


class KeyFree(msgspec.Struct, frozen=True, gc=False):
    """The invocation at the head of a key's queue may start."""

    seq: int


Command = (
    Submit
    | Record
    | Finished
    | OpenEntry
    | Finish
    | Fail
    | Suspend
    | Cool
    | TimerFired
    | CompleteEntry
    | SendSignal
    | SettlePromise
    | Attach
    | Cancel
    | Kill
    | Pause
    | Unloaded
    | Resume
    | Restart
    | Purge
    | Recover
    | NoteDamage
    | Recovered
    | Trust
    | Lend
    | Configure
    | Declare
    | Expire
    | Subscribe
    | Unsubscribe
    | HoldSubscription
    | ChangeSubscription
    | Reposition
    | Begin
    | Take
    | SetCluster
    | Notify
    | KeyFree
)
