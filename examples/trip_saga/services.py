"""The program a user would write: a trip is a taxi, a seat, a room and a car with its insurance, or nothing.

    Trips.book                  a taxi
    ├── Flight.book             a seat
    ├── Hotel.book              a room
    └── Cars.rent               a car
        └── Insurance.insure    a policy, which the insurer has to sign

Whoever calls a trip off has it undone from the leaves to the root: the policy, the car, the room, the seat, the taxi.
Nothing in here knows that the process may be killed at any moment of that.
"""

import msgspec

from durable import (
    Context,
    ObjectContext,
    Service,
    SharedObjectContext,
    TerminalError,
    VirtualObject,
    handler,
)
from examples.trip_saga.outside import Company, World


class Trip(msgspec.Struct, frozen=True):
    """What a customer orders."""

    id: str
    flight: str
    hotel: str
    car: str


class Itinerary(msgspec.Struct, frozen=True):
    """The references of what was booked."""

    taxi: str
    seat: str
    room: str
    car: str


class Trips(Service):
    """The root: books a trip, and can call it off."""

    def __init__(self, taxis: Company) -> None:
        self.taxis = taxis

    @handler
    async def book(self, ctx: Context, trip: Trip) -> Itinerary:
        """All of it or nothing. A saga undoes steps with steps; what was called is undone by calls."""
        taxi = f"{trip.id}/taxi"
        async with ctx.saga() as saga:
            saga.add_compensation(self.taxis.cancel, taxi)  # before the step: undone even if its outcome is unknown
            await ctx.run(self.taxis.book, taxi)
            try:
                seat = await ctx.call(Flight.book, trip.id, key=trip.flight)
                room = await ctx.call(Hotel.book, trip.id, key=trip.hotel)
                car = await ctx.call(Cars.rent, trip)
            except TerminalError:  # a cancel, too, and by now all that was called has undone itself or is complete
                await ctx.call(Hotel.cancel, trip.id, key=trip.hotel)
                await ctx.call(Flight.cancel, trip.id, key=trip.flight)
                raise
        return Itinerary(taxi, seat, room, car)

    @handler
    async def call_off(self, ctx: Context, booking: str) -> None:
        """Cancel the invocation `booking`. With an idempotency key, asking again cancels once all the same."""
        ctx.cancel(booking)


class Stock(VirtualObject):
    """What there is a number of under each key. Who has one is durable state, changed by one handler at a time."""

    unit: str
    number: int

    def __init__(self, company: Company) -> None:
        self.company = company

    @handler
    async def book(self, ctx: ObjectContext, trip_id: str) -> str:
        """Take one and return its reference."""
        taken = await self.taken(ctx)
        if len(taken) >= self.number:
            raise TerminalError(f"{ctx.key} has no {self.unit} left", code=409)
        ctx.set(
            "taken", [*taken, trip_id]
        )  # before the step: `cancel` then looks for it, whatever becomes of the step
        reference = f"{trip_id}/{self.unit}"
        await ctx.run(self.company.book, reference)
        return reference

    @handler
    async def cancel(self, ctx: ObjectContext, trip_id: str) -> None:
        """Give it back. Cancelling what was never booked is fine."""
        taken = await self.taken(ctx)
        if trip_id in taken:
            await ctx.run(self.company.cancel, f"{trip_id}/{self.unit}")
            ctx.set("taken", [other for other in taken if other != trip_id])

    @handler(shared=True)
    async def free(self, ctx: SharedObjectContext) -> int:
        """How many are left."""
        return self.number - len(await self.taken(ctx))

    async def taken(self, ctx: SharedObjectContext) -> list[str]:
        """The trips that have one."""
        return await ctx.get("taken", list[str]) or []


class Flight(Stock):
    """The seats we sell on each flight."""

    unit, number = "seat", 2


class Hotel(Stock):
    """The rooms we have in each hotel."""

    unit, number = "room", 5


class Cars(Service):
    """A saga within the saga: by the time the trip learns that it is cancelled, the car is given back."""

    def __init__(self, rental: Company) -> None:
        self.rental = rental

    @handler
    async def rent(self, ctx: Context, trip: Trip) -> str:
        """A car and a policy, or neither."""
        reference = f"{trip.id}/car"
        async with ctx.saga() as saga:
            saga.add_compensation(self.rental.cancel, reference)
            await ctx.run(self.rental.book, reference)
            await ctx.call(Insurance.insure, trip)
        return reference


class Insurance(Service):
    """The leaf."""

    def __init__(self, insurer: Company) -> None:
        self.insurer = insurer

    @handler
    async def insure(self, ctx: Context, trip: Trip) -> str:
        """Take out a policy, and wait until somebody has signed it: seconds or weeks, through any restart."""
        reference = f"{trip.id}/policy"
        async with ctx.saga() as saga:
            saga.add_compensation(self.insurer.cancel, reference)
            await ctx.run(self.insurer.book, reference)
            signature = ctx.awakeable(str)
            await ctx.run(self.insurer.ask_to_sign, reference, signature.id)
            return await signature


def travel_agency(world: World) -> list[object]:
    """All of it, for `Engine(services=...)`: objects are given what they need."""
    return [
        Trips(Company("taxis", world)),
        Flight(Company("airline", world)),
        Hotel(Company("hotel", world)),
        Cars(Company("car rental", world)),
        Insurance(Company("insurer", world)),
    ]
