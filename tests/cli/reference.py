"""The reference of all commands, as docs/cli.md has it: `python -m tests.cli.reference` prints it."""

from collections.abc import Iterator, Sequence

import click

from durable.cli import filters
from durable.cli.app import program

#: What many commands have is described once.
EVERYWHERE = {"db", "codec", "admin", "ingress", "token_file", "as_json", "as_jsonl"}


def leaves(command: click.Command, name: str = "durable") -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, with their full names."""
    if isinstance(command, click.Group):
        for inner in sorted(command.commands):
            yield from leaves(command.commands[inner], f"{name} {inner}")
    else:
        yield name, command


def usage(name: str, command: click.Command) -> str:
    """How it is typed."""
    words = [name]
    for one in command.params:
        if isinstance(one, click.Argument):
            word = one.metavar or ("|".join(one.type.choices) if isinstance(one.type, click.Choice) else "")
            word = word or str(one.name).upper()
            words.append(word if one.required or word.startswith("[") else f"[{word}]")
        elif one.required:
            words += [one.opts[0], str(one.metavar)]
    if _filtered(command):
        words.append("[filters]")
    return " ".join(words)


def described(name: str, command: click.Command) -> str:
    """One command: usage, help, its own options."""
    text = f"### `{usage(name, command)}`\n\n{command.help}\n"
    left_out = EVERYWHERE | (filters.OPTIONS.keys() if _filtered(command) else set())
    own = [one for one in command.params if isinstance(one, click.Option) and one.name not in left_out]
    return f"{text}\n{table(own)}" if own else text


def _filtered(command: click.Command) -> bool:
    return filters.OPTIONS.keys() <= {one.name for one in command.params}


def table(options: Sequence[click.Option]) -> str:
    """Options, one a line."""
    rows = ["| Option | |", "|---|---|"]
    for one in options:
        names = ", ".join(f"`{flag}`" for flag in (*one.opts, *one.secondary_opts))
        rows.append(f"| {names}{f' `{one.metavar}`' if one.metavar else ''} | {one.help} |")
    return "\n".join(rows) + "\n"


def reference() -> str:
    """All of them."""
    chosen = f"### Filters\n\nAll that are given must match.\n\n{table(list(filters.OPTIONS.values()))}"
    return "\n".join([chosen, *(described(name, command) for name, command in leaves(program()))])


if __name__ == "__main__":
    print(reference())  # noqa: T201
