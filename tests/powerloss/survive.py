"""The process that finds an image.

    python -m tests.powerloss.survive TRACE SEED SYNCHRONOUS VALUES COUNT [IMAGE]

under the shim. For each image: look at the files with nothing but SQLite; start an engine that only reads what it is
told, and cut the power again; on what is left of that, start another, ask for all work once more, and finish it. One
line of JSON an image, in which `broken` says what does not hold.
"""

import asyncio
import hashlib
import json
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from durable import DurableError
from durable.store import recoding, soundness
from durable.store.format import check_version, migrations
from tests.powerloss import plants, trace
from tests.powerloss.disk import Disk, Files
from tests.powerloss.images import Image, images, mark_of, write
from tests.powerloss.oracle import Facts, Violation, require
from tests.powerloss.plants import DATABASE
from tests.powerloss.shim import Shim
from tests.powerloss.workload import (
    KEYS,
    SECRET,
    Job,
    Sync,
    Values,
    World,
    counts,
    do,
    engine_on,
    look,
    plan,
    world,
)
from tests.process.support import RULES
from tests.process.workload import UNFINISHED

#: How long an engine may take over one image: usually a tenth of a second, but much longer on a machine that is busy.
PATIENCE_S = float(os.environ.get("DURABLE_PATIENCE", "60"))
#: Where images are put: in memory, if the system has such a place.
BASE = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
#: The files of one database, by the ends of their names.
SUFFIXES = ("", "-wal", "-journal")


class Survivor:
    """One image, from its finding to the end of all work."""

    def __init__(self, image: Image, folder: Path, seed: int, synchronous: Sync, values: Values, shim: Shim) -> None:
        self.image, self.folder, self.seed, self.synchronous, self.shim = image, folder, seed, synchronous, shim
        self.values = values
        self.facts = image.facts
        self.chance = random.Random(f"{seed}/survivor/{image.number}")
        #: What does not hold.
        self.broken: list[str] = []

    def live(self) -> None:
        """Raises `Violation`, and whatever the engine should not raise."""
        whichever(self.image.facts, self.follow)

    def follow(self, facts: Facts) -> None:
        """What comes of the image, if that is what was told."""
        self.facts = facts
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        first, second = folder / "first", folder / "second"
        write(self.image.files, first)
        try:
            beside(first, self.facts)
        except Violation as violation:  # nothing else depends on it
            self.broken.append(str(violation))
            self.facts.backing_up, self.facts.backups, self.facts.replaced = {}, {}, {}
        if self.image.facts.restoring is None:  # in between, only our own start knows which log belongs to the file
            sound(first / DATABASE)
            self.is_prefix(first)
            if self.values == "encoded":
                with look_at(first / DATABASE) as database:
                    keys_are_known(database, self.facts.encoded if self.synchronous == "FULL" else "")
        if self.values == "encoded":
            nothing_is_in_clear(self.image.files)
        if self.synchronous == "NORMAL":
            self.facts = self.facts.without_promises()
        left = self.read_and_cut(first)
        write(left, second)
        beside(second, self.facts)
        finish(second, self.facts, self.seed, self.synchronous, self.values)

    def is_prefix(self, folder: Path) -> None:
        """NORMAL: what is there was there after one of the commits since the last clean close."""
        if self.synchronous == "NORMAL":
            with look_at(folder / DATABASE) as database:
                found = plants.digest(database)
            require(found in self.image.commits, "NORMAL: the file is no prefix of what was committed")

    def read_and_cut(self, folder: Path) -> Files:
        """Start an engine, be told, and cut the power: mostly when all was told, or anywhere before."""
        notes = folder.with_name("notes")
        before = self.facts.copy()
        self.shim.start(folder, notes)
        try:
            asyncio.run(self.reading(folder))
        finally:
            self.shim.stop()
        found = trace.read(notes)
        end = next(at for at, note in enumerate(found) if note.op is trace.Op.MARK and mark_of(note)[0] == "life")
        cut = end if self.chance.random() < 0.6 else self.chance.randint(0, end)
        disk = Disk(self.image.files)
        self.facts = before
        for note in found[:cut]:
            disk.take(note)
            if note.op is trace.Op.MARK:
                self.facts.take(mark_of(note))
        self.facts.lives += 1
        return disk.after_cut(self.chance) if self.synchronous == "FULL" else disk.now()

    async def reading(self, folder: Path) -> None:
        def mark(*fields: Any) -> None:
            self.shim.mark(*fields)
            self.facts.take(list(fields))

        begin(mark)
        async with asyncio.timeout(PATIENCE_S), engine_on(folder, self.synchronous, self.values) as engine:
            await look(engine, jobs_of(self.facts, self.seed), mark)
            self.shim.mark("life", "the end of reading")
            begin(World.mark)


def whichever(facts: Facts, follow: Callable[[Facts], None]) -> None:
    """Follow what was told; where a restore was cut short, the old file or the restored one."""
    try:
        follow(facts.copy())
    except Violation as violation:
        if facts.restoring is None:
            raise
        restored = facts.copy()
        restored.become(facts.restoring)
        try:
            follow(restored)
        except Violation as another:
            raise Violation(f"neither the old file ({violation}) nor the restored one ({another})") from None


def beside(folder: Path, facts: Facts) -> None:
    """R-40: every backup is sound and holds what was told before it was begun, and so is what a restore put aside."""
    for name, known in [*facts.backing_up.items(), *facts.replaced.items()]:
        told = name in facts.backups or name in facts.replaced
        if not (folder / name).exists():
            require(not told, f"R-40: {name} was told to be there, and is gone")
            continue
        try:
            ids = ids_in(folder / name)
        except sqlite3.Error as error:
            raise Violation(f"R-40: {name} ({'told' if told else 'not told'}) is no backup: {error}") from None
        lost = {job for job, id in known.accepted.items() if id not in ids} - facts.purging
        require(not lost, f"R-40: {name} lacks the jobs {sorted(lost)}, accepted before it")


def ids_in(backup: Path) -> frozenset[str]:
    """The invocations of a sound backup. Most images have one in common: the same bytes are looked at once."""
    beside = (backup.with_name(backup.name + suffix) for suffix in SUFFIXES)
    key = tuple(hashlib.sha256(path.read_bytes()).digest() if path.exists() else None for path in beside)
    if key not in _known:
        sound(backup)
        with look_at(backup) as database:
            _known[key] = frozenset(id for (id,) in database.execute("SELECT id FROM invocations"))
    return _known[key]


_known: dict[tuple[bytes | None, ...], frozenset[str]] = {}


def nothing_is_in_clear(files: Files) -> None:
    """Of no value there is a byte in clear, in the database, its log, a backup or what was cut short of any."""
    found = [name for name, content in files.items() if SECRET in content]
    require(not found, f"encryption: {found} have a value in clear")


def keys_are_known(database: sqlite3.Connection, encoded: str) -> None:
    """Every key that a row needs is noted; once all was told to be encoded with one, no row needs an older one."""
    if check_version(database, DATABASE) < max(number for number, _ in migrations()):
        return  # it was being made
    used, noted = recoding.keys_in_use(database).keys(), soundness.keys(database).keys()
    require(used <= noted, f"encryption: rows need the keys {used}, and of them only {noted} are noted")
    older = {"", *KEYS[: KEYS.index(encoded)]} & used if encoded else set()
    require(not older, f"encryption: rows need the keys {older}, and all was encoded with {encoded}")


def finish(folder: Path, facts: Facts, seed: int, synchronous: Sync, values: Values = "clear") -> None:
    """Ask for all work once more, let it end, and compare with the model."""

    def mark(*fields: Any) -> None:
        facts.take(list(fields))

    async def work() -> None:
        async with asyncio.timeout(PATIENCE_S), engine_on(folder, synchronous, values) as engine:
            await look(engine, jobs, mark)
            await asyncio.gather(*[do(engine, job, facts, mark) for job in again])
            while await engine.invocations(status=UNFINISHED, limit=1):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            await look(engine, again, mark)

    begin(mark)
    mark("life", "finish")
    jobs = jobs_of(facts, seed)
    again = [job for job in jobs if job.number not in facts.purging]
    asyncio.run(work())
    with look_at(folder / DATABASE) as database:
        for rule, sql in RULES.items():
            rows = database.execute(sql).fetchmany(3)
            require(not rows, f"{rule}: {rows}")
        unfinished = database.execute("SELECT id FROM invocations WHERE status <> 'completed'").fetchall()
    sound(folder / DATABASE)
    facts.finished(counts(jobs), [id for (id,) in unfinished])
    one_after_the_other(jobs, facts)


def one_after_the_other(jobs: list[Job], facts: Facts) -> None:
    """I4: each addition began where another had ended, or after it."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for job in jobs:
        if job.kind in ("add", "late") and job.number in facts.told:
            old, new = facts.told[job.number]
            require(new == old + job.amount, f"I3: job {job.number} made {new} of {old}")
            spans.setdefault("f" if job.kind == "late" else job.key, []).append((old, new))
    for key, found in spans.items():
        for (_, end), (begin_of_next, _) in pairwise(sorted(found)):
            require(end <= begin_of_next, f"I4: two additions to {key} began from the same count: {sorted(found)}")


def jobs_of(facts: Facts, seed: int) -> list[Job]:
    return [plan(seed, number) for number in sorted(facts.tried)]


def begin(mark: Any) -> None:
    """A new process, as far as handlers can tell."""
    world.mark = mark
    world.published = {}


@contextmanager
def look_at(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the file with what lies beside it, as anybody would find it who opens it."""
    with tempfile.TemporaryDirectory(prefix="look-", dir=path.parent.parent) as folder:
        for suffix in SUFFIXES:
            if path.with_name(path.name + suffix).exists():
                shutil.copyfile(path.with_name(path.name + suffix), Path(folder, "copy" + suffix))
        with closing(sqlite3.connect(Path(folder, "copy"))) as database:
            yield database


def sound(path: Path) -> None:
    """I8: SQLite finds nothing wrong. Where there is no file it finds an empty one."""
    with look_at(path) as database:
        found = [row[0] for row in database.execute("PRAGMA integrity_check")]
    require(found == ["ok"], f"I8: {path.name}: {found[:3]}")


def main() -> None:
    path, seed, synchronous, count = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[5])
    values: Values = "encoded" if sys.argv[4] == "encoded" else "clear"
    only = int(sys.argv[6]) if len(sys.argv) > 6 else None
    logging.disable(logging.CRITICAL)
    plants.instrument(plants.Plant(), None)
    shim = Shim()
    for image in images(trace.read(path), seed, count, only):
        folder = Path(tempfile.mkdtemp(prefix="powerloss-", dir=BASE))
        report: dict[str, Any] = {"image": image.number, "life": image.life, "damaged": image.damaged, "broken": []}
        mode: Sync = "NORMAL" if synchronous == "NORMAL" else "FULL"
        survivor = Survivor(image, folder, seed, mode, values, shim)
        try:
            survivor.live()
        except Violation as violation:
            survivor.broken.append(str(violation))
        except (DurableError, sqlite3.Error, OSError, TimeoutError) as error:
            survivor.broken.append(f"I1: the file cannot be used: {error!r}")
        finally:
            shim.stop()
            shutil.rmtree(folder)
        report |= {"broken": survivor.broken, "told": len(survivor.facts.told), "counts": survivor.facts.count}
        print(json.dumps(report), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
