"""Who has a slot, who waits for one, and who is next."""

import pytest

from durable.core.commands import Cancel, CompleteEntry, Kill, Lend, Pause, Purge, Resume, Submit
from durable.core.effects import Interrupt, Unload
from durable.core.invocation import Invocation, Status
from durable.core.journal import CANCELLED, Kind
from durable.core.limits import TINY, Limits
from durable.testing.checkers import check_tables
from tests.core.support import (
    ONE,
    THREE_TIMES,
    Core,
    actions,
    awakeable,
    call,
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

FEW = pytest.mark.parametrize("limits", [Limits(), TINY, Limits(ready=2)], ids=["many", "tiny", "two"])


def submit(core: Core, count: int) -> list[Invocation]:
    """So many of them in one turn."""
    core.settle(*(Submit(submission(number), token=number) for number in range(1, count + 1)))
    return [core.invocation(id_of(number)) for number in range(1, count + 1)]


def statuses(core: Core, count: int) -> list[str]:
    return [str(core.invocation(id_of(number)).status) for number in range(1, count + 1)]


@FEW
def test_who_finds_no_slot_is_ready_and_gets_the_next_one_that_is_free_in_its_order(limits: Limits) -> None:
    core = Core(slots=2, limits=limits)
    submit(core, 6)
    assert statuses(core, 6) == ["running"] * 2 + ["ready"] * 4
    assert len(core.world.invocations) <= 2 + limits.ready
    assert started(core.settle(finish(core.invocation(id_of(2))))) == [3]
    assert started(core.settle(*(finish(core.invocation(id_of(number))) for number in (1, 3)))) == [4, 5]
    assert started(core.settle(finish(core.invocation(id_of(5))))) == [6]
    assert statuses(core, 6) == ["completed"] * 3 + ["running", "completed", "running"]
    core.settle(finish(core.invocation(id_of(4))))
    assert core.world.horizon is None
    check_tables(core.tables)


@FEW
def test_hundreds_wait_for_one_slot_and_all_have_their_turn(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    submit(core, 300)
    order = [1]
    while core.world.running:
        [seq] = core.world.running
        order += started(core.settle(finish(core.world.invocations[seq])))
        assert len(core.world.invocations) <= 1 + limits.ready
    assert order == list(range(1, 301))


@FEW
def test_who_comes_in_the_turn_in_which_a_slot_is_freed_waits_behind_who_waits_already(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    one, *_ = submit(core, 3)
    turn = core.settle(finish(one), Submit(submission(4)))
    assert started(turn) == [2]
    assert statuses(core, 4) == ["completed", "running", "ready", "ready"]


@FEW
def test_a_slot_is_given_back_by_whoever_suspends_backs_off_or_is_paused(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    one, *_ = submit(core, 4)
    core.settle(sleep(one, core.now + 50))
    assert started(core.settle(suspend(one, 1))) == [2]
    assert started(core.settle(fail(core.invocation(id_of(2)), THREE_TIMES))) == [3]
    core.settle(Pause(id_of(3)), runs(core.invocation(id_of(3))))
    assert statuses(core, 4) == ["suspended", "backing-off", "running", "ready"]
    assert started(core.settle(Kill(id_of(3)))) == [4]
    core.fire_timers()
    core.fire_timers()
    assert statuses(core, 4) == ["ready", "ready", "completed", "running"], "woken, they wait behind each other"
    assert started(core.settle(finish(core.invocation(id_of(4))))) == [1]
    assert core.invocation(id_of(1)).attempt == 2


@FEW
def test_those_that_wait_for_a_slot_are_found_again_after_a_crash(limits: Limits) -> None:
    core = Core(slots=2, limits=limits)
    submit(core, 7)
    turn = core.crash()
    assert started(turn) == [1, 2]
    assert statuses(core, 7) == ["running"] * 2 + ["ready"] * 5
    core.settle(finish(core.invocation(id_of(1))))
    assert statuses(core, 7) == ["completed", "running", "running"] + ["ready"] * 4
    assert [core.invocation(id_of(number)).attempt for number in (2, 3, 4)] == [2, 1, 0]


@FEW
def test_a_start_with_fewer_slots_lets_the_others_wait(limits: Limits) -> None:
    core = Core(slots=5, limits=limits)
    submit(core, 5)
    core.world.slots = 2
    assert started(core.crash()) == [1, 2]
    assert statuses(core, 5) == ["running"] * 2 + ["ready"] * 3
    turn = core.settle(*(finish(core.invocation(id_of(number))) for number in (1, 2)))
    assert started(turn) == [3, 4]


def test_a_file_from_before_slots_were_stored_is_recovered_whatever_is_in_it() -> None:
    core = Core(slots=500)
    submit(core, 300)
    core.world.slots = 10
    core.crash()
    assert statuses(core, 300) == ["running"] * 10 + ["ready"] * 290
    core.settle(*(finish(core.invocation(id_of(number))) for number in range(1, 11)))
    assert statuses(core, 30) == ["completed"] * 10 + ["running"] * 10 + ["ready"] * 10


# ---- what is done to one that waits ----


@FEW
def test_one_that_waits_for_a_slot_is_paused_at_once_and_takes_its_place_anew(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    submit(core, 4)
    turn = core.settle(Pause(id_of(2), token=7))
    assert (replies(turn), actions(turn, Unload)) == ([(7, "ready")], [])
    core.settle(Resume(id_of(2), token=8), Pause(id_of(3)))
    assert statuses(core, 4) == ["running", "ready", "paused", "ready"]
    assert started(core.settle(finish(core.invocation(id_of(1))))) == [4]
    assert started(core.settle(finish(core.invocation(id_of(4))))) == [2]
    core.settle(finish(core.invocation(id_of(2))))
    assert not core.world.running
    assert started(core.settle(Resume(id_of(3)))) == [3]


@FEW
def test_killed_while_it_waits_it_ends_and_the_others_keep_their_places(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    submit(core, 5)
    turn = core.settle(Kill(id_of(2), token=7), Kill(id_of(4), token=8))
    assert (replies(turn), actions(turn, Interrupt), started(turn)) == ([(7, "done"), (8, "done")], [], [])
    assert started(core.settle(finish(core.invocation(id_of(1))))) == [3]
    assert started(core.settle(finish(core.invocation(id_of(3))))) == [5]


@FEW
def test_killed_and_forgotten_in_the_turn_that_looks_for_the_next_it_does_not_come_back(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    core.settle(*(Submit(submission(number, retention_ms=0)) for number in range(1, 6)))
    turn = core.settle(finish(core.world.invocations[1]), Kill(id_of(2)), Kill(id_of(3)))
    assert started(turn) == [4]
    assert sorted(core.tables.invocations) == [4, 5]


@FEW
def test_cancelled_while_it_waits_it_keeps_its_place_and_its_handler_sees_the_cancel(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    submit(core, 3)
    turn = core.settle(Cancel(id_of(2), token=7))
    assert replies(turn) == [(7, "accepted")]
    two = core.invocation(id_of(2))
    assert (two.status, two.cancelling, [kind for *_, kind, _ in entries(core, two)]) == (Status.READY, 0, ["cancel"])
    assert started(core.settle(finish(core.invocation(id_of(1))))) == [2]


@FEW
def test_cancelled_while_it_waits_again_its_steps_are_given_up_and_its_calls_end_first(limits: Limits) -> None:
    core = Core(slots=2, limits=limits)
    one = core.submit(submission(1))
    core.settle(runs(one))
    core.settle(call(one, 2))
    core.settle(fail(one, THREE_TIMES, entry=1, step_open=True), Submit(submission(3)))
    core.fire_timers()
    assert [core.invocation(id_of(number)).status for number in (1, 2, 3)] == ["ready", "running", "running"]
    core.settle(Cancel(one.id))
    assert core.invocation(id_of(2)).cancels == 1, "the call is told first"
    turn = core.settle(finish(core.invocation(id_of(2)), CANCELLED))
    assert started(turn) == [one.seq]
    assert core.invocation(one.id).open == {}
    check_tables(core.tables)


@FEW
def test_what_arrives_for_one_that_waits_is_written_and_replayed(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    one = core.submit(submission(1))
    core.settle(awakeable(one), awakeable(core.invocation(one.id)))
    core.settle(suspend(core.invocation(one.id), 1), Submit(submission(2)))
    core.settle(CompleteEntry(one.id, 1, ONE))
    assert core.invocation(one.id).status is Status.READY
    turn = core.settle(CompleteEntry(one.id, 2, ONE, token=3))
    assert (replies(turn), started(turn)) == ([(3, "done")], [])
    turn = core.settle(finish(core.invocation(id_of(2))))
    assert started(turn) == [one.seq]
    assert core.invocation(one.id).open == {}


@FEW
def test_one_that_waits_can_be_neither_purged_nor_resumed(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    submit(core, 2)
    turn = core.settle(Purge(id_of(2), token=1), Resume(id_of(2), token=2))
    assert replies(turn) == [(1, "ready"), (2, "ready")]
    assert statuses(core, 2) == ["running", "ready"]


@FEW
def test_the_next_of_a_key_waits_for_a_slot_and_holds_the_key_meanwhile(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    core.settle(*(Submit(submission(number, key="k")) for number in (1, 2, 3)))
    core.settle(Submit(submission(4)))
    assert statuses(core, 4) == ["running", "pending", "pending", "ready"]
    assert started(core.settle(finish(core.invocation(id_of(1))))) == [4]
    assert statuses(core, 4) == ["completed", "ready", "pending", "running"]
    core.settle(step(core.invocation(id_of(4))))
    assert started(core.settle(finish(core.invocation(id_of(4))))) == [2]
    assert started(core.settle(finish(core.invocation(id_of(2))))) == [3]


@FEW
def test_an_attempt_that_goes_on_at_once_keeps_its_slot(limits: Limits) -> None:
    core = Core(slots=1, limits=limits)
    one, _ = submit(core, 2)
    core.settle(awakeable(one))
    core.settle(CompleteEntry(one.id, 1, ONE))
    turn = core.settle(suspend(core.invocation(one.id), 1, notified=0))
    assert started(turn) == [one.seq], "the news came while it let its handler go"
    assert statuses(core, 2) == ["running", "ready"]
    assert Kind.AWAKEABLE in {kind for *_, kind, _ in entries(core, one)}


def test_a_slot_that_is_lent_is_anothers_until_it_is_taken_back() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)))
    core.settle(Submit(submission(2)), Submit(submission(3)))
    assert core.world.running == {1}
    assert started(core.settle(Lend(1, 1))) == [2]
    core.settle(Lend(1, 1))
    core.settle(Lend(1, -1))
    assert core.world.running == {1, 2}, "two flows lent one slot, and one of them waits on"
    core.settle(Lend(1, -1))
    assert not started(core.settle(finish(core.invocation(id_of(1))))), "the one that borrowed it has it now"
    assert started(core.settle(finish(core.invocation(id_of(2))))) == [3]
    assert (core.world.lent, core.world.free) == ({}, 0)


def test_who_ends_while_it_lends_has_nothing_to_take_back() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)))
    core.settle(Lend(1, 1))
    core.settle(finish(core.invocation(id_of(1))))
    core.settle(Lend(1, -1), Lend(7, 1))
    assert (core.world.lent, core.world.free) == ({}, 1)
