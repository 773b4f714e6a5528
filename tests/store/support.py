"""Rows to write: an invocation and a journal row with every field that matters set, or none."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from durable.core.invocation import Flavor, Invocation, Status, Submission
from durable.core.journal import COMMAND, Kind, Outcome, Row
from durable.store import Opened, Store

NOW = 1_893_456_000_000
DAY = 86_400_000

#: Gives a new store on the same file or tables: what an engine would open after a restart.
Stores = Callable[[], Store]


def a_submission(seq: int = 1, **fields: Any) -> Submission:
    """What was asked; the id follows from `seq`."""
    told = {"service": "Shop", "handler": "checkout", "key": None, "flavor": Flavor.SERVICE, "input": b"{}"}
    kept = {"completion_retention_ms": DAY, "journal_retention_ms": DAY}
    return Submission(f"inv_1{seq:033}", **(told | kept | fields))


_ASKED = set(Submission.__struct_fields__) - {"id", "due_at"}


def an_invocation(seq: int = 1, status: Status = Status.RUNNING, **fields: Any) -> Invocation:
    """An invocation; fields that its submission has go there."""
    asked = {name: fields.pop(name) for name in list(fields) if name in _ASKED}
    return Invocation(seq, a_submission(seq, **asked), NOW, status, modified_at=NOW, **fields)


def a_completed(seq: int, outcome: Outcome | None = None, *, at: int = NOW, **fields: Any) -> Invocation:
    """An invocation that has ended."""
    return an_invocation(
        seq, Status.COMPLETED, attempt=1, outcome=outcome or Outcome(True, b"1"), completed_at=at, **fields
    )


def a_row(
    seq: int = 1,
    entry: int = 1,
    part: int = COMMAND,
    kind: Kind = Kind.RUN,
    *,
    name: str | None = "step",
    detail: str | None = None,
    seen: int = 0,
    ordinal: int | None = None,
    outcome: Outcome | None = None,
    value: bytes | None = None,
) -> Row:
    """A journal row, with an outcome or without."""
    if outcome is not None:
        return Row(seq, entry, part, kind, name, detail, seen, ordinal, outcome.ok, outcome.value, NOW)
    return Row(seq, entry, part, kind, name, detail, seen, ordinal, None, value, NOW)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[tuple[Store, Opened]]:
    """The store while it is open, and where its numbering goes on."""
    where = await store.open()
    try:
        yield store, where
    finally:
        await store.close()


@asynccontextmanager
async def using(stores: Stores) -> AsyncIterator[Store]:
    """A fresh store, open."""
    async with opened(stores()) as (store, _):
        yield store


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine on an ordinary event loop."""
    asyncio.run(story())


# ---- other programs ----


@contextmanager
def program(text: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """A Python program in a process of its own; it has printed its first line when this goes on."""
    process = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
