"""Ctrl-C ends somebody's server although its requests wait for handlers that take days."""

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from durable import Engine
from tests.serving.asgi import slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_with_waiting_requests_ends_when_it_is_told(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "x.db"
    command = [sys.executable, "-m", "tests.serving.asgi", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    answers: list[httpx.Response] = []
    try:
        assert process.stderr is not None
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://127.0.0.1:\d+", line)))

        def ask() -> None:
            answers.append(httpx.get(url, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        await_request(path)
        process.send_signal(number)
        process.communicate(timeout=60)
        asking.join(60)
    finally:
        process.kill()
        process.communicate()
    assert [(one.status_code, "attach again after a start" in one.text) for one in answers] == [(503, True)]
    assert statuses(path) == ["running"], "its handler goes on with the next start"


def statuses(path: Path) -> list[str]:
    """Of the invocations in the file."""
    with closing(sqlite3.connect(path)) as database:
        return [status for (status,) in database.execute("SELECT status FROM _invocations")]


def await_request(path: Path) -> None:
    """It has arrived, and is durable."""
    while not statuses(path):
        time.sleep(0.02)


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    """A test client runs the lifespan in a thread, where no handler can be set."""
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    seen: list[object] = []

    async def story() -> None:
        async with Engine(tmp_path / "x.db", services=[slow]).lifespan():
            seen.extend(signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=lambda: asyncio.run(story()))
    thread.start()
    thread.join(60)
    assert seen == before


def test_handlers_of_signals_are_as_they_were_afterwards(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    own = signal.getsignal(signal.SIGTERM)

    async def story() -> None:
        engine = Engine(tmp_path / "x.db", services=[slow], shutdown_timeout="100ms")
        async with engine.lifespan():
            assert signal.getsignal(signal.SIGTERM) is not own
            waits = asyncio.create_task(engine.call(slow))
            await asyncio.sleep(0.05)
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
            with pytest.raises(Exception, match="attach again after a start"):
                await waits
        assert signal.getsignal(signal.SIGTERM) is own

    try:
        asyncio.run(story())
    finally:
        signal.signal(signal.SIGTERM, before)
