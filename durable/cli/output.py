"""What is printed: for people on a terminal, for people in a pipe, and for programs.

On a terminal tables fit its width and have colours. In a pipe nothing is shortened and nothing coloured. `--json`
prints one document, `--jsonl` a line for each thing. Notes and errors go to stderr, results to stdout.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Literal

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from durable.cli.words import line, short

Form = Literal["text", "json", "jsonl"]
#: Between two columns; and how narrow a column may become.
GAP, LEAST = 2, 4
#: Wide enough that nothing is ever shortened or wrapped.
_PIPE_WIDTH = 1_000_000

STATUS_STYLES = {
    "running": "cyan", "ready": "cyan", "suspended": "blue", "scheduled": "blue", "pending": "yellow",
    "backing-off": "yellow", "paused": "bold red", "completed": "green", "failed": "red", "success": "green",
    "failure": "red", "open": "yellow",
}  # fmt: skip


class Column(msgspec.Struct, frozen=True):
    """One column of a table."""

    title: str
    value: Callable[[Mapping[str, Any]], object]
    #: An id, shortened in its middle where the terminal is narrow.
    is_id: bool = False
    #: Cut before all others where that does not suffice.
    yields: bool = False
    style: Callable[[Mapping[str, Any]], str] | None = None


class Out:
    """Where everything is printed."""

    def __init__(self, form: Form = "text", stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> None:
        self.form = form
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.console = Console(file=self.stdout, highlight=False, markup=False, emoji=False, soft_wrap=False)
        self.errors = Console(file=self.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def on_terminal(self) -> bool:
        """Whether a person looks at it as it comes."""
        return self.form == "text" and self.console.is_terminal

    @property
    def width(self) -> int:
        """How many characters a line has."""
        return self.console.width if self.on_terminal else _PIPE_WIDTH

    # ---- results ----

    def text(self, text: str = "") -> None:
        """A line of a result, in text form only."""
        if self.form != "text":
            return
        if self.on_terminal:
            self.console.print(Text(line(text)), soft_wrap=True)  # a path that is copied has no line end in it
        else:
            self.stdout.write(f"{line(text)}\n")

    def show(self, what: RenderableType) -> None:
        """Something for people."""
        if self.on_terminal:
            self.console.print(what)
            return
        self.stdout.write(self.plain(what))

    def plain(self, what: RenderableType) -> str:
        """The same as text without colours, no line of it shortened."""
        written = io.StringIO()
        console = Console(
            file=written, width=_PIPE_WIDTH, color_system=None, force_terminal=False, highlight=False, markup=False,
            emoji=False, legacy_windows=False,
        )  # fmt: skip
        console.print(what)
        return "".join(f"{one.rstrip()}\n" for one in written.getvalue().splitlines())

    def value(self, value: Any) -> None:
        """One document: a value as it is."""
        if self.form == "jsonl":
            self._write(json.dumps(value, ensure_ascii=False))
        else:
            self._write(json.dumps(value, ensure_ascii=False, indent=2))

    def rows(
        self, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, empty: str = "", whole: Any = None
    ) -> None:
        """A table; `whole` is the document of `--json`, where that says more than its rows."""
        rows = list(rows)
        if self.form == "json":
            self.value(rows if whole is None else whole)
        elif self.form == "jsonl":
            for row in rows:
                self.value(row)
        elif not rows and empty:
            self.note(empty)
        else:
            self.show(self.table(rows, columns))

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
        """Rows for people, as narrow as the terminal is."""
        cells = [[line(column.value(row) or "") for column in columns] for row in rows]
        titles = [column.title for column in columns]
        if _needed([titles, *cells]) > self.width:
            cells = [
                [short(text) if column.is_id else text for column, text in zip(columns, texts, strict=True)]
                for texts in cells
            ]
        widths = fit([titles, *cells], self.width, [column.yields for column in columns])
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=True, header_style="bold")
        for column, width in zip(columns, widths, strict=True):
            table.add_column(cut(column.title, width), no_wrap=True)
        for row, texts in zip(rows, cells, strict=True):
            table.add_row(
                *(
                    Text(cut(text, width), style=column.style(row) if column.style is not None else "")
                    for column, text, width in zip(columns, texts, widths, strict=True)
                )
            )
        return table

    def fields(self, pairs: Iterable[tuple[str, object]]) -> Table:
        """Names and values, one a line; those without a value are left out."""
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, value in pairs:
            if value not in (None, "", [], {}):
                table.add_row(name, value if isinstance(value, Text) else Text(line(value)))
        return table

    def raw(self, data: bytes) -> None:
        """Bytes as they are, on a pipe; on a terminal as a line."""
        if self.on_terminal:
            self.text(data.decode("utf-8", "replace"))
            return
        self.stdout.flush()
        buffer = getattr(self.stdout, "buffer", None)
        if buffer is None:
            self.stdout.write(data.decode("utf-8", "replace"))
        else:
            buffer.write(data)
            buffer.flush()

    def _write(self, text: str) -> None:
        self.stdout.write(f"{text}\n")

    # ---- on the side ----

    def note(self, text: str) -> None:
        """Something worth knowing, which is no result: for people."""
        if self.form == "text":
            self._aside(text, "dim")

    def error(self, text: str) -> None:
        """Something that went wrong."""
        self._aside(f"durable: {text}", "red")

    def _aside(self, text: str, style: str) -> None:
        self.stdout.flush()
        self.errors.print(Text(line(text), style=style), soft_wrap=True)


def _needed(rows: Sequence[Sequence[str]]) -> int:
    return sum(_widths(rows)) + GAP * (len(rows[0]) - 1)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cell_len(text) for text in column) for column in zip(*rows, strict=True)]


def fit(rows: Sequence[Sequence[str]], most: int, yields: Sequence[bool]) -> list[int]:
    """How wide each column is, so that all of them fit: those that yield are cut first, then whichever is widest."""
    widths = _widths(rows)
    room = most - GAP * (len(widths) - 1)
    for narrowed in ([at for at, one in enumerate(yields) if one], list(range(len(widths)))):
        low, high = LEAST, max([LEAST, *(widths[at] for at in narrowed)])
        while low < high:  # the widest that they may be
            middle = (low + high + 1) // 2
            if sum(min(width, middle) if at in narrowed else width for at, width in enumerate(widths)) <= room:
                low = middle
            else:
                high = middle - 1
        widths = [min(width, low) if at in narrowed else width for at, width in enumerate(widths)]
    return widths


def cut(text: str, width: int) -> str:
    """At most so wide, with an ellipsis where something is missing."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"


def quiet_end() -> None:
    """Whoever read the output has gone: leave nothing to be written at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
