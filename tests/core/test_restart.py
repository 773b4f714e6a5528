"""Restart as new: the same request once more, from its start or over the first entries of its journal."""

import msgspec
import pytest

from durable.core.commands import (
    Attach,
    AwaitSignal,
    Cancel,
    Command,
    CompleteEntry,
    Expire,
    Kill,
    Purge,
    Restart,
    SendSignal,
    SetState,
    Submit,
)
from durable.core.effects import Reply, StartAttempt
from durable.core.ids import awakeable_id
from durable.core.invocation import Caller, Flavor, Invocation, Status, Submission
from durable.core.journal import CANCELLED, COMMAND, GIVEN_UP, Failure, Kind, Outcome, Row, given_up
from durable.core.replay import Replay
from durable.core.retry import RetryPolicy
from durable.testing.checkers import check_tables
from tests.core.support import (
    DAY,
    NO,
    ONE,
    THREE_TIMES,
    TWO,
    Core,
    actions,
    at_once,
    awakeable,
    call,
    delivered,
    ends,
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

NEW = id_of(77)


def journal(core: Core, id: str) -> list[Row]:
    """The stored rows of an invocation."""
    return list(at_once(core.store.journal(core.invocation(id).seq)))


def told(core: Core, id: str, asked: int) -> list[tuple[int, bytes]]:
    """The outcomes that an attempt gets which has asked for so many entries, in their order."""
    replay = Replay(journal(core, id), core.world.next_ordinal)
    arrivals = []
    while (arrival := replay.next_arrival(asked)) is not None:
        arrivals.append((arrival[0], arrival[1].value))
    return arrivals


# ---- from the start ----


@pytest.mark.parametrize("outcome", [ONE, NO, CANCELLED], ids=["success", "failure", "cancelled"])
def test_a_completed_one_is_done_again_and_stays_as_it_is(outcome: Outcome) -> None:
    """C-068."""
    core = Core()
    old = core.submit(submission(1))
    core.settle(step(old), finish(old, outcome))
    row, rows = core.tables.invocations[old.seq], journal(core, old.id)
    turn = core.settle(Restart(old.id, NEW, token=1))
    new = core.invocation(NEW)
    assert replies(turn) == [(1, "accepted")]
    assert started(turn) == [new.seq] == [old.seq + 1]
    assert (new.status, new.attempt, new.last_entry, new.outcome) == (Status.RUNNING, 1, 0, None)
    assert journal(core, NEW) == []
    assert (core.tables.invocations[old.seq], journal(core, old.id)) == (row, rows)


def test_what_was_asked_is_copied_and_who_asked_and_when_is_not() -> None:
    core = Core()
    parent = core.submit(submission(9))
    asked = Submission(
        id_of(1), "O", "h", "k", Flavor.EXCLUSIVE, b"input", {"x-a": "1"}, "i",
        Caller(parent.seq, parent.id, 1, "S/h", True), core.now + 5, 2 * DAY, DAY,
    )  # fmt: skip
    core.settle(Submit(asked))
    core.fire_timers()
    core.settle(finish(core.invocation(asked.id)))
    core.now += 100
    core.settle(Restart(asked.id, NEW))
    new = core.invocation(NEW)
    assert new.submission == msgspec.structs.replace(
        asked, id=NEW, idempotency_key=None, caller=None, due_at=None, restarted_from=asked.id, origin=asked.id
    )
    assert new.created_at == core.now
    core.crash()
    assert core.invocation(NEW).submission == new.submission


def test_nobody_who_waited_for_the_old_one_hears_of_the_new_one() -> None:
    core = Core()
    parent = core.submit(submission(1))
    core.settle(call(parent, 2))
    core.settle(finish(core.invocation(id_of(2)), NO))
    core.settle(Restart(id_of(2), NEW))
    assert delivered(core.settle(finish(core.invocation(NEW), ONE))) == []
    assert core.invocation(id_of(2)).outcome == NO
    assert core.invocation(NEW).outcome == ONE


def test_an_idempotency_key_still_names_the_old_one() -> None:
    core = Core()
    old = core.submit(submission(1, idempotency_key="i"))
    core.settle(finish(old))
    core.settle(Restart(old.id, NEW))
    turn = core.settle(Submit(submission(1, idempotency_key="i"), token=2), Attach(old.id, token=3))
    assert replies(turn) == [(2, "previously-accepted"), (3, "found")]


def test_a_second_restart_starts_a_second_one() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(finish(old))
    turn = core.settle(Restart(old.id, NEW), Restart(old.id, id_of(78)))
    assert len(started(turn)) == 2
    assert core.invocation(NEW).seq != core.invocation(id_of(78)).seq


def test_the_new_one_is_kept_as_long_as_the_old_one_was() -> None:
    core = Core()
    old = core.submit(submission(1, retention_ms=5000, journal_ms=1000))
    core.settle(finish(old))
    core.now += 4999
    core.settle(Restart(old.id, NEW))
    new = core.invocation(NEW)
    core.settle(finish(new))
    core.now += 999
    assert [one.seq for one in at_once(core.store.expired(core.now, 9))] == [old.seq]
    core.now += 1
    core.settle(Expire(old.seq))
    [found] = at_once(core.store.expired(core.now, 9))
    assert (found.seq, found.journal_only) == (new.seq, True)


def test_a_restart_on_a_key_waits_for_its_turn() -> None:
    core = Core()
    old = core.submit(submission(1, key="k"))
    core.settle(opened(old, Kind.SET, SetState("O", "k", "a", b"1"), "a"))
    core.settle(finish(old))
    holder = core.submit(submission(2, key="k"))
    waits = core.submit(submission(3, key="k"))
    turn = core.settle(Restart(old.id, NEW, from_entry=1, token=1))
    assert (started(turn), replies(turn)) == ([], [(1, "accepted")])
    new = core.invocation(NEW)
    assert (new.status, new.attempt) == (Status.PENDING, 0)
    assert list(core.object("O", "k").queue) == [holder.seq, waits.seq, new.seq]
    check_tables(core.tables)
    core.crash()
    core.settle(finish(core.invocation(holder.id)))
    [start] = actions(core.settle(finish(core.invocation(waits.id))), StartAttempt)
    assert (start.invocation.id, start.attempt, start.invocation.last_entry) == (NEW, 1, 1)


def test_a_restart_on_a_free_key_holds_it() -> None:
    core = Core()
    old = core.submit(submission(1, key="k"))
    core.settle(finish(old))
    core.settle(Restart(old.id, NEW))
    assert core.submit(submission(2, key="k")).status is Status.PENDING
    assert core.invocation(NEW).status is Status.RUNNING


def test_a_cancel_of_the_new_one_while_it_waits_for_its_key_ends_it() -> None:
    core = Core()
    old = core.submit(submission(1, key="k"))
    core.settle(finish(old))
    core.submit(submission(2, key="k"))
    core.settle(Restart(old.id, NEW))
    core.settle(Cancel(NEW))
    assert core.invocation(NEW).outcome == CANCELLED


def test_it_can_be_done_again_in_the_turn_in_which_it_ends() -> None:
    core = Core()
    old = core.submit(submission(1))
    turn = core.settle(finish(old), Restart(old.id, NEW, token=1))
    assert (started(turn), replies(turn)) == ([old.seq + 1], [(1, "accepted")])


# ---- refusals ----


@pytest.mark.parametrize("from_entry", [0, 1])
@pytest.mark.parametrize("status", ["scheduled", "pending", "running", "suspended", "backing-off", "paused"])
def test_only_a_completed_one_is_done_again(status: str, from_entry: int) -> None:
    """C-070."""
    core = Core()
    one = core.submit(submission(1, key="k", due_at=core.now + 9 * (status == "scheduled")))
    match status:
        case "pending":
            one = core.submit(submission(2, key="k"))
        case "suspended":
            core.settle(awakeable(one), suspend(one, 1))
        case "backing-off" | "paused":
            core.settle(fail(one, THREE_TIMES if status == "backing-off" else RetryPolicy(max_attempts=1)))
    turn = core.settle(Restart(one.id, NEW, from_entry, token=1))
    assert replies(turn) == [(1, status)]
    assert not turn.writes
    assert not core.exists(NEW)


def test_nobody_is_not_found_nor_is_one_whose_retention_is_over() -> None:
    core = Core()
    one = core.submit(submission(1, retention_ms=1000))
    core.settle(finish(one))
    core.now += 1000
    turn = core.settle(Restart(one.id, NEW, token=1), Restart(id_of(9), NEW, 3, token=2))
    assert (started(turn), replies(turn)) == ([], [(1, "not-found"), (2, "not-found")])


@pytest.mark.parametrize("flavor", [Flavor.WORKFLOW, Flavor.WORKFLOW_SHARED])
def test_a_workflow_runs_once_per_key(flavor: Flavor) -> None:
    core = Core()
    one = core.submit(submission(1, key="k", flavor=flavor))
    core.settle(finish(one))
    assert replies(core.settle(Restart(one.id, NEW, token=1))) == [(1, "workflow")]


@pytest.mark.parametrize("from_entry", [0, 1])
@pytest.mark.parametrize("how", ["never kept", "retention over", "purged"])
def test_without_its_journal_it_cannot_be_done_again(how: str, from_entry: int) -> None:
    core = Core()
    one = core.submit(submission(1, journal_ms=0 if how == "never kept" else 1000))
    core.settle(step(one), finish(one))
    if how == "retention over":
        core.now += 1000
        core.settle(*(Expire(*msgspec.structs.astuple(gone)) for gone in at_once(core.store.expired(core.now, 9))))
    elif how == "purged":
        core.settle(Purge(one.id, journal_only=True))
    assert replies(core.settle(Restart(one.id, NEW, from_entry, token=1))) == [(1, "journal-gone")]


def test_a_journal_that_is_purged_in_this_turn_is_gone() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one), finish(one))
    turn = core.settle(Purge(one.id, journal_only=True), Restart(one.id, NEW, 1, token=1))
    assert replies(turn) == [(1, "journal-gone")]


@pytest.mark.parametrize(("from_entry", "reply"), [(2, "accepted"), (3, "out-of-range"), (10**9, "out-of-range")])
def test_there_are_no_entries_beyond_the_last(from_entry: int, reply: str) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one))
    core.settle(step(one), finish(one))
    assert replies(core.settle(Restart(one.id, NEW, from_entry, token=1))) == [(1, reply)]
    assert core.exists(NEW) is (reply == "accepted")


def test_of_an_empty_journal_there_is_only_the_start() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(finish(one))
    turn = core.settle(Restart(one.id, NEW, 1, token=1), Restart(one.id, NEW, 0, token=2))
    assert replies(turn) == [(1, "out-of-range"), (2, "accepted")]


@pytest.mark.parametrize("kind", ["step", "call", "awakeable", "sleep", "signal"])
def test_an_entry_without_an_outcome_cannot_be_kept(kind: str) -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one))
    open_entry: dict[str, Command] = {
        "step": runs(one),
        "call": call(one, 2),
        "awakeable": awakeable(one),
        "sleep": sleep(one, core.now + 9),
        "signal": opened(one, Kind.SIGNAL, AwaitSignal(), "s"),
    }
    core.settle(open_entry[kind])
    core.settle(step(one), finish(one))
    turn = core.settle(*(Restart(one.id, id_of(70 + entry), entry, token=entry) for entry in (1, 2, 3)))
    assert replies(turn) == [(1, "accepted"), (2, "open-entry"), (3, "open-entry")]
    assert [reply.entry for reply in actions(turn, Reply)] == [0, 2, 2]


def test_the_call_of_a_killed_one_has_no_outcome_even_if_it_failed_under_a_cancel() -> None:
    """That failure was kept to be told after the cancel, and nobody was told."""
    core = Core()
    one = core.submit(submission(1))
    core.settle(call(one, 2))
    core.settle(call(one, 3))
    core.settle(Cancel(one.id))
    core.settle(finish(core.invocation(id_of(2)), NO))
    core.settle(Kill(one.id))
    turn = core.settle(Restart(one.id, NEW, 1, token=1))
    assert [(reply.result, reply.entry) for reply in actions(turn, Reply)] == [("open-entry", 1)]


# ---- over the first entries ----


def test_the_first_entries_are_kept_with_their_outcomes_and_not_done_again() -> None:
    """C-069."""
    core = Core()
    old = core.submit(submission(1))
    core.settle(step(old, b"old"))
    core.settle(call(old, 2))
    core.settle(finish(core.invocation(id_of(2)), NO))
    core.settle(step(old, b"later"), finish(old))
    rows = journal(core, old.id)
    [start] = actions(core.settle(Restart(old.id, NEW, from_entry=2)), StartAttempt)
    new = core.invocation(NEW)
    assert journal(core, NEW) == [row._replace(invocation=new.seq) for row in rows if row.entry <= 2]
    assert (new.last_entry, new.open, new.early) == (2, {}, {})
    assert all((row.ordinal or 0) < start.until for row in journal(core, NEW))
    assert told(core, NEW, 2) == [(1, b"old"), (2, NO.value)]
    assert len(core.tables.invocations) == 3, "the call is not made again"
    core.settle(step(new, b"new"))
    assert entries(core, new)[-1] == (3, 0, "run", True)


def test_outcomes_that_came_later_than_the_last_entry_kept_come_along() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(runs(old))
    core.settle(runs(old))
    core.settle(runs(old))
    core.settle(ends(old, 3))
    core.settle(ends(old, 2, TWO))
    core.settle(ends(old, 1, NO))
    core.settle(finish(old))
    core.settle(Restart(old.id, NEW, 2))
    assert told(core, NEW, 2) == [(2, TWO.value), (1, NO.value)]


def test_what_is_kept_has_no_effect_once_more() -> None:
    core = Core()
    old = core.submit(submission(1, key="k"))
    core.settle(opened(old, Kind.SET, SetState("O", "k", "a", b"1"), "a"))
    core.settle(call(old, 2, waits=False))
    core.settle(sleep(old, core.now + 5))
    core.fire_timers()
    core.settle(opened(old, Kind.CLEAR, SetState("O", "k", "a", None), "a"))
    core.settle(finish(old))
    turn = core.settle(Restart(old.id, NEW, 3))
    assert core.object("O", "k").state == {}
    assert started(turn) == [core.invocation(NEW).seq]
    assert core.tables.timers == set()
    assert core.invocation(NEW).open == {}


def test_what_is_waited_for_anew_belongs_to_the_new_one() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(step(old), finish(old))
    core.settle(Restart(old.id, NEW, 1))
    new = core.invocation(NEW)
    core.settle(opened(new, Kind.SIGNAL, AwaitSignal(), "s"))
    assert delivered(core.settle(SendSignal(old.id, "s", ONE))) == []
    assert delivered(core.settle(SendSignal(NEW, "s", ONE))) == [(new.seq, 2, ONE)]


@pytest.mark.parametrize(("from_entry", "kept"), [(1, False), (2, True), (3, True)])
def test_a_cancel_is_kept_where_the_handler_had_seen_it(from_entry: int, kept: bool) -> None:
    """Step 1 ran before, step 2 is the first of the compensation."""
    core = Core()
    old = core.submit(submission(1))
    core.settle(step(old, b"before"))
    core.settle(Cancel(old.id))
    core.settle(msgspec.structs.replace(step(old, b"undone"), seen=2))
    core.settle(msgspec.structs.replace(step(old, b"more"), seen=3), finish(old, CANCELLED))
    core.settle(Restart(old.id, NEW, from_entry))
    steps = [(1, b"before"), (2, b"undone"), (3, b"more")][:from_entry]
    assert told(core, NEW, from_entry) == ([steps[0], (0, CANCELLED.value), *steps[1:]] if kept else steps)
    check_tables(core.tables)


def test_a_second_cancel_that_came_after_the_last_entry_kept_is_not() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(Cancel(old.id))
    core.settle(msgspec.structs.replace(step(old), seen=1))
    core.settle(Cancel(old.id))
    core.settle(msgspec.structs.replace(step(old), seen=3), finish(old, CANCELLED))
    core.settle(Restart(old.id, NEW, 1), Restart(old.id, id_of(78), 2))
    assert [entry for entry, _ in told(core, NEW, 1)] == [0, 1]
    assert [entry for entry, _ in told(core, id_of(78), 2)] == [0, 1, 0, 2]


def test_the_failure_of_a_call_under_a_cancel_is_kept_after_the_cancel() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(call(old, 2))
    core.settle(Cancel(old.id))
    core.settle(finish(core.invocation(id_of(2)), NO))
    core.settle(msgspec.structs.replace(step(old), seen=2), finish(old, CANCELLED))
    core.settle(Restart(old.id, NEW, 2))
    assert [entry for entry, _ in told(core, NEW, 2)] == [0, 1, 2]


@pytest.mark.parametrize("crash", [False, True], ids=["in one life", "across a crash"])
def test_a_cancel_that_is_kept_counts_when_the_new_one_is_cancelled(crash: bool) -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(Cancel(old.id))
    core.settle(msgspec.structs.replace(step(old), seen=1), finish(old, CANCELLED))
    core.settle(Restart(old.id, NEW, 1))
    if crash:
        core.crash()
    core.settle(Cancel(NEW))
    new = core.invocation(NEW)
    assert new.cancels == 2
    core.settle(call(new, 3, cancels=1))
    assert not core.exists(id_of(3)), "the second cancel overtook it"


def test_a_cancel_that_the_old_one_got_does_not_cancel_the_new_one() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(call(old, 2))
    core.settle(Cancel(old.id))
    core.settle(finish(old, CANCELLED))
    core.settle(Restart(old.id, NEW))
    new = core.invocation(NEW)
    assert (new.cancelling, new.cancels, new.pausing) == (0, 0, False)


# ---- ids and seeds ----


def test_an_awakeable_that_is_kept_keeps_the_id_that_was_passed_on() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(awakeable(old))
    core.settle(CompleteEntry(old.id, 1, ONE), finish(old))
    core.settle(Restart(old.id, NEW, 1))
    core.settle(awakeable(core.invocation(NEW)))
    core.settle(CompleteEntry(NEW, 2, TWO), finish(core.invocation(NEW)))
    again = id_of(78)
    core.settle(Restart(NEW, again, 2))
    details = {(row.entry, row.detail) for row in journal(core, again) if row.part == COMMAND}
    assert details == {(1, awakeable_id(old.id, 1)), (2, awakeable_id(NEW, 2))}
    assert core.settle(CompleteEntry(old.id, 1, NO, token=1)).writes.journal == []


def test_random_numbers_repeat_where_entries_are_kept() -> None:
    core = Core()
    old = core.submit(submission(1))
    core.settle(step(old), finish(old))

    def seed_of(new: Invocation) -> str:
        return new.submission.seed or new.id

    core.settle(Restart(old.id, NEW, 1), Restart(old.id, id_of(78)))
    assert seed_of(core.invocation(NEW)) == old.id
    assert seed_of(core.invocation(id_of(78))) == id_of(78)
    core.settle(finish(core.invocation(NEW)))
    core.settle(Restart(NEW, id_of(79), 1), Restart(NEW, id_of(80)))
    assert seed_of(core.invocation(id_of(79))) == old.id
    assert seed_of(core.invocation(id_of(80))) == id_of(80)
    assert core.invocation(id_of(79)).submission.restarted_from == NEW
    core.crash()
    assert seed_of(core.invocation(id_of(79))) == old.id


# ---- in one turn with what it is about ----


def test_entries_that_are_written_in_the_same_turn_can_be_kept() -> None:
    core = Core()
    one = core.submit(submission(1))
    turn = core.settle(step(one, b"7"), finish(one), Restart(one.id, NEW, 1, token=1))
    assert replies(turn) == [(1, "accepted")]
    assert told(core, NEW, 1) == [(1, b"7")]


def test_an_outcome_that_comes_in_the_same_turn_is_kept() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    turn = core.settle(CompleteEntry(one.id, 1, TWO), finish(one), Restart(one.id, NEW, 1, token=1))
    assert replies(turn) == [(1, "accepted")]
    assert told(core, NEW, 1) == [(1, TWO.value)]


def test_one_that_is_purged_after_its_restart_in_the_same_turn_has_been_done_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one), finish(one))
    turn = core.settle(Restart(one.id, NEW, 1, token=1), Purge(one.id, token=2))
    assert replies(turn) == [(1, "accepted"), (2, "done")]
    assert not core.exists(one.id)
    assert told(core, NEW, 1) == [(1, b"1")]
    check_tables(core.tables)


def test_a_file_that_words_it_as_before_is_understood() -> None:
    """What a cancel prevented is known by its stored value, which older versions worded otherwise."""
    before = Failure("given up: a cancel came before", 409, kind="cancelled").outcome()
    assert given_up(before.value) and given_up(GIVEN_UP.value)
    assert not given_up(CANCELLED.value) and not given_up(None)
