"""Whoever wants to follow what the engine does, as it does it: traces, metrics, a simulation.

An observer is told, it is never asked. It is called on the event loop between two things the engine does, so it must
be quick; whatever it raises is logged and harms nobody. Where there is none, nothing is called.
"""

from functools import partial
from typing import Any, cast

from durable import log


class Observer:
    """What can be followed: derive from it, and define what you want to hear of. The rest does nothing.

    Times are the observer's own: it is called when something happens. (A class and no Protocol, so that there can be
    more to hear of one day without breaking those who do not listen to it.)
    """

    def attempt_started(self, id: str, target: str, attempt: int) -> None:
        """A handler begins to run, or to be replayed."""

    def attempt_ended(self, id: str, target: str, attempt: int, how: str) -> None:
        """It runs no more: finished, failed, suspended, unloaded, or ended (from outside, as by a kill)."""

    def step_started(self, id: str, entry: int, name: str) -> None:
        """A step's function begins to run."""

    def step_ended(self, id: str, entry: int, name: str, error: BaseException | None) -> None:
        """It has returned, or raised this."""

    def turn_committed(self, commands: int) -> None:
        """So many commands are durable."""

    def engine_failed(self, error: BaseException) -> None:
        """The engine has stopped by itself; everybody was told."""


def guarded(observer: Observer) -> Observer:
    """The same observer, except that nothing it raises comes through."""
    return cast(Observer, _Guarded(observer))


class _Guarded:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._complained = False
        for name in EVENTS:
            setattr(self, name, partial(self._tell, name))

    def _tell(self, event: str, *about: Any) -> None:
        try:
            getattr(self._observer, event)(*about)
        except (KeyboardInterrupt, SystemExit):  # meant for the process
            raise
        except BaseException as error:
            if not self._complained:  # it may be called a thousand times a second
                self._complained = True
                log.engine.warning(
                    "%s of the engine's observer raised %s; it goes on", event, type(error).__qualname__
                )


#: What an observer is called for.
EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))
