"""What an engine on standby does next: a table, and long random histories."""

import random

import pytest

from durable import EngineUnreachableError, StorageBusyError
from durable.engine.roles import (
    FAILED_S,
    NAMED_AFTER_S,
    PAUSE_S,
    PAUSE_S_MAX,
    START_S,
    Dial,
    Event,
    Failed,
    Follow,
    Found,
    GiveUp,
    Gone,
    Hold,
    Locked,
    Pause,
    Refused,
    Role,
    Silent,
    Standing,
    Step,
    Take,
    Taken,
    Waited,
    next_step,
)

NOBODY = EngineUnreachableError("nobody listens")
BUSY = StorageBusyError("somebody copies it")
NEW, FOLLOWS, HOLDS = Standing(), Standing(Role.STANDBY, 50), Standing(Role.HOLDER, 50)
JUST_FOUND = Standing(Role.STANDBY, 59.9)


@pytest.mark.parametrize(
    ("standing", "event", "role", "step"),
    [
        (NEW, Taken(), Role.HOLDER, Hold()),
        (NEW, Locked(), None, Dial()),
        (NEW, Refused(BUSY), None, GiveUp(BUSY)),
        (NEW, Found(), Role.STANDBY, Follow()),
        (NEW, Silent(NOBODY), None, Pause(PAUSE_S)),
        (NEW, Waited(), None, Take()),
        (FOLLOWS, Gone(), Role.STANDBY, Take()),
        (JUST_FOUND, Gone(), Role.STANDBY, Pause(PAUSE_S_MAX)),
        (FOLLOWS, Taken(), Role.HOLDER, Hold()),
        (FOLLOWS, Locked(), Role.STANDBY, Dial()),
        (FOLLOWS, Refused(BUSY), Role.STANDBY, Pause(FAILED_S, BUSY)),
        (HOLDS, Failed(), Role.STANDBY, Pause(FAILED_S)),
    ],
)
def test_the_next_step_is_what_the_table_says(
    standing: Standing, event: Event, role: Role | None, step: Step
) -> None:
    after, found = next_step(standing, event, 60.0 if standing.role else 0.5)
    assert (after.role, found) == (role, step)


def test_who_finds_nobody_tries_ever_more_slowly_says_it_once_and_gives_up_only_at_a_start() -> None:
    for start, gives_up in ((NEW, True), (Standing(Role.STANDBY), False)):
        standing, now, said, gave_up = start, 0.0, list[float](), False
        while now < START_S + 1 and not gave_up:
            standing, step = next_step(standing, Silent(NOBODY), now)
            gave_up = isinstance(step, GiveUp)
            if isinstance(step, Pause):
                assert PAUSE_S <= step.seconds <= PAUSE_S_MAX
                if step.error is not None:
                    said.append(now)
                now += step.seconds
        assert len(said) == 1 and NAMED_AFTER_S <= said[0] < NAMED_AFTER_S + PAUSE_S_MAX
        assert gave_up is gives_up


def test_in_any_history_handlers_run_only_with_the_lock_and_nobody_rests_without_one_to_watch() -> None:
    """Whatever happens to it, in any order in which that can happen."""
    can_follow: dict[type, tuple[Event, ...]] = {
        Take: (Taken(), Locked(), Refused(BUSY)),
        Dial: (Found(), Silent(NOBODY)),
        Follow: (Gone(),),
        Hold: (Failed(),),
        Pause: (Waited(),),
    }
    for seed in range(200):
        chance, now = random.Random(seed), 0.0
        standing: Standing = Standing()
        step: Step = Take()
        settled = False
        for _ in range(100):
            event = chance.choice(can_follow[type(step)])
            now += chance.uniform(0, 2)
            standing, step = next_step(standing, event, now)
            assert (standing.role is Role.HOLDER) == isinstance(step, Hold)
            assert not isinstance(step, Follow) or standing.role is Role.STANDBY
            settled = settled or isinstance(step, Hold | Follow)
            assert (standing.role is not None) == settled  # once it has found its place, it has one for good
            if isinstance(step, GiveUp):
                assert not settled
                break
