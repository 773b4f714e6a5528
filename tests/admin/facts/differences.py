"""Two answers compared field by field, and the table of the differences that have a reason."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from tests.admin.facts.printed import Ordered, add

TABLE = Path(__file__).parents[3] / "docs" / "differences.md"
#: What stands where one side has nothing.
NOTHING = "–"  # noqa: RUF001
#: What names an item of a list, wherever it stands there.
_NAMES = ("name", "id", "key", "column_name", "invocation_id", "old_invocation_id")
_ID = re.compile(r"\b(inv_1\w{33}|sub_1\w{22})\b")
_FORMS = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+ \+00:00|\w{3} \d\d? \w{3} \d{4} [\d:]+ \+00:00"), "TIME"),
    (re.compile(r"(\d+ (hours?|minutes?|seconds?|days?|ms)\b(, | and )?)+"), "SPAN"),
    (re.compile(r"\btook [\d.]+(ms|µs|s)\b"), "took SPAN"),
    (re.compile(r"\bnow ago\b"), "SPAN ago"),
    (re.compile(r"\brestate-sdk-python/[\d.]+|\bdurable/[\d.]+ python/[\d.]+"), "SDK"),
    (re.compile(r"\bdp_\w+"), "DEPLOYMENT"),
    (re.compile(r"\b01[0-9A-HJKMNP-TV-Z]{24}\b"), "ULID"),
    (re.compile(r"http://127\.0\.0\.1:\d+(/admin|/ingress)?/?"), "URL"),
)


class Difference(NamedTuple):
    """One field that is not the same on both sides."""

    asked: str
    where: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"| {' | '.join(cell(text) for text in self)} | ? |"


class Line(NamedTuple):
    """A line of the table: patterns, in which `*` stands for anything."""

    asked: str
    where: str
    theirs: str
    ours: str
    why: str

    def covers(self, difference: Difference) -> bool:
        """Whether this is the reason."""
        return all(fits(pattern, text) for pattern, text in zip(self, difference, strict=False))


def cell(text: str) -> str:
    """A text as it stands in a cell of the table."""
    if text == NOTHING:
        return text
    text = text.replace("|", "\\|").replace("\n", "⏎")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def fits(pattern: str, text: str) -> bool:
    """Whether a pattern of the table covers a text."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def lines(table: Path = TABLE) -> list[Line]:
    """The lines of the table."""
    found = []
    for row in table.read_text("utf-8").splitlines():
        cells = [text.strip() for text in re.split(r"(?<!\\)\|", row)[1:-1]]
        if len(cells) == 5 and cells[0].startswith("`"):
            asked, where, theirs, ours = map(_plain, cells[:4])
            found.append(Line(asked, where, theirs, ours, cells[4]))
    return found


def _plain(text: str) -> str:
    """What `cell` made a cell of."""
    return re.sub(r"^(`+) ?(.*?) ?\1$", r"\2", text).replace("\\|", "|").replace("⏎", "\n")


def differences(asked: str, theirs: Any, ours: Any) -> Iterator[Difference]:
    """Every field that is missing on one side, or has another value."""
    left, right = flat(theirs), flat(ours)
    for where in [*left, *(name for name in right if name not in left)]:
        one, other = left.get(where, NOTHING), right.get(where, NOTHING)
        if one != other:
            yield Difference(asked, where, one, other)
    for where, (one, other) in _orders("", theirs, ours):
        yield Difference(asked, f"{where} in order".strip(), one, other)


def flat(value: Any, where: str = "") -> dict[str, str]:
    """Fields by path, as text."""
    if isinstance(value, Mapping) and value:
        parts = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        parts = [(str(name), inner) for name, inner in keyed(value).items()]
    else:
        return {where: text(value)}
    found: dict[str, str] = {}
    for name, inner in parts:
        found |= flat(inner, f"{where}.{name}" if where else name)
    return found


def text(value: Any) -> str:
    """A value, so that another type is another text."""
    if value is None:
        return "null"
    return f'"{value}"' if isinstance(value, str) else str(value)


def keyed(items: Sequence[Any]) -> dict[str, Any]:
    """A list by what names its items, or else by their numbers."""
    found: dict[str, Any] = {}
    numbers = count()
    for item in items:
        names = (
            [item]
            if isinstance(item, str)
            else [item[name] for name in _NAMES if name in item]
            if isinstance(item, Mapping)
            else []
        )
        add(found, str(names[0]) if names else str(next(numbers)), item)
    return found


def _orders(where: str, theirs: Any, ours: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Where both have the same fields in another order, and order counts."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        return
    common = [[name for name in one if name in other] for one, other in ((theirs, ours), (ours, theirs))]
    if isinstance(theirs, Ordered) and common[0] != common[1]:
        yield where, (", ".join(common[0]), ", ".join(common[1]))
    for name in common[0]:
        yield from _orders(f"{where}.{name}" if where else name, theirs[name], ours[name])


def known(value: Any, names: Mapping[str, str]) -> Any:
    """A value with ids replaced by what they are called on both sides, and what must differ by its form."""
    if isinstance(value, str):
        value = _ID.sub(lambda id: names.get(id[0], "INVOCATION" if id[0][0] == "i" else "SUBSCRIPTION"), value)
        for form, word in _FORMS:
            value = form.sub(word, value)
        return value
    if isinstance(value, Mapping):
        renamed = type(value)()
        for name, inner in value.items():
            add(renamed, known(name, names), known(inner, names))  # type: ignore[arg-type]
        return renamed
    if isinstance(value, int) and 10**12 < value < 10**13:
        return "TIME"  # in ms since the epoch
    if isinstance(value, list | tuple):
        return [known(inner, names) for inner in value]
    return value
