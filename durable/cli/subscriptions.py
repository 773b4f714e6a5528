"""`durable subscriptions`: Kafka topics that invoke handlers."""

from typing import Any

import click

from durable.cli.commands import Desk, command
from durable.cli.commands import group as new_group
from durable.cli.exits import usage
from durable.cli.output import Column
from durable.cli.places import Need
from durable.cli.sessions import checked, json_of
from durable.core.sources import STARTS
from durable.remote.wire import encoded_path

group = new_group("subscriptions", "List, create and delete subscriptions to Kafka topics.")


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    root.add_command(group)


@command(group, "list", Need.ENGINE)
async def list_subscriptions(desk: Desk) -> None:
    """List subscriptions."""
    found = (await desk.get("/subscriptions"))["subscriptions"]
    columns = [
        Column("ID", lambda one: one["id"], is_id=True),
        Column("SOURCE", lambda one: one["source"]),
        Column("SINK", lambda one: one["sink"]),
        Column("STATE", lambda one: one.get("state", "")),
        Column("LAG", lambda one: one.get("lag", "")),
        Column("TAKEN", lambda one: one.get("taken", "")),
        Column("CAUSE", lambda one: one.get("cause", ""), yields=True),
    ]
    desk.out.rows(found, columns, empty="there are no subscriptions")


@command(group, "create", Need.ENGINE)
@click.argument("source", metavar="kafka://CLUSTER/TOPIC")
@click.argument("sink", metavar="service://SERVICE/HANDLER")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the consumer; can be repeated."
)
@click.option("--again", is_flag=True, help="Make a new one even if one with this source, sink and group exists.")
@click.option("--once", metavar="KEY", help="An idempotency key: repeated with it, the command takes effect once.")
async def create(desk: Desk, source: str, sink: str, options: tuple[str, ...], again: bool, once: str | None) -> None:
    """Invoke a handler for each record of a topic. If the subscription already exists, it gets these options."""
    chosen: dict[str, Any] = {}
    for option in options:
        name, sign, value = option.partition("=")
        if not sign or not name:
            raise usage(f"--option {option!r}: expected NAME=VALUE")
        chosen[name] = value
    wanted = {"source": source, "sink": sink, "options": chosen, "again": again}
    answer = await desk.change("POST", "/subscriptions", wanted, once=once)
    made = json_of(answer)
    if desk.out.form == "text":
        desk.out.text(made["id"])
    else:
        desk.out.value(made)


@command(group, "delete", Need.ENGINE)
@click.argument("id")
@click.option("--once", metavar="KEY", help="An idempotency key: repeated with it, the command takes effect once.")
async def delete(desk: Desk, id: str, once: str | None) -> None:
    """Delete a subscription."""
    checked(await desk.change("DELETE", f"/subscriptions{encoded_path(id)}", once=once))
    if desk.out.form == "text":
        desk.out.text(f"{id} deleted")
    else:
        desk.out.value({"id": id})


@command(group, "pause", Need.ENGINE)
@click.argument("id")
async def pause(desk: Desk, id: str) -> None:
    """Stop a subscription from reading until it is resumed."""
    await _steer(desk, id, "pause", "paused", None)


@command(group, "resume", Need.ENGINE)
@click.argument("id")
@click.option("--position", type=click.Choice(STARTS), help="Where to go on, if not from its position.")
@click.option("--once", metavar="KEY", help="An idempotency key: repeated with it, the command takes effect once.")
async def resume(desk: Desk, id: str, position: str | None, once: str | None) -> None:
    """Resume a subscription that is paused, has failed, or waits for a retry."""
    await _steer(desk, id, "resume", "resumed", None if position is None else {"position": position}, once)


async def _steer(
    desk: Desk, id: str, verb: str, done: str, query: dict[str, str] | None, once: str | None = None
) -> None:
    checked(await desk.change("PATCH", f"/subscriptions{encoded_path(id)}/{verb}", query=query, once=once))
    if desk.out.form == "text":
        desk.out.text(f"{id} {done}")
    else:
        desk.out.value({"id": id})
