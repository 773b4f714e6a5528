"""Whoever wants to follow what the engine does, as it does it: traces, metrics, logs, a simulation.

An observer is told, it is never asked. It is called on the event loop between two things the engine does, so it must
be quick; whatever it raises is logged and harms nobody. Where there is none, nothing is called; where nobody listens
to an event, next to nothing.
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


class Asking(msgspec.Struct, frozen=True, eq=False):
    """A request from outside that invokes a handler."""

    service: str
    handler: str
    key: str | None
    #: What the handler will see.
    headers: Mapping[str, str]
    #: Whether the answer is the handler's result.
    waits: bool
    #: Host and port of the client; None where that is a program of the same user, at the control socket.
    peer: tuple[str, int] | None


class Observer:
    """What can be followed: derive from it, and define what you want to hear of. The rest does nothing.

    Times are the observer's own: it is called when something happens. Nothing is told twice: what is fixed of an
    invocation is in its `Submission`, with its id, target, headers and caller, and of an `Invocation` only what is
    fixed may be read (`submission`, `seq`, `created_at`, once it has ended `completed_at`): the rest has gone on. (A
    class and no Protocol, so that there can be more to hear of one day without breaking those who do not listen.)
    """

    # ---- the engine ----

    def engine_started(self) -> None:
        """It runs: what follows is told of this life of it."""

    def engine_stopped(self) -> None:
        """It was closed, or abandoned; told after the last of everything else."""

    def engine_failed(self, error: BaseException) -> None:
        """It has stopped by itself; everybody was told."""

    def turn_committed(self, commands: int, rows: int, seconds: float) -> None:
        """So many commands are durable: in so many rows, whose commit took so long (0 rows need none)."""

    # ---- invocations ----

    def request_started(self, request: Asking) -> None:
        """Over HTTP, or from another process, somebody asks for an invocation.

        What this sets in context variables holds until `request_ended`, so in `invocation_asked`, too.
        """

    def request_ended(self, request: Asking, status: int) -> None:
        """It was answered with this status of HTTP; 0 where the client has gone away."""

    def invocation_asked(self, submission: Submission) -> None:
        """Somebody is about to ask for an invocation: in code, from a handler, or as a restart.

        What is put into `submission.headers` is stored with it. Called in the context of whoever asks. Then
        `invocation_accepted` or `invocation_dismissed` is told, unless it is refused or the engine ends first.
        """

    def record_offered(self, submission: Submission, subscription: Subscription) -> None:
        """A record of a topic is about to become an invocation: as `invocation_asked`."""

    def invocation_accepted(self, submission: Submission, created_at: int) -> None:
        """It is durable. (Of a record that cannot be run, `invocation_ended` follows at once.)"""

    def invocation_dismissed(self, submission: Submission) -> None:
        """It was not accepted: its idempotency key names an earlier one, or the caller's attempt was over."""

    def invocation_paused(self, submission: Submission) -> None:
        """Nothing happens to it until somebody resumes it (`attempt_failed` may have told why)."""

    def invocation_ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """It has ended, and that is durable: by its handler, by its policy (`attempt_failed` said so), or killed."""

    # ---- attempts ----

    def attempt_started(self, submission: Submission, attempt: int) -> None:
        """A handler begins to run, or to be replayed.

        What this sets in context variables holds in the handler, its flows and its steps. (Of a handler that was kept
        while it waited this is the next attempt: it goes on in the same context.)
        """

    def attempt_ended(self, submission: Submission, attempt: int, how: str, error: BaseException | None) -> None:
        """It runs no more: finished, failed (of `error`), suspended, unloaded, or ended (as by a kill)."""

    def attempt_lost(self, submission: Submission, attempt: int) -> None:
        """After a start: its process ended without a clean close while this ran, and perhaps before it told anybody.

        `attempt_started` follows, for the next one, or `attempt_failed` with what else becomes of it.
        """

    def attempt_failed(self, failed: Failed) -> None:
        """What follows from a failure is durable: another attempt at once or later, a pause, or the end.

        `attempt_ended` came before, unless there never was an attempt in this process: it ended in a crash, its
        handler is gone, its journal is damaged. With `Then.END`, `invocation_ended` comes next.
        """

    def entry_made(self, submission: Submission, attempt: int, entry: int, kind: Kind, name: str) -> None:
        """A handler has asked for something that is not in its journal yet; for steps see below."""

    def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
        """A step's function begins to run. What this sets in context variables holds in that, also in a thread."""

    def step_ended(
        self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
    ) -> None:
        """It has returned, or raised this (which may be its cancellation). Called in the same context."""

    def step_recorded(self, submission: Submission, attempt: int, entry: int) -> None:
        """What it returned, or that it has failed for good, is durable: it never runs again."""


#: What an observer is called for.
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
    """All of them as one that raises nothing, in this order; None where there are none."""
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
        """To be told of this, whatever the observer makes of it."""

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
