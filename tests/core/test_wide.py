"""A suspended invocation with many open entries is not read again for each of them that completes."""

import pytest

from durable.core.commands import Command, CompleteEntry, Submit
from durable.core.invocation import Status
from durable.core.journal import EMPTY
from durable.core.limits import Limits
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.waiting import Group
from durable.core.world import WIDE
from tests.core.support import Core, awakeable, id_of, started, submission, suspend


def with_open(core: Core, number: int, width: int) -> None:
    """An invocation that is suspended, for so many awakeables."""
    who = core.submit(submission(number))
    for _ in range(width):
        core.settle(awakeable(who))
    core.settle(suspend(who, Group("all", tuple(range(1, width + 1)))))
    assert core.invocation(id_of(number)).status is Status.SUSPENDED


def completes(number: int, entry: int) -> Command:
    return CompleteEntry(id_of(number), entry, EMPTY, 0)


@pytest.mark.parametrize("width", [WIDE - 1, WIDE])
def test_one_with_many_stays_in_memory_and_one_with_few_does_not(width: int) -> None:
    core = Core()
    with_open(core, 1, width)
    assert (1 in core.world.invocations) == (width >= WIDE)
    assert (advance(Turn(core.world, [completes(1, 1)], core.now)) is None) == (width >= WIDE)


def test_it_wakes_with_the_last_and_leaves_the_account() -> None:
    core = Core()
    with_open(core, 1, WIDE)
    for entry in range(2, WIDE + 1):
        assert not started(core.settle(completes(1, entry)))
    assert started(core.settle(completes(1, 1))) == [1]
    core.settle(Submit(submission(2)))
    assert core.world.width == sum(core.world.wide.values())


def test_there_is_room_for_some_and_those_suspended_first_make_it() -> None:
    core = Core(limits=Limits(wide=2 * WIDE))
    for number in (1, 2, 3):
        with_open(core, number, WIDE)
    assert core.world.invocations.keys() == {2, 3}
    with_open(core, 4, WIDE)
    assert core.world.invocations.keys() == {3, 4}


def test_what_it_waits_for_is_the_same_after_a_crash_at_any_moment() -> None:
    core = Core()
    width = 3 * WIDE
    with_open(core, 1, width)
    for entry in range(1, width):
        core.settle(completes(1, entry))
        if entry % 31 == 0:
            left = core.invocation(id_of(1)).waiting
            core.crash()
            assert core.invocation(id_of(1)).waiting == left
    assert started(core.settle(completes(1, width))) == [1]
