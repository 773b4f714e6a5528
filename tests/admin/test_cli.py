"""Restate's own command line, unmodified, operates an engine inside a process of its own."""

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
#: The version whose queries and answers are known.
VERSION = "1.7.12"


@pytest.fixture(scope="module")
def binary() -> str:
    """The program out of its npm package, which is fetched once; `RESTATE_CLI` names one that is there already."""
    given = os.environ.get("RESTATE_CLI")
    if given:
        return given
    if shutil.which("npm") is None:
        assert not os.environ.get("CI"), "CI runs the official command line: it needs npm"
        pytest.skip("npm is not there to fetch the official restate command line")
    folder = Path(tempfile.gettempdir()) / f"durable-restate-cli-{VERSION}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
        program = folder / f"node_modules/@restatedev/restate-{sys.platform}-{machine}/bin/restate"
        if not program.exists():
            install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run([*install, f"@restatedev/restate@{VERSION}"], check=True, capture_output=True, timeout=100)
    return str(program)


class Cli:
    """The command line, pointed at a served engine."""

    def __init__(self, binary: str, port: str, home: Path) -> None:
        self._binary = binary
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "RESTATE_CLI_CONFIG_HOME": str(home),
            "RESTATE_ADMIN_URL": f"http://127.0.0.1:{port}",
            "NO_COLOR": "1",
        }

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        ended = subprocess.run(
            [self._binary, "-y", *arguments], capture_output=True, text=True, timeout=60, env=self._environment
        )
        assert (ended.returncode != 0) is fails, f"{arguments}: {ended.stdout}{ended.stderr}"
        return re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout + ended.stderr)

    def sql(self, query: str) -> Any:
        told = self("sql", "--json", query)
        rows, _ = json.JSONDecoder().raw_decode(told[told.index("[") :])
        return rows


@pytest.fixture(scope="module")
def operated(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, str]]:
    """The command line, and the id of an invocation that waits for another one."""
    folder = tmp_path_factory.mktemp("cli")
    command = [sys.executable, "-m", "tests.admin.served", str(folder / "served.db")]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port, waiting = server.stdout.readline().split()
        yield Cli(binary, port, folder), waiting
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
        if server.stdout is not None:
            server.stdout.close()


def test_services_are_listed_described_and_configured(operated: tuple[Cli, str]) -> None:
    cli, _ = operated
    told = cli("services", "list")
    assert re.search(r"\[public\]\s+Cart\s+1\s+virtual object", told)
    assert re.search(r"\[public\]\s+Greeter\s+1", told)
    told = cli("services", "describe", "Cart")
    assert re.search(r"Service type:\s+VirtualObject", told)
    assert re.search(r"add\s+JSON integer\s+JSON integer", told)
    told = cli("services", "status")
    assert re.search(r"boom( +-)+ +1 ", told)
    assert re.search(r"busy +1 +inv_\w+ \(running\) +hold", told)
    told = cli("services", "config", "view", "Greeter")
    assert re.search(r"Abort timeout:\s+10m", told)
    assert re.search(r"Max attempts:\s+70", told)
    cli("services", "config", "patch", "Greeter", "--inactivity-timeout", "5 minutes", "--public", "false")
    told = cli("services", "config", "view", "Greeter")
    assert re.search(r"Inactivity timeout:\s+5m", told)
    assert re.search(r"Public:\s+false", told)
    cli("services", "config", "patch", "Greeter", "--public", "true")


def test_invocations_are_listed_by_each_filter(operated: tuple[Cli, str]) -> None:
    cli, waiting = operated
    shown = re.compile(r"\u276f \[.*\] (inv_\w+)\n\s+Target:\s+(\S+)")
    everything = dict(shown.findall(cli("invocations", "list", "--all")))
    open_ = dict(shown.findall(cli("invocations", "list")))
    assert len(everything) == 9
    assert len(open_) == 6, "what is completed is hidden"
    assert open_[waiting] == "Greeter/parent"
    for arguments, targets in (
        (["--service", "Cart"], {"Cart/busy/hold", "Cart/busy/add"}),
        (["--handler", "boom"], {"Greeter/boom"}),
        (["--status", "backing-off"], {"Greeter/boom"}),
        (["--status", "scheduled,pending"], {"Greeter/greet", "Cart/busy/add"}),
        (["--key", "busy"], {"Cart/busy/hold", "Cart/busy/add"}),
        (["--virtual-objects-only"], {"Cart/busy/hold", "Cart/busy/add"}),
        (["--completion-result", "success", "--service", "Cart"], {"Cart/k/add"}),
        (["--service", "Greeter", "--status", "running"], {"Greeter/parent", "Greeter/sleeper"}),
        (["--limit", "1", "--oldest-first", "--all"], {"Greeter/greet"}),
    ):
        assert {target for _, target in shown.findall(cli("invocations", "list", *arguments))} == targets, arguments
    told = cli("invocations", "list", "--handler", "boom")
    assert "backing-off" in told
    assert "[500] ValueError: boom" in told


def test_an_invocation_is_described_with_its_journal(operated: tuple[Cli, str]) -> None:
    cli, waiting = operated
    told = cli("invocations", "describe", waiting)
    assert re.search(r"Target:\s+Greeter/parent", told)
    assert re.search(r"Status:\s+running", told)
    lines = re.findall(r"#(\d) \[.*?\] (.*?)\s*$", told, re.MULTILINE)
    assert [number for number, _ in lines] == ["0", "1", "1", "2"]
    assert lines[0][1] == "Command: Input"
    assert lines[1][1].startswith("Command: Call"), told
    assert lines[2][1] == "Notification: Call"
    assert cli("invocations", "describe", "inv_1" + "0" * 33, fails=True)


def test_sql_is_answered_in_tables_and_in_json(operated: tuple[Cli, str]) -> None:
    cli, waiting = operated
    told = cli("sql", f"SELECT id, target, status FROM sys_invocation WHERE id = '{waiting}'")
    assert re.search(rf"{waiting}\s+Greeter/parent\s+running", told)
    assert "1 rows" in told
    [row] = cli.sql("SELECT name, revision, public, ty FROM sys_service WHERE name = 'Cart'")
    assert row == {"name": "Cart", "revision": 1, "public": True, "ty": "virtual_object"}
    assert "no such table" in cli("sql", "SELECT * FROM nowhere", fails=True)
    assert "only SELECT" in cli("sql", "DELETE FROM state", fails=True)


def test_state_is_read_patched_and_cleared(operated: tuple[Cli, str]) -> None:
    cli, _ = operated
    assert re.search(r"count\s+3", cli("state", "get", "Cart", "k"))
    cli("state", "patch", "Cart", "k", "-p", '[{"op": "replace", "path": "/count", "value": 7}]')
    assert re.search(r"count\s+7", cli("state", "get", "Cart", "k"))
    assert "Enqueued successfully" in cli("state", "clear", "Cart/k")
    assert not re.search(r"count\s+7", cli("state", "get", "Cart", "k"))


def test_deployments_subscriptions_and_health(operated: tuple[Cli, str]) -> None:
    cli, _ = operated
    [id] = set(re.findall(r"dp_\w+", cli("deployments", "list")))
    assert "Greeter" in cli("deployments", "describe", id)
    assert "No subscriptions" in cli("subscriptions", "list")
    assert "healthy" in cli("whoami")
    assert "restart the process" in cli("deployments", "register", "http://127.0.0.1:9", fails=True)


def test_invocations_are_steered_by_id_and_by_target(operated: tuple[Cli, str]) -> None:
    """The last test: it ends what the others look at."""
    cli, waiting = operated

    def status(id: str) -> str:
        rows = cli.sql(f"SELECT status FROM sys_invocation WHERE id = '{id}'")
        return str(rows[0]["status"]) if rows else "gone"

    assert "Paused 1 invocations" in cli("invocations", "pause", waiting)
    assert status(waiting) == "paused"
    assert "Resumed 1 invocations" in cli("invocations", "resume", waiting)
    assert status(waiting) != "paused"
    assert "Cancelled 1 invocations" in cli("invocations", "cancel", "Greeter/boom")
    assert "Killed 1 invocations" in cli("invocations", "kill", waiting)
    assert status(waiting) == "completed"
    told = cli("invocations", "restart-as-new", waiting)
    [again] = set(re.findall(r"inv_\w+", told)) - {waiting}
    assert "Restarted 1 invocations" in told
    assert "Purged 1 invocations" in cli("invocations", "purge", waiting)
    assert status(waiting) == "gone"
    assert "Killed 1 invocations" in cli("invocations", "kill", again)
    assert "Killed 2 invocations" in cli("invocations", "kill", "Cart/busy")
    assert "No invocations found" in cli("invocations", "cancel", "Cart/busy", fails=True)
