"""Checksums of rows: a flipped bit is a damaged row, never another value.

A row's checksum has two halves. The upper 31 bits are over what the row is about (whose it is, which entry, of what
kind, in which order …), the lower 32 bits over its value. So a row that is read without its value can be checked, a
value that landed in another row is found, and a damaged value still belongs to its name. Rows that were written
before there were checksums have none: of those the types are looked at.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from durable.core.journal import Row

_encode = msgspec.msgpack.Encoder().encode
_UPPER, _LOWER = 0x7FFFFFFF, 0xFFFFFFFF
#: The lower half where there is no value.
_NO_VALUE = _LOWER


def checksum(about: Sequence[Any], value: bytes | None = None) -> int:
    """The checksum of a row with this value. Booleans differ from their integers here."""
    try:
        return (crc32(_encode(about)) & _UPPER) << 32 | (_NO_VALUE if value is None else crc32(value))
    except (TypeError, ValueError):  # SQLite will not take it either, and say so
        return 0


def with_checksums(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    """Journal rows as they are stored: the hot path, so everything is done here. (`at` is where the sum begins.)"""
    try:
        return [
            (*row, (crc32(_encode(row[:9]), row[10] & _LOWER) & _UPPER) << 32
             | (_NO_VALUE if row[9] is None else crc32(row[9])))
            for row in rows
        ]  # fmt: skip
    except (TypeError, ValueError):
        return [(*row, 0) for row in rows]


def upper(about: Sequence[Any], begin: int = 0) -> int:
    """The upper half alone. Raises `ValueError` for text that is not Unicode."""
    return crc32(_encode(about), begin & _LOWER) & _UPPER


def differs(
    stored: object, about: Sequence[Any], value: Any = None, *, begin: Any = 0, partly: bool = False
) -> Literal["", "row", "value"]:
    """Which half of a row is not what was written; "" if the row is whole. `partly`: its value was not read."""
    if not isinstance(stored, int):
        return "row"
    try:
        if stored >> 32 != upper(about, begin):
            return "row"
        if partly or stored & _LOWER == (_NO_VALUE if value is None else crc32(value)):
            return ""
    except (TypeError, ValueError):  # text that is no UTF-8, a value that is no bytes
        return "row" if isinstance(value, bytes | None) else "value"
    return "value"


class Column(NamedTuple):
    """What a column holds."""

    name: str
    type: type[int] | type[str] | type[bytes]
    nullable: bool = False


def columns(text: str) -> tuple[Column, ...]:
    """Columns from their names: `name` is an integer, `name$` text, `name#` a blob; `name?` may be NULL."""
    kinds: dict[str, type[Any]] = {"$": str, "#": bytes}
    found = []
    for word in text.split():
        nullable = word.endswith("?")
        word = word.rstrip("?")
        kind = kinds.get(word[-1], int)
        found.append(Column(word.rstrip("$#"), kind, nullable))
    return tuple(found)


def complaint(table: str, layout: Iterable[Column], row: Sequence[Any]) -> str:
    """Which column holds something impossible; "" if none does."""
    for column, value in zip(layout, row, strict=True):
        if value is None:
            fits = column.nullable
        else:
            fits = isinstance(value, column.type) and not isinstance(value, bool)
            if fits and column.type is str and not value.isascii():
                fits = value.isprintable() or value.encode("utf-8", "replace").decode() == value
        if not fits:
            shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
            return f"{table}.{column.name} is {shown}"
    return ""
