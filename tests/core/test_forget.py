"""What is completed is forgotten: when its retention is over, or when somebody says so."""

from dataclasses import dataclass

import pytest

from durable.core.commands import (
    Attach,
    Command,
    Expire,
    Purge,
    SetState,
    SettlePromise,
    Submit,
)
from durable.core.effects import Completed
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import EMPTY, Kind
from durable.core.retry import RetryPolicy
from durable.core.settle import advance
from durable.core.turn import Turn
from durable.testing.checkers import check_tables
from tests.core.support import (
    DAY,
    NO,
    ONE,
    THREE_TIMES,
    Core,
    actions,
    at_once,
    awakeable,
    call,
    delivered,
    fail,
    finish,
    id_of,
    opened,
    replies,
    runs,
    started,
    step,
    submission,
    suspend,
)


@dataclass
class Left:
    """What is still there of an invocation."""

    record: bool
    journal: bool


def left(core: Core, who: Invocation) -> Left:
    return Left(who.seq in core.tables.invocations, bool(core.tables.journal.get(who.seq)))


def clean(core: Core) -> list[Expire]:
    """What the clean-up of the engine does: ask the store what may go until there is nothing; returns what went."""
    gone: list[Expire] = []
    while found := at_once(core.store.expired(core.now, 2)):
        expires = [Expire(one.seq, one.workflow, one.journal_only) for one in found]
        core.settle(*expires)
        gone += expires
        assert len(gone) < 100, "it never ends"
    return gone


# ---- retention ----


def test_a_completed_one_is_forgotten_when_its_retention_is_over_and_not_before() -> None:
    core = Core()
    one, two = core.submit(submission(1, retention_ms=1000)), core.submit(submission(2))
    core.now += 5000  # it is counted from completion
    core.settle(step(one), finish(one))
    core.now += 999
    assert clean(core) == []
    core.now += 1
    assert clean(core) == [Expire(one.seq)]
    assert (core.exists(one.id), core.exists(two.id)) == (False, True)
    assert one.seq not in core.tables.journal


def test_a_day_is_a_day() -> None:
    core = Core()
    core.settle(finish(core.submit(submission(1))))
    core.now += DAY - 1
    clean(core)
    assert core.exists(id_of(1))
    core.now += 1
    clean(core)
    assert core.tables.invocations == {}


def test_a_journal_goes_first_where_it_is_kept_for_less_long_and_the_result_stays() -> None:
    core = Core()
    one = core.submit(submission(1, idempotency_key="i", retention_ms=5000, journal_ms=1000))
    core.settle(step(one), finish(one, NO))
    core.now += 999
    assert clean(core) == []
    core.now += 1
    assert clean(core) == [Expire(one.seq, journal_only=True)]
    assert left(core, one) == Left(record=True, journal=False)
    kept = core.invocation(one.id)
    assert (kept.outcome, kept.journal_kept, kept.completed_at) == (NO, False, core.now - 1000)
    turn = core.settle(Submit(submission(1, idempotency_key="i"), token=1), Attach(one.id, token=2))
    assert replies(turn) == [(1, "previously-accepted"), (2, "found")]
    core.now += 4000
    assert clean(core) == [Expire(one.seq)]
    assert left(core, one) == Left(record=False, journal=False)


def test_a_journal_that_is_kept_as_long_as_the_result_goes_with_it() -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=1000, journal_ms=1000))
    core.settle(step(one), finish(one))
    core.now += 1000
    assert clean(core) == [Expire(one.seq)]
    assert left(core, one) == Left(record=False, journal=False)


def test_a_journal_that_is_not_kept_goes_at_completion() -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=1000, journal_ms=0))
    core.settle(step(one))
    core.settle(finish(one, ONE))
    assert left(core, one) == Left(record=True, journal=False)
    assert (core.invocation(one.id).outcome, core.invocation(one.id).journal_kept) == (ONE, False)
    assert clean(core) == []
    core.now += 1000
    assert clean(core) == [Expire(one.seq)]


def test_a_journal_that_is_not_kept_is_not_left_behind_by_a_turn_that_does_everything() -> None:
    core = Core()
    core.settle(Submit(submission(1, retention_ms=1000, journal_ms=0)))
    one = core.invocation(id_of(1))
    core.settle(step(one), finish(one))
    assert left(core, one) == Left(record=True, journal=False)


def test_with_a_retention_of_zero_nothing_is_kept() -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=0))
    core.settle(step(one))
    turn = core.settle(finish(one))
    assert actions(turn, Completed) == [Completed(one, EMPTY)]
    assert left(core, one) == Left(record=False, journal=False)


def test_a_caller_gets_the_result_of_a_call_of_which_nothing_is_kept() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2, retention_ms=0))
    assert delivered(core.settle(finish(core.invocation(id_of(2)), NO))) == [(parent.seq, 1, NO)]
    assert not core.exists(id_of(2))


@pytest.mark.parametrize("status", ["scheduled", "pending", "running", "suspended", "backing-off", "paused"])
def test_one_that_is_not_completed_is_never_forgotten(status: str) -> None:
    core = Core()
    one = core.submit(submission(1, key="k", retention_ms=1, due_at=core.now + 10**12 * (status == "scheduled")))
    match status:
        case "pending":
            one = core.submit(submission(2, key="k", retention_ms=1))
        case "suspended":
            core.settle(awakeable(one), suspend(one, 1))
        case "backing-off" | "paused":
            core.settle(fail(one, THREE_TIMES if status == "backing-off" else RetryPolicy(max_attempts=1)))
    core.now += 10**9
    assert clean(core) == []


def test_clean_up_loads_nothing_but_workflows() -> None:
    """A hundred thousand of them are deleted by their numbers."""
    core = Core()
    one = core.submit(submission(1, retention_ms=1000))
    two = core.submit(submission(2, key="k", flavor=Flavor.WORKFLOW, retention_ms=1000))
    core.settle(finish(one), finish(two))
    core.now += 1000
    assert advance(Turn(core.world, [Expire(one.seq), Expire(two.seq, True, True)], core.now)) is None
    need = advance(Turn(core.world, [Expire(two.seq, workflow=True)], core.now))
    assert need is not None
    assert need.seqs == {two.seq}


def test_what_may_go_is_gone_before_its_clean_up_comes() -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=1000))
    core.settle(step(one), finish(one))
    core.now += 1000
    [found] = at_once(core.store.expired(core.now, 9))
    turn = core.settle(Expire(found.seq), Expire(found.seq), Expire(found.seq, journal_only=True))
    assert turn.actions == []
    core.settle(Expire(found.seq))
    assert core.tables.invocations == {}
    check_tables(core.tables)


def test_a_key_that_is_used_again_in_the_turn_of_its_clean_up_starts_anew() -> None:
    core = Core()
    one = core.submit(submission(1, idempotency_key="i", retention_ms=1000))
    core.settle(step(one), finish(one))
    core.now += 1000
    again = Submit(submission(1, idempotency_key="i", retention_ms=1000), token=1)
    orders: list[list[Command]] = [[Expire(one.seq), again], [again, Expire(one.seq)]]
    for commands in orders:
        other = Core()
        other.tables = other.store.tables = core.tables.copy()
        other.world.next_seq, other.now = one.seq + 1, core.now
        turn = other.settle(*commands)
        assert replies(turn) == [(1, "accepted")]
        assert other.invocation(one.id).seq == one.seq + 1
        assert list(other.tables.invocations) == [one.seq + 1]


# ---- workflows ----


def test_a_forgotten_workflow_takes_its_state_and_promises_along() -> None:
    core = Core()
    one = core.submit(submission(1, key="k", flavor=Flavor.WORKFLOW, retention_ms=1000))
    core.settle(opened(one, Kind.SET, SetState("O", "k", "a", b"1"), "a"))
    core.settle(SettlePromise("O", "k", "p", ONE), SettlePromise("O", "l", "p", ONE), finish(one))
    core.now += 1000
    assert clean(core) == [Expire(one.seq, workflow=True)]
    assert (core.object("O", "k").state, core.object("O", "k").promises) == ({}, {})
    assert core.object("O", "l").promises == {"p": ONE}


def test_a_workflow_whose_journal_goes_first_keeps_its_state_and_promises() -> None:
    core = Core()
    one = core.submit(submission(1, key="k", flavor=Flavor.WORKFLOW, retention_ms=5000, journal_ms=1000))
    core.settle(opened(one, Kind.SET, SetState("O", "k", "a", b"1"), "a"))
    core.settle(SettlePromise("O", "k", "p", ONE), finish(one))
    core.now += 1000
    assert clean(core) == [Expire(one.seq, workflow=True, journal_only=True)]
    assert (core.object("O", "k").state, core.object("O", "k").promises) == ({"a": b"1"}, {"p": ONE})
    assert left(core, one) == Left(record=True, journal=False)


def test_a_workflow_that_was_started_again_is_not_robbed_by_the_clean_up_of_the_one_before() -> None:
    core = Core()
    old = core.submit(submission(1, key="k", flavor=Flavor.WORKFLOW, retention_ms=1000))
    core.settle(opened(old, Kind.SET, SetState("O", "k", "a", b"old"), "a"), finish(old))
    core.now += 1000
    new = core.submit(submission(1, key="k", flavor=Flavor.WORKFLOW, retention_ms=1000))
    assert core.object("O", "k").state == {}
    core.settle(opened(new, Kind.SET, SetState("O", "k", "a", b"new"), "a"), SettlePromise("O", "k", "p", ONE))
    core.settle(Expire(old.seq, workflow=True))
    assert (core.object("O", "k").state, core.object("O", "k").promises) == ({"a": b"new"}, {"p": ONE})
    assert core.invocation(new.id).status is Status.RUNNING


def test_a_forgotten_object_handler_leaves_the_state() -> None:
    core = Core()
    one = core.submit(submission(1, key="k", retention_ms=0))
    core.settle(opened(one, Kind.SET, SetState("O", "k", "a", b"1"), "a"), finish(one))
    assert core.object("O", "k").state == {"a": b"1"}


# ---- purge ----


def test_a_purge_takes_every_trace_and_frees_the_key() -> None:
    """C-077."""
    core = Core()
    one = core.submit(submission(1, idempotency_key="i"))
    core.settle(step(one), finish(one))
    assert replies(core.settle(Purge(one.id, token=1))) == [(1, "done")]
    assert left(core, one) == Left(record=False, journal=False)
    turn = core.settle(Purge(one.id, token=2), Submit(submission(1, idempotency_key="i"), token=3))
    assert replies(turn) == [(2, "not-found"), (3, "accepted")]
    assert len(started(turn)) == 1
    check_tables(core.tables)


def test_a_purge_of_the_journal_leaves_the_result() -> None:
    """C-077."""
    core = Core()
    one = core.submit(submission(1, idempotency_key="i"))
    core.settle(step(one), finish(one, NO))
    turn = core.settle(Purge(one.id, journal_only=True, token=1), Submit(submission(1, idempotency_key="i"), token=2))
    assert replies(turn) == [(1, "done"), (2, "previously-accepted")]
    assert left(core, one) == Left(record=True, journal=False)
    assert core.invocation(one.id).outcome == NO
    assert replies(core.settle(Purge(one.id, journal_only=True, token=3))) == [(3, "done")]
    core.now += DAY
    assert clean(core) == [Expire(one.seq)]


@pytest.mark.parametrize("journal_only", [False, True])
@pytest.mark.parametrize("status", ["scheduled", "pending", "running", "suspended", "backing-off", "paused"])
def test_one_that_is_not_completed_is_not_purged(status: str, journal_only: bool) -> None:
    core = Core()
    one = core.submit(submission(1, key="k", due_at=core.now + 9 * (status == "scheduled")))
    match status:
        case "pending":
            one = core.submit(submission(2, key="k"))
        case "suspended":
            core.settle(awakeable(one), suspend(one, 1))
        case "backing-off" | "paused":
            core.settle(fail(one, THREE_TIMES if status == "backing-off" else RetryPolicy(max_attempts=1)))
    turn = core.settle(Purge(one.id, journal_only, token=1))
    assert replies(turn) == [(1, status)]
    assert not turn.writes


@pytest.mark.parametrize("journal_only", [False, True])
def test_nobody_is_not_found_nor_is_one_whose_retention_is_over(journal_only: bool) -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=1000))
    core.settle(finish(one))
    core.now += 1000
    turn = core.settle(Purge(one.id, journal_only, token=1), Purge(id_of(9), journal_only, token=2))
    assert replies(turn) == [(1, "not-found"), (2, "not-found")]


def test_a_purged_workflow_can_be_started_again_with_nothing_left() -> None:
    """C-049."""
    core = Core()
    one = core.submit(submission(1, key="k", flavor=Flavor.WORKFLOW))
    core.settle(opened(one, Kind.SET, SetState("O", "k", "a", b"1"), "a"))
    core.settle(SettlePromise("O", "k", "p", ONE), finish(one))
    again = Submit(submission(1, key="k", flavor=Flavor.WORKFLOW), token=2)
    turn = core.settle(Purge(one.id, token=1), again)
    assert replies(turn) == [(1, "done"), (2, "accepted")]
    assert (core.object("O", "k").state, core.object("O", "k").promises) == ({}, {})
    assert core.world.keys["O", "k"].state == {}


def test_a_purge_leaves_an_objects_state_and_its_queue() -> None:
    core = Core()
    one = core.submit(submission(1, key="k"))
    core.settle(opened(one, Kind.SET, SetState("O", "k", "a", b"1"), "a"), finish(one))
    two, three = core.submit(submission(2, key="k")), core.submit(submission(3, key="k"))
    core.settle(Purge(one.id))
    assert core.object("O", "k").state == {"a": b"1"}
    assert list(core.object("O", "k").queue) == [two.seq, three.seq]


@pytest.mark.parametrize("journal_only", [False, True])
def test_one_can_be_purged_in_the_turn_in_which_it_ends(journal_only: bool) -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(step(one), finish(one, NO), Purge(one.id, journal_only, token=1))
    assert replies(turn) == [(1, "done")]
    assert actions(turn, Completed) == [Completed(one, NO)]
    assert left(core, one) == Left(record=journal_only, journal=False)
    check_tables(core.tables)


def test_a_purge_after_a_purge_of_the_journal_in_the_same_turn_takes_the_rest() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one), finish(one))
    core.settle(Purge(one.id, journal_only=True), Purge(one.id))
    assert left(core, one) == Left(record=False, journal=False)


def test_a_purged_parent_does_not_take_its_children_along() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2))
    core.settle(runs(parent))
    core.settle(finish(parent))
    core.settle(Purge(parent.id))
    child = core.invocation(id_of(2))
    assert core.settle(finish(child)).actions == [Completed(child, EMPTY)]
    check_tables(core.tables)
