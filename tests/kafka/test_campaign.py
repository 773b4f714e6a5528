"""Many records, while the engine is killed, its group is shared anew and the broker goes away: see `campaign`."""

from pathlib import Path

import pytest

from tests.kafka.campaign import Campaign
from tests.kafka.mock import Mock


@pytest.mark.process
def test_each_record_is_taken_once_under_kills_rebalances_and_a_broker_that_goes_away(
    own_mock: Mock, tmp_path: Path
) -> None:
    """R-31."""
    campaign = Campaign(own_mock, tmp_path, records=2000, partitions=6, keys=60, seed=7)
    campaign.run(kills=3, rebalances=1, stops=1, pace_s=0.05)
    assert (campaign.kills, campaign.rebalances, campaign.stops) == (3, 1, 1)
