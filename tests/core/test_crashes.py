"""A process ended without a clean close: whose fault was it?"""

import pytest

from durable.core.commands import Crash, Kill, Pause, Recover, Recovered, Resume, Submit, Trust, Unloaded
from durable.core.effects import Failed, StartAttempt
from durable.core.invocation import Invocation, Status
from durable.core.retry import RetryPolicy
from durable.core.turn import SUSPECT, TRIAL_MS, TRIAL_MS_MAX, Turn
from durable.core.world import World
from tests.core.support import (
    DAY,
    NO,
    THREE_TIMES,
    Core,
    actions,
    at_once,
    awakeable,
    fail,
    finish,
    id_of,
    sleep,
    started,
    step,
    submission,
    suspend,
)


def crash(core: Core, policy: RetryPolicy = THREE_TIMES) -> Turn:
    """What a start does after a crash: the others first, the suspects last, then whoever waits for a slot."""
    ran = list(at_once(core.store.running(0, 1000)))
    suspects = [seq for seq, crashes in ran if crashes >= SUSPECT]
    alone = suspects[0] if len(suspects) == 1 else ran[0][0] if len(ran) == 1 else 0
    old = core.world
    core.world = World(core.tables.ordinals, old.next_seq, slots=old.slots, ready=core.somebody_waits)
    core.world.recovering = True
    first = [seq for seq, crashes in ran if crashes + 1 < SUSPECT]
    last = [seq for seq, crashes in ran if crashes + 1 >= SUSPECT]
    asked = [Recover(seq, crash=Crash(policy if seq == alone else None)) for seq in (*first, *last)]
    return core.settle(*asked, Recovered())


def several(count: int, slots: int = 1000) -> tuple[Core, list[Invocation]]:
    core = Core(slots=slots)
    core.settle(*(Submit(submission(number, retention_ms=DAY)) for number in range(1, count + 1)))
    return core, [core.invocation(id_of(number)) for number in range(1, count + 1)]


def of(core: Core, number: int) -> Invocation:
    return core.invocation(id_of(number))


def test_one_that_ran_alone_in_three_crashes_has_used_three_attempts_and_is_paused() -> None:
    core, _ = several(1)
    assert started(crash(core)) == [1]
    assert of(core, 1).problem is not None
    assert started(crash(core)) == [1]
    turn = crash(core)
    one = of(core, 1)
    assert started(turn) == []
    assert (one.status, one.attempt, one.failures) == (Status.PAUSED, 3, 3)
    assert one.problem is not None
    assert one.problem.message == "the process ended without a clean close while attempt 3 was running"
    assert [failed.retry_at for failed in actions(turn, Failed)] == [None]
    core.settle(Resume(one.id))
    assert (of(core, 1).status, of(core, 1).failures, of(core, 1).crashes) == (Status.RUNNING, 0, 0)


def test_where_the_policy_ends_it_a_killer_is_ended() -> None:
    core, _ = several(1)
    policy = RetryPolicy(max_attempts=2, on_max_attempts="kill")
    crash(core, policy)
    crash(core, policy)
    one = of(core, 1)
    assert (one.status, one.outcome is not None and one.outcome.ok) == (Status.COMPLETED, False)


def test_the_first_crash_never_uses_a_budget_up() -> None:
    core, _ = several(1)
    once = RetryPolicy(max_attempts=1)
    assert started(crash(core, once)) == [1]
    assert started(crash(core, once)) == []


def test_what_failed_before_counts_too_and_what_fails_afterwards_is_not_charged_with_crashes() -> None:
    core, _ = several(2)
    core.settle(fail(of(core, 1), THREE_TIMES))
    core.fire_timers()
    core.settle(finish(of(core, 2)))
    assert of(core, 1).failures == 1
    crash(core)
    crash(core)
    assert (of(core, 1).status, of(core, 1).failures) == (Status.PAUSED, 3), "one failure and two crashes"

    core, _ = several(2)
    crash(core)
    crash(core)
    core.settle(fail(of(core, 1), THREE_TIMES))
    one = of(core, 1)
    assert (one.status, one.failures, one.crashes) == (Status.BACKING_OFF, 1, 0), "it came back: no suspect any more"


def test_neighbours_are_started_one_at_a_time_after_two_crashes_and_the_killer_alone_is_paused() -> None:
    core, _ = several(5)
    assert started(crash(core)) == [1, 2, 3, 4, 5], "one crash says nothing"
    core.settle(Submit(submission(6, retention_ms=DAY)))
    turn = crash(core)
    assert started(turn) == [6, 1], "who is new to this goes on; of the others the first"
    assert [of(core, number).status for number in range(1, 6)] == [Status.RUNNING, *[Status.READY] * 4]
    assert started(core.settle(finish(of(core, 1)))) == [2]
    assert started(core.settle(step(of(core, 2)))) == [3], "progress clears it"
    core.settle(awakeable(of(core, 3)))
    assert started(core.settle(suspend(of(core, 3), 1))) == [4] or of(core, 4).status is Status.RUNNING
    assert of(core, 5).status is Status.READY
    core.settle(finish(of(core, 6)), finish(of(core, 2)))
    crash(core)
    assert (of(core, 4).status, of(core, 4).attempt) == (Status.PAUSED, 3)
    assert of(core, 5).status is Status.RUNNING, "the next one has its turn"
    assert started(core.settle(finish(of(core, 5)))) == []
    paused = [number for number in range(1, 7) if of(core, number).status is Status.PAUSED]
    assert paused == [4]


def test_of_a_thousand_and_a_killer_only_the_killer_is_paused() -> None:
    core, _ = several(1001)
    killer = 707
    crashes = 0
    while core.world.running:
        if killer in core.world.running and (crashes < 2 or of(core, killer).crashes >= SUSPECT):
            crash(core)
            crashes += 1
            continue
        running = sorted(core.world.running - {killer})
        if not running:
            break
        core.settle(*(finish(core.world.invocations[seq]) for seq in running))
    counted = dict.fromkeys(Status, 0)
    for number in range(1, 1002):
        counted[of(core, number).status] += 1
    assert (counted[Status.PAUSED], counted[Status.COMPLETED], crashes) == (1, 1000, 3)
    assert (of(core, killer).status, of(core, killer).attempt) == (Status.PAUSED, 3)


def test_a_suspect_that_does_no_harm_for_a_while_is_joined_by_the_next() -> None:
    core, _ = several(3)
    crash(core)
    turn = crash(core)
    assert [action.trial_ms for action in actions(turn, StartAttempt)] == [TRIAL_MS]
    assert started(core.settle(Trust(1))) == [2]
    assert core.settle(Trust(1)).actions == [], "that is heard once"
    assert [of(core, number).status for number in (1, 2, 3)] == ["running", "running", "ready"]
    turn = crash(core)
    assert started(turn) == [1], "both are suspects still, so neither is paused"
    assert [action.trial_ms for action in actions(turn, StartAttempt)] == [2 * TRIAL_MS]
    assert of(core, 2).status is Status.READY
    core.settle(Kill(id_of(2)), Kill(id_of(3)))
    for _ in range(30):
        turn = crash(core, RetryPolicy(max_attempts=None))
    assert [action.trial_ms for action in actions(turn, StartAttempt)] == [TRIAL_MS_MAX]


def test_who_only_waited_is_never_charged() -> None:
    core, _ = several(5, slots=4)
    core.settle(sleep(of(core, 1), core.now + DAY), Pause(id_of(2)), Unloaded(2, 1), fail(of(core, 3), THREE_TIMES))
    core.settle(suspend(of(core, 1), 1))
    before = {number: of(core, number).attempt for number in (1, 3)}
    for _ in range(3):
        crash(core, RetryPolicy(max_attempts=None))
    assert [of(core, number).crashes for number in (1, 2, 3)] == [0, 0, 0]
    assert {number: of(core, number).attempt for number in (1, 3)} == before
    assert [of(core, number).status for number in (1, 2, 3)] == ["suspended", "paused", "backing-off"]


def test_after_a_clean_close_nobody_is_charged() -> None:
    core, _ = several(3)
    for _ in range(5):
        assert started(core.crash()) == [1, 2, 3]
    assert [(of(core, number).crashes, of(core, number).problem) for number in (1, 2, 3)] == [(0, None)] * 3


def test_a_suspect_that_is_killed_or_paused_while_it_waits_lets_the_next_one_through() -> None:
    core, _ = several(4)
    crash(core)
    crash(core)
    core.settle(Kill(id_of(2)), Pause(id_of(3)))
    assert started(core.settle(finish(of(core, 1)))) == [4]
    core.settle(Resume(id_of(3)))
    assert of(core, 3).status is Status.READY, "it is a suspect still"
    assert started(core.settle(finish(of(core, 4)))) == [3]


def test_a_killer_that_holds_a_key_is_paused_and_holds_it() -> None:
    core = Core()
    core.settle(*(Submit(submission(number, key="k", retention_ms=DAY)) for number in (1, 2)))
    for _ in range(3):
        crash(core)
    assert [of(core, number).status for number in (1, 2)] == [Status.PAUSED, Status.PENDING]
    assert started(core.settle(Kill(id_of(1)))) == [2]


def test_whoever_is_charged_with_a_crash_backs_off_so_that_its_neighbours_get_their_turn() -> None:
    core, _ = several(4)
    patient = RetryPolicy("1s", 2.0, "1m", 70, "pause")
    crash(core, patient)
    assert started(crash(core, patient)) == [1]
    turn = crash(core, patient)  # it was the only suspect that ran
    assert [failed.retry_at for failed in actions(turn, Failed)] == [core.now + 4000]
    assert (of(core, 1).status, of(core, 1).crashes, of(core, 1).failures) == (Status.BACKING_OFF, 3, 0)
    assert started(turn) == [2], "those that wait behind it do not wait for it"
    for number in (2, 3, 4):
        core.settle(finish(of(core, number)))
    assert started(core.settle(Resume(id_of(1)))) == [1], "a resume need not wait"
    for _ in range(66):
        assert started(crash(core, patient)) == [1], "nobody is left to wait for"
    crash(core, patient)
    assert (of(core, 1).status, of(core, 1).failures) == (Status.PAUSED, 70)


def test_a_killer_that_makes_progress_each_time_has_its_whole_budget_again() -> None:
    core, _ = several(1)
    for _ in range(10):
        core.settle(step(of(core, 1)))
        assert (of(core, 1).crashes, of(core, 1).problem) == (0, None)
        assert started(crash(core)) == [1]


@pytest.mark.parametrize("slots", [1, 2])
def test_suspects_and_others_share_few_slots(slots: int) -> None:
    core, _ = several(6, slots=slots)
    for _ in range(3):
        crash(core, RetryPolicy(max_attempts=None))
    order: list[int] = []
    while core.world.running or core.tables.timers:
        if not core.world.running:
            core.fire_timers()
        seq = min(core.world.running)
        order.append(seq)
        core.settle(finish(core.world.invocations[seq], NO))
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
