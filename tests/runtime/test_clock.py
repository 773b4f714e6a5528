"""The system clock: it follows the wall clock forwards, at once, and never goes back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import Context, Engine, handler
from durable.runtime.clock import SystemClock
from durable.testing import MemoryStore, run

HOUR_MS = 3_600_000


class Hands:
    """A wall clock that can be set, beside one that only goes on."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.steady = 50.0
        self.clock = SystemClock(lambda: self.wall, lambda: self.steady)

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_it_shows_the_wall_clock_as_long_as_nobody_sets_that() -> None:
    hands = Hands()
    assert hands.clock.now_ms() == 1_000_000_000
    hands.go_on(1.5)
    assert hands.clock.now_ms() == 1_000_001_500


def test_a_jump_back_is_ignored_and_time_goes_on_from_where_it_was() -> None:
    hands = Hands()
    hands.wall -= 3600
    assert hands.clock.now_ms() == 1_000_000_000
    hands.go_on(10)
    assert hands.clock.now_ms() == 1_000_010_000, "not the wall clock, and not standing still either"
    hands.wall += 3600
    assert hands.clock.now_ms() == 1_000_010_000, "the jump taken back changes nothing"


def test_a_jump_forward_is_followed_at_once_and_kept() -> None:
    hands = Hands()
    hands.wall += 3600
    assert hands.clock.now_ms() == 1_000_000_000 + HOUR_MS
    hands.go_on(1)
    assert hands.clock.now_ms() == 1_000_001_000 + HOUR_MS
    hands.wall -= 7200
    assert hands.clock.now_ms() == 1_000_001_000 + HOUR_MS, "from then on that is the time"
    hands.go_on(1)
    assert hands.clock.now_ms() == 1_000_002_000 + HOUR_MS


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(-1000, 1000)), max_size=20))
def test_it_never_goes_back_and_never_falls_behind_either_clock(moves: list[tuple[int, int]]) -> None:
    hands = Hands()
    before = hands.clock.now_ms()
    for passed, jump in moves:
        hands.go_on(passed)
        hands.wall += jump
        now = hands.clock.now_ms()
        assert now >= before + passed * 1000
        assert now >= hands.wall * 1000
        before = now


@handler(service="Sleeper")
async def sleeper(ctx: Context) -> None:
    await ctx.sleep("1h")


@pytest.mark.parametrize("jump_s", [3600, 0, -3600])
def test_a_sleep_is_over_within_a_minute_of_a_jump_forward_and_never_early(jump_s: int) -> None:
    """A timer of the event loop knows nothing of a jump, so the clock is looked at again, once a minute."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        jumped = 0

        def wall() -> float:
            return 1_000_000 + loop.time() + jumped

        clock = SystemClock(wall, loop.time)
        async with Engine(services=[sleeper], store=MemoryStore(), clock=clock) as engine:
            handle = await engine.send(sleeper)
            await asyncio.sleep(600)
            jumped = jump_s
            jumped_at = loop.time()
            await handle.result()
            took = loop.time() - jumped_at
        if jump_s > 0:
            assert 0 <= took <= 60
        else:
            assert 3000 <= took < 3001, "a jump back makes it neither late nor early"

    run(story)
