"""The views for people who read a file with `sqlite3`: they say what the engine says, as docs/database.md tells."""

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from durable import Context, Engine, ObjectContext, RetryPolicy, TerminalError, VirtualObject, handler
from durable.store.format import APPLICATION_ID, migrations
from durable.store.sqlite import SqliteStore
from durable.views.invocations import InvocationView
from tests.store.support import NOW, opened

VIEWS = ("invocations", "steps", "timers", "state", "failures")


async def say(word: str) -> str:
    if word == "nothing":
        raise ValueError("there is nothing to say")
    return word


async def mumble() -> bytes:
    return b"\x00\xff"


@handler(service="Talk")
async def talk(ctx: Context, words: list[str]) -> dict[str, int]:
    for word in words:
        if word == "stop":
            raise TerminalError("enough", code=429)
        if word == "aside":
            await ctx.call(echo, b"\xfe")
            ctx.send(echo, b"\xfd")
        elif word == "wait":
            await ctx.sleep("1h")
        else:
            await ctx.run(say, word)
    await ctx.run(mumble)
    return {"words": len(words)}


@handler(service="Talk")
async def echo(ctx: Context, sound: bytes) -> bytes:
    return sound


class Shelf(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, what: str) -> None:
        assert await ctx.get("nothing") is None
        ctx.set(what, {"here": True})
        assert await ctx.get(what) == {"here": True}


async def a_day(engine: Engine) -> list[InvocationView]:
    """Something of everything; returns what the engine says of it."""
    wanted = [
        (await engine.send(talk, ["hello", "aside"], idempotency_key="once", headers={"x": "1"}), "completed"),
        (await engine.send(talk, ["hello", "wait"]), "suspended"),
        (await engine.send(talk, ["hello", "stop"]), "completed"),
        (await engine.send(talk, ["nothing"]), "backing-off"),
        (await engine.send(echo, b"later", delay="1h"), "scheduled"),
        (await engine.send(Shelf.put, "jar", key="k"), "completed"),
        (await engine.send("Talk/talk", ["hello"]), "completed"),
    ]
    for handle, status in wanted:
        while (await handle.describe()).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    paused = await engine.send(talk, ["nothing"])
    while (await paused.describe()).status != "backing-off":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await engine.pause(paused.id)
    while len(await engine.invocations(status="completed")) < 6:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return [await engine.describe(one.id) for one in await engine.invocations()]


def ms(text: str | None) -> int | None:
    """A time as the views write it."""
    if text is None:
        return None
    assert len(text) == len("2026-11-29T14:09:25.742Z"), text
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def rows(path: Path, view: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f"SELECT * FROM {view}")]


def shown(value: bytes | None) -> str | bytes | None:
    """A stored value as the views show it."""
    return None if not value else value if value[:1] in (b"\x00", b"\xfe", b"\xfd", b"l") else value.decode()


def compare(path: Path, told: list[InvocationView]) -> None:
    """The views with what the engine has told."""
    found = {row["id"]: row for row in rows(path, "invocations")}
    assert [*found] == [one.id for one in reversed(told)]
    for one in told:
        row = found[one.id]
        for name in ("seq", "target", "service", "handler", "key", "status", "idempotency_key", "failures"):
            assert row[name] == getattr(one, name), name
        for name in ("created_at", "modified_at", "completed_at", "due_at"):
            assert ms(row[name]) == getattr(one, name), name
        assert (row["result"], row["attempts"]) == (one.completion_result, one.attempt)
        assert (row["parent_id"], row["parent_target"]) == (one.caller_id, one.caller_target)
        assert (row["input"], row["output"]) == (shown(one.input), shown(one.output))
        assert (row["cancelling"], row["pausing"]) == (0, 0)
        steps = [step for step in rows(path, "steps") if step["invocation_id"] == one.id]
        entries = [entry for entry in one.journal if entry.kind not in ("input", "output")]
        assert len(steps) == len(entries)
        for step, entry in zip(steps, entries, strict=True):
            assert (step["entry"], step["kind"], step["name"] or "") == (entry.entry, entry.kind, entry.name)
            assert step["result"] == entry.result
            assert step["value"] == shown(entry.value)
            assert (ms(step["recorded_at"]), ms(step["completed_at"])) == (entry.recorded_at, entry.completed_at)
            if entry.kind == "sleep":
                assert ms(step["detail"]) == int(entry.detail or 0)
        children = [(step["entry"], step["detail"]) for step in steps if step["kind"] in ("call", "send")]
        assert children == [(child.entry, child.id) for child in one.children]
        timers = [timer for timer in rows(path, "timers") if timer["invocation_id"] == one.id]
        assert [(timer["entry"], ms(timer["due_at"])) for timer in timers] == [
            (timer.entry, timer.due_at) for timer in one.timers
        ]
    kinds = {(timer["target"], timer["kind"]) for timer in rows(path, "timers")}
    assert kinds == {("Talk/talk", "sleep"), ("Talk/talk", "retry"), ("Talk/echo", "start")}
    assert rows(path, "state") == [{"service": "Shelf", "key": "k", "name": "jar", "value": '{"here":true}'}]
    failed = {
        (row["status"], row["code"], row["message"], row["type"], row["step"]) for row in rows(path, "failures")
    }
    assert failed == {
        ("completed", 429, "enough", None, None),
        ("backing-off", 500, "ValueError: there is nothing to say", "ValueError", "say"),
        ("paused", 500, "ValueError: there is nothing to say", "ValueError", "say"),
    }
    by_id = {one.id: one for one in told}
    for row in rows(path, "failures"):
        one = by_id[row["invocation_id"]]
        assert ms(row["failed_at"]) == (one.completed_at or (one.last_failure and one.last_failure.at))
        assert found[one.id]["failure"] == row["message"]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[InvocationView]]]:
    """A file that an engine has closed, and what it told; the views were compared while it ran, too."""
    path = tmp_path_factory.mktemp("views") / "app.db"

    async def main() -> list[InvocationView]:
        retry = RetryPolicy(initial_interval="1h")
        async with Engine(
            path, services=[talk, echo, Shelf()], synchronous="NORMAL", inactivity_timeout=0, retry=retry
        ) as engine:
            told = await a_day(engine)
            await asyncio.to_thread(compare, path, told)
            return told

    yield path, asyncio.run(main())


def test_views_tell_what_the_engine_tells_while_it_runs_and_after(day: tuple[Path, list[InvocationView]]) -> None:
    compare(*day)


def test_each_column_is_told_in_the_documentation_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "database.md").read_text()
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert tuple(sections) == VIEWS
    with closing(sqlite3.connect(":memory:")) as database:
        for _, script in migrations():
            database.executescript(script)
        for view, section in sections.items():
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({view})")]
            told = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
            assert told == columns
        views = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
        assert views == {*VIEWS}


def test_one_invocation_is_found_by_an_index_in_every_view() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        for _, script in migrations():
            database.executescript(script)
        for sql in (
            "SELECT * FROM invocations WHERE id = ?",
            "SELECT * FROM invocations WHERE service = ? ORDER BY seq DESC",
            "SELECT * FROM steps WHERE invocation_id = ?",
            "SELECT * FROM failures WHERE invocation_id = ?",
            "SELECT * FROM failures",
            "SELECT * FROM state WHERE service = ?",
        ):
            values = ("x",) * sql.count("?")
            steps = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            reads = [step for step in steps if step.startswith(("SCAN", "SEARCH"))]
            assert reads and all("USING" in step for step in reads), (sql, steps)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="there is no sqlite3 shell")
def test_the_shell_reads_the_file(day: tuple[Path, list[InvocationView]]) -> None:
    path, told = day
    for view in VIEWS:
        command = ["sqlite3", "-readonly", "-json", str(path), f"SELECT count(*) AS n FROM {view}"]
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    command = ["sqlite3", "-readonly", str(path), "SELECT id, input, created_at FROM invocations ORDER BY seq DESC"]
    lines = subprocess.run(command, check=True, capture_output=True, timeout=20).stdout.splitlines()
    assert [line.split(b"|")[0].decode() for line in lines] == [one.id for one in told]


def test_a_view_that_was_dropped_is_made_again(day: tuple[Path, list[InvocationView]], tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    shutil.copy(day[0], path)
    with closing(sqlite3.connect(path)) as database:
        for view in VIEWS:
            database.execute(f"DROP VIEW {view}")

    async def main() -> None:
        async with opened(SqliteStore(path)):
            pass

    asyncio.run(main())
    compare(path, day[1])


@pytest.mark.parametrize("version", [number for number, _ in migrations()])
def test_a_file_of_every_version_has_the_views_after_a_start(tmp_path: Path, version: int) -> None:
    path = tmp_path / "app.db"
    row = {
        "seq": 1, "id": "inv_1" + "0" * 33, "service": "Shop", "handler": "buy", "flavor": "service",
        "input": b'{"a":1}', "completion_retention_ms": 1, "journal_retention_ms": 1, "created_at": NOW,
        "status": "suspended", "attempt": 1, "failures": 0, "cancelling": 0, "listened": 0, "modified_at": NOW,
    }  # fmt: skip
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for number, script in migrations()[:version]:
            database.executescript(f"{script}; PRAGMA user_version = {number}")
        name = "_invocations" if version > 7 else "invocations"
        places = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO {name} ({', '.join(row)}) VALUES ({places})", [*row.values()])

    async def main() -> None:
        async with opened(SqliteStore(path)) as (_, where):
            assert where.next_seq == 2

    asyncio.run(main())
    [one] = rows(path, "invocations")
    assert (one["target"], one["input"], ms(one["created_at"])) == ("Shop/buy", '{"a":1}', NOW)
