"""Many power cuts, by hand: python -m tests.powerloss --images 10000."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.powerloss import campaign, shim
from tests.powerloss.plants import PLANTS
from tests.powerloss.workload import Sync, Values

#: Images of one run of the workload.
EACH = 100


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.powerloss", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, help="the first seed (default: any)")
    parser.add_argument(
        "--synchronous", choices=("FULL", "NORMAL"), help="(default: both, FULL three times as often)"
    )
    parser.add_argument(
        "--values", choices=("clear", "encoded"), help="encoded: by a codec (default: both, clear twice as often)"
    )
    parser.add_argument("--workers", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--plant", choices=PLANTS, help="break the store on purpose")
    parser.add_argument("--trace", type=Path, help="do not run the workload, but use the trace of a failure")
    parser.add_argument("--image", type=int, help="with --trace: that image only")
    parser.add_argument("--faults", type=int, metavar="RUN", help="one run with a failing system call")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(1_000_000)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="powerloss-") as folder:
        library = shim.build(Path(folder))
        if asked.faults is not None:
            console.print(*campaign.lines(library, "tests.powerloss.faults", seed, asked.faults, asked.faults))
            return 0
        if asked.trace is not None:
            mode: Sync = asked.synchronous or "FULL"
            stored: Values = asked.values or "clear"
            found = campaign.survivors(library, asked.trace, seed, mode, stored, asked.images, asked.image)
            console.print(*found, sep="\n")
            return 0
        return many(library, seed, asked, console)


def many(library: Path, seed: int, asked: argparse.Namespace, console: Console) -> int:
    """So many images; the traces of those that broke a promise are kept."""
    kept = Path(tempfile.mkdtemp(prefix="powerloss-traces-"))
    started, broken = time.monotonic(), 0
    counts: Counter[str] = Counter()
    runs = -(-asked.images // EACH)
    modes: list[Sync] = [asked.synchronous] if asked.synchronous else ["FULL", "FULL", "FULL", "NORMAL"]
    values: list[Values] = [asked.values] if asked.values else ["clear", "clear", "encoded"]
    with Progress(console=console) as progress, ThreadPoolExecutor(asked.workers) as pool:
        task = progress.add_task(f"seed {seed}", total=runs * EACH)

        def seen(report: campaign.Report) -> bool:
            progress.advance(task)
            return True

        work = partial(campaign.run, library, count=EACH, plant=asked.plant, seen=seen)
        stories = [
            pool.submit(
                work,
                folder=kept / str(number),
                seed=seed + number,
                synchronous=modes[number % len(modes)],
                values=values[number % len(values)],
            )
            for number in range(runs)
        ]
        for future in stories:
            story = future.result()
            counts += story.tally()
            for text in story.broken:
                broken += 1
                console.print(text, soft_wrap=True, highlight=False)
            if not story.broken:
                story.trace.unlink()
                story.trace.parent.rmdir()
    took = time.monotonic() - started
    for what, count in sorted(counts.items()):
        console.print(f"{count:9,}  {what}", highlight=False)
    images = counts["images"]
    rate = "" if broken else f"; with 95 % certainty fewer than {3 / images:.2%} of such cuts do"
    console.print(
        f"seed {seed}: {images:,} images in {took:.0f} s ({images / took:.1f}/s), {broken} broken promises{rate}",
        highlight=False,
    )
    if not broken:
        kept.rmdir()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
