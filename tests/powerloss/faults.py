"""Single calls to the operating system fail: once, or from then on for good.

    python -m tests.powerloss.faults SEED FIRST LAST [PLANT]

under the shim. A run lets the n-th eligible call of a short life fail. Then the fault is gone (the disk has space
again), and the next engine finds the file as it is, tells what it finds, and in every other run loses power right
after that. All that was told must be there, and all work comes to its end. One line of JSON a run.
"""

import asyncio
import json
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import durable
from durable import DurableError, Engine, EngineFailedError, StorageError
from tests.powerloss import plants, trace
from tests.powerloss.disk import Disk
from tests.powerloss.images import write
from tests.powerloss.oracle import Facts, Violation, require
from tests.powerloss.plants import DATABASE
from tests.powerloss.shim import Fault, Shim
from tests.powerloss.survive import BASE, PATIENCE_S, begin, beside, finish, sound, whichever
from tests.powerloss.trace import Op
from tests.powerloss.workload import Values, World, do, engine_on, look, plan

JOBS = 10
NEVER = 1 << 40
FAULTS = (Fault.EIO, Fault.ENOSPC, Fault.EDQUOT, Fault.SHORT, Fault.TORN)
#: Which calls fail; most are writes, so the others are asked for by name. 0 is any.
OPERATIONS = (0, Op.SYNC, Op.WRITE, Op.OPEN, Op.SYNC, Op.TRUNCATE, Op.UNLINK, Op.RENAME, 0)


class Plan(NamedTuple):
    """What a run suffers."""

    fault: Fault
    operation: int
    #: Which call, as a share of those that the same life makes undisturbed.
    share: float
    for_good: bool
    #: The power is cut afterwards.
    cut: bool


def plan_of(seed: int, number: int) -> Plan:
    """Every fault, for good and once, with and without a cut: all of them in each 20 runs."""
    chance = random.Random(f"{seed}/fault/{number}")
    kind, rest = number % len(FAULTS), number // len(FAULTS)
    fault = FAULTS[kind]
    operation = Op.WRITE if fault in (Fault.SHORT, Fault.TORN) else chance.choice(OPERATIONS)
    return Plan(fault, operation, chance.random(), bool(rest % 2), bool(rest // 2 % 2))


class Run:
    """One run."""

    def __init__(self, folder: Path, seed: int, number: int, shim: Shim) -> None:
        self.folder, self.seed, self.number, self.shim = folder / "files", seed, number, shim
        self.values: Values = "encoded" if number % 4 == 2 else "clear"
        self.notes = folder / "notes"
        self.after = folder / "after"
        self.facts = Facts()
        #: What callers were told instead of an answer, and what the event loop had to say.
        self.refusals: Counter[str] = Counter()
        self.problems: list[str] = []
        self.folder.mkdir()

    def live(self, plan: Plan, nth: int) -> tuple[int, int]:
        """A life with that fault. Returns how many calls were eligible, and how many failed."""
        begin(self.mark)
        self.mark("life", "with a fault")
        self.shim.start(self.folder, self.notes)
        self.shim.arm(plan.fault, nth, for_good=plan.for_good, operation=plan.operation)
        try:
            asyncio.run(self.work())
            if self.number % 3 == 0:
                self.restore()
            if plan.for_good and self.shim.fired and self.facts.restoring is None:
                begin(self.mark)  # whoever starts it again meanwhile is told so, or finds it well
                self.mark("life", "with the same fault")
                asyncio.run(self.work())
            calls, fired = self.shim.calls, self.shim.fired
            if fired and plan.cut and self.facts.restoring is None:
                self.shim.arm(Fault.NEVER)
                begin(self.mark)
                self.mark("life", "reading")
                asyncio.run(self.read())
            return calls, fired
        finally:
            self.shim.stop()

    def mark(self, *fields: Any) -> None:
        self.facts.take(list(fields))

    async def work(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.problems.append(str(context)))
        async with asyncio.timeout(PATIENCE_S):
            try:
                async with engine_on(self.folder, "FULL", self.values) as engine:
                    jobs = [plan(self.seed + self.number, one) for one in range(JOBS)]
                    await asyncio.gather(
                        *[self.client(engine, jobs[one::3]) for one in range(3)], self.operate(engine)
                    )
                    if engine.failure is not None:
                        await self.after_failure(engine)
            except StorageError as error:
                self.refusals[type(error).__name__] += 1

    async def read(self) -> None:
        async with asyncio.timeout(PATIENCE_S), engine_on(self.folder, "FULL", self.values) as engine:
            jobs = [plan(self.seed + self.number, one) for one in sorted(self.facts.tried)]
            await look(engine, jobs, self.mark)
            begin(World.mark)
            self.shim.mark("the cut")

    async def client(self, engine: Engine, jobs: Any) -> None:
        for job in jobs:
            try:
                await do(engine, job, self.facts, self.mark)
            except DurableError as error:
                self.refusals[type(error).__name__] += 1
                if isinstance(error, EngineFailedError):
                    return

    async def operate(self, engine: Engine) -> None:
        option = self.facts.option_asked + 1
        name = f"backup-{option}.db"
        try:
            self.mark("setting", option)
            await engine.configure("Counter", abort_timeout=option)
            self.mark("set", option)
            await asyncio.sleep(0.004)
            self.mark("backing-up", name)
            await engine.backup(self.folder / name)
            self.mark("backed-up", name)
        except DurableError as error:
            self.refusals[type(error).__name__] += 1

    def restore(self) -> None:
        """Put a backup in the place of the file."""
        for name in self.facts.backups:
            try:
                self.mark("restoring", name)
                aside = durable.restore(self.folder / name, self.folder / DATABASE)
                assert aside is not None
                self.mark("restored", name, aside.name)
            except StorageError as error:
                self.refusals[type(error).__name__] += 1

    async def after_failure(self, engine: Engine) -> None:
        """A failed engine acknowledges nothing more, and says so to everybody."""
        try:
            await do(engine, plan(self.seed + self.number, 0), self.facts, lambda *_: None)
        except EngineFailedError:
            return
        raise Violation("L3: an engine that has failed gave an answer")

    def check(self, cut: bool) -> None:
        """What the next one finds."""
        self.mark("life", "after")
        if cut:
            disk = Disk()
            disk.feed(takewhile(lambda note: note.op is not Op.MARK, trace.read(self.notes)))
            write(disk.after_cut(random.Random(f"{self.seed}/{self.number}")), self.after)
        else:
            shutil.copytree(self.folder, self.after)
        require(not self.problems, f"I9: {self.problems[:1]}")
        whichever(self.facts, self.follow)

    def follow(self, facts: Facts) -> None:
        """Let all work come to its end."""
        after = Path(tempfile.mkdtemp(dir=self.after.parent)) / "files"
        shutil.copytree(self.after, after)
        beside(after, facts)
        if self.facts.restoring is None:
            sound(after / DATABASE)
        finish(after, facts, self.seed + self.number, "FULL", self.values)


def suffer(seed: int, number: int, shim: Shim) -> dict[str, Any]:
    """One run: the life undisturbed, to count its calls, then with the fault in one of them."""
    what = plan_of(seed, number)
    calls = 0
    while not calls:
        with tempfile.TemporaryDirectory(prefix="powerloss-", dir=BASE) as folder:
            calls, _ = Run(Path(folder), seed, number, shim).live(what, NEVER)
        if not calls:
            what = what._replace(operation=0)  # this life does nothing of the kind
    nth, fired, descriptors = 1 + int(what.share * calls), 0, len(os.listdir("/proc/self/fd"))
    while not fired:
        with tempfile.TemporaryDirectory(prefix="powerloss-", dir=BASE) as folder:
            run = Run(Path(folder), seed, number, shim)
            broken = ""
            try:
                _, fired = run.live(what, nth)
                if fired:
                    run.check(what.cut)
                    left = len(os.listdir("/proc/self/fd")) - descriptors
                    require(not left, f"I9: {left} descriptors are left open")
            except Violation as violation:
                broken = str(violation)
            except (DurableError, sqlite3.Error, OSError, TimeoutError) as error:
                broken = f"I1: {error!r}"
            hits = [note for note in trace.read(run.notes) if note.op is Op.FAULT]
        fired = fired or bool(broken)
        nth = max(1, nth * 3 // 4)  # threads that are quicker need fewer calls
    hit = f"{Op(hits[0].number).name.lower()} {hits[0].first.decode()}" if hits else ""
    return {
        "run": number,
        **{"fault": what.fault.name, "for_good": what.for_good, "cut": what.cut, "hit": hit, "fired": len(hits)},
        **{"told": len(run.facts.told), "refusals": run.refusals, "broken": [broken] if broken else []},
    }


def main() -> None:
    seed, first, last = map(int, sys.argv[1:4])
    logging.disable(logging.CRITICAL)
    plants.instrument(plants.of(sys.argv[4:]), None)
    shim = Shim()
    for number in range(first, last + 1):
        print(json.dumps(suffer(seed, number, shim)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
