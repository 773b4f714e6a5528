"""docs/cli.md says what the program does: its commands and options, its exit codes, its variables."""

import re
from pathlib import Path

import click
import pytest

from durable.cli.app import program
from durable.cli.exits import Exit
from tests.cli.reference import leaves, reference
from tests.cli.typed import typed

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
LEAVES = dict(leaves(program()))


def test_all_commands_stand_there_as_they_are() -> None:
    _, _, found = PAGE.partition("## All commands\n\n")
    assert found.strip() == reference().strip(), "python -m tests.cli.reference prints what belongs there"


def test_so_do_the_exit_codes_and_the_variables() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == set(Exit)
    variables = {"DURABLE_TOKEN", "DURABLE_TRACEBACK"}
    for command in LEAVES.values():
        variables |= {str(one.envvar) for one in command.params if one.envvar is not None}
    assert set(re.findall(r"\bDURABLE_[A-Z_]+\b", PAGE)) == variables


@pytest.mark.parametrize("name", LEAVES)
def test_each_command_has_help_and_prints_json(name: str) -> None:
    command = LEAVES[name]
    assert command.help
    undocumented = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
    assert not undocumented
    if name not in ("durable serve", "durable completion"):
        assert {"--json", "--jsonl"} <= {flag for one in command.params for flag in one.opts}
    shown = typed(*name.split()[1:], "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("Usage: durable")
