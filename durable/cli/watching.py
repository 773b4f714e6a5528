"""Looking again and again: redrawn on a terminal, and printed anew in a pipe where something has changed."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from durable.cli.output import Out

INTERVAL = click.Option(
    ["--interval"], type=click.FloatRange(min=0.05), default=2.0, show_default=True, metavar="SECONDS",
    help="With --watch, how often to look.",
)  # fmt: skip
WATCH = click.Option(["--watch", "-w"], is_flag=True, help="Keep looking, until Ctrl-C.")


def watched(work: Any) -> Any:
    """Give a command `--watch` and `--interval`."""
    work.__click_params__ = [*getattr(work, "__click_params__", []), INTERVAL, WATCH]
    return work


async def watch(
    out: Out,
    look: Callable[[], Awaitable[Any]],
    draw: Callable[[Any], RenderableType],
    *,
    interval: float,
    over: Callable[[Any], bool] = lambda seen: False,
) -> Any:
    """Look until `over`; returns what was seen last. For programs, each look that shows something new is printed."""
    with _interrupted() as interrupted:
        if out.on_terminal:
            return await _redraw(out, look, draw, interval, over, interrupted)
        before: Any = None
        while True:
            seen = await look()
            if seen != before:
                if out.form == "text":
                    out.show(draw(seen))
                else:
                    out.value(seen)
                out.stdout.flush()
            before = seen
            if over(seen) or await _passed(interrupted, interval):
                return seen


async def _redraw(
    out: Out,
    look: Callable[[], Awaitable[Any]],
    draw: Callable[[Any], RenderableType],
    interval: float,
    over: Callable[[Any], bool],
    interrupted: asyncio.Event,
) -> Any:
    from rich.live import Live

    with Live(console=out.console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            seen = await look()
            if over(seen):
                live.update(draw(seen), refresh=True)
                return seen
            hint = Text(f"every {interval:g}s, Ctrl-C ends it", style="dim")
            live.update(Group(draw(seen), hint), refresh=True)
            if await _passed(interrupted, interval):
                return seen


@contextmanager
def _interrupted() -> Iterator[asyncio.Event]:
    """Set by Ctrl-C, which is how a look without an end is ended, and no failure."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    handler = signal.getsignal(signal.SIGINT)
    try:
        loop.add_signal_handler(signal.SIGINT, event.set)
    except (ValueError, RuntimeError, NotImplementedError):  # not on the main thread
        yield event
        return
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, handler)


async def _passed(interrupted: asyncio.Event, seconds: float) -> bool:
    """Wait so long; whether that was interrupted."""
    with suppress(TimeoutError):
        await asyncio.wait_for(interrupted.wait(), seconds)
    return interrupted.is_set()
