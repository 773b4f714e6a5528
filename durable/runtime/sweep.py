"""The sweep: results and journals past their retention are forgotten, a batch at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from durable.core.commands import Command, Expire
from durable.core.limits import Limits
from durable.runtime.clock import Clock
from durable.runtime.registry import Registry
from durable.store import CommitRefused, Expired, Store

#: How often the sweep comes, in seconds: as often as the shortest retention in use, within these.
SWEEP_EVERY_S, SWEEP_EVERY_S_MIN = 3600.0, 60.0


class Engine(Protocol):
    """What the sweep needs of the engine's loop."""

    store: Store
    registry: Registry
    clock: Clock
    limits: Limits

    @property
    def stopped(self) -> bool:
        """Whether it has failed or is over."""
        ...

    def submit(self, command: Command) -> None:
        """Have a command settled in the next turn."""
        ...

    def ask(self, make: Callable[[int], Command]) -> Awaitable[Any]:
        """Submit a command that is answered."""
        ...


class Sweep:
    """Comes at the start, and then again and again until `close`."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        chore: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._chore = chore
        self._next: asyncio.TimerHandle | None = None
        self._closed = False

    def begin(self) -> None:
        """Sweep now, and arrange for the next time."""
        self._next = None
        if not self._closed and not self._engine.stopped:
            self._chore(self._run())

    def close(self) -> None:
        """Begin none any more."""
        self._closed = True
        if self._next is not None:
            self._next.cancel()

    async def _run(self) -> None:
        """In small batches, so that no turn is held up by them."""
        engine = self._engine
        before: Sequence[Expired] = ()
        while not self._closed:
            found = await engine.store.expired(engine.clock.now_ms(), engine.limits.cleaned)
            if not found or found == before:  # what cannot be forgotten must not keep it busy
                break
            before = found
            for one in found[:-1]:
                engine.submit(Expire(one.seq, one.workflow, one.journal_only))
            last = found[-1]
            with suppress(CommitRefused):
                await engine.ask(partial(Expire, last.seq, last.workflow, last.journal_only))
        if not self._closed and not engine.stopped:
            delay_s = min(SWEEP_EVERY_S, max(SWEEP_EVERY_S_MIN, engine.registry.shortest_retention_ms() / 1000))
            self._next = self._loop.call_later(delay_s, self.begin)
