"""The control socket of a running engine: a Unix socket beside its file, for programs of the same user.

It costs next to nothing until somebody connects: only then is what answers there (`SERVER`) imported, in a thread.
"""

import asyncio
import os
import socket
import stat
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from anyio import to_thread

from durable import log
from durable.remote.beside import address, peer_uid, socket_path
from durable.runtime.tasks import unmourned

#: Makes what answers: `Server(engine)`.
SERVER = "durable.remote.server"
#: What that needs; all of it comes with the extra `http`.
_NEEDS = ("h11", "starlette", "uvicorn")
#: How many may connect at the same moment.
_BACKLOG = 4096
#: How many are let in in one round of the event loop.
_AT_ONCE = 100
#: How long nobody is let in where the process has no descriptor left.
_FULL_S = 0.1
#: After how long that is said again in the log.
WARN_AGAIN_S = 60.0


class Answering(Protocol):
    """What is asked of a server."""

    async def take(self, connected: socket.socket) -> None:
        """Answer what is asked over this connection, from now on."""
        ...

    def let_idle_go(self) -> None:
        """Close connections on which nothing is asked."""
        ...

    async def end(self, grace_s: float) -> None:
        """Let requests that are being answered end, then close all connections."""
        ...

    def abort(self) -> None:
        """Close all connections at once."""
        ...

    def descriptors(self) -> Iterable[int]:
        """Those of all connections."""
        ...


class Door:
    """The control socket of one life of an engine. What goes wrong is a warning, and the engine runs without."""

    def __init__(self, database: str, server: Callable[[Any], Answering]) -> None:
        self.path = socket_path(database)
        self._make = server
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._identity = (0, 0)
        #: A descriptor that is let go where there is no other one left; and when that may be said again.
        self._spare = -1
        self._warn_at = 0.0
        self._keeping: asyncio.Task[None] | None = None
        #: Who is let in at this very moment.
        self._greeting: dict[asyncio.Task[None], socket.socket] = {}
        self._opening: asyncio.Future[Answering] | None = None
        self._server: Answering | None = None
        self._ends = False

    # ---- opening ----

    def open(self) -> None:
        """Listen. Call it with the file's lock: whatever socket is there was left by an engine that is gone."""
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            self._socket = self._bound()
        except OSError as error:
            self._close_spare()
            log.engine.warning("no control socket at %s: %s", self.path, error.strerror or error)
            return
        _doors.add(self)
        self._listen()
        self._keeping = unmourned(self._loop.create_task(self._keep()))

    def _bound(self) -> socket.socket:
        self._remove_stale()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            with suppress(OSError):
                os.fchmod(bound.fileno(), 0o600)  # on Linux, the mode it is bound with
            with address(self.path) as short:
                bound.bind(short)
            os.chmod(self.path, 0o600)  # before it listens nobody can connect
            there = os.lstat(self.path)
            self._identity = (there.st_dev, there.st_ino)
            bound.listen(_BACKLOG)
        except BaseException:
            bound.close()
            raise
        return bound

    def _remove_stale(self) -> None:
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(there.st_mode):
            raise OSError("there is something else of that name, which is left alone")
        os.unlink(self.path)

    # ---- letting in ----

    def _listen(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._accept, self._socket)

    async def _keep(self) -> None:
        """Wait for the end of the event loop, which may come without a close of the engine."""
        try:
            await self._loop.create_future()
        finally:
            if not self._ends:
                self.abandon()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connected, _address = listening.accept()
            except ConnectionError:  # it has gone already
                continue
            except BlockingIOError:  # that was the last one
                return
            except OSError as error:
                self._send_away(listening, error)
                return
            connected.setblocking(False)
            self._greet(connected)

    def _send_away(self, listening: socket.socket, error: OSError) -> None:
        """No descriptor is left: whoever waits to be let in is told so by the end of the connection, and comes again.

        Otherwise all would wait for each other, where who asks and who answers share a process.
        """
        if self._loop.time() >= self._warn_at:
            self._warn_at = self._loop.time() + WARN_AGAIN_S
            log.engine.warning(
                "the control socket %s lets nobody in: %s. Each request that waits needs a descriptor: see ulimit -n",
                self.path,
                error.strerror or error,
            )
        if self._server is not None:
            self._server.let_idle_go()
        self._close_spare()
        with suppress(OSError):
            for _ in range(_AT_ONCE):
                listening.accept()[0].close()
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._loop.remove_reader(listening)
        self._loop.call_later(_FULL_S, self._listen)

    def _greet(self, connected: socket.socket) -> None:
        uid = peer_uid(connected)
        if uid not in (os.geteuid(), 0, None):
            log.engine.warning("the control socket %s: user %d was sent away", self.path, uid or 0)
            connected.close()
            return
        task = unmourned(self._loop.create_task(self._let_in(connected)))
        self._greeting[task] = connected
        task.add_done_callback(self._greeting.pop)

    async def _let_in(self, connected: socket.socket) -> None:
        taken = False
        try:
            server = await self._answering()
            await server.take(connected)
            taken = True
        except Exception as error:
            log.engine.error("the control socket %s cannot answer", self.path, cause=error)
        finally:
            if not taken:
                connected.close()

    async def _answering(self) -> Answering:
        if self._opening is None:
            self._opening = unmourned(self._loop.create_task(self._import()))
        return await asyncio.shield(self._opening)

    async def _import(self) -> Answering:
        await to_thread.run_sync(import_module, SERVER)
        self._server = server = self._make(import_module(SERVER))
        return server

    # ---- ending ----

    async def stop(self) -> None:
        """Let nobody in any more. Idempotent."""
        self._ends = True
        self._stop_listening()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping, *self._greeting])

    async def close(self, grace_s: float) -> None:
        """Let those who are being answered get their answers, then close all connections. Idempotent."""
        await self.stop()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._server is not None:
            await self._server.end(grace_s)

    def abandon(self) -> None:
        """Close everything at once. Idempotent; needs no event loop."""
        self._ends = True
        self._stop_listening()
        if self._loop.is_closed():
            return
        for task in (self._keeping, *self._greeting):
            if task is not None:
                task.cancel()
        if self._server is not None:
            self._server.abort()

    def _stop_listening(self) -> None:
        listening, self._socket = self._socket, None
        if listening is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(listening)
        self._close_spare()
        with suppress(OSError):
            there = os.lstat(self.path)
            if (there.st_dev, there.st_ino) == self._identity:
                os.unlink(self.path)
        listening.close()

    def _close_spare(self) -> None:
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)

    def forked(self) -> None:
        """In a forked child: nothing of it may be held there, or a client would wait for who is gone."""
        listening, self._socket = self._socket, None
        for held in (listening, *self._greeting.values()):
            if held is not None:
                held.close()
        descriptors = () if self._server is None else tuple(self._server.descriptors())
        if descriptors:  # their numbers stay taken: objects that are left would close what has them next
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            for descriptor in descriptors:
                os.dup2(nowhere, descriptor, inheritable=False)
            os.close(nowhere)


@cache
def can_answer() -> bool:
    """Whether the extra `http` is there."""
    return all(find_spec(name) is not None for name in _NEEDS)


_doors: weakref.WeakSet[Door] = weakref.WeakSet()


def _forked() -> None:
    for door in list(_doors):
        with suppress(OSError):
            door.forked()


os.register_at_fork(after_in_child=_forked)
