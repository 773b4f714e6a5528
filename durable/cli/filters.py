"""Which invocations are meant: the options of every command that lists or steers many."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import click

from durable.cli.commands import Desk
from durable.cli.exits import usage
from durable.core.invocation import Status

F = TypeVar("F", bound=Callable[..., Any])

#: How many a page has, where all pages are read.
PAGE = 1000
_STATUS = click.Choice([str(one) for one in Status])
#: By the names of their parameters, in the order of the help.
OPTIONS: dict[str, click.Option] = {
    "service": click.Option(["--service"], metavar="NAME", help="Invocations of this service."),
    "handler": click.Option(["--handler"], metavar="NAME", help="Of this handler."),
    "key": click.Option(["--key"], metavar="KEY", help="On this key."),
    "status": click.Option(
        ["--status"],
        type=_STATUS,
        metavar="STATUS",
        multiple=True,
        help=f"In this status (can be repeated): {', '.join(_STATUS.choices)}.",
    ),
    "older_than": click.Option(["--older-than"], metavar="DURATION", help='Accepted at least this long ago: "2h".'),
    "newer_than": click.Option(["--newer-than"], metavar="DURATION", help="Accepted no longer ago than this."),
    "failure": click.Option(["--failure"], metavar="TEXT", help="Whose last failure contains this text."),
    "reason": click.Option(["--reason"], metavar="WORD", help="Paused at once for this reason."),
    "parent": click.Option(["--parent"], metavar="ID", help="Called or sent by this invocation."),
    "idempotency_key": click.Option(["--idempotency-key"], metavar="KEY", help="With this idempotency key."),
}


def filtered(work: F) -> F:
    """Give a command the options."""
    known = list(getattr(work, "__click_params__", []))
    work.__click_params__ = [*known, *reversed(OPTIONS.values())]  # type: ignore[attr-defined]
    return work


def wanted(given: dict[str, Any]) -> dict[str, Any]:
    """The query of `GET /invocations` for what was given; empty where nothing was."""
    found = {name: value for name in OPTIONS if (value := given.get(name)) not in (None, ())}
    for name, value in found.items():
        if value == "":
            raise usage(f"--{name.replace('_', '-')} is empty")
    if "status" in found:
        found["status"] = ",".join(found["status"])
    return found


async def pages(desk: Desk, query: dict[str, Any], limit: int | None) -> AsyncIterator[dict[str, Any]]:
    """Pages of invocations, newest first, until there are `limit`."""
    cursor, left = None, limit
    while left is None or left > 0:
        page = await desk.get("/invocations", {**query, "cursor": cursor, "limit": min(PAGE, left or PAGE)})
        yield page
        cursor = page.get("next")
        if left is not None:
            left -= len(page["invocations"])
        if cursor is None:
            return
