"""What an operator starts: an invocation, a backup."""

import os
import re
from typing import Annotated, Any, Literal

import msgspec
from anyio import to_thread
from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation, json
from durable.admin.wire import DurationText, KeyText
from durable.errors import NotFoundError
from durable.remote.envelope import INPUT_DIFFERS
from durable.store.backup import unfit
from durable.web.errors import BadRequest

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to invoke."""

    #: "service/handler".
    target: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[^/]+/[^/]+$"})]
    #: Of a virtual object, or a workflow.
    key: str | None = None
    #: The argument, as JSON; left out where there is none.
    input: Any = None
    #: The argument of a handler that takes bytes.
    input_base64: bytes | None = None
    #: How long to wait before it starts: "10m".
    delay: DurationText | None = None
    idempotency_key: KeyText | None = None
    headers: dict[str, str] = {}


class Started(msgspec.Struct, frozen=True):
    """The invocation; it cannot be lost any more."""

    invocation_id: str
    #: Whether it is new, or what an idempotency key had named before.
    status: Literal["Accepted", "PreviouslyAccepted"]


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to write a copy of the database."""

    #: A file name in the folder that the app was given; over the control socket, an absolute path instead.
    name: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{_FILE_NAME.pattern}$"})]


class Written(msgspec.Struct, frozen=True):
    """The copy."""

    path: str
    bytes: int


async def start_invocation(call: Call) -> Response:
    """Have a handler invoked; the answer comes when that is durable. Private handlers are refused."""
    start, limits = call.body, call.admin.limits
    if start.input is not None and start.input_base64 is not None:
        raise BadRequest(422, "give input or input_base64, not both")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in start.headers.items())
    if len(start.headers) > limits.headers or size > limits.header_bytes:
        raise BadRequest(413, f"at most {limits.headers} headers with {limits.header_bytes} bytes in all are stored")
    if any(_CONTROL.search(one) for pair in start.headers.items() for one in pair):
        raise BadRequest(422, "headers: a name or value has control characters or line ends")
    if "/$" in start.target:
        raise NotFoundError(f"this engine has no handler {start.target}")  # built-in handlers are its own
    _check_target(start)
    argument = start.input_base64 if start.input is None else start.input
    handle = await call.engine.send(
        start.target,
        argument,
        key=start.key,
        delay=start.delay,
        idempotency_key=call.idempotency_key if start.idempotency_key is None else start.idempotency_key,
        headers=start.headers,
    )
    told = {INPUT_DIFFERS: "true"} if handle.input_differs else {}
    return json(Started(handle.id, "Accepted" if handle.accepted else "PreviouslyAccepted"), 202, told)


def _check_target(start: Start) -> None:
    """Whether it names a handler alone: the error of the engine speaks of its argument, not of this body."""
    service, _, rest = start.target.partition("/")
    key, _, name = rest.rpartition("/")
    if service and key and name:
        raise BadRequest(
            400, f"a target is 'service/handler': '{service}/{name}', and its key as `key`: {key[:1000]!r}"
        )


async def back_up(call: Call) -> Response:
    """Write a consistent copy of the database to a new file, while everything goes on."""
    folder = call.admin.backup_folder
    if call.admin.backup_anywhere and os.path.isabs(call.body.name):
        await call.engine.backup(call.body.name)
        return json(Written(call.body.name, (await to_thread.run_sync(os.stat, call.body.name)).st_size), 201)
    if folder is None:
        raise BadRequest(501, "there is no folder for backups: create_app(backup_folder=...) names one")
    if not _FILE_NAME.fullmatch(call.body.name):
        raise BadRequest(422, "name: expected a file name of letters, digits, '_', '-' and '.', without a folder")
    path = os.path.join(folder, call.body.name)
    reason = await to_thread.run_sync(unfit, path)
    if reason:
        raise BadRequest(409, reason)
    await call.engine.backup(path)
    return json(Written(path, (await to_thread.run_sync(os.stat, path)).st_size), 201)


OPERATIONS = (
    Operation(
        method="POST", path="/invocations", run=start_invocation, tag="invocations", summary="Start an invocation",
        body=Start, once=True,
        answers={
            202: Answer("It is durable.", Started, names={"id": "/invocation_id"}),
            404: Answer("There is no such handler."),
        },
    ),
    Operation(
        method="POST", path="/backup", run=back_up, tag="engine", summary="Back up the database", body=Backup,
        answers={
            201: Answer("The copy.", Written),
            409: Answer("There is such a file, or the name belongs to another one."),
            501: Answer("There is no folder for backups."),
        },
    ),
)  # fmt: skip
