"""What every command prints, piped and on a terminal: compared with `transcripts/`.

After a change that is meant, run it with REWRITE_TRANSCRIPTS=1, and read the difference.
"""

import difflib
import os
import re
import sqlite3
from pathlib import Path

import pytest

from tests.cli.scene import Scene, scene
from tests.cli.terminal import on_a_terminal
from tests.cli.typed import ESCAPES, Names, commands, told, typed

TRANSCRIPTS = Path(__file__).parent / "transcripts"
REDRAWN = re.compile(r" watch | --(service|status|reason) .* --(yes|dry-run)")


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


def same_on_terminal(name: str, names: Names, folder: Path) -> None:
    """Each command of a transcript, on a terminal that is wide enough: the same lines, in whatever order.

    But for those that ask there. Of those that draw again (what is watched, a bar) the last lines are compared.
    """
    every = commands((TRANSCRIPTS / f"{name}.txt").read_text())
    wanted = [one for one in every if "Nobody can be asked" not in one.told]
    printed = on_a_terminal([names.arguments(one.line) for one in wanted], folder, columns=900)
    for command, shown in zip(wanted, printed, strict=True):
        found = names.stable(ESCAPES.sub("", shown)).splitlines()
        expected = [line.removeprefix("! ").removeprefix("!") for line in command.told.splitlines()]
        if REDRAWN.search(command.line):
            expected = [line for line in command.told.splitlines() if not line.startswith("!")]
            found = found[len(found) - len(expected) :]
        assert sorted(map(str.strip, found)) == sorted(map(str.strip, expected)), command.line


def names_of(running: Scene, folder: Path) -> Names:
    return Names({**running.names(), "FOLDER": str(folder)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another one than where the database is; nothing in the environment says where that is."""
    for variable in ("DURABLE_DB", "DURABLE_ADMIN_URL", "DURABLE_INGRESS_URL", "DURABLE_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    made = tmp_path / "elsewhere"
    made.mkdir()
    return made


def test_on_a_terminal_tables_fit_and_have_colours(tmp_path: Path, folder: Path) -> None:
    with scene(tmp_path / "app.db") as running:
        names = names_of(running, folder)
        coloured = on_terminal("terminal", names, folder, columns=100)
        assert "\x1b[" in coloured[0]
        on_terminal("narrow", names, folder, columns=60)


def test_a_running_engine_and_a_stopped_file_in_a_pipe(tmp_path: Path, folder: Path) -> None:
    with scene(tmp_path / "app.db") as running:
        piped("running", names_of(running, folder))
    with scene(tmp_path / "stopped.db") as running:
        names = names_of(running, folder)
    piped("stopped", names)


def test_every_command_says_the_same_on_a_terminal(tmp_path: Path, folder: Path) -> None:
    with scene(tmp_path / "app.db") as running:
        same_on_terminal("running", names_of(running, folder), folder)
    with scene(tmp_path / "stopped.db") as running:
        names = names_of(running, folder)
    same_on_terminal("stopped", names, folder)
    same_on_terminal("nowhere", Names({"FOLDER": str(strange(tmp_path)), "ROOT": str(Path.cwd())}), folder)


def strange(folder: Path) -> Path:
    """A folder with files that are no databases of ours."""
    (folder / "text.db").write_text("this is no database")
    (folder / "empty.db").touch()
    with sqlite3.connect(folder / "foreign.db") as database:
        database.execute("CREATE TABLE guests (name)")
    database.close()
    return folder


def test_files_that_are_not_there_or_not_ours(tmp_path: Path) -> None:
    strange(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    piped("nowhere", Names({"FOLDER": str(tmp_path), "ROOT": str(Path.cwd())}))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before, "nothing is touched"
