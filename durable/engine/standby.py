"""An engine of which several processes have one each, on one file: it holds the file, or asks whoever does.

What it does next is decided in `engine.roles`; here that is done. Whoever waits through it, for the holder that is
gone, is asking the socket again all the time: so it needs no care when the role changes.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from typing import assert_never

from anyio import to_thread

from durable import log
from durable.engine import roles
from durable.engine.door import SERVER
from durable.engine.follower import Follower
from durable.engine.life import Begun, Life, Reading
from durable.engine.outlook import Outlook
from durable.engine.roles import Event, Role, Standing, Step, next_step
from durable.errors import (
    DurableError,
    EngineLockedError,
    EngineNotRunningError,
    EngineUnreachableError,
    StorageReplacedError,
)
from durable.remote.connections import Connection
from durable.runtime.loop import Loop
from durable.runtime.tasks import unmourned
from durable.store.lock import Identity

#: How often it is looked what a take-over would meet.
LOOK_EVERY_S = 60.0


class Standby(Begun):
    """One start of an engine with `standby=True`, to its close: a `Life` where it holds the file."""

    def __init__(
        self, path: str, follower: Follower, begin: Callable[[], Life], outlook: Callable[[], Outlook]
    ) -> None:
        super().__init__()
        self._path = path
        self._follower = follower
        self._begin = begin
        self._outlook = outlook
        #: What was said of a take-over.
        self._foreseen: tuple[str, ...] = ()
        self._standing = Standing(since=self.event_loop.time())
        #: Of our own engine: while it holds the file, or tries to.
        self._life: Life | None = None
        #: The file that it was started on.
        self._known: Identity | None = None
        self._line: Connection | None = None
        self._lines = AsyncExitStack()
        self._running: asyncio.Task[None] | None = None
        self._readying: asyncio.Task[object] | None = None
        self._placed: asyncio.Future[None] = self.event_loop.create_future()
        self._closing: asyncio.Task[None] | None = None
        self._abandoned = False

    # ---- where it stands ----

    @property
    def role(self) -> Role | None:
        """What it is to its file."""
        return None if self.ends else self._standing.role

    @property
    def holder_silent_s(self) -> float | None:
        """For how long nobody who has the file has answered; None where somebody does."""
        standing = self._standing
        silent = standing.role is Role.STANDBY and standing.tries > 0
        return self.event_loop.time() - standing.since if silent else None

    @property
    def elsewhere(self) -> Follower | None:
        """Who is asked instead of our own engine."""
        return None if self._standing.role is Role.HOLDER else self._follower

    @property
    def over(self) -> bool:
        """See `Begun`."""
        if self._abandoned or self.event_loop.is_closed():
            return True
        closed = self._closing is not None and self._closing.done()
        return closed or (self._running is not None and self._running.done())

    @property
    def ends(self) -> bool:
        """Whether it ends or has ended."""
        return self.over or self._closing is not None

    @property
    def failure(self) -> None:
        """Nothing: where our own engine fails, the file is let go, and whoever takes it over is asked."""
        return None

    @property
    def loop(self) -> Loop:
        """What runs the handlers. Raises `EngineNotRunningError` where that is another process."""
        return self._holding().loop

    @property
    def configuring(self) -> asyncio.Lock:
        """See `Life`."""
        return self._holding().configuring

    def reading(self) -> Reading:
        """See `Life`."""
        return self._holding().reading()

    def _holding(self) -> Life:
        if self._life is None or self._standing.role is not Role.HOLDER:
            raise EngineNotRunningError(f"this engine is on standby: another process has {self._path}")
        return self._life

    def check(self) -> None:
        """Whether it can be asked anything, here. Raises as `Life.check`."""
        if self._life is not None and self._standing.role is Role.HOLDER:
            self._life.check()
        else:
            self.check_asking()

    def check_asking(self) -> None:
        """Whether the holder can be asked, here. Raises as `Life.check`."""
        self.check_place()
        if self.ends:
            raise EngineNotRunningError("the engine is closed, or being closed: start it again to use it")
        if self._standing.role is None:
            raise EngineNotRunningError("the engine is being started: wait for `start()`")

    # ---- beginning and ending ----

    async def start(self) -> None:
        """Begin; returns once it holds the file, or the holder answers.

        Raises what opening the file raises; `EngineUnreachableError` where another engine has the file and does not
        answer for a minute.
        """
        self._follower.begin(self.check_asking)
        self._running = unmourned(self.event_loop.create_task(self._run()))
        try:
            await asyncio.wait({self._running, self._placed}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end(0)
            raise
        if self._closing is not None or self._abandoned:
            raise EngineNotRunningError("the engine was closed while it started")
        if self._running.done():
            await self._follower.close()
            self._running.result()

    async def close(self, grace_s: float) -> None:
        """End. Idempotent: whoever asks waits for the same end, and may be cancelled without harm."""
        if self._closing is None:
            if self._abandoned or self.event_loop.is_closed():
                return
            self._closing = self.event_loop.create_task(self._end(grace_s))
        await asyncio.shield(self._closing)

    async def _end(self, grace_s: float) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        try:
            if self._life is not None:
                await self._life.close(grace_s)
        finally:
            await self._follower.close()

    def abandon(self) -> None:
        """End at once, and write nothing more. Idempotent; needs no event loop."""
        self._abandoned = True
        if self.forked:
            return
        if self._running is not None and not self.event_loop.is_closed():
            self._running.cancel()
        if self._life is not None:
            self._life.abandon()
        self._follower.abort()

    async def ended(self) -> None:
        """Wait until it is over, if somebody closes it."""
        if self._closing is not None:
            with suppress(Exception):  # that is told to whoever closed it
                await asyncio.shield(self._closing)

    # ---- one step after the other ----

    async def _run(self) -> None:
        step: Step = roles.Take()
        try:
            while True:
                event = await self._done(step)
                before, now = self._standing, self.event_loop.time()
                self._standing, step = next_step(before, event, now)
                self._say(before, event, now)
        finally:
            await self._lines.aclose()
            if self._closing is None:  # its event loop ends, and all tasks are cancelled
                self._follower.abort()

    async def _done(self, step: Step) -> Event:
        match step:
            case roles.Take():
                return await self._take()
            case roles.Dial():
                return await self._dial()
            case roles.Follow():
                self._place()
                self._get_ready()
                return await self._follow()
            case roles.Hold():
                self._place()
                return await self._hold()
            case roles.Pause(seconds, error):
                if error is not None:
                    log.engine.warning("%s: on standby without a holder that answers: %s", self._path, error)
                await asyncio.sleep(seconds)
                return roles.Waited()
            case roles.GiveUp(error):
                raise error
            case _:
                assert_never(step)

    def _place(self) -> None:
        self._known = self._known or _identity(self._path)
        if not self._placed.done():
            self._placed.set_result(None)

    def _get_ready(self) -> None:
        """Import what answers at the socket, for which everybody will wait after a take-over."""
        if self._readying is None:
            self._readying = unmourned(self.event_loop.create_task(to_thread.run_sync(import_module, SERVER)))

    async def _take(self) -> Event:
        if self._known is not None and self._known != _identity(self._path):
            return roles.Refused(
                StorageReplacedError(
                    f"{self._path} is not the file any more that this engine was started on: it is not taken over. "
                    "Put that file back, or start all of them again"
                )
            )
        life = self._life = self._begin()
        try:
            await life.start()
        except EngineLockedError:
            return roles.Locked()
        except Exception as error:
            return roles.Refused(error)
        return roles.Taken()

    async def _dial(self) -> Event:
        try:
            self._line = await self._lines.enter_async_context(self._follower.line())
        except DurableError as error:  # there is nobody; or it is ending, or has failed and is about to let go
            return roles.Silent(error)
        except OSError as error:  # of our own process: no descriptor is left
            return roles.Silent(EngineUnreachableError(f"the holder of {self._path} cannot be asked: {error}"))
        if self._standing.role is None:  # it starts: what a start would be refused for is known now
            refusal = (await self.look_ahead()).refusal
            if refusal is not None:
                await self._lines.aclose()
                return roles.Refused(refusal)
        return roles.Found()

    async def _follow(self) -> Event:
        assert self._line is not None
        looking = unmourned(self.event_loop.create_task(self._keep_looking()))
        try:
            await self._line.closed()
        finally:
            looking.cancel()
        await self._lines.aclose()
        return roles.Gone()

    async def _keep_looking(self) -> None:
        """Say what a take-over would meet, when that changes: keys, services and topics come while it waits."""
        while True:
            found = (await self.look_ahead()).words
            for words in found:
                if words not in self._foreseen:
                    log.engine.warning("%s: on standby, and %s", self._path, words)
            self._foreseen = found
            await asyncio.sleep(LOOK_EVERY_S)

    async def look_ahead(self) -> Outlook:
        """What a take-over would meet now."""
        return await to_thread.run_sync(self._outlook)

    async def _hold(self) -> Event:
        life = self._life
        assert life is not None
        await life.loop.failed.wait()
        with suppress(Exception):  # it has failed already
            await life.close(0)
        return roles.Failed()

    def _say(self, before: Standing, event: Event, now: float) -> None:
        match event:
            case roles.Taken() if before.role is None:
                log.engine.info("%s: this process (%d) is the holder and runs its handlers", self._path, os.getpid())
            case roles.Taken():
                log.engine.info(
                    "%s: this process (%d) has taken over as the holder, %.0f ms after the one before was gone",
                    self._path,
                    os.getpid(),
                    (now - before.since) * 1000,
                )
            case roles.Found():
                log.engine.info("%s: on standby, %s is the holder", self._path, self._follower.holder)
            case roles.Gone():
                log.engine.info("%s: %s is gone, taking over", self._path, self._follower.holder)
            case roles.Failed():
                log.engine.warning(
                    "%s: this process (%d) lets the file go, its engine has failed", self._path, os.getpid()
                )


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
