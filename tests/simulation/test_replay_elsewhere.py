"""Trees of combinators, live in this process, decide the same in a second one that replays the file's journals."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.simulation.replayed import END_S, Seen, live
from tests.simulation.test_random_combinators import program_of

ROOT = Path(__file__).parents[2]
SEEDS = range(1000, 1300)


def elsewhere(path: Path) -> Seen:
    """What a process sees in which sets have another order."""
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.replayed", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": other},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Seen)


@pytest.mark.parametrize("until_s", [END_S, 1.5, 0.7], ids=["whole", "cut late", "cut early"])
def test_a_second_process_decides_as_the_first_one_did(tmp_path: Path, until_s: float) -> None:
    """In the same order, too. Whose journal is whole runs no step again; where it was cut, what was decided stays."""
    path = tmp_path / "durable.db"
    first = live(path, SEEDS, until_s=until_s)
    second = elsewhere(path)
    assert second.decided.keys() == first.decided.keys() == set(SEEDS)
    for seed in SEEDS:
        before, after = (msgspec.to_builtins(seen.decided[seed]) for seen in (first, second))
        assert after[: len(before)] == before, (
            f"seed {seed} decided {before}, and in a replay {after}; {program_of(seed)}"
        )
    if until_s == END_S:
        assert all(len(decided) == 4 for decided in first.decided.values())
        assert second.ran == []
    else:
        assert 0 < sum(map(len, first.decided.values())) < 4 * len(SEEDS), "it was not cut in the middle"
