"""A step that is asked for with other arguments in a replay is found, where they are data and certainly differ."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pydantic
import pytest

from durable import Context, InvocationCancelled, TerminalError, handler
from durable.testing import NotDeterministic, Sim, check

NUMBERS: Iterator[int] = itertools.count(1000)  # no number of an attempt


def changing() -> int:
    """Another one each time, as a random number or the time would be; the test knows how it looks."""
    return next(NUMBERS)


@dataclass
class Order:
    number: int


class Model(pydantic.BaseModel):
    number: int


class Client:
    """As a handler has it that makes its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = changing()


@dataclass
class Connection:
    client: Client


async def work(*args: Any, **kwargs: Any) -> str:
    return "done"


async def fill(items: list[int]) -> str:
    items.append(1)
    return "done"


async def mutated(ctx: Context) -> str:
    """What a step does to its arguments is not done again in a replay."""
    items: list[int] = []
    await ctx.run(fill, items)
    return await ctx.run(work, items)


async def by_saga(ctx: Context) -> None:
    async with ctx.saga() as saga:
        saga.add_compensation(work, changing())
        await ctx.run(work)
        raise TerminalError("undo it")


Body = Callable[[Context], Any]
FOUND: dict[str, Body] = {
    "a number": lambda ctx: ctx.run(work, changing()),
    "behind what is no data": lambda ctx: ctx.run(work, Client(), changing()),
    "by name": lambda ctx: ctx.run(work, amount=changing()),
    "in a container": lambda ctx: ctx.run(work, {"a": [(changing(),)]}),
    "in a text": lambda ctx: ctx.run(work, f"order {changing()}"),
    "bytes": lambda ctx: ctx.run(work, str(changing()).encode()),
    "a moment": lambda ctx: ctx.run(work, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=changing())),
    "a dataclass": lambda ctx: ctx.run(work, Order(changing())),
    "a pydantic model": lambda ctx: ctx.run(work, Model(number=changing())),
    "of a partial": lambda ctx: ctx.run(functools.partial(work, changing())),
    "how many": lambda ctx: ctx.run(work, *range(changing() % 2)),
    "with options": lambda ctx: ctx.with_options(name="named").run(work, changing()),
    "mutated by a step": mutated,
    "of a compensation": by_saga,
}
RIGHT: dict[str, Body] = {
    "the same": lambda ctx: ctx.run(work, 1, "ä", None, [1.5, {"a": b"b"}], Order(1), Model(number=1), key={1, 2, 3}),
    "from the context": lambda ctx: ctx.run(work, ctx.now(), ctx.uuid(), ctx.random().random(), ctx.request.id),
    "the attempt": lambda ctx: ctx.run(work, ctx.request.attempt),
    "objects made anew": lambda ctx: ctx.run(work, Client(), object(), Mock(), ctx, lambda: changing(), [Client()]),
    "a record of one": lambda ctx: ctx.run(work, Connection(Client())),
    "sets in any order": lambda ctx: ctx.run(work, {f"{n}" for n in range(20)}, frozenset("abc")),
    "not a number": lambda ctx: ctx.run(work, float("nan")),
}


def services(body: Body) -> Callable[[Sim], list[object]]:
    @handler(service="Shop")
    async def buy(ctx: Context) -> None:
        await body(ctx)
        await ctx.run(work)  # so that there is something to be replayed
        await ctx.sleep("1s")

    return lambda sim: [buy]


async def scenario(sim: Sim) -> None:
    handle = await sim.send("Shop/buy")
    with suppress(TerminalError):
        await handle.result()


@pytest.mark.parametrize("body", FOUND.values(), ids=FOUND)
def test_other_arguments_are_found(body: Body) -> None:
    with pytest.raises(NotDeterministic, match="is recorded, and a replay asks for it with other arguments: "):
        check(services(body), scenario)


@pytest.mark.parametrize("body", RIGHT.values(), ids=RIGHT)
def test_what_is_the_same_or_no_data_is_not(body: Body) -> None:
    check(services(body), scenario)


def test_the_error_shows_both() -> None:
    with pytest.raises(NotDeterministic) as found:
        check(
            services(lambda ctx: ctx.run(work, "lamp", f"no {changing()}", note="x" * (100 + changing()))), scenario
        )
    told = str(found.value)
    assert told.startswith("the step 'work' (entry 1) of Shop/buy inv_1")
    one, _, other = told.partition("other arguments: ")[2].partition("; the argument 'note' was \"xxx")
    assert one.startswith('argument 2 was "no ') and ' and is "no ' in one
    assert other.partition(". Its result is")[0].count("…") == 2, "long ones are cut"


def test_what_was_lost_before_it_was_recorded_may_be_asked_for_otherwise() -> None:
    """A cancel that comes meanwhile has the handler do something else in its place."""

    @handler(service="Shop")
    async def buy(ctx: Context) -> None:
        try:
            await ctx.run(work, "buy")
            await ctx.sleep("1s")
            await ctx.run(work, "again")
        except InvocationCancelled:
            await ctx.run(work, "undo")

    async def cancelled(sim: Sim) -> None:
        handle = await sim.send("Shop/buy")
        await sim.cancel(handle.id)
        await sim.until(lambda: is_over(sim, handle.id))

    async def is_over(sim: Sim, id: str) -> bool:
        return await sim.status(id) == "completed"

    check([buy], cancelled)


def test_code_that_changes_may_ask_for_something_else() -> None:
    async def changed(sim: Sim) -> None:
        sim.code_changes()
        await scenario(sim)

    check(services(lambda ctx: ctx.run(work, changing())), changed)
