"""Runs type checkers, as a user would, over programs that are right and one that is full of mistakes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
IGNORE = re.compile(r"  # type: ignore\[.*\]")


def test_mypy_understands_a_users_program_and_finds_every_planted_mistake(tmp_path: Path) -> None:
    mistakes = (HERE / "misuse.py").read_text()
    planted = [number for number, line in enumerate(mistakes.splitlines(), 1) if IGNORE.search(line)]
    naked = tmp_path / "naked.py"
    naked.write_text(IGNORE.sub("", mistakes))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"]
    programs = [str(HERE / "user_program.py"), str(HERE / "default_program.py"), str(naked)]
    done = subprocess.run([*command, *programs], capture_output=True, text=True, cwd=HERE.parent.parent)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    lines = [re.search(r"naked\.py:(\d+): error:", error) for error in errors]
    elsewhere = [error for error, line in zip(errors, lines, strict=True) if line is None]
    assert not elsewhere, "\n".join(elsewhere)
    assert sorted({int(line[1]) for line in lines if line}) == planted, done.stdout + done.stderr


def test_pyright_understands_a_client_in_its_strict_mode(tmp_path: Path) -> None:
    """And finds the mistake that is planted in a copy."""
    right = (HERE / "client_program.py").read_text()
    (tmp_path / "right.py").write_text(right)
    wrong = right.replace("assert_type(await api.call(ping), str)", "assert_type(await api.call(ping), int)")
    (tmp_path / "wrong.py").write_text(wrong)
    (tmp_path / "default.py").write_text((HERE / "default_program.py").read_text())
    settings = {
        "include": ["right.py", "wrong.py", "default.py"],
        "typeCheckingMode": "strict",
        "extraPaths": [str(HERE.parent.parent)],
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    if shutil.which("node") is None:
        assert not os.environ.get("CI"), "CI runs pyright: it needs node"
        pytest.skip("pyright needs node")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    errors = [(Path(one["file"]).name, one["message"]) for one in json.loads(done.stdout)["generalDiagnostics"]]
    assert [name for name, _ in errors] == ["wrong.py"], (errors, done.stderr)
