"""What every command has: where it talks to, how it prints, and how it ends."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click
import msgspec

from durable.cli.exits import Exit, Failed, usage
from durable.cli.output import Out
from durable.cli.places import Need, Place, Where, reach, token_of
from durable.cli.sessions import json_of
from durable.remote.connections import Answer

JSON = {"content-type": "application/json"}
NDJSON = "application/x-ndjson"
HELP = {"help_option_names": ["-h", "--help"]}

DB = click.Option(
    ["--db"], metavar="FILE", envvar="DURABLE_DB", show_envvar=True,
    help="The engine on this file; if it is stopped, the file itself.",
)  # fmt: skip
CODEC = click.Option(
    ["--codec"], metavar="MODULE:CODEC", envvar="DURABLE_CODEC", show_envvar=True,
    help="The codec for the values of a stopped file.",
)  # fmt: skip
ADMIN = click.Option(
    ["--admin"], metavar="URL", envvar="DURABLE_ADMIN_URL", show_envvar=True,
    help="The engine's admin API. [default: http://127.0.0.1:9070]",
)  # fmt: skip
_INGRESS = click.Option(
    ["--ingress"], metavar="URL", envvar="DURABLE_INGRESS_URL", show_envvar=True,
    help="The engine's ingress. [default: http://127.0.0.1:8080]",
)  # fmt: skip
TOKEN = click.Option(
    ["--token-file"], metavar="FILE", help="The file with the bearer token; otherwise DURABLE_TOKEN has it.",
)  # fmt: skip
ONCE = click.Option(
    ["--once"], metavar="KEY", help="An idempotency key: repeated with it, the command takes effect once.",
)  # fmt: skip
_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.")
_JSONL = click.Option(["--jsonl", "as_jsonl"], is_flag=True, help="Print a line of JSON for each thing.")
_PLACES = ("db", "codec", "admin", "ingress", "token_file")


class Desk:
    """What a command works with: whom it asks, and where it prints."""

    def __init__(self, out: Out, where: Where, need: Need) -> None:
        self.out = out
        self.where = where
        self.need = need
        self._place: Place | None = None

    @property
    def place(self) -> Place:
        """Whom to ask."""
        assert self._place is not None, "a command that asks somebody says what it needs"
        return self._place

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, with somebody to ask."""
        if self.need is Need.NOTHING:
            await work()
            return
        async with reach(self.where, self.need) as self._place:
            await work()

    # ---- the admin API ----

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """What a route shows. Raises `Failed`."""
        asked = {name: _text(value) for name, value in (query or {}).items() if value not in (None, "", ())}
        return json_of(await self.place.admin.ask("GET", path, query=asked))

    async def change(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        once: str | None = None,
    ) -> Answer:
        """Change something; the answer may be a refusal. `once` is an idempotency key."""
        asked = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        data = b"" if body is None else msgspec.json.encode(body)
        return await self.place.admin.ask(method, path, query=asked, body=data, headers={**JSON, **keyed(once)})

    async def select(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a statement. Raises `Failed`."""
        answer = await self.place.admin.ask(
            "POST", "/query", body=msgspec.json.encode({"query": sql}),
            headers={**JSON, "accept": "application/json"},
        )  # fmt: skip
        rows: list[dict[str, Any]] = json_of(answer)["rows"]
        return rows


def keyed(once: str | None) -> dict[str, str]:
    """The header that has an idempotency key, if there is one. Raises `Failed`."""
    if once is None:
        return {}
    return {"idempotency-key": key_given("--once", once)}


def key_given(option: str, key: str) -> str:
    """The idempotency key that was given. Raises `Failed`."""
    if not key:
        raise usage(f"{option} is empty: give a key, or leave it out")
    if not key.isascii() or not key.isprintable():
        raise usage(f"{option} {key!r}: expected a key in printable ASCII")
    return key


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def command(
    group: click.Group, name: str, need: Need = Need.NOTHING, *, json: bool = True
) -> Callable[[Callable[..., Awaitable[None]]], click.Command]:
    """Make a command of an async function: its docstring is the help, its options those of click's decorators."""
    own = [DB, ADMIN, _INGRESS, TOKEN] if need is not Need.NOTHING else []
    own += [CODEC] if need in (Need.READ, Need.CHANGE) else []
    own += [_JSON, _JSONL] if json else []

    def make(work: Callable[..., Awaitable[None]]) -> click.Command:
        def callback(as_json: bool = False, as_jsonl: bool = False, **given: Any) -> None:
            if as_json and as_jsonl:
                raise usage("give --json or --jsonl, not both")
            out = Out("json" if as_json else "jsonl" if as_jsonl else "text")
            typed = {one: given.pop(one, None) for one in _PLACES} if need is not Need.NOTHING else {}
            desk = Desk(out, where_of(typed), need)
            asyncio.run(desk.run(lambda: work(desk, **given)))

        params = [*reversed(getattr(work, "__click_params__", [])), *own]
        help = inspect.getdoc(work) or ""
        made = click.Command(
            name, callback=callback, params=params, help=help, short_help=_first(help),
            context_settings=HELP,
        )  # fmt: skip
        group.add_command(made)
        return made

    return make


def group(name: str, help: str) -> click.Group:
    """A command that has others."""

    def callback() -> None:
        context = click.get_current_context()
        if context.invoked_subcommand is None:
            Out().stderr.write(f"{context.get_help()}\n")
            raise Failed("", Exit.USAGE)

    return click.Group(
        name,
        help=help,
        short_help=_first(help),
        callback=callback,
        invoke_without_command=True,
        no_args_is_help=False,
        context_settings=HELP,
    )


def _first(help: str) -> str:
    """Its first clause, for lists."""
    return re.split(r"[.:;]\s|\.$", help, maxsplit=1)[0].partition(": ")[0].replace("\n", " ") + "."


def where_of(typed: Mapping[str, str | None]) -> Where:
    """Where a command looks: what is typed beats the environment. Raises `Failed`."""
    if not typed:
        return Where()
    context, by_hand = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    given = {one for one in ("db", "admin", "ingress") if context.get_parameter_source(one) is by_hand}
    if "db" in given and given != {"db"}:
        raise usage("give --db, or --admin and --ingress: --db finds the engine of a file by itself")
    db = None if given & {"admin", "ingress"} else typed["db"]
    return Where(db, typed["admin"], typed.get("ingress"), token_of(typed["token_file"]), typed.get("codec"))
