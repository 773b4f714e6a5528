"""Listings and counts, read by a connection of their own: however long one takes, commits do not wait for it.

Each listing is driven by one index, chosen here and not by SQLite, which does not know how many rows a value has:
that of the most selective condition. Where an index has its rows in order of `seq` only for one value (a handler, a
status), the listing is put together from one part a value, each with its own limit.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from durable.core.invocation import Invocation, Status
from durable.errors import StorageBusyError
from durable.store.faults import is_damage
from durable.store.filter import Filter, matches
from durable.store.pages import BATCH, rows_of
from durable.store.rows import FIXED, MOVING, invocation_of

T = TypeVar("T")
Look = Callable[[sqlite3.Connection], T]

#: How long one may take.
SECONDS_MAX = 10.0
#: Up to how many invocations a stretch of time is sorted by itself, and not found on the way through all.
STRETCH = 20_000

_OPEN = "completed_at IS NULL"
_REASON = "CASE WHEN json_valid(last_failure) THEN json_extract(last_failure, '$.reason') END = ?"
_FAILED = "(ok = 0 OR last_failure IS NOT NULL)"
#: A condition, and its values.
Clause = tuple[str, tuple[Any, ...]]


class Plan(msgspec.Struct, frozen=True):
    """How a listing is read: from which index, and in which parts."""

    #: None is the table itself, from its end.
    index: str | None
    #: What tells the parts apart; one empty clause where there is one part.
    parts: tuple[Clause, ...]
    #: What holds for all of them.
    clauses: tuple[Clause, ...]

    def seqs(self, limit: int) -> Clause:
        """The statement that finds them, newest first."""
        source = f"invocations{'' if self.index is None else f' INDEXED BY {self.index}'}"
        texts, values = [], []
        for part in self.parts:
            every = [clause for clause in (part, *self.clauses) if clause[0]]
            where = f" WHERE {' AND '.join(text for text, _ in every)}" if every else ""
            texts.append(f"SELECT * FROM (SELECT seq FROM {source}{where} ORDER BY seq DESC LIMIT ?)")
            values += [value for _, one in every for value in one] + [limit]
        return f"{' UNION ALL '.join(texts)} ORDER BY seq DESC LIMIT ?", (*values, limit)


def find(path: str, where: Filter, *, one_by_one: bool = False) -> list[Invocation]:
    """Invocations, newest first. `one_by_one`: some of them cannot be read, and no index knows how they stand."""

    def work(database: sqlite3.Connection) -> list[Invocation]:
        seqs, values = plan(database, where).seqs(where.limit)
        sql = f"SELECT {FIXED}, {MOVING} FROM invocations WHERE seq IN ({seqs}) ORDER BY seq DESC"
        return [invocation_of(row) for row in database.execute(sql, values)]

    def selected(database: sqlite3.Connection) -> list[Invocation]:
        return list(islice(_selected(database, where), where.limit))

    return _careful(path, work, selected, one_by_one=one_by_one)


def count(path: str, where: Filter, *, one_by_one: bool = False) -> dict[str, int]:
    """How many there are of each status; `limit` and `before` do not count.

    Those that are open are counted by status, all are counted by an index where one has what is asked, and the
    completed ones are the rest.
    """

    def work(database: sqlite3.Connection) -> dict[str, int]:
        wanted = where.status or frozenset(Status)
        everything = msgspec.structs.replace(where, before=None, status=frozenset())
        text, values = _all_of([(_OPEN, ()), *_clauses(everything)])
        opened = f"SELECT status, count(*) FROM invocations INDEXED BY invocations_open{text} GROUP BY status"
        found: dict[str, int] = dict(database.execute(opened, values).fetchall())
        if Status.COMPLETED in wanted:
            text, values = _all_of(_clauses(everything))
            total = database.execute(f"SELECT count(*) FROM invocations{text}", values).fetchone()[0]
            found["completed"] = total - sum(found.values())
        return {status: number for status, number in sorted(found.items()) if number and status in wanted}

    def selected(database: sqlite3.Connection) -> dict[str, int]:
        everything = msgspec.structs.replace(where, before=None)
        return dict(sorted(Counter(str(one.status) for one in _selected(database, everything)).items()))

    return _careful(path, work, selected, one_by_one=one_by_one)


def _careful(path: str, work: Look[T], selected: Look[T], *, one_by_one: bool) -> T:
    """Read as `work` does; where that meets a page that cannot be read, invocation by invocation."""
    if not one_by_one:
        try:
            return _look(path, work)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
    return _look(path, selected)


def _selected(database: sqlite3.Connection, where: Filter) -> Iterator[Invocation]:
    """What a filter selects, newest first, without any index but that of the ids: it has everybody."""
    sql = "SELECT seq FROM invocations INDEXED BY sqlite_autoindex_invocations_1"
    seqs = sorted((seq for (seq,) in database.execute(sql)), reverse=True)
    for start in range(0, len(seqs), BATCH):
        rows = sorted(
            rows_of(database, "seq", set(seqs[start : start + BATCH]), set()), reverse=True, key=itemgetter(0)
        )
        for row in rows:
            if matches(where, invocation := invocation_of(row)):
                yield invocation


def plan(database: sqlite3.Connection, where: Filter) -> Plan:
    """The most selective index for what is asked."""
    clauses = tuple(_clauses(where))
    one_part: tuple[Clause, ...] = (("", ()),)
    if where.id is not None:
        return Plan(None, one_part, clauses)
    for index, given in (
        ("invocations_of_idempotency_key", where.idempotency_key),
        ("invocations_of_caller", where.caller),
        ("invocations_of_key", where.key),
    ):
        if given is not None:
            return Plan(index, one_part, clauses)
    if where.status and Status.COMPLETED not in where.status:
        rest = tuple(_clauses(msgspec.structs.replace(where, status=frozenset())))
        parts: tuple[Clause, ...] = tuple((f"{_OPEN} AND status = ?", (str(one),)) for one in sorted(where.status))
        return Plan("invocations_open", parts, rest)
    if where.failure is not None or where.reason is not None:
        return Plan("invocations_failed", one_part, clauses)
    if where.service is not None:
        handlers = [where.handler] if where.handler is not None else _handlers(database, where.service)
        rest = tuple(_clauses(msgspec.structs.replace(where, service=None, handler=None)))
        parts = tuple(("service = ? AND handler = ?", (where.service, handler)) for handler in handlers)
        return Plan("invocations_of_handler", parts or (("service = ?", (where.service,)),), rest)
    if where.created_after is not None and _short(database, where):
        return Plan("invocations_created", one_part, clauses)
    return Plan(None, one_part, clauses)


def _handlers(database: sqlite3.Connection, service: str) -> Sequence[str]:
    """The handlers that a service has or had, a step into the index for each."""
    found: list[str] = []
    sql = "SELECT min(handler) FROM invocations INDEXED BY invocations_of_handler WHERE service = ? AND handler > ?"
    following = database.execute(sql, (service, "")).fetchone()[0]
    while following is not None and len(found) < 100:
        found.append(following)
        following = database.execute(sql, (service, following)).fetchone()[0]
    return found


def _short(database: sqlite3.Connection, where: Filter) -> bool:
    """Whether few enough were accepted in a stretch of time."""
    until = 2**62 if where.created_before is None else where.created_before
    sql = (
        "SELECT 1 FROM invocations INDEXED BY invocations_created WHERE created_at >= ? AND created_at < ?"
        f" LIMIT 1 OFFSET {STRETCH}"
    )
    return database.execute(sql, (where.created_after, until)).fetchone() is None


def _clauses(where: Filter) -> list[Clause]:
    """The conditions of a filter."""
    clauses: list[Clause] = []
    conditions: tuple[tuple[str, str | int | None], ...] = (
        ("id = ?", where.id),
        ("service = ?", where.service),
        ("handler = ?", where.handler),
        ("key = ?", where.key),
        ("caller_id = ?", where.caller),
        ("idempotency_key = ?", where.idempotency_key),
        ("created_at >= ?", where.created_after),
        ("created_at < ?", where.created_before),
        ("seq < ?", where.before),
    )
    for text, wanted in conditions:
        if wanted is not None:
            clauses.append((text, (wanted,)))
    if where.status:
        clauses.append((f"status IN ({', '.join('?' * len(where.status))})", tuple(map(str, sorted(where.status)))))
    if where.now is not None:
        clauses.append(("(expires_at IS NULL OR expires_at > ?)", (where.now,)))
    if where.reason is not None or where.failure is not None:
        clauses.append((_FAILED, ()))
    if where.reason is not None:
        clauses.append((_REASON, (where.reason,)))
    if where.failure is not None:
        said = "(instr(last_failure, ?) OR (ok = 0 AND instr(CAST(output AS TEXT), ?)))"
        clauses.append((said, (where.failure_as_stored,) * 2))
    return clauses


def _all_of(clauses: Sequence[Clause]) -> Clause:
    text = f" WHERE {' AND '.join(text for text, _ in clauses)}" if clauses else ""
    return text, tuple(value for _, values in clauses for value in values)


def _look(path: str, work: Callable[[sqlite3.Connection], T]) -> T:
    database = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=2.0)
    ends = time.monotonic() + SECONDS_MAX
    database.set_progress_handler(lambda: int(time.monotonic() > ends), 50_000)
    try:
        return work(database)
    except sqlite3.OperationalError:
        if time.monotonic() > ends:
            raise StorageBusyError(f"it took longer than {SECONDS_MAX:g} s: make the filter narrower") from None
        raise
    finally:
        database.close()
