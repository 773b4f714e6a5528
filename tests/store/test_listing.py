"""Listings and counts: what a filter selects, in both stores, and which index finds it."""

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from durable.core.effects import Writes
from durable.core.invocation import Caller, Flavor, Invocation, Problem, Status, Submission
from durable.core.journal import EMPTY, Failure
from durable.store.filter import Filter
from durable.store.listing import plan
from durable.store.memory import MemoryStore
from durable.store.sqlite import SqliteStore

PEOPLE = 400


def invocations() -> Iterator[Invocation]:
    """Of every kind there is, with times that go back once, as they may after a restart."""
    draw = random.Random(7)
    for seq in range(1, PEOPLE + 1):
        key = draw.choice([None, "a", "b", "c d"])
        submission = Submission(
            f"inv_1{seq:033}",
            draw.choice(["Cart", "Mail", "Rare"] if seq % 50 == 0 else ["Cart", "Mail"]),
            draw.choice(["add", "drop", "send"]),
            key,
            Flavor.SERVICE if key is None else Flavor.EXCLUSIVE,
            b"",
            {},
            draw.choice([None, None, f"once-{seq % 7}"]),
            draw.choice([None, None, Caller(1, f"inv_1{1:033}", seq, "Cart/add", True)]),
        )
        created_at = 1_000_000 + seq * 10 - (1000 if seq > 300 else 0)
        status = draw.choice(list(Status))
        one = Invocation(seq, submission, created_at, status, modified_at=created_at + 1)
        if status is Status.COMPLETED:
            one.completed_at = created_at + 5
            failure = Failure(f'out of "stock" {seq % 3}', 409)
            one.outcome = draw.choice([EMPTY, failure.outcome()])
        elif draw.random() < 0.3:
            reason = "mismatch" if seq % 4 == 0 else ""
            one.problem = Problem(f"no answer from host {seq % 5}", "ConnectionError", reason=reason)
        yield one


FILTERS = {
    "everything": (Filter(), None),
    "a service": (Filter(service="Mail"), "invocations_of_handler"),
    "a rare service": (Filter(service="Rare"), "invocations_of_handler"),
    "no service": (Filter(service="Nobody"), "invocations_of_handler"),
    "a handler": (Filter(service="Mail", handler="drop"), "invocations_of_handler"),
    "a key": (Filter(service="Cart", key="c d"), "invocations_of_key"),
    "paused": (Filter(status=frozenset({"paused"})), "invocations_open"),
    "open": (Filter(status=frozenset(Status) - {"completed"}), "invocations_open"),
    "completed": (Filter(status=frozenset({"completed"})), None),
    "completed and paused": (Filter(status=frozenset({"completed", "paused"})), None),
    "of a service, paused": (Filter(service="Cart", status=frozenset({"paused", "running"})), "invocations_open"),
    "a caller": (Filter(caller=f"inv_1{1:033}"), "invocations_of_caller"),
    "an idempotency key": (Filter(idempotency_key="once-3"), "invocations_of_idempotency_key"),
    "a failure": (Filter(failure='"stock" 1'), "invocations_failed"),
    "a last failure": (Filter(failure="host 2"), "invocations_failed"),
    "of a service, failed": (Filter(service="Mail", failure="no answer"), "invocations_failed"),
    "a reason": (Filter(reason="mismatch"), "invocations_failed"),
    "after a moment": (Filter(created_after=1_002_500), "invocations_created"),
    "between moments": (Filter(created_after=1_002_000, created_before=1_002_500), "invocations_created"),
    "before a moment": (Filter(created_before=1_002_500), None),
    "a page": (Filter(before=100, limit=30), None),
    "a page of a service": (Filter(service="Cart", before=200, limit=30), "invocations_of_handler"),
    "what is not over yet": (Filter(now=1_002_000), None),
    "of a service, what is not over yet": (Filter(service="Cart", now=1_002_000), "invocations_of_handler"),
    "an id": (Filter(id=f"inv_1{77:033}"), None),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all of them."""
    path = tmp_path_factory.mktemp("listing") / "app.db"

    async def fill() -> None:
        store = SqliteStore(path, synchronous="NORMAL")
        await store.open()
        await store.commit(Writes(created={one.seq: one for one in invocations()}))
        await store.close()

    asyncio.run(fill())
    return path


@pytest.mark.parametrize("name", FILTERS)
def test_both_stores_find_and_count_the_same(path: Path, name: str) -> None:
    where, _ = FILTERS[name]

    async def both() -> None:
        file, memory = SqliteStore(path), MemoryStore()
        await file.open()
        await memory.open()
        try:
            await memory.commit(Writes(created={one.seq: one for one in invocations()}))
            for limit in (where.limit, PEOPLE):
                page = msgspec.structs.replace(where, limit=limit)
                found = [one.seq for one in await file.find(page)]
                assert found == [one.seq for one in await memory.find(page)]
            assert (await file.count(where)) == await memory.count(where)
            assert sum((await file.count(where)).values()) >= len(found)
            assert found or name == "no service"
        finally:
            await file.close()
            await memory.close()

    asyncio.run(both())


@pytest.mark.parametrize("name", FILTERS)
def test_a_listing_reads_the_index_that_was_chosen(path: Path, name: str) -> None:
    """Nothing is read but what an index finds; where there is none, the table from its end, up to the limit."""
    where, index = FILTERS[name]
    with sqlite3.connect(path) as database:
        chosen = plan(database, where)
        sql, values = chosen.seqs(where.limit)
        steps = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    database.close()
    assert chosen.index == index
    reads = [step for step in steps if "invocations" in step]
    assert reads
    for step in reads:
        if index is not None:
            assert index in step, steps
        else:
            assert step == "SCAN invocations" or "INTEGER PRIMARY KEY" in step or "autoindex" in step, steps
