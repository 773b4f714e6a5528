"""One life of an engine, from a start to a close: in one process, on one event loop.

Everything that must not outlive it hangs on it, so that the engine can be started again, on another event loop too.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Protocol

from durable.engine.door import Door
from durable.engine.roles import Role
from durable.errors import EngineNotRunningError, ForkedEngineError, WrongLoopError
from durable.runtime.loop import Loop

#: How long, once the engine has ended, whoever is being answered at the control socket has for the rest.
DOOR_S = 1.0
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Begun:
    """What was begun in one process, on one event loop, and can be used there only."""

    def __init__(self) -> None:
        self.event_loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._forks = _forks

    @property
    def over(self) -> bool:
        """Whether it has ended, so that the next one can begin."""
        raise NotImplementedError

    @property
    def forked(self) -> bool:
        """Whether it belongs to the parent process."""
        return self._forks != _forks

    def check_place(self) -> None:
        """Whether it can be used here. Raises `ForkedEngineError`, `WrongLoopError`."""
        if self.forked:
            raise ForkedEngineError(
                "this engine belongs to the parent process: a forked child must open its own engine, on another file "
                "(on this one with standby=True)"
            )
        if self.over:
            return
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self.event_loop:
            raise WrongLoopError(
                "this engine runs on another event loop: from a thread, use "
                "asyncio.run_coroutine_threadsafe(engine.call(...), loop) with the loop that started it"
            )


class Reading(Protocol):
    """What reads records for a life."""

    def begin(self) -> None:
        """Read for all subscriptions that are stored."""
        ...

    async def close(self) -> None:
        """End in good order. Raises nothing."""
        ...

    def abandon(self) -> None:
        """End as a killed process would; needs no event loop."""
        ...


class Life(Begun):
    """Begins with `start`, ends with `close` or `abandon`, or with its event loop."""

    #: Who is asked instead; an engine on standby has one.
    elsewhere: None = None

    def __init__(self, loop: Loop, door: Door | None = None, read: Callable[[Loop], Reading] | None = None) -> None:
        super().__init__()
        self.loop = loop
        self._read = read
        #: What reads for its subscriptions, once there is one.
        self._reading: Reading | None = None
        #: Where programs of other processes come in.
        self.door = door
        #: One change of a service's options after the other.
        self.configuring = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._abandoned = False
        self._runs = False

    # ---- where it stands ----

    @property
    def over(self) -> bool:
        """Whether the next one can begin: it was closed, abandoned, or did not start, or its event loop is gone."""
        if self._abandoned or self.loop.over or self.event_loop.is_closed():
            return True
        return self._starting is not None and self._starting.done() and not self._started

    @property
    def role(self) -> Role | None:
        """What it is to its file."""
        return Role.HOLDER if self._started and not self.ends else None

    @property
    def failure(self) -> BaseException | None:
        """Why it stopped by itself, if it did."""
        return self.loop.failure

    @property
    def _started(self) -> bool:
        starting = self._starting
        return starting is not None and starting.done() and not starting.cancelled() and not starting.exception()

    @property
    def ends(self) -> bool:
        """Whether it ends or has ended."""
        return self.over or self._closing is not None

    def check(self) -> None:
        """Whether it can be asked anything, here. Raises what `check_place` and `check_running` do."""
        loop = self.loop
        if (  # the usual; to ask which event loop runs here would be a system call, up to Python 3.11
            self._runs
            and self._forks == _forks
            and self._closing is None
            and not self._abandoned
            and self._thread == get_ident()
            and self.event_loop.is_running()
            and loop.failure is None
            and not loop.closing
            and not loop.over
        ):
            return
        self.check_place()
        self.check_running()
        self._runs = True

    def check_running(self) -> None:
        """Whether it can be asked anything. Raises why not."""
        if self.loop.failure is not None:
            raise self.loop.failure
        if self.ends or self.loop.closing:
            raise EngineNotRunningError("the engine is closed, or being closed: start it again to use it")
        if not self._started:
            raise EngineNotRunningError("the engine is being started: wait for `start()`")

    # ---- beginning and ending ----

    async def start(self) -> None:
        """Begin. Where it is closed meanwhile that ends in an `EngineNotRunningError`."""
        self._starting = self.event_loop.create_task(self.loop.start())  # its own: whoever closes can end it
        try:
            await self._starting
        except asyncio.CancelledError:
            here = asyncio.current_task()
            if here is not None and here.cancelling():
                if self._started and self._closing is None:  # at that very moment; nobody knows that it runs
                    self.abandon()
                raise
            if not self.ends:
                raise
            raise EngineNotRunningError("the engine was closed while it started") from None
        if self._closing is not None:
            raise EngineNotRunningError("the engine was closed while it started")
        if self.door is not None:
            self.door.open()
        if self.loop.world.subscriptions and self._read is not None:
            self.reading().begin()

    def reading(self) -> Reading:
        """What reads for it, made when it is first asked for."""
        if self._reading is None:
            assert self._read is not None, "an engine gives one"
            self._reading = self._read(self.loop)
        return self._reading

    async def close(self, grace_s: float) -> None:
        """End. Idempotent: whoever asks waits for the same end, and may be cancelled without harm."""
        if self._closing is None:
            if self.over:
                return
            self._closing = self.event_loop.create_task(self._close(grace_s))
        await asyncio.shield(self._closing)

    async def _close(self, grace_s: float) -> None:
        starting = self._starting
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        if not self._started:
            return
        if self._reading is not None:
            began = self.event_loop.time()
            await self._reading.close()
            grace_s = max(grace_s / 2, grace_s - (self.event_loop.time() - began))
        if self.door is None:
            await self.loop.close(grace_s)
            return
        await self.door.stop()
        try:
            await self.loop.close(grace_s)  # who waits is told so
        finally:
            await self.door.close(DOOR_S)

    def abandon(self) -> None:
        """End at once, and write nothing more. Idempotent; needs no event loop."""
        self._abandoned = True
        if self.forked:
            return  # the file, the thread and the lock are the parent's
        if self._starting is not None and not self.event_loop.is_closed():
            self._starting.cancel()
        if self._reading is not None:
            self._reading.abandon()
        if self.door is not None:
            self.door.abandon()
        self.loop.abandon()

    async def ended(self) -> None:
        """Wait until it is over, if somebody closes it."""
        if self._closing is not None:
            with suppress(Exception):  # that is told to whoever closed it
                await asyncio.shield(self._closing)
