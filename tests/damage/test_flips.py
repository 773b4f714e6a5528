"""Bits flipped and ends cut off, seeded: never a wrong value, never an innocent one stopped."""

from pathlib import Path

import pytest

from tests.damage.flips import suffer
from tests.damage.support import make

#: 300 in all, a part each, so that they can run beside each other. More: `python -m tests.damage --flips 10000`.
PARTS, EACH = 10, 30


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "durable.db"
    make(path)
    return path


@pytest.mark.parametrize("part", range(PARTS))
def test_a_flipped_bit_or_a_cut_is_a_named_error_or_one_damaged_invocation(sound: Path, part: int) -> None:
    fates = [suffer(seed, sound)[1] for seed in range(part * EACH, (part + 1) * EACH)]
    assert all(fate.split(":")[0] in ("whole", "damaged", "refused", "stopped") for fate in fates)
