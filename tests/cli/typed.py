"""Commands as they are typed, in this process, and what they print as it is compared."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from durable.cli.app import run

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")
_ID = re.compile(r"inv_1[0-9A-Za-z]{33}")
_SHORT_ID = re.compile(r"inv_1[0-9A-Za-z]{7}…[0-9A-Za-z]{6}")
_WHEN = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)")
_AGO = re.compile(r"\b(\d+(\.\d+)?(d|h|m|s|ms)( \d+(h|m|s|ms))?)(?= ago\b)|(?<=in )\d+(d|h|m|s)( \d+(h|m|s|ms))?")
_TOOK = re.compile(r"(?<=  )\d+(\.\d+)?(m?s|m \d+s|h \d+m|m|h)\b(?! \w+ ago)|(?<= )\d+(\.\d+)?m?s$", re.MULTILINE)
_SPACES = re.compile(r"(?<=\S) {2,}")
_SQLITE = re.compile(r"\(SQLite says: [^)]*\)")
#: What is left of the last column of a table, where it is cut: how much depends on the widths of the others.
_CUT = re.compile(r"  (?!.*  )\S.*…$", re.MULTILINE)
_PID = re.compile(r"pid \d+")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")

_VARIES = (
    (_WHEN, "WHEN"), (_AGO, "T"), (_PID, "pid N"), (_SQLITE, "(SQLite says: …)"), (_CUT, "  …"), (_DATE, "DATE"),
    (_TOOK, "T"),
)  # fmt: skip


class Typed(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]


class _Bytes(io.TextIOWrapper):
    """A stream of text that has the bytes, too."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", newline="\n", write_through=True)

    def text(self) -> str:
        self.flush()
        data: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return data.decode()


def typed(*arguments: object) -> Typed:
    """Run a command here, as in a pipe."""
    out, err = _Bytes(), _Bytes()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(one) for one in arguments])
    return Typed(code, out.text(), err.text())


class Names:
    """Gives ids names, ID1, ID2, … in the order in which they are first seen, unless they are known by others.

    Whatever else varies from run to run has one word each: WHEN, T.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        #: What a name stands for, in commands and in what they print.
        self.known = dict(known)
        self._ids = {value: name for name, value in known.items() if value.startswith("inv_1")}
        self._new = 0

    def stable(self, text: str) -> str:
        """The text without anything that varies."""
        for name, value in self.known.items():
            if value not in self._ids:
                text = text.replace(value, name)
        text = _ID.sub(self._name, text)
        short = {f"{id[:12]}…{id[-6:]}": name for id, name in self._ids.items()}
        text = _SHORT_ID.sub(lambda match: f"{short.get(match[0], 'ID')}…", text)
        for pattern, word in _VARIES:
            text = pattern.sub(word, text)
        return "".join(f"{_SPACES.sub('  ', line).rstrip()}\n" for line in text.splitlines())

    def _name(self, match: "re.Match[str]") -> str:
        if match[0] not in self._ids:
            self._new += 1
            self._ids[match[0]] = f"ID{self._new}"
        return self._ids[match[0]]

    def arguments(self, line: str) -> list[str]:
        """What a line of a transcript means."""
        return [
            re.sub(r"[A-Z]{2,}\d*", lambda match: self.known.get(match[0], match[0]), word)
            for word in shlex.split(line)
        ]


class Command(NamedTuple):
    """One of a transcript: as it is written there, and what it printed."""

    line: str
    told: str


def commands(transcript: str) -> Iterator[Command]:
    """`$ durable …`, and everything up to the next one."""
    for part in re.split(r"^\$ durable", transcript, flags=re.MULTILINE)[1:]:
        line, _, told = part.partition("\n")
        yield Command(line.strip(), told)


def told(typed: Typed) -> str:
    """What is in a transcript after a command: its output, what went to stderr, and its code."""
    err = "".join(f"! {line}\n" for line in typed.err.splitlines())
    code = f"[{typed.code}]\n" if typed.code else ""
    return f"{typed.out}{err}{code}"
