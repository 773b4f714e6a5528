"""Many images: a program is run under the shim, then another finds what it has left, again and again."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.powerloss import shim
from tests.powerloss.workload import Sync, Values

Report = dict[str, Any]


class Story(NamedTuple):
    """One run of the workload, and all that its images showed."""

    seed: int
    synchronous: Sync
    values: Values
    trace: Path
    reports: list[Report]

    @property
    def broken(self) -> list[str]:
        """What does not hold, with the line that shows it again."""
        return [
            f"{promise} (cut in the life '{report['life']}'); once more with\n"
            f"    python -m tests.powerloss --trace {self.trace} --seed {self.seed}"
            f" --synchronous {self.synchronous} --values {self.values} --image {report.get('image', 0)}"
            for report in self.reports
            for promise in report["broken"]
        ]

    def tally(self) -> Counter[str]:
        """What happened how often in all images, for I10."""
        counts: Counter[str] = Counter({"images": len(self.reports)})
        for report in self.reports:
            counts["images that lack something"] += report.get("damaged", False)
            counts["outcomes told before the cut"] += report.get("told", 0)
            counts[f"images with values that are {self.values}"] += 1
            counts[f"cuts in a life that is: {report['life']}"] += 1
        return counts


def run(
    library: Path,
    folder: Path,
    seed: int,
    synchronous: Sync,
    count: int,
    *,
    values: Values = "clear",
    plant: str | None = None,
    seen: Callable[[Report], bool] = lambda report: True,
) -> Story:
    """The workload, then so many images of it; `seen` is told of each, and says whether to go on."""
    folder.mkdir(parents=True, exist_ok=True)
    files, trace = folder / f"files-{seed}", folder / f"trace-{seed}"
    files.mkdir()
    planted = [] if plant is None else [plant]
    story = Story(seed, synchronous, values, trace, [])
    for report in lines(library, "tests.powerloss.workload", files, trace, seed, synchronous, values, *planted):
        story.reports.append(report)
        seen(report)
    shutil.rmtree(files)
    if not story.reports:
        for report in survivors(library, trace, seed, synchronous, values, count):
            story.reports.append(report)
            if not seen(report):
                break
    return story


def survivors(
    library: Path, trace: Path, seed: int, synchronous: Sync, values: Values, count: int, only: int | None = None
) -> Iterator[Report]:
    """Images of a trace."""
    which = [] if only is None else [only]
    return lines(library, "tests.powerloss.survive", trace, seed, synchronous, values, count, *which)


def lines(library: Path, module: str, *arguments: object) -> Iterator[Report]:
    """What a program says, a line of JSON each. It is stopped when nobody listens any more."""
    program = shim.start(library, module, *arguments)
    assert program.stdout is not None
    try:
        for line in program.stdout:
            yield json.loads(line)
        code = program.wait()
        if code:
            raise subprocess.CalledProcessError(code, [module, *map(str, arguments)])
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
