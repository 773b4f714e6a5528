"""The program: its commands, and how it ends whatever happens."""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from durable.cli import (
    completing,
    completion,
    files,
    invocations,
    invoking,
    querying,
    services,
    serving,
    state,
    steering,
    subscriptions,
)
from durable.cli.commands import group
from durable.cli.exits import Exit, Failed
from durable.cli.output import Out, quiet_end
from durable.errors import DurableError

NAME = "durable"


def program() -> click.Group:
    """All commands."""
    root = group(
        NAME,
        "Serve, see and steer durable engines.\n\n"
        "Commands find an engine by its file (--db app.db) or at a URL (--admin, --ingress, or DURABLE_ADMIN_URL and "
        "DURABLE_INGRESS_URL). A file whose service is stopped can be looked at, and what is in it steered.",
    )
    for module in (
        serving,
        invocations,
        steering,
        invoking,
        completing,
        services,
        state,
        querying,
        files,
        subscriptions,
        completion,
    ):
        module.add_to(root)
    return root


def run(arguments: Sequence[str]) -> int:
    """Do what was typed; returns the exit code. Whatever goes wrong is one sentence on stderr."""
    out = Out()
    try:
        program().main(list(arguments), prog_name=NAME, standalone_mode=False)
        sys.stdout.flush()
    except Failed as failed:
        if failed.message:
            out.error(failed.message)
        return failed.exit
    except click.UsageError as wrong:
        hint = f" (see {wrong.ctx.command_path} --help)" if wrong.ctx is not None else ""
        out.error(f"{wrong.format_message().rstrip('.')}{hint}")
        return Exit.USAGE
    except click.ClickException as error:
        out.error(error.format_message())
        return Exit.FAILED
    except (click.Abort, KeyboardInterrupt):
        out.error("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        quiet_end()
        return Exit.FAILED
    except DurableError as error:
        out.error(str(error))
        return Exit.FAILED
    except UnicodeEncodeError as error:
        out.error(f"{error.object!r} is no text in UTF-8")
        return Exit.USAGE
    except Exception as error:
        if os.environ.get("DURABLE_TRACEBACK"):
            traceback.print_exc()
        out.error(
            f"{type(error).__name__}: {error} (this should not be: please report it, with what "
            "DURABLE_TRACEBACK=1 shows)"
        )
        return Exit.FAILED
    return Exit.OK
