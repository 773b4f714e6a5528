"""Listings and counts, read by a connection of their own: however long one takes, commits do not wait for it."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from durable.core.invocation import Invocation
from durable.errors import StorageBusyError
from durable.store.filter import Filter
from durable.store.rows import FIXED, MOVING, invocation_of

T = TypeVar("T")

#: How long one may take.
SECONDS_MAX = 10.0


def find(path: str, where: Filter) -> list[Invocation]:
    """Invocations, newest first."""
    condition, values = condition_of(where)
    sql = f"SELECT {FIXED}, {MOVING} FROM invocations{condition} ORDER BY seq DESC LIMIT ?"
    return _look(path, lambda database: [invocation_of(row) for row in database.execute(sql, (*values, where.limit))])


def count(path: str, where: Filter) -> dict[str, int]:
    """How many there are of each status; `limit` and `before` do not count."""
    condition, values = condition_of(msgspec.structs.replace(where, before=None))
    sql = f"SELECT status, count(*) FROM invocations{condition} GROUP BY status ORDER BY status"
    return _look(path, lambda database: dict(database.execute(sql, values).fetchall()))


def condition_of(where: Filter) -> tuple[str, list[Any]]:
    """The WHERE clause of a filter, and its values."""
    clauses: list[str] = []
    values: list[Any] = []
    for column, wanted in (
        ("id = ?", where.id),
        ("service = ?", where.service),
        ("handler = ?", where.handler),
        ("key = ?", where.key),
        ("caller_id = ?", where.caller),
        ("idempotency_key = ?", where.idempotency_key),
        ("created_at >= ?", where.created_after),
        ("created_at < ?", where.created_before),
        ("seq < ?", where.before),
    ):
        if wanted is not None:
            clauses.append(column)
            values.append(wanted)
    if where.now is not None:
        clauses.append("(expires_at IS NULL OR expires_at > ?)")
        values.append(where.now)
    if where.status:
        clauses.append(f"status IN ({', '.join('?' * len(where.status))})")
        values += sorted(where.status)
    if where.reason is not None:
        clauses.append("CASE WHEN json_valid(last_failure) THEN json_extract(last_failure, '$.reason') END = ?")
        values.append(where.reason)
    if where.failure is not None:
        clauses.append("(instr(last_failure, ?) OR (ok = 0 AND instr(CAST(output AS TEXT), ?)))")
        values += [where.failure_as_stored] * 2
    return f" WHERE {' AND '.join(clauses)}" if clauses else "", values


def _look(path: str, work: Callable[[sqlite3.Connection], T]) -> T:
    database = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=2.0)
    ends = time.monotonic() + SECONDS_MAX
    database.set_progress_handler(lambda: int(time.monotonic() > ends), 50_000)
    try:
        return work(database)
    except sqlite3.OperationalError:
        if time.monotonic() > ends:
            raise StorageBusyError(
                f"a listing took longer than {SECONDS_MAX:g} s: make the filter narrower"
            ) from None
        raise
    finally:
        database.close()
