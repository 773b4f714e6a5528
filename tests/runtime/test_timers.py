"""A window of the stored timers is in memory; whatever it holds, each of them fires, in time and none too early."""

import asyncio
import random
from collections.abc import Iterable

import pytest

from durable.core.effects import Timer
from durable.core.limits import Limits
from durable.runtime.timers import Timers
from durable.testing import run
from durable.testing.clocks import EPOCH_MS, VirtualClock
from durable.testing.virtual import VirtualLoop


class Stored:
    """What is committed, and an engine that removes what has fired."""

    def __init__(self, window: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.clock = VirtualClock(loop)
        self.stored: set[Timer] = set()
        self.fired: list[tuple[Timer, int]] = []
        self.window = Timers(self, self.clock, loop, self.fire, self.failed, limits=Limits(timers=window))

    async def timers(self, after: Timer | None, limit: int) -> Iterable[Timer]:
        found = sorted(timer for timer in self.stored if after is None or timer > after)[:limit]
        await asyncio.sleep(0.001)
        return found

    def fire(self, timers: list[Timer]) -> None:
        now = self.clock.now_ms()
        self.fired += [(timer, now) for timer in timers if timer in self.stored]
        self.commit(removed=timers)

    def failed(self, error: BaseException) -> None:
        raise error

    def commit(self, added: Iterable[Timer] = (), removed: Iterable[Timer] = ()) -> None:
        self.stored.difference_update(removed)
        self.window.remove(removed)
        self.stored.update(added)
        self.window.add(added)


def at(ms: int, seq: int) -> Timer:
    return (EPOCH_MS + ms, seq, 0)


def test_one_that_was_taken_back_and_set_again_is_not_trimmed_away() -> None:
    async def main() -> list[tuple[Timer, int]]:
        engine = Stored(window=1)
        await engine.window.start()
        engine.commit(added=[at(40, 3)])
        engine.commit(removed=[at(40, 3)])
        engine.commit(added=[at(40, 1)])
        engine.commit(removed=[at(40, 1)])
        engine.commit(added=[at(40, 1)])
        await asyncio.sleep(1)
        return engine.fired

    assert run(main) == [(at(40, 1), EPOCH_MS + 40)]


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_whatever_comes_and_goes_each_one_that_is_left_fires_when_it_is_due(first: int) -> None:
    for seed in range(first, first + 100):
        fired, expected = run(lambda seed=seed: random_life(seed))  # type: ignore[misc]
        assert [timer for timer, _ in fired] == expected, f"seed {seed}"
        late = [(timer, now) for timer, now in fired if not timer[0] <= now <= timer[0] + 10]
        assert not late, f"seed {seed}: too early, or later than some loads take: {late}"


async def random_life(seed: int) -> tuple[list[tuple[Timer, int]], list[Timer]]:
    draw = random.Random(seed)
    engine = Stored(window=draw.choice([1, 2, 5]))
    await engine.window.start()
    ever: set[Timer] = set()
    for _ in range(60):
        now = engine.clock.now_ms() - EPOCH_MS
        match draw.choice(["add", "add", "remove", "again", "wait"]):
            case "add":
                new = {at(now + draw.choice([1, 5, 5, 20, 60]), draw.randint(1, 4)) for _ in range(3)} - ever
                ever |= new
                engine.commit(added=new)
            case "remove" if engine.stored:
                timer = draw.choice(sorted(engine.stored))
                ever.discard(timer)
                engine.commit(removed=[timer])
            case "again" if engine.stored:
                timer = draw.choice(sorted(engine.stored))
                engine.commit(removed=[timer])
                engine.commit(added=[timer])
            case "wait":
                await asyncio.sleep(draw.choice([0, 0.001, 0.004, 0.03]))
    await asyncio.sleep(10)
    assert not engine.stored, f"lost: {engine.stored}"
    by_time = sorted(engine.fired, key=lambda found: found[0])
    return by_time, sorted(ever)
