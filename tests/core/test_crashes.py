"""A process ended without a clean close: whose fault was it?"""

import pytest

from durable.core.commands import Crash, Kill, Pause, Recover, Recovered, Resume, Submit, Trust, Unloaded
from durable.core.effects import Failed, StartAttempt
from durable.core.invocation import Invocation, Status
from durable.core.reasons import Reason
from durable.core.retry import DEFAULT, RetryPolicy
from durable.core.trials import SUSPECT, TRIAL_MS, blame
from durable.core.turn import Turn
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

#: Later than anything.
INFINITE = 2**62


def crash(core: Core, policy: RetryPolicy = THREE_TIMES, *, after_ms: int = 10) -> Turn:
    """What a start does after a crash: the others first, the suspects last, then whoever waits for a slot."""
    core.now += after_ms
    ran = list(at_once(core.store.running(0, 10_000)))
    blamed = blame(ran)
    old = core.world
    core.world = World(core.tables.ordinals, old.next_seq, slots=old.slots, ready=core.somebody_waits)
    core.world.recovering = True
    first = [seq for seq, crashes, _ in ran if crashes + 1 < SUSPECT]
    last = [seq for seq, crashes, _ in ran if crashes + 1 >= SUSPECT]
    crashes = {seq: Crash(policy if seq == blamed.alone else None) for seq in (*first, *last)}
    asked = [Recover(seq, crash=None if seq in blamed.spared else one) for seq, one in crashes.items()]
    return core.settle(*asked, Recovered())


def trust(core: Core) -> Turn:
    """The trial is over."""
    core.now += 1000
    return core.settle(Trust(core.world.trials.number))


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
    assert started(crash(core)) == [], "it backs off, although nobody else runs"
    assert started(core.fire_timers()) == [1]
    turn = crash(core)
    one = of(core, 1)
    assert started(turn) == []
    assert (one.status, one.attempt, one.failures) == (Status.PAUSED, 3, 3)
    assert one.problem is not None
    assert one.problem.reason == Reason.ENDS_PROCESS
    assert one.problem.message == "the process ended without a clean close while attempt 3 was running"
    assert [failed.retry_at for failed in actions(turn, Failed)] == [None]
    core.settle(Resume(one.id))
    assert (of(core, 1).status, of(core, 1).failures, of(core, 1).crashes) == (Status.RUNNING, 0, 0)


def test_ten_crashes_are_enough_where_the_policy_says_nothing_else() -> None:
    core, _ = several(1)
    for crashes in range(1, 10):
        crash(core, DEFAULT)
        assert of(core, 1).crashes == crashes
        if crashes > 1:
            core.fire_timers()
        assert of(core, 1).status is Status.RUNNING
    crash(core, DEFAULT)
    assert (of(core, 1).status, of(core, 1).failures) == (Status.PAUSED, 10)
    core.settle(Resume(id_of(1)))
    crash(core, DEFAULT)
    assert (of(core, 1).status, of(core, 1).crashes) == (Status.RUNNING, 1), "a budget of its own"


@pytest.mark.parametrize(("most", "crashes"), [(1, 2), (4, 4), (None, 70)])
def test_how_many_crashes_are_enough_is_said_by_the_policy(most: int | None, crashes: int) -> None:
    core, _ = several(1)
    for _ in range(crashes - 1):
        crash(core, RetryPolicy(max_crashes=most))
        if of(core, 1).status is not Status.RUNNING:
            core.fire_timers()
        assert of(core, 1).status is Status.RUNNING
    crash(core, RetryPolicy(max_crashes=most))
    assert of(core, 1).status is Status.PAUSED


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


def test_after_two_crashes_one_half_is_tried_after_the_other_and_the_killer_alone_is_paused() -> None:
    core, _ = several(5)
    assert started(crash(core)) == [1, 2, 3, 4, 5], "one crash says nothing"
    core.settle(Submit(submission(6, retention_ms=DAY)))
    turn = crash(core)
    assert started(turn) == [6, 1, 2, 3], "who is new to this goes on; of the others one half"
    assert [of(core, number).status for number in (4, 5)] == [Status.READY] * 2
    core.settle(finish(of(core, 1)), finish(of(core, 6)))
    assert started(core.settle(step(of(core, 2)))) == [], "of 3 nothing was heard"
    assert started(core.settle(awakeable(of(core, 3)))) == [4, 5], "then the other half"
    core.settle(suspend(of(core, 3), 1))
    turn = crash(core)
    assert [of(core, number).crashes for number in (2, 4, 5)] == [1, 3, 3]
    assert started(turn) == [2, 4]
    turn = crash(core)
    assert (of(core, 4).status, of(core, 4).attempt) == (Status.PAUSED, 4)
    assert started(turn) == [5], "the next one has its turn"
    core.settle(finish(of(core, 2)), finish(of(core, 5)))
    paused = [number for number in range(1, 7) if of(core, number).status is Status.PAUSED]
    assert paused == [4]


def test_who_was_not_running_or_had_run_for_a_while_is_not_charged() -> None:
    core, _ = several(8)
    crash(core)
    assert started(crash(core)) == [1, 2, 3, 4]
    assert started(trust(core)) == [5, 6, 7, 8], "the second half, beside the first"
    turn = crash(core, after_ms=300)
    assert [of(core, number).crashes for number in range(1, 9)] == [2] * 4 + [3] * 4
    assert started(turn) == [5, 6]
    assert [action.trial_ms for action in actions(turn, StartAttempt)] == [TRIAL_MS] * 2
    assert started(trust(core)) == [7, 8]
    assert started(trust(core)) == [1, 2, 3, 4], "those to whom less is laid, all at once"
    turn = crash(core, after_ms=5000)
    assert [of(core, number).crashes for number in range(1, 9)] == [3] * 8
    assert [action.trial_ms for action in actions(turn, StartAttempt)] == [2 * TRIAL_MS] * 4, "it takes longer"


class Life:
    """Innocents whose steps take for ever, and killers that end the process so long after they were started."""

    def __init__(self, count: int, killers: set[int], kills_after_ms: int, *, slots: int = 10_000) -> None:
        self.core, _ = several(count, slots)
        self.killers = killers
        self.kills_after_ms = kills_after_ms
        self.crashes = 0
        self.began = self.core.now

    def go_on(self, policy: RetryPolicy = DEFAULT) -> None:
        """Until the next thing happens."""
        core = self.core
        running = [of(core, number) for number in self.killers if of(core, number).status is Status.RUNNING]
        killed_at = min((one.modified_at + self.kills_after_ms for one in running), default=INFINITE)
        timer_at = min((due_at for due_at, _, _ in core.tables.timers), default=INFINITE)
        trials = core.world.trials
        on_trial = [core.world.invocations[seq] for seq in trials.on_trial]
        trusted_at = min((one.modified_at + trials.lasts_ms(one.crashes) for one in on_trial), default=INFINITE)
        at = min(killed_at, timer_at, trusted_at)
        assert at < INFINITE, "nothing happens any more"
        if at == killed_at:
            self.crashes += 1
            crash(core, policy, after_ms=at - core.now + 1000)  # it takes a second to start it again
        elif at == timer_at:
            core.fire_timers()
        else:
            core.now = at
            core.settle(Trust(trials.number))

    def over(self) -> bool:
        return all(of(self.core, number).status is Status.PAUSED for number in self.killers)


@pytest.mark.parametrize("kills_after_ms", [0, 300, 4_000, 30_000])
@pytest.mark.parametrize(("count", "killers"), [(2, {2}), (20, {7}), (100, {100}), (100, {1, 50})])
def test_wherever_the_killer_is_it_is_found_and_paused_and_nobody_else(
    count: int, killers: set[int], kills_after_ms: int
) -> None:
    life = Life(count, killers, kills_after_ms)
    while not life.over():
        life.go_on()
    for number in set(range(1, count + 1)) - killers:
        assert of(life.core, number).status in (Status.RUNNING, Status.READY)
    assert life.crashes <= 11 * len(killers) + kills_after_ms // 3000, (
        "it takes longer to tell from others what is slow"
    )
    while life.core.world.trials.due or life.core.world.trials.on_trial:
        life.go_on()
    assert len(life.core.world.running) == count - len(killers)


def test_of_a_thousand_and_a_killer_only_the_killer_is_paused_and_nobody_waits_for_minutes() -> None:
    life = Life(1001, {707}, 50)
    while not life.over():
        life.go_on()
    assert life.crashes <= 13, "each halves those that it can be"
    assert life.core.now - life.began < 60_000
    while len(life.core.world.running) < 1000:
        life.go_on()
    assert life.core.now - life.began < 60_000


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


def test_a_suspect_that_is_killed_or_paused_while_it_waits_has_no_trial() -> None:
    core, _ = several(4)
    crash(core)
    assert started(crash(core)) == [1, 2]
    core.settle(Kill(id_of(3)), Pause(id_of(4)))
    assert started(core.settle(finish(of(core, 1)))) == []
    core.settle(Resume(id_of(4)))
    assert of(core, 4).status is Status.READY, "it is a suspect still"
    assert started(core.settle(finish(of(core, 2)))) == [4]


def test_a_killer_that_holds_a_key_is_paused_and_holds_it() -> None:
    core = Core()
    core.settle(*(Submit(submission(number, key="k", retention_ms=DAY)) for number in (1, 2)))
    crash(core)
    crash(core)
    core.fire_timers()
    crash(core)
    assert [of(core, number).status for number in (1, 2)] == [Status.PAUSED, Status.PENDING]
    assert started(core.settle(Kill(id_of(1)))) == [2]


def test_whoever_is_charged_with_a_crash_backs_off_so_that_its_neighbours_get_their_turn() -> None:
    core, _ = several(4)
    patient = RetryPolicy("1s", 2.0, "1m", 70, "pause", None)
    crash(core, patient)
    assert started(crash(core, patient)) == [1, 2]
    assert started(crash(core, patient)) == [1]
    turn = crash(core, patient)  # it was the only one on trial
    assert [failed.retry_at for failed in actions(turn, Failed)] == [core.now + 8000]
    assert (of(core, 1).status, of(core, 1).crashes, of(core, 1).failures) == (Status.BACKING_OFF, 4, 0)
    assert started(turn) == [2], "those that wait behind it do not wait for it"
    assert started(core.settle(finish(of(core, 2)))) == [3, 4]
    core.settle(finish(of(core, 3)), finish(of(core, 4)))
    assert started(core.settle(Resume(id_of(1)))) == [1], "a resume need not wait"
    for _ in range(65):
        assert started(crash(core, patient)) == []
        assert started(core.fire_timers()) == [1]
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
