"""Steering invocations: Restate's routes for one of them, for many at once, and the two older forms."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response, StreamingResponse

from durable.admin.operations import Answer, Call, Operation, empty, json
from durable.admin.wire import Batch, BatchRestartResult, BatchResult, NotDone, OldAndNew, Restarted, Sid
from durable.client import Applied
from durable.core.ids import is_deployment_id, is_invocation_id
from durable.errors import ConflictError, GoneError, NotFoundError, RequestError, TooEarlyError
from durable.web.errors import BadRequest

#: What Restate says where an invocation is in no state for something, by verb and error.
_REFUSALS: dict[tuple[str, type[RequestError]], str] = {
    ("cancel", ConflictError): "The invocation '{id}' was already completed.",
    ("kill", ConflictError): "The invocation '{id}' was already completed.",
    ("pause", ConflictError): "The invocation '{id}' is not running, cannot be paused.",
    ("resume", ConflictError): "The invocation '{id}' is completed, cannot be resumed.",
    ("resume", TooEarlyError): "The invocation '{id}' is either inboxed or scheduled, cannot be resumed.",
    ("purge", ConflictError): "The invocation '{id}' is not yet completed.",
    ("purge-journal", ConflictError): "The invocation '{id}' is not yet completed.",
    ("restart-as-new", ConflictError): "The invocation '{id}' is still running.",
    ("restart-as-new", GoneError): "The invocation '{id}' cannot be restarted because its journal is gone.",
    ("restart-as-new", TooEarlyError): "The invocation '{id}' cannot be restarted because it's not running yet.",
}
_UNKNOWN = "The requested invocation '{id}' does not exist"


class Steer(msgspec.Struct, frozen=True):
    """Whether to do it."""

    #: Change nothing, and answer what would become of it.
    dry_run: bool = False


class Resume(Steer, frozen=True, kw_only=True):
    """How to go on."""

    #: The code to go on with: "keep", "latest", or the running deployment's id, which are all the same here.
    deployment: str = "keep"


class Restart(Steer, frozen=True, kw_only=True):
    """Where to begin again."""

    #: How many entries of the journal are kept with their outcomes, after the input.
    from_: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = msgspec.field(default=0, name="from")
    deployment: str = "latest"


class Delete(msgspec.Struct, frozen=True):
    """How to end it."""

    mode: Literal["Cancel", "cancel", "Kill", "kill", "Purge", "purge"] = "Cancel"


async def cancel_invocation(call: Call) -> Response:
    """Let it undo what it did: its handler sees one cancellation, after the calls it made have ended."""
    return await _steered(call, "cancel", call.engine.cancel)


async def kill_invocation(call: Call) -> Response:
    """End it now, with every call it waits for, without running any more of their code."""
    return await _steered(call, "kill", call.engine.kill)


async def pause_invocation(call: Call) -> Response:
    """Let its steps end, then nothing happens until it is resumed or cancelled."""
    return await _steered(call, "pause", call.engine.pause)


async def resume_invocation(call: Call) -> Response:
    """Go on with a paused one; retry at once one that is backing off."""
    await _check_deployment(call, call.query.deployment)
    return await _steered(call, "resume", call.engine.resume)


async def purge_invocation(call: Call) -> Response:
    """Forget a completed one: its result, its journal, its idempotency key."""
    return await _steered(call, "purge", call.engine.purge)


async def purge_journal(call: Call) -> Response:
    """Forget the journal of a completed one; its result stays."""
    return await _steered(call, "purge-journal", call.engine.purge_journal)


async def restart_invocation(call: Call) -> Response:
    """Do a completed one again as a new one, with the same input."""
    await _check_deployment(call, call.query.deployment)
    act = _restart(call, call.query.from_, dry_run=call.query.dry_run)
    handle = await (act(call.path["id"]) if call.exact else _steer("restart-as-new", call.path["id"], act))
    return json(Restarted(handle.id))


class Steered(msgspec.Struct, frozen=True):
    """What became of it: "done", "accepted" (it takes effect when the handler comes to it) or "unchanged"."""

    outcome: Applied


async def _steered(call: Call, verb: str, act: Callable[..., Awaitable[Any]]) -> Response:
    act = partial(act, dry_run=call.query.dry_run, idempotency_key=call.idempotency_key)
    if call.exact:
        return json(Steered(await act(call.path["id"]) or Applied.DONE))
    applied = await _steer(verb, call.path["id"], act)
    return empty(202 if applied is Applied.ACCEPTED else 200)


class Many(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which paused invocations to resume; what is given must all be true."""

    #: One of those for which an invocation is paused at once.
    reason: str | None = None
    service: str | None = None


class Resumed(msgspec.Struct, frozen=True):
    """Those that were resumed."""

    invocation_ids: list[str]


async def resume_all(call: Call) -> Response:
    """Resume every paused invocation, of one service or paused for one reason."""
    return json(Resumed(await call.engine.resume_all(reason=call.body.reason, service=call.body.service)))


async def delete_invocation(call: Call) -> Response:
    """Cancel, kill or purge it if that can be done; the answer is the same where it cannot."""
    engine = call.engine
    verbs = {"cancel": engine.cancel, "kill": engine.kill, "purge": engine.purge}
    mode = call.query.mode.lower()
    act = partial(verbs[mode], idempotency_key=call.idempotency_key)
    return await _if_possible(mode, call.path["id"], act)


async def kill_by_sid(call: Call) -> Response:
    """Kill it if there is one: the form of the first releases."""
    return await _if_possible("kill", call.body.sid, partial(call.engine.kill, idempotency_key=call.idempotency_key))


async def _if_possible(verb: str, id: str, act: Callable[[str], Awaitable[Any]]) -> Response:
    try:
        await _steer(verb, id, act)
    except RequestError as error:
        if error.code == 400:
            raise
    return empty(202)


async def _steer(verb: str, id: str, act: Callable[[str], Awaitable[Any]]) -> Any:
    """Do it; what the engine refuses is said in Restate's words."""
    if not is_invocation_id(id):
        raise BadRequest(400, "The request field 'invocation_id' is invalid. Reason: bad format")
    try:
        return await act(id)
    except NotFoundError:
        raise NotFoundError(_UNKNOWN.format(id=id)) from None
    except RequestError as error:
        said = _REFUSALS.get((verb, type(error)))
        if said is None or "damaged" in str(error):
            raise
        raise type(error)(said.format(id=id)) from None


def _restart(call: Call, from_entry: int, *, dry_run: bool = False) -> Callable[[str], Awaitable[Any]]:
    return partial(
        call.engine.restart_as_new, from_entry=from_entry, dry_run=dry_run, idempotency_key=call.idempotency_key
    )


async def _check_deployment(call: Call, wanted: str | None) -> None:
    """There is one deployment: what names another one cannot be done."""
    if wanted in (None, "keep", "latest"):
        call.engine.check_running()
        return
    if not is_deployment_id(str(wanted)):
        raise BadRequest(400, "The query parameter 'deployment' is invalid. Reason: bad format")
    running = {view.deployment_id for view in await call.engine.services()}
    if wanted not in running:
        raise BadRequest(400, f"The deployment '{wanted}' does not run here; name 'keep', 'latest', or what does")


# ---- many at once ----

#: Who accepts this is told of each invocation of a batch on a line of its own, while it is worked on.
NDJSON = "application/x-ndjson"
#: How many of a batch that is streamed are done in one turn of the engine.
STREAM_AT_ONCE = 100


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one invocation of a batch."""

    invocation_id: str
    succeeded: bool
    #: "done", "accepted" (it takes effect when the handler comes to it) or "unchanged".
    outcome: str | None = None
    error: str | None = None


async def batch_cancel(call: Call) -> Response:
    """Cancel each."""
    return await _batch(call, "cancel", call.engine.cancel)


async def batch_kill(call: Call) -> Response:
    """Kill each."""
    return await _batch(call, "kill", call.engine.kill)


async def batch_pause(call: Call) -> Response:
    """Pause each."""
    return await _batch(call, "pause", call.engine.pause)


async def batch_resume(call: Call) -> Response:
    """Resume each."""
    await _check_deployment(call, call.body.deployment)
    return await _batch(call, "resume", call.engine.resume)


async def batch_purge(call: Call) -> Response:
    """Purge each."""
    return await _batch(call, "purge", call.engine.purge)


async def batch_purge_journal(call: Call) -> Response:
    """Purge the journal of each."""
    return await _batch(call, "purge-journal", call.engine.purge_journal)


async def batch_restart(call: Call) -> Response:
    """Do each again, from its start."""
    await _check_deployment(call, call.body.deployment)
    dry_run = call.query.dry_run
    act = _restart(call, 0, dry_run=dry_run)
    done, failed = await _each(_ids(call, call.admin.limits.batch), "restart-as-new", act)
    return json(BatchRestartResult([OldAndNew(id, None if dry_run else new.id) for id, new in done], failed, dry_run))


async def _batch(call: Call, verb: str, do: Callable[..., Awaitable[Any]]) -> Response:
    dry_run = call.query.dry_run
    act = partial(do, dry_run=dry_run, idempotency_key=call.idempotency_key)
    if NDJSON in call.request.headers.get("accept", ""):
        ids = _ids(call, call.admin.limits.batch_streamed)
        return StreamingResponse(_stream(ids, verb, act), media_type=NDJSON)
    done, failed = await _each(_ids(call, call.admin.limits.batch), verb, act)
    outcomes = {id: _outcome(result) for id, result in done} if dry_run else {}
    return json(BatchResult([id for id, _ in done], failed, dry_run, outcomes))


def _outcome(result: Applied | None) -> str:
    return str(result or Applied.DONE)


async def _stream(ids: list[str], verb: str, act: Callable[[str], Awaitable[Any]]) -> AsyncIterator[bytes]:
    """A line for each, as soon as it is done."""
    for start in range(0, len(ids), STREAM_AT_ONCE):
        done, failed = await _each(ids[start : start + STREAM_AT_ONCE], verb, act)
        lines = [
            *(Progress(id, True, _outcome(result)) for id, result in done),
            *(Progress(one.invocation_id, False, error=one.error) for one in failed),
        ]
        yield b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _ids(call: Call, at_most: int) -> list[str]:
    ids = call.body.invocation_ids
    if len(ids) > at_most:
        raise BadRequest(400, f"a batch has at most {at_most} invocations, not {len(ids)}")
    return list(dict.fromkeys(ids))


async def _each(
    ids: list[str], verb: str, act: Callable[[str], Awaitable[Any]]
) -> tuple[list[tuple[str, Any]], list[NotDone]]:
    """Do it to each, all in one turn of the engine; one that is refused holds up no other."""
    results = await asyncio.gather(*(_steer(verb, id, act) for id in ids), return_exceptions=True)
    done: list[tuple[str, Any]] = []
    failed: list[NotDone] = []
    for id, result in zip(ids, results, strict=True):
        if isinstance(result, RequestError | BadRequest):
            failed.append(NotDone(id, str(result)))
        elif isinstance(result, BaseException):
            raise result
        else:
            done.append((id, result))
    return done, failed


def _verb(
    verb: str,
    run: Callable[[Call], Awaitable[Response]],
    summary: str,
    answers: dict[int, Answer],
    query: Any = Steer,
) -> Operation:
    everywhere = {404: Answer("There is no such invocation."), 409: Answer("Its status does not allow it.")}
    return Operation(
        method="PATCH", path=f"/invocations/{{id}}/{verb}", run=run, tag="invocations", summary=summary, query=query,
        once=True, answers={**everywhere, **answers},
    )  # fmt: skip


def _batch_verb(verb: str, run: Callable[[Call], Awaitable[Response]], result: Any = BatchResult) -> Operation:
    also = (NDJSON,) if result is BatchResult else ()
    return Operation(
        method="POST", path=f"/internal/invocations_batch_operations/{verb}", run=run, tag="batch operations",
        summary=f"{verb} many invocations", query=Steer, body=Batch,
        once=True, answers={200: Answer("What became of each.", result, also=also)},
    )  # fmt: skip


_DONE = Answer("Done.")
_LATER = Answer("Durable; it takes effect when the handler comes to it.")
_TOO_EARLY = Answer("Its turn has not come.")

OPERATIONS = (
    _verb("cancel", cancel_invocation, "Cancel an invocation", {200: _DONE, 202: _LATER}),
    _verb("kill", kill_invocation, "Kill an invocation", {200: _DONE}),
    _verb("pause", pause_invocation, "Pause an invocation", {200: Answer("It is paused already."), 202: _LATER}),
    _verb("resume", resume_invocation, "Resume an invocation", {200: _DONE, 425: _TOO_EARLY}, Resume),
    _verb("purge", purge_invocation, "Purge an invocation", {200: _DONE}),
    _verb("purge-journal", purge_journal, "Purge the journal of an invocation", {200: _DONE}),
    _verb(
        "restart-as-new",
        restart_invocation,
        "Do an invocation again",
        {
            200: Answer("The new invocation.", Restarted, names={"id": "/new_invocation_id"}),
            410: Answer("Its journal is gone."),
            422: Answer("It belongs to a workflow."),
            425: _TOO_EARLY,
        },
        Restart,
    ),
    Operation(
        method="DELETE", path="/invocations/{id}", run=delete_invocation, tag="invocations",
        summary="Cancel, kill or purge an invocation", query=Delete,
        once=True, answers={202: Answer("If it can be done, it is.")},
    ),
    Operation(
        method="DELETE", path="/invocations", run=kill_by_sid, tag="invocations", summary="Kill an invocation",
        body=Sid, once=True, answers={202: Answer("If it can be done, it is.")},
    ),
    Operation(
        method="POST", path="/resume-all", run=resume_all, tag="batch operations",
        summary="Resume all that are paused", body=Many, answers={200: Answer("Which those were.", Resumed)},
    ),
    _batch_verb("cancel", batch_cancel),
    _batch_verb("kill", batch_kill),
    _batch_verb("pause", batch_pause),
    _batch_verb("resume", batch_resume),
    _batch_verb("purge", batch_purge),
    _batch_verb("purge-journal", batch_purge_journal),
    _batch_verb("restart-as-new", batch_restart, BatchRestartResult),
)  # fmt: skip
