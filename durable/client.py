"""Handles: what code outside of handlers holds of an invocation."""

from collections.abc import Callable
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from durable.core.journal import Outcome
from durable.errors import OutputNotReadyError
from durable.outcomes import error_of
from durable.serde import decoded
from durable.views.invocations import InvocationView

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Applied(StrEnum):
    """What became of an operator's request."""

    #: It has taken effect. (An HTTP surface answers 200.)
    DONE = "done"
    #: It is durable, and takes effect when the handler comes to it. (202)
    ACCEPTED = "accepted"
    #: There was nothing to change, or it came too late. (200)
    UNCHANGED = "unchanged"


class Controls(Protocol):
    """What a handle needs of the engine."""

    async def outcome(self, id: str) -> Outcome:
        """Wait for an invocation's end. Raises `NotFoundError`."""
        ...

    async def outcome_now(self, id: str) -> Outcome | None:
        """How it ended, if it has. Raises `NotFoundError`."""
        ...

    async def cancel(self, id: str, *, kill: bool = False, idempotency_key: str | None = None) -> Applied:
        """Cancel or kill it."""
        ...

    async def describe(self, id: str) -> InvocationView:
        """All that is known of it."""
        ...


class Handle(Generic[T_co]):
    """An accepted invocation."""

    def __init__(
        self,
        engine: Controls,
        id: str,
        decode: Callable[[bytes], T_co],
        *,
        accepted: bool = True,
        input_differs: bool = False,
    ) -> None:
        self._engine = engine
        self._decode = decode
        #: The invocation's id. Log it or store it: `engine.invocation(id)` gives the handle back.
        self.id = id
        #: False if an idempotency key named an invocation that already existed.
        self.accepted = accepted
        #: Whether that one was accepted with another input: the result is the first one's.
        self.input_differs = input_differs

    async def result(self) -> T_co:
        """Wait for the result. Raises the invocation's `TerminalError`, or `NotFoundError` once it is forgotten."""
        return value_of(await self._engine.outcome(self.id), self._decode, self._called)

    async def output(self) -> T_co:
        """The result as it is now. Raises `OutputNotReadyError` (470) while there is none."""
        outcome = await self._engine.outcome_now(self.id)
        if outcome is None:
            raise OutputNotReadyError(f"invocation {self.id} has not completed yet")
        return value_of(outcome, self._decode, self._called)

    @property
    def _called(self) -> str:
        return f"the result of invocation {self.id}"

    def asked_of(self, engine: Controls) -> "Handle[T_co]":
        """The same invocation, asked of another engine."""
        return Handle(engine, self.id, self._decode, accepted=self.accepted, input_differs=self.input_differs)

    async def cancel(self, *, kill: bool = False, idempotency_key: str | None = None) -> Applied:
        """See `Engine.cancel`."""
        return await self._engine.cancel(self.id, kill=kill, idempotency_key=idempotency_key)

    async def describe(self) -> InvocationView:
        """See `Engine.describe`."""
        return await self._engine.describe(self.id)

    def __repr__(self) -> str:
        return f"<invocation {self.id}>"


def value_of(outcome: Outcome, decode: Callable[[bytes], T], what: str) -> T:
    """The value of an outcome, or its error raised; `what` it is called where it cannot be read."""
    if not outcome.ok:
        raise error_of(outcome)
    return decoded(decode, outcome.value, what)
