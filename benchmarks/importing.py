"""How long does `import durable` take?"""

import subprocess
import sys

from benchmarks.table import Result

_PROGRAM = "import time; t = time.perf_counter(); import durable; print(time.perf_counter() - t)"


def import_time() -> list[Result]:
    """The best of seven fresh interpreters, byte code cached."""
    times = [
        float(subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True).stdout)
        for _ in range(8)
    ]
    return [Result("import durable", min(times[1:]) * 1e3, "ms", None, 150)]
