"""Records become invocations: each once, in order, in one turn with the position behind them."""

from typing import Any

import pytest

from durable.core.commands import Command
from durable.core.effects import Answer, Reply
from durable.core.invocation import Flavor, Status
from durable.core.journal import Failure, failure_of
from durable.core.record_commands import (
    Begin,
    ChangeSubscription,
    HoldSubscription,
    Offered,
    Reposition,
    Subscribe,
    Take,
    Unsubscribe,
)
from durable.core.sources import GroupPartition, Position, Subscription
from durable.core.turn import Turn
from tests.core.support import Core, id_of, submission
from tests.core.test_undo import refuse

PLACE = GroupPartition("c", "g", "t", 0)
FAILURE = Failure("its key is no text", 400).outcome()


def subscription(id: str = "sub", group: str = "g", **fields: Any) -> Subscription:
    flavor = str(Flavor.SERVICE)
    return Subscription(
        id, "kafka://c/t", "service://S/h", {}, "c", "t", group, "S", "h", flavor, created_at=1, **fields
    )


def record(offset: int, *, fingerprint: int = 0, failure: bool = False, **fields: Any) -> Offered:
    return Offered(offset, submission(1000 + offset, **fields), fingerprint, FAILURE if failure else None)


def subscribed(next: int | None = 10) -> Core:
    core = Core()
    core.settle(Subscribe(subscription()))
    if next is not None:
        core.settle(Begin("sub", {PLACE: next}))
    return core


def take(core: Core, *offsets: int, since: int | None = None, **fields: Any) -> Reply:
    records = tuple(record(offset) for offset in offsets)
    return answer(core, Take("sub", PLACE, offsets[0] if since is None else since, records, token=1, **fields))


def answer(core: Core, command: Command) -> Reply:
    return reply_of(core.settle(command))


def reply_of(turn: Turn) -> Reply:
    [reply] = [action for action in turn.actions if isinstance(action, Reply)]
    return reply


def taken(core: Core) -> list[int]:
    """The offsets that became invocations, in the order of acceptance."""
    offsets = {id_of(1000 + offset): offset for offset in range(100)}
    return [offsets[str(row[1])] for _, row in sorted(core.tables.invocations.items())]


def test_other_options_leave_a_subscription_where_it_stands() -> None:
    core = subscribed()
    core.settle(HoldSubscription("sub", True))
    before = dict(core.world.positions)
    assert answer(core, ChangeSubscription("sub", {"a": "b"}, token=1)).result is Answer.DONE
    changed = core.world.subscriptions["sub"]
    assert (changed.options, changed.paused, changed.group) == ({"a": "b"}, True, "g")
    assert core.world.positions == before
    assert answer(core, ChangeSubscription("other", {}, token=1)).result is Answer.NOT_FOUND


def test_subscriptions_of_the_same_millisecond_are_told_apart_by_their_times() -> None:
    core = Core()
    for id in ("c", "a", "b"):
        core.settle(Subscribe(subscription(id)))
    assert [(id, one.created_at) for id, one in core.world.subscriptions.items()] == [("c", 1), ("a", 2), ("b", 3)]


def test_records_and_their_position_are_one_transaction() -> None:
    core = subscribed()
    turn = core.settle(Take("sub", PLACE, 10, (record(10), record(11)), token=1))
    assert len(turn.writes.created) == 2 and turn.writes.positions[PLACE] == core.tables.positions[PLACE]
    assert reply_of(turn).position == Position(12, taken=2, taken_at=core.now)
    assert taken(core) == [10, 11]


def test_what_was_taken_is_taken_once_also_by_the_next_process() -> None:
    core = subscribed()
    take(core, 10, 11, 12)
    core.crash()
    assert take(core, 11, 12, 13).result is Answer.ACCEPTED
    assert take(core, 10, 11).position == core.tables.positions[PLACE]
    assert taken(core) == [10, 11, 12, 13]


def test_offsets_that_the_broker_does_not_have_are_no_gap_but_what_the_reader_left_out_is() -> None:
    core = subscribed()
    assert take(core, 12, 15, since=10).result is Answer.ACCEPTED  # compacted, or a transaction's own
    refused = take(core, 18)
    assert (refused.result, refused.position) == (Answer.GAP, core.tables.positions[PLACE])
    assert taken(core) == [12, 15]


def test_records_that_are_gone_from_the_broker_are_counted() -> None:
    core = subscribed()
    take(core, 20, 21, gone=True)
    assert core.tables.positions[PLACE] == Position(22, taken=2, skipped=10, taken_at=core.now)
    take(core, since=30, gone=True)
    assert core.tables.positions[PLACE].next == 30 and core.tables.positions[PLACE].skipped == 18


def test_without_a_position_nothing_is_taken() -> None:
    core = subscribed(None)
    assert take(core, 3).result is Answer.GAP
    assert not core.tables.invocations


def test_a_partition_begins_once() -> None:
    core = subscribed()
    core.settle(Begin("sub", {PLACE: 99, PLACE._replace(partition=1): 7}))
    assert {place.partition: at.next for place, at in core.tables.positions.items()} == {0: 10, 1: 7}


def test_another_record_where_the_last_one_was_taken_is_another_topic() -> None:
    core = subscribed()
    core.settle(Take("sub", PLACE, 10, (record(10, fingerprint=1),)))
    same = Take("sub", PLACE, 10, (record(10, fingerprint=1), record(11, fingerprint=2)), token=1)
    assert answer(core, same).result is Answer.ACCEPTED
    other = Take("sub", PLACE, 11, (record(11, fingerprint=3), record(12)), token=1)
    assert answer(core, other).result is Answer.RECREATED
    assert taken(core) == [10, 11]
    core.settle(Reposition("sub", "stored"))  # an operator says that it is the same
    assert answer(core, other).result is Answer.ACCEPTED
    assert taken(core) == [10, 11, 12]


@pytest.mark.parametrize("start", ["earliest", "latest", "committed"])
def test_an_operator_may_have_it_begin_anew(start: str) -> None:
    core = subscribed()
    take(core, 10)
    core.settle(HoldSubscription("sub", True))
    core.settle(Reposition("sub", start))
    assert not core.tables.positions
    assert (core.tables.subscriptions["sub"].start, core.tables.subscriptions["sub"].paused) == (start, False)
    core.settle(Begin("sub", {PLACE: 5}))
    assert core.tables.subscriptions["sub"].start == ""
    assert core.tables.positions == {PLACE: Position(5)}


def test_a_record_that_cannot_be_run_is_a_failed_invocation_and_the_next_one_goes_on() -> None:
    core = Core()
    core.settle(Subscribe(subscription()), Begin("sub", {PLACE: 10}))
    bad = record(10, failure=True, key="k", flavor=Flavor.EXCLUSIVE)
    core.settle(Take("sub", PLACE, 10, (bad, record(11, key="k", flavor=Flavor.EXCLUSIVE))))
    failed, running = core.invocation(id_of(1010)), core.invocation(id_of(1011))
    assert failed.status is Status.COMPLETED and failed.outcome is not None
    assert failure_of(failed.outcome).message == "its key is no text"
    assert running.status is Status.RUNNING, "it holds no key"
    position = core.tables.positions[PLACE]
    assert (position.taken, position.failed) == (2, 1)


def test_a_workflow_that_has_run_on_the_key_is_left_alone() -> None:
    core = subscribed()
    core.submit(submission(1, key="k", flavor=Flavor.WORKFLOW))
    again = Offered(10, submission(1, key="k", flavor=Flavor.WORKFLOW))
    bad = Offered(11, submission(1, key="k", flavor=Flavor.WORKFLOW), failure=FAILURE)
    assert answer(core, Take("sub", PLACE, 10, (again, bad), token=1)).result is Answer.ACCEPTED
    assert len(core.tables.invocations) == 1
    assert core.invocation(id_of(1)).status is Status.RUNNING


def test_nothing_is_taken_for_a_subscription_that_is_held_or_gone() -> None:
    core = subscribed()
    core.settle(HoldSubscription("sub", True))
    assert take(core, 10).result is Answer.NOT_FOUND
    core.settle(HoldSubscription("sub", False))
    turn = core.settle(Unsubscribe("sub"), Take("sub", PLACE, 10, (record(10),), token=1))
    assert reply_of(turn).result is Answer.NOT_FOUND
    assert not core.tables.invocations and not core.tables.subscriptions


def test_positions_of_a_named_group_outlive_their_subscription_and_those_of_its_own_do_not() -> None:
    core = subscribed()
    own = GroupPartition("c", "own", "t", 0)
    core.settle(Subscribe(subscription("own", "own")), Begin("own", {own: 1}))
    core.settle(Unsubscribe("own"), Unsubscribe("sub"))
    assert list(core.tables.positions) == [PLACE]
    assert answer(core, Unsubscribe("sub", token=1)).result is Answer.NOT_FOUND


def test_two_subscriptions_of_one_group_share_its_positions() -> None:
    core = subscribed()
    core.settle(Subscribe(subscription("other")))
    core.settle(Take("sub", PLACE, 10, (record(10), record(11))))
    core.settle(Take("other", PLACE, 10, (record(10), record(11), record(12))))
    assert taken(core) == [10, 11, 12]


def test_where_a_position_is_damaged_nothing_begins_before_an_operator_says_where() -> None:
    core = subscribed(None)
    core.world.lost_positions = "a row is damaged"
    refused = answer(core, Begin("sub", {PLACE: 0}, token=1))
    assert (refused.result, refused.cause) == (Answer.DAMAGED, "a row is damaged")
    core.settle(Reposition("sub", "earliest"))
    assert answer(core, Begin("sub", {PLACE: 0}, token=1)).result is Answer.DONE


def test_a_damaged_subscription_can_only_be_deleted() -> None:
    core = Core()
    core.settle(Subscribe(subscription(damage="nonsense")))
    assert answer(core, HoldSubscription("sub", True, token=1)).result is Answer.DAMAGED
    assert answer(core, Reposition("sub", "stored", token=1)).result is Answer.DAMAGED
    assert answer(core, Unsubscribe("sub", token=1)).result is Answer.DONE


def test_a_turn_that_the_store_refused_has_moved_nothing() -> None:
    core = subscribed()
    take(core, 10)
    before = core.tables.copy()
    refuse(
        core,
        Take("sub", PLACE, 11, (record(11),)),
        Take("sub", PLACE, 12, (record(12),)),
        HoldSubscription("sub", True),
        Subscribe(subscription("new")),
        Begin("new", {PLACE._replace(partition=1): 1}),
    )
    assert core.world.positions == before.positions and core.world.subscriptions == before.subscriptions
    take(core, 11, 12)
    assert taken(core) == [10, 11, 12]


def test_records_of_one_key_are_queued_in_their_order() -> None:
    core = subscribed()
    records = tuple(record(offset, key="k", flavor=Flavor.EXCLUSIVE) for offset in range(10, 15))
    core.settle(Take("sub", PLACE, 10, records))
    queue = core.object(records[0].submission.service, "k").queue
    assert [core.tables.invocations[seq][1] for seq in queue] == [id_of(1000 + offset) for offset in range(10, 15)]
    assert core.invocation(id_of(1010)).status is Status.RUNNING
