"""The timers that handlers set on their event loop: one of them may cut a durable wait short.

Whatever a time-out is made of, a timer of the event loop stands behind it, in the context of whoever set it: so
`CURRENT` names the handler. That finds it where no frame shows it, too: an `asyncio.timeout` that a class of the
user's own enters. All handlers that began to wait are looked at together, once a turn or a round of the event loop,
so that one that sets no timers costs nothing. (An event loop that does not show its timers, as uvloop, leaves the
frames: see `deadlines.place`.)
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextvars import Context
from functools import partial
from gc import get_referents
from itertools import islice
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, Protocol
from weakref import ref

from durable.callbacks import held_by
from durable.runtime.current import CURRENT, InStep
from durable.runtime.waiters import Flow

_Task = asyncio.Task[Any]
_Timer = asyncio.TimerHandle

#: Where there are more timers, each one puts the look off by a microsecond, so that it takes 2 % of the time at most.
MANY = 200
#: So many things that an object has are looked at, at most.
HELD_MAX = 1000
#: What only wakes who sleeps.
_WAKES = getattr(asyncio.futures, "_set_result_unless_cancelled", None)
#: Time-outs of these are found by what is waited for, or by their scopes.
_SEEN_OTHERWISE = ("asyncio.tasks", "anyio._backends._asyncio")


class Waiting(Protocol):
    """Who sets timers and waits: an attempt."""

    def refuse_limits(self, flows: Iterable[Flow], timers: Iterable[_Timer] = ()) -> bool:
        """Whether one of these waits has a limit that no journal knows: then it fails. `timers`: those it has set."""
        ...


class Alarms:
    """See the module's docstring."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop: Any = loop
        self._context = context
        #: Whether the event loop shows its timers.
        self.shown = hasattr(loop, "_scheduled")
        #: Which flows began to wait since the last look.
        self.begun: list[tuple[Waiting, Flow]] = []
        self._due = False
        #: The timers of each handler that has some, in this round of the event loop.
        self._found: dict[object, list[_Timer]] | None = None

    def look(self) -> None:
        """A turn begins: refuse what limits the waits that have begun, now or soon."""
        if not self.begun:
            return
        if len(self._loop._scheduled) > MANY:
            self.look_soon()
        else:
            self._look()

    def look_soon(self) -> None:
        """A wait begins, and no turn need follow."""
        if not self._due and self.shown:
            self._due = True
            many = len(self._loop._scheduled)
            if many > MANY:
                self._loop.call_later(many / 1e6, self._look, context=self._context)
            else:
                self._loop.call_soon(self._look, context=self._context)

    def _look(self) -> None:
        self._due = False
        begun, self.begun = self.begun, []
        found = self._find() if begun else None
        if found:
            flows: dict[Waiting, list[Flow]] = {}
            for one, flow in begun:
                if one in found:
                    flows.setdefault(one, []).append(flow)
            for one, waiting in flows.items():
                one.refuse_limits(waiting, found[one])

    def of(self, one: object) -> list[_Timer] | None:
        """The timers of a handler that waits in all its flows; None where the event loop does not show them."""
        if not self.shown:
            return None
        if self._found is None:
            self._found = self._find()
            self._loop.call_soon(self._forget, context=self._context)
        return self._found.get(one, [])

    def _forget(self) -> None:
        self._found = None

    def _find(self) -> dict[object, list[_Timer]]:
        found: dict[object, list[_Timer]] = {}
        for timer in self._loop._scheduled:
            one = timer._context.get(CURRENT)
            if one is not None and type(one) is not InStep and timer._callback not in (None, _WAKES):
                found.setdefault(one, []).append(timer)
        return found


def aimed_at(timers: Iterable[_Timer]) -> Iterator[tuple[_Task, object]]:
    """The tasks that these timers will cancel, as far as can be seen: they are held by what a timer calls.

    With what calls it. Left out is what `asyncio` and `anyio` show in other ways.
    """
    for timer in timers:
        for source in _sources(timer):
            if type(source).__module__ in _SEEN_OTHERWISE:
                continue
            for held in islice(_held(source), HELD_MAX):
                if issubclass(type(held), asyncio.Task):
                    yield held, source


def _sources(timer: Any) -> Iterator[Any]:
    """Whose method it calls, or what its function was made with; and what it is given."""
    yield from timer._args or ()
    callback = timer._callback
    while type(callback) is partial:
        yield from (*callback.args, *callback.keywords.values())
        callback = callback.func
    if type(callback) is FunctionType:
        if callback.__module__ not in _SEEN_OTHERWISE:
            yield from held_by(callback)
    else:
        yield callback.__self__ if type(callback) in (MethodType, BuiltinMethodType) else callback


def _held(source: Any) -> Iterator[Any]:
    """Itself, and what it has: in attributes, and in collections in them."""
    yield source
    if not issubclass(type(source), asyncio.Future | asyncio.AbstractEventLoop | type):
        for one in get_referents(source):
            if type(one) is dict:
                yield from list(one.values())
            elif type(one) in (list, tuple, set, frozenset):
                yield from list(one)
            else:
                yield one() if type(one) is ref else one
