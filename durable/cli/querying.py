"""`durable sql` and `durable deadlocks`: questions about everything at once."""

from collections.abc import Mapping
from typing import Any

import click

from durable.cli.asking import piped_in
from durable.cli.commands import Desk, command
from durable.cli.exits import usage
from durable.cli.output import Column
from durable.cli.places import Need
from durable.cli.words import compact

_group = click.Group("querying")


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    root.add_command(sql)
    root.add_command(deadlocks)


@command(_group, "sql", Need.READ)
@click.argument("statement")
async def sql(desk: Desk, statement: str) -> None:
    """Read with SQL: one SELECT over sys_invocation, sys_journal, state and others; '-' reads it from stdin.

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
    """Show handlers that wait for each other in a circle: cancelling any of them frees all."""
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
