"""Listings and counts, read through separate connections, so that no commit waits for them.

A listing walks one index, chosen here and not by SQLite, which does not know how many rows a value has. Each index
has the moment of acceptance behind what it is about (`migrations/0006.sql`): an age, and where a page begins, bound
it in the order of the listing. Service, handler and status are one index together, with a range for each combination
that there is; ranges are merged. What the index does not know is asked of the rows it selects. `Filter.examine`
limits how many those are, and `EXAMINE_S` for how long: there the page ends, and the next one goes on.
"""

import heapq
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from durable.core.invocation import Invocation, Status
from durable.errors import StorageBusyError
from durable.store.claims import is_mended
from durable.store.faults import is_damage
from durable.store.filter import (
    NEVER,
    Backlog,
    Counts,
    Cursor,
    Filter,
    Page,
    Waiting,
    backlog_of,
    counts_of,
    cursor_of,
    page_of,
)
from durable.store.pages import rows_of
from durable.store.paths import check_files
from durable.store.rows import FIXED, MOVING, invocation_of

T = TypeVar("T")
Look = Callable[[sqlite3.Connection], T]

#: How long one may take.
SECONDS_MAX = 10.0
#: For how long rows are looked at where `Filter.examine` limits them.
EXAMINE_S = 0.1
#: How many rows are looked at at once: the first time, at most, and each time twice as many.
_BATCH_MIN, _BATCH_MAX = 64, 1024
#: All but those that have ended, which are most.
_OPEN = frozenset(Status) - {Status.COMPLETED}
#: Up to how many ranges are merged; where services have more handlers than that, rows are looked at.
_RANGES_MAX = 500

BY_HANDLER, CREATED, FAILED = "invocations_by_handler", "invocations_created", "invocations_failed"
#: Indexes for what selects few, the most selective first.
_SELECTIVE = {
    "idempotency_key": "invocations_of_idempotency_key",
    "caller": "invocations_of_caller",
    "key": "invocations_of_key",
}
#: What every index knows.
_MOMENTS = frozenset({"created_after", "created_before", "before"})
_KNOWN = {
    BY_HANDLER: _MOMENTS | {"service", "handler", "status"},
    FAILED: _MOMENTS | {"failed"},
    **{index: _MOMENTS | {name} for name, index in _SELECTIVE.items()},
}
#: A condition, and its values.
Clause = tuple[str, tuple[Any, ...]]


class Plan(msgspec.Struct, frozen=True):
    """How a listing is read: by which index, in which ranges, and what is asked of each row."""

    #: None is that of ids, which selects one at most.
    index: str | None
    #: What tells the ranges apart; one empty clause where there is one range.
    ranges: tuple[Clause, ...]
    #: What the index knows besides.
    bounds: tuple[Clause, ...]
    #: What only a row knows.
    rest: tuple[Clause, ...]

    def statements(self, columns: str, tail: str = "") -> Iterator[Clause]:
        """One for each range."""
        source = "_invocations" if self.index is None else f"_invocations INDEXED BY {self.index}"
        for one in self.ranges:
            text, values = _all_of([one, *self.bounds])
            yield f"SELECT {columns} FROM {source}{text}{tail}", values

    def walk(self, database: sqlite3.Connection) -> Iterator[tuple[Any, int]]:
        """Moments and numbers of what the index selects, newest first; read only as far as they are asked for."""
        every = self.statements("created_at, seq", " ORDER BY created_at DESC, seq DESC")
        ranges = [database.execute(*one) for one in every]
        return iter(ranges[0]) if len(ranges) == 1 else heapq.merge(*ranges, key=_cursor, reverse=True)


def find(path: str, where: Filter, *, mended: set[int] | None = None, one_by_one: bool = False) -> Page:
    """A page, newest first. `one_by_one`: some of them cannot be read, and no index knows how they stand.

    Adds to `mended` those whose id is to be written again.
    """

    def work(database: sqlite3.Connection) -> Page:
        chosen, found = plan(database, where), list[Invocation]()
        if not where.limit:
            return Page([], where.before)
        for looked in _look_through(database, chosen, where, f"{FIXED}, {MOVING}"):
            rows = {row[0]: row for row in looked.rows}
            for row in [rows[seq] for _, seq in looked.batch if seq in rows]:
                found.append(one := invocation_of(row))
                if mended is not None and is_mended(row, one):
                    mended.add(one.seq)
            if len(found) > where.limit:
                return Page(found[: where.limit], cursor_of(found[where.limit - 1]))
        return Page(found, looked.ends)

    return _careful(path, work, lambda database: page_of(_every(database), where), one_by_one=one_by_one)


def count(path: str, where: Filter, *, one_by_one: bool = False) -> Counts:
    """How many there are in each status, whatever `limit` and `before` are."""
    where = msgspec.structs.replace(where, before=None, limit=0)

    def work(database: sqlite3.Connection) -> Counts:
        chosen = plan(database, where, counting=True)
        by_status = Counter[str]()
        if chosen.index == BY_HANDLER and not [one for one in chosen.rest if one[0] != _KEPT]:
            whole = not {"service", "handler", *_MOMENTS} & _clauses(where).keys()
            for text, values in chosen.statements("status, count(*)", " GROUP BY status"):
                if not whole or values[-1] != Status.COMPLETED:
                    by_status.update(dict(database.execute(text, values).fetchall()))
            if whole and (not where.status or Status.COMPLETED in where.status):
                by_status[Status.COMPLETED] = _completed(database)
            over, complete = _over(database, where)
            by_status.subtract(over)
        else:
            for looked in _look_through(database, chosen, where, "status, count(*)", " GROUP BY status"):
                by_status.update(dict(looked.rows))
            complete = looked.ends is None
        return Counts({status: number for status, number in sorted(by_status.items()) if number > 0}, complete)

    return _careful(path, work, lambda database: counts_of(_every(database), where), one_by_one=one_by_one)


def backlog(path: str) -> Backlog:
    """How many are open, by handler and status. An index knows both, so no row has to be read."""

    def work(database: sqlite3.Connection) -> Backlog:
        found: dict[tuple[str, str, str], Waiting] = {}
        for text, values in _ranges(database, Filter(status=_OPEN)):
            sql = f"SELECT count(*), min(created_at) FROM _invocations INDEXED BY {BY_HANDLER} WHERE {text}"
            number, oldest = database.execute(sql, values).fetchone()
            if number:
                service, handler, status = map(str, values)
                found[service, handler, status] = Waiting(number, oldest if isinstance(oldest, int) else 0)
        return Backlog(found, _timers(database))

    def without_indexes(database: sqlite3.Connection) -> Backlog:
        return backlog_of(_every(database), _timers(database))

    return _careful(path, work, without_indexes, one_by_one=False)


def open_handlers(database: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Service and handler of every invocation that has not ended. Takes a few steps into the index for each."""
    found = set()
    for text, values in _ranges(database, Filter(status=_OPEN)):
        sql = f"SELECT 1 FROM _invocations INDEXED BY {BY_HANDLER} WHERE {text} LIMIT 1"
        if database.execute(sql, values).fetchone() is not None:
            found.add((str(values[0]), str(values[1])))
    return frozenset(found)


def _timers(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM _timers").fetchone()[0])


def _careful(path: str, work: Look[T], without_indexes: Look[T], *, one_by_one: bool) -> T:
    """Read as `work` does; where that meets a page that cannot be read, invocation by invocation."""
    if not one_by_one:
        try:
            return look(path, work)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
    return look(path, without_indexes)


def _every(database: sqlite3.Connection) -> Iterator[Invocation]:
    """All invocations, without any index but that of the ids: it has everybody."""
    sql = "SELECT seq FROM _invocations INDEXED BY sqlite_autoindex__invocations_1"
    for row in rows_of(database, "seq", {seq for (seq,) in database.execute(sql)}, set()):
        yield invocation_of(row)


def _completed(database: sqlite3.Connection) -> int:
    """How many have ended, which are most: SQLite counts a whole table without a look at its rows."""
    opened = "SELECT count(*) FROM _invocations INDEXED BY invocations_open WHERE status <> 'completed'"
    return int(database.execute(f"SELECT (SELECT count(*) FROM _invocations) - ({opened})").fetchone()[0])


def _over(database: sqlite3.Connection, where: Filter) -> tuple[dict[str, int], bool]:
    """How many are past their retention and not swept away yet, and whether all of those were looked at."""
    if where.now is None:
        return {}, True
    at_most = -1 if where.examine is None else where.examine
    known = [clause for name, clause in _clauses(where).items() if name in _KNOWN[BY_HANDLER]]
    text, values = _all_of(known)
    expired = (
        "SELECT service, handler, status, created_at FROM _invocations INDEXED BY invocations_expiry"
        " WHERE expires_at <= ? LIMIT ?"
    )
    sql = f"SELECT status, count(*) FROM ({expired}){text} GROUP BY status"
    found = dict(database.execute(sql, (where.now, at_most, *values)).fetchall())
    return found, at_most < 0 or sum(found.values()) < at_most


class _Looked(msgspec.Struct):
    """Some of the rows that an index selects."""

    batch: list[tuple[Any, int]]
    #: What was asked of those that are wanted.
    rows: list[tuple[Any, ...]]
    #: Where it goes on, in the last one where not all was looked at.
    ends: Cursor | None = None


def _look_through(
    database: sqlite3.Connection, chosen: Plan, where: Filter, columns: str, tail: str = ""
) -> Iterator[_Looked]:
    """Look at what the index selects, newest first, a batch at a time; at least one, which may be empty."""
    walk = chosen.walk(database)
    until, examined = time.monotonic() + EXAMINE_S, 0
    size = min(max(_BATCH_MIN, where.limit + 1), _BATCH_MAX)
    while True:
        batch = list(islice(walk, size))
        text, values = _all_of([(f"seq IN ({','.join(str(seq) for _, seq in batch)})", ()), *chosen.rest])
        sql = f"SELECT {columns} FROM _invocations NOT INDEXED{text}{tail}"
        looked = _Looked(batch, database.execute(sql, values).fetchall())
        examined += len(batch)
        if where.examine is not None and (examined >= where.examine or time.monotonic() > until):
            following = next(walk, None)
            looked.ends = None if following is None else _cursor(batch[-1])
            yield looked
            return
        yield looked
        if len(batch) < size:
            return
        size = min(2 * size, _BATCH_MAX)


def plan(database: sqlite3.Connection, where: Filter, *, counting: bool = False) -> Plan:
    """The most selective index for a filter. `counting`: prefer one that knows the status."""
    clauses = _clauses(where)
    if where.id is not None:
        return _planned(None, clauses, [clauses.pop("id")])
    for name, index in _SELECTIVE.items():
        if name in clauses:
            return _planned(index, clauses, [clauses[name]])
    ended = not where.status or Status.COMPLETED in where.status
    if "failed" in clauses and ended:
        return _planned(FAILED, clauses, [clauses["failed"]])
    if counting or where.service is not None or where.handler is not None or where.status:
        ranges = list(islice(_ranges(database, where), _RANGES_MAX + 1))
        if len(ranges) <= _RANGES_MAX:
            return _planned(BY_HANDLER, clauses, ranges)
    return _planned(CREATED, clauses, [("", ())])


def _planned(index: str | None, clauses: dict[str, Clause], ranges: Sequence[Clause]) -> Plan:
    known = _KNOWN.get(index or "", _MOMENTS)
    bounds = tuple(clause for name, clause in clauses.items() if name in _MOMENTS)
    return Plan(index, tuple(ranges), bounds, tuple(one for name, one in clauses.items() if name not in known))


def _ranges(database: sqlite3.Connection, where: Filter) -> Iterator[Clause]:
    """Which combinations of service, handler and status there are, a step into the index for each."""
    for service in [where.service] if where.service is not None else _following(database, "service"):
        known: Clause = ("service = ?", (service,))
        for handler in [where.handler] if where.handler is not None else _following(database, "handler", known):
            both: Clause = (f"{known[0]} AND handler = ?", (service, handler))
            for status in sorted(map(str, where.status)) or _following(database, "status", both):
                yield f"{both[0]} AND status = ?", (*both[1], status)


def _following(database: sqlite3.Connection, column: str, known: Clause = ("", ())) -> Iterator[str]:
    """The values of one column of the index, in their order."""
    text, values = _all_of([known, (f"{column} > ?", ())])
    sql = f"SELECT min({column}) FROM _invocations INDEXED BY {BY_HANDLER}{text}"
    following = database.execute(sql, (*values, "")).fetchone()[0]
    while following is not None:
        yield following
        following = database.execute(sql, (*values, following)).fetchone()[0]


_KEPT = "(expires_at IS NULL OR expires_at > ?)"
_REASON = "CASE WHEN json_valid(last_failure) THEN json_extract(last_failure, '$.reason') END = ?"
_SAID = "(instr(last_failure, ?) OR (ok = 0 AND instr(CAST(output AS TEXT), ?)))"


def _clauses(where: Filter) -> dict[str, Clause]:
    """The conditions of a filter, by name."""
    clauses: dict[str, Clause] = {}
    conditions: tuple[tuple[str, str, str | int | None], ...] = (
        ("id", "id = ?", where.id),
        ("service", "service = ?", where.service),
        ("handler", "handler = ?", where.handler),
        ("key", "key = ?", where.key),
        ("caller", "caller_id = ?", where.caller),
        ("idempotency_key", "idempotency_key = ?", where.idempotency_key),
        ("created_after", "created_at >= ?", where.created_after),
        ("created_before", "created_at < ?", where.created_before),
        ("kept", _KEPT, where.now),
        ("reason", _REASON, where.reason),
    )
    for name, text, wanted in conditions:
        if wanted is not None:
            clauses[name] = (text, (wanted,))
    if where.before is not None:
        clauses["before"] = ("(created_at, seq) < (?, ?)", where.before)
    if where.status:
        text = f"status IN ({', '.join('?' * len(where.status))})"
        clauses["status"] = (text, tuple(map(str, sorted(where.status))))
    if where.reason is not None or where.failure is not None:
        clauses["failed"] = ("(ok = 0 OR last_failure IS NOT NULL)", ())
    if where.failure is not None:
        clauses["failure"] = (_SAID, (where.failure_as_stored,) * 2)
    return clauses


def _all_of(clauses: Sequence[Clause]) -> Clause:
    given = [clause for clause in clauses if clause[0]]
    text = f" WHERE {' AND '.join(text for text, _ in given)}" if given else ""
    return text, tuple(value for _, values in given for value in values)


def _cursor(row: tuple[Any, int]) -> Cursor:
    """Where a row stands in a listing; one whose moment is damaged comes before all others."""
    return row if isinstance(row[0], int) else (NEVER, row[1])


def look(path: str, work: Look[T]) -> T:
    """Read through a separate connection, for at most ten seconds. Raises `StorageBusyError`.

    Whatever has the name of the file by now: a `StorageReadOnlyError` for what is no file.
    """
    check_files(path)
    database = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=2.0)
    ends = time.monotonic() + SECONDS_MAX
    database.set_progress_handler(lambda: int(time.monotonic() > ends), 50_000)
    try:
        database.execute("BEGIN")  # all that is read is of one moment
        return work(database)
    except sqlite3.OperationalError:
        if time.monotonic() > ends:
            raise StorageBusyError(f"it took longer than {SECONDS_MAX:g} s: make the filter narrower") from None
        raise
    finally:
        database.close()
