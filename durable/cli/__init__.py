"""`durable`, the command line: an edge above everything, and the only one that knows terminals.

It asks an engine over HTTP whatever it does: through the socket beside a file, at a URL, or, where the service of a
file is stopped, the same apps in this process, over an engine that runs nothing. It needs the extra `cli`.
"""

import os
import sys


def main() -> None:
    """The console script, and `python -m durable`."""
    _open_what_is_closed()
    try:
        from durable.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("durable"):
            raise
        package = error.name.partition(".")[0]
        sys.stderr.write(f"durable: the command line needs {package}: pip install 'durable-engine[cli]'\n")
        raise SystemExit(1) from None
    raise SystemExit(run(sys.argv[1:]))


def _open_what_is_closed() -> None:
    """From what the shell has closed (`<&-`, `>&-`) nothing comes, and what is written there goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (as long as the process lives)
