"""Listings and counts: what a filter selects, in both stores, and which index finds it."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from durable.core.effects import Writes
from durable.core.invocation import Caller, Flavor, Invocation, Problem, Status, Submission
from durable.core.journal import EMPTY, Failure
from durable.store import listing
from durable.store.filter import Filter, Page
from durable.store.memory import MemoryStore
from durable.store.sqlite import SqliteStore

PEOPLE = 400


def invocations() -> Iterator[Invocation]:
    """Of every kind there is, with times that go back once, as they may after a restart."""
    draw = random.Random(7)
    claimed = set()
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
        claim = (submission.target, submission.idempotency_key)
        if submission.idempotency_key is not None and claim in claimed:
            submission = msgspec.structs.replace(submission, idempotency_key=f"once-{seq}")
        claimed.add(claim)
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


BY_HANDLER, CREATED, FAILED = "invocations_by_handler", "invocations_created", "invocations_failed"
OF_KEY, OF_CALLER, OF_IDEMPOTENCY_KEY = (f"invocations_of_{name}" for name in ("key", "caller", "idempotency_key"))
PAUSED = frozenset({"paused"})
FILTERS = {
    "everything": (Filter(), CREATED),
    "a service": (Filter(service="Mail"), BY_HANDLER),
    "a rare service": (Filter(service="Rare"), BY_HANDLER),
    "no service": (Filter(service="Nobody"), BY_HANDLER),
    "a handler": (Filter(service="Mail", handler="drop"), BY_HANDLER),
    "a handler of any service": (Filter(handler="drop"), BY_HANDLER),
    "a key": (Filter(key="a"), OF_KEY),
    "a key of a service": (Filter(service="Cart", key="c d"), OF_KEY),
    "paused on a key": (Filter(key="a", status=PAUSED), OF_KEY),
    "paused": (Filter(status=PAUSED), BY_HANDLER),
    "open": (Filter(status=frozenset(Status) - {"completed"}), BY_HANDLER),
    "completed": (Filter(status=frozenset({"completed"})), BY_HANDLER),
    "completed and paused": (Filter(status=frozenset({"completed", "paused"})), BY_HANDLER),
    "of a service, paused": (Filter(service="Cart", status=frozenset({"paused", "running"})), BY_HANDLER),
    "paused for a while": (Filter(status=PAUSED, created_before=1_002_500), BY_HANDLER),
    "of a service, completed, between moments": (
        Filter(service="Cart", status=frozenset({"completed"}), created_after=1_001_500, created_before=1_002_500),
        BY_HANDLER,
    ),
    "a caller": (Filter(caller=f"inv_1{1:033}"), OF_CALLER),
    "a caller's, after a moment": (Filter(caller=f"inv_1{1:033}", created_after=1_002_500), OF_CALLER),
    "an idempotency key": (Filter(idempotency_key="once-3"), OF_IDEMPOTENCY_KEY),
    "a failure": (Filter(failure='"stock" 1'), FAILED),
    "a last failure": (Filter(failure="host 2"), FAILED),
    "of a service, failed": (Filter(service="Mail", failure="no answer"), FAILED),
    "paused with a failure": (Filter(status=PAUSED, failure="no answer"), BY_HANDLER),
    "a failure before a moment": (Filter(failure="no answer", created_before=1_002_500), FAILED),
    "a reason": (Filter(reason="mismatch"), FAILED),
    "after a moment": (Filter(created_after=1_002_500), CREATED),
    "between moments": (Filter(created_after=1_002_000, created_before=1_002_500), CREATED),
    "before a moment": (Filter(created_before=1_002_500), CREATED),
    "a page": (Filter(before=(1_002_700, 170), limit=30), CREATED),
    "a page of a service": (Filter(service="Cart", before=(1_002_700, 170), limit=30), BY_HANDLER),
    "what is not over yet": (Filter(now=1_002_000), CREATED),
    "of a service, what is not over yet": (Filter(service="Cart", now=1_002_000), BY_HANDLER),
    "an id": (Filter(id=f"inv_1{77:033}"), None),
    "an id of another service": (Filter(id=f"inv_1{77:033}", service="Nobody"), None),
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


@pytest.fixture(scope="module")
def memory() -> MemoryStore:
    """The same in memory."""
    memory = MemoryStore()

    async def fill() -> None:
        await memory.open()
        await memory.commit(Writes(created={one.seq: one for one in invocations()}))

    asyncio.run(fill())
    return memory


@pytest.mark.parametrize("name", FILTERS)
def test_both_stores_find_and_count_the_same(path: Path, memory: MemoryStore, name: str) -> None:
    where, _ = FILTERS[name]

    async def both() -> None:
        for limit in (7, where.limit, PEOPLE):
            page = msgspec.structs.replace(where, limit=limit)
            found = listing.find(str(path), page)
            assert found == await memory.find(page)
        counted = listing.count(str(path), where)
        assert counted == await memory.count(where)
        assert counted.complete
        assert sum(counted.by_status.values()) >= len(found.found)
        assert found.found or name in ("no service", "an id of another service")

    asyncio.run(both())


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("counting", [False, True])
def test_nothing_is_scanned_and_nothing_is_sorted(path: Path, name: str, *, counting: bool) -> None:
    """What is read is a range of the chosen index, in the order of the listing; of the table, single rows."""
    where, index = FILTERS[name]
    with sqlite3.connect(path) as database:
        chosen = listing.plan(database, where, counting=counting)
        assert chosen.index == (BY_HANDLER if counting and index == CREATED else index)
        for sql, values in chosen.statements("created_at, seq", " ORDER BY created_at DESC, seq DESC"):
            [step] = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            whole = chosen.index in (CREATED, FAILED) and not chosen.bounds
            told = f"{'SCAN' if whole else 'SEARCH'} _invocations USING "
            if chosen.index is None:
                told += "INDEX sqlite_autoindex__invocations_1 (id=?)"
            else:
                assert chosen.index in step
            assert step.startswith(told), step
            assert chosen.index in (FAILED, None) or "COVERING" in step, step
    database.close()


def pages(path: Path, where: Filter) -> list[Page]:
    """All pages of a listing."""
    shown = [listing.find(str(path), where)]
    while shown[-1].next is not None:
        shown.append(listing.find(str(path), msgspec.structs.replace(where, before=shown[-1].next)))
    return shown


@pytest.mark.parametrize("name", FILTERS)
def test_pages_that_end_early_lead_to_the_same(path: Path, name: str) -> None:
    """Where rows must be looked at, a page looks at a few of them, and says where the next one goes on."""
    where = msgspec.structs.replace(FILTERS[name][0], limit=9)
    wanted = [one.seq for one in listing.find(str(path), msgspec.structs.replace(where, limit=PEOPLE)).found]
    for examine in (None, 64):
        shown = pages(path, msgspec.structs.replace(where, examine=examine))
        assert [one.seq for page in shown for one in page.found] == wanted
        assert all(len(page.found) <= 9 for page in shown)


def test_a_text_that_no_failure_has_is_looked_for_in_few_of_them_at_once(path: Path) -> None:
    where = Filter(failure="nobody has said that", examine=64)
    shown = pages(path, where)
    assert [page.found for page in shown] == [[]] * len(shown)
    assert len(shown) > 1
    counted = listing.count(str(path), msgspec.structs.replace(where, failure="no answer"))
    assert not counted.complete
    whole = listing.count(str(path), Filter(failure="no answer"))
    assert sum(counted.by_status.values()) < sum(whole.by_status.values())


def test_where_looking_takes_long_a_page_ends_though_few_were_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "EXAMINE_S", -1.0)
    where = Filter(failure="no answer", limit=1000)
    assert listing.find(str(path), where).next is None, "nobody has asked for that"
    shown = pages(path, msgspec.structs.replace(where, examine=10**9, limit=20))
    assert len(shown) > 2
    assert sum(len(page.found) for page in shown) == len(listing.find(str(path), where).found)


def test_more_handlers_than_can_be_merged_are_looked_through(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Filter(service="Cart", limit=1000)
    merged, counted = listing.find(str(path), where), listing.count(str(path), where)
    monkeypatch.setattr(listing, "_RANGES_MAX", 2)
    with sqlite3.connect(path) as database:
        assert listing.plan(database, where).index == CREATED
    database.close()
    assert listing.find(str(path), where) == merged
    assert listing.count(str(path), where) == counted


def test_an_invocation_whose_moment_is_damaged_is_listed_and_holds_up_no_page(tmp_path: Path, path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    shutil.copy(path, damaged)
    with sqlite3.connect(damaged) as database:
        database.execute("UPDATE _invocations SET created_at = 'noon' WHERE seq IN (5, 6)")
    database.close()
    for limit in (1, 2, 3, 100):
        shown = [one.seq for page in pages(damaged, Filter(limit=limit)) for one in page.found]
        assert shown[:2] == [6, 5]
        assert sorted(shown) == list(range(1, PEOPLE + 1))
