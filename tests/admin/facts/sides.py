"""Both sides in processes of their own: an engine here, and Restate's server with the same services."""

import contextlib
import fcntl
import functools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

ROOT = Path(__file__).parents[3]
#: The release of Restate's server and command line whose answers are known.
VERSION = "1.7.12"


def program(package: str, name: str) -> str:
    """A program out of its npm package, which is fetched once and kept outside of the checkout."""
    if shutil.which("npm") is None:
        assert not os.environ.get("CI"), f"CI runs Restate's own {name}: it needs npm"
        pytest.skip(f"npm is not there to fetch Restate's own {name}")
    folder = Path(tempfile.gettempdir()) / f"durable-{package}-{VERSION}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
        path = folder / f"node_modules/@restatedev/{package}-{sys.platform}-{machine}/bin/{name}"
        if not path.exists():
            install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run(
                [*install, f"@restatedev/{package}@{VERSION}"], check=True, capture_output=True, timeout=100
            )
    return str(path)


class Cli:
    """Restate's command line, pointed at an admin API."""

    def __init__(self, binary: str, url: str, home: Path) -> None:
        self._binary = binary
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "RESTATE_CLI_CONFIG_HOME": str(home),
            "RESTATE_ADMIN_URL": url,
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Its exit status, and all that it printed, without colors."""
        ended = subprocess.run(
            [self._binary, "-y", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**self._environment, **environment},
        )
        return ended.returncode, re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout + ended.stderr)

    def __call__(self, *arguments: str, fails: bool = False, **environment: str) -> str:
        status, told = self.run(*arguments, **environment)
        assert (status != 0) is fails, f"{arguments}: {told}"
        return told


class Side:
    """One of the two: its admin API, its command line, and a way to start invocations."""

    def __init__(self, name: str, url: str, ingress: str, cli: Cli, endpoint: str) -> None:
        self.name = name
        self.http = httpx.Client(base_url=url, timeout=30)
        #: Where the services for the SDK are served.
        self.endpoint = endpoint
        #: Where handlers are invoked over HTTP.
        self.ingress = ingress
        self.cli = cli
        #: Invocation ids, by what they were started as.
        self.ids: dict[str, str] = {}

    def start(
        self,
        label: str,
        target: str,
        input: Any = None,
        *,
        delay: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Send to "service/handler" or "service/key/handler"; both sides then know the invocation by its label."""
        time.sleep(0.02)  # no two at the same ms, nor handled together: lists are in order of that
        answer = self.http.post(
            f"{self.ingress}/{target}/send",
            params={} if delay is None else {"delay": delay},
            headers={} if idempotency_key is None else {"idempotency-key": idempotency_key},
            **({} if input is None else {"json": input}),
        )
        assert answer.status_code == 202, answer.text
        self.ids[label] = id = answer.json()["invocationId"]
        return str(id)

    def names(self) -> dict[str, str]:
        """What invocations are called on both sides, by id."""
        return {id: label for label, id in self.ids.items()}

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """What `POST /query` answers."""
        answer = self.http.post("/query", json={"query": statement}, headers={"accept": "application/json"})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["rows"]
        return [{name: _inside(name, value) for name, value in row.items()} for row in rows]

    def row(self, statement: str) -> dict[str, Any]:
        """The only row of a statement, as soon as there is one."""
        deadline = time.monotonic() + 30
        while len(rows := self.rows(statement)) != 1:
            assert time.monotonic() < deadline, f"{self.name}: {statement}: {rows}"
            time.sleep(0.02)
        return rows[0]

    def until(self, statement: str, row: dict[str, Any] | None) -> None:
        """Wait until a statement has this row, or none."""
        deadline = time.monotonic() + 30
        while (rows := self.rows(statement)) != ([] if row is None else [row]):
            assert time.monotonic() < deadline, f"{self.name}: {statement}: {rows}, not {row}"
            time.sleep(0.02)

    def reaches(self, status: str, *labels: str) -> None:
        """Wait until invocations are in this state."""
        deadline = time.monotonic() + 30
        while set((found := self.statuses(*labels)).values()) != {status}:
            assert time.monotonic() < deadline, f"{self.name}: {found}, not {status}"
            time.sleep(0.02)

    def records(self, label: str, entries: int) -> None:
        """Wait until an invocation's journal has that many entries."""
        self.row(
            f"SELECT id FROM sys_journal WHERE id = '{self.ids[label]}' GROUP BY id HAVING count(*) >= {entries}"
        )

    def settles(self) -> None:
        """Wait until nothing is recorded any more for a while."""
        before: list[dict[str, Any]] = []
        while (now := self.rows("SELECT id, count(*) AS entries FROM sys_journal GROUP BY id ORDER BY id")) != before:
            before = now
            time.sleep(0.25)

    def statuses(self, *labels: str) -> dict[str, str]:
        """What invocations do now; "gone" where there is none."""
        ids = ", ".join(f"'{self.ids[label]}'" for label in labels)
        rows = {
            row["id"]: row["status"]
            for row in self.rows(f"SELECT id, status FROM sys_invocation WHERE id IN ({ids})")
        }
        return {label: rows.get(self.ids[label], "gone") for label in labels}

    @functools.cached_property
    def deployment(self) -> str:
        """The id of the only deployment."""
        [deployment] = self.http.get("/deployments").json()["deployments"]
        return str(deployment["id"])


def _inside(column: str, value: Any) -> Any:
    """What a column with JSON tells."""
    return json.loads(value) if column.endswith("_json") and isinstance(value, str) else value


@contextlib.contextmanager
def process(*command: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A running program; yields the file with its output."""
    said = folder / "stdout"
    with said.open("w") as out, (folder / "stderr").open("w") as err:
        started = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, env={**os.environ, **environment})
    try:
        yield said
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait(timeout=30)


def line_of(said: Path, having: str = "") -> str:
    """The first whole line of a program's output that has this text."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in said.read_text().splitlines(keepends=True):
            if having in line and line.endswith("\n"):
                return line
        time.sleep(0.02)
    raise TimeoutError(f"{said}: no line with {having!r}: {said.read_text()}{(said.parent / 'stderr').read_text()}")


class Servers(NamedTuple):
    """Where both sides answer."""

    ingress: str
    admin: str
    #: Where the services for the SDK are served.
    endpoint: str
    #: What the module serves that was given as ours.
    ours: str


@contextlib.contextmanager
def both(folder: Path) -> Iterator[tuple[Side, Side]]:
    """Theirs and ours, on free ports of this machine, with empty files."""
    binary = program("restate", "restate")
    home = folder / "home"
    home.mkdir()
    with servers(folder, "tests.admin.facts.theirs", "tests.admin.facts.ours") as at:
        here = f"{at.ours}/admin"
        sides = (
            Side("theirs", at.admin, at.ingress, Cli(binary, at.admin, home), at.endpoint),
            Side("ours", here, f"{at.ours}/ingress", Cli(binary, here, home), at.endpoint),
        )
        with sides[0].http, sides[1].http:
            yield sides


@contextlib.contextmanager
def servers(folder: Path, theirs: str, ours: str) -> Iterator[Servers]:
    """Restate's server, with the services that the module `theirs` serves, and what the module `ours` does."""
    server = program("restate-server", "restate-server")
    folders = {name: folder / name for name in ("theirs", "sdk", "ours")}
    for one in folders.values():
        one.mkdir()
    modest = {
        "RESTATE_LOG_FORMAT": "json",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_DEFAULT_NUM_PARTITIONS": "1",
        "RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE": "64MiB",
    }
    options = "--no-logo --listen-mode tcp --use-random-ports true --bind-ip 127.0.0.1 --node-name one --base-dir"
    with contextlib.ExitStack() as running:

        def started(name: str, *command: str, **environment: str) -> Path:
            return running.enter_context(process(*command, folder=folders[name], environment=environment))

        log = started("theirs", server, *options.split(), str(folders["theirs"] / "data"), **modest)
        sdk = started("sdk", sys.executable, "-m", theirs)
        own = started("ours", sys.executable, "-m", ours, str(folder / "ours.db"))
        ingress, admin = (
            f"http://127.0.0.1:{json.loads(line_of(log, name))['span']['server.port']}"
            for name in ("http-ingress-server", "admin-api-server")
        )
        endpoint, url = (f"http://127.0.0.1:{int(line_of(said))}" for said in (sdk, own))
        registered = httpx.post(f"{admin}/deployments", json={"uri": endpoint}, timeout=30)
        assert registered.status_code == 201, registered.text
        yield Servers(ingress, admin, endpoint, url)
