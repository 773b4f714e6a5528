"""Each column of each table is set to nonsense, one after the other: whatever it is, nobody else is troubled by it.

The columns come from the schema, so that a new one is tried by itself.
"""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from durable.store.format import migrations
from tests.damage.support import EMPTY, live, make

#: What a column may be set to that was never in it.
NONSENSE: tuple[Any, ...] = ("nonsense", b"\x00\xff", None, -5, 2**62 + 1, 0.5)
#: Tables that no single invocation owns; and what may happen where they are damaged.
SHARED = {"meta", "settings", "services", "subscriptions", "positions", "clusters", "answered"}


def schema() -> list[tuple[str, str]]:
    """Every table and column there is."""
    database = sqlite3.connect(":memory:")
    for _, script in migrations():
        database.executescript(script)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    tables.remove(EMPTY)
    found = [(table, column[1]) for table in tables for column in database.execute(f"PRAGMA table_info({table})")]
    database.close()
    return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "durable.db"
    make(path)
    return path


def test_a_sound_file_is_whole(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    shutil.copy(sound, path)
    assert live(path, set()) == "whole"


def rows_of(database: sqlite3.Connection, table: str) -> list[tuple[list[str], tuple[Any, ...], set[int]]]:
    """Rows to damage: their primary key, its values, and whose they are."""
    info = database.execute(f"PRAGMA table_info({table})").fetchall()
    names = [column[1] for column in info]
    key = [column[1] for column in info if column[5]]
    chosen = []
    for row in database.execute(f"SELECT * FROM {table}").fetchall():
        named = dict(zip(names, row, strict=True))
        if table in SHARED:
            owners: set[int] = set()
        elif table in ("_state", "promises"):
            owners = {6, 7} if named["key"] == "a" else {8} if named["key"] == "b" else set()
            owners = {10, 11} if table == "promises" else owners
        else:
            owners = {named["invocation"] if table == "journal" else named["seq"]}
        chosen.append((key, tuple(named[name] for name in key), owners))
    return chosen[:: max(1, len(chosen) // 3)][:3] if table == "_invocations" else chosen[:1]


@pytest.mark.parametrize(("table", "column"), schema(), ids=lambda name: str(name))
def test_nonsense_in_a_column_troubles_only_whose_row_it_is(
    sound: Path, tmp_path: Path, table: str, column: str
) -> None:
    path = tmp_path / "durable.db"
    with sqlite3.connect(sound) as source:
        targets = rows_of(source, table)
    source.close()
    tried = 0
    for number, (key, place, owners) in enumerate(targets):
        for nonsense in NONSENSE if number == 0 else NONSENSE[:1]:
            for left in tmp_path.iterdir():
                left.unlink()
            shutil.copy(sound, path)
            database = sqlite3.connect(path)
            where = " AND ".join(f"{name} = ?" for name in key)
            try:
                changed = database.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (nonsense, *place))
                database.commit()
            except sqlite3.Error:
                continue  # SQLite itself refuses it there
            finally:
                database.close()
            assert changed.rowcount == 1
            tried += 1
            try:
                fate = live(path, owners)
            except Exception as error:
                error.add_note(f"{table}.{column} = {nonsense!r} where {dict(zip(key, place, strict=True))}")
                raise
            refused = fate.startswith("refused")
            assert not refused or table == "settings", f"{table}.{column} = {nonsense!r}: {fate}"
            assert not fate.startswith("stopped"), f"{table}.{column} = {nonsense!r}: {fate}"
    assert tried, "nothing was tried"


def test_a_kept_signal_whose_number_is_damaged_reaches_its_invocation(sound: Path, tmp_path: Path) -> None:
    """Its checksum knows the number: without that it would be lost, and nobody be told."""
    path = tmp_path / "durable.db"
    shutil.copy(sound, path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE signals SET seq = -119")
    database.close()
    assert live(path, set()) == "whole"
