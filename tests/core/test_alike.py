"""Records that are taken as columns become what they would become one by one, and those that wait are only rows."""

import random

import msgspec
import pytest

from durable.core.alike import Alike
from durable.core.commands import Cancel, Command, Pause
from durable.core.effects import StartAttempt
from durable.core.invocation import Status, Submission
from durable.core.limits import TINY, Limits
from durable.core.record_commands import Begin, Offered, Subscribe, Take
from durable.testing.checkers import check_tables
from tests.core.support import Core, finish, id_of, submission
from tests.core.test_take import PLACE, answer, subscription
from tests.core.test_undo import refuse

FEW = pytest.mark.parametrize("limits", [Limits(), TINY, Limits(ready=3)], ids=["many", "tiny", "three"])


def one_of(offset: int) -> Submission:
    headers = {"kafka.offset": str(offset)}
    return msgspec.structs.replace(submission(offset), headers=headers, input=b"%d" % offset)


def alike(*offsets: int) -> Alike:
    return Alike(
        submission(0),
        offsets,
        [id_of(offset) for offset in offsets],
        [b"%d" % offset for offset in offsets],
        [f'{{"kafka.offset":"{offset}"}}' for offset in offsets],
        (7 + offsets[0], 7 + offsets[-1]),
    )


def one_by_one(*offsets: int) -> tuple[Offered, ...]:
    ends = (offsets[0], offsets[-1])
    return tuple(Offered(offset, one_of(offset), 7 + offset if offset in ends else 0) for offset in offsets)


def subscribed(slots: int, limits: Limits) -> Core:
    core = Core(slots, limits)
    core.settle(Subscribe(subscription()))
    core.settle(Begin("sub", {PLACE: 0}))
    return core


@FEW
@pytest.mark.parametrize("seed", range(4))
def test_what_is_taken_as_columns_is_what_is_taken_one_by_one(seed: int, limits: Limits) -> None:
    """The same commands to two cores; both have the same rows after each turn, and the same order of starts."""
    draw = random.Random(seed)
    slots = draw.choice([0, 1, 2, 5])
    columns, single = subscribed(slots, limits), subscribed(slots, limits)
    next = 0
    for _ in range(40):
        since = max(0, next - draw.randrange(3))
        end = since + draw.randrange(1, 9)
        offsets = range(since, end)
        taken, asked = draw.random() < 0.6, draw.sample(range(next), min(next, draw.randrange(3)))
        running = sorted(columns.world.running)
        ended = draw.sample(running, draw.randrange(len(running) + 1))
        turns = []
        for core, records in ((columns, alike(*offsets)), (single, one_by_one(*offsets))):
            commands: list[Command] = [finish(core.world.invocations[seq]) for seq in ended]
            commands += [Cancel(id_of(number)) if number % 2 else Pause(id_of(number)) for number in asked]
            if taken:
                commands.insert(seed % (len(commands) + 1), Take("sub", PLACE, since, records, token=1))
            turns.append(core.settle(*commands))
        next = max(next, end) if taken else next
        starts = [[one.invocation.seq for one in turn.actions if isinstance(one, StartAttempt)] for turn in turns]
        assert starts[0] == starts[1]
        assert columns.tables.invocations == single.tables.invocations
        assert columns.tables.positions == single.tables.positions
    check_tables(columns.tables)


def test_those_that_wait_beyond_what_memory_has_room_for_are_only_rows() -> None:
    core = subscribed(2, Limits(ready=3))
    core.settle(Take("sub", PLACE, 0, alike(*range(100))))
    assert core.world.positions[PLACE].taken == 100
    assert (len(core.world.running), len(core.world.ready), len(core.world.invocations)) == (2, 3, 5)
    assert len(core.tables.invocations) == 100
    for number in range(100):  # in their order, none twice
        running = [core.world.invocations[seq] for seq in sorted(core.world.running)]
        assert running[0].id == id_of(number)
        core.settle(finish(running[0]))
        assert len(core.world.invocations) <= 5
    assert not core.world.running and core.world.horizon is None


def test_who_gets_a_slot_in_the_turn_that_took_it_needs_no_store() -> None:
    """Rows of a turn are not stored yet when its last command has freed a slot."""
    core = subscribed(1, TINY)
    core.settle(Take("sub", PLACE, 0, alike(0)))
    first = core.world.invocations[min(core.world.running)]
    turn = core.settle(Take("sub", PLACE, 1, alike(1, 2, 3)), finish(first))
    assert [one.invocation.id for one in turn.actions if isinstance(one, StartAttempt)] == [id_of(1)]
    waiting = [core.invocation(id_of(number)) for number in (2, 3)]
    assert {one.status for one in waiting} == {Status.READY}


def test_columns_that_were_taken_before_are_told_by_their_offsets() -> None:
    core = subscribed(0, TINY)
    core.settle(Take("sub", PLACE, 0, alike(0, 1, 5)))
    core.settle(Take("sub", PLACE, 0, alike(0, 1, 5, 9)))
    position = core.world.positions[PLACE]
    assert (position.next, position.taken, position.fingerprint) == (10, 4, 16)
    assert answer(core, Take("sub", PLACE, 5, alike(5, 9), token=1)).position == position
    other = msgspec.structs.replace(alike(9, 10), fingerprints=(1, 2))
    assert str(answer(core, Take("sub", PLACE, 9, other, token=1)).result) == "recreated"
    assert len(core.tables.invocations) == 4


def test_a_refused_turn_leaves_nothing_of_its_rows() -> None:
    core = subscribed(0, TINY)
    core.settle(Take("sub", PLACE, 0, alike(0, 1)))
    before = dict(core.tables.invocations)
    refuse(core, Take("sub", PLACE, 2, alike(2, 3, 4)))
    assert core.tables.invocations == before and core.world.positions[PLACE].next == 2
    core.settle(Take("sub", PLACE, 2, alike(2, 3, 4)))
    assert [row[1] for _, row in sorted(core.tables.invocations.items())] == [id_of(number) for number in range(5)]
