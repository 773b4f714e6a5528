"""R-05: whenever the power is cut, nothing that was told is lost.

    DURABLE_SEED=7 pytest tests/powerloss          other seeds
    python -m tests.powerloss --images 10000       many more images, with the rate

Seeds decide what is done and where the power is cut; threads decide the rest, so a failure keeps its trace and prints
the line that shows that very image again.
"""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.powerloss import campaign, trace
from tests.powerloss.images import checkpoints
from tests.powerloss.workload import SECRET, Sync, Values

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SEED = int(os.environ.get("DURABLE_SEED") or random.randrange(1_000_000))
#: 480 images in all, 100 of them encrypted.
RUNS: list[tuple[int, Sync, Values, int]] = [
    (0, "FULL", "clear", 120), (1, "FULL", "clear", 120), (2, "FULL", "encoded", 100), (3, "NORMAL", "clear", 140),
]  # fmt: skip


@pytest.mark.parametrize(("number", "synchronous", "values", "images"), RUNS)
def test_nothing_that_was_told_is_lost_when_the_power_is_cut(
    library: Path, tmp_path: Path, number: int, synchronous: Sync, values: Values, images: int
) -> None:
    story = campaign.run(library, tmp_path, SEED + number, synchronous, images, values=values)
    assert not story.broken, f"seed {SEED}: {len(story.broken)} broken promises, the first: {story.broken[0]}"
    counts = story.tally()
    assert counts["images"] == images
    assert counts["images that lack something"] > images / 20, f"I10: {counts}"
    assert counts["outcomes told before the cut"] > 5 * images, f"I10: {counts}"
    assert (SECRET in story.trace.read_bytes()) is (values == "clear"), "I10: nothing was written that is a secret"
    assert checkpoints(trace.read(story.trace)), "I10: no checkpoint while an engine worked"
    lives = Counter(report["life"] for report in story.reports)
    assert len(lives) >= 6, f"I10: the power was cut in {lives} only"
