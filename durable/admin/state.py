"""The state of keys, replaced from outside."""

import asyncio

import msgspec
from anyio import to_thread
from starlette.responses import Response

from durable.admin.operations import SMALL, Answer, Call, Operation, empty, json
from durable.admin.wire import ModifyState, ReplaceState, State
from durable.core.state_version import state_version
from durable.engine.state import raise_conflict
from durable.errors import ConflictError, NotFoundError
from durable.web.errors import BadRequest

#: How long an answer waits for the key to be free: within that, a stale version is refused even if it was not stale
#: when it was sent.
PATIENCE_S = 1.0


class OfKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose state."""

    key: str


class Waits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether it waits."""

    #: Until it is done; otherwise, only until it is durable.
    wait: bool = True


async def modify_state(call: Call) -> Response:
    """Replace the whole state of one key: names that are left out are deleted.

    Of a service that is gone, state can still be cleared.
    Waits in the key's queue, behind exclusive handlers. A version that is stale is refused.
    """
    service, change = call.path["service"], call.body
    engine = call.engine
    kinds = {view.name: view.ty for view in await engine.services()}
    if service not in kinds and change.new_state:
        raise NotFoundError(f"The requested service '{service}' does not exist")
    if kinds.get(service) == "Service":
        raise BadRequest(400, "Cannot modify state for service type Service")
    values = {name: _bytes(name, numbers) for name, numbers in change.new_state.items()}
    if change.version is not None and call.idempotency_key is None:  # with one, it may be what this has changed
        now = state_version(await engine.stored_state(service, change.object_key))
        if now != change.version:
            raise ConflictError(f"the state of {service}/{change.object_key} has changed: read it again")
    done = await engine.replace_state(
        service,
        change.object_key,
        values,
        expected_version=change.version,
        idempotency_key=call.idempotency_key,
    )
    await asyncio.wait({done}, timeout=PATIENCE_S)
    if done.done():
        raise_conflict(done.result())
    return empty(202)


async def get_state(call: Call) -> Response:
    """The committed state of one key, of a service that is gone, too."""
    key, service = call.query.key, call.path["service"]
    values = await call.engine.stored_state(service, key)
    if not values:
        call.engine.check_stateful(service)

    def write() -> Response:
        shown = {name: value if call.admin.show_payloads else None for name, value in values.items()}
        return json(State(state_version(values), shown))

    return write() if sum(map(len, values.values())) <= SMALL else await to_thread.run_sync(write)


async def replace_state(call: Call) -> Response:
    """Replace the whole state of one key, and wait until that is done: names that are left out are deleted.

    Waits in the key's queue, behind exclusive handlers, however long that takes; with `wait=false`, only until the
    change is durable: then the answer is 202.
    """
    service, change = call.path["service"], call.body
    call.engine.check_stateful(service)
    key = call.idempotency_key if change.idempotency_key is None else change.idempotency_key
    done = await call.engine.replace_state(
        service, change.key, change.state, expected_version=change.version, idempotency_key=key
    )
    if not call.query.wait:
        return empty(202)
    raise_conflict(await done)
    return empty()


def _bytes(name: str, numbers: list[int]) -> bytes:
    try:
        return bytes(numbers)
    except ValueError:
        raise BadRequest(422, f"new_state: the value of {name!r} has numbers that are no bytes, 0 to 255") from None


_STATE = "/services/{service}/state"
OPERATIONS = (
    Operation(
        method="GET", path=_STATE, run=get_state, tag="services", summary="Show the state of a key", query=OfKey,
        answers={200: Answer("The state.", State), 404: Answer("There is no such service.")},
    ),
    Operation(
        method="PUT", path=_STATE, run=replace_state, tag="services", summary="Replace the state of a key, and wait",
        body=ReplaceState, query=Waits, once=True,
        answers={
            200: Answer("Done."),
            202: Answer("Durable: done, or waiting for the key to be free."),
            404: Answer("There is no such service."),
            409: Answer("The state is not the one whose version was given."),
        },
    ),
    Operation(
        method="POST", path=_STATE, run=modify_state, tag="services",
        summary="Replace the state of a key", body=ModifyState, once=True,
        answers={
            202: Answer("Durable: done, or waiting for the key to be free."),
            404: Answer("There is no such service."),
            409: Answer("The state is not the one whose version was given."),
        },
    ),
)  # fmt: skip
