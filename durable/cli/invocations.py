"""`durable invocations`: what there is, one in full, and how it goes on."""

import time
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from durable.cli.commands import Desk, command
from durable.cli.commands import group as new_group
from durable.cli.filters import filtered, pages, wanted
from durable.cli.output import STATUS_STYLES, Column
from durable.cli.places import Need
from durable.cli.trees import journal_tree
from durable.cli.watching import watch, watched
from durable.cli.words import ago, local, moment_ms, payload, roughly
from durable.log import printable
from durable.remote.wire import encoded_path

#: How many are listed where nobody says.
LIMIT = 50
#: How many entries of a journal are shown where nobody says; and how many invocations below it are looked at.
ENTRIES, CHILDREN = 100, 500

group = new_group("invocations", "List, describe, steer and watch invocations.")


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    root.add_command(group)


def now_ms() -> int:
    """The time here, which the ages of what is shown are counted from."""
    return time.time_ns() // 1_000_000


def columns(now: int) -> list[Column]:
    """Of a listing."""
    return [
        Column("ID", lambda one: one["id"], is_id=True),
        Column("TARGET", lambda one: one["target"]),
        Column("STATUS", _status, style=lambda one: STATUS_STYLES.get(_status(one), "")),
        Column("AGE", lambda one: roughly(now - (moment_ms(one["created_at"]) or now))),
        Column("NOTE", lambda one: _note(one, now), yields=True, style=lambda one: "dim"),
    ]


def _status(one: Any) -> str:
    if one["status"] == "completed" and one.get("completion_result") == "failure":
        return "failed"
    return str(one["status"])


def _note(one: Any, now: int) -> str:
    words = []
    if one.get("cancelling"):
        words.append("cancelling")
    if one.get("pausing"):
        words.append("pausing")
    if one.get("scheduled_start_at"):
        words.append(f"starts {ago(one['scheduled_start_at'], now)}")
    if one.get("next_retry_at"):
        words.append(f"try {one.get('attempts', 0) + 1} {ago(one['next_retry_at'], now)}")
    if one.get("reason"):
        words.append(one["reason"])
    if one.get("last_failure") and one["status"] != "completed":
        words.append(one["last_failure"])
    return ", ".join(words)


@command(group, "list", Need.READ)
@filtered
@click.option("--limit", type=click.IntRange(1), default=LIMIT, show_default=True, help="The most to show.")
@click.option("--all", "everything", is_flag=True, help="Show all of them.")
@click.option("--counts", is_flag=True, help="Also count them by status.")
@watched
async def list_invocations(
    desk: Desk, limit: int, everything: bool, counts: bool, watch: bool, interval: float, **filters: Any
) -> None:
    """List invocations, newest first. All filters must match."""
    query = {**wanted(filters), **({"counts": True} if counts else {})}
    if watch:
        await _watch_list(desk, query, limit, interval)
        return
    found, counted = await _find(desk, query, None if everything else limit)
    out = desk.out
    if out.form == "jsonl":
        out.rows(found["invocations"], [])
        return
    out.rows(found["invocations"], columns(now_ms()), empty="no such invocation", whole=found)
    if out.form == "text":
        if counted:
            out.text()
            out.text(", ".join(f"{number} {status}" for status, number in sorted(counted.items()) if number))
        if found.get("more"):
            out.note(f"these are the newest {len(found['invocations'])}: --limit or --all shows more")


async def _find(desk: Desk, query: dict[str, Any], limit: int | None) -> tuple[dict[str, Any], dict[str, int] | None]:
    found: list[Any] = []
    counted: dict[str, int] | None = None
    more = False
    async for page in pages(desk, query, limit):
        found += page["invocations"]
        counted = page.get("counts", counted)
        more = page.get("next") is not None
        query = {name: value for name, value in query.items() if name != "counts"}
    return {
        "invocations": found, "more": more, **({} if counted is None else {"counts": counted})
    }, counted  # fmt: skip


async def _watch_list(desk: Desk, query: dict[str, Any], limit: int, interval: float) -> None:
    async def look() -> Any:
        return (await _find(desk, query, limit))[0]

    def draw(seen: Any) -> RenderableType:
        if not seen["invocations"]:
            return Text("no such invocation", style="dim")
        return desk.out.table(seen["invocations"], columns(now_ms()))

    await watch(desk.out, look, draw, interval=interval)


@command(group, "describe", Need.READ)
@click.argument("id")
@click.option(
    "--entries",
    type=click.IntRange(2),
    default=ENTRIES,
    show_default=True,
    help="The most entries of the journal to show.",
)
@watched
async def describe(desk: Desk, id: str, entries: int, watch: bool, interval: float) -> None:
    """Show everything about an invocation, and its journal as a tree with durations.

    An entry that was awaited at once is recorded when it ends: its duration is the time since the previous entry.
    """
    if watch:
        await watch_one(desk, id, entries, interval)
        return
    seen = await look_at(desk, id, entries if desk.out.form == "text" else None)
    if desk.out.form == "text":
        desk.out.show(drawn(desk, seen))
    elif desk.out.form == "json":
        desk.out.value(seen)
    else:
        for value in (seen["invocation"], *seen["journal"]):
            desk.out.value(value)


@command(group, "watch", Need.READ)
@click.argument("id", required=False)
@click.option(
    "--entries",
    type=click.IntRange(2),
    default=ENTRIES,
    show_default=True,
    help="The most entries of the journal to show.",
)
@filtered
@click.option("--limit", type=click.IntRange(1), default=LIMIT, show_default=True, help="The most to show.")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=2.0, show_default=True, metavar="SECONDS",
    help="How often to look.",
)  # fmt: skip
async def watch_invocations(
    desk: Desk, id: str | None, entries: int, limit: int, interval: float, **filters: Any
) -> None:
    """Watch an invocation until it has ended or, without an ID, the list of invocations."""
    if id is None:
        await _watch_list(desk, wanted(filters), limit, interval)
    else:
        await watch_one(desk, id, entries, interval)


async def look_at(desk: Desk, id: str, entries: int | None = None) -> dict[str, Any]:
    """One invocation, its journal (of a long one, so many of the first and the last entries), and what it called."""
    path = f"/invocations{encoded_path(id)}"
    described = await desk.get(path)
    size = described.get("journal_size", 0)
    if entries is None or size <= entries:
        journal = await _journal(desk, path)
    else:
        head = entries // 2
        journal = (await desk.get(f"{path}/journal", {"limit": head}))["entries"]
        journal += await _journal(desk, path, size - 1 - (entries - head))
    calls = any(one["kind"] in ("call", "send") for one in journal)
    none: Any = {"root": {}, "truncated": False}
    tree = await desk.get(f"{path}/children", {"limit": CHILDREN}) if calls else none
    return {
        "invocation": described,
        "journal": journal,
        "children": tree["root"].get("children", []),
        "truncated": tree["truncated"],
    }


async def _journal(desk: Desk, path: str, after: int | None = None) -> list[Any]:
    found: list[Any] = []
    while True:
        page = await desk.get(f"{path}/journal", {"after": after, "limit": 10_000})
        found += page["entries"]
        after = page.get("next")
        if after is None:
            return found


async def watch_one(desk: Desk, id: str, entries: int, interval: float) -> None:
    """Until it has ended."""
    await watch(
        desk.out, lambda: look_at(desk, id, entries), lambda seen: drawn(desk, seen), interval=interval,
        over=lambda seen: seen["invocation"]["status"] == "completed",
    )  # fmt: skip


def drawn(desk: Desk, seen: Any) -> RenderableType:
    """An invocation for people."""
    one, now = seen["invocation"], now_ms()
    failure = one.get("failure") or {}
    if one.get("completion_result") == "failure":
        failure = {**failure, **_object((one.get("output") or {}).get("json"))}
    status = _status(one)
    pairs: list[tuple[str, object]] = [
        ("Id", one["id"]),
        ("Target", one["target"]),
        ("Status", Text(status, style=STATUS_STYLES.get(status, ""))),
        ("Next", _note({**one, "last_failure": None, "reason": None}, now)),
        ("Accepted", f"{local(one['created_at'])} ({ago(one['created_at'], now)})"),
        ("Ended", one.get("completed_at") and f"{local(one['completed_at'])} ({ago(one['completed_at'], now)})"),
        ("Idempotency key", one.get("idempotency_key")),
        ("Called by", one.get("invoked_by_target") and f"{one['invoked_by_target']} {one.get('invoked_by_id', '')}"),
        ("Does again", one.get("restarted_from")),
        ("Attempts", one.get("attempts")),
        ("Input", payload(one.get("input"))),
        ("Output", payload(one.get("output")) if one.get("completion_result") == "success" else None),
        ("Failure", failure and f"[{failure.get('code', 500)}] {failure.get('message', '')}"),
        ("in step", failure.get("name")),
        ("Reason", failure.get("reason")),
        ("Way out", failure.get("advice")),
        ("Waits for", "; ".join(_wait(wait, now) for wait in one.get("waits_for", []))),
    ]
    tree = journal_tree(one, seen["journal"], seen["children"], now)
    if seen["truncated"]:
        tree.add(Text("(it called more than is shown: describe one of those)", style="dim"))
    return Group(desk.out.fields(pairs), Text(), tree)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _wait(wait: Any, now: int) -> str:
    words = [wait["kind"], wait.get("name"), wait.get("detail")]
    if wait.get("due_at"):
        words.append(ago(wait["due_at"], now))
    return printable(" ".join(str(word) for word in words if word))
