"""A file of a million invocations, written straight through the store's own statements, and not by an engine.

A month of a shop: big services and a rare one, keys of which one is hot, one in twenty still open, failures, callers
with few children and one with many, idempotency keys. Nothing in it is due while a benchmark runs.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from durable.core.effects import Writes
from durable.core.invocation import Caller, Flavor, Invocation, Problem, Status, Submission
from durable.core.journal import COMMAND, Failure, Kind, Outcome, Row
from durable.core.waiting import Awaited
from durable.store.sqlite import SqliteStore
from durable.store.statements import statements

DAY_MS = 86_400_000
#: Handlers by service, and out of how many invocations one is of that service.
SERVICES = {
    "Orders": ("place", "cancel", "refund", "report"),
    "Cart": ("add", "remove", "checkout"),
    "Mail": ("send", "bounce"),
    "Stock": ("reserve", "release", "count"),
    "Rare": ("once",),
}
WEIGHTS = (40, 25, 20, 15, 0.01)
KEYED = frozenset({"Cart", "Stock"})
HOT_KEY, PARENT = "hot", 1
#: How many entries of the parent's journal are sends.
SENT = 500
OPEN = (Status.SUSPENDED, Status.SCHEDULED, Status.BACKING_OFF, Status.PAUSED, Status.PENDING)


def name_of(seq: int) -> str:
    """The id of an invocation."""
    return f"inv_1m{seq:032}"


def million(count: int, now: int) -> Iterator[tuple[Invocation, list[Row]]]:
    """Invocations in the order of their acceptance, with their journals."""
    draw = random.Random(7)
    started = now - 30 * DAY_MS
    step = 29 * DAY_MS // count
    services = draw.choices(list(SERVICES), WEIGHTS, k=count)
    for seq in range(1, count + 1):
        service = services[seq - 1]
        luck = draw.random()
        key = (HOT_KEY if luck < 0.05 else f"key-{int(luck * 20_000)}") if service in KEYED else None
        caller_seq = PARENT if seq % 100 == 0 else max(1, seq - seq % 7 - 1)
        caller = Caller(caller_seq, name_of(caller_seq), seq, "Orders/place", True) if luck < 0.3 else None
        submission = Submission(
            name_of(seq), service, draw.choice(SERVICES[service]), key,
            Flavor.SERVICE if key is None else Flavor.SHARED, b'{"order":%d,"items":["hat","shoe"]}' % seq, {},
            f"once-{seq}" if luck < 0.2 else None, caller,
            completion_retention_ms=365 * DAY_MS, journal_retention_ms=365 * DAY_MS,
        )  # fmt: skip
        created_at = started + seq * step
        one = Invocation(seq, submission, created_at, Status.COMPLETED, 1, modified_at=created_at + 50)
        rows = [Row(seq, 1, COMMAND, Kind.RUN, "charge", None, 0, None, True, b'"paid %d"' % seq, created_at + 20)]
        if seq % 20 == 0:
            one.status = OPEN[seq // 20 % len(OPEN)]
            if one.status in (Status.SCHEDULED, Status.BACKING_OFF):
                one.due_at = now + 300 * DAY_MS + seq
            if one.status is Status.SUSPENDED:
                rows.append(Row(seq, 2, COMMAND, Kind.SLEEP, None, str(now + 300 * DAY_MS), 1, None, None, None, now))
                one.waiting = Awaited(2)
            if one.status in (Status.BACKING_OFF, Status.PAUSED):
                one.failures = 3
                one.problem = Problem(f"no answer from host {seq % 977}", "ConnectionError", "Traceback …\n" * 40)
            if one.status in (Status.SCHEDULED, Status.PENDING):
                one.attempt, rows = 0, []
        else:
            one.completed_at = created_at + 50
            failed = Failure(f"card {seq % 1009} declined", 402)
            one.outcome = failed.outcome() if luck > 0.95 else Outcome(True, b'{"order":%d}' % seq)
        if seq == PARENT:
            rows += [
                Row(
                    seq,
                    entry,
                    COMMAND,
                    Kind.SEND,
                    "Orders/place",
                    name_of(entry * 100),
                    0,
                    None,
                    None,
                    None,
                    created_at,
                )
                for entry in range(2, 2 + SENT)
            ]
        yield one, rows


async def _create(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


def fill(path: Path, count: int) -> None:
    """Write them all."""
    asyncio.run(_create(path))
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -400000")
    ones = million(count, time.time_ns() // 1_000_000)
    database.execute("BEGIN")
    while batch := list(islice(ones, 1280)):
        timers = {(one.due_at, one.seq, 0) for one, _ in batch if one.due_at is not None}
        timers |= {
            (int(row.detail or 0), row.invocation, 2) for _, rows in batch for row in rows if row.kind is Kind.SLEEP
        }
        writes = Writes(
            created={one.seq: one for one, _ in batch},
            journal=[row for _, rows in batch for row in rows],
            timers_added=timers,
        )
        for text, values in statements(writes):
            database.execute(text, values)
    database.execute("COMMIT")
    database.close()
