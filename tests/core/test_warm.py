"""A suspended invocation whose handler is still in memory: what it is told, and when its handler is let go."""

from collections.abc import Callable

import pytest

from durable.core.commands import Cancel, Command, CompleteEntry, Cool, Kill, Pause, Resume, Submit
from durable.core.effects import Deliver, Interrupt, KeepWarm, StartAttempt
from durable.core.invocation import Invocation, Status
from durable.core.limits import Limits
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.undo import needs, undo
from durable.core.waiting import Group
from tests.core.support import (
    ONE,
    TWO,
    Core,
    actions,
    at_once,
    awakeable,
    call,
    finish,
    id_of,
    started,
    submission,
    suspend,
)


def of(core: Core, number: int) -> Invocation:
    return core.invocation(id_of(number))


def kept(turn: Turn) -> list[int]:
    return [one.seq for one in actions(turn, KeepWarm)]


def let_go(turn: Turn) -> list[int]:
    return [one.seq for one in actions(turn, Interrupt)]


def goes_on(turn: Turn) -> list[tuple[int, bool]]:
    """Whose attempts a turn starts, and whether their handlers were kept."""
    return [(one.invocation.seq, one.warm) for one in actions(turn, StartAttempt)]


def warm_parent(core: Core, *, weight: int = 1) -> Turn:
    """The first submission calls the second, and is suspended for that."""
    core.settle(Submit(submission(1)))
    core.settle(call(of(core, 1), 2))
    return core.settle(suspend(of(core, 1), 1, weight=weight))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_handler_that_is_kept_is_told_what_its_call_ended_with_and_goes_on_as_the_next_attempt(slots: int) -> None:
    core = Core(slots=slots)
    turn = warm_parent(core)
    assert (kept(turn), let_go(turn)) == ([1], [])
    assert (of(core, 1).status, core.world.running, 1 in core.world.invocations) == (Status.SUSPENDED, {2}, True)
    turn = core.settle(finish(of(core, 2), ONE))
    assert actions(turn, Deliver) == [Deliver(1, 1, 1, ONE)]
    assert goes_on(turn) == [(1, True)]
    assert (of(core, 1).attempt, of(core, 1).notified, core.world.warm) == (2, 0, {})


def test_one_that_is_not_to_be_kept_is_let_go_and_leaves_memory() -> None:
    core = Core()
    turn = warm_parent(core, weight=0)
    assert (kept(turn), let_go(turn), 1 in core.world.invocations) == ([], [1], False)
    turn = core.settle(finish(of(core, 2), ONE))
    assert (actions(turn, Deliver), goes_on(turn)) == ([], [(1, False)])


def test_what_came_before_its_suspension_it_has_heard_of_and_goes_on_at_once() -> None:
    core = Core()
    core.settle(Submit(submission(1)))
    core.settle(call(of(core, 1), 2))
    late = suspend(of(core, 1), 1, weight=1)
    turn = core.settle(finish(of(core, 2), ONE), late)
    assert [(one.attempt, one.notified) for one in actions(turn, Deliver)] == [(1, True)]
    assert (kept(turn), goes_on(turn), core.world.warm) == ([1], [(1, True)], {})


def test_all_that_comes_while_it_waits_is_told_in_its_order() -> None:
    core = Core(slots=1)
    core.settle(Submit(submission(1)))
    core.settle(call(of(core, 1), 2))
    core.settle(awakeable(of(core, 1)))
    core.settle(awakeable(of(core, 1)))
    core.settle(suspend(of(core, 1), Group("any", (1, 2)), weight=1))
    told = actions(core.settle(CompleteEntry(id_of(1), 3, ONE)), Deliver)
    assert of(core, 1).status is Status.SUSPENDED
    told += actions(core.settle(CompleteEntry(id_of(1), 2, TWO)), Deliver)
    assert of(core, 1).status is Status.READY, "the call is in the slot"
    turn = core.settle(finish(of(core, 2), ONE))
    told += actions(turn, Deliver)
    assert [(one.attempt, one.entry, one.outcome) for one in told] == [(1, 3, ONE), (1, 2, TWO), (1, 1, ONE)]
    assert goes_on(turn) == [(1, True)]


@pytest.mark.parametrize("verb", ["cancel", "pause", "kill", "resume"])
def test_what_an_operator_does_lets_its_handler_go(verb: str) -> None:
    core = Core()
    warm_parent(core)
    verbs: dict[str, Callable[[str], Command]] = {"cancel": Cancel, "pause": Pause, "kill": Kill, "resume": Resume}
    turn = core.settle(verbs[verb](id_of(1)))
    assert (1 in let_go(turn), core.world.warm) == (True, {})
    assert [warm for seq, warm in goes_on(turn) if seq == 1] == ([False] if verb == "resume" else [])
    if verb == "pause":
        assert goes_on(core.settle(Resume(id_of(1)))) == [(1, False)]
    elif verb == "cancel":
        turn = core.settle(finish(of(core, 2), ONE))
        assert goes_on(turn) == [(1, False)]
        assert [one.entry for one in actions(turn, Deliver)] == [0]


def test_one_that_is_to_be_cancelled_or_paused_is_not_kept() -> None:
    for make in (Cancel, Pause):
        core = Core()
        core.settle(Submit(submission(1)))
        core.settle(call(of(core, 1), 2))
        core.settle(make(id_of(1)))
        turn = core.settle(suspend(of(core, 1), 1, weight=1))
        assert (kept(turn), let_go(turn), core.world.warm) == ([], [1], {})


def test_a_cancel_that_it_has_not_seen_is_told_to_its_replay() -> None:
    core = Core()
    core.settle(Submit(submission(1)))
    core.settle(awakeable(of(core, 1)))
    late = suspend(of(core, 1), 1, weight=1)
    core.settle(Cancel(id_of(1)))
    turn = core.settle(late)
    assert (kept(turn), let_go(turn), goes_on(turn)) == ([], [1], [(1, False)])


def test_of_those_that_are_kept_the_first_go_where_there_are_more_than_may_be() -> None:
    core = Core(slots=1, limits=Limits(warm=3))
    core.settle(Submit(submission(1)))
    turns = []
    for number in range(1, 6):
        core.settle(call(of(core, number), number + 1))
        turns.append(core.settle(suspend(of(core, number), 1, weight=1)))
    assert [let_go(turn) for turn in turns] == [[], [], [], [1], [2]]
    assert list(core.world.warm) == [3, 4, 5]
    core.settle(call(of(core, 6), 7))
    turn = core.settle(suspend(of(core, 6), 1, weight=2))
    assert (let_go(turn), core.world.warmth) == ([3, 4], 3)
    core.settle(call(of(core, 7), 8))
    turn = core.settle(suspend(of(core, 7), 1, weight=4))
    assert (let_go(turn), core.world.warm) == ([5, 6, 7], {}), "it takes more than there is room for"
    for number in range(8, 0, -1):
        core.settle(finish(of(core, number)))
    assert of(core, 1).status is Status.COMPLETED


def test_where_its_handler_went_by_itself_the_next_attempt_is_a_replay() -> None:
    core = Core()
    warm_parent(core)
    core.settle(Cool(1, 0))
    assert core.world.warm == {1: 1}, "of another attempt"
    core.settle(Cool(1, 1))
    assert (core.world.warm, 1 in core.world.invocations) == ({}, False)
    turn = core.settle(finish(of(core, 2), ONE))
    assert (actions(turn, Deliver), goes_on(turn)) == ([], [(1, False)])
    core.settle(Cool(1, 1))
    assert of(core, 1).status is Status.RUNNING, "too late"


def test_after_a_crash_nobody_is_kept() -> None:
    core = Core(slots=1)
    warm_parent(core)
    assert started(core.crash()) == [2]
    assert goes_on(core.settle(finish(of(core, 2), ONE))) == [(1, False)]


def test_a_refused_turn_leaves_nobody_kept_whose_handler_may_have_missed_something() -> None:
    core = Core()
    warm_parent(core)
    turn = Turn(core.world, [finish(of(core, 2), ONE)], core.now)
    live = {1: 0, 2: 0}
    while (need := advance(turn)) is not None:
        core.world.admit(need, at_once(core.store.load(need)))
    assert goes_on(turn) == [(1, True)]
    undo(turn, at_once(core.store.load(needs(turn, live))), live)
    assert (core.world.warm, core.world.warmth, core.world.running) == ({}, 0, {2})
    assert goes_on(core.settle(finish(of(core, 2), ONE))) == [(1, False)]
