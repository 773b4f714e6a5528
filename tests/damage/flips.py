"""One bit flipped, or an end cut off, in a database or its WAL: a named error, or an invocation listed as damaged.

A flip in a row that nobody can tell (SQLite itself has no checksums) may also leave everything as it was.
"""

import random
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.damage.support import ENDS, killed, live


class Harm(NamedTuple):
    """One damage of one file."""

    #: Of an engine that was killed, which leaves a WAL; or of one that was closed.
    was_killed: bool
    end: str
    #: "flip" or "cut".
    how: str
    place: int
    bit: int = 0

    def do(self, file: Path) -> None:
        """Damage it."""
        data = bytearray(file.read_bytes())
        if self.how == "cut":
            del data[self.place :]
        else:
            data[self.place] ^= 1 << self.bit
        file.write_bytes(bytes(data))


def beside(path: Path, end: str) -> Path:
    """One of a database's files."""
    return path.with_name(path.name + end)


def harm(seed: int, sound: Path) -> Harm:
    """The damage with this number. Most bits that are flipped are not in empty space."""
    dice = random.Random(seed)
    was_killed = dice.random() < 0.4
    end = "-wal" if was_killed and dice.random() < 0.9 else ""
    data = beside(killed(sound) if was_killed else sound, end).read_bytes()
    if dice.random() < 0.1:
        return Harm(was_killed, end, "cut", dice.randrange(len(data)))
    place = dice.randrange(len(data))
    if dice.random() < 0.9:
        place = dice.choice([place for place, byte in enumerate(data) if byte])
    return Harm(was_killed, end, "flip", place, dice.randrange(8))


def suffer(seed: int, sound: Path) -> tuple[Harm, str]:
    """Damage a copy and see how it fares. Raises `AssertionError` with the line that does it again."""
    damage = harm(seed, sound)
    source = killed(sound) if damage.was_killed else sound
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "durable.db"
        for end in ENDS:
            if beside(source, end).exists():
                shutil.copy(beside(source, end), beside(path, end))
        damage.do(beside(path, damage.end))
        try:
            return damage, live(path, None, earlier=damage.end == "-wal")
        except BaseException as error:
            error.add_note(f"{damage}: python -m tests.damage --seed {seed}")
            raise
