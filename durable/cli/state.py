"""`durable state`: what is stored for a key of a virtual object or a workflow."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import click

from durable.cli.asking import agreed, value_given
from durable.cli.commands import Desk, command
from durable.cli.commands import group as new_group
from durable.cli.exits import Exit, Failed, usage
from durable.cli.output import Column
from durable.cli.places import Need
from durable.cli.services import literal
from durable.cli.sessions import checked
from durable.cli.values import cell, members, print_value, value_in
from durable.core.state_version import state_version
from durable.remote.wire import encoded_path

group = new_group("state", "Read and replace the state of a key.")

_WITHHELD = "its admin API withholds values (show_payloads=False)"


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    root.add_command(group)


@command(group, "get", Need.READ)
@click.argument("service")
@click.argument("key")
@click.argument("name", required=False)
async def get(desk: Desk, service: str, key: str, name: str | None) -> None:
    """Show the state of a key or, with a NAME, that value."""
    rows = {one: members(data, _WITHHELD) for one, data in (await _stored(desk, service, key)).items()}
    if name is not None:
        if name not in rows:
            raise Failed(f"{service}/{key} has no {name!r}", Exit.NOT_FOUND)
        print_value(desk, rows[name], f"{name!r} of {service}/{key}")
    elif desk.out.form == "json":
        desk.out.value({one: value_in(row, f"{one!r} of {service}/{key}") for one, row in rows.items()})
    else:
        columns = [Column("NAME", lambda one: one["name"]), Column("VALUE", cell, yields=True)]
        named = [{"name": one, **row} for one, row in rows.items()]
        desk.out.rows(named, columns, empty=f"{service}/{key} has no state")


@command(group, "set", Need.ENGINE)
@click.argument("service")
@click.argument("key")
@click.argument("name")
@click.argument("value")
async def set_value(desk: Desk, service: str, key: str, name: str, value: str) -> None:
    """Set one value of a key, and leave the others. VALUE is JSON; - reads it from stdin, @FILE from a file."""
    await _replace(desk, service, key, {name: _json("VALUE", value)}, [])


@command(group, "patch", Need.ENGINE)
@click.argument("service")
@click.argument("key")
@click.argument("changes")
async def patch(desk: Desk, service: str, key: str, changes: str) -> None:
    """Change values of a key: '{"count": 7, "old": null}' sets one, deletes the other, and leaves the rest."""
    wanted = _json("CHANGES", changes)
    if not isinstance(wanted, dict) or not wanted:
        raise usage('CHANGES is a JSON object: {"name": value, …}; null deletes')
    values = {name: value for name, value in wanted.items() if value is not None}
    await _replace(desk, service, key, values, [name for name, value in wanted.items() if value is None])


@command(group, "clear", Need.ENGINE)
@click.argument("service")
@click.argument("key")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before all of it is deleted.")
async def clear(desk: Desk, service: str, key: str, names: tuple[str, ...], yes: bool) -> None:
    """Delete values of a key or, without a NAME, all of them."""
    if not names and not yes:
        agreed(desk.out, f"clear all the state of {service}/{key}?")
    await _replace(desk, service, key, {}, names or None)


def _json(what: str, text: str) -> Any:
    return json.loads(value_given(text, what))


async def _stored(desk: Desk, service: str, key: str) -> dict[str, bytes | None]:
    """By name, each value whole; None for what is withheld."""
    rows = await desk.select(
        "SELECT key, value FROM state"
        f" WHERE service_name = {literal(service)} AND service_key = {literal(key)} ORDER BY key"
    )
    if all("value" in row for row in rows):
        return {row["key"]: bytes.fromhex(row["value"]) for row in rows}
    found = await desk.get(f"/services{encoded_path(service)}/state", {"key": key})  # SQL leaves out what is long
    return {name: None if data is None else base64.b64decode(data) for name, data in found["state"].items()}


async def _replace(desk: Desk, service: str, key: str, values: Mapping[str, Any], deleted: Any) -> None:
    """The whole state is replaced, where it still is what was read. `deleted` is None for all of it."""
    before = await _stored(desk, service, key)
    after: dict[str, bytes] = {}
    for name, data in before.items():
        if deleted is None or name in deleted or name in values:
            continue
        if data is None:
            raise Failed(f"{name!r} of {service}/{key} cannot be kept: {_WITHHELD}")
        after[name] = data
    missing = [name for name in deleted or () if name not in before]
    if missing:
        raise Failed(f"{service}/{key} has no {', '.join(map(repr, missing))}", Exit.NOT_FOUND)
    after |= {
        name: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() for name, value in values.items()
    }
    known = {name: data for name, data in before.items() if data is not None}
    version = {"version": state_version(known)} if len(known) == len(before) else {}
    body = {"object_key": key, "new_state": {name: list(data) for name, data in after.items()}, **version}
    checked(await desk.change("POST", f"/services{encoded_path(service)}/state", body))
    if desk.out.form == "text":
        desk.out.text(f"{service}/{key}: accepted; it takes effect when the key is free")
    else:
        rows = {name: members(data, "") for name, data in after.items()}
        told = {name: row["value"] for name, row in rows.items() if "value" in row}
        other = {name: row["base64"] for name, row in rows.items() if "base64" in row}
        desk.out.value({"service": service, "key": key, "state": told, **({"base64": other} if other else {})})
