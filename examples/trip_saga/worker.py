"""The process that is killed: it opens the engine on its file, has the trip booked, and waits for what becomes of it.

It starts from nothing each time. The idempotency key makes the trip the same trip, which the engine has resumed by
itself already. A line on standard input calls it off; how it ended goes to standard output, as one line of JSON.
"""

import argparse
import asyncio
import os
from pathlib import Path

import msgspec

from durable import Engine, TerminalError
from examples.trip_saga.outside import World
from examples.trip_saga.services import Flight, Hotel, Trip, Trips, travel_agency

TRIP = Trip("trip-7", flight="LH1166", hotel="Casa Azul", car="a small one")


class Files:
    """The names in a story's folder, for both sides."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "trips.db"
        self.world = folder / "outside.jsonl"
        self.log = folder / "worker.log"


class Report(msgspec.Struct, frozen=True):
    """How the trip ended, and what there is afterwards."""

    code: int
    message: str
    seats_free: int
    rooms_free: int
    #: Handlers that another handler has called, and that have not ended.
    unfinished: list[str]


async def work(files: Files, answer_s: float) -> Report:
    """Book the trip, or go on with it."""
    called_off = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, listen, called_off)
    services = travel_agency(World(files.world, answer_s))
    async with Engine(files.database, services=services) as engine, asyncio.TaskGroup() as tasks:
        booking = await engine.send(Trips.book, TRIP, idempotency_key=TRIP.id)
        customer = tasks.create_task(call_off(engine, booking.id, called_off))
        try:
            await booking.result()
            code, message = 200, "booked"
        except TerminalError as error:
            code, message = error.code, error.message
        customer.cancel()
        return await report(engine, code, message)


async def report(engine: Engine, code: int, message: str) -> Report:
    """What is left when the trip has ended."""
    made = await engine.invocations()
    return Report(
        code,
        message,
        seats_free=await engine.call(Flight.free, key=TRIP.flight),
        rooms_free=await engine.call(Hotel.free, key=TRIP.hotel),
        unfinished=[one.target for one in made if one.caller_id and one.status != "completed"],
    )


async def call_off(engine: Engine, booking: str, called_off: asyncio.Event) -> None:
    """Cancel the trip as soon as that is wanted. Every process that is told to asks again; it happens once."""
    await called_off.wait()
    await engine.call(Trips.call_off, booking, idempotency_key=f"call off {booking}")


def listen(called_off: asyncio.Event) -> None:
    """Any line calls the trip off. The end of the input means that the driver is gone: nothing outlives it."""
    if not os.read(0, 1024):
        os._exit(1)
    called_off.set()


def main() -> None:
    """Run once, to the end or until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--answer-s", type=float, required=True, help="how long the answer of a company takes")
    options = parser.parse_args()
    ended = asyncio.run(work(Files(options.folder), options.answer_s))
    print(msgspec.json.encode(ended).decode(), flush=True)


if __name__ == "__main__":
    main()
