"""What a program finds when it is started again: each test is a whole program, killed or stopped in the middle."""

import random
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.process.support import Child, look

pytestmark = pytest.mark.process

NAP = """
import asyncio
import sys
import time

from durable import Context, Engine, handler
from durable.runtime.clock import SystemClock


@handler
async def nap(ctx: Context, seconds: float) -> float:
    before = ctx.now()
    print("asleep", flush=True)
    await ctx.sleep(seconds)
    return (ctx.now() - before).total_seconds()


async def main(database: str, seconds: float, later: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, stop.set)
    clock = SystemClock(lambda: time.time() + later)
    async with Engine(database, services=[nap], clock=clock) as engine:
        handle = await engine.send(nap, seconds, idempotency_key="the nap")
        print("READY", flush=True)
        ends = [asyncio.create_task(handle.result()), asyncio.create_task(stop.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if ends[0].done():
            print("slept", ends[0].result(), flush=True)
        for end in ends:
            end.cancel()


asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
"""


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_c022_a_sleep_goes_on_through_a_restart_and_does_not_start_anew(tmp_path: Path, how: str) -> None:
    app, database, errors = program(tmp_path, NAP)
    with Child(app, database, 60, 0, errors=errors) as first:
        first.wait_for("asleep")
        recorded(database)
        end(first, how)
    (due,) = sleeps(database)
    with Child(app, database, 60, 59, errors=errors) as second:  # a second before it is due, by its clock
        second.wait_for("READY")
        slept = float(second.wait_for("slept").split()[1])
        second.leave()
    assert slept >= 60
    assert sleeps(database) == [due], "the due time is stored once and never moves"


def test_c023_a_sleep_that_was_over_while_the_process_was_down_ends_at_once(tmp_path: Path) -> None:
    app, database, errors = program(tmp_path, NAP)
    with Child(app, database, 60, 0, errors=errors) as first:
        first.wait_for("asleep")
        recorded(database)
        first.kill()
    with Child(app, database, 60, 100, errors=errors) as second:  # by its clock, which is ahead
        second.wait_for("READY")
        up_at = time.monotonic()
        slept = float(second.wait_for("slept").split()[1])
        took = time.monotonic() - up_at
        second.leave()
    assert slept >= 100
    assert took < 30, "less than the sleep itself: it did not start anew"


THREE_STEPS = """
import asyncio
import os
import sys

from durable import Context, Engine, handler


async def step(number: int) -> int:
    with open(sys.argv[2], "a") as effects:
        print(number, file=effects)
    if number == 3 and "HANG" in os.environ:
        print("three began", flush=True)
        await asyncio.sleep(60)
    return number * 10


@handler
async def three(ctx: Context) -> int:
    one = await ctx.run(step, 1)
    two = await ctx.run(step, 2)
    print("two returned", flush=True)
    return one + two + await ctx.run(step, 3)


async def main(database: str) -> None:
    async with Engine(database, services=[three]) as engine:
        print("sum", await engine.call(three, idempotency_key="once"), flush=True)


asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["two returned", "three began"])
def test_c002_steps_that_returned_before_the_kill_never_run_again(tmp_path: Path, moment: str) -> None:
    app, database, errors = program(tmp_path, THREE_STEPS)
    effects = tmp_path / "effects"
    with Child(app, database, effects, errors=errors, environment={"HANG": "1"}) as first:
        first.wait_for(moment)
        first.kill()
    with Child(app, database, effects, errors=errors) as second:
        assert second.wait_for("sum") == "sum 60"
        second.leave()
    executed = effects.read_text().split()
    assert (executed.count("1"), executed.count("2")) == (1, 1)
    assert executed.count("3") in ((2,) if moment == "three began" else (1, 2))


COUNTER = """
import asyncio
import sys

from durable import Engine, ObjectContext, VirtualObject, handler


class Counter(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> list[int]:
        old = await ctx.get("count", int) or 0
        ctx.set("count", old + amount)
        return [old, old + amount]


async def main(database: str, amount: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, stop.set)
    async with Engine(database, services=[Counter()]) as engine:
        print("counted", *await engine.call(Counter.add, amount, key="k"), flush=True)
        await stop.wait()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_c036_state_is_there_after_a_restart(tmp_path: Path, how: str) -> None:
    app, database, errors = program(tmp_path, COUNTER)
    with Child(app, database, 1, errors=errors) as first:
        assert first.wait_for("counted") == "counted 0 1"
        end(first, how)
    with Child(app, database, 2, errors=errors) as second:
        assert second.wait_for("counted") == "counted 1 3"
        end(second, "stopped")


ENVIRONMENT = """
import asyncio
import os
import sys

from durable import Context, Engine, handler


async def colour() -> str:
    return os.environ["COLOUR"]


@handler
async def paint(ctx: Context) -> str:
    found = await ctx.run(colour)
    print("found", found, flush=True)
    await ctx.sleep(0.6)
    return found


async def main(database: str) -> None:
    async with Engine(database, services=[paint]) as engine:
        both = [engine.call(paint, idempotency_key=name) for name in ("first", os.environ["COLOUR"])]
        print("painted", *await asyncio.gather(*both), flush=True)


asyncio.run(main(sys.argv[1]))
"""


def test_c012_what_a_step_read_from_the_environment_stays_in_another_environment(tmp_path: Path) -> None:
    app, database, errors = program(tmp_path, ENVIRONMENT)
    with Child(app, database, errors=errors, environment={"COLOUR": "red"}) as first:
        first.wait_for("found red")
        first.wait_for("found red")
        first.kill()
    with Child(app, database, errors=errors, environment={"COLOUR": "blue"}) as second:
        assert second.wait_for("painted") == "painted red blue"
        second.leave()
    assert second.said.count("found blue") == 1


HOLDERS = """
import asyncio
import sys

from durable import Engine, ObjectContext, SharedObjectContext, VirtualObject, handler


class Holder(VirtualObject):
    @handler
    async def hold(self, ctx: ObjectContext) -> str:
        awakeable = ctx.awakeable(str)
        ctx.set("id", awakeable.id)
        return await awakeable

    @handler(shared=True)
    async def id(self, ctx: SharedObjectContext) -> str:
        return await ctx.get("id", str) or ""


async def main(database: str, holders: int) -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with Engine(database, services=[Holder()], inactivity_timeout=0.02) as engine:
        handles = [await engine.send(Holder.hold, key=str(n), idempotency_key="hold") for n in range(holders)]
        print("READY", flush=True)
        while order := (await orders.readline()).decode().split():
            key, value = order
            while not (id := await engine.call(Holder.id, key=key)):
                await asyncio.sleep(0.005)
            await engine.resolve_awakeable(id, value)
            print("resolved", key, flush=True)
        for key, handle in enumerate(handles):
            print("held", key, await handle.result(), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_c052_every_acknowledged_resolve_of_thirty_reaches_its_holder_through_kills(tmp_path: Path) -> None:
    app, database, errors = program(tmp_path, HOLDERS)
    chance = random.Random(52)
    left, acknowledged, kills = list(range(30)), set[int](), 0
    while left:
        with Child(app, database, 30, errors=errors) as child:
            child.wait_for("READY")
            count = chance.randint(3, 8)
            some, left = left[:count], left[count:]
            for key in some:
                child.tell(f"{key} first")
            child.wait_for(f"resolved {some[len(some) // 2]}")
            time.sleep(chance.uniform(0, 0.02))
            child.kill()
            kills += 1
        acknowledged |= {int(line.split()[1]) for line in child.said if line.startswith("resolved")}
    with Child(app, database, 30, errors=errors) as last:
        last.wait_for("READY")
        for key in range(30):
            last.tell(f"{key} second")
        assert last.process.stdin is not None
        last.process.stdin.close()
        last.wait_for("held 29")
        last.leave(after_kills=True)
    held = {int(key): value for _, key, value in (line.split() for line in last.said if line.startswith("held"))}
    assert kills >= 4
    assert len(acknowledged) >= 15, "half of the thirty were acknowledged before a kill"
    assert {key for key in range(30) if held[key] == "first"} >= acknowledged
    assert set(held.values()) <= {"first", "second"}


def program(folder: Path, text: str) -> tuple[Path, Path, Path]:
    """The program as a file, and where its database and its stderr go."""
    app = folder / "app.py"
    app.write_text(text)
    return app, folder / "db", folder / "stderr"


def end(child: Child, how: str) -> None:
    """End a child that leaves in good order when it reads a line."""
    if how == "killed":
        child.kill()
    else:
        child.tell("stop")
        child.leave()


def recorded(database: Path) -> None:
    """Wait until a sleep is durable."""
    while not sleeps(database):
        time.sleep(0.01)


def sleeps(database: Path) -> list[int]:
    """The due times of all sleeps that were ever recorded."""
    with closing(look(database)) as found:
        return [int(row[0]) for row in found.execute("SELECT detail FROM journal WHERE kind = 'sleep' AND part = 0")]
