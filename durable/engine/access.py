"""What every part of the engine's face needs: the running loop, asked from the right place."""

import os
from typing import Any

from durable.core import commands as ask
from durable.core.effects import Answer, Reply
from durable.core.ids import FRESH_BYTES, fresh_id, fresh_ids, is_invocation_id
from durable.core.invocation import Flavor
from durable.core.journal import Outcome
from durable.core.reasons import Reason
from durable.core.sealed import Why, readable
from durable.engine.life import Life
from durable.engine.standby import Standby
from durable.errors import (
    ConflictError,
    EngineNotRunningError,
    InvalidRequestError,
    NotFoundError,
    StorageCorruptError,
    UsageError,
)
from durable.runtime.clock import Clock
from durable.runtime.loop import Loop
from durable.runtime.registry import Registry
from durable.runtime.replies import Look, Wanted
from durable.serde import ANY_READER, encoded
from durable.store import Store

#: For how many ids the system is asked for random bytes at a time.
AT_ONCE = 32


class Access:
    """An engine that was, or is to be, started; `_running` refuses to hand it out in any other place or state."""

    def __init__(self, store: Store, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        #: From one start to the next.
        self._life: Life | Standby | None = None
        self._last_ordinal = 0
        #: Random bytes of ids to come.
        self._noise = b""

    async def _ask(self, make: Any, id: str = "", look: Look | None = None) -> Reply:
        reply = await self._running().ask(make, look=look)
        if reply.result is Answer.NOT_FOUND:
            raise unknown(id)
        assert isinstance(reply, Reply)
        if reply.result is Answer.UNSURE:
            raise StorageCorruptError(f"{reply.cause}. {restore_hint(self._store)}")
        if reply.result is Answer.DAMAGED and isinstance(reply.cause, Why):
            raise reply.cause.error()
        if reply.result is Answer.DAMAGED and id:
            raise ConflictError(
                f"the invocation {reply.id} is damaged: all that can be done is to kill it, and then to purge it "
                f"({reply.cause}). {restore_hint(self._store)}"
            )
        return reply

    @staticmethod
    def _found(answer: Any, id: str) -> Outcome:
        if isinstance(answer, Outcome):
            return answer
        raise unknown(id)

    async def outcome(self, id: str) -> Outcome:
        """The raw outcome, once it is there."""
        answer = await self._running().ask(lambda token: ask.Attach(checked(id), token), Wanted.OUTCOME)
        return self._found(answer, id)

    async def outcome_now(self, id: str) -> Outcome | None:
        """The raw outcome, if it is there."""
        outcome = (await self._ask(lambda token: ask.Attach(checked(id), token), id)).outcome
        if outcome is not None:
            readable(outcome.value)
        return outcome

    @property
    def _loop(self) -> Loop | None:
        return None if self._life is None else self._life.loop

    def _running(self) -> Loop:
        return self._living().loop

    def _living(self) -> Life | Standby:
        life = self._life
        if life is None:
            raise EngineNotRunningError(
                "the engine is not running: use it inside `async with Engine(...) as engine:`, "
                "or give it to your application: `FastAPI(lifespan=engine.lifespan)`"
            )
        life.check()
        return life

    async def _admitted(self, loop: Loop) -> Loop:
        """The running loop, once it is crowded no longer: it takes more from outside."""
        await loop.admitted()
        return self._running()

    def _new_id(self, now: int) -> str:
        self._last_ordinal = ordinal = max(self._last_ordinal + 1, now << 16)
        left = self._noise or os.urandom(AT_ONCE * FRESH_BYTES)
        self._noise = left[FRESH_BYTES:]
        return fresh_id(ordinal, left[:FRESH_BYTES])

    def _new_ids(self, count: int) -> list[str]:
        first = max(self._last_ordinal + 1, self._clock.now_ms() << 16)
        self._last_ordinal = first + count - 1
        return fresh_ids(first, os.urandom(count * FRESH_BYTES))

    def _encode(self, value: Any, door: str) -> bytes:
        """The stored form of an untyped value. Raises `SerializationError`, `ValueTooLargeError`."""
        return encoded(ANY_READER, value, door, self._registry.value_size_max)

    def check_stateful(self, service: str) -> None:
        """Whether a service has state. Raises `NotFoundError`."""
        self._living()
        if not self._registry.has(service, Flavor.EXCLUSIVE, Flavor.SHARED, Flavor.WORKFLOW):
            raise NotFoundError(f"this engine has no virtual object or workflow {service}")


def check_number(name: str, value: int | None, least: int) -> None:
    """Whether a number can be stored and makes sense. Raises `InvalidRequestError`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63):
        raise InvalidRequestError(f"{name} must be an integer of at least {least}, not {value!r}")


#: The most that `max_value_size` may be: a row of SQLite holds a billion bytes, with input, result and headers in it.
VALUE_SIZE_LIMIT = 256 * 1024 * 1024


def check_count(name: str, value: int) -> None:
    """Whether it can be how many there are at a time. Raises `UsageError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be an integer of at least 1, not {value!r}")


def check_value_size(size: int) -> None:
    """Whether it can be a limit. Raises `UsageError`."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1024 <= size <= VALUE_SIZE_LIMIT:
        raise UsageError(
            f"max_value_size must be a number of bytes from 1024 to {VALUE_SIZE_LIMIT} (256 MiB), not {size!r}"
        )


def check_reason(reason: str | None) -> None:
    """Whether it is one that invocations are paused for at once. Raises `InvalidRequestError`."""
    if reason is not None and reason not in tuple(Reason):
        raise InvalidRequestError(f"reason must be one of {', '.join(Reason)}, not {reason!r}")


def checked(id: str) -> str:
    """The id, if it is one. Raises `InvalidRequestError`."""
    if not isinstance(id, str) or not is_invocation_id(id):
        raise InvalidRequestError(f"{id!r} is not an invocation id (`inv_1` and 33 letters or digits)")
    return id


def restore_hint(store: Store) -> str:
    """The other way out of damage, for the end of an error's text."""
    path = getattr(store, "path", None)
    return f"A backup brings all of it back: durable.restore(backup, {path!r})" if isinstance(path, str) else ""


def unknown(id: str) -> NotFoundError:
    """The error for an id that names nothing."""
    what = "awakeable" if id.startswith("sign_") else "invocation"
    return NotFoundError(f"the {what} {id} does not exist (or its retention is over)")
