"""A handler that kills its process spends its budget, and takes nobody with it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.support import ROOT

PROGRAM = """
import asyncio, os, signal, sys
from durable import Context, Engine, ObjectContext, RetryPolicy, VirtualObject, handler

FOLDER, NEIGHBOURS = sys.argv[1], int(sys.argv[2])
POLICY = RetryPolicy(initial_interval="1ms", max_attempts=3)

def note(name):
    with open(f"{FOLDER}/{name}", "a") as file:
        file.write("x")

@handler(service="Shop", retry=POLICY)
async def killer(ctx: Context) -> None:
    note("tries")
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

@handler(service="Shop", retry=POLICY)
async def neighbour(ctx: Context) -> None:
    while os.path.getsize(f"{FOLDER}/tries") < 2:  # it works for longer than two processes live
        await asyncio.sleep(0.01)

class Account(VirtualObject):
    @handler(retry=POLICY)
    async def kill(self, ctx: ObjectContext) -> None:
        note("tries")
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Engine(f"{FOLDER}/db", services=[killer, neighbour, Account()]) as engine:
        others = [await engine.send(neighbour, idempotency_key=f"n{number}") for number in range(NEIGHBOURS)]
        if sys.argv[3] == "killer":
            handle = await engine.send(killer, idempotency_key="one")
        else:
            handle = await engine.send(Account.kill, key="a", idempotency_key="one")
        while (view := await handle.describe()).status != "paused":
            await asyncio.sleep(0.02)
        for other in others:
            await other.result()
        statuses = {(await other.describe()).status for other in others}
        print(view.failures, view.attempt, view.last_failure.message, *statuses, sep="|")

asyncio.run(main())
"""


def processes(folder: Path, neighbours: int, who: str) -> tuple[int, str, str]:
    """Start the program until it ends by itself: in how many processes, what it said, and what it logged."""
    (folder / "tries").touch()
    for life in range(1, 30):
        command = [sys.executable, "-c", PROGRAM, str(folder), str(neighbours), who]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            return life, done.stdout.strip(), done.stderr
    raise AssertionError("it was never paused")


@pytest.mark.parametrize("who", ["killer", "an object's handler"])
def test_a_handler_that_kills_its_process_is_paused_after_as_many_attempts_as_its_policy_allows(
    tmp_path: Path, who: str
) -> None:
    life, said, logged = processes(tmp_path, 0, who)
    assert said == "3|3|the process ended without a clean close while attempt 3 was running"
    assert (tmp_path / "tries").read_text() == "xxx"
    assert life == 4, "three that were killed, and the one that paused it"
    assert "attempt 3 failed: the process ended without a clean close while attempt 3 was running; paused" in logged


def test_its_neighbours_are_not_paused_for_it(tmp_path: Path) -> None:
    life, said, _ = processes(tmp_path, 20, "killer")
    assert said == "3|3|the process ended without a clean close while attempt 3 was running|completed"
    assert life <= 5
