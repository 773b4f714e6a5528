"""Another program has the database locked: a database browser, a copy, a backup."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import durable.store.thread
from durable import Engine, ObjectContext, StorageBusyError, VirtualObject, handler
from durable.core.effects import Writes
from durable.store.filter import Filter
from durable.store.sqlite import SqliteStore
from tests.store.support import a_row, an_invocation, opened, play, program

pytestmark = pytest.mark.process

#: Begins a transaction of a kind and keeps it until its input ends.
HOLDS = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN" if sys.argv[2] == "READ" else "BEGIN " + sys.argv[2])
database.execute("SELECT count(*) FROM settings").fetchone()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durable.db"


@contextmanager
def holding(path: Path, kind: str) -> Iterator[None]:
    with program(HOLDS, path, kind):
        yield


def a_file(path: Path, *, crashed: bool = False) -> None:
    async def story() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.commit(Writes(settings={"Shop": "{}"}, created={1: an_invocation(1)}))
        if crashed:
            store.abandon()
        else:
            await store.close()

    play(story)


class Shop(VirtualObject):
    """Notes each execution of its step in a file outside the database."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def note(self, order: str) -> str:
        with self.notes.open("a") as notes:
            notes.write(f"{order}\n")
        return order.upper()

    @handler
    async def buy(self, ctx: ObjectContext, order: str) -> str:
        ctx.set("last", order)
        return await ctx.run(self.note, order)

    def executions(self) -> list[str]:
        return self.notes.read_text().split()


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE", "READ"])
def test_commits_wait_reads_go_on_and_nothing_is_lost(path: Path, tmp_path: Path, kind: str) -> None:
    """R-08: and the event loop goes on meanwhile."""
    shop = Shop(tmp_path / "notes")

    async def story() -> None:
        async with Engine(path, services=[shop]) as engine:
            assert await engine.call(Shop.buy, "first", key="k") == "FIRST"
            with holding(path, kind):
                buying = asyncio.create_task(engine.call(Shop.buy, "second", key="k"))
                for _ in range(10):
                    await asyncio.sleep(0.02)
                    assert await engine.get_state("Shop", "k") in ({"last": "first"}, {"last": "second"})
                    assert await engine.invocations()
                if kind == "READ":
                    assert await buying == "SECOND"
                assert buying.done() is (kind == "READ")
            assert await buying == "SECOND"
            assert engine.failure is None

    play(story)
    assert shop.executions() == ["first", "second"]


class Raising(logging.Handler):
    """Notes what is logged, and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        self.said.append(record.getMessage())
        raise RuntimeError("a log handler with a bug")


def test_a_long_wait_is_named_in_the_log_again_and_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second and each minute; here sooner. A log handler that raises does no harm."""
    monkeypatch.setattr(durable.store.thread, "NAMED_AFTER_S", 0.02)
    monkeypatch.setattr(durable.store.thread, "NAMED_EVERY_S", 0.2)
    listening = Raising()
    log = logging.getLogger("durable")
    log.addHandler(listening)
    try:

        async def story() -> None:
            async with opened(SqliteStore(path)) as (store, _):
                with holding(path, "IMMEDIATE"):
                    commit = asyncio.ensure_future(store.commit(Writes(settings={"Mail": "{}"})))
                    deadline = time.monotonic() + 30
                    while len(listening.said) < 3:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.01)
                    assert not commit.done()
                await commit

        play(story)
    finally:
        log.removeHandler(listening)
    assert all(str(path) in said and "another program" in said for said in listening.said)


@pytest.mark.parametrize("turn", ["one statement", "several"])
def test_a_turn_that_waited_is_written_once(path: Path, turn: str) -> None:
    writes = Writes(created={1: an_invocation(1)}) if turn == "one statement" else Writes(
        created={1: an_invocation(1)}, journal=[a_row(1, 1)], settings={"Shop": "{}"}
    )  # fmt: skip

    async def story() -> None:
        async with opened(SqliteStore(path)) as (store, _):
            with holding(path, "EXCLUSIVE"):
                commit = asyncio.ensure_future(store.commit(writes))
                await asyncio.sleep(0.1)
                assert not commit.done()
                assert list((await store.find(Filter())).found) == []
            await commit
            assert [one.seq for one in (await store.find(Filter())).found] == [1]
            assert len(await store.journal(1)) == len(writes.journal)

    play(story)


def test_closing_ends_the_wait(path: Path, tmp_path: Path) -> None:
    """Within the time that closing may take; what waited was not acknowledged, and is done after the next start."""
    shop = Shop(tmp_path / "notes")

    async def story() -> None:
        engine = Engine(path, services=[shop], shutdown_timeout="200ms")
        await engine.start()
        assert await engine.call(Shop.buy, "first", key="k", idempotency_key="1") == "FIRST"
        with holding(path, "IMMEDIATE"):
            buying = asyncio.ensure_future(engine.call(Shop.buy, "second", key="k", idempotency_key="2"))
            await asyncio.sleep(0.05)
            closing = time.monotonic()
            await engine.close()
            assert time.monotonic() - closing < 30
            await asyncio.wait([buying])
            assert buying.exception() is not None
        async with Engine(path, services=[shop]) as engine:
            assert await engine.call(Shop.buy, "second", key="k", idempotency_key="2") == "SECOND"

    play(story)
    assert shop.executions() == ["first", "second"]


def test_what_waits_when_the_store_is_closed_hears_why(path: Path) -> None:
    async def story() -> None:
        store = SqliteStore(path)
        await store.open()
        with holding(path, "IMMEDIATE"):
            commit = asyncio.ensure_future(store.commit(Writes(settings={"Mail": "{}"})))
            await asyncio.sleep(0.05)
            await store.close()
            await asyncio.wait([commit])
            assert commit.exception() is not None
        async with opened(SqliteStore(path)) as (_, where):
            assert where.settings == {}

    play(story)


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "with a log"])
@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_start_waits_for_a_time_and_then_says_so(path: Path, kind: str, crashed: bool) -> None:
    a_file(path, crashed=crashed)
    with holding(path, kind):
        for patience in ("0s", "300ms"):
            started = time.monotonic()
            with pytest.raises(StorageBusyError, match="another program") as caught:
                asyncio.run(Engine(path, busy_timeout=patience).start())
            assert time.monotonic() - started < 30
            assert str(path) in str(caught.value)
    asyncio.run(whole(path))


async def whole(path: Path) -> None:
    async with opened(SqliteStore(path)) as (_, where):
        assert where.settings == {"Shop": "{}"}


@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "with a log"])
def test_a_lock_that_is_let_go_in_time_only_delays_a_start(path: Path, crashed: bool) -> None:
    a_file(path, crashed=crashed)

    async def story() -> None:
        with holding(path, "IMMEDIATE"):
            opening = asyncio.create_task(whole(path))
            await asyncio.sleep(0.2)
            assert not opening.done()
        await opening

    play(story)


def test_a_start_that_waits_can_be_cancelled(path: Path) -> None:
    a_file(path)

    async def story() -> None:
        with holding(path, "IMMEDIATE"):
            opening = asyncio.create_task(SqliteStore(path, busy_timeout=60).open())
            await asyncio.sleep(0.1)
            opening.cancel()
            began = time.monotonic()
            await asyncio.wait([opening])
            assert opening.cancelled()
            assert time.monotonic() - began < 30
        await whole(path)

    play(story)
