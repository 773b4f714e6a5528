"""`durable call`, `send`, `attach`: handlers invoked from a shell."""

from typing import Any

import click
import msgspec

from durable.cli.asking import JSON_TYPE, value_given
from durable.cli.commands import Desk, command, key_given
from durable.cli.exits import Failed, unreachable, usage
from durable.cli.places import Need
from durable.cli.sessions import checked, json_of
from durable.remote.connections import Answer
from durable.remote.envelope import INPUT_DIFFERS
from durable.remote.wire import encoded_path, problem_in

#: What the ingress answers while there is no result.
_NOT_YET = 470


def add_to(root: click.Group) -> None:
    """Have the program know these commands."""
    for one in (call, send, attach):
        root.add_command(one)


_group = click.Group("invoking")


def invoking(work: Any) -> Any:
    """Give a command what an invocation has."""
    extra = [
        click.Argument(["target"], metavar="SERVICE/HANDLER"),
        click.Argument(["input"], required=False, metavar="[INPUT]"),
        click.Option(["--key"], metavar="KEY", help="The key of a virtual object or workflow."),
        click.Option(
            ["--idempotency-key"], metavar="KEY", help="Repeated with this key, the handler is invoked once.",
        ),
        click.Option(
            ["--header", "-H", "headers"], multiple=True, metavar="NAME:VALUE",
            help="A header that the handler sees; can be repeated.",
        ),
        click.Option(
            ["--content-type"], metavar="TYPE", default=JSON_TYPE, show_default=True,
            help="The type of the input. Anything but JSON is sent as it is.",
        ),
    ]  # fmt: skip
    work.__click_params__ = [*getattr(work, "__click_params__", []), *reversed(extra)]
    return work


@command(_group, "call", Need.ENGINE)
@invoking
async def call(desk: Desk, **given: Any) -> None:
    """Invoke a handler, wait, and print its result.

    INPUT is JSON, in quotes for the shell: '"Ada"' is a text. - reads it from stdin, @FILE from a file. Leave it out
    if the handler takes no input. Ctrl-C ends the waiting, not the invocation.
    """
    answer = await _invoke(desk, (), {}, **given)
    _result(desk, answer)


@command(_group, "send", Need.ENGINE)
@invoking
@click.option("--delay", metavar="DURATION", help='Start it this much later: "10m".')
async def send(desk: Desk, delay: str | None, **given: Any) -> None:
    """Invoke a handler without waiting for it, and print the id once the invocation is durable."""
    answer = await _invoke(desk, ("send",), {"delay": delay} if delay else {}, **given)
    told = json_of(answer)
    if desk.out.form != "text":
        desk.out.value(told)
        return
    desk.out.text(told["invocationId"])
    if told["status"] != "Accepted":
        other = " and another input" if INPUT_DIFFERS in answer.headers else ""
        desk.out.note(f"this was accepted before, with the same key{other}")


@command(_group, "attach", Need.READ)
@click.argument("id")
@click.option("--no-wait", is_flag=True, help="Fail if it has not ended yet.")
async def attach(desk: Desk, id: str, no_wait: bool) -> None:
    """Wait until an invocation has ended, and print its result."""
    ask, path = desk.place.ingress.ask, encoded_path(id)
    answer = await ask("GET", f"/restate/output{path}")
    if answer.status == _NOT_YET and not no_wait:
        if desk.place.stopped:
            raise unreachable(f"{id} has not ended, and no engine runs on {desk.place.name}")
        answer = await ask("GET", f"/restate/attach{path}")
    _result(desk, answer)


async def _invoke(
    desk: Desk,
    suffix: tuple[str, ...],
    query: dict[str, str],
    *,
    target: str,
    input: str | None,
    key: str | None,
    idempotency_key: str | None,
    headers: tuple[str, ...],
    content_type: str,
) -> Answer:
    parts = target.split("/")
    if len(parts) == 3 and key is None:
        parts, key = [parts[0], parts[2]], parts[1]
    if len(parts) != 2 or not all(parts):
        raise usage(
            f"{target!r}: expected SERVICE/HANDLER, and the key of an object as --key (or SERVICE/KEY/HANDLER)"
        )
    body = value_given(input, "the input", content_type)
    given = {"content-type": content_type} if body else {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or not header.isascii() or not header.isprintable():
            raise usage(f"--header {header!r}: expected NAME:VALUE, in printable ASCII")
        given[name.strip().lower()] = value.strip()
    if idempotency_key is not None:
        given["idempotency-key"] = key_given("--idempotency-key", idempotency_key)
    path = encoded_path(parts[0], *([] if key is None else [key]), parts[1], *suffix)
    return await desk.place.ingress.ask("POST", path, query=query, body=body, headers=given)


def _result(desk: Desk, answer: Answer) -> None:
    """Print a result; what an invocation has failed with is an error."""
    id = answer.headers.get("x-restate-id", "")
    if answer.status >= 400:
        if answer.headers.get("x-restate-error-source") == "invocation":
            told = problem_in(answer)
            raise Failed(f"{id or 'the invocation'} failed ({told.code or answer.status}): {told.message}")
        checked(answer)
    try:
        value = msgspec.json.decode(answer.body) if answer.body else None
    except (msgspec.DecodeError, ValueError):
        if desk.out.form != "text":
            raise Failed("the result is no JSON: ask without --json") from None
        desk.out.raw(answer.body)
        return
    if desk.out.form == "text" and answer.body:
        desk.out.value(value)
    elif desk.out.form != "text":
        desk.out.value({"id": id, "result": value} if id else {"result": value})
