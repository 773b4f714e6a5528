"""`engine.serve()`: a script that is reached over HTTP, and ends in order."""

import asyncio
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import Engine, EngineFailedError, UsageError
from durable.ingress import create_app
from tests.ports import reserved_port
from tests.serving.program import greet, wait

ROOT = Path(__file__).parents[2]


@contextmanager
def program(path: Path) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """The script, its ingress and its admin API."""
    command = [sys.executable, "-m", "tests.serving.program", str(path), "0", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"serving ingress on (\S+), admin on (\S+)", line):
                yield process, found[1], found[2]
                break
        else:
            pytest.fail("it did not begin to serve")
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def serving(engine: Engine, **options: Any) -> AsyncIterator["asyncio.Task[None]"]:
    """In this process, until it is cancelled."""
    task = asyncio.ensure_future(engine.serve(**options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def answered(url: str) -> httpx.Response:
    """Once somebody listens."""
    async with httpx.AsyncClient() as http:
        while True:
            try:
                return await http.get(url)
            except httpx.ConnectError:
                await asyncio.sleep(0.02)


@pytest.mark.process
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_script_serves_until_it_is_told_to_end_and_loses_nobody(tmp_path: Path, told: signal.Signals) -> None:
    path = tmp_path / "app.db"
    with program(path) as (process, ingress, admin), httpx.Client(timeout=30) as http:
        assert http.post(f"{ingress}/Greeter/greet", json="Ada").json() == "Hello, Ada!"
        names = [one["name"] for one in http.get(f"{admin}/services").json()["services"]]
        assert names == ["Greeter"]
        waiting = http.post(f"{ingress}/Greeter/wait/send").json()["invocationId"]
        process.send_signal(told)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
        assert "ended in order" in rest
        assert "Traceback" not in rest
    assert not path.with_name("app.db-wal").exists()

    async def again() -> str:
        async with Engine(path, services=[greet, wait]) as engine:
            return (await engine.describe(waiting)).status

    assert asyncio.run(again()) in ("running", "suspended")


def when_it_waits(path: Path, process: "subprocess.Popen[str]") -> None:
    """Have the program end once an invocation runs."""
    running = "SELECT 1 FROM invocations WHERE status = 'running'"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        while process.poll() is None and not database.execute(running).fetchone():
            time.sleep(0.02)
    process.send_signal(signal.SIGTERM)


@pytest.mark.process
def test_who_waits_at_the_end_is_told_where_to_come_back(tmp_path: Path) -> None:
    with program(tmp_path / "app.db") as (process, ingress, _), httpx.Client(timeout=30) as http:
        threading.Thread(target=when_it_waits, args=[tmp_path / "app.db", process]).start()
        answer = http.post(f"{ingress}/Greeter/wait")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["x-restate-id"].startswith("inv_1")
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        engine = Engine(tmp_path / "app.db", services=[greet])
        with pytest.raises(
            UsageError, match=rf"the admin cannot be served on 127\.0\.0\.1:{port} \(.*in use.*\): give"
        ):
            asyncio.run(engine.serve(port=0, admin_port=port))
        with pytest.raises(UsageError, match=r"the ingress cannot be served on nowhere\.invalid:0"):
            asyncio.run(engine.serve("nowhere.invalid", 0))
        with pytest.raises(UsageError, match=r"the ingress cannot be served on 127\.0\.0\.1:70000"):
            asyncio.run(engine.serve(port=70_000))
    assert not (tmp_path / "app.db").exists()


def test_an_engine_that_runs_is_served_and_runs_on(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        async with Engine(tmp_path / "app.db", services=[greet, wait]) as engine:
            app = create_app(engine, token="s3cret")
            async with serving(engine, port=port, admin_port=None, ingress=app):
                assert (await answered(f"http://127.0.0.1:{port}/restate/health")).status_code == 401
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            assert await engine.call(greet, "Ada") == "Hello, Ada!"

    with reserved_port() as port:
        asyncio.run(main(port))


def test_it_ends_when_the_engine_fails(tmp_path: Path) -> None:
    async def main(port: int, admin_port: int) -> None:
        path = tmp_path / "app.db"
        engine = Engine(path, services=[greet])
        async with serving(engine, port=port, admin_port=admin_port) as task:
            version = (await answered(f"http://127.0.0.1:{admin_port}/version")).json()
            assert version["ingress_endpoint"] == f"http://127.0.0.1:{port}"
            path.rename(tmp_path / "elsewhere.db")
            with pytest.raises(EngineFailedError, match="removed or renamed"):
                await asyncio.wait_for(task, 60)

    with reserved_port() as port, reserved_port() as admin_port:
        asyncio.run(main(port, admin_port))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise ModuleNotFoundError(name="uvicorn")

    monkeypatch.setattr("durable.engine.serving.import_module", import_module)
    with pytest.raises(UsageError, match=r"serve\(\) needs uvicorn: pip install 'durable-engine\[http\]'"):
        asyncio.run(Engine(tmp_path / "app.db", services=[greet]).serve())
