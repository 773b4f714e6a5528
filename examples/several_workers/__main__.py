"""`python -m examples.several_workers`: four workers under load are killed in turn, and the books must match.

Exit code 0 only when every order has exactly one receipt, one payment and one place in the till.
"""

import argparse
import asyncio
import itertools
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
CLIENTS = 32
#: Between two kills.
PEACE_S = 1.0


class Shop:
    """The server with its workers, and what customers and the killer saw."""

    def __init__(self, server: asyncio.subprocess.Process, port: int) -> None:
        self._server = server
        # each request on a connection of its own, which any worker may accept
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60, limits=limits)
        self.workers: list[int] = []
        self.receipts: dict[str, int] = {}
        #: How long what was asked for right after a kill of the holder took, in seconds.
        self.felt: list[float] = []
        self.repeated = self.kills = 0

    async def listen(self) -> None:
        """Hear which workers there are."""
        assert self._server.stdout is not None
        async for line in self._server.stdout:
            if line.startswith(b"worker "):
                self.workers.append(int(line.split()[1]))

    async def customer(self, orders: Any, until: float) -> None:
        """Order after order; where no answer comes, the same one again."""
        while time.monotonic() < until:
            id = f"o-{next(orders)}"
            answer = await self.ask("POST", f"/orders/{id}")
            assert answer["order"] == id
            self.receipts[id] = answer["number"]

    async def ask(self, method: str, path: str) -> Any:
        """An answer, however often it takes."""
        while True:
            try:
                answer = await self.http.request(method, path)
                if answer.status_code != 503:
                    return answer.raise_for_status().json()
            except httpx.TransportError:
                pass
            self.repeated += 1
            await asyncio.sleep(0.05)

    async def kill_in_turn(self, until: float) -> None:
        """The holder, another worker, the holder, … while there are enough of them."""
        for turn in itertools.count():
            await asyncio.sleep(PEACE_S)
            if time.monotonic() >= until - PEACE_S:
                return
            holder = (await self.ask("GET", "/holder"))["holder"]
            others = [pid for pid in self.workers if pid != holder]
            if not others:
                continue
            pid = holder if turn % 2 == 0 else others[0]
            self.workers.remove(pid)
            os.kill(pid, signal.SIGKILL)
            self.kills += 1
            if pid == holder:
                killed_at = time.monotonic()
                assert (await self.ask("GET", "/holder"))["holder"] != holder
                self.felt.append(time.monotonic() - killed_at)


@asynccontextmanager
async def serving(database: Path, workers: int) -> AsyncGenerator[Shop, None]:
    """`uvicorn --workers`, which starts a worker anew that was killed."""
    port = int(os.environ.get("PORT", "0")) or _free_port()
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "examples.several_workers.app:app", "--workers", str(workers)),
        *("--port", str(port), "--log-level", "warning"),
        cwd=ROOT,
        env=os.environ | {"SHOP_DB": str(database)},
        stdout=asyncio.subprocess.PIPE,
    )
    shop = Shop(server, port)
    listening = asyncio.create_task(shop.listen())
    try:
        while len(shop.workers) < workers and server.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with shop.http:
            yield shop
    finally:
        with suppress(ProcessLookupError):
            server.terminate()
        await server.wait()
        listening.cancel()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def discrepancies(database: Path, receipts: dict[str, int]) -> list[str]:
    """What is lost or doubled, in the files and in the customers' hands."""
    with closing(sqlite3.connect(f"{database}.bank")) as bank:
        paid = {id for (id,) in bank.execute("SELECT id FROM payments")}
    with closing(sqlite3.connect(database)) as shop:
        ended = shop.execute(
            "SELECT status, count(*) FROM invocations WHERE target != 'Shop/runs_in' GROUP BY status"
        )
        statuses = dict(ended.fetchall())
    found: list[str] = []
    if paid != set(receipts):
        found.append(f"{len(paid)} payments for {len(receipts)} receipts")
    if sorted(receipts.values()) != list(range(1, len(receipts) + 1)):
        found.append("the till has not counted each order once")
    if statuses != {"completed": 2 * len(receipts)}:
        found.append(
            f"invocations are {statuses}, and should be two for each of {len(receipts)} orders, all completed"
        )
    return found


async def play(database: Path, seconds: float, workers: int) -> int:
    """Everything; the exit code is the verdict."""
    async with serving(database, workers) as shop:
        until, orders = time.monotonic() + seconds, itertools.count()
        await asyncio.gather(shop.kill_in_turn(until), *(shop.customer(orders, until) for _ in range(CLIENTS)))
    print(f"{len(shop.receipts)} orders, {shop.kills} workers killed, {shop.repeated} requests repeated")
    felt = sorted(round(1000 * seconds) for seconds in shop.felt)
    print(f"what was asked for right after a kill of the holder took {felt} ms")
    found = discrepancies(database, shop.receipts)
    if not shop.felt:
        found.append("the holder was never killed: take more --seconds")
    for one in found:
        print(f"FAILED: {one}")
    if not found:
        print("The books match: nothing lost, nothing doubled.")
    return bool(found)


def main() -> int:
    """Read the options."""
    parser = argparse.ArgumentParser(prog="python -m examples.several_workers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long (default: 20)")
    parser.add_argument("--workers", type=int, default=4, help="how many there are (default: 4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="several_workers-") as folder:
        return asyncio.run(play(Path(folder) / "shop.db", options.seconds, options.workers))


if __name__ == "__main__":
    sys.exit(main())
