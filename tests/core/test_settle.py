"""What every command of an attempt or of the engine does, and what follows from it."""

import msgspec
import pytest

from durable.core.commands import (
    Attach,
    AttachTo,
    AwaitPromise,
    Cancel,
    Command,
    CompleteEntry,
    Configure,
    Declare,
    Finished,
    KeyFree,
    Pause,
    Record,
    Recover,
    Resume,
    SendSignal,
    SetState,
    Submit,
    Suspend,
    Tell,
    TimerFired,
)
from durable.core.effects import Completed, Failed, Interrupt, StartAttempt
from durable.core.invocation import Flavor, Problem, Status
from durable.core.journal import CANCELLED, EMPTY, GIVEN_UP, Kind, Outcome, failure_of
from durable.core.retry import RetryPolicy
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.core.waiting import Awaited, Group
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
    delivered,
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

# ---- submit ----


def test_a_submission_to_a_service_is_started_and_acknowledged() -> None:
    core = Core()
    turn = core.settle(Submit(submission(1), token=7))
    invocation = core.invocation(id_of(1))
    assert (invocation.status, invocation.attempt, invocation.created_at) == (Status.RUNNING, 1, core.now)
    assert replies(turn) == [(7, "accepted")]
    assert started(turn) == [invocation.seq]


def test_sequence_numbers_grow_in_the_order_of_acceptance() -> None:
    core = Core()
    core.settle(*(Submit(submission(number)) for number in (3, 1, 2)))
    assert [core.invocation(id_of(number)).seq for number in (3, 1, 2)] == [1, 2, 3]


def test_a_scheduled_one_starts_when_it_is_due_and_not_before() -> None:
    core = Core()
    one = core.submit(submission(1, due_at=core.now + 500))
    assert one.status is Status.SCHEDULED
    assert core.tables.timers == {(core.now + 500, one.seq, 0)}
    assert started(core.settle(TimerFired(core.now + 499, one.seq, 0))) == []
    assert started(core.fire_timers()) == [one.seq]
    assert core.tables.timers == set()


def test_what_is_due_already_starts_at_once() -> None:
    core = Core()
    assert core.submit(submission(1, due_at=core.now)).status is Status.RUNNING


def test_a_scheduled_one_queues_for_its_key_only_when_it_is_due() -> None:
    core = Core()
    later = core.submit(submission(1, key="k", due_at=core.now + 500))
    first = core.submit(submission(2, key="k"))
    assert (later.status, first.status) == (Status.SCHEDULED, Status.RUNNING)
    core.fire_timers()
    assert core.invocation(later.id).status is Status.PENDING
    assert list(core.object("O", "k").queue) == [first.seq, later.seq]


def test_the_same_idempotency_key_names_the_one_that_is_there() -> None:
    core = Core()
    core.settle(Submit(submission(1, idempotency_key="i"), token=1))
    turn = core.settle(Submit(submission(1, idempotency_key="i"), token=2))
    assert replies(turn) == [(2, "previously-accepted")]
    assert started(turn) == []
    assert len(core.tables.invocations) == 1


def test_a_submission_without_an_idempotency_key_asks_the_store_for_nothing() -> None:
    core = Core()
    assert advance(Turn(core.world, [Submit(submission(1))], core.now)) is None


def test_the_same_key_after_its_retention_starts_anew() -> None:
    core = Core()
    one = core.submit(submission(1, idempotency_key="i", retention_ms=1000))
    core.settle(step(one), finish(one))
    core.now += 1000
    turn = core.settle(Submit(submission(1, idempotency_key="i", retention_ms=1000), token=2))
    again = core.invocation(id_of(1))
    assert replies(turn) == [(2, "accepted")]
    assert (again.seq, again.status) == (one.seq + 1, Status.RUNNING)
    assert one.seq not in core.tables.journal


def test_a_call_that_joins_gets_the_outcome_when_the_other_ends() -> None:
    core = Core()
    one = core.submit(submission(1, idempotency_key="i"))
    caller = core.submit(submission(2))
    core.settle(call(caller, 1, idempotency_key="i"))
    assert delivered(core.settle(finish(one, ONE))) == [(caller.seq, 1, ONE)]


def test_a_call_that_joins_what_has_ended_gets_its_outcome_at_once() -> None:
    core = Core()
    one = core.submit(submission(1, idempotency_key="i"))
    core.settle(finish(one, NO))
    caller = core.submit(submission(2))
    assert delivered(core.settle(call(caller, 1, idempotency_key="i"))) == [(caller.seq, 1, NO)]


def test_a_send_that_joins_asks_for_nothing_more() -> None:
    core = Core()
    core.submit(submission(1, idempotency_key="i"))
    sender = core.submit(submission(2))
    turn = core.settle(call(sender, 1, waits=False, idempotency_key="i"))
    assert (started(turn), delivered(turn), sender.open) == ([], [], {})


def test_a_workflow_runs_once_per_key_and_a_second_call_fails_with_409() -> None:
    core = Core()
    core.settle(Submit(submission(1, key="k", flavor=Flavor.WORKFLOW), token=1))
    turn = core.settle(Submit(submission(1, key="k", flavor=Flavor.WORKFLOW), token=2))
    assert replies(turn) == [(2, "previously-accepted")]
    caller = core.submit(submission(2))
    [(seq, entry, outcome)] = delivered(core.settle(call(caller, 1, key="k", flavor=Flavor.WORKFLOW)))
    assert (seq, entry) == (caller.seq, 1)
    assert failure_of(outcome).code == 409


# ---- record, finished ----


def test_a_step_is_written_with_its_outcome_and_told_to_the_attempt_after_the_commit() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(step(one, b"7"))
    assert entries(core, one) == [(1, 0, "run", True)]
    assert delivered(turn) == [(one.seq, 1, Outcome(True, b"7"))]


def test_a_read_is_written_and_nobody_waits_for_it() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(step(one, awaited=False))
    [row] = at_once(core.store.journal(one.seq))
    assert (row.ordinal, row.ok, turn.actions) == (None, True, [])


def test_a_step_left_running_has_a_row_at_once_and_its_outcome_later() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Record(one.seq, 1, 1, Kind.RUN, "slow", 0))
    assert entries(core, one) == [(1, 0, "run", None)]
    assert one.open.keys() == {1}
    turn = core.settle(Finished(one.seq, 1, 1, "slow", NO))
    assert entries(core, one) == [(1, 0, "run", None), (1, 1, "run", False)]
    assert (delivered(turn), one.open) == ([(one.seq, 1, NO)], {})


def test_outcomes_are_numbered_in_the_order_in_which_they_are_settled() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(*(Record(one.seq, 1, entry, Kind.RUN, "s", 0) for entry in (1, 2, 3)))
    core.settle(*(Finished(one.seq, 1, entry, "s", ONE) for entry in (3, 1, 2)))
    rows = [row for row in at_once(core.store.journal(one.seq)) if row.ordinal is not None]
    assert [row.entry for row in sorted(rows, key=lambda row: row.ordinal or 0)] == [3, 1, 2]


@pytest.mark.parametrize("end", ["new attempt", "completed", "suspended", "paused", "backing off"])
def test_an_attempt_that_is_over_changes_nothing_any_more(end: str) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one), Record(one.seq, 1, 2, Kind.RUN, "slow", 0))
    other = core.submit(submission(2))
    if end == "new attempt":
        core.crash()
    elif end == "completed":
        core.settle(finish(one))
    elif end == "suspended":
        core.settle(suspend(one, 1))
    else:
        core.settle(fail(one, RetryPolicy(max_attempts=1 if end == "paused" else 9)))
    before = core.tables.copy()
    stale: list[Command] = [
        Record(one.seq, 1, 3, Kind.RUN, "step", 0, ONE, True),
        Record(one.seq, 1, 3, Kind.RUN, "slow", 0),
        Finished(one.seq, 1, 2, "slow", ONE),
        msgspec.structs.replace(sleep(one, core.now + 9), entry=3, attempt=1),
        msgspec.structs.replace(call(one, 9), entry=3, attempt=1),
        msgspec.structs.replace(opened(one, Kind.CANCEL, Tell(Cancel(other.id))), entry=3, attempt=1),
        msgspec.structs.replace(finish(one), attempt=1),
        msgspec.structs.replace(fail(one, THREE_TIMES), attempt=1),
        Suspend(one.seq, 1, 1, 0),
    ]
    for command in stale:
        assert core.settle(command).actions == [], command
    assert core.tables == before


# ---- finish ----


def test_the_outcome_is_kept_and_told_to_whoever_waits() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(finish(one, NO))
    assert actions(turn, Completed) == [Completed(one, NO)]
    kept = core.invocation(one.id)
    assert (kept.status, kept.outcome, kept.completed_at) == (Status.COMPLETED, NO, core.now)


def test_the_end_takes_timers_listeners_and_signals_along() -> None:
    core = Core()
    one, other = core.submit(submission(1)), core.submit(submission(2))
    core.settle(sleep(one, core.now + 10))
    core.settle(opened(one, Kind.ATTACH, AttachTo(other.id), detail=other.id))
    core.settle(opened(one, Kind.PROMISE, AwaitPromise("W", "k"), "p"))
    core.settle(SendSignal(one.id, "s", ONE))
    core.settle(finish(one))
    assert (core.tables.timers, core.tables.signals.get(one.seq)) == (set(), {})
    assert not any(core.tables.listeners.values())
    assert delivered(core.settle(finish(other))) == []


def test_an_open_call_of_one_that_ends_goes_on_by_itself() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2))
    core.settle(finish(parent))
    child = core.invocation(id_of(2))
    assert child.status is Status.RUNNING
    assert core.settle(finish(child)).actions == [Completed(child, EMPTY)]


# ---- fail ----


def test_a_failure_is_retried_after_a_delay_that_grows_and_is_stored() -> None:
    core = Core()
    one = core.submit(submission(1))
    for delay_ms in (100, 200):
        turn = core.settle(fail(one, THREE_TIMES))
        assert (one.status, one.due_at) == (Status.BACKING_OFF, core.now + delay_ms)
        assert [failed.retry_at for failed in actions(turn, Failed)] == [core.now + delay_ms]
        assert started(core.fire_timers()) == [one.seq]
        one = core.invocation(one.id)
    assert (one.attempt, one.failures) == (3, 2)
    assert one.problem is not None
    assert one.problem.message == "it broke"


def test_the_last_try_pauses_and_leaves_no_timer() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, RetryPolicy(max_attempts=1)))
    assert core.invocation(one.id).status is Status.PAUSED
    assert core.tables.timers == set()


def test_the_last_try_kills_where_the_policy_says_so_and_the_caller_gets_the_error() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2))
    child = core.invocation(id_of(2))
    turn = core.settle(fail(child, RetryPolicy(max_attempts=1, on_max_attempts="kill"), failure=NO))
    assert core.invocation(child.id).outcome == NO
    assert delivered(turn) == [(parent.seq, 1, NO)]


def test_a_failure_may_name_its_own_delay_and_counts_all_the_same() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, THREE_TIMES, retry_after_ms=77_000))
    kept = core.invocation(one.id)
    assert (kept.due_at, kept.failures) == (core.now + 77_000, 1)


def test_progress_fills_the_retry_budget_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    for _ in range(2):
        core.settle(fail(one, THREE_TIMES))
        core.fire_timers()
        one = core.invocation(one.id)
    core.settle(step(one))
    assert (one.failures, one.problem) == (0, None)
    core.settle(fail(one, THREE_TIMES))
    assert core.invocation(one.id).status is Status.BACKING_OFF


def test_a_step_that_was_only_started_is_no_progress() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, THREE_TIMES))
    core.fire_timers()
    one = core.invocation(one.id)
    core.settle(Record(one.seq, one.attempt, 1, Kind.RUN, "slow", 0))
    assert one.failures == 1


def test_what_arrives_while_it_is_backing_off_is_kept_and_does_not_start_it() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    core.settle(fail(one, THREE_TIMES))
    turn = core.settle(CompleteEntry(one.id, 1, ONE))
    assert turn.actions == []
    assert entries(core, one) == [(1, 0, "awakeable", None), (1, 1, "awakeable", True)]
    assert core.invocation(one.id).status is Status.BACKING_OFF


def test_a_steps_own_policy_gives_the_step_up_and_spares_the_invocations_budget() -> None:
    core = Core()
    one = core.submit(submission(1))
    twice = RetryPolicy("10ms", max_attempts=2)
    core.settle(fail(one, THREE_TIMES, entry=1, step_policy=twice, failure=NO))
    assert core.invocation(one.id).step_failures == {1: 1}
    core.fire_timers()
    one = core.invocation(one.id)
    turn = core.settle(fail(one, THREE_TIMES, entry=1, step_policy=twice, failure=NO))
    assert started(turn) == [one.seq]
    assert entries(core, one) == [(1, 0, "run", False)]
    assert (one.status, one.failures, one.step_failures) == (Status.RUNNING, 0, {})
    [start] = actions(turn, StartAttempt)
    [row] = at_once(core.store.journal(one.seq))
    assert row.ordinal is not None
    assert row.ordinal < start.until, "the next attempt finds the step's failure in its journal"


def test_a_step_that_was_recorded_as_running_is_given_up_with_a_completion() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(Record(one.seq, 1, 1, Kind.RUN, "slow", 0))
    once = RetryPolicy(max_attempts=1)
    core.settle(fail(one, THREE_TIMES, entry=1, step_policy=once, failure=NO, step_open=True))
    assert entries(core, one) == [(1, 0, "run", None), (1, 1, "run", False)]
    assert one.open == {}


def test_two_steps_have_two_budgets() -> None:
    core = Core()
    one = core.submit(submission(1))
    twice = RetryPolicy("10ms", max_attempts=2)
    core.settle(step(one), fail(one, THREE_TIMES, entry=2, step_policy=twice, failure=NO))
    core.fire_timers()
    one = core.invocation(one.id)
    core.settle(fail(one, THREE_TIMES, entry=3, step_policy=twice, failure=NO))
    assert core.invocation(one.id).step_failures == {2: 1, 3: 1}


# ---- suspend ----


def test_a_waiting_handler_is_let_go_and_starts_again_with_what_it_waits_for() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    turn = core.settle(suspend(one, 1))
    assert actions(turn, Interrupt) == [Interrupt(one.seq)]
    assert core.world.find(one.id) is None, "it holds no memory"
    turn = core.settle(CompleteEntry(one.id, 1, ONE))
    assert (started(turn), delivered(turn)) == ([one.seq], [])
    [start] = actions(turn, StartAttempt)
    assert all((row.ordinal or 0) < start.until for row in at_once(core.store.journal(one.seq)))


def test_who_let_its_handler_go_without_having_seen_the_news_begins_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    turn = core.settle(CompleteEntry(one.id, 1, ONE), suspend(one, 1, notified=0))
    assert (one.status, one.attempt, started(turn)) == (Status.RUNNING, 2, [one.seq])
    core.settle(awakeable(one), suspend(one, 2, notified=0))
    assert core.invocation(one.id).status is Status.SUSPENDED


def test_a_sleep_that_is_over_at_once_counts_as_news() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(sleep(one, core.now), suspend(one, 1, notified=0))
    assert (one.status, one.attempt, started(turn)) == (Status.RUNNING, 2, [one.seq])
    assert delivered(turn) == [(one.seq, 1, EMPTY)]


def test_who_let_its_handler_go_without_having_seen_the_news_is_paused_where_it_was_to_be() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    turn = core.settle(Pause(one.id), CompleteEntry(one.id, 1, ONE), suspend(one, 1, notified=0))
    assert (core.invocation(one.id).status, started(turn)) == (Status.PAUSED, [])
    assert started(core.settle(Resume(one.id))) == [one.seq]


def test_who_let_its_handler_go_before_it_saw_a_cancel_begins_again_and_no_step_is_left_open() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(runs(one, interruptible=True))
    core.settle(awakeable(one))
    turn = core.settle(Cancel(one.id), suspend(one, 2, notified=0))
    assert (one.status, one.attempt, started(turn)) == (Status.RUNNING, 2, [one.seq])
    assert [(row.entry, row.kind, row.value) for row in turn.writes.journal] == [
        (0, Kind.CANCEL, CANCELLED.value),
        (1, Kind.RUN, GIVEN_UP.value),
    ]


def test_it_sleeps_on_until_the_whole_expression_has_come_true() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    core.settle(awakeable(one))
    core.settle(awakeable(one), suspend(one, Group("all", (1, 2, 3))))
    assert started(core.settle(CompleteEntry(one.id, 2, ONE))) == []
    assert core.invocation(one.id).waiting == Awaited(Group("all", (1, 3)))
    assert started(core.settle(CompleteEntry(one.id, 1, ONE))) == []
    assert started(core.settle(CompleteEntry(one.id, 3, ONE))) == [one.seq]


def test_a_failure_wakes_a_gather_that_fails_fast() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    core.settle(awakeable(one), suspend(one, Group("all", (1, 2), fail_fast=True)))
    assert started(core.settle(CompleteEntry(one.id, 2, NO))) == [one.seq]


# ---- timers ----


def test_a_sleep_ends_when_its_timer_fires() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(sleep(one, core.now + 500))
    assert core.tables.timers == {(core.now + 500, one.seq, 1)}
    assert delivered(core.fire_timers()) == [(one.seq, 1, EMPTY)]
    assert core.tables.timers == set()


def test_a_timer_that_fires_twice_does_nothing_the_second_time() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(sleep(one, core.now + 500))
    due_at = core.now + 500
    core.fire_timers()
    assert core.settle(TimerFired(due_at, one.seq, 1)).actions == []


def test_a_timer_of_nobody_is_dropped() -> None:
    core = Core()
    core.tables.timers.add((5, 99, 1))
    assert core.settle(TimerFired(5, 99, 1)).actions == []
    assert core.tables.timers == set()


# ---- keys ----


def test_a_key_is_held_by_one_and_passed_on_in_the_order_of_acceptance() -> None:
    core = Core()
    ids = [core.submit(submission(number, key="k")).id for number in (3, 1, 2)]
    ran = []
    for id in ids:
        assert [core.invocation(other).status for other in ids].count(Status.RUNNING) == 1
        one = core.invocation(id)
        assert one.status is Status.RUNNING
        ran.append(started(core.settle(finish(one))))
    assert ran == [[2], [3], []]
    assert not core.object("O", "k").queue


def test_keys_do_not_wait_for_each_other() -> None:
    core = Core()
    assert [core.submit(submission(n, key=key)).status for n, key in enumerate("kl")] == [Status.RUNNING] * 2


def test_shared_handlers_do_not_queue() -> None:
    core = Core()
    core.submit(submission(1, key="k"))
    assert core.submit(submission(2, key="k", flavor=Flavor.SHARED)).status is Status.RUNNING


@pytest.mark.parametrize("how", ["suspended", "backing off", "paused"])
def test_a_holder_that_does_not_run_keeps_its_key(how: str) -> None:
    core = Core()
    one, two = core.submit(submission(1, key="k")), core.submit(submission(2, key="k"))
    core.settle(awakeable(one))
    if how == "suspended":
        core.settle(suspend(one, 1))
    else:
        core.settle(fail(one, RetryPolicy(max_attempts=1 if how == "paused" else 9)))
    assert core.invocation(one.id).status == how.replace(" ", "-")
    assert core.invocation(two.id).status is Status.PENDING


def test_one_that_is_cancelled_while_it_waits_for_its_key_leaves_the_queue() -> None:
    core = Core()
    one, two, three = (core.submit(submission(number, key="k")) for number in (1, 2, 3))
    core.settle(Cancel(two.id))
    assert core.invocation(two.id).outcome == CANCELLED
    assert started(core.settle(finish(one))) == [three.seq]


def test_the_holder_and_the_next_end_in_one_turn() -> None:
    core = Core()
    one, two, three = (core.submit(submission(number, key="k")) for number in (1, 2, 3))
    turn = core.settle(Cancel(two.id), finish(one), Submit(submission(4, key="k")))
    assert started(turn) == [three.seq]
    assert list(core.object("O", "k").queue) == [three.seq, core.invocation(id_of(4)).seq]
    check_tables(core.tables)


# ---- state ----


def test_state_is_written_deleted_and_cleared() -> None:
    core = Core()
    one = core.submit(submission(1, key="k"))

    def write(kind: Kind, name: str | None, value: bytes | None) -> dict[str, bytes]:
        core.settle(opened(one, kind, SetState("O", "k", name, value), name or ""))
        return core.object("O", "k").state

    assert write(Kind.SET, "a", b"1") == {"a": b"1"}
    assert write(Kind.SET, "b", b"2") == {"a": b"1", "b": b"2"}
    assert write(Kind.CLEAR, "a", None) == {"b": b"2"}
    assert write(Kind.CLEAR_ALL, None, None) == {}


def test_of_several_writes_in_one_turn_the_last_one_wins() -> None:
    core = Core()
    one = core.submit(submission(1, key="k"))
    writes: list[tuple[Kind, str | None, bytes | None]] = [
        (Kind.SET, "a", b"1"),
        (Kind.SET, "b", b"1"),
        (Kind.CLEAR_ALL, None, None),
        (Kind.SET, "a", b"2"),
        (Kind.SET, "c", b"3"),
        (Kind.CLEAR, "c", None),
    ]
    core.settle(
        *(
            msgspec.structs.replace(opened(one, kind, SetState("O", "k", name, value), name or ""), entry=entry)
            for entry, (kind, name, value) in enumerate(writes, 1)
        )
    )
    assert core.object("O", "k").state == {"a": b"2"} == core.world.keys["O", "k"].state


# ---- resume, recover, configure, declare ----


def test_a_paused_one_goes_on_with_a_fresh_budget() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, RetryPolicy(max_attempts=1)))
    turn = core.settle(Resume(one.id, token=1))
    assert (started(turn), replies(turn)) == ([one.seq], [(1, "paused")])
    assert core.invocation(one.id).failures == 0


def test_one_that_is_backing_off_is_retried_at_once_and_keeps_its_count() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, THREE_TIMES))
    turn = core.settle(Resume(one.id, token=1))
    assert (started(turn), replies(turn)) == ([one.seq], [(1, "backing-off")])
    assert core.tables.timers == set()
    assert core.invocation(one.id).failures == 1


def test_one_that_is_suspended_is_started_when_it_is_resumed() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one), suspend(one, 1))
    turn = core.settle(Resume(one.id, token=1))
    assert (started(turn), replies(turn)) == ([one.seq], [(1, "suspended")])


def test_a_resume_of_others_tells_their_status() -> None:
    core = Core()
    core.submit(submission(1, key="k"))
    core.submit(submission(2, key="k"))
    core.submit(submission(3, due_at=core.now + 9))
    core.settle(finish(core.submit(submission(4))))
    turn = core.settle(*(Resume(id_of(number), token=number) for number in range(1, 6)))
    assert started(turn) == []
    assert replies(turn) == [(1, "running"), (2, "pending"), (3, "scheduled"), (4, "completed"), (5, "not-found")]


def test_recover_gives_a_running_one_its_next_attempt_and_leaves_others_alone() -> None:
    core = Core()
    one, two = core.submit(submission(1)), core.submit(submission(2))
    core.settle(finish(two))
    core.world = World(core.tables.ordinals, 3)
    turn = core.settle(Recover(one.seq), Recover(two.seq), Recover(99))
    assert started(turn) == [one.seq]
    assert core.invocation(one.id).attempt == 2


def test_recover_leaves_alone_what_this_process_has_started() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(Recover(one.seq))
    assert (turn.actions, bool(turn.writes), one.attempt) == ([], False, 1)


def test_one_that_was_looked_up_before_it_recovers_still_gets_its_attempt() -> None:
    """I7: whoever asks for it first after a start."""
    core = Core()
    one = core.submit(submission(1))
    core.world = World(core.tables.ordinals, 2)
    core.settle(Attach(one.id))
    core.settle(SendSignal(one.id, "s", ONE))
    assert started(core.settle(Recover(one.seq))) == [one.seq]


def test_options_set_at_run_time_are_kept() -> None:
    core = Core()
    assert replies(core.settle(Configure("S", "{}", token=1))) == [(1, "done")]
    assert core.tables.settings == {"S": "{}"}


def test_what_a_service_was_declared_as_is_kept_until_it_is_declared_anew() -> None:
    core = Core()
    core.settle(Declare("S", 1, "first"), Declare("O", 1, "object"))
    turn = core.settle(Declare("S", 2, "second"))
    assert (turn.actions, core.tables.declared) == ([], {"S": (2, "second"), "O": (1, "object")})


# ---- turns ----


def test_a_command_is_applied_whole_or_not_yet() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one), suspend(one, 1))
    other = core.submit(submission(2))
    turn = Turn(core.world, [step(other), CompleteEntry(one.id, 1, ONE, token=1), step(other)], core.now)
    need = advance(turn)
    assert need is not None
    assert need.ids == {one.id}
    assert [row.invocation for row in turn.writes.journal] == [other.seq], "what came before is applied, this is not"
    assert replies(turn) == []
    assert len(turn.commands) == 2
    core.world.admit(need, at_once(core.store.load(need)))
    assert advance(turn) is None
    assert replies(turn) == [(1, "done")]


def test_what_later_commands_need_is_asked_for_at_the_same_time() -> None:
    core = Core()
    commands: list[Command] = [
        Cancel(id_of(1)),
        Cancel(id_of(2)),
        Submit(submission(3, key="k")),
        TimerFired(5, 77, 0),
    ]
    need = advance(Turn(core.world, commands, core.now))
    assert need is not None
    assert (need.ids, need.seqs, need.keys) == ({id_of(1), id_of(2)}, {77}, {("O", "k")})


def test_what_the_store_does_not_have_is_asked_for_once() -> None:
    core = Core()
    turn = Turn(core.world, [Cancel(id_of(1), token=1), Attach(id_of(1), token=2)], core.now)
    need = advance(turn)
    assert need is not None
    core.world.admit(need, at_once(core.store.load(need)))
    assert advance(turn) is None
    assert replies(turn) == [(1, "not-found"), (2, "not-found")]


def test_running_invocations_need_nothing_of_the_store() -> None:
    core = Core()
    one = core.submit(submission(1, key="k"))
    commands: list[Command] = [step(one), finish(one)]
    assert advance(Turn(core.world, commands, core.now)) is None


def test_ordinals_are_reserved_ahead_so_that_none_is_used_twice_after_a_crash() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one))
    [row] = at_once(core.store.journal(one.seq))
    assert row.ordinal is not None
    assert row.ordinal < core.tables.ordinals


def test_a_command_with_no_effect_writes_nothing() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(Recover(99), KeyFree(one.seq), Attach(one.id))
    assert not turn.writes


def test_the_problem_is_stamped_with_the_time_of_the_turn() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(fail(one, THREE_TIMES))
    assert core.invocation(one.id).problem == Problem("it broke", "Broken", at=core.now)
