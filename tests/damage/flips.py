"""One bit flipped, or an end cut off, in a database or its WAL: a named error, or an invocation listed as damaged.

A flip in a row that nobody can tell (SQLite itself has no checksums) may also leave everything as it was.
"""

import random
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.damage.support import live

#: The files of one database, by the ends of their names.
ENDS = ("", "-wal")


class Harm(NamedTuple):
    """One damage of one file."""

    end: str
    #: "flip" or "cut".
    how: str
    place: int
    bit: int = 0

    def do(self, path: Path) -> None:
        """Damage it."""
        file = path.with_name(path.name + self.end)
        data = bytearray(file.read_bytes())
        if self.how == "cut":
            del data[self.place :]
        else:
            data[self.place] ^= 1 << self.bit
        file.write_bytes(bytes(data))


def harm(seed: int, sound: Path) -> Harm:
    """The damage with this number."""
    dice = random.Random(seed)
    end = dice.choice([end for end in ENDS if sound.with_name(sound.name + end).exists()])
    size = sound.with_name(sound.name + end).stat().st_size
    if dice.random() < 0.1:
        return Harm(end, "cut", dice.randrange(size))
    return Harm(end, "flip", dice.randrange(size), dice.randrange(8))


def suffer(seed: int, sound: Path) -> tuple[Harm, str]:
    """Damage a copy and see how it fares. Raises `AssertionError` with the line that does it again."""
    damage = harm(seed, sound)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "durable.db"
        for end in ENDS:
            if sound.with_name(sound.name + end).exists():
                shutil.copy(sound.with_name(sound.name + end), path.with_name(path.name + end))
        damage.do(path)
        try:
            return damage, live(path, None)
        except BaseException as error:
            error.add_note(f"{damage}: python -m tests.damage --seed {seed}")
            raise
