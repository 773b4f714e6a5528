"""An engine asked in bytes: for what carries requests in from outside, and hands on what is stored as it is.

Nothing is encoded or decoded here; who asks has let the handler's own serializer read an input before.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import msgspec

from durable.core import commands as ask
from durable.core.effects import Answer, Reply
from durable.core.ids import claimed_id, parse_stand_in_id
from durable.core.invocation import Flavor, Submission
from durable.core.journal import Outcome
from durable.core.sealed import readable
from durable.engine.access import checked
from durable.engine.engine import Engine
from durable.engine.follower import Follower
from durable.errors import InvalidRequestError, NotFoundError, OutcomeUnknownError
from durable.runtime.observer import Observer
from durable.runtime.once import told_once
from durable.runtime.registry import Registered, check_headers, check_idempotency_key, check_text
from durable.runtime.replies import Wanted
from durable.runtime.reuse import Reuse
from durable.serde import check_data

#: The header in which a workflow's run has the id that its caller had chosen.
MARK = "x-durable-request"


class Request(msgspec.Struct, frozen=True, gc=False):
    """Everything that fixes an invocation, but for the moment at which it is asked for."""

    handler: Registered
    input: bytes
    key: str | None = None
    headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    delay_ms: int | None = None
    #: What the invocation is to be called where nothing determines that; empty where nobody minds.
    id: str = ""
    #: How long ago it was asked for the first time, where it was: it may have been accepted then.
    repeated_after_ms: int | None = None


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where an invocation stands, as its clients see it."""

    id: str
    #: How it ended, if it has.
    outcome: Outcome | None = None
    #: Whether it was there before it was asked for.
    known: bool = False
    #: When it starts, while it is scheduled.
    due_at: int | None = None
    #: Of one that was there: when its result is forgotten, and whose it is.
    expires_at: int | None = None
    service: str = ""
    handler: str = ""
    #: Whether its idempotency key was used with another input than this time.
    input_differs: bool = False


class Raw:
    """What the clients of an engine ask for, in bytes. Raises what `Engine` raises.

    `private`: whether they may invoke handlers that are not public, too.
    """

    def __init__(self, engine: Engine, *, private: bool = False) -> None:
        self._engine = engine
        self._private = private

    # ---- what there is ----

    @property
    def elsewhere(self) -> Follower | None:
        """Who is asked instead, where the engine is on standby: it can then only tell what its code has."""
        life = self._engine._life
        return None if life is None else life.elsewhere

    def handler(self, service: str, name: str) -> Registered | None:
        """A handler that code declares (public or not), and none that is built in."""
        return None if name.startswith("$") else self._engine._registry.get(service, name)

    def check_public(self, handler: Registered, *, outside: bool = False) -> None:
        """Whether it may be invoked (`outside`: by somebody who may invoke public ones only).

        Raises `InvalidRequestError`.
        """
        if handler.settings.public is False and (outside or not self._private):
            raise InvalidRequestError("the invoked service is not public")

    def keyed(self, service: str) -> bool | None:
        """Whether a service's handlers run on a key; None where there is no such service."""
        declared = self._engine._registry.declared.get(service)
        return None if declared is None else declared[0].flavor is not Flavor.SERVICE

    def services(self) -> list[str]:
        """The names of all services."""
        self._engine.check_running()
        return sorted(self._engine._registry.declared)

    @property
    def observer(self) -> Observer | None:
        """Who follows what this engine does, while it runs handlers."""
        life = self._engine._life
        return None if life is None or life.elsewhere is not None else life.loop.observer

    def now_ms(self) -> int:
        """The engine's time."""
        return self._engine._clock.now_ms()

    # ---- invoking ----

    async def send(self, request: Request, names: Callable[[str], None]) -> Standing:
        """Have a handler invoked; returns once that is durable. `names` is told the id before."""
        return await self._asked(request, names, Wanted.REPLY)

    async def call(self, request: Request, names: Callable[[str], None]) -> Standing:
        """Invoke a handler and wait for its end; does not wait for one that was there already.

        `names` is told the id before anything is accepted: that is what to look for where no answer comes.
        Whoever stops waiting leaves the invocation alone.
        """
        return await self._asked(request, names, Wanted.NEW_OUTCOME)

    async def _asked(self, request: Request, names: Callable[[str], None], wanted: Wanted) -> Standing:
        loop = self._engine._running()
        if loop.crowded:
            loop = await self._engine._admitted(loop)
        submission = self._submission(request)
        names(submission.id)
        repeated = request.repeated_after_ms is not None
        reuse = None if request.idempotency_key is None else Reuse(request.handler, submission)
        if repeated and (found := await self._repeated(submission, request, reuse)):
            return found
        look = None if reuse is None else reuse.look
        answer = await loop.ask(partial(ask.Submit, submission, repeated=repeated), wanted, look)
        if isinstance(answer, Outcome):
            return Standing(submission.id, answer)
        if answer.result is Answer.ACCEPTED:
            return Standing(answer.id, due_at=submission.due_at)
        standing = _standing(answer, reuse)
        if repeated:  # what was asked before was accepted only now
            return await self._repeated(submission, request, reuse) or standing
        return standing

    async def _repeated(self, submission: Submission, request: Request, reuse: Reuse | None) -> Standing | None:
        """What was accepted when it was asked for before, if it was: then it counts as new, where that is certain.

        Raises `OutcomeUnknownError` where nobody can know, because its result may have been forgotten already.
        """
        with suppress(NotFoundError):
            look = None if reuse is None else reuse.look
            reply = await self._engine._ask(partial(ask.Attach, submission.id), submission.id, look)
            found = _standing(reply, reuse)
            if submission.flavor is Flavor.WORKFLOW:
                mine = (await self._headers_of(found.id)).get(MARK) == request.id
            else:
                mine = submission.id == request.id
            return msgspec.structs.replace(found, known=not mine)
        if submission.completion_retention_ms <= (request.repeated_after_ms or 0):
            raise OutcomeUnknownError(
                f"this request is a repeated one, and nobody knows whether {submission.target} was invoked the first "
                "time: its result is not kept that long. Raise journal_retention (with a key: idempotency_retention)"
            )
        return None

    async def _headers_of(self, id: str) -> dict[str, str]:
        invocation, _ = await self._engine._read_one(self._engine._running(), id, limit=1)
        return invocation.submission.headers

    def _submission(self, request: Request) -> Submission:
        engine, handler = self._engine, request.handler
        self.check_public(handler)
        now = engine._clock.now_ms()
        headers = check_headers(request.headers, handler.value_size_max)
        if (
            request.id and handler.flavor is Flavor.WORKFLOW
        ):  # whose id is fixed: this tells its first call from others
            headers[MARK] = request.id
        return handler.submission(
            _chosen(request.id) if request.id else engine._new_id(now),
            request.input,
            key=request.key,
            headers=headers,
            idempotency_key=request.idempotency_key,
            caller=None,
            due_at=None if request.delay_ms is None else now + request.delay_ms,
            id_span=engine._registry.id_span,
            observer=engine._running().observer,
        )

    # ---- finding again ----

    def idempotent_id(self, service: str, key: str | None, handler: str, idempotency_key: str) -> str:
        """The id of the invocation that an idempotency key names, whether it exists or not."""
        for what, text in (("service", service), ("handler", handler)):
            check_text(what, text)
        check_idempotency_key(idempotency_key)
        if key is not None:
            check_text("key", key)
        return claimed_id(service, key, handler, idempotency_key, span=self._engine._registry.id_span)

    def workflow_id(self, workflow: str, key: str) -> str:
        """The id of a workflow's run on a key, whether it exists or not."""
        check_text("workflow", workflow)
        check_text("key", key)
        return claimed_id(workflow, key, "run", "", span=self._engine._registry.id_span)

    async def find(self, id: str) -> Standing:
        """Where an invocation stands. Raises `NotFoundError`."""
        return _standing(await self._engine._ask(partial(ask.Attach, checked(id)), id))

    async def ended(self, id: str) -> Outcome:
        """Wait for an invocation's end. Raises `NotFoundError`."""
        return await self._engine.outcome(id)

    # ---- completing from outside ----

    async def complete_awakeable(self, id: str, outcome: Outcome, idempotency_key: str | None) -> None:
        """Complete an awakeable; a second completion is ignored.

        Raises `NotFoundError`; with a key, `ConflictError` where somebody else has completed it.
        """
        self._check_size(outcome, "the value of an awakeable")
        await self._engine._complete_awakeable(id, outcome, told_once(idempotency_key, outcome))

    async def settle_promise(
        self, workflow: str, key: str, name: str, outcome: Outcome, idempotency_key: str | None
    ) -> None:
        """Settle a workflow's promise. Raises `ConflictError` where it was settled before (with another key)."""
        self._check_size(outcome, f"the value of promise {name!r}")
        await self._engine._settle_promise(workflow, key, name, outcome, told_once(idempotency_key, outcome))

    async def signal(self, id: str, name: str, outcome: Outcome, idempotency_key: str | None) -> None:
        """Hand a named signal to an invocation, once with each key. Raises `NotFoundError`."""
        self._check_size(outcome, f"the value of signal {name!r}")
        await self._engine._signal(id, name, outcome, told_once(idempotency_key, outcome))

    def _check_size(self, outcome: Outcome, door: str) -> None:
        check_data(outcome.value, door, self._engine._registry.value_size_max)


def _chosen(id: str) -> str:
    if parse_stand_in_id(checked(id)) is not None:
        raise InvalidRequestError(f"{id} cannot be chosen as an id: it stands for a damaged one")
    return id


def _standing(reply: Reply, reuse: Reuse | None = None) -> Standing:
    found = reply.found
    assert found is not None, "what was there already is described"
    if reply.outcome is not None:
        readable(reply.outcome.value)
    return Standing(
        reply.id,
        reply.outcome,
        True,
        found.due_at,
        found.expires_at,
        found.service,
        found.handler,
        reuse is not None and reuse.differs,
    )
