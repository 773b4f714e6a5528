"""`durable health`, `durable sql` and `durable deadlocks`: questions about everything at once."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from durable.cli.asking import piped_in
from durable.cli.commands import Desk, command
from durable.cli.exits import Failed, usage
from durable.cli.output import Column
from durable.cli.places import Need
from durable.cli.words import compact, roughly

_group = click.Group("querying")


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    root.add_command(sql)
    root.add_command(deadlocks)
    root.add_command(health)


@command(_group, "sql", Need.READ)
@click.argument("statement")
async def sql(desk: Desk, statement: str) -> None:
    """Query with SQL: one SELECT over sys_invocation, sys_journal, state and other tables; - reads it from stdin.

    'SELECT table_name FROM information_schema.tables' lists them all.
    """
    if statement == "-":
        statement = piped_in().decode("utf-8", "replace")
    if not statement.strip():
        raise usage("the statement is empty")
    rows = await desk.select(statement)
    names = list(dict.fromkeys(name for row in rows for name in row))  # what is null is left out of a row
    desk.out.rows(rows, [_column(name) for name in names], empty="no rows")


def _column(name: str) -> Column:
    def value(row: Mapping[str, Any]) -> str:
        found = row.get(name)
        return found if isinstance(found, str) else "" if found is None else compact(found)

    return Column(name, value, is_id=name == "id" or name.endswith("_id"))


@command(_group, "deadlocks", Need.READ)
async def deadlocks(desk: Desk) -> None:
    """Show handlers that wait for each other in a circle. Cancelling one of them frees all."""
    found = (await desk.get("/deadlocks"))["deadlocks"]
    if desk.out.form == "json":
        desk.out.value(found)
        return
    for number, circle in enumerate(found, start=1):
        if desk.out.form == "jsonl":
            desk.out.value(circle)
            continue
        desk.out.text(f"circle {number}: each waits for the next, the last for the first")
        columns = [
            Column("ID", lambda one: one["id"], is_id=True),
            Column("TARGET", lambda one: one["target"]),
            Column("STATUS", lambda one: one["status"]),
        ]
        desk.out.show(desk.out.table(circle["members"], columns))
    if not found and desk.out.form == "text":
        desk.out.note("there are none")


@command(_group, "health", Need.READ)
async def health(desk: Desk) -> None:
    """Say how an engine is doing, and why. Exits with 1 unless all is well."""
    found = await desk.get("/health/details")
    if desk.out.form == "text":
        desk.out.text(found["verdict"])
        for reason in found["reasons"]:
            desk.out.text(f"- {reason}")
        desk.out.show(desk.out.fields(_measured(found)))
    else:
        desk.out.value(found)
    if found["verdict"] != "ok":
        raise Failed("")


def _measured(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Role", found["role"]
    for name, title in _IN_SECONDS.items():
        if found[name] is not None:
            yield title, roughly(round(found[name] * 1000))
    for name, title in _IN_NUMBERS.items():
        if found[name] is not None:
            yield title, str(found[name])
    for name, title in _IN_BYTES.items():
        if found[name] is not None:
            yield title, f"{found[name] / 1024 / 1024:,.1f} MiB"


_IN_SECONDS = {
    "commit_s": "A commit",
    "commit_s_max": "The longest",
    "committing_s": "Under way since",
    "oldest_ready_s": "Oldest ready",
    "oldest_paused_s": "Oldest paused",
    "blocked_s": "Event loop blocked",
    "holder_silent_s": "Holder silent",
}
_IN_NUMBERS = {
    "running": "Running",
    "ready": "Ready",
    "pending": "Pending",
    "paused": "Paused",
    "timers": "Timers",
    "queued": "Commands queued",
}
_IN_BYTES = {"disk_free": "Disk left", "database_size": "Database", "wal_size": "Write-ahead log"}
