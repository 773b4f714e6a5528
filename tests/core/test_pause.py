"""Pause and resume: what runs may end and is recorded, what arrives is stored, and nothing more happens meanwhile."""

import pytest

from durable.core.commands import (
    AwaitSignal,
    Cancel,
    Command,
    CompleteEntry,
    Kill,
    Pause,
    Recover,
    Resume,
    SendSignal,
    Unloaded,
)
from durable.core.effects import Failed, Interrupt, StartAttempt, Unload
from durable.core.invocation import Invocation, Status
from durable.core.journal import CANCELLED, KILLED, Kind
from durable.core.retry import RetryPolicy
from durable.core.world import World
from durable.testing.checkers import check_tables
from tests.core.support import (
    NO,
    ONE,
    THREE_TIMES,
    Core,
    actions,
    at_once,
    awakeable,
    call,
    cancelled_by,
    delivered,
    ends,
    entries,
    fail,
    finish,
    id_of,
    opened,
    replies,
    runs,
    sleep,
    started,
    step,
    submission,
    suspend,
)

ONCE = RetryPolicy(max_attempts=1)


def unloaded(who: Invocation) -> Unloaded:
    return Unloaded(who.seq, who.attempt)


def brought_to(core: Core, number: int, status: str) -> str:
    """The id of a submission that has come to a status."""
    one = core.submit(submission(number, key=f"k{number}", due_at=core.now + 900 * (status == "scheduled")))
    match status:
        case "pending":
            one = core.submit(submission(100 + number, key=f"k{number}"))
        case "suspended":
            core.settle(awakeable(one), suspend(one, 1))
        case "backing-off":
            core.settle(fail(one, THREE_TIMES))
        case "paused":
            core.settle(fail(one, ONCE))
        case "completed":
            core.settle(finish(one))
    assert core.invocation(one.id).status == status
    return one.id


STATUSES = ["scheduled", "pending", "running", "suspended", "backing-off", "paused", "completed"]


# ---- pause ----


@pytest.mark.parametrize("status", STATUSES)
def test_a_pause_is_answered_with_the_status_before(status: str) -> None:
    core = Core()
    id = brought_to(core, 1, status)
    turn = core.settle(Pause(id, token=1))
    after = "paused" if status in ("suspended", "backing-off") else status
    assert (replies(turn), started(turn)) == ([(1, status)], [])
    assert core.invocation(id).status == after
    check_tables(core.tables)


def test_a_pause_of_nobody_is_not_found() -> None:
    core = Core()
    assert replies(core.settle(Pause(id_of(9), token=1))) == [(1, "not-found")]


def test_a_pause_of_one_that_runs_waits_until_its_attempt_has_no_step_any_more() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    turn = core.settle(Pause(one.id))
    assert turn.actions == [Unload(one.seq, 1)]
    assert (one.status, one.pausing) == (Status.RUNNING, True)
    core.settle(ends(one, 1))
    assert one.status is Status.RUNNING
    turn = core.settle(unloaded(one))
    assert actions(turn, Interrupt) == [Interrupt(one.seq)]
    assert core.world.find(one.id) is None, "it holds no memory"
    one = core.invocation(one.id)
    assert (one.status, one.attempt, one.problem) == (Status.PAUSED, 1, None)
    assert entries(core, one)[-1] == (1, 1, "run", True)


def test_a_second_pause_does_not_ask_the_attempt_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    turn = core.settle(Pause(one.id, token=2))
    assert actions(turn, Unload) == []
    assert replies(turn) == [(2, "running")]


def test_a_pause_while_a_retry_is_due_takes_its_timer_away() -> None:
    """C-067."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, THREE_TIMES))
    core.settle(Pause(one.id))
    one = core.invocation(one.id)
    assert (one.status, one.due_at, core.tables.timers) == (Status.PAUSED, None, set())
    assert one.problem is not None


def test_a_paused_one_keeps_its_key() -> None:
    core = Core()
    one, two = core.submit(submission(1, key="k")), core.submit(submission(2, key="k"))
    core.settle(Pause(one.id))
    assert started(core.settle(unloaded(one))) == []
    assert core.invocation(two.id).status is Status.PENDING
    core.settle(Resume(one.id))
    assert started(core.settle(finish(core.invocation(one.id)))) == [two.seq]


@pytest.mark.parametrize("crash", [False, True], ids=["in one life", "across a crash"])
def test_what_arrives_while_it_is_paused_is_stored_and_starts_nothing(crash: bool) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    core.settle(sleep(one, core.now + 500))
    core.settle(call(one, 3))
    core.settle(opened(one, Kind.SIGNAL, AwaitSignal(), "s"))
    core.settle(suspend(one, 1))
    core.settle(Pause(one.id))
    if crash:
        core.crash()
    child = core.invocation(id_of(3))
    commands: list[Command] = [CompleteEntry(one.id, 1, ONE), finish(child, NO), SendSignal(one.id, "s", ONE)]
    news = [*(core.settle(command) for command in commands), core.fire_timers()]
    if crash:
        news.append(core.crash())
    for turn in news:
        assert one.seq not in started(turn)
        assert delivered(turn) == []
    assert core.invocation(one.id).status is Status.PAUSED
    assert core.invocation(one.id).open == {}
    assert started(core.settle(Resume(one.id))) == [one.seq]


# ---- resume ----


@pytest.mark.parametrize("status", STATUSES)
def test_a_resume_is_answered_with_the_status_before(status: str) -> None:
    core = Core()
    id = brought_to(core, 1, status)
    turn = core.settle(Resume(id, token=1))
    assert replies(turn) == [(1, status)]
    starts = status in ("suspended", "backing-off", "paused")
    assert started(turn) == ([core.invocation(id).seq] if starts else [])
    assert core.invocation(id).status == ("running" if starts else status)
    check_tables(core.tables)


def test_a_resumed_one_has_all_its_budgets_back() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, THREE_TIMES))
    core.fire_timers()
    one = core.invocation(one.id)
    core.settle(fail(one, THREE_TIMES, entry=1, step_policy=RetryPolicy("10ms", max_attempts=2), failure=NO))
    assert (one.failures, one.step_failures) == (1, {1: 1})
    core.settle(Pause(one.id))
    core.settle(Resume(one.id))
    one = core.invocation(one.id)
    assert (one.failures, one.step_failures) == (0, {})


def test_a_pause_that_is_taken_back_before_the_attempt_is_gone_starts_the_next_one() -> None:
    """The attempt was told to start nothing more, and does not come back from that."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    turn = core.settle(Resume(one.id, token=1))
    assert (started(turn), replies(turn), one.pausing) == ([], [(1, "running")], False)
    assert started(core.settle(unloaded(one))) == [one.seq]
    assert (one.status, one.attempt) == (Status.RUNNING, 2)


def test_of_pauses_and_resumes_before_the_attempt_is_gone_the_last_one_counts() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id), Resume(one.id), Pause(one.id))
    core.settle(unloaded(one))
    assert core.invocation(one.id).status is Status.PAUSED


def test_a_pause_and_a_resume_are_both_stored() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(Resume(one.id))
    assert started(core.crash()) == [one.seq]
    assert core.invocation(one.id).status is Status.RUNNING


# ---- how an attempt may end while it is to be paused ----


def test_a_crash_while_it_is_to_be_paused_leaves_it_paused() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Pause(one.id))
    assert started(core.crash()) == []
    one = core.invocation(one.id)
    assert (one.status, set(one.open)) == (Status.PAUSED, {1})
    assert started(core.settle(Resume(one.id))) == [one.seq]


def test_a_failure_while_it_is_to_be_paused_waits_for_the_resume_instead_of_a_timer() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    turn = core.settle(fail(one, THREE_TIMES))
    assert [failed.retry_at for failed in actions(turn, Failed)] == [None]
    assert core.tables.timers == set()
    one = core.invocation(one.id)
    assert (one.status, one.failures) == (Status.PAUSED, 1)
    assert one.problem is not None


def test_a_last_failure_while_it_is_to_be_paused_still_kills_where_the_policy_says_so() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(fail(one, RetryPolicy(max_attempts=1, on_max_attempts="kill"), failure=NO))
    assert core.invocation(one.id).outcome == NO


def test_a_step_that_is_given_up_while_it_is_to_be_paused_is_recorded() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    turn = core.settle(fail(one, THREE_TIMES, entry=1, step_policy=ONCE, failure=NO))
    assert started(turn) == []
    assert entries(core, one) == [(1, 0, "run", False)]
    assert core.invocation(one.id).status is Status.PAUSED


def test_an_offer_to_suspend_while_it_is_to_be_paused_pauses() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    core.settle(Pause(one.id))
    core.settle(suspend(one, 1))
    one = core.invocation(one.id)
    assert (one.status, one.waiting) == (Status.PAUSED, None)
    assert started(core.settle(CompleteEntry(one.id, 1, ONE))) == []


def test_a_handler_that_returns_while_it_is_to_be_paused_has_ended() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(finish(one, ONE))
    one = core.invocation(one.id)
    assert (one.status, one.outcome, one.pausing) == (Status.COMPLETED, ONE, False)


def test_a_kill_while_it_is_to_be_paused_ends_it() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(Kill(one.id), unloaded(one))
    assert core.invocation(one.id).outcome == KILLED


def test_an_attempt_that_is_over_does_not_pause_the_next_one() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(Resume(one.id), unloaded(one))
    core.settle(Pause(one.id))
    assert core.settle(Unloaded(one.seq, 1)).actions == []
    assert (one.status, one.attempt) == (Status.RUNNING, 2)


def test_what_the_attempt_records_before_it_is_gone_counts() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(step(one), unloaded(one))
    [start] = actions(core.settle(Resume(one.id)), StartAttempt)
    [row] = at_once(core.store.journal(one.seq))
    assert row.ordinal is not None
    assert row.ordinal < start.until


# ---- pause and cancel ----


def cancels(core: Core, id: str) -> int:
    """How many are in the journal."""
    return sum(entry == 0 for entry, *_ in entries(core, core.invocation(id)))


def test_a_cancel_overrides_a_pause_whose_attempt_is_not_gone_yet() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    core.settle(Pause(one.id))
    assert delivered(core.settle(Cancel(one.id))) == [(one.seq, 0, CANCELLED)]
    assert started(core.settle(unloaded(one))) == [one.seq]
    assert (one.status, one.pausing, cancels(core, one.id)) == (Status.RUNNING, False, 1)


def test_a_cancel_during_a_pause_waits_for_the_step_and_then_starts_it_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Pause(one.id), Cancel(one.id))
    assert delivered(core.settle(ends(one, 1))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]
    assert started(core.settle(unloaded(one))) == [one.seq]


def test_a_cancel_during_a_pause_starts_it_again_and_waits_for_the_call() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    core.settle(Pause(one.id), Cancel(one.id))
    assert started(core.settle(unloaded(one))) == [one.seq]
    told = delivered(core.settle(finish(core.invocation(id_of(2)), NO)))
    assert told == [(one.seq, 0, cancelled_by(NO)), (one.seq, 1, NO)]


def test_a_cancel_and_a_pause_are_both_kept_by_a_crash_and_the_cancel_starts_it() -> None:
    """A cancelled invocation that is paused is resumed; its step was cut off and runs again."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Pause(one.id), Cancel(one.id))
    assert started(core.crash()) == [one.seq]
    one = core.invocation(one.id)
    assert delivered(core.settle(ends(one, 1))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]


def test_a_cancel_during_a_pause_of_an_attempt_that_had_not_come_to_its_open_step_starts_it_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.crash()  # the next attempt replays, and is to be paused before it has come to the step
    one = core.invocation(one.id)
    core.settle(Pause(one.id), Cancel(one.id))
    assert started(core.settle(unloaded(one))) == [one.seq]
    assert delivered(core.settle(ends(one, 1))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]


def test_a_child_that_is_paused_ends_when_its_caller_is_cancelled() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    child = core.invocation(id_of(2))
    core.settle(Pause(child.id))
    core.settle(unloaded(child))
    assert started(core.settle(Cancel(root.id))) == [child.seq]
    child = core.invocation(child.id)
    assert delivered(core.settle(finish(child, CANCELLED)))[0] == (root.seq, 0, cancelled_by(CANCELLED))


def test_a_pause_after_a_cancel_that_waits_for_a_step_is_not_lost() -> None:
    """It was accepted last: what the handler does with its cancel can wait until somebody resumes it."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Cancel(one.id))
    core.settle(Pause(one.id))
    core.settle(ends(one, 1))
    core.settle(unloaded(one))
    assert core.invocation(one.id).status is Status.PAUSED
    assert cancels(core, one.id) == 1
    assert started(core.settle(Resume(one.id))) == [one.seq]


def test_a_pause_after_a_cancel_that_the_failing_attempt_has_not_seen_is_not_lost() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Cancel(one.id))
    core.settle(Pause(one.id))
    core.settle(fail(one, THREE_TIMES, cancels=0, cancel_due=True))
    one = core.invocation(one.id)
    assert (one.status, core.tables.timers) == (Status.PAUSED, set())


@pytest.mark.parametrize("again", [Resume, Cancel])
def test_a_pause_that_is_over_is_over_after_a_crash_too(again: type[Resume] | type[Cancel]) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Pause(one.id))
    core.settle(unloaded(one))
    assert started(core.settle(again(one.id))) == [one.seq]
    assert started(core.crash()) == [one.seq]


def test_a_pause_after_a_cancel_that_waits_for_a_call_is_not_lost() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    core.settle(Cancel(one.id))
    core.settle(Pause(one.id))
    core.settle(unloaded(one))
    core.crash()
    assert started(core.settle(finish(core.invocation(id_of(2)), NO))) == []
    assert core.invocation(one.id).status is Status.PAUSED
    assert cancels(core, one.id) == 1
    assert started(core.settle(Cancel(one.id))) == [one.seq], "which a cancel after the pause does not wait for"


def test_one_that_was_suspended_and_paused_after_its_cancel_stays_so_when_its_call_has_ended() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    core.settle(suspend(one, 1))
    core.settle(Cancel(one.id))
    core.settle(Pause(one.id))
    assert started(core.settle(finish(core.invocation(id_of(2)), NO))) == []
    assert core.invocation(one.id).status is Status.PAUSED


def test_a_pause_before_its_attempt_is_started_anew_by_recovery_counts() -> None:
    """After a crash, whoever asks first: the attempt that would report that it is gone does not exist."""
    core = Core()
    one = core.submit(submission(1))
    core.world = World(core.tables.ordinals, 2)
    core.settle(Pause(one.id, token=1))
    assert started(core.settle(Recover(one.seq))) == []
    assert core.invocation(one.id).status is Status.PAUSED
