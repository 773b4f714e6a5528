"""R-03, R-04, R-06: a call to the operating system fails, once or for good, and nobody is told what is not so."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.powerloss import campaign
from tests.powerloss.faults import FAULTS

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SEED = int(os.environ.get("DURABLE_SEED") or random.randrange(1_000_000))
RUNS = 100


@pytest.mark.parametrize("half", [0, 1])
def test_a_call_that_fails_loses_nothing_and_invents_nothing(library: Path, half: int) -> None:
    first, last = half * RUNS, half * RUNS + RUNS - 1
    reports = list(campaign.lines(library, "tests.powerloss.faults", SEED, first, last))
    again = f"once more with\n    python -m tests.powerloss --seed {SEED} --faults"
    for report in reports:
        assert not report["broken"], f"{report}; {again} {report['run']}"
    assert [report["run"] for report in reports] == list(range(first, last + 1))
    assert all(report["fired"] for report in reports), "I10: a fault that was planned has not happened"
    kinds = Counter(report["fault"] for report in reports)
    assert kinds == dict.fromkeys((fault.name for fault in FAULTS), RUNS // len(FAULTS))
    hits = Counter(report["hit"].split()[0] for report in reports)
    assert {"write", "sync", "open", "truncate"} <= hits.keys(), f"I10: only these calls failed: {hits}"
    failed = sum(bool(report["refusals"].get("EngineFailedError")) for report in reports)
    assert RUNS / 10 < failed < RUNS, f"I10: {failed} of {RUNS} engines failed"
    assert sum(report["told"] for report in reports) > RUNS, "I10: nothing was done before or beside the faults"


@pytest.mark.parametrize(
    ("story", "seed", "run"),
    [
        ("a log that cannot be deleted at a close is no other database's log at the next start", 455724, 55),
        ("a log whose sync has failed does not win over the file it was written into", 21, 97),
    ],
)
def test_what_was_found_before(library: Path, story: str, seed: int, run: int) -> None:
    [report] = campaign.lines(library, "tests.powerloss.faults", seed, run, run)
    assert not report["broken"], f"{story}: {report}"


def test_an_engine_that_takes_no_notice_of_a_failed_commit_is_caught(library: Path) -> None:
    runs = campaign.lines(library, "tests.powerloss.faults", SEED, 0, RUNS, "acknowledged-before-the-commit")
    assert any(report["broken"] for report in runs), f"it went through {RUNS} faults"
