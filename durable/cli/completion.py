"""`durable completion`: scripts that have a shell complete commands, options and their values."""

import click
from click.shell_completion import get_completion_class

from durable.cli.commands import Desk, command
from durable.cli.exits import Failed
from durable.cli.places import Need

VARIABLE = "_DURABLE_COMPLETE"
#: How each shell takes the script.
WAYS = {
    "bash": "durable completion bash > ~/.local/share/bash-completion/completions/durable",
    "zsh": 'durable completion zsh > "${fpath[1]}/_durable"',
    "fish": "durable completion fish > ~/.config/fish/completions/durable.fish",
}
_group = click.Group("completion")


def add_to(root: click.Group) -> None:
    """Have the program know this command."""
    root.add_command(completion)


@command(_group, "completion", Need.NOTHING, json=False)
@click.argument("shell", type=click.Choice(list(WAYS)))
async def completion(desk: Desk, shell: str) -> None:
    """Print the script with which a shell completes the commands of this program."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Failed(f"this version of click has no completion for {shell}")
    root = click.get_current_context().find_root()
    desk.out.stdout.write(kind(root.command, {}, "durable", VARIABLE).source().rstrip() + "\n")
