"""What a view is made of."""

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

    def view(self, database: str, *, show_payloads: bool) -> str:
        """The statement that creates it for one connection."""
        columns = ", ".join(
            f'{"NULL" if column.payload and not show_payloads else column.value} AS "{column.name}"'
            for column in self.columns
        )
        return f"CREATE TEMP VIEW {self.name} AS SELECT {columns} FROM {self.source}".replace("{db}", database)


def shown(blob: str) -> str:
    """A value, unless it is too long."""
    return f"CASE WHEN length({blob}) <= {SHOWN_BYTES} THEN {blob} END"


def time(ms: str) -> str:
    """A moment in ms since the epoch, as text."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {ms} / 1000.0, 'unixepoch')"
