"""An engine that runs nothing: for those who look at the file of a stopped service, or steer what is in it."""

import os
from collections.abc import Iterable

from durable.codec import Codec, Keyless
from durable.core.ids import claimed_id
from durable.core.invocation import Invocation
from durable.core.retry import DEFAULT
from durable.engine.engine import Engine
from durable.errors import NotFoundError
from durable.runtime.clock import Clock
from durable.runtime.loop import Loop
from durable.runtime.registry import check_text
from durable.runtime.resting import RestingLoop
from durable.store import Store
from durable.store.stopped import ReadOnlyStore, StoppedStore


class RestingEngine(Engine):
    """Lists, describes and counts; with `changes=True` (and the file's lock) also cancels, kills, pauses and purges.

    With `changes=True`, it also completes awakeables, promises and signals.

    No handler runs, no timer fires, nobody is charged with a crash. What a cancel or a resume has a handler do is
    done when its service starts next. Without `changes` the file is only read, and stays as it is: a service may
    start on it meanwhile. It has no services, so nothing can be invoked and no state be set. Where values are encoded
    and there is no `codec`, they are shown as encoded, and nothing can be changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "",
        *,
        changes: bool = False,
        store: Store | None = None,
        clock: Clock | None = None,
        codec: Codec | None = None,
    ) -> None:
        if store is None and codec is None and not changes:
            codec = Keyless()  # of encoded values it is told with which key
        store = store or (StoppedStore(path) if changes else ReadOnlyStore(path))
        super().__init__(store=store, clock=clock, control_socket=False, codec=codec)

    def _new_loop(self) -> Loop:
        return RestingLoop(
            self._store,
            self._registry,
            self._clock,
            max_concurrent=1,
            max_threads=1,
            limits=self._limits,
            defaults=DEFAULT,
            declaration=lambda registry, service: "",
        )

    async def _check_workflow(self, workflow: str, key: str) -> None:
        """Which services are workflows is in their code: in the file, there has to be a run of it."""
        check_text("workflow", workflow)
        check_text("key", key)
        id = claimed_id(workflow, key, "run", "", span=self._registry.id_span)
        try:
            await self._read_one(self._running(), id, limit=1)
        except NotFoundError:
            raise NotFoundError(
                f"there is no run of a workflow {workflow}/{key} in the file: a promise can be settled before its "
                "workflow is started, but only while an engine runs that has it"
            ) from None

    def check_stateful(self, service: str) -> None:
        """Which services have state is in their code: here, what is in the file is read."""
        self._living()

    @staticmethod
    async def _note_damage(loop: Loop, found: Iterable[Invocation]) -> None:
        """It is shown; an engine that runs notes it."""
