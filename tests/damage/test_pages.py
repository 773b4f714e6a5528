"""A page that cannot be read is the trouble of whose rows are on it, as a damaged row would be.

The files are small, so the look through a whole file at a start is switched off: it would refuse them.
"""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Context, DurableError, Engine, ObjectContext, StorageError, VirtualObject, handler
from durable.core.reasons import Reason
from durable.store import soundness
from durable.testing import run
from tests.runtime.support import engine_on, settled

PAGE = 4096
#: A value of which a few fill a page; one that nearly does; one that needs several.
SHORT, LONG, LONGER = 900, 3000, 3 * PAGE
HOUR = 3600.0


def mark(name: str, number: int, size: int) -> str:
    """Text that is found in the file again, at each of its pages."""
    word = f"<{name}-{number}>"
    return word * (size // len(word))


async def remember(number: int, size: int) -> str:
    return mark("step", number, size)


@handler(service="Plain")
async def work(ctx: Context, given: tuple[int, int, str]) -> int:
    number, size, _ = given
    for _ in range(24):
        assert await ctx.run(remember, number, size) == mark("step", number, size)
    await ctx.sleep("10m")
    return number


@handler(service="Plain")
async def parent(ctx: Context, given: tuple[int, int, str]) -> int:
    return await ctx.call(work, given)


class Account(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, value: str) -> None:
        ctx.set("value", value)

    @handler
    async def get(self, ctx: ObjectContext, name: str) -> str:
        return await ctx.get(name, str) or "nothing"


SERVICES: tuple[object, ...] = (work, parent, Account())


@pytest.fixture(autouse=True)
def _a_large_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "LOOKED_THROUGH_MAX", 0)


class Damaged:
    """A file whose pages are damaged, and whose rows were on them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = bytearray(path.read_bytes())

    def pages(self, text: str, kind: int) -> list[int]:
        """Where a page of this type begins with this text in it, and with nothing of the same kind beside it.

        13 and 10 are leaves, 0 goes on from another page, and goes on.
        """
        word = text.split("-")[0].encode()
        found = []
        for at in range(0, len(self._data), PAGE):
            page = self._data[at : at + PAGE]
            if page[0] == kind and any(page[:4]) and set(re.findall(word + rb"-\d+>", page)) == {text.encode()}:
                found.append(at)
        return found

    def spoil(self, starts: list[int]) -> None:
        """Make the one in the middle no page at all; or have it go on at a page that is not there."""
        at = starts[len(starts) // 2]
        self._data[at : at + 8] = b"\xff" * 8
        self.path.write_bytes(self._data)


def many(path: Path, target: Any, sizes: Callable[[int], tuple[int, int]]) -> list[str]:
    """The ids of eight that wait, with steps and inputs of these sizes."""

    async def story() -> list[str]:
        async with engine_on(path, *SERVICES, inactivity_timeout="5s") as engine:
            ids = []
            for number in range(8):
                step, input = sizes(number)
                given = (number, step, mark("input", number, input))
                ids.append((await engine.send(target, given)).id)
            await asyncio.sleep(60)
            return ids

    return run(story)


async def only_these_are_damaged(engine: Engine, ids: list[str], damaged: set[int]) -> None:
    """Those are paused, and said to be, wherever one looks; all others end."""
    await asyncio.sleep(HOUR)
    listed = {one.id: one for one in await engine.invocations(limit=100)}
    paused = {one.id for one in await engine.invocations(status="paused")}
    counted = await engine.count_invocations()
    for number, id in enumerate(ids):
        if number not in damaged:
            assert await engine.attach(id, int) == number
            continue
        view = await engine.describe(id)
        assert (view.status, listed[id].status, id in paused) == ("paused", "paused", True)
        for one in (view, listed[id]):
            assert one.last_failure is not None
            assert one.last_failure.reason == Reason.DAMAGED
            assert "page that cannot be read" in one.last_failure.message
    assert len(paused) == len(damaged)
    assert counted.get("paused") == len(damaged)
    assert await engine.call(work, (99, 10, "")) == 99, "a new one is not served"
    assert engine.failure is None


WHERE = {
    "the page of a journal": (lambda number: (SHORT, 10), "<step-3>", 10),
    "a value in a journal": (lambda number: (LONGER, 10), "<step-3>", 0),
    "an input": (lambda number: (10, LONGER), "<input-3>", 0),
    "the page of an invocation": (lambda number: (10, LONG), "<input-3>", 13),
}


@pytest.mark.parametrize("where", WHERE)
def test_only_who_is_on_it_is_paused(tmp_path: Path, where: str) -> None:
    path = tmp_path / "durable.db"
    sizes, text, kind = WHERE[where]
    ids = many(path, work, sizes)
    file = Damaged(path)
    file.spoil(file.pages(text, kind))

    async def after() -> None:
        for _ in range(2):  # and so it is at the next start
            async with engine_on(path, *SERVICES, inactivity_timeout="5s") as engine:
                await only_these_are_damaged(engine, ids, {3})

    run(after)


@pytest.mark.parametrize("where", WHERE)
def test_what_an_operator_cannot_do_to_it_harms_nobody(tmp_path: Path, where: str) -> None:
    path = tmp_path / "durable.db"
    sizes, text, kind = WHERE[where]
    ids = many(path, work, sizes)
    file = Damaged(path)
    file.spoil(file.pages(text, kind))

    async def after() -> None:
        async with engine_on(path, *SERVICES, idempotency_retention="1h") as engine:
            for does in (engine.resume, engine.kill, engine.purge):
                with_it = [does(id) for id in (ids[3], *ids[4:6])]
                for answer in await asyncio.gather(*with_it, return_exceptions=True):
                    assert not isinstance(answer, Exception) or isinstance(answer, DurableError), answer
            await asyncio.sleep(3 * 24 * HOUR)  # whatever is past its retention is looked for
            assert await engine.call(work, (99, 10, "")) == 99
            assert engine.failure is None

    run(after)


def test_whoever_waits_for_a_child_on_a_damaged_page_waits_and_its_siblings_end(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    ids = many(path, parent, lambda number: (SHORT, 10))
    file = Damaged(path)
    file.spoil(file.pages("<step-3>", 10))

    async def after() -> None:
        async with engine_on(path, *SERVICES, inactivity_timeout="5s") as engine:
            await asyncio.sleep(HOUR)
            [damaged] = await engine.invocations(status="paused")
            assert damaged.caller_id == ids[3]
            for number, id in enumerate(ids):
                if number != 3:
                    assert await engine.attach(id, int) == number
            await engine.kill(damaged.id)
            assert (await settled(engine, ids[3])).completion_result == "failure"

    run(after)


def test_state_on_a_damaged_page_pauses_who_reads_it_and_is_never_taken_for_missing(tmp_path: Path) -> None:
    """SQLite compares with other rows on the way to one, so some keys beside it may not be found either."""
    path = tmp_path / "durable.db"
    keys = [f"k{number:02}" for number in range(40)]

    async def before() -> None:
        async with engine_on(path, *SERVICES) as engine:
            for number, key in enumerate(keys):
                await engine.call(Account.put, mark("state", number, LONGER), key=key)

    async def after() -> None:
        async with engine_on(path, *SERVICES) as engine:
            paused = []
            for number, key in enumerate(keys):
                handle = await engine.send(Account.get, "value", key=key)
                view = await settled(engine, handle.id)
                if view.status == "completed":
                    assert await handle.result() == mark("state", number, LONGER)
                    continue
                assert view.last_failure is not None
                assert view.last_failure.reason == Reason.READS_DAMAGED
                await engine.kill(handle.id)
                paused.append(key)
            assert keys[39] in paused
            assert len(paused) < 8
            with pytest.raises(StorageError, match=keys[39]):
                await engine.get_state("Account", keys[39])
            patch = asyncio.ensure_future(engine.patch_state("Account", keys[39], {"value": "new"}))
            await asyncio.sleep(60)
            [refused] = await engine.invocations(status="paused")
            assert refused.last_failure is not None
            assert refused.last_failure.reason == Reason.COMMIT_REFUSED
            await engine.kill(refused.id)
            with pytest.raises(DurableError):
                await patch
            assert engine.failure is None

    run(before)
    with sqlite3.connect(path) as database:  # their journals have these values, too
        database.execute("DELETE FROM journal")
    database.execute("VACUUM")
    database.close()
    file = Damaged(path)
    file.spoil(file.pages("<state-39>", 0))
    run(after)


def test_what_concerns_the_whole_file_stops_the_engine_by_name(tmp_path: Path) -> None:
    """A table whose first page is gone is nobody's in particular."""
    path = tmp_path / "durable.db"
    many(path, work, lambda number: (10, LONG))
    file = Damaged(path)
    with sqlite3.connect(path) as database:
        roots = dict(database.execute("SELECT name, rootpage FROM sqlite_master"))
    database.close()
    file.spoil([(roots["_timers"] - 1) * PAGE])

    async def after() -> None:
        with pytest.raises(StorageError, match=r"durable\.restore"):
            async with engine_on(path, *SERVICES) as engine:
                await engine.call(work, (99, 10, ""))

    run(after)
