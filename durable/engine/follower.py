"""What an engine on standby asks instead of itself: the holder of its file, over the control socket.

It is a client that does as the engine would: targets are handlers of its own code, and those that are not public are
refused. It goes on asking when the holder changes, also where that is its own engine by then.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from durable import log
from durable.core.journal import EMPTY, Outcome
from durable.engine.door import can_answer
from durable.errors import (
    ConflictError,
    EngineNotRunningError,
    EngineUnreachableError,
    OutputNotReadyError,
    TerminalError,
    UsageError,
)
from durable.outcomes import outcome_of
from durable.remote.asking import OPEN_S, read
from durable.remote.client import Client
from durable.remote.connections import Answer, Connection
from durable.remote.envelope import EXACT, Envelope
from durable.remote.operating import checked
from durable.remote.targets import Target
from durable.remote.wire import check, encoded_path
from durable.runtime.registry import Registered, Registry
from durable.runtime.tasks import unmourned
from durable.service import Handler


class Follower(Client):
    """Asks whoever holds the file. See `Client`."""

    _outside = True

    def __init__(self, database: str, registry: Registry) -> None:
        super().__init__(database)
        self._registry = registry
        self._check: Callable[[], None] = _not_begun

    # ---- life ----

    def begin(self, check: Callable[[], None]) -> None:
        """Ask from this event loop, whoever answers; `check` raises where the engine cannot be asked any more."""
        self._ingress.begin()
        self._loop, self._process, self._check = asyncio.get_running_loop(), os.getpid(), check

    def abort(self) -> None:
        """Let the connections go; needs no event loop."""
        if self._loop is not None and not self._loop.is_closed():
            self._ingress.close()

    def _check_place(self) -> None:
        self._check()

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Connection]:
        """A connection to the holder, which closes when that is gone. Raises an error where nobody answers."""
        async with self._ingress.line() as line:
            try:
                async with asyncio.timeout(OPEN_S):
                    await self._compare()
            except TimeoutError:
                raise EngineUnreachableError(
                    f"{self.holder} does not answer within {OPEN_S:g} s: something may hold up its event loop"
                ) from None
            yield line

    @property
    def holder(self) -> str:
        """Who answers, for the log."""
        return f"process {self._ingress.answering}" if self._ingress.answering else "another process"

    async def _compare(self) -> None:
        """Say where the holder's code differs from ours: its handlers run, and ours do after a take-over."""
        from durable.release import package_version

        ours = {f"{service}/{one.name}" for service, known in self._registry.declared.items() for one in known}
        release = read(await self._asked_once("/admin/version"), _Version).version
        services = read(await self._asked_once("/admin/services"), list[_Service])
        theirs = {f"{service.name}/{one.name}" for service in services for one in service.handlers}
        if release != package_version():
            log.engine.warning("%s runs release %s of durable, this one %s", self.holder, release, package_version())
        for what, handlers in (("lacks", ours - theirs), ("also has", theirs - ours)):
            if handlers:
                log.engine.warning(
                    "%s runs other code than this one: it %s %s", self.holder, what, ", ".join(sorted(handlers))
                )

    async def _asked_once(self, path: str) -> Answer:
        return check(await self._ingress.request("GET", path, accept=EXACT))

    # ---- as the engine does ----

    def _find(self, target: Handler[Any, Any] | str) -> Target:
        return _target(self._registry.find(target))

    async def stored_outcome(self, id: str) -> Outcome:
        """See `Engine.outcome`."""
        return self._as_stored(
            await self._invoke("GET", f"/restate/attach/{checked(id)}", headers=self._said(Envelope(stored=True)))
        )

    async def stored_outcome_now(self, id: str) -> Outcome | None:
        """See `Engine.outcome_now`."""
        answer = await self._invoke(
            "GET", f"/restate/output/{checked(id)}", headers=self._said(Envelope(stored=True))
        )
        return None if answer.status == _NOT_READY else self._as_stored(answer)

    def _as_stored(self, answer: Answer) -> Outcome:
        if answer.headers.get("content-type") == EXACT:
            return Outcome(True, answer.body)
        return self._outcome(answer)

    async def stored_state(self, service: str, key: str) -> dict[str, bytes]:
        """See `Engine.stored_state`; where there is nothing, only of services that the holder has."""
        answer = await self._operate("GET", encoded_path("services", service, "state"), query={"key": key})
        state: dict[str, bytes] = read(answer, _State).state
        return state

    async def replace_state(
        self,
        service: str,
        key: str,
        state: Mapping[str, bytes],
        *,
        expected_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> "asyncio.Future[Outcome]":
        """See `Engine.replace_state`; only of services that the holder has."""
        change = {
            "key": key,
            "state": dict(state),
            "version": expected_version,
            "idempotency_key": idempotency_key or self._new_id(),
        }
        path = encoded_path("services", service, "state")
        await self._operate("PUT", path, json=change, query={"wait": "false"})
        done = unmourned(asyncio.ensure_future(self._replaced(path, change)))
        done.add_done_callback(lambda done: done.cancelled() or done.exception())
        return done

    async def _replaced(self, path: str, change: Mapping[str, Any]) -> Outcome:
        try:
            await self._operate("PUT", path, json=change)
        except ConflictError as error:
            return outcome_of(TerminalError(str(error), 409))
        return EMPTY

    # ---- requests of an ingress ----

    async def pass_on(
        self,
        method: str,
        path: str,
        body: bytes,
        content_type: str,
        key: str | None,
        accept: str,
        query: Mapping[str, str],
    ) -> Answer:
        """Have the holder's ingress answer a request, whatever that is; asking it twice must do no harm."""
        said = self._said(Envelope(idempotency_key=key)) if key is not None else ()
        return await self._invoke(
            method, path, query=query, body=body, content_type=content_type, headers=said, accept=accept
        )


def follower_of(path: str | None, registry: Registry, control_socket: bool) -> Follower:
    """What an engine with `standby=True` asks. Raises `UsageError` where that cannot be."""
    if path is None:
        raise UsageError("standby=True is for several processes on one file: an engine in memory has none")
    if not control_socket:
        raise UsageError(
            "standby=True needs the control socket, through which the holder of the file is asked: leave out "
            "control_socket=False"
        )
    if not can_answer():
        raise UsageError("standby=True needs the extra 'http': pip install 'durable-engine[http]'")
    return Follower(path, registry)


def _target(handler: Registered) -> Target:
    return Target(
        handler.service,
        handler.name,
        handler.input,
        handler.output,
        handler.flavor,
        handler.has_input,
        handler.default,
    )


def _not_begun() -> None:
    raise EngineNotRunningError("the engine is not running: use it inside `async with Engine(...) as engine:`")


class _State(msgspec.Struct, frozen=True):
    state: dict[str, bytes]


class _Version(msgspec.Struct, frozen=True):
    version: str


class _Handler(msgspec.Struct, frozen=True):
    name: str


class _Service(msgspec.Struct, frozen=True):
    name: str
    handlers: list[_Handler]


_NOT_READY = OutputNotReadyError.code
