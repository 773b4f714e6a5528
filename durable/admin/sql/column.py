"""What a view is made of."""

import re
from typing import Final, Literal

import msgspec

Kind = Literal["text", "int", "bool", "binary"]
#: Values that are longer are null: how much a statement has in memory depends on how long one can be.
SHOWN_BYTES: Final = 128 * 1024


class Column(msgspec.Struct, frozen=True):
    """A column of a view."""

    name: str
    #: SQL over the view's source.
    value: str = "NULL"
    kind: Kind = "text"
    #: Whether it may hold what users put in: null where payloads are withheld.
    payload: bool = False


class Table(msgspec.Struct, frozen=True):
    """A view."""

    name: str
    columns: tuple[Column, ...]
    #: What follows FROM; "{db}" is the engine's database.
    source: str

    @property
    def shown(self) -> tuple[Column, ...]:
        """Its columns, without those that are in no result."""
        return tuple(column for column in self.columns if not column.name.startswith("_"))

    def view(self, database: str, *, show_payloads: bool, decode: str | None = None) -> str:
        """The statement that creates it for one connection. `decode`: the function by which values are decoded."""
        columns = ", ".join(
            f'{"NULL" if column.payload and not show_payloads else column.value} AS "{column.name}"'
            for column in self.columns
        )
        view = f"CREATE TEMP VIEW {self.name} AS SELECT {columns} FROM {self.source}".replace("{db}", database)
        return _CLEAR.sub(r"\2" if decode is None else rf"{decode}(\1, \2)", view)


#: A value that may be encoded, and where it belongs.
_CLEAR = re.compile("«([^«»¦]*)¦([^«»¦]*)»")


def clear(place: str, value: str) -> str:
    """A value, decoded where there is a codec. `place` is SQL: what it is, and the columns that its place is of."""
    return f"«{place}¦{value}»"


def in_clear(text: str) -> str:
    """The same SQL where there is no codec."""
    return _CLEAR.sub(r"\2", text)


def shown(place: str, blob: str) -> str:
    """A value, unless it is too long."""
    return f"CASE WHEN length({blob}) <= {SHOWN_BYTES} THEN {clear(place, blob)} END"


def time(ms: str) -> str:
    """A moment in ms since the epoch, as text."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {ms} / 1000.0, 'unixepoch')"
