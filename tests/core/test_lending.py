"""A handler that only waits for other invocations lends its slot to them, and has it again when there is news."""

import pytest

from durable.core.commands import Cancel, Kill, Lend, LendInStep, Pause, Resume, Submit, TakeBack, Unloaded
from durable.core.effects import Deliver
from durable.core.invocation import Invocation, Status
from durable.core.limits import TINY, Limits
from tests.core.support import (
    ONE,
    THREE_TIMES,
    Core,
    actions,
    awakeable,
    call,
    fail,
    finish,
    id_of,
    started,
    step,
    submission,
    suspend,
)

FEW = pytest.mark.parametrize("limits", [Limits(), TINY], ids=["many", "tiny"])


def of(core: Core, number: int) -> Invocation:
    return core.invocation(id_of(number))


def lend(who: Invocation) -> Lend:
    return Lend(who.seq, who.attempt, who.notified)


def lend_in_step(who: Invocation, number: int) -> LendInStep:
    return LendInStep(who.seq, who.attempt, id_of(number))


def chain(depth: int, limits: Limits) -> Core:
    """One slot, and so many that each call the next; each lends its slot, the last one runs."""
    core = Core(slots=1, limits=limits)
    core.settle(Submit(submission(1)))
    for number in range(1, depth):
        core.settle(call(of(core, number), number + 1))
        assert of(core, number + 1).status is Status.READY
        assert started(core.settle(lend(of(core, number)))) == [number + 1]
    return core


@FEW
def test_a_chain_of_calls_is_deeper_than_there_are_slots_and_nobody_is_started_twice(limits: Limits) -> None:
    core = chain(50, limits)
    for number in range(50, 1, -1):
        turn = core.settle(finish(of(core, number)))
        assert [(news.seq, news.entry) for news in actions(turn, Deliver)] == [(number - 1, 1)]
        assert started(turn) == []
    assert (of(core, 1).attempt, core.world.running, bool(core.world.lent)) == (1, {1}, False)


@FEW
def test_what_comes_for_one_that_has_lent_its_slot_waits_until_there_is_one(limits: Limits) -> None:
    core = Core(slots=2, limits=limits)
    core.settle(Submit(submission(1)))
    core.settle(call(of(core, 1), 2))
    core.settle(call(of(core, 1), 3))
    core.settle(Submit(submission(4)), Submit(submission(5)))
    assert [of(core, number).status for number in range(1, 6)] == ["running", "running", "ready", "ready", "ready"]
    assert started(core.settle(lend(of(core, 1)))) == [3]
    core.settle(Submit(submission(6)))
    turn = core.settle(finish(of(core, 2)), finish(of(core, 3)))
    assert [(news.seq, news.entry) for news in actions(turn, Deliver)] == [(1, 1), (1, 2)], "before those in line"
    assert started(turn) == [4]
    assert sorted(core.world.running) == [1, 4]


def test_news_is_held_back_where_others_are_in_all_slots_and_comes_before_those_that_wait() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)), Submit(submission(2)), Submit(submission(3)))
    core.settle(awakeable(of(core, 1)))
    assert started(core.settle(lend(of(core, 1)))) == [2]
    turn = core.settle(Cancel(id_of(1)))
    assert actions(turn, Deliver) == [], "2 is in its slot"
    assert of(core, 1).notified == 1
    turn = core.settle(finish(of(core, 2)))
    assert [(news.seq, news.entry) for news in actions(turn, Deliver)] == [(1, 0)]
    assert (started(turn), of(core, 3).status) == ([], Status.READY)


def test_where_there_was_news_in_between_nothing_is_lent() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)), Submit(submission(2)))
    core.settle(call(of(core, 1), 3))
    late = lend(of(core, 1))
    core.settle(Kill(id_of(3)))
    assert of(core, 1).notified == 1
    assert started(core.settle(late)) == []
    assert started(core.settle(Lend(1, 7, 1))) == [], "of another attempt"


def test_one_that_is_unloaded_while_news_is_held_back_gets_it_from_its_journal() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)), Submit(submission(2)), Submit(submission(3)))
    core.settle(call(of(core, 1), 4))
    core.settle(lend(of(core, 1)))
    waits = suspend(of(core, 1), 1)
    core.settle(Kill(id_of(4)))
    assert core.world.lent.returning == {1: None}
    core.settle(waits)
    assert (of(core, 1).status, bool(core.world.lent)) == (Status.READY, False)
    assert started(core.settle(finish(of(core, 2)))) == [3]
    assert started(core.settle(finish(of(core, 3)))) == [1]


def test_one_that_goes_on_by_itself_has_its_slot_again_although_another_is_in_it() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)), Submit(submission(2)), Submit(submission(3)))
    core.settle(call(of(core, 1), 4))
    core.settle(lend(of(core, 1)))
    core.settle(step(of(core, 1)))
    assert core.world.running == {1, 2}
    assert started(core.settle(finish(of(core, 2)))) == [], "one of two in one slot has ended"
    assert started(core.settle(lend(of(core, 1)))) == [3]


@pytest.mark.parametrize("what", ["kill", "pause", "fail", "finish"])
def test_whatever_ends_its_attempt_no_slot_is_lost_and_none_is_won(what: str) -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)), Submit(submission(2)), Submit(submission(3)))
    core.settle(call(of(core, 1), 4))
    core.settle(lend(of(core, 1)))
    one = of(core, 1)
    match what:
        case "kill":
            core.settle(Kill(one.id))
        case "pause":
            core.settle(Pause(one.id))
            core.settle(Unloaded(1, 1))
        case "fail":
            core.settle(fail(one, THREE_TIMES))
        case _:
            core.settle(finish(one, ONE))
    assert (core.world.running, bool(core.world.lent)) == ({2}, False)
    assert started(core.settle(finish(of(core, 2)))) == [3]
    if what == "pause":
        core.settle(Resume(one.id))
        assert of(core, 1).status is Status.READY


def test_whom_a_step_waits_for_runs_next_in_the_slot_of_its_handler() -> None:
    core = Core(slots=1, limits=TINY)
    core.settle(*(Submit(submission(number)) for number in range(1, 10)))
    assert started(core.settle(lend_in_step(of(core, 1), 9))) == [9], "2 to 8 were there before"
    turn = core.settle(awakeable(of(core, 1)), Cancel(id_of(1)))
    assert [news.entry for news in actions(turn, Deliver)] == [0], "its code runs: nothing is held back"
    turn = core.settle(finish(of(core, 9)), TakeBack(1, 1))
    assert (started(turn), core.world.running) == ([], {1})
    assert started(core.settle(finish(of(core, 1)))) == [2]


def test_a_step_waits_for_a_key_and_who_holds_that_runs_next() -> None:
    core = Core(slots=1, limits=TINY)
    core.settle(Submit(submission(1)), Submit(submission(2)), Submit(submission(3, key="k")))
    core.settle(Submit(submission(4, key="k")))
    assert started(core.settle(lend_in_step(of(core, 1), 4))) == [3]
    assert started(core.settle(finish(of(core, 3)))) == [2], "4 has come into the line behind it"
    assert started(core.settle(lend_in_step(of(core, 2), 4))) == [4]


def test_who_takes_a_slot_back_that_is_in_use_shares_it_until_one_of_them_has_ended() -> None:
    core = Core(slots=1)
    core.settle(*(Submit(submission(number)) for number in range(1, 5)))
    core.settle(lend_in_step(of(core, 1), 4))
    assert started(core.settle(finish(of(core, 4)))) == [2]
    core.settle(TakeBack(1, 1))
    assert core.world.running == {1, 2}
    assert started(core.settle(finish(of(core, 1)))) == []
    assert started(core.settle(finish(of(core, 2)))) == [3]
