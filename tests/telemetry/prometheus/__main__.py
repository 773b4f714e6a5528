"""What Prometheus itself makes of our page, and of the dashboard: `python -m tests.telemetry.prometheus` (needs Go).

An engine works, and its page is taken twice. `main.go` reads both with Prometheus' own parser into a database of
Prometheus', looks at them as `promtool check metrics` does, and evaluates each query of the dashboard and each alert
of docs/metrics.md. Each query has to have an answer. The first time takes minutes: Prometheus is fetched from the Go
module proxy, and compiled.
"""

import argparse
import asyncio
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from durable import Engine
from durable.telemetry.exposition import CONTENT_TYPE
from tests.telemetry.test_dashboard import ALERTS, DASHBOARD, QUERIES
from tests.telemetry.test_metrics import Cart, work

PROMETHEUS = "github.com/prometheus/prometheus@v0.316.0"
#: Prometheus asks every 15 s.
APART_MS = 15_000
#: What Grafana puts in the place of its variables.
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m", "$__range": "1h"}
#: Metrics that this engine has no values of: it reads no topic.
SILENT = ("durable_kafka_",)


def built(folder: Path) -> Path:
    """The program, compiled unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    program, source = folder / "prometheus", Path(__file__).with_name("main.go")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        shutil.copy(source, folder)
        (folder / "go.mod").write_text("module prometheus\n\ngo 1.24\n")
        for command in (["get", PROMETHEUS], ["mod", "tidy"], ["build", "-o", str(program), "."]):
            subprocess.run(["go", *command], cwd=folder, check=True)
    return program


async def pages(database: Path) -> list[dict[str, Any]]:
    """Four, with something of everything after the first one."""
    found = []
    async with Engine(database, services=[Cart()]) as engine:
        engine.measure()
        for number in range(1, 5):
            if number == 2:
                await work(engine)
            await engine.call(Cart.add, number % 3, key=f"key-{number}")
            found.append({"at": number * APART_MS, "type": CONTENT_TYPE, "text": engine.metrics()})
    return found


def asked() -> list[str]:
    """The queries of the dashboard as Grafana sends them, and that of its variable."""
    variable = DASHBOARD["templating"]["list"][1]["query"]["query"]
    queries = [*QUERIES, f"group by (instance) ({variable.partition('(')[2].partition(',')[0]})"]
    for name, value in VARIABLES.items():
        queries = [query.replace(name, value) for query in queries]
    return [*queries, *ALERTS]


def main() -> int:
    """Prints each query with its answer; returns 1 where one has none, or the page is faulty."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path.home() / ".cache" / "durable-prometheus", help="where to build"
    )
    program = built(parser.parse_args().folder)
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        question = Path(folder, "question.json")
        question.write_text(json.dumps({"pages": asyncio.run(pages(Path(folder, "a.db"))), "queries": asked()}))
        done = subprocess.run([program, question], stdout=subprocess.PIPE, check=True)
    answer = json.loads(done.stdout)
    wrong = [*answer["problems"], *(f"{query}: {error}" for query, error in answer["errors"].items())]
    for query, values in answer["values"].items():
        print(query, *values, sep="\n    ")  # noqa: T201
        if not values and query not in ALERTS and not any(name in query for name in SILENT):
            wrong.append(f"{query}: no answer")
        if "durable_invocations_paused_total" in query and not any(float(value.split()[-1]) for value in values):
            wrong.append(f"{query}: the first pause is not seen")
    print(  # noqa: T201
        f"{answer['samples']} samples, {len(answer['values'])} queries", *wrong, sep="\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
