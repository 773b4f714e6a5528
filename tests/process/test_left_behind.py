"""An engine that is left without a close: the process ends, says nothing, and the next engine has the file."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.process.left_behind import WAYS, Program, refused_meanwhile

REPOSITORY = Path(__file__).parents[2]
#: How each way ends: with which exception.
ENDS = {
    "exits": "SystemExit",
    "exits_inside": "SystemExit",
    "callback_exits": "SystemExit",
    "raises": "ZeroDivisionError",
    "interrupted": "KeyboardInterrupt",
    "interrupted_twice": "KeyboardInterrupt",
}

#: Those that close the engine after all, or have nothing to close.
IN_ORDER = ("exits_inside", "starting")

pytestmark = pytest.mark.process


def left(how: str, path: Path, *more: str) -> tuple[dict[str, Any], str, float]:
    """What the program says, what there is on stderr, and how long it took after it had said it."""
    program = subprocess.Popen(
        [sys.executable, "-W", "default", "-m", "tests.process.left_behind", how, str(path), *more],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout is not None and program.stderr is not None
    try:
        told = json.loads(program.stdout.readline() or "{}")
        said_at = time.monotonic()
        _, complaints = program.communicate(timeout=90)
        assert program.returncode == 0, complaints
        return told, complaints, time.monotonic() - said_at
    finally:
        program.kill()
        program.wait(10)


def of_interest(complaints: str) -> list[str]:
    """What is on stderr but for what a shutdown in order says of steps that still ran."""
    return [line for line in complaints.splitlines() if not line.startswith("when the engine shut down, ")]


@pytest.mark.parametrize("how", WAYS)
def test_the_process_ends_and_says_nothing(tmp_path: Path, how: str) -> None:
    """Meanwhile handlers wait for timers, steps and the event loop, and a step blocks its thread for a minute."""
    told, complaints, took = left(how, tmp_path / "a.db")
    assert told == {"ended": ENDS.get(how, "")}
    assert of_interest(complaints) == []
    assert took < 30, "nobody waits for a thread that is in a step"


@pytest.mark.parametrize("how", WAYS)
def test_the_next_engine_of_the_process_takes_its_place(tmp_path: Path, how: str) -> None:
    """Although somebody still holds the first one. What was running is charged for it once, as after a crash:
    a handler that calls `sys.exit` ends its process, too."""
    told, complaints, _ = left(how, tmp_path / "a.db", "again")
    assert told["took"] < 30, "not the minute for which it would wait"
    assert told["failures"] == (0 if how in IN_ORDER else 1)
    assert told["result"] == 2
    assert of_interest(complaints) == []


def test_while_its_event_loop_runs_nobody_takes_its_place(tmp_path: Path) -> None:
    assert refused_meanwhile(Program(str(tmp_path / "a.db")))
