"""The process that is killed: it opens the engine, submits every order and waits for all of them.

It starts from nothing each time. Orders that an earlier process submitted have the same idempotency key, so
they are the same invocations: finished ones answer at once, and unfinished ones the engine has resumed by
itself already.

Progress goes to standard output, one JSON object a line. Every outcome goes to `outcomes.jsonl` the moment
it is seen, and every time the handler begins to `entered.txt`; both survive a SIGKILL, because a written
line belongs to the operating system.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from durable import Engine, TerminalError
from examples.checkout.app import Ledger, open_shop, place_order
from examples.checkout.books import Outcome
from examples.checkout.orders import Order, read_orders
from examples.checkout.services import end_with_parent


class Report(msgspec.Struct):
    """One line for the driver."""

    event: Literal["ready", "progress", "finished"]
    #: How many different orders this process has seen the end of.
    done: int = 0
    #: How many handlers have begun in this process and are not known to have ended: what a kill would interrupt.
    busy: int = 0


class Files:
    """The names in the run's folder, for both sides."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "orders.db"
        self.outcomes = folder / "outcomes.jsonl"
        self.entered = folder / "entered.txt"
        self.spent = folder / "spent.json"
        self.engine_log = folder / "engine.log"


class Line:
    """Appends whole lines with one unbuffered write each."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, line: bytes) -> None:
        """Append one line."""
        os.write(self._file, line + b"\n")


async def place_all(orders: list[Order], files: Files, addresses: dict[str, str], run: int, concurrency: int) -> None:
    """Submit every order, note every outcome, and write down the ledgers at the end."""
    entered, outcomes = Line(files.entered), Line(files.outcomes)
    begun, done = set[str](), set[str]()

    def note_begin(order_id: str) -> None:
        begun.add(order_id)
        entered.write(f"{run} {order_id}".encode())

    async def place_from(todo: Iterator[Order]) -> None:
        for order in todo:
            handle = await engine.send(place_order, order, idempotency_key=order.id)
            try:
                placed = await handle.result()
            except TerminalError as error:
                outcome = Outcome(order.id, handle.id, error.code, str(error))
            else:
                outcome = Outcome(order.id, handle.id, 200, placed.receipt)
            outcomes.write(msgspec.json.encode(outcome))
            done.add(order.id)

    async def report_progress() -> None:
        told = Report("progress")
        while True:
            await asyncio.sleep(0.03)
            report = Report("progress", len(done), len(begun - done))
            if report != told:
                told = report
                tell(report)

    async with (
        open_shop(addresses, run, note_begin),
        Engine(files.database, services=[place_order, Ledger()]) as engine,
    ):
        tell(Report("ready"))
        reporter = asyncio.create_task(report_progress())
        todo = iter(orders)
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(place_from(todo))
        reporter.cancel()
        spent = {
            customer: await engine.call(Ledger.spent, key=customer)
            for customer in sorted({order.customer for order in orders})
        }
        files.spent.write_bytes(msgspec.json.encode(spent))
    tell(Report("finished", len(done)))


def tell(report: Report) -> None:
    """Print a report."""
    print(msgspec.json.encode(report).decode(), flush=True)


def main() -> None:
    """Run once, to the end or until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stock", required=True, help="address of the stock service")
    parser.add_argument("--payment", required=True, help="address of the payment service")
    parser.add_argument("--run", type=int, required=True, help="how many engine processes came before this one")
    parser.add_argument("--concurrency", type=int, required=True)
    options = parser.parse_args()
    end_with_parent()
    orders, _ = read_orders(options.orders)
    addresses = {"stock": options.stock, "payment": options.payment}
    asyncio.run(place_all(orders, Files(options.folder), addresses, options.run, options.concurrency))


if __name__ == "__main__":
    main()
