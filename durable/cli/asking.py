"""Asking whoever sits at the terminal, and reading what is typed or piped in."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from durable.cli.exits import Failed, usage
from durable.cli.hints import hint
from durable.cli.output import Out

#: The media type of values, unless another one is named.
JSON_TYPE = "application/json"


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


def value_given(text: str | None, what: str, content_type: str = JSON_TYPE) -> bytes:
    """A value that was typed, or is in a file (@FILE) or piped in (-); empty if none was given.

    Raises `Failed` if the file cannot be read, or if the value should be JSON and is not; `what` is its name there.
    """
    if text is None:
        return b""
    if text == "-":
        data = piped_in()
    elif text.startswith("@"):
        try:
            data = Path(text[1:]).expanduser().read_bytes()
        except OSError as error:
            raise usage(f"{text}: {error.strerror}") from None
    else:
        data = os.fsencode(text)  # as it was typed, also where that is no UTF-8
    if content_type == JSON_TYPE:
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            shown = data[:40].decode("utf-8", "replace")
            typed = text != "-" and not text.startswith("@")
            raise usage(f"{what} {shown!r} is no JSON: {hint(data, in_shell=typed)}") from None
    return data


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
