"""`durable services`: what there is to invoke, how busy it is, and its options."""

from collections.abc import Mapping
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from durable.cli.commands import Desk, command
from durable.cli.commands import group as new_group
from durable.cli.exits import usage
from durable.cli.output import Column
from durable.cli.places import Need
from durable.cli.sessions import json_of
from durable.cli.watching import watch, watched
from durable.core.invocation import Status
from durable.remote.wire import encoded_path

group = new_group("services", "List, describe and configure services.")
config = new_group("config", "Options that are set at run time, and kept in the file.")
group.add_command(config)

#: What can be set at run time, and what it is.
OPTIONS = {
    "idempotency_retention": "How long the result of an idempotency key is kept.",
    "workflow_completion_retention": "How long a workflow's result, state and promises are kept.",
    "journal_retention": "How long the journal of a completed invocation is kept.",
    "inactivity_timeout": "How long a handler may wait before it is suspended.",
    "abort_timeout": "How long after that a handler that has not yielded is interrupted.",
}


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    root.add_command(group)


@command(group, "list", Need.ENGINE)
async def list_services(desk: Desk) -> None:
    """List services, with their kind, revision and handlers."""
    found = (await desk.get("/services"))["services"]
    desk.out.rows(
        found,
        [
            Column("NAME", lambda one: one["name"]),
            Column("KIND", lambda one: one["ty"]),
            Column("REVISION", lambda one: one["revision"]),
            Column("PUBLIC", lambda one: "yes" if one["public"] else "no"),
            Column("HANDLERS", lambda one: ", ".join(handler["name"] for handler in one["handlers"]), yields=True),
        ],
        empty="there are no services",
    )


@command(group, "describe", Need.ENGINE)
@click.argument("service")
async def describe(desk: Desk, service: str) -> None:
    """Show a service: its handlers, their types, and the options in force."""
    found = await desk.get(f"/services{encoded_path(service)}")
    if desk.out.form != "text":
        desk.out.value(found)
        return
    handlers = desk.out.table(
        found["handlers"],
        [
            Column("HANDLER", lambda one: one["name"]),
            Column("KIND", lambda one: one.get("ty")),
            Column("TAKES", lambda one: one["input_description"]),
            Column("GIVES", lambda one: one["output_description"]),
            Column("DOES", lambda one: (one.get("documentation") or "").partition("\n")[0], yields=True),
        ],
    )
    desk.out.show(Group(desk.out.fields(_options(found)), Text(), handlers))


def _options(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        ("Service", found["name"]),
        ("Kind", found["ty"]),
        ("Revision", found["revision"]),
        ("Documentation", (found.get("documentation") or "").partition("\n")[0]),
        ("Public", "yes" if found["public"] else "no"),
        ("Retry", _retry(found["retry_policy"])),
        *((name.replace("_", " ").capitalize(), found.get(name)) for name in OPTIONS),
        ("Metadata", ", ".join(f"{name}={value}" for name, value in found.get("metadata", {}).items())),
        *(("Note", one["message"]) for one in found.get("info", [])),
    ]


def _retry(policy: Mapping[str, Any]) -> str:
    attempts = "without end" if policy.get("max_attempts") is None else f"{policy['max_attempts']} attempts"
    first, factor, longest = (policy[one] for one in ("initial_interval", "exponentiation_factor", "max_interval"))
    waits = f"after {first}, {factor:g} times as long each, at most {longest}{_during(policy)}"
    return f"{attempts}, {waits}; then {_then(policy)}"


def _during(policy: Mapping[str, Any]) -> str:
    return f", for {policy['max_duration']} in all" if "max_duration" in policy else ""


def _then(policy: Mapping[str, Any]) -> str:
    return "it ends" if policy.get("on_max_attempts") == "Kill" else "it is paused"


@command(group, "status", Need.READ)
@click.argument("service", required=False)
@watched
async def status(desk: Desk, service: str | None, watch: bool, interval: float) -> None:
    """Count the invocations of each service by status. Works on a stopped file, too."""

    async def look() -> list[dict[str, Any]]:
        return await _counts(desk, service)

    columns = [Column("SERVICE", lambda one: one["service"])]
    columns += [_count_column(str(one)) for one in Status]

    def draw(seen: list[dict[str, Any]]) -> RenderableType:
        return desk.out.table(seen, [one for one in columns if _shown(one, seen)])

    if watch:
        await _watch(desk, look, draw, interval)
        return
    found = await look()
    desk.out.rows(found, [one for one in columns if _shown(one, found)], empty="there are no invocations")


async def _watch(desk: Desk, look: Any, draw: Any, interval: float) -> None:
    await watch(desk.out, look, draw, interval=interval)


def _count_column(name: str) -> Column:
    return Column(name.upper(), lambda one: one.get(name, 0) or "-")


def _shown(column: Column, rows: list[dict[str, Any]]) -> bool:
    return any(column.value(row) != "-" for row in rows)


async def _counts(desk: Desk, service: str | None) -> list[dict[str, Any]]:
    where = "" if service is None else f" WHERE target_service_name = {literal(service)}"
    rows = await desk.select(
        f"SELECT target_service_name AS service, status, count(*) AS number FROM sys_invocation{where}"
        " GROUP BY target_service_name, status ORDER BY target_service_name"
    )
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["service"], {"service": row["service"]})[row["status"]] = row["number"]
    return list(found.values())


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


@command(config, "view", Need.ENGINE)
@click.argument("service")
async def view(desk: Desk, service: str) -> None:
    """Show the options in force for a service, as set in its code or at run time."""
    found = await desk.get(f"/services{encoded_path(service)}")
    _show_options(desk, found)


def _show_options(desk: Desk, found: Mapping[str, Any]) -> None:
    options = {name: found[name] for name in ("public", *OPTIONS, "retry_policy") if found.get(name) is not None}
    if desk.out.form != "text":
        desk.out.value({"name": found["name"], **options})
        return
    desk.out.show(desk.out.fields(_options(found)))


def options(work: Any) -> Any:
    """Give a command an option for each that can be set."""
    made = [
        click.Option([f"--{name.replace('_', '-')}"], metavar="DURATION", help=help) for name, help in OPTIONS.items()
    ]
    made.append(click.Option(["--public/--private"], default=None, help="Whether it can be called from outside."))
    work.__click_params__ = [*getattr(work, "__click_params__", []), *reversed(made)]
    return work


@command(config, "patch", Need.ENGINE)
@options
@click.argument("service")
async def patch(desk: Desk, service: str, **given: Any) -> None:
    """Set options of a service. They apply to invocations accepted from now on, and are stored in the file."""
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise usage("name what to set, such as --journal-retention '12 hours'")
    _show_options(desk, json_of(await desk.change("PATCH", f"/services{encoded_path(service)}", changes)))
