"""What shim.c has noted: changes to files, and the marks between them."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<IIQqII")
_MAGIC = 0x31574F50


class Op(IntEnum):
    """As in shim.c."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    UNLINK = 5
    RENAME = 6
    LINK = 7
    MARK = 8
    FAULT = 9


CREATED, EMPTIED, FOLDER = 1, 2, 4


class Note(NamedTuple):
    """One note."""

    op: Op
    #: One opening of a file: the same number from there on, whatever the file is called meanwhile. 0 is none.
    file: int
    #: Where it was written, to what size it was cut, how it was opened (CREATED, EMPTIED, FOLDER), what has failed.
    number: int
    #: What was written; a name; a mark.
    first: bytes
    #: The new name.
    second: bytes


def notes(data: bytes) -> Iterator[Note]:
    """The notes of a trace, in order. A process killed while it wrote the last one has not done that one."""
    at = 0
    while at + _HEAD.size <= len(data):
        magic, op, file, number, first, second = _HEAD.unpack_from(data, at)
        assert magic == _MAGIC, f"the trace is damaged at {at}"
        start = at + _HEAD.size
        at = start + first + second
        if at > len(data):
            return
        yield Note(Op(op), file, number, data[start : start + first], data[start + first : at])


def read(path: Path) -> list[Note]:
    """All notes of a file."""
    return list(notes(path.read_bytes()))
