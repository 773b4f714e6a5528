"""R-01: an engine that is killed again and again loses nothing, doubles nothing, and tells everybody the same.

    DURABLE_SEED=7 DURABLE_KILLS=2000 pytest tests/process/test_kill.py

runs other schedules, and more of them.
"""

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.process.nursery import Nursery
from tests.process.support import ROOT, Child, Witness
from tests.process.workload import WINDOW

KILLS = int(os.environ.get("DURABLE_KILLS", "200"))
SEED = int(os.environ.get("DURABLE_SEED") or random.randrange(1_000_000))
#: Databases that are worked on, and killed on, at the same time.
DRIVERS = 2
#: How often one kill in this many comes while the engine is still starting.
EARLY = 12
#: How many are forked from the same process, one after another.
SIBLINGS = 10
#: What a child can be told to do as the last thing in its life, and how often that is in 100 kills.
LAST_WORDS = ("ack", "ack", "returned", "returned", "saw", "saw", "begin", "end", "woke", "open", "shut")
SUDDEN = 50
#: What must have happened, or the test has shown nothing.
WANTED = (
    "kills during start-up",
    "kills during a step",
    "kills between a step's end and its commit",
    "kills during a sleep",
    "kills while suspended",
    "kills while backing-off",
    "kills while scheduled",
    "kills while pending",
    "kills while a key was held",
    "step failures",
    "retries",
    "steps executed again after a kill",
    "timers fired",
    "sagas undone",
    "handlers whose tokens agree",
)


@pytest.mark.process
@pytest.mark.timeout(120 + KILLS)
def test_two_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    folders = [tmp_path / f"driver-{number}" for number in range(DRIVERS)]
    witnesses = [Witness(folder, SEED + number) for number, folder in enumerate(folders)]
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(DRIVERS) as pool:
            for done in [pool.submit(drive, one, folder) for one, folder in zip(witnesses, folders, strict=True)]:
                done.result()
        seen = sum((witness.seen for witness in witnesses), Counter())
        missing = [what for what in WANTED if not seen[what]]
        assert not missing, f"I10 violated: this never happened: {missing}"
        assert seen["kills"] >= KILLS, f"I10 violated: {seen['kills']} kills hit a working engine"
        assert seen["completions"] >= 5 * KILLS, f"I10 violated: {seen['completions']} invocations were completed"
    except AssertionError as error:
        raise AssertionError(
            f"{error}\n{summary(witnesses, started)}\nfiles are in {tmp_path}; once more with\n"
            f"    DURABLE_SEED={SEED} DURABLE_KILLS={KILLS} python -m pytest tests/process/test_kill.py"
        ) from error
    print(summary(witnesses, started))  # noqa: T201


def drive(witness: Witness, folder: Path) -> None:
    """Start, wait, kill, look; and at the end let one engine finish everything undisturbed."""
    folder.mkdir()
    chance = random.Random(witness.seed)
    arguments = (witness.database, witness.effects, witness.acks, witness.seed)
    errors = folder / "stderr"
    lives = checked = idle = 0
    while witness.seen["kills"] < KILLS / DRIVERS:
        with Nursery("tests.process.workload", ROOT) as nursery:  # each has its own order of sets
            for _ in range(SIBLINGS):
                lives += 1
                early = chance.randrange(EARLY) == 0
                sudden = chance.randrange(100) < SUDDEN
                last_words = f"{chance.choice(LAST_WORDS)}:{int(30 ** chance.random())}"
                delay_s = 0.005 * 80 ** chance.random()  # 5 to 400 ms, half of them under 45
                more = [last_words] if sudden else []
                with Child(*arguments, *more, errors=errors, nursery=nursery) as child:
                    if early:
                        time.sleep(chance.choice((0, delay_s / 8)))
                    else:
                        child.wait_for("READY")
                        child.wait(0.5 if sudden else delay_s * (1 + idle))  # a busy machine is given time
                    killed_at_ms = int(time.time() * 1000)
                    child.kill()
                worked = witness.after_kill(child.process.pid, killed_at_ms)
                up = "READY" in child.said
                witness.seen["kills" if worked else "kills before any work" if up else "kills during start-up"] += 1
                assert not child.complaints(), f"I9 violated: {child.complaints()}"
                idle = 0 if worked else idle + 1
                assert idle < 50, f"I7 violated: the engine does nothing; {witness.unfinished()}"
                if witness.seen["kills"] >= KILLS / DRIVERS:
                    break
        if witness.seen["kills"] >= checked + 50:
            checked += 50
            witness.whole_file()
    limit = max(witness.acknowledged, default=0) + 1 + WINDOW
    with Child("-m", "tests.process.workload", *arguments, limit, errors=errors) as child:
        try:
            child.leave()
        except AssertionError as error:
            raise AssertionError(f"{error}\nunfinished: {witness.unfinished()}") from error
    witness.after_kill(child.process.pid, int(time.time() * 1000))
    witness.whole_file()
    witness.at_end(limit)


def summary(witnesses: list[Witness], started: float) -> str:
    """One line that says what has really happened."""
    seen = sum((witness.seen for witness in witnesses), Counter())
    counts = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
    return f"seed {SEED}, {time.monotonic() - started:.0f} s: {counts}"
