"""Runs mypy, as a user would, over a program that is right and one that is full of mistakes."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
IGNORE = re.compile(r"  # type: ignore\[.*\]")


def test_mypy_understands_a_users_program_and_finds_every_planted_mistake(tmp_path: Path) -> None:
    mistakes = (HERE / "misuse.py").read_text()
    planted = [number for number, line in enumerate(mistakes.splitlines(), 1) if IGNORE.search(line)]
    naked = tmp_path / "naked.py"
    naked.write_text(IGNORE.sub("", mistakes))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"]
    done = subprocess.run(
        [*command, str(HERE / "user_program.py"), str(naked)], capture_output=True, text=True, cwd=HERE.parent.parent
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    lines = [re.search(r"naked\.py:(\d+): error:", error) for error in errors]
    elsewhere = [error for error, line in zip(errors, lines, strict=True) if line is None]
    assert not elsewhere, "\n".join(elsewhere)
    assert sorted({int(line[1]) for line in lines if line}) == planted, done.stdout + done.stderr
