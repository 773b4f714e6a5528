"""Asking whoever sits at the terminal, and reading what is typed or piped in."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from durable.cli.exits import Failed, usage
from durable.cli.output import Out


def agreed(out: Out, question: str) -> None:
    """Return where somebody said yes. Raises `Failed` where nobody did, or nobody can be asked."""
    if not sys.stdin.isatty():
        raise usage(f"{question} Nobody can be asked here: give --yes")
    out.stdout.flush()
    with _interruptible():
        answer = click.confirm(question, err=True)
    if not answer:
        raise Failed("nothing was done")


def piped_in() -> bytes:
    """All of stdin."""
    with _interruptible():
        return sys.stdin.buffer.read()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the waiting: under asyncio it would end the task that waits, which does not notice."""
    try:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:  # not on the main thread: no signal comes here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
