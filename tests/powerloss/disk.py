"""What a disk may hold after the power was cut. Pure: notes go in, files come out.

A file holds what was written before its last sync. Of what was written since, any part may be there: writes in any
subset whatever their order, single sectors of a write, a size without its content. Names are what the folder was told
before its last sync; of what was created, unlinked and renamed since, any subset may have happened, but a rename as a
whole. So a file that was synced may be missing, where its folder was not.

After a sync that failed, programs go on seeing what was written before it, but no later sync makes it durable: many
systems forget then that it is not. Only what is written once more is.
"""

import os
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

from tests.powerloss.trace import CREATED, EMPTIED, FOLDER, Note, Op

SECTOR = 512

#: A write at an offset, or (without data) a size that was set.
Change = tuple[int, bytes | None]
#: The name that is gone, the name that is there, and the file that has it: `(None, name, file)` is a new name.
Naming = tuple[str | None, str | None, "File"]
Files = dict[str, bytes]
#: How a change came through the cut.
Fate = Literal["whole", "lost", "torn", "grown"]


class File:
    """A file, whatever it is called."""

    def __init__(self, content: bytes = b"") -> None:
        #: What is there, whatever happens.
        self.synced = bytearray(content)
        #: What was done since, in order.
        self.unsynced: list[Change] = []
        #: Writes that a sync has failed for, and that were not written once more.
        self.forgotten: list[Change] = []

    def sync(self) -> None:
        for change in self.unsynced:
            apply(self.synced, change)
            self.forgotten = [rest for one in self.forgotten for rest in without(one, change)]
        self.unsynced.clear()

    def sync_failed(self) -> None:
        self.forgotten += [change for change in self.unsynced if change[1] is not None]
        self.unsynced = [change for change in self.unsynced if change[1] is None]

    def now(self) -> bytes:
        """What a program that reads it sees."""
        content = bytearray(self.synced)
        for change in [*self.forgotten, *self.unsynced]:
            apply(content, change)
        return bytes(content)

    def after_cut(self, chance: random.Random, mood: float) -> bytes:
        """What may be there after a cut. `mood` is how much of what was not synced is there: 0 nothing, 1 all."""
        content = bytearray(self.synced)
        for change in [*self.forgotten, *self.unsynced]:
            survive(content, change, fate_of(chance, mood), chance)
        return bytes(content)


def without(change: Change, later: Change) -> list[Change]:
    """What is left of a write after a later change of the same file."""
    (at, data), (start, new) = change, later
    assert data is not None
    end = start + len(new) if new is not None else at + len(data)
    before, after = data[: max(0, start - at)], data[max(0, end - at) :]
    return [(where, rest) for where, rest in ((at, before), (max(at, end), after)) if rest]


def apply(content: bytearray, change: Change) -> None:
    at, data = change
    if data is None:
        if at < len(content):
            del content[at:]
        else:
            content.extend(bytes(at - len(content)))
    else:
        if at > len(content):
            content.extend(bytes(at - len(content)))
        content[at : at + len(data)] = data


def fate_of(chance: random.Random, mood: float) -> Fate:
    if chance.random() < 0.12:
        return "torn" if chance.random() < 0.7 else "grown"
    return "whole" if chance.random() < mood else "lost"


def survive(content: bytearray, change: Change, fate: Fate, chance: random.Random) -> None:
    """Do to the content what the cut has left of a change."""
    at, data = change
    if fate == "whole":
        apply(content, change)
    elif fate == "grown" and data is not None:  # the size was kept, the data was not
        apply(content, (max(len(content), at + len(data)), None))
    elif fate == "torn" and data is not None:
        for start, piece in sectors(at, data):
            if chance.random() < 0.5:
                apply(content, (start, piece))


def sectors(at: int, data: bytes) -> list[tuple[int, bytes]]:
    """A write, cut where sectors of the file end."""
    edges = [at, *range((at // SECTOR + 1) * SECTOR, at + len(data), SECTOR), at + len(data)]
    return [(one, data[one - at : two - at]) for one, two in pairwise(edges)]


class Disk:
    """The files of one folder, as notes say."""

    def __init__(self, files: Files | None = None) -> None:
        contents = {name: File(content) for name, content in (files or {}).items()}
        #: Names as they are for sure, and as programs see them.
        self.synced: dict[str, File] = dict(contents)
        self.names: dict[str, File] = dict(contents)
        #: What was done to names since their folder was synced.
        self.unsynced: list[Naming] = []
        self._opened: dict[int, File] = {}
        self._folders: dict[int, str] = {}

    def feed(self, notes: Iterable[Note]) -> None:
        for note in notes:
            self.take(note)

    def take(self, note: Note) -> None:
        """One note, in the order of the trace."""
        match note.op:
            case Op.WRITE:
                self._opened[note.file].unsynced.append((note.number, note.first))
            case Op.TRUNCATE:
                self._opened[note.file].unsynced.append((note.number, None))
            case Op.SYNC if note.file in self._folders:
                self._sync_folder(self._folders[note.file])
            case Op.SYNC:
                self._opened[note.file].sync()
            case Op.OPEN if note.number & FOLDER:
                self._folders[note.file] = note.first.decode()
            case Op.OPEN:
                self._open(note.file, note.first.decode(), note.number)
            case Op.UNLINK:
                self._name(note.first.decode(), None)
            case Op.RENAME:
                self._name(note.first.decode(), note.second.decode())
            case Op.LINK:
                self._name(None, note.second.decode(), self.names[note.first.decode()])
            case Op.FAULT if note.number == Op.SYNC and note.file in self._opened:
                self._opened[note.file].sync_failed()
            case Op.MARK | Op.FAULT:
                pass

    def _open(self, number: int, name: str, how: int) -> None:
        if name not in self.names:
            if not how & CREATED:
                return  # a name that was gone when the kernel was asked for it: opened a moment before its unlink
            self._name(None, name, File())
        file = self._opened[number] = self.names[name]
        if how & EMPTIED:
            file.unsynced.append((0, None))

    def _name(self, old: str | None, new: str | None, file: File | None = None) -> None:
        file = file or self.names[old or ""]
        self.unsynced.append((old, new, file))
        rename(self.names, (old, new, file))

    def _sync_folder(self, folder: str) -> None:
        kept: list[Naming] = []
        for naming in self.unsynced:
            old, new, _ = naming
            if folder in {folder_of(name) for name in (old, new) if name is not None}:
                rename(self.synced, naming)
            else:
                kept.append(naming)
        self.unsynced = kept

    def now(self) -> Files:
        """What a program sees."""
        return {name: file.now() for name, file in self.names.items()}

    def after_cut(self, chance: random.Random) -> Files:
        """One of the many states that a cut may leave."""
        names = dict(self.synced)
        mood = chance.choice((0.0, 0.5, 0.9, 1.0, chance.random()))
        for naming in self.unsynced:
            if chance.random() < mood:
                rename(names, naming)
        contents: dict[int, bytes] = {}
        for file in names.values():
            if id(file) not in contents:  # each file has a mood of its own: disorder between files finds most
                one = chance.choice((0.0, 0.0, 0.5, 0.9, 1.0, 1.0, chance.random()))
                contents[id(file)] = file.after_cut(chance, one)
        return {name: contents[id(file)] for name, file in names.items()}


def rename(names: dict[str, File], naming: Naming) -> None:
    """Do one naming. A rename also makes the file known whose creation was lost."""
    old, new, file = naming
    if old is not None and names.get(old) is file:
        del names[old]
    if new is not None:
        names[new] = file


def folder_of(name: str) -> str:
    return os.path.dirname(name) or "."
