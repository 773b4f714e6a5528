"""Who runs the handlers where several processes have one file: what an engine on standby does next.

Pure: what has happened goes in, the next step comes out. `engine.standby` takes the steps.

    take the lock ── taken ─────────────► hold, until the engine fails
       ▲    └─ somebody has it ─► dial ── found ─► follow, until the connection closes ─┐
       │                           └─ nobody answers ─► pause ─┐                        │
       └───────────────────────────────────────────────────────┴────────────────────────┘
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec

#: How long it waits before it tries again: at first, and at most.
PAUSE_S, PAUSE_S_MAX = 0.02, 0.2
#: The same after the file could not be opened, or the engine has failed.
FAILED_S = 1.0
#: How long a connection must have been open for its end to mean that the holder is gone.
STEADY_S = 0.5
#: After how long it is said that the file is locked, and nobody answers.
NAMED_AFTER_S = 1.0
#: How long a start waits for a holder that does not answer.
START_S = 60.0


class Role(StrEnum):
    """What an engine is to its file."""

    #: It has the file, and runs the handlers.
    HOLDER = "holder"
    #: Another engine has the file, and this one forwards to it; when it is gone, this one may become the holder.
    STANDBY = "standby"


class Standing(msgspec.Struct, frozen=True):
    """All that a decision depends on."""

    role: Role | None = None
    #: Since when neither it nor anybody else is known to hold the file.
    since: float = 0.0
    #: How often it has dialled in vain since then.
    tries: int = 0
    #: Whether that has been said.
    named: bool = False


# ---- what has happened ----


class Taken(msgspec.Struct, frozen=True):
    """The file is ours, and the engine runs."""


class Locked(msgspec.Struct, frozen=True):
    """Another engine has the file."""


class Refused(msgspec.Struct, frozen=True):
    """The file could not be opened, whoever has it."""

    error: Exception


class Found(msgspec.Struct, frozen=True):
    """The holder answers."""


class Silent(msgspec.Struct, frozen=True):
    """Nobody answers at the control socket."""

    error: Exception


class Gone(msgspec.Struct, frozen=True):
    """The connection to the holder has closed."""


class Failed(msgspec.Struct, frozen=True):
    """Our own engine has stopped by itself, and let the file go."""


class Waited(msgspec.Struct, frozen=True):
    """The pause is over."""


Event: TypeAlias = Taken | Locked | Refused | Found | Silent | Gone | Failed | Waited

# ---- what is done next ----


class Take(msgspec.Struct, frozen=True):
    """Try to take the file, and to start the engine."""


class Dial(msgspec.Struct, frozen=True):
    """Look who answers at the control socket."""


class Follow(msgspec.Struct, frozen=True):
    """Have the holder asked; wait until its connection closes."""


class Hold(msgspec.Struct, frozen=True):
    """Run the handlers; wait until the engine fails."""


class Pause(msgspec.Struct, frozen=True):
    """Wait a little. An error is said before."""

    seconds: float
    error: Exception | None = None


class GiveUp(msgspec.Struct, frozen=True):
    """The start has failed."""

    error: Exception


Step: TypeAlias = Take | Dial | Follow | Hold | Pause | GiveUp


def next_step(standing: Standing, event: Event, now: float) -> tuple[Standing, Step]:
    """What is done once something has happened. The first step of all is `Take`."""
    match event:
        case Taken():
            return Standing(Role.HOLDER, now), Hold()
        case Found():
            return Standing(Role.STANDBY, now), Follow()
        case Locked():
            return standing, Dial()
        case Waited():
            return standing, Take()
        case Gone() if now - standing.since < STEADY_S:  # a holder without descriptors lets nobody stay
            return Standing(Role.STANDBY, now), Pause(PAUSE_S_MAX)
        case Gone():
            return Standing(Role.STANDBY, now), Take()
        case Failed():
            return Standing(Role.STANDBY, now), Pause(FAILED_S)
        case Refused(error):
            if standing.role is None:
                return standing, GiveUp(error)
            named = msgspec.structs.replace(standing, named=True)
            return named, Pause(FAILED_S, None if standing.named else error)
        case Silent(error):
            return _unanswered(standing, error, now)


def _unanswered(standing: Standing, error: Exception, now: float) -> tuple[Standing, Step]:
    """A holder that is starting, or ending, answers soon; one without a control socket never does."""
    silent_s = now - standing.since
    if standing.role is None and silent_s >= START_S:
        return standing, GiveUp(error)
    name = silent_s >= NAMED_AFTER_S and not standing.named
    pause = min(PAUSE_S * 2 ** min(standing.tries, 10), PAUSE_S_MAX)
    after = msgspec.structs.replace(standing, tries=standing.tries + 1, named=standing.named or name)
    return after, Pause(pause, error if name else None)
