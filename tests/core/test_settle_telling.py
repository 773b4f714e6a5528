"""What handlers and the outside tell each other: awakeables, signals, promises, results, cancels and kills."""

import pytest

from durable.core.commands import (
    Attach,
    AttachTo,
    AwaitPromise,
    AwaitSignal,
    Cancel,
    Command,
    CompleteEntry,
    CompletePromise,
    Kill,
    PeekPromise,
    ReadOutput,
    Recover,
    SendSignal,
    SetState,
    SettlePromise,
    Tell,
)
from durable.core.effects import Interrupt, Reply, StartAttempt
from durable.core.invocation import Status
from durable.core.journal import CANCELLED, EMPTY, KILLED, Kind, Outcome, failure_of
from durable.core.retry import RetryPolicy
from durable.testing.checkers import check_tables
from tests.core.support import (
    NO,
    ONE,
    TWO,
    Core,
    actions,
    at_once,
    awakeable,
    call,
    cancelled_by,
    delivered,
    entries,
    fail,
    finish,
    id_of,
    opened,
    replies,
    sleep,
    started,
    step,
    submission,
    suspend,
)

# ---- awakeables ----


def test_an_awakeable_is_completed_once_and_a_second_time_is_ignored() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    first = core.settle(CompleteEntry(one.id, 1, ONE, token=1))
    second = core.settle(CompleteEntry(one.id, 1, TWO, token=2))
    assert delivered(first) == [(one.seq, 1, ONE)]
    assert delivered(second) == []
    assert replies(first) + replies(second) == [(1, "done"), (2, "unchanged")]


def test_an_awakeable_completed_before_it_is_recorded_is_completed_when_it_is() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(CompleteEntry(one.id, 1, ONE))
    core.settle(CompleteEntry(one.id, 1, TWO))
    turn = core.settle(awakeable(one))
    assert delivered(turn) == [(one.seq, 1, ONE)]
    assert (one.early, one.open) == ({}, {})


def test_an_early_completion_survives_a_restart() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(CompleteEntry(one.id, 1, ONE))
    core.world.forget(one.seq)
    core.settle(Recover(one.seq))
    one = core.invocation(one.id)
    assert delivered(core.settle(awakeable(one))) == [(one.seq, 1, ONE)]


def test_a_completion_of_an_entry_that_is_no_awakeable_changes_nothing() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(sleep(one, core.now + 5))
    core.settle(step(one))
    before = core.tables.copy()
    for entry in (1, 2):
        assert delivered(core.settle(CompleteEntry(one.id, entry, ONE))) == []
    assert core.tables == before


def test_an_awakeable_of_nobody_is_not_found() -> None:
    core = Core()
    assert replies(core.settle(CompleteEntry(id_of(9), 1, ONE, token=3))) == [(3, "not-found")]


def test_a_handler_completes_the_awakeable_of_another() -> None:
    core = Core()
    one, other = core.submit(submission(1)), core.submit(submission(2))
    core.settle(awakeable(one))
    turn = core.settle(opened(other, Kind.COMPLETE_AWAKEABLE, Tell(CompleteEntry(one.id, 1, ONE))))
    assert delivered(turn) == [(one.seq, 1, ONE)]


# ---- signals ----


def test_a_signal_goes_to_who_waits_first_for_its_name() -> None:
    core = Core()
    one = core.submit(submission(1))
    for name in ("other", "s", "s"):
        core.settle(opened(one, Kind.SIGNAL, AwaitSignal(), name))
    assert delivered(core.settle(SendSignal(one.id, "s", ONE))) == [(one.seq, 2, ONE)]
    assert delivered(core.settle(SendSignal(one.id, "s", TWO))) == [(one.seq, 3, TWO)]


def test_signals_that_nobody_waits_for_are_kept_and_taken_in_order() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(SendSignal(one.id, "s", ONE), SendSignal(one.id, "t", NO), SendSignal(one.id, "s", TWO))
    taken = [delivered(core.settle(opened(one, Kind.SIGNAL, AwaitSignal(), "s")))[0] for _ in range(2)]
    assert taken == [(one.seq, 1, ONE), (one.seq, 2, TWO)]
    assert [signal.name for signal in core.tables.signals[one.seq].values()] == ["t"]


def test_a_signal_taken_in_the_turn_in_which_it_came_is_gone() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(SendSignal(one.id, "s", ONE), opened(one, Kind.SIGNAL, AwaitSignal(), "s"))
    assert delivered(turn) == [(one.seq, 1, ONE)]
    assert not core.tables.signals.get(one.seq)
    core.settle(SendSignal(one.id, "s", ONE), finish(one))
    assert not core.tables.signals.get(one.seq)


def test_signals_wait_for_one_that_is_not_in_memory() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one), suspend(one, 1))
    core.settle(SendSignal(one.id, "s", ONE))
    core.settle(CompleteEntry(one.id, 1, ONE))
    one = core.invocation(one.id)
    assert delivered(core.settle(opened(one, Kind.SIGNAL, AwaitSignal(), "s"))) == [(one.seq, 2, ONE)]


def test_a_signal_to_nobody_is_not_found_and_one_to_the_completed_is_dropped() -> None:
    core = Core()
    assert replies(core.settle(SendSignal(id_of(9), "s", ONE, token=3))) == [(3, "not-found")]
    one = core.submit(submission(1))
    core.settle(finish(one))
    assert replies(core.settle(SendSignal(one.id, "s", ONE, token=4))) == [(4, "unchanged")]
    assert not core.tables.signals.get(one.seq)


# ---- promises ----


def test_a_promise_is_settled_once_and_all_who_wait_are_told_oldest_first() -> None:
    core = Core()
    one, two = core.submit(submission(1)), core.submit(submission(2))
    for who in (two, one):
        core.settle(opened(who, Kind.PROMISE, AwaitPromise("W", "k"), "p"))
    turn = core.settle(SettlePromise("W", "k", "p", ONE, token=1))
    assert delivered(turn) == [(one.seq, 1, ONE), (two.seq, 1, ONE)]
    again = core.settle(SettlePromise("W", "k", "p", TWO, token=2))
    assert replies(turn) + replies(again) == [(1, "done"), (2, "conflict")]
    assert core.object("W", "k").promises == {"p": ONE}


def test_a_settled_promise_is_had_at_once() -> None:
    core = Core()
    core.settle(SettlePromise("W", "k", "p", NO))
    one = core.submit(submission(1))
    turn = core.settle(opened(one, Kind.PROMISE, AwaitPromise("W", "k"), "p"))
    assert delivered(turn) == [(one.seq, 1, NO)]


def test_a_peek_does_not_wait() -> None:
    core = Core()
    one = core.submit(submission(1))
    peeks = []
    for _ in range(2):
        peeks += delivered(core.settle(opened(one, Kind.PEEK_PROMISE, PeekPromise("W", "k"), "p")))
        core.settle(SettlePromise("W", "k", "p", ONE))
    assert [outcome.value for _, _, outcome in peeks] == [b"0", b"11"]


def test_a_handler_that_settles_a_promise_second_is_told_so() -> None:
    core = Core()
    one = core.submit(submission(1))
    told = []
    for outcome in (ONE, TWO):
        told += delivered(core.settle(opened(one, Kind.COMPLETE_PROMISE, CompletePromise("W", "k", outcome), "p")))
    assert told[0][2] == EMPTY
    assert failure_of(told[1][2]).code == 409


@pytest.mark.parametrize(("service", "key", "name"), [("V", "k", "p"), ("W", "l", "p"), ("W", "k", "q")])
def test_a_promise_belongs_to_its_workflow_key_and_name(service: str, key: str, name: str) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(opened(one, Kind.PROMISE, AwaitPromise("W", "k"), "p"))
    assert delivered(core.settle(SettlePromise(service, key, name, ONE))) == []


# ---- attach, output ----


def test_an_attached_handler_gets_the_outcome_when_it_is_there() -> None:
    core = Core()
    one, other = core.submit(submission(1)), core.submit(submission(2))
    core.settle(opened(one, Kind.ATTACH, AttachTo(other.id), detail=other.id))
    assert delivered(core.settle(finish(other, NO))) == [(one.seq, 1, NO)]
    assert delivered(core.settle(opened(one, Kind.ATTACH, AttachTo(other.id)))) == [(one.seq, 2, NO)]


def test_attaching_to_nobody_is_a_404() -> None:
    core = Core()
    one = core.submit(submission(1))
    for kind, asked in ((Kind.ATTACH, AttachTo(id_of(9))), (Kind.OUTPUT, ReadOutput(id_of(9)))):
        [(_, _, outcome)] = delivered(core.settle(opened(one, kind, asked)))
        assert failure_of(outcome).code == 404


def test_an_output_is_nothing_or_the_value_or_the_failure() -> None:
    core = Core()
    one, good, bad = (core.submit(submission(number)) for number in (1, 2, 3))
    seen = delivered(core.settle(opened(one, Kind.OUTPUT, ReadOutput(good.id))))
    core.settle(finish(good, ONE), finish(bad, NO))
    for other in (good, bad):
        seen += delivered(core.settle(opened(one, Kind.OUTPUT, ReadOutput(other.id))))
    assert [outcome for _, _, outcome in seen] == [Outcome(True, b"0"), Outcome(True, b"11"), NO]


def test_an_attached_client_is_told_where_to_wait_or_the_end_itself() -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=1000))
    [reply] = actions(core.settle(Attach(one.id, token=1)), Reply)
    assert (reply.result, reply.seq, reply.outcome) == ("found", one.seq, None)
    core.settle(finish(one, ONE))
    [reply] = actions(core.settle(Attach(one.id, token=2)), Reply)
    assert (reply.result, reply.outcome) == ("found", ONE)
    core.now += 1000
    assert replies(core.settle(Attach(one.id, token=3))) == [(3, "not-found")]


@pytest.mark.parametrize("how", ["promise", "attach"])
def test_a_listener_of_this_turn_is_told_when_its_topic_has_news_later_in_the_same_turn(how: str) -> None:
    core = Core()
    one, other = core.submit(submission(1)), core.submit(submission(2))
    core.settle(opened(one, Kind.PEEK_PROMISE, PeekPromise("W", "k"), "p"))  # the key is in memory
    turns: dict[str, tuple[Command, Command]] = {
        "promise": (opened(one, Kind.PROMISE, AwaitPromise("W", "k"), "p"), SettlePromise("W", "k", "p", ONE)),
        "attach": (opened(one, Kind.ATTACH, AttachTo(other.id), detail=other.id), finish(other, ONE)),
    }
    assert delivered(core.settle(*turns[how])) == [(one.seq, 2, ONE)]
    assert not any(core.tables.listeners.values())


def test_a_call_that_joins_what_ends_later_in_the_same_turn_gets_its_outcome() -> None:
    core = Core()
    one, parent = core.submit(submission(1)), core.submit(submission(2))
    core.settle(call(parent, 3, idempotency_key="i"))
    turn = core.settle(call(one, 3, idempotency_key="i"), Kill(parent.id))
    assert delivered(turn) == [(one.seq, 1, KILLED)]
    assert not any(core.tables.listeners.values())


# ---- calls, sends ----


def test_a_call_starts_its_child_and_ends_with_it() -> None:
    core = Core()
    parent = core.submit(submission(1))
    turn = core.settle(call(parent, 2))
    child = core.invocation(id_of(2))
    assert started(turn) == [child.seq]
    assert delivered(core.settle(finish(child, NO))) == [(parent.seq, 1, NO)]


def test_a_send_is_nobodys_child() -> None:
    core = Core()
    sender = core.submit(submission(1))
    core.settle(call(sender, 2, waits=False, due_at=core.now + 100))
    assert core.invocation(id_of(2)).status is Status.SCHEDULED
    assert sender.open == {}
    core.fire_timers()
    assert delivered(core.settle(finish(core.invocation(id_of(2))))) == []


def test_a_suspended_caller_starts_again_with_its_childs_result() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2))
    core.settle(suspend(parent, 1))
    assert started(core.settle(finish(core.invocation(id_of(2))))) == [parent.seq]


# ---- cancel ----


def test_a_cancel_of_one_without_open_calls_is_told_to_its_handler() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(sleep(one, core.now + 10))
    turn = core.settle(Cancel(one.id, token=1))
    assert delivered(turn) == [(one.seq, 0, CANCELLED)]
    assert replies(turn) == [(1, "accepted")]
    assert core.invocation(one.id).status is Status.RUNNING


def test_two_cancels_are_two_exceptions() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(Cancel(one.id), Cancel(one.id))
    assert delivered(turn) == [(one.seq, 0, CANCELLED)] * 2
    assert len(entries(core, one)) == 2


def test_a_cancel_goes_to_the_leaves_first_and_then_up_one_by_one() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    middle = core.invocation(id_of(2))
    core.settle(call(middle, 3))
    leaf = core.invocation(id_of(3))
    assert delivered(core.settle(Cancel(root.id))) == [(leaf.seq, 0, CANCELLED)]
    told = cancelled_by(CANCELLED)
    assert delivered(core.settle(finish(leaf, CANCELLED))) == [(middle.seq, 0, told), (middle.seq, 1, CANCELLED)]
    assert delivered(core.settle(finish(middle, told))) == [(root.seq, 0, told), (root.seq, 1, told)]
    assert not root.cancelling


def test_a_cancel_waits_for_all_open_calls() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    core.settle(call(root, 3))
    two, three = core.invocation(id_of(2)), core.invocation(id_of(3))
    assert [seq for seq, _, _ in delivered(core.settle(Cancel(root.id)))] == [two.seq, three.seq]
    assert delivered(core.settle(finish(three, NO))) == []
    assert delivered(core.settle(finish(two, CANCELLED))) == [
        (root.seq, 0, cancelled_by(CANCELLED)),
        (root.seq, 1, CANCELLED),
        (root.seq, 2, NO),
    ]


def test_a_call_that_succeeds_in_spite_of_the_cancel_delivers_its_value_first() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    core.settle(Cancel(root.id))
    child = core.invocation(id_of(2))
    assert delivered(core.settle(finish(child, ONE))) == [(root.seq, 1, ONE), (root.seq, 0, CANCELLED)]


def test_a_call_opened_while_a_cancel_is_under_way_is_cancelled_too() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    core.settle(Cancel(root.id))
    turn = core.settle(call(root, 3))
    late = core.invocation(id_of(3))
    assert delivered(turn) == [(late.seq, 0, CANCELLED)]


def test_a_call_and_a_cancel_in_one_turn_reach_the_child() -> None:
    core = Core()
    root = core.submit(submission(1))
    turn = core.settle(call(root, 2), Cancel(root.id))
    assert delivered(turn) == [(core.invocation(id_of(2)).seq, 0, CANCELLED)]


def test_sends_are_spared_by_a_cancel() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2, waits=False))
    assert delivered(core.settle(Cancel(root.id))) == [(root.seq, 0, CANCELLED)]
    assert core.invocation(id_of(2)).status is Status.RUNNING


@pytest.mark.parametrize("how", ["suspended", "backing off", "paused"])
def test_a_cancel_starts_one_that_does_not_run(how: str) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    if how == "suspended":
        core.settle(suspend(one, 1))
    else:
        core.settle(fail(one, RetryPolicy(max_attempts=1 if how == "paused" else 9)))
    turn = core.settle(Cancel(one.id))
    assert started(turn) == [one.seq]
    assert core.tables.timers == set()
    [start] = actions(turn, StartAttempt)
    [row] = [row for row in at_once(core.store.journal(one.seq)) if row.entry == 0]
    assert (row.ordinal or 0) < start.until


def test_a_scheduled_one_ends_at_once_when_it_is_cancelled_and_is_kept() -> None:
    core = Core()
    one = core.submit(submission(1, due_at=core.now + 10))
    turn = core.settle(Cancel(one.id, token=1))
    assert replies(turn) == [(1, "done")]
    assert core.invocation(one.id).outcome == CANCELLED
    assert core.tables.timers == set()


def test_a_cancel_of_nobody_and_of_the_completed() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(finish(one))
    turn = core.settle(Cancel(one.id, token=1), Cancel(id_of(9), token=2))
    assert replies(turn) == [(1, "completed"), (2, "not-found")]


@pytest.mark.timeout(5)
def test_a_cancel_of_a_cycle_of_joined_calls_ends() -> None:
    core = Core()
    one, two = (core.submit(submission(number, idempotency_key="i")) for number in (1, 2))
    core.settle(call(one, 2, idempotency_key="i"), call(two, 1, idempotency_key="i"))
    turn = core.settle(Cancel(one.id, token=1))
    assert replies(turn) == [(1, "accepted")]
    assert (one.seq, 0, CANCELLED) in delivered(turn)


@pytest.mark.timeout(5)
def test_a_cancel_of_one_that_calls_itself_ends() -> None:
    core = Core()
    one = core.submit(submission(1, idempotency_key="i"))
    core.settle(call(one, 1, idempotency_key="i"))
    assert delivered(core.settle(Cancel(one.id))) == [(one.seq, 0, CANCELLED)]


@pytest.mark.timeout(5)
def test_a_kill_of_a_cycle_of_joined_calls_ends_it() -> None:
    core = Core()
    one, two = (core.submit(submission(number, idempotency_key="i")) for number in (1, 2))
    core.settle(call(one, 2, idempotency_key="i"), call(two, 1, idempotency_key="i"))
    core.settle(Kill(one.id))
    assert core.invocation(one.id).outcome == KILLED
    check_tables(core.tables)


# ---- kill ----


def test_a_kill_ends_the_whole_tree_of_calls_in_one_turn() -> None:
    core = Core()
    root = core.submit(submission(1))
    core.settle(call(root, 2))
    middle = core.invocation(id_of(2))
    core.settle(call(middle, 3))
    core.settle(call(middle, 4, waits=False))
    turn = core.settle(Kill(root.id, token=1))
    assert replies(turn) == [(1, "done")]
    assert [core.invocation(id_of(number)).outcome for number in (1, 2, 3, 4)] == [KILLED, KILLED, KILLED, None]
    assert {action.seq for action in actions(turn, Interrupt)} == {1, 2, 3}
    assert (started(turn), delivered(turn)) == ([], [])


def test_a_kill_frees_the_key_and_keeps_the_state() -> None:
    core = Core()
    one, two = core.submit(submission(1, key="k")), core.submit(submission(2, key="k"))
    core.settle(opened(one, Kind.SET, SetState("O", "k", "a", b"1"), "a"))
    assert started(core.settle(Kill(one.id))) == [two.seq]
    assert core.object("O", "k").state == {"a": b"1"}


def test_a_killed_child_is_a_failure_for_its_caller() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2))
    assert delivered(core.settle(Kill(id_of(2)))) == [(parent.seq, 1, KILLED)]


@pytest.mark.parametrize("status", ["scheduled", "pending", "suspended", "backing-off", "paused"])
def test_a_kill_ends_one_that_does_not_run(status: str) -> None:
    core = Core()
    core.submit(submission(1, key="k"))
    two = core.submit(
        submission(2, key="k" if status == "pending" else "l", due_at=core.now + 9 * (status == "scheduled"))
    )
    if status == "suspended":
        core.settle(awakeable(two), suspend(two, 1))
    elif status in ("backing-off", "paused"):
        core.settle(fail(two, RetryPolicy(max_attempts=1 if status == "paused" else 9)))
    assert core.invocation(two.id).status == status
    core.settle(Kill(two.id))
    assert core.invocation(two.id).outcome == KILLED
    assert core.tables.timers == set()
    check_tables(core.tables)
