"""A client's life, and how it asks: again where the engine is gone for a while and asking twice does no harm."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from durable.core.duration import Duration, parse
from durable.core.ids import FRESH_BYTES, fresh_id
from durable.errors import (
    DurableError,
    EngineNotRunningError,
    EngineUnreachableError,
    ForkedEngineError,
    OutcomeUnknownError,
    StorageBusyError,
    UsageError,
    WrongLoopError,
)
from durable.remote.connections import Answer, require_http
from durable.remote.envelope import EXACT
from durable.remote.wire import Options, Session, check, error_in, place_of

T = TypeVar("T")

#: How long it waits before it asks again: at first, and at most.
PAUSE_S, PAUSE_S_MAX = 0.02, 0.25
#: How long the first answer may take.
OPEN_S = 10.0
#: Whoever was being answered for so long had reached an engine.
REACHED_S = 1.0
#: What a proxy answers whose server is gone: the request may have arrived there.
_OF_A_PROXY = (502, 504)

Ask = Callable[[int | None], Awaitable[Answer]]


class Asking:
    """An engine's ingress and admin API, and who asks them."""

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        admin: str | None = None,
        token: str | None = None,
        reconnect_for: Duration = "1m",
    ) -> None:
        place = place_of(where)
        #: Whether it asks a control socket, which says everything exactly.
        self._local = bool(place.database)
        if self._local and (admin is not None or token is not None):
            raise UsageError(
                "admin= and token= go with a URL: a control socket has the admin API, and takes no token"
            )
        self._reconnect_s = parse(reconnect_for) / 1000
        self._ingress = Session(place, token=token)
        self._admin: Session | None = self._ingress if self._local else None
        if admin is not None:
            self._admin = Session(place_of(admin), token=token)
        self._prefixes = ("/ingress", "/admin") if self._local else ("", "")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._last_ordinal = 0

    # ---- life ----

    async def open(self) -> Self:
        """Look whether an engine answers there; `async with` does it. Raises `EngineUnreachableError`."""
        require_http()
        for session in (self._ingress, self._admin):
            if session is not None:
                session.begin()
        self._loop, self._process = asyncio.get_running_loop(), os.getpid()
        try:
            async with asyncio.timeout(OPEN_S):
                answer = await self._ingress.request("GET", f"{self._prefixes[0]}/restate/health")
        except TimeoutError:
            raise EngineUnreachableError(
                f"{self._ingress.place} does not answer within {OPEN_S:g} s: something may hold up its event loop"
            ) from None
        except OutcomeUnknownError as error:
            raise EngineUnreachableError(
                f"{self._ingress.place} does not answer as an engine does: {error}"
            ) from None
        if answer.status >= 400:
            raise error_in(answer)
        return self

    async def close(self) -> None:
        """Let the connections go. Idempotent; what was asked goes on."""
        self._loop = None
        for session in (self._ingress, self._admin):
            if session is not None:
                session.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _check_place(self) -> None:
        if self._loop is None:
            raise EngineNotRunningError("the client is not open: use it inside `async with durable.connect(...)`")
        if self._process != os.getpid():
            raise ForkedEngineError("this client belongs to the parent process: a forked child must open its own")
        if self._loop is not asyncio.get_running_loop():
            raise WrongLoopError(
                "this client is used on another event loop than the one that opened it: durable.connect_sync() is "
                "for threads"
            )

    # ---- asking ----

    async def _invoke(self, method: str, path: str, *, safe: bool = True, **options: Any) -> Answer:
        """Ask the ingress, for exact answers; `safe` says whether asking twice does no harm."""
        given: Options = {"accept": EXACT, **options}  # type: ignore[typeddict-item]
        return await self._repeated(
            lambda _: self._ingress.request(method, self._prefixes[0] + path, **given), safe=safe
        )

    async def _operate(self, method: str, path: str, *, safe: bool = True, **options: Any) -> Answer:
        """Ask the admin API, for exact answers. Raises the error that the answer is."""
        session = self._admin
        if session is None:
            raise UsageError(
                f"{self._ingress.place} is an ingress: name its admin API, too: connect(..., admin='http://…')"
            )
        given: Options = {"accept": EXACT, **options}  # type: ignore[typeddict-item]
        return check(
            await self._repeated(lambda _: session.request(method, self._prefixes[1] + path, **given), safe=safe)
        )

    async def _repeated(self, ask: Ask, *, safe: bool) -> Answer:
        """Ask until there is an answer, for as long as nobody has been reached for `reconnect_for`.

        `ask` is told how many ms ago it was asked for the first time, where that may have arrived. Raises
        `EngineUnreachableError`; `OutcomeUnknownError` where it may have arrived and is not safe to repeat.
        """
        self._check_place()
        pause, gone_since = PAUSE_S, time.monotonic()
        asked_at: float | None = None
        failed: DurableError
        while True:
            began, reached = time.monotonic(), True
            try:
                answer = await ask(None if asked_at is None else round((began - asked_at) * 1000))
            except OutcomeUnknownError as error:
                if not safe:
                    raise
                asked_at, failed = asked_at or began, error
            except EngineUnreachableError as error:
                failed, reached = error, False
            else:
                if answer.status not in (429, 503, *_OF_A_PROXY):
                    return answer
                failed = _unavailable(answer)
                if isinstance(failed, StorageBusyError):
                    raise failed
                if answer.status != 429:
                    if not safe and "x-restate-id" in answer.headers:
                        return answer
                    if not safe and not _refused(answer):
                        raise failed
                    asked_at = asked_at or began
            now = time.monotonic()
            if reached and now - began > REACHED_S:
                pause, gone_since = PAUSE_S, now
            self._check_place()
            if now - gone_since >= self._reconnect_s:
                raise failed
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_S_MAX)

    def _new_id(self) -> str:
        self._last_ordinal = ordinal = max(self._last_ordinal + 1, (time.time_ns() // 1_000_000) << 16)
        return fresh_id(ordinal, os.urandom(FRESH_BYTES))


def _unavailable(answer: Answer) -> DurableError:
    if answer.status in _OF_A_PROXY:
        return OutcomeUnknownError(f"a proxy answered {answer.status}, whether it took effect is unknown")
    return error_in(answer)


def _refused(answer: Answer) -> bool:
    """Whether nothing was done of what was asked: an invocation that it is about would be named."""
    return answer.headers.get("x-restate-error-source") == "ingress" and "x-restate-id" not in answer.headers


def read(answer: Answer, kind: Any) -> Any:
    """The body of an answer. Raises `EngineUnreachableError` for what is not from an engine of ours."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineUnreachableError(
            f"the answer cannot be read, so it comes from something else than an engine of ours: {error}"
        ) from None
