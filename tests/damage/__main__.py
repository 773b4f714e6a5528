"""`python -m tests.damage --flips 10000` damages so many copies; `--seed N` does one again."""

import argparse
import logging
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from tests.damage.flips import suffer
from tests.damage.support import make


def main() -> int:
    """Damage, report, and say which seeds have failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.flips)
    fates: Counter[str] = Counter()
    failed: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.db"
        make(sound)
        for seed in seeds:
            try:
                harm, fate = suffer(seed, sound)
            except Exception:
                failed.append(seed)
                traceback.print_exc()
                continue
            fates[fate.split(":")[0]] += 1
            if asked.seed is not None:
                sys.stdout.write(f"{harm}: {fate}\n")
    sys.stdout.write(f"{dict(fates)}; failed: {failed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
