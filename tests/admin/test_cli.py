"""Restate's own command line, unmodified, operates an engine inside a process of its own."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.admin.facts.sides import ROOT, Cli, program

pytestmark = pytest.mark.process


class Operator(Cli):
    """The command line, and what an operator asks again and again."""

    def sql(self, query: str) -> Any:
        told = self("sql", "--json", query)
        rows, _ = json.JSONDecoder().raw_decode(told[told.index("[") :])
        return rows

    def status(self, id: str) -> str:
        rows = self.sql(f"SELECT status FROM sys_invocation WHERE id = '{id}'")
        return str(rows[0]["status"]) if rows else "gone"

    def sees(self, id: str, status: str) -> bool:
        """Whether it is in this state, at once or soon."""
        for _ in range(100):
            if self.status(id) == status:
                return True
            time.sleep(0.05)
        return False


@contextmanager
def operating(folder: Path) -> Iterator[tuple[Operator, str]]:
    binary = program("restate", "restate")
    command = [sys.executable, "-m", "tests.admin.served", str(folder / "served.db")]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port, waiting = server.stdout.readline().split()
        yield Operator(binary, f"http://127.0.0.1:{port}", folder), waiting
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)
        if server.stdout is not None:
            server.stdout.close()


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operator, str]]:
    """The command line, and the id of an invocation that waits for another one: both stay as they are."""
    with operating(tmp_path_factory.mktemp("cli")) as found:
        yield found


def test_services_are_listed_described_and_configured(operated: tuple[Operator, str]) -> None:
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


def test_invocations_are_listed_by_each_filter(operated: tuple[Operator, str]) -> None:
    cli, waiting = operated
    shown = re.compile(r"\u276f \[.*\] (inv_\w+)\n\s+Target:\s+(\S+)")
    everything = dict(shown.findall(cli("invocations", "list", "--all")))
    open_ = dict(shown.findall(cli("invocations", "list")))
    assert len(everything) == 9
    assert len(open_) == 6, "what is completed is hidden"
    assert open_[waiting] == "Greeter/parent"
    deployment = cli.sql("SELECT id FROM sys_deployment")[0]["id"]
    for arguments, targets in (
        (["--service", "Cart"], {"Cart/busy/hold", "Cart/busy/add"}),
        (["--handler", "boom"], {"Greeter/boom"}),
        (["--status", "backing-off"], {"Greeter/boom"}),
        (["--status", "scheduled,pending"], {"Greeter/greet", "Cart/busy/add"}),
        (["--key", "busy"], {"Cart/busy/hold", "Cart/busy/add"}),
        (["--virtual-objects-only"], {"Cart/busy/hold", "Cart/busy/add"}),
        (["--completion-result", "success", "--service", "Cart"], {"Cart/k/add"}),
        (["--completion-result", "failure"], set()),
        (["--deployment", deployment, "--service", "Cart"], {"Cart/busy/hold"}),
        (["--deployment", deployment, "--all", "--key", "k"], {"Cart/k/add"}),
        (["--zombie"], set()),
        (["--service", "Greeter", "--status", "running"], {"Greeter/parent", "Greeter/sleeper"}),
        (["--limit", "1", "--oldest-first", "--all"], {"Greeter/greet"}),
    ):
        assert {target for _, target in shown.findall(cli("invocations", "list", *arguments))} == targets, arguments
    told = cli("invocations", "list", "--handler", "boom")
    assert "backing-off" in told
    assert "[500] ValueError: boom" in told


def test_an_invocation_is_described_with_its_journal(operated: tuple[Operator, str]) -> None:
    cli, waiting = operated
    rows = cli.sql(f"SELECT id, target FROM sys_invocation WHERE invoked_by_id = '{waiting}'")
    child = {row["target"]: row["id"] for row in rows}
    told = cli("invocations", "describe", waiting)
    assert re.search(r"Target:\s+Greeter/parent", told)
    assert re.search(r"Status:\s+running", told)
    lines = re.findall(r"#(\d) \[.*?\] (.*?)\s*$", told, re.MULTILINE)
    assert lines == [
        ("0", "Command: Input"),
        ("1", f"Command: Call Greeter/greet {child['Greeter/greet']}"),
        ("1", "Notification: Call"),
        ("2", f"Command: Call Greeter/sleeper {child['Greeter/sleeper']}"),
    ]
    assert cli("invocations", "describe", "inv_1" + "0" * 33, fails=True)


def test_sql_is_answered_in_tables_and_in_json(operated: tuple[Operator, str]) -> None:
    cli, waiting = operated
    told = cli("sql", f"SELECT id, target, status FROM sys_invocation WHERE id = '{waiting}'")
    assert re.search(rf"{waiting}\s+Greeter/parent\s+running", told)
    assert "1 rows" in told
    [row] = cli.sql("SELECT name, revision, public, ty FROM sys_service WHERE name = 'Cart'")
    assert row == {"name": "Cart", "revision": 1, "public": True, "ty": "virtual_object"}
    assert "no such table" in cli("sql", "SELECT * FROM nowhere", fails=True)
    assert "only SELECT" in cli("sql", "DELETE FROM state", fails=True)


def test_state_is_read_patched_edited_and_cleared(operated: tuple[Operator, str], tmp_path: Path) -> None:
    cli, _ = operated
    assert re.search(r"count\s+3", cli("state", "get", "Cart", "k"))
    cli("state", "patch", "Cart", "k", "-p", '[{"op": "replace", "path": "/count", "value": 7}]')
    assert re.search(r"count\s+7", cli("state", "get", "Cart", "k"))
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i.before 's/7/8/' \"$1\"\n")
    editor.chmod(0o755)
    assert "Successfully submitted" in cli("state", "edit", "Cart", "k", EDITOR=str(editor), VISUAL=str(editor))
    assert re.search(r"count\s+8", cli("state", "get", "Cart", "k"))
    assert "Enqueued successfully" in cli("state", "clear", "Cart/k")
    assert "count" not in cli("state", "get", "Cart", "k")


def test_deployments_subscriptions_and_health(operated: tuple[Operator, str]) -> None:
    cli, _ = operated
    told = cli("deployments", "list")
    [id] = set(re.findall(r"dp_\w+", told))
    assert re.findall(r"- (\w+ \[\d\])", told) == ["Cart [1]", "Greeter [1]"]
    told = cli("deployments", "describe", id)
    assert re.search(rf"ID:\s+{id}", told)
    assert re.search(r"greet\s+JSON string\s+JSON string", told)
    assert "No subscriptions" in cli("subscriptions", "list")
    assert "healthy" in cli("whoami")
    assert "restart the process" in cli("deployments", "register", "http://127.0.0.1:9", fails=True)


def test_invocations_are_steered_by_id_and_by_target(tmp_path: Path) -> None:
    with operating(tmp_path) as (cli, waiting):
        steer(cli, waiting)


def steer(cli: Operator, waiting: str) -> None:
    [row] = cli.sql(f"SELECT id FROM sys_invocation WHERE invoked_by_id = '{waiting}' AND status = 'running'")
    child = row["id"]

    def restarted(query: str) -> str:
        told = cli("invocations", "restart-as-new", query)
        assert "Restarted 1 invocations" in told
        [old, new] = re.findall(r"(inv_\w+)\s+(inv_\w+)", told)[-1]
        assert old == waiting
        return str(new)

    for id, query in ((waiting, waiting), (child, "Greeter/sleeper")):
        assert "Paused 1 invocations" in cli("invocations", "pause", query)
        assert cli.sees(id, "paused")
        assert "Resumed 1 invocations" in cli("invocations", "resume", query)
        assert cli.sees(id, "running")
    assert "Cancelled 1 invocations" in cli("invocations", "cancel", "Greeter/boom")
    assert "Killed 1 invocations" in cli("invocations", "kill", waiting)
    assert (cli.status(waiting), cli.status(child)) == ("completed", "completed")
    again, and_again = restarted(waiting), restarted("Greeter/parent")
    assert cli.sees(again, "running")
    assert "Cancelled 1 invocations" in cli("invocations", "cancel", again)
    assert cli.sees(again, "completed")
    assert "Killed 1 invocations" in cli("invocations", "kill", "Greeter/parent")
    assert cli.status(and_again) == "completed"
    assert "Purged 1 invocations" in cli("invocations", "purge", waiting)
    assert "Purged 2 invocations" in cli("invocations", "purge", "Greeter/parent")
    assert {cli.status(id) for id in (waiting, again, and_again)} == {"gone"}
    assert "Killed 2 invocations" in cli("invocations", "kill", "Cart/busy")
    assert "No invocations found" in cli("invocations", "cancel", "Cart/busy", fails=True)
