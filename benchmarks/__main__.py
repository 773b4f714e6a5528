"""`python -m benchmarks [--only WORD] [--json]`: every number beside its floor, measured in the same run."""

import argparse
import logging
import platform
import sqlite3
import sys

from benchmarks import (
    checksums,
    controls,
    counting,
    crowds,
    encrypting,
    fan_out,
    importing,
    ingress,
    kafka,
    looking,
    remote,
    replay,
    sleepers,
    standby,
    table,
    throughput,
    tracing,
    wakeup,
)

QUESTIONS = (
    throughput.sequential_step,
    throughput.concurrent_steps,
    tracing.traces,
    throughput.invocations,
    throughput.objects,
    throughput.child_calls,
    throughput.long_journal,
    checksums.checksums,
    encrypting.encryption,
    replay.replay,
    wakeup.wakeups,
    sleepers.sleepers,
    crowds.recursion,
    crowds.failing,
    crowds.backlog,
    crowds.burst,
    fan_out.fan_out,
    fan_out.arrivals,
    controls.trees,
    controls.purge,
    ingress.ingress,
    remote.remote,
    kafka.kafka,
    looking.looking,
    standby.take_over,
    counting.metrics,
    importing.import_time,
)


def main() -> int:
    """Run them; exit code 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="run the questions whose name contains this word")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    wanted = [question for question in QUESTIONS if options.only in question.__name__]
    if not wanted:
        names = ", ".join(question.__name__ for question in QUESTIONS)
        parser.error(f"no question is called like {options.only!r}; there are: {names}")
    if not options.json:
        print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}, FULL")
        print(table.HEADER)
    results: list[table.Result] = []
    for place, question in enumerate(wanted, 1):
        if sys.stderr.isatty():
            print(f"\r[{place}/{len(wanted)}] {question.__name__} …", end="\x1b[K\r", file=sys.stderr, flush=True)
        for result in question():
            results.append(result)
            if not options.json:
                print(table.line(result), flush=True)
    if options.json:
        print(table.as_json(results))
    return 1 if any(result.reached is False for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
