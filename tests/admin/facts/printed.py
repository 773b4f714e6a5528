"""What Restate's command line prints, by its fields: tables by row and column, lists of invocations, journals."""

import re
from typing import Any

_BLOCK = re.compile(r"\s*\u276f \[.*?\] (?P<id>inv_\w+)")
_ENTRY = re.compile(r"\s*\u251c[\u2500]+ (?P<number>#\d+) \[(?P<at>.*?)\] (?P<what>.*)")
_FIELD = re.compile(r"\s*(?P<name>[A-Z][^:\u2500]*?):? {2,}(?P<value>\S.*)")
_HEADING = re.compile(r"[A-Z]+(-[A-Z]+)*( [A-Z]+)*")


class Ordered(dict[str, Any]):
    """Fields whose order counts, too."""


def read(text: str) -> dict[str, Any]:
    """The fields of what was printed. Text that belongs to none stands under itself."""
    found: dict[str, Any] = {}
    scope, field, table = found, "", None
    for line in text.splitlines():
        cells = re.split(r" {2,}", line.strip())
        if not line:
            field, table = "", None
        elif not line.strip():
            continue  # inside of a table
        elif match := _BLOCK.match(line):
            scope = found.setdefault("invocations", {})[match["id"]] = {}
        elif match := _ENTRY.match(line):
            add(found.setdefault("journal", Ordered()), match["what"].strip(), match["number"])
        elif table is not None:
            table.row(line)
        elif len(cells) > 1 and all(map(_HEADING.fullmatch, cells)):
            table = Table(line, cells)
            add(found, "rows", table.rows)
        elif match := _FIELD.fullmatch(line.rstrip()):
            field = match["name"]
            scope[field] = match["value"]
        elif field and line.startswith(" " * 10):
            scope[field] += f"\n{line.strip()}"
        else:
            scope, field = found, ""
            add(found.setdefault("text", {}), line.strip(), "printed")
    by_themselves = [id for id, shown in found.get("invocations", {}).items() if "Invoked by" not in shown]
    return {**found, "order": ", ".join(by_themselves)}


class Table:
    """A table, by row and column. What stands in a row without a name belongs to the row above."""

    def __init__(self, heading: str, names: list[str]) -> None:
        starts = [heading.index(name) for name in names]
        if starts[0] > 1:
            names, starts = ["", *names], [0, *starts]
        self._columns = list(zip(names, starts, [*starts[1:], None], strict=True))
        self.rows: dict[str, Any] = {}
        self._last: dict[str, str] = {}

    def row(self, line: str) -> None:
        """Read a line of it."""
        slices = {name: line[start:end].rstrip() for name, start, end in self._columns}
        cells = {name: text.strip() for name, text in slices.items()}
        key = cells.get("ID") or cells.get("NAME") or next(iter(cells.values()))
        if key:
            self._last = {}
            add(self.rows, key, self._last)
        for name, text in slices.items():
            first, _, rest = text.strip().partition("  ")
            if text.startswith("  "):  # a column without a heading
                first, rest = "", text
            for column, found in ((name, first), ("more", rest.strip())):
                if found:
                    there = self._last.get(column)
                    self._last[column] = found if there is None else ", ".join(sorted([*there.split(", "), found]))


def add(fields: dict[str, Any], name: str, value: Any) -> None:
    """Set a field; where there is one of that name, under a name with its number."""
    number, free = 1, name
    while free in fields:
        number += 1
        free = f"{name} ({number})"
    fields[free] = value
