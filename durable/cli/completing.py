"""`durable awakeables`, `promises`, `signals`: what handlers wait for, given to them from a shell."""

import os
import secrets
from typing import Any

import click

from durable.cli.asking import JSON_TYPE, value_given
from durable.cli.commands import ONCE, Desk, command, keyed
from durable.cli.commands import group as new_group
from durable.cli.exits import Exit, Failed
from durable.cli.output import STATUS_STYLES, Column
from durable.cli.places import Need
from durable.cli.services import literal
from durable.cli.sessions import NONE, Strings, checked
from durable.cli.values import cell, members, print_value
from durable.core.once import OF_CLIENT
from durable.remote.envelope import REJECTED
from durable.remote.wire import encoded_path

awakeables = new_group("awakeables", "Resolve and reject awakeables: 'durable invocations describe' shows their ids.")
promises = new_group("promises", "Peek at, resolve and reject the promises of a workflow.")
signals = new_group("signals", "Send signals to invocations.")

#: Why there is no value, where it was settled with one.
_OMITTED = "longer than 128 KiB, or withheld by the admin API"
#: Ways out, by what is completed and the status of the refusal.
_HINTS = {
    ("awakeables", 400): "'durable invocations describe' shows the ids of awakeables",
    ("awakeables", 404): "'durable invocations describe' shows the ids of awakeables",
    ("promises", 409): "'durable promises peek' shows with what",
    ("signals", 409): "'durable attach' shows its result",
}


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    for group in (awakeables, promises, signals):
        root.add_command(group)


def resolving(work: Any) -> Any:
    """Give a command what belongs to a value."""
    extra = [
        click.Option(
            ["--content-type"], metavar="TYPE", default=JSON_TYPE, show_default=True,
            help="The type of the value. Anything but JSON is sent as it is.",
        ),
        ONCE,
    ]  # fmt: skip
    work.__click_params__ = [*reversed(extra), *getattr(work, "__click_params__", [])]
    return work


def rejecting(work: Any) -> Any:
    """Give a command what a handler's `TerminalError` is made of."""
    extra = [
        click.Argument(["message"]),
        click.Option(
            ["--code"], type=click.IntRange(400, 599), default=REJECTED, show_default=True,
            help="The code of the error. (Restate's own server knows none: there it is 500.)",
        ),
        ONCE,
    ]  # fmt: skip
    work.__click_params__ = [*reversed(extra), *getattr(work, "__click_params__", [])]
    return work


# ---- awakeables ----


@command(awakeables, "resolve", Need.CHANGE)
@click.argument("id")
@click.argument("value")
@resolving
async def resolve_awakeable(desk: Desk, id: str, value: str, content_type: str, once: str | None) -> None:
    """Complete an awakeable with a value: the handler that waits for it goes on.

    VALUE is JSON, in quotes for the shell: '"Ada"' is a text. - reads it from stdin, @FILE from a file. An awakeable
    that was completed before is refused. In a stopped file, the handler goes on at the next start.
    """
    await _resolve(desk, ("awakeables", id), value, content_type, once)
    _told(desk, f"{id} resolved", {"id": id})


@command(awakeables, "reject", Need.CHANGE)
@click.argument("id")
@rejecting
async def reject_awakeable(desk: Desk, id: str, message: str, code: int, once: str | None) -> None:
    """Complete an awakeable with an error: the handler that waits for it gets a TerminalError."""
    await _reject(desk, ("awakeables", id), message, code, once)
    _told(desk, f"{id} rejected", {"id": id})


# ---- promises ----


@command(promises, "peek", Need.READ)
@click.argument("workflow")
@click.argument("key")
@click.argument("name", required=False)
async def peek(desk: Desk, workflow: str, key: str, name: str | None) -> None:
    """Show the settled promises of a workflow or, with a NAME, the value of that promise."""
    found = await _settled(desk, workflow, key)
    if name is not None:
        one = next((one for one in found if one["name"] == name), None)
        if one is None:
            raise Failed(
                f"the promise {name!r} of {workflow}/{key} is not settled: 'durable promises resolve' settles it",
                Exit.NOT_FOUND,
            )
        if "failure" in one and desk.out.form == "text":
            raise Failed(f"the promise {name!r} of {workflow}/{key} was rejected: {one['failure']}")
        if desk.out.form == "text":
            print_value(desk, one, f"the promise {name!r} of {workflow}/{key}")
        else:
            desk.out.value(one)
        return
    columns = [
        Column("NAME", lambda one: one["name"]),
        Column("RESULT", lambda one: one["result"], style=lambda one: STATUS_STYLES[one["result"]]),
        Column("VALUE", lambda one: one["failure"] if "failure" in one else cell(one), yields=True),
    ]
    desk.out.rows(found, columns, empty=f"no promise of {workflow}/{key} is settled")


@command(promises, "resolve", Need.CHANGE)
@click.argument("workflow")
@click.argument("key")
@click.argument("name")
@click.argument("value")
@resolving
async def resolve_promise(
    desk: Desk, workflow: str, key: str, name: str, value: str, content_type: str, once: str | None
) -> None:
    """Settle a promise of a workflow with a value; one that is settled already is refused.

    VALUE is JSON, in quotes for the shell: '"Ada"' is a text. - reads it from stdin, @FILE from a file. In a stopped
    file, this only works for a workflow that was started.
    """
    await _resolve(desk, ("promises", workflow, key, name), value, content_type, once)
    _told(desk, f"{workflow}/{key}: {name} resolved", {"workflow": workflow, "key": key, "name": name})


@command(promises, "reject", Need.CHANGE)
@click.argument("workflow")
@click.argument("key")
@click.argument("name")
@rejecting
async def reject_promise(
    desk: Desk, workflow: str, key: str, name: str, message: str, code: int, once: str | None
) -> None:
    """Settle a promise of a workflow with an error: whoever waits for it gets a TerminalError."""
    await _reject(desk, ("promises", workflow, key, name), message, code, once)
    _told(desk, f"{workflow}/{key}: {name} rejected", {"workflow": workflow, "key": key, "name": name})


# ---- signals ----


@command(signals, "send", Need.CHANGE)
@click.argument("id")
@click.argument("name")
@click.argument("value", default="null", metavar="[VALUE]")
@resolving
async def send_signal(desk: Desk, id: str, name: str, value: str, content_type: str, once: str | None) -> None:
    """Send a signal to an invocation, which may wait for it now or later.

    VALUE is JSON, in quotes for the shell: '"Ada"' is a text. - reads it from stdin, @FILE from a file. Leave it
    out to send null. Each call sends one more signal, unless --once names the same key.
    """
    await _resolve(desk, ("signals", id, name), value, content_type, once)
    _told(desk, f"{name} sent to {id}", {"id": id, "name": name})


@command(signals, "reject", Need.CHANGE)
@click.argument("id")
@click.argument("name")
@rejecting
async def reject_signal(desk: Desk, id: str, name: str, message: str, code: int, once: str | None) -> None:
    """Send an error as a signal: the handler that waits for it gets a TerminalError."""
    await _reject(desk, ("signals", id, name), message, code, once)
    _told(desk, f"{name} sent to {id}, as an error", {"id": id, "name": name})


# ---- asking ----


async def _resolve(desk: Desk, what: tuple[str, ...], value: str, content_type: str, once: str | None) -> None:
    body = value_given(value, "VALUE", content_type)
    headers = {**keyed(_key(once)), **({"content-type": content_type} if body else {})}
    await _complete(desk, what, "resolve", body, headers)


async def _reject(desk: Desk, what: tuple[str, ...], message: str, code: int, once: str | None) -> None:
    headers = {**keyed(_key(once)), "content-type": "text/plain"}
    query = {} if code == REJECTED else {"code": str(code)}
    await _complete(desk, what, "reject", os.fsencode(message), headers, query)


async def _complete(
    desk: Desk, what: tuple[str, ...], verb: str, body: bytes, headers: Strings, query: Strings = NONE
) -> None:
    path = encoded_path("restate", *what, verb)
    answer = await desk.place.ingress.ask("POST", path, query=query, body=body, headers=headers)
    try:
        checked(answer)
    except Failed as failed:
        hint = _HINTS.get((what[0], answer.status))
        raise Failed(f"{failed.message} ({hint})" if hint else failed.message, failed.exit) from None


def _key(once: str | None) -> str:
    """The given idempotency key, or a fresh one: with a key, a command that comes too late is told so."""
    return f"{OF_CLIENT}{secrets.token_hex(16)}" if once is None else once


async def _settled(desk: Desk, workflow: str, key: str) -> list[dict[str, Any]]:
    rows = await desk.select(
        "SELECT key, completion_failure, completion_success_value FROM sys_promise"
        f" WHERE service_name = {literal(workflow)} AND service_key = {literal(key)} ORDER BY key"
    )
    return [
        {"name": row["key"], "result": "failure", "failure": row["completion_failure"]}
        if row.get("completion_failure") is not None
        else {"name": row["key"], "result": "success", **_promised(row.get("completion_success_value"))}
        for row in rows
    ]


def _promised(value: str | None) -> dict[str, Any]:
    return members(None if value is None else bytes.fromhex(value) or b"null", _OMITTED)


def _told(desk: Desk, text: str, value: Any) -> None:
    if desk.out.form == "text":
        desk.out.text(text)
    else:
        desk.out.value(value)
