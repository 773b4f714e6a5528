"""Where the power is cut, and what is on the disk then."""

import json
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.powerloss.disk import Disk, Files
from tests.powerloss.oracle import Facts, Mark
from tests.powerloss.plants import digest_of_nothing
from tests.powerloss.trace import Note, Op

#: Lives that end with a clean close: all that was committed is durable then, in NORMAL too.
CLOSED = frozenset({"work", "drain", "leave", "read", "restore"})
#: No file, or one without tables.
EMPTY = digest_of_nothing()
#: Marks after which somebody knows something.
TELLING = frozenset({"accepted", "told", "counted", "set", "purged", "completed", "backed-up", "restored"})


class Image(NamedTuple):
    """A disk after a cut."""

    number: int
    #: The cut comes before this note.
    position: int
    #: In which kind of life.
    life: str
    files: Files
    #: The cut has left other files than a program saw.
    damaged: bool
    facts: Facts
    #: In NORMAL, digests of what may be there: each commit since the last clean close, and the one being made.
    commits: list[str]


def mark_of(note: Note) -> Mark:
    """What a mark says."""
    mark: Mark = json.loads(note.first)
    return mark


def cuts(notes: Sequence[Note], seed: int, count: int) -> list[int]:
    """Moments at which the power is cut: a life, then a sync in it, or something told, or just any."""
    starts = [at for at, note in enumerate(notes) if note.op is Op.MARK and mark_of(note)[0] == "life"]
    syncs = [at for at, note in enumerate(notes) if note.op is Op.SYNC]
    telling = [at + 1 for at, note in enumerate(notes) if note.op is Op.MARK and mark_of(note)[0] in TELLING]
    exposed = list(told_before_sync(notes))
    found = []
    for number in range(count):
        chance = random.Random(f"{seed}/cut/{number}")
        life = chance.randrange(len(starts))
        low, high = starts[life], [*starts, len(notes)][life + 1]
        moments = chance.choice((syncs, syncs, telling, exposed, exposed, range(len(notes))))
        here = moments[bisect_right(moments, low) : bisect_right(moments, high - 1)] or range(low, high)
        found.append(min(len(notes), chance.choice(here) + (moments is syncs and chance.random() < 0.2)))
    return found


def told_before_sync(notes: Sequence[Note]) -> Iterator[int]:
    """Moments right before a sync, after something was told since the one before."""
    told = False
    for at, note in enumerate(notes):
        if note.op is Op.MARK:
            told = told or mark_of(note)[0] in TELLING
        elif note.op is Op.SYNC:
            if told:
                yield at
            told = False


def images(notes: Sequence[Note], seed: int, count: int, only: int | None = None) -> Iterator[Image]:
    """So many images of a trace, in the order of their cuts; each is always the same."""
    moments = sorted((at, number) for number, at in enumerate(cuts(notes, seed, count)))
    disk, facts, position, life = Disk(), Facts(), 0, ""
    commits = [EMPTY]
    for at, number in moments:
        for note in notes[position:at]:
            disk.take(note)
            if note.op is Op.MARK:
                mark = mark_of(note)
                facts.take(mark)
                match mark:
                    case ["life", kind]:
                        commits = commits[-1:] if life in CLOSED else commits
                        life = kind
                    case ["commit", digest]:
                        commits.append(digest)
                    case ["restoring", _]:
                        commits = []
        position = at
        if only is None or number == only:
            files = disk.after_cut(random.Random(f"{seed}/image/{number}"))
            marks = (mark_of(note) for note in notes[at:] if note.op is Op.MARK)
            pending = next(([mark[1]] for mark in marks if mark[0] == "commit"), [])
            yield Image(number, at, life, files, files != disk.now(), facts.copy(), [*commits, *pending])


def checkpoints(notes: Sequence[Note]) -> int:
    """How often a WAL was begun anew by an engine that had written to one before."""
    count = 0
    names: dict[int, bytes] = {}
    begun = False
    for note in notes:
        if note.op is Op.OPEN:
            names[note.file] = note.first
        elif note.op is Op.MARK and mark_of(note)[0] == "life":
            begun = False
        elif note.op is Op.WRITE and names[note.file].endswith(b"-wal"):
            count += begun and note.number == 0
            begun = True
    return count


def write(files: Files, folder: Path) -> None:
    """Put an image into a new folder."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
