"""`POST /query`: SQL over Restate's introspection tables."""

import sqlite3
import sys
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.responses import Response

from durable.admin.operations import Answer, Call, Operation
from durable.admin.sql import arrow
from durable.admin.sql.dialect import SqlError
from durable.admin.sql.reader import Facts, Result, TooMuch, query
from durable.admin.wire import instant
from durable.release import package_version
from durable.web.errors import BadRequest

#: How many statements run at the same time, and how many may wait for their turn.
_AT_ONCE, _WAITING = 4, 32
_KINDS = {"Service": "service", "VirtualObject": "virtual_object", "Workflow": "workflow"}


class Query(msgspec.Struct, frozen=True):
    """A statement."""

    query: str


class Rows(msgspec.Struct, frozen=True):
    """Its result; what is null is left out of a row."""

    rows: list[dict[str, Any]]


async def run_query(call: Call) -> Response:
    """Read with SQL: one SELECT over `sys_invocation`, `sys_journal`, `state`, and the other tables that
    `information_schema.tables` lists.

    JSON where `Accept` asks for it, an Arrow stream otherwise.
    """
    engine, path = call.engine, call.engine.path
    if path is None:
        raise BadRequest(501, "this engine's store is not a file, so it cannot be queried")
    views = await engine.services()
    id = views[0].deployment_id if views else ""
    server = f"durable/{package_version()} python/{sys.version_info.major}.{sys.version_info.minor}"
    facts = Facts(
        services=[(view.name, view.revision, view.public, _KINDS[view.ty], id) for view in views],
        deployment=(id, "http://embedded.invalid/", instant(call.admin.created_at) or "", server) if views else None,
        now=engine.now_ms(),
    )
    sealing = call.engine.sealing
    limits, show_payloads, as_json = call.admin.query_limits, call.admin.show_payloads, _wants_json(call)

    def work() -> bytes:
        result: Result = query(path, call.body.query, facts, limits, show_payloads=show_payloads, sealing=sealing)
        return result.json() if as_json else result.arrow()

    if call.admin.readers.statistics().tasks_waiting >= _WAITING:
        raise BadRequest(429, "too many statements wait for their turn", {"retry-after": "1"})
    try:
        body = await to_thread.run_sync(work, limiter=call.admin.readers)
    except TooMuch as error:
        raise BadRequest(error.status, str(error)) from None
    except SqlError as error:
        raise BadRequest(400, str(error)) from None
    except sqlite3.Error as error:
        raise BadRequest(503, f"the database could not be read: {error}", {"retry-after": "1"}) from None
    return Response(body, media_type="application/json" if as_json else arrow.MEDIA_TYPE)


def readers() -> CapacityLimiter:
    """How many statements run at the same time."""
    return CapacityLimiter(_AT_ONCE)


def _wants_json(call: Call) -> bool:
    return "application/json" in call.request.headers.get("accept", "").lower()


OPERATIONS = (
    Operation(
        method="POST", path="/query", run=run_query, tag="query", summary="Read with SQL", body=Query,
        answers={
            200: Answer("The result.", Rows, also=(arrow.MEDIA_TYPE,)),
            408: Answer("It took too long."),
            429: Answer("Too many statements wait for their turn."),
            501: Answer("There is no file."),
        },
    ),
)  # fmt: skip
