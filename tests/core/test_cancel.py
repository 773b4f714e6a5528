"""What a cancel waits for: calls that end in failure are told after it, steps that run end before it."""

import pytest

from durable.core.commands import Cancel, Command, CompleteEntry, Kill, Pause, Purge, Recover, Restart, Resume, Submit
from durable.core.effects import Failed, InterruptSteps, Then
from durable.core.invocation import Invocation, Status
from durable.core.journal import CANCELLED, GIVEN_UP, KILLED, Failure, Outcome, failure_of
from durable.core.retry import RetryPolicy
from durable.store.rows import FIXED
from durable.testing.checkers import check_tables
from tests.core.support import (
    NO,
    ONE,
    THREE_TIMES,
    TWO,
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
    replies,
    runs,
    sleep,
    started,
    step,
    submission,
    suspend,
)

PAUSES = RetryPolicy(max_attempts=1)


# ---- steps ----


def test_a_step_that_runs_ends_first_and_its_value_is_not_lost() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    assert delivered(core.settle(Cancel(one.id))) == []
    assert delivered(core.settle(ends(one, 1, ONE))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]


def test_a_step_that_fails_for_good_under_a_cancel_tells_that_first_and_is_no_cause() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Cancel(one.id))
    assert delivered(core.settle(ends(one, 1, NO))) == [(one.seq, 1, NO), (one.seq, 0, CANCELLED)]


def test_steps_that_may_be_interrupted_are_at_once_and_are_not_waited_for() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one, interruptible=True))
    turn = core.settle(Cancel(one.id))
    assert actions(turn, InterruptSteps) == [InterruptSteps(one.seq, 1)]
    assert delivered(turn) == [(one.seq, 0, CANCELLED)]


def test_steps_are_interrupted_while_the_cancel_still_waits_for_a_call() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one, interruptible=True))
    core.settle(call(one, 2))
    turn = core.settle(Cancel(one.id))
    assert [action.seq for action in actions(turn, InterruptSteps)] == [one.seq, core.invocation(id_of(2)).seq]
    assert [seq for seq, _, _ in delivered(turn)] == [core.invocation(id_of(2)).seq]


def test_which_step_may_be_interrupted_is_known_after_a_crash() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one, interruptible=True))
    core.settle(runs(one))
    core.crash()
    one = core.invocation(one.id)
    assert {entry: waits.is_step for entry, waits in one.open.items()} == {1: False, 2: True}


def test_cancels_that_come_while_the_first_still_waits_are_one() -> None:
    """C-058: cancelling twice quickly is harmless."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    turn = core.settle(Cancel(one.id, token=1), Cancel(one.id, token=2))
    assert replies(turn) == [(1, "accepted"), (2, "accepted")]
    assert delivered(core.settle(ends(one, 1))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]
    assert delivered(core.settle(Cancel(one.id))) == [(one.seq, 0, CANCELLED)], "a later one interrupts again"


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_a_cancel_waits_for_every_step_and_every_call(order: tuple[int, ...]) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(call(one, 2))
    core.settle(runs(one))
    child = core.invocation(id_of(2))
    core.settle(Cancel(one.id))
    told = []
    for entry in order:
        assert (one.seq, 0, CANCELLED) not in told
        told += delivered(core.settle(finish(child, ONE) if entry == 2 else ends(one, entry)))
    assert told == [*((one.seq, entry, ONE) for entry in order), (one.seq, 0, CANCELLED)]


def test_a_step_that_began_after_the_cancel_is_not_waited_for() -> None:
    """Nothing new belongs to the cancel: a handler that goes on beside its call could put it off for ever."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    core.settle(Cancel(one.id))
    core.settle(runs(one))
    assert delivered(core.settle(finish(core.invocation(id_of(2)), ONE))) == [
        (one.seq, 1, ONE),
        (one.seq, 0, CANCELLED),
    ]
    assert delivered(core.settle(ends(one, 2))) == [(one.seq, 2, ONE)]


def test_a_step_and_a_cancel_in_one_turn_wait_for_each_other_as_they_came() -> None:
    first = Core()
    one = first.submit(submission(1))
    assert delivered(first.settle(runs(one), Cancel(one.id))) == []
    second = Core()
    one = second.submit(submission(1))
    assert delivered(second.settle(Cancel(one.id), runs(one))) == [(one.seq, 0, CANCELLED)]


def test_a_step_that_ran_at_a_crash_is_still_waited_for_and_one_that_began_after_the_cancel_still_is_not() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Cancel(one.id))
    core.settle(runs(one))
    core.crash()
    one = core.invocation(one.id)
    assert one.attempt == 2
    assert delivered(core.settle(ends(one, 1))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]


# ---- steps that failed ----


@pytest.mark.parametrize("status", ["backing-off", "paused"])
def test_a_step_that_waits_to_be_tried_again_is_given_up(status: str) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one), fail(one, PAUSES if status == "paused" else THREE_TIMES, entry=1, step_open=True))
    assert core.invocation(one.id).status == status
    turn = core.settle(Cancel(one.id))
    assert started(turn) == [one.seq]
    assert core.tables.timers == set()
    journal = at_once(core.store.journal(one.seq))
    told = sorted((row for row in journal if row.ordinal is not None), key=lambda row: row.ordinal or 0)
    assert [(row.entry, row.value) for row in told] == [(0, CANCELLED.value), (1, GIVEN_UP.value)]
    assert core.invocation(one.id).open == {}


def test_a_step_that_fails_under_a_cancel_is_not_tried_again_and_the_handler_is_told_at_once() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Cancel(one.id))
    turn = core.settle(fail(one, RetryPolicy("30d"), entry=1, step_open=True))
    assert started(turn) == [one.seq]
    assert core.tables.timers == set()
    assert (one.status, one.open, one.failures) == (Status.RUNNING, {}, 0)
    assert entries(core, one)[0][2:] == ("cancel", False)


def test_a_step_whose_own_policy_gives_it_up_under_a_cancel_ends_with_its_failure() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(Cancel(one.id))
    turn = core.settle(fail(one, THREE_TIMES, entry=1, step_policy=PAUSES, failure=NO, step_open=True))
    assert started(turn) == [one.seq]
    assert delivered(turn) == [(one.seq, 0, CANCELLED)], "to the new attempt, which finds the failure in its journal"
    assert [row.value for row in at_once(core.store.journal(one.seq)) if row.entry == 1] == [None, NO.value]


def test_a_failure_while_the_cancel_waits_for_a_call_backs_off_until_that_has_ended() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    core.settle(Cancel(one.id))
    core.settle(fail(one, RetryPolicy("30d")))
    assert core.invocation(one.id).status is Status.BACKING_OFF
    assert started(core.settle(finish(core.invocation(id_of(2)), CANCELLED))) == [one.seq]
    assert core.tables.timers == set()
    check_tables(core.tables)


@pytest.mark.parametrize(("cancels", "due"), [(0, False), (0, True), (1, True)])
def test_a_handler_that_fails_before_it_sees_its_cancel_starts_again_at_once(cancels: int, due: bool) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Cancel(one.id))
    turn = core.settle(fail(one, RetryPolicy("30d"), cancels=cancels, cancel_due=due))
    assert started(turn) == [one.seq]
    assert [failed.then for failed in actions(turn, Failed)] == [Then.GO_ON]
    assert (one.status, one.attempt, one.failures, core.tables.timers) == (Status.RUNNING, 2, 0, set())


def test_a_handler_that_fails_after_it_saw_its_cancel_backs_off() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Cancel(one.id))
    assert started(core.settle(fail(one, THREE_TIMES, cancels=1))) == []
    assert core.invocation(one.id).status is Status.BACKING_OFF


def test_a_handler_that_always_fails_before_it_sees_its_cancel_does_not_spin() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Cancel(one.id))
    core.settle(fail(one, THREE_TIMES, cancels=0, cancel_due=True))
    core.settle(fail(one, THREE_TIMES, cancels=0, cancel_due=True))
    assert core.invocation(one.id).status is Status.BACKING_OFF


def test_a_second_cancel_that_waits_for_a_step_is_told_when_that_has_failed() -> None:
    """The attempt has not seen the first one yet, so the next attempt starts at once, and is told of both."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(Cancel(one.id))
    core.settle(runs(one))
    assert delivered(core.settle(Cancel(one.id))) == []
    turn = core.settle(fail(one, THREE_TIMES, entry=1, step_open=True, cancels=0, cancel_due=True))
    assert started(turn) == [one.seq]
    assert delivered(turn) == [(one.seq, 0, CANCELLED)]
    assert (one.cancelling, one.cancels, one.open) == (0, 2, {})


# ---- calls ----


def test_a_call_that_fails_under_a_cancel_is_told_after_it_and_is_its_cause() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    core.settle(Cancel(root.id))
    failure = Failure("sold out", 410, {"shop": "5"})
    turn = core.settle(finish(core.invocation(id_of(2)), failure.outcome()))
    (_, _, told), after = delivered(turn)
    assert failure_of(told) == Failure("cancelled", 409, kind="cancelled", cause=failure)
    assert after == (root.seq, 1, failure.outcome())


def test_of_several_calls_that_fail_the_first_in_the_journal_is_the_cause_whichever_ends_last() -> None:
    core = Core()
    root = core.submit(submission(1))
    for number in (2, 3, 4):
        core.settle(call(root, number))
    core.settle(Cancel(root.id))
    two, three, four = (core.invocation(id_of(number)) for number in (2, 3, 4))
    assert delivered(core.settle(finish(four, CANCELLED))) == []
    assert delivered(core.settle(finish(two, NO))) == []
    assert delivered(core.settle(finish(three, ONE))) == [
        (root.seq, 2, ONE),
        (root.seq, 0, cancelled_by(NO)),
        (root.seq, 1, NO),
        (root.seq, 3, CANCELLED),
    ]


def test_a_cause_has_no_cause_so_that_deep_trees_do_not_grow_their_errors() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    middle = core.invocation(id_of(2))
    core.settle(call(middle, 3))
    core.settle(Cancel(root.id))
    core.settle(finish(core.invocation(id_of(3)), NO))
    [(_, _, told), _] = delivered(core.settle(finish(middle, cancelled_by(NO))))
    assert told == cancelled_by(CANCELLED)


def test_a_call_that_failed_before_the_cancel_is_no_cause() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    assert delivered(core.settle(finish(core.invocation(id_of(2)), NO))) == [(root.seq, 1, NO)]
    assert delivered(core.settle(Cancel(root.id))) == [(root.seq, 0, CANCELLED)]


def test_a_failure_that_is_kept_wakes_nobody_and_survives_a_crash() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    core.settle(call(root, 3))
    core.settle(suspend(root, 1))
    core.settle(Cancel(root.id))
    assert started(core.settle(finish(core.invocation(id_of(2)), NO))) == []
    assert entries(core, root)[1] == (1, 1, "call", False)
    core.crash()
    turn = core.settle(finish(core.invocation(id_of(3)), NO))
    assert started(turn) == [root.seq]
    journal = at_once(core.store.journal(root.seq))
    told = sorted((row for row in journal if row.ordinal is not None), key=lambda row: row.ordinal or 0)
    assert [(row.entry, row.value) for row in told] == [
        (0, cancelled_by(NO).value),
        (1, NO.value),
        (2, NO.value),
    ]
    assert core.invocation(root.id).early == {}


def test_a_call_that_has_ended_under_a_cancel_is_neither_cancelled_nor_killed_again() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    core.settle(call(root, 3))
    core.settle(Cancel(root.id))
    core.settle(finish(core.invocation(id_of(2)), NO))
    assert [seq for seq, _, _ in delivered(core.settle(Cancel(root.id)))] == [core.invocation(id_of(3)).seq]
    core.settle(Kill(root.id))
    assert [core.invocation(id_of(number)).outcome for number in (1, 2, 3)] == [KILLED, NO, KILLED]


def test_a_call_that_the_cancel_overtook_is_never_made() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(Cancel(root.id))
    turn = core.settle(call(root, 2, cancels=0))
    assert not core.exists(id_of(2))
    assert delivered(turn) == [(root.seq, 1, GIVEN_UP)]
    assert root.open == {}


def test_a_call_that_is_asked_for_after_the_cancel_was_seen_is_a_compensation_and_is_made() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(Cancel(root.id))
    core.settle(call(root, 2, cancels=1))
    assert core.invocation(id_of(2)).status is Status.RUNNING
    assert root.open.keys() == {1}


def test_a_send_that_the_cancel_overtook_is_made() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(Cancel(root.id))
    core.settle(call(root, 2, waits=False, cancels=0))
    assert core.invocation(id_of(2)).status is Status.RUNNING


def test_how_many_cancels_came_is_known_after_a_crash() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(Cancel(root.id), Cancel(root.id))
    core.crash()
    root = core.invocation(root.id)
    assert root.cancels == 2
    core.settle(call(root, 2, cancels=1))
    assert not core.exists(id_of(2))


def test_a_cancelled_call_that_waits_for_its_key_ends_at_once_and_frees_its_caller() -> None:
    core = Core()
    holder = core.submit(submission(1, key="k"))
    root = core.submit(submission(2))
    core.settle(call(root, 3, key="k"))
    turn = core.settle(Cancel(root.id))
    assert delivered(turn) == [(root.seq, 0, cancelled_by(CANCELLED)), (root.seq, 1, CANCELLED)]
    assert list(core.object("O", "k").queue) == [holder.seq]


def test_a_call_that_joined_is_left_alone() -> None:
    core = Core()
    shared = core.submit(submission(1, idempotency_key="i"))
    root = core.submit(submission(2))
    core.settle(call(root, 1, idempotency_key="i"))
    assert delivered(core.settle(Cancel(root.id))) == [(root.seq, 0, CANCELLED)]
    core.crash()
    assert core.invocation(shared.id).status is Status.RUNNING


@pytest.mark.parametrize("how", ["suspended", "backing-off", "paused"])
def test_one_that_does_not_run_starts_when_its_last_call_has_ended(how: str) -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    if how == "suspended":
        core.settle(suspend(root, 1))
    else:
        core.settle(fail(root, PAUSES if how == "paused" else THREE_TIMES))
    assert core.invocation(root.id).status == how
    turn = core.settle(Cancel(root.id, token=1))
    assert (started(turn), replies(turn)) == ([], [(1, "accepted")])
    assert started(core.settle(finish(core.invocation(id_of(2)), CANCELLED))) == [root.seq]
    assert core.tables.timers == set()


def test_of_one_whose_row_is_damaged_nothing_is_asked_but_its_end() -> None:
    core = Core()
    one = core.submit(submission(1, key="k"))
    two = core.submit(submission(2, key="k"))
    row = list(core.tables.invocations[one.seq])
    row[FIXED.split(", ").index("headers")] = "{oops"
    core.tables.invocations[one.seq] = tuple(row)
    core.crash()
    assert started(core.settle(Recover(one.seq))) == [two.seq], "nobody knows on which key the damaged one ran"
    asked: list[Command] = [Cancel(one.id, 1), Resume(one.id, 2), Pause(one.id, 3), Purge(one.id, token=4)]
    turn = core.settle(*asked, Restart(one.id, id_of(3), token=5))
    assert [reply for _, reply in replies(turn)] == ["damaged", "damaged", "paused", "paused", "damaged"]
    assert started(turn) == []
    turn = core.settle(Kill(one.id, token=6))
    assert (replies(turn), started(turn)) == ([(6, "done")], [])


# ---- outcomes that came too early ----


def forged(who: Invocation) -> Command:
    """Its first entry is completed as an awakeable: that id can be computed before the handler asks for anything."""
    return CompleteEntry(who.id, 1, TWO)


def test_an_outcome_that_came_too_early_for_a_call_is_not_taken_for_its_result() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(forged(root))
    core.settle(call(root, 2))
    child = core.invocation(id_of(2))
    assert delivered(core.settle(Cancel(root.id))) == [(child.seq, 0, CANCELLED)], "leaf first"
    assert delivered(core.settle(finish(child, NO))) == [(root.seq, 0, cancelled_by(NO)), (root.seq, 1, NO)]


@pytest.mark.parametrize("outcome", [ONE, NO], ids=["succeeds", "fails"])
def test_an_outcome_that_came_too_early_for_a_call_is_forgotten_by_a_crash_too(outcome: Outcome) -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(forged(root))
    core.settle(call(root, 2))
    core.crash()
    root, child = core.invocation(root.id), core.invocation(id_of(2))
    assert delivered(core.settle(Cancel(root.id))) == [(child.seq, 0, CANCELLED)]
    core.crash()
    told = delivered(core.settle(finish(core.invocation(child.id), outcome)))
    if outcome.ok:
        assert told == [(root.seq, 1, ONE), (root.seq, 0, CANCELLED)]
    else:
        assert told == [(root.seq, 0, cancelled_by(NO)), (root.seq, 1, NO)]


def test_an_outcome_that_came_too_early_for_a_step_is_not_taken_for_its_result() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(forged(one))
    core.settle(runs(one))
    core.settle(Cancel(one.id))
    assert delivered(core.settle(ends(one, 1, ONE))) == [(one.seq, 1, ONE), (one.seq, 0, CANCELLED)]


def test_an_outcome_that_came_too_early_for_a_sleep_does_not_end_it() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(forged(one))
    core.settle(sleep(one, core.now + 500))
    core.settle(Cancel(one.id))
    core.crash()
    assert core.invocation(one.id).open.keys() == {1}
    assert len(core.tables.timers) == 1
    check_tables(core.tables)


# ---- everything at once ----


def test_a_cancel_whose_every_commit_is_followed_by_a_crash_reaches_the_root() -> None:
    """Three levels, steps and calls: nothing of a cascade is only in memory."""
    core = Core()
    core.settle(Submit(submission(1)))
    core.settle(call(core.invocation(id_of(1)), 2))
    core.settle(runs(core.invocation(id_of(1))))
    core.settle(call(core.invocation(id_of(2)), 3))
    core.settle(awakeable(core.invocation(id_of(3))))
    core.crash()
    core.settle(Cancel(id_of(1), token=1))
    for number, entry in ((3, 0), (2, 1), (1, 0)):
        core.crash()
        who = core.invocation(id_of(number))
        if number == 1:
            core.settle(ends(who, 2))
            core.crash()
            who = core.invocation(id_of(number))
        assert (who.cancelling, who.cancels) == (0, 1), f"level {number} was told"
        assert entry not in who.open
        core.settle(step(who))
        core.crash()
        core.settle(finish(core.invocation(id_of(number)), CANCELLED))
        check_tables(core.tables)
    assert core.invocation(id_of(1)).outcome == CANCELLED
