"""Codecs whose keys follow from their ids, and what a test does with a file between two engines."""

import sqlite3
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from durable.encryption import AesGcm
from durable.store.checksums import checksum
from durable.store.rows import FIXED_NAMES, _asked


def keyed(*ids: str, wrong: bool = False) -> AesGcm:
    """A codec with these keys, the last of which encodes; `wrong`: with other ones under the same ids."""
    return AesGcm({id: sha256(f"{id} {wrong}".encode()).digest() for id in ids})


class Rotating:
    """A codec with the keys k1 and k2, which may encode with the other one at any time."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.key_ids = ("k1", "k2")
        self._all = {id: keyed(*sorted(self.key_ids, key=id.__eq__)) for id in self.key_ids}

    def encode(self, value: bytes, key_id: str, place: bytes) -> bytes:
        return self._all[key_id].encode(value, key_id, place)

    def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
        return self._all[key_id].decode(data, key_id, place)


class Picky:
    """A codec that only turns bytes round, and refuses what contains a word."""

    key_id = "p1"
    key_ids = ("p1",)

    def __init__(self, word: bytes) -> None:
        self.word = word

    def encode(self, value: bytes, key_id: str, place: bytes) -> bytes:
        if self.word in value:
            raise ValueError("it says no")
        return value[::-1]

    def decode(self, data: bytes, key_id: str, place: bytes) -> bytes:
        return data[::-1]


def forge(path: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    """Change a file as somebody would who can compute checksums."""
    with sqlite3.connect(path) as database:
        change(database)
    database.close()


def forge_input(database: sqlite3.Connection, seq: int, input: bytes) -> None:
    """Another input, with a checksum that fits."""
    names = ", ".join(FIXED_NAMES)
    row = list(database.execute(f"SELECT {names} FROM _invocations WHERE seq = ?", (seq,)).fetchone())
    row[FIXED_NAMES.index("input")] = input
    fits = checksum(_asked(row[:-1]), input)
    database.execute("UPDATE _invocations SET input = ?, checksum = ? WHERE seq = ?", (input, fits, seq))


def forge_state(database: sqlite3.Connection, place: tuple[str, str, str], value: bytes) -> None:
    """Another state value, with a checksum that fits."""
    sql = "UPDATE _state SET value = ?, checksum = ? WHERE (service, key, name) = (?, ?, ?)"
    database.execute(sql, (value, checksum(place, value), *place))


def one(database: sqlite3.Connection, sql: str, *values: Any) -> Any:
    """The one value that a statement gives."""
    [[found]] = database.execute(sql, values).fetchall()
    return found
