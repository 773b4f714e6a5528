"""R-44: the harness finds faults, or its silence means nothing."""

from pathlib import Path

import pytest

from tests.powerloss import campaign
from tests.powerloss.plants import PLANTS
from tests.powerloss.workload import Sync

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

#: How many images a fault may survive.
PATIENCE = 400


def caught(report: campaign.Report) -> bool:
    """A promise is broken. That work does not end proves nothing on a busy machine."""
    return any("TimeoutError" not in promise for promise in report["broken"])


@pytest.mark.parametrize(
    ("plant", "synchronous"), [*((plant, "FULL") for plant in PLANTS), ("synchronous-off", "NORMAL")]
)
def test_a_store_that_leaves_out_a_sync_is_caught(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str, synchronous: Sync
) -> None:
    monkeypatch.setenv("DURABLE_PATIENCE", "8")
    for seed in range(8):  # what is planted at a start shows only if a sync was the last thing that was not done
        story = campaign.run(
            library,
            tmp_path,
            seed,
            synchronous,
            PATIENCE // 8,
            plant=plant,
            seen=lambda report: not caught(report),
        )
        if any(map(caught, story.reports)):
            return
    pytest.fail(f"{plant} went through {PATIENCE} images")
