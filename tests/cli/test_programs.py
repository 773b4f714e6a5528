"""The program as a process: served and ended, started again, completed by shells, without what it needs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from durable.cli import main
from durable.cli.completion import WAYS
from tests.cli.typed import typed

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(*arguments: object, folder: Path = ROOT, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """`durable serve …` on ports that the system chooses."""
    command = [sys.executable, "-m", "durable", "serve", *map(str, arguments)]
    environment = {**os.environ, "CLI_DB": str(path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--ingress", "127.0.0.1:0", "--admin", "127.0.0.1:0"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def url(process: "subprocess.Popen[str]") -> str:
    """Where the ingress is, once it is open."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.fullmatch(r"ingress on (\S+)\n", line):
            return found[1]
    raise AssertionError("it did not begin to serve")


def test_an_engine_is_served_until_it_is_told_to_end(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with serving("tests.cli.program:engine", "--promises", path=path) as process:
        ingress = url(process)
        assert httpx.post(f"{ingress}/restate/promises/SignUp/w/answer/resolve", json="yes").status_code == 202
        assert httpx.post(f"{ingress}/restate/signals/inv_1{'0' * 33}/go/resolve", json=1).status_code == 404
        assert httpx.post(f"{ingress}/Shop/greet", json="Ada").json() == "Hello, Ada!"
        assert typed("call", "Shop/greet", '"Bea"', "--db", path).out == '"Hello, Bea!"\n'
        second = typed("restore", path, "--db", path, "--yes")
        assert second.code != 0
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert not path.with_name("app.db-wal").exists()


def test_a_file_or_a_port_that_is_taken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.db"
    with serving("tests.cli.program:engine", path=path) as process:
        port = url(process).rpartition(":")[2]
        with serving("tests.cli.program:engine", path=path) as second:
            told = second.communicate(timeout=30)[0]
            assert second.returncode == 4
            assert re.search(r"^durable: .* is in use by another engine", told, re.MULTILINE)
            assert "Traceback" not in told
        command = [
            sys.executable,
            "-m",
            "durable",
            "serve",
            "tests.cli.program:engine",
            "--ingress",
            f"127.0.0.1:{port}",
        ]
        environment = {**os.environ, "CLI_DB": str(tmp_path / "other.db")}
        third = subprocess.run(
            command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=30, check=False
        )
        assert third.returncode == 4
        assert third.stderr.startswith(f"durable: the ingress cannot be served on 127.0.0.1:{port}")


def test_with_reload_it_starts_again_when_code_changes(tmp_path: Path) -> None:
    code = tmp_path / "shop.py"
    text = """
import os
from durable import Context, Engine, handler

@handler(service="Shop")
async def version(ctx: Context) -> int:
    return 1

engine = Engine(os.environ["CLI_DB"], services=[version])
"""
    code.write_text(text)
    with serving("shop:engine", "--reload", folder=tmp_path, path=tmp_path / "app.db") as process:
        assert httpx.post(f"{url(process)}/Shop/version").json() == 1
        code.write_text(text.replace("return 1", "return 22"))
        assert httpx.post(f"{url(process)}/Shop/version").json() == 22
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_whoever_stops_reading_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "durable", "completion", "bash"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    process.wait(30)
    assert told == b""


def test_without_the_extra_it_says_how_to_get_it() -> None:
    for package in ("click", "rich"):
        code = f"import sys; sys.modules[{package!r}] = None; from durable.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode == 1
        assert done.stderr == f"durable: the command line needs {package}: pip install 'durable-engine[cli]'\n"


def test_the_console_script_is_this_program() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"durable": f"{main.__module__}:{main.__name__}"}


# ---- completion ----

COMPLETE = {
    "bash": """
        source "$1"
        COMP_WORDS=(durable invocations ki); COMP_CWORD=2; _durable_completion durable; echo "${COMPREPLY[@]}"
        COMPREPLY=()
        COMP_WORDS=(durable invocations list --status pau); COMP_CWORD=4; _durable_completion durable
        echo "${COMPREPLY[@]}"
        """,
    "zsh": """
        autoload -U compinit; compinit -D -u; source "$1"
        print -r -- ${_comps[durable]}
        COMP_WORDS="durable invocations ki" COMP_CWORD=2 _DURABLE_COMPLETE=zsh_complete durable | grep kill
        """,
    "fish": """
        source $argv[1]
        complete -C "durable invocations ki" | cut -f1
        complete -C "durable invocations list --status pau" | cut -f1
        """,
}
FOUND = {"bash": ["kill", "paused"], "zsh": ["_durable_completion", "kill"], "fish": ["kill", "paused"]}


@pytest.mark.parametrize("shell", WAYS)
def test_a_shell_completes_commands(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        assert "CI" not in os.environ, f"{shell} is not here: .ci/run installs it"
        pytest.skip(f"{shell} is not here")
    script, program = tmp_path / "script", tmp_path / "durable"
    script.write_text(typed("completion", shell).out)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m durable "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    bare = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    arguments = [str(script)] if shell == "fish" else ["-", str(script)]
    done = subprocess.run(
        [shell, *bare, "-c", COMPLETE[shell], *arguments], cwd=ROOT, env=environment, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == FOUND[shell]
