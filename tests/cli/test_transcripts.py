"""What every command prints, piped and on a terminal: compared with `transcripts/`.

After a change that is meant, run it with REWRITE_TRANSCRIPTS=1, and read the difference.
"""

import difflib
import os
import sqlite3
from pathlib import Path

import pytest

from tests.cli.scene import Scene, scene
from tests.cli.terminal import on_a_terminal
from tests.cli.typed import ESCAPES, Names, commands, told, typed

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def compare(name: str, found: str) -> None:
    file = TRANSCRIPTS / f"{name}.txt"
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        file.write_text(found)
        return
    before, now = file.read_text().splitlines(), found.splitlines()
    assert before == now, "\n".join(difflib.unified_diff(before, now, "as it was", "as it is", lineterm=""))


def piped(name: str, names: Names) -> None:
    """Each command of a transcript, in this process."""
    found = ""
    for command in commands((TRANSCRIPTS / f"{name}.txt").read_text()):
        result = typed(*names.arguments(command.line))
        assert not ESCAPES.search(result.out + result.err), "no colour in a pipe"
        assert "Traceback" not in result.err
        found += f"$ durable {command.line}\n{names.stable(told(result))}"
    compare(name, found)


def on_terminal(name: str, names: Names, folder: Path, *, columns: int) -> list[str]:
    """Each command of a transcript, on a terminal of its own; returns what was printed, with its colours."""
    lines = [command.line for command in commands((TRANSCRIPTS / f"{name}.txt").read_text())]
    printed = on_a_terminal([names.arguments(line) for line in lines], folder, columns=columns)
    assert len(printed) == len(lines), printed
    for line, one in zip(lines, printed, strict=True):
        if "--json" not in line and not line.startswith("check-file") and "durable: " not in one:
            assert max(map(len, ESCAPES.sub("", one).splitlines())) <= columns, (line, one)
    found = [
        f"$ durable {line}\n{names.stable(ESCAPES.sub('', one))}" for line, one in zip(lines, printed, strict=True)
    ]
    compare(name, "".join(found))
    return printed


def names_of(running: Scene, folder: Path) -> Names:
    return Names({**running.names(), "FOLDER": str(folder)})


def test_a_running_engine_and_then_its_stopped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DURABLE_DB", "DURABLE_ADMIN_URL", "DURABLE_INGRESS_URL", "DURABLE_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with scene(tmp_path / "app.db") as running:
        names = names_of(running, folder)
        coloured = on_terminal("terminal", names, folder, columns=100)
        assert "\x1b[" in coloured[0]
        on_terminal("narrow", names, folder, columns=60)
        piped("running", names)
    with scene(tmp_path / "stopped.db") as running:
        names = names_of(running, folder)
    piped("stopped", names)


def test_files_that_are_not_there_or_not_ours(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database")
    (tmp_path / "empty.db").touch()
    with sqlite3.connect(tmp_path / "foreign.db") as database:
        database.execute("CREATE TABLE guests (name)")
    database.close()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    piped("nowhere", Names({"FOLDER": str(tmp_path), "ROOT": str(Path.cwd())}))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before, "nothing is touched"
