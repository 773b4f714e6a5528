"""The state of keys, read and replaced from outside."""

import asyncio
from collections.abc import Mapping
from typing import Any

from durable.core import commands as ask
from durable.core.effects import Need
from durable.core.invocation import PATCH_STATE, run_id
from durable.core.journal import Outcome, failure_of
from durable.core.sealed import Why
from durable.engine.access import restore_hint
from durable.engine.reading import Reading
from durable.errors import ConflictError, StorageCorruptError
from durable.outcomes import error_of
from durable.runtime.registry import EXPECTED_VERSION, check_text
from durable.runtime.replies import Wanted
from durable.views.state import StateView


class KeyState(Reading):
    """The committed state of a virtual object's or workflow's keys."""

    async def get_state(self, service: str, key: str) -> StateView:
        """The committed state of one key of a virtual object or workflow. Raises `NotFoundError`.

        Of a service that this engine no longer has, it is what is left in the file.
        """
        values = await self.stored_state(service, key)
        if not values:
            self.check_stateful(service)
        return StateView(values)

    async def stored_state(self, service: str, key: str) -> dict[str, bytes]:
        """Like `get_state`, but as the serializers wrote it; of a service that never was there, it is empty.

        Raises `StorageCorruptError` if some of it is damaged.
        """
        check_text("service", service, recorded=True)
        check_text("key", key, recorded=True)
        run = run_id(service, key, self._registry.id_span)
        loaded = await self._running().store.load(Need(keys={(service, key)}, ids={run}))
        if any(run.expired(self._clock.now_ms()) for run in loaded.invocations):
            return {}
        for one in loaded.keys:
            for cause in (*one.damaged_state.values(), *one.lost_state.values()):
                if isinstance(cause, Why):
                    raise cause.error()
                raise StorageCorruptError(f"{cause}. engine.patch_state repairs it. {restore_hint(self._store)}")
        return {name: value for one in loaded.keys for name, value in sorted(one.state.items())}

    async def patch_state(
        self,
        service: str,
        key: str,
        state: Mapping[str, Any],
        *,
        expected_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Replace the whole state of one key: names that are not in `state` are deleted.

        Waits for its turn behind the key's exclusive invocations. With `expected_version` (the version of what
        `get_state` returned), nothing is changed and a `ConflictError` is raised if the state has changed by then.
        With an idempotency key, it can be repeated after a crash and takes effect once. Raises `NotFoundError`,
        `SerializationError`, and `ValueTooLargeError`: for a value, or for all of them together (as base64).
        """
        self.check_stateful(service)
        values = {name: self._encode(value, f"the state value {name!r}") for name, value in state.items()}
        outcome = await (await self._patch(service, key, values, expected_version, idempotency_key))
        raise_conflict(outcome)

    async def replace_state(
        self,
        service: str,
        key: str,
        state: Mapping[str, bytes],
        *,
        expected_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> "asyncio.Future[Outcome]":
        """`patch_state` with serialized values, for callers that do not wait for the key to be free.

        Returns the future of its outcome once the change is durable; `raise_conflict` says what the outcome means.
        The state of a service that this engine no longer has can be cleared, but not set.
        """
        if state:
            self.check_stateful(service)
        return await self._patch(service, key, state, expected_version, idempotency_key)

    async def _patch(
        self,
        service: str,
        key: str,
        state: Mapping[str, bytes],
        expected_version: str | None,
        idempotency_key: str | None,
    ) -> "asyncio.Future[Outcome]":
        loop = self._running()
        for name in state:
            check_text("state's name", name)
        patcher = self._registry.get(service, PATCH_STATE)
        assert patcher is not None, "there is one for every service"
        submission = patcher.submission(
            self._new_id(self._clock.now_ms()),
            patcher.encode_input(dict(state)),
            key=key,
            headers={} if expected_version is None else {EXPECTED_VERSION: expected_version},
            idempotency_key=idempotency_key,
            caller=None,
            due_at=None,
            id_span=self._registry.id_span,
            observer=loop.observer,
        )
        outcome = loop.ask(lambda token: ask.Submit(submission, token), Wanted.OUTCOME)
        await loop.ask(lambda token: ask.Attach(submission.id, token))  # of the same turn: answered by its commit
        return outcome


def raise_conflict(outcome: Outcome) -> None:
    """Raise what a change of state failed with: a `ConflictError` where the state was not the expected one."""
    if outcome.ok:
        return
    failure = failure_of(outcome)
    if failure.kind == "terminal" and failure.code == 409:
        raise ConflictError(failure.message)
    raise error_of(outcome)
