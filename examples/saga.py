"""Booking trips: a flight, a hotel and a car, or nothing at all.

    python examples/saga.py trips.db

There is no car in Oslo. That is a `TerminalError`: trying again would not help, so the saga undoes what was
booked, last one first. Any other exception would be retried and undo nothing.

Kill it at any moment and start it again with the same file. Bookings that were made are not made again,
whatever was left to book is booked, and what was left to cancel is cancelled, also if the kill came in the
middle of the undoing. A booking that was just under way is repeated, since nobody can know whether it went
through; that is why each of them carries a reference, by which an airline would recognise the repetition.
"""

import asyncio
import sys
import tempfile
from dataclasses import dataclass

from durable import Context, Engine, TerminalError, handler


@dataclass(frozen=True)
class Trip:
    """What a customer ordered."""

    id: str
    city: str


TRIPS = [Trip("trip-1", "Lisbon"), Trip("trip-2", "Oslo")]


@handler
async def book_trip(ctx: Context, trip: Trip) -> list[str]:
    """Book all three; if one of them cannot be had, leave nothing behind."""
    references: list[str] = []
    async with ctx.saga() as saga:
        for what in ("flight", "hotel", "car"):
            saga.add_compensation(cancel, what, trip)  # before the booking: undone even if its outcome is unknown
            references.append(await ctx.run(book, what, trip))
    return references


async def book(what: str, trip: Trip) -> str:
    """Stands for a request to somebody else's booking system."""
    print(f"{trip.id}: booking a {what} in {trip.city}")
    await asyncio.sleep(0.1)
    if (what, trip.city) == ("car", "Oslo"):
        raise TerminalError("all cars in Oslo are rented out", code=409)
    return f"{trip.id}/{what}"


async def cancel(what: str, trip: Trip) -> None:
    """The opposite. Cancelling what was never booked must be fine."""
    print(f"{trip.id}: cancelling {trip.id}/{what}, if there is such a booking")
    await asyncio.sleep(0.1)


async def main(path: str) -> None:
    """Book every trip. The idempotency key makes repeating that harmless."""
    async with Engine(path, services=[book_trip]) as engine:
        for trip in TRIPS:
            try:
                references = await engine.call(book_trip, trip, idempotency_key=trip.id)
            except TerminalError as error:
                print(f"{trip.id}: failed with {error.code}, {error.message}")
            else:
                print(f"{trip.id}: booked {', '.join(references)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/trips.db"))
