"""R-44: the harness finds faults, or its silence means nothing."""

from pathlib import Path

import pytest

from tests.powerloss import campaign
from tests.powerloss.plants import PLANTS
from tests.powerloss.workload import Sync

pytestmark = pytest.mark.process

#: How many images a fault may survive.
PATIENCE = 400


@pytest.mark.parametrize(
    ("plant", "synchronous"), [*((plant, "FULL") for plant in PLANTS), ("synchronous-off", "NORMAL")]
)
def test_a_store_that_leaves_out_a_sync_is_caught(
    library: Path, tmp_path: Path, plant: str, synchronous: Sync
) -> None:
    for seed in range(8):  # what is planted at a start shows only if a sync was the last thing that was not done
        story = campaign.run(
            library,
            tmp_path,
            seed,
            synchronous,
            PATIENCE // 8,
            plant=plant,
            seen=lambda report: not report["broken"],
        )
        if story.broken:
            return
    pytest.fail(f"{plant} went through {PATIENCE} images")
