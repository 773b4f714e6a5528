"""The two other companies of the story: a stock service and a payment service that listen on loopback HTTP.

Both work alike: `POST` does something for an order or undoes it, and an `Idempotency-Key` header makes a
repeat return the first answer, as real payment providers do. They keep their own books in their own SQLite
file, fail as `faults` says, and are never killed. `GET /books` and `GET /faults` are for the comparison at
the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from examples.checkout.books import Entry, Tally
from examples.checkout.faults import Fault, delay_s, refusal, trouble


class Trade(msgspec.Struct, frozen=True):
    """What makes the two services different."""

    does: str
    undoes: str
    refuses: Fault
    code: int


TRADES = {
    "stock": Trade("reservation", "release", Fault.OUT_OF_STOCK, 409),
    "payment": Trade("charge", "refund", Fault.DECLINED, 402),
}


class Ask(msgspec.Struct, frozen=True):
    """The body of every POST."""

    order: str
    units: int
    of: str


class Books:
    """The durable part: one row for each idempotency key, committed before anything is answered."""

    def __init__(self, path: Path, trade: Trade, seed: int) -> None:
        self._trade, self._seed = trade, seed
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        # One row for each key; `units` is what really moved.
        self._db.execute("""
            CREATE TABLE IF NOT EXISTS entries (
                key TEXT PRIMARY KEY, kind TEXT, "order" TEXT,
                units INTEGER, of TEXT, code INTEGER, receipt TEXT
            ) STRICT""")
        self._db.execute('CREATE INDEX IF NOT EXISTS entries_by_order ON entries ("order")')

    def settle(self, key: str, kind: str, ask: Ask) -> tuple[Entry, bool]:
        """The entry of this key, and whether it is new. There is no await in here: none sees half of it."""
        if known := self._select("WHERE key = ?", key):
            return known[0], False
        earlier = self._select('WHERE "order" = ?', ask.order)
        moved = sum(entry.units for entry in earlier if entry.kind == self._trade.does)
        undone = [entry for entry in earlier if entry.kind == self._trade.undoes]
        code, units = 200, ask.units
        if kind == self._trade.undoes:
            units = moved - sum(entry.units for entry in undone)
        elif refusal(self._seed, ask.order) is self._trade.refuses:
            code, units = self._trade.code, 0
        elif undone:
            # A request that was under way while its order was undone must not move anything any more.
            code, units = 410, 0
        receipt = f"{kind[:3]}-{len(earlier)}-{ask.order}"
        entry = Entry(key, kind, ask.order, units, ask.of, code, receipt)
        self._db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(entry))
        return entry, True

    def all(self) -> list[Entry]:
        """Every entry."""
        return self._select("")

    def _select(self, where: str, *values: str) -> list[Entry]:
        rows = self._db.execute(f'SELECT key, kind, "order", units, of, code, receipt FROM entries {where}', values)
        return [Entry(*row) for row in rows]


class Service:
    """The part that is seen from outside: answers, and fails to."""

    def __init__(self, trade: Trade, books: Books, seed: int) -> None:
        self._trade, self._books, self._seed = trade, books, seed
        self._tally = Tally(faults={})
        self._requests: dict[str, int] = {}
        self._effects: dict[tuple[str, str], str] = {}
        self._answered: set[tuple[str, str]] = set()

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route(f"/{self._trade.does}s", self._endpoint(self._trade.does), methods=["POST"]),
                Route(f"/{self._trade.undoes}s", self._endpoint(self._trade.undoes), methods=["POST"]),
                Route("/books", self._get_books),
                Route("/faults", self._get_tally),
            ]
        )

    def _endpoint(self, kind: str) -> Callable[[Request], object]:
        async def post(request: Request) -> Response:
            self._tally.in_flight += 1
            try:
                return await self._post(kind, request)
            finally:
                self._tally.in_flight -= 1

        return post

    async def _post(self, kind: str, request: Request) -> Response:
        key, caller = request.headers["idempotency-key"], request.headers["engine-run"]
        ask = msgspec.json.decode(await request.body(), type=Ask)
        self._tally.requests += 1
        nth = self._requests[key] = self._requests.get(key, 0) + 1
        if (caller, key) in self._answered:
            self._tally.needless += 1

        fault = trouble(self._seed, key, nth)
        if fault is not None:
            self._count(fault)
        if fault is Fault.SLOW:
            await asyncio.sleep(delay_s(self._seed, key, nth))
        if fault is Fault.FAILED:
            return Response(status_code=500)

        entry, new = self._books.settle(key, kind, ask)
        if not new:
            self._tally.repeats += 1
        elif entry.code != 200:
            self._count(self._trade.refuses)
        elif self._effects.setdefault((kind, ask.order), key) != key:
            self._tally.doubled += 1

        if fault is Fault.LOST:
            return Response(status_code=500)
        if fault is Fault.CUT:
            return Cut()
        self._answered.add((caller, key))
        return Response(msgspec.json.encode(entry), status_code=entry.code)

    def _count(self, fault: Fault) -> None:
        self._tally.faults[fault] = self._tally.faults.get(fault, 0) + 1

    async def _get_books(self, request: Request) -> Response:
        return Response(msgspec.json.encode(self._books.all()))

    async def _get_tally(self, request: Request) -> Response:
        return Response(msgspec.json.encode(self._tally))


class Cut(Response):
    """Promises a body and closes the connection instead."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the answer and never end it; uvicorn then closes the connection."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})


def end_with_parent() -> None:
    """End this process when its standard input closes: nothing outlives the driver, however that ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve one trade on a free port and print the port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trade", choices=TRADES)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    end_with_parent()

    trade = TRADES[options.trade]
    service = Service(trade, Books(options.books, trade, options.seed), options.seed)
    # The protocol is named because asyncio turns Nagle's delay off only for sockets that say they are TCP.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    print(listening.getsockname()[1], flush=True)
    # A keep-alive longer than the run: closing an idle connection would look like one more fault.
    config = uvicorn.Config(service.app(), log_config=None, access_log=False, timeout_keep_alive=600)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
