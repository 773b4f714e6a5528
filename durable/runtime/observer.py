"""How traces, metrics, logs and simulations follow what the engine does.

An observer is told what happens and is never asked. It is called on the event loop, between two things that the
engine does, so it must be quick. What it raises is logged and does no harm. Without an observer, nothing is called,
and an event that no observer listens to costs next to nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import msgspec

from durable import log
from durable.core.effects import Failed
from durable.core.invocation import Invocation, Submission
from durable.core.journal import Kind, Outcome
from durable.core.sources import Subscription
from durable.errors import UsageError
from durable.runtime.step import Step


class Asking(msgspec.Struct, frozen=True, eq=False):
    """A request from outside that invokes a handler."""

    service: str
    handler: str
    key: str | None
    #: The headers that the handler will see.
    headers: Mapping[str, str]
    #: Whether the answer is the handler's result.
    waits: bool
    #: Host and port of the client; None for a program of the same user, at the control socket.
    peer: tuple[str, int] | None


class Observer:
    """Derive from it and override the methods for the events that you want to follow. The others do nothing.

    An event carries no time: it is told when it happens. A `Submission` has everything about an invocation that never
    changes: its id, target, headers and caller. Of an `Invocation`, read only `submission`, `seq`, `created_at` and,
    once it has ended, `completed_at`; the rest may have changed already. (This is a class and not a Protocol, so that
    new events do not break existing observers.)
    """

    # ---- the engine ----

    def engine_started(self) -> None:
        """The engine runs. Everything that follows, up to `engine_stopped`, is about this run of it."""

    def engine_stopped(self) -> None:
        """The engine was closed or abandoned. This is always the last event."""

    def engine_failed(self, error: BaseException) -> None:
        """The engine has stopped by itself, and everybody who waited has been told."""

    def turn_committed(self, commands: int, rows: int, seconds: float) -> None:
        """A turn is durable: how many commands and rows it had, and how long its commit took (0 rows need none)."""

    # ---- invocations ----

    def request_started(self, request: Asking) -> None:
        """Somebody asks for an invocation over HTTP, or from another process.

        Context variables that you set here hold until `request_ended`, and so in `invocation_asked`, too.
        """

    def request_ended(self, request: Asking, status: int) -> None:
        """The request was answered with this HTTP status; 0 if the client has gone away."""

    def invocation_asked(self, submission: Submission) -> None:
        """Somebody is about to ask for an invocation: in code, from a handler, or by a restart.

        Called in the caller's context. What you add to `submission.headers` is stored with the invocation.
        `invocation_accepted` or `invocation_dismissed` follows, unless the invocation is refused or the engine ends.
        """

    def record_offered(self, submission: Submission, subscription: Subscription) -> None:
        """A Kafka record is about to become an invocation. Otherwise like `invocation_asked`."""

    def invocation_accepted(self, submission: Submission, created_at: int) -> None:
        """The invocation is durable. (If it is a record that cannot be run, `invocation_ended` follows at once.)"""

    def invocation_dismissed(self, submission: Submission) -> None:
        """It was not accepted: its idempotency key names an earlier one, or its caller's attempt had ended."""

    def invocation_paused(self, submission: Submission) -> None:
        """Nothing happens to it until somebody resumes it. `attempt_failed` may have said why."""

    def invocation_ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """It has ended, and this is durable: its handler or its retry policy ended it, or somebody killed it.

        If it was the policy, `attempt_failed` has said so before.
        """

    # ---- attempts ----

    def attempt_started(self, submission: Submission, attempt: int) -> None:
        """A handler begins to run, or to replay.

        Context variables that you set here hold in the handler, its flows and its steps. (A handler that was kept in
        memory while it waited begins its next attempt in the same context.)
        """

    def attempt_ended(self, submission: Submission, attempt: int, how: str, error: BaseException | None) -> None:
        """The attempt is over. `how`: finished, failed (with `error`), suspended, unloaded, or ended (a kill)."""

    def attempt_lost(self, submission: Submission, attempt: int) -> None:
        """At a start: the process before ended without a clean close while this attempt ran.

        `attempt_started` follows for the next attempt, or `attempt_failed` with what happens instead.
        """

    def attempt_failed(self, failed: Failed) -> None:
        """What follows a failure is durable: another attempt at once or later, a pause, or the end.

        `attempt_ended` came before, unless this process never had such an attempt: it ended in a crash, its handler
        is gone, or its journal is damaged. After `Then.END`, `invocation_ended` comes next.
        """

    def entry_made(self, submission: Submission, attempt: int, entry: int, kind: Kind, name: str) -> None:
        """A handler has asked for something that is not in its journal yet. Steps have the events below."""

    def step_asked(self, submission: Submission, attempt: int, entry: int, step: Step, recorded: bool) -> None:
        """A handler has asked for a step, perhaps in a replay. `recorded`: the journal knows of it already.

        Of the step, read only `name`, `fn`, `args` and `kwargs`.
        """

    def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
        """A step's function begins to run. Context variables that you set here hold in it, also in a thread."""

    def step_ended(
        self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
    ) -> None:
        """The step has returned, or raised `error` (perhaps its cancellation). Called in the same context."""

    def step_recorded(self, submission: Submission, attempt: int, entry: int) -> None:
        """The step's result, or its final failure, is durable. It never runs again."""


#: The names of all events.
EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


def observers_of(given: object) -> tuple[Observer, ...]:
    """One observer, several, or None. Raises `UsageError`."""
    if given is None:
        return ()
    several = tuple(given) if isinstance(given, Iterable) else (given,)
    for one in several:
        if isinstance(one, type) or not any(callable(getattr(type(one), event, None)) for event in EVENTS):
            raise UsageError(f"observer takes an Observer, or several of them, not {one!r}")
    return cast(tuple[Observer, ...], several)


def together(observers: Iterable[Observer]) -> Observer | None:
    """One observer that tells all of these, in this order, and raises nothing; None if there are none."""
    several = tuple(observers)
    return cast(Observer, _Together(several)) if several else None


class _Together:
    def __init__(self, observers: tuple[Observer, ...]) -> None:
        for event in EVENTS:
            hear = [
                self._safe(one, event)
                for one in observers
                if getattr(type(one), event, None) is not getattr(Observer, event)
            ]
            tell: Callable[..., None] = _nobody
            if len(hear) == 1:
                [tell] = hear
            elif hear:
                tell = partial(_tell_all, hear)
            setattr(self, event, tell)
        self._complained: set[int] = set()

    def _safe(self, observer: Observer, event: str) -> Callable[..., None]:
        """A call that tells the observer of an event, and survives whatever the observer raises."""

        def tell(*about: Any) -> None:
            try:
                getattr(observer, event)(*about)
            except (KeyboardInterrupt, SystemExit):  # meant for the process
                raise
            except BaseException as error:
                if id(observer) not in self._complained:  # it may be called a thousand times a second
                    self._complained.add(id(observer))
                    log.engine.warning(
                        "%s of the engine's observer raised %s; it goes on", event, type(error).__qualname__
                    )

        return tell


def _tell_all(hear: list[Callable[..., None]], *about: Any) -> None:
    for tell in hear:
        tell(*about)


def _nobody(*about: Any) -> None:
    """Nobody listens."""
