"""What is stored of an invocation is damaged: it is paused and says why, and nobody else hears of it."""

from typing import Any

import pytest

from durable.core.commands import (
    Cancel,
    Command,
    CompleteEntry,
    Kill,
    NoteDamage,
    Notify,
    Recover,
    Resume,
    SendSignal,
)
from durable.core.invocation import Invocation, Status, damage
from durable.core.journal import EMPTY, Kind, Row
from durable.core.reasons import Reason
from durable.store.rows import FIXED_COUNT, FIXED_NAMES, MOVING_NAMES
from tests.core.support import Core, awakeable, call, id_of, replies, sleep, started, step, submission


def spoil(core: Core, who: Invocation, column: str, value: Any) -> None:
    """Set one column of an invocation's row to something else, and forget what was in memory."""
    row = list(core.tables.invocations[who.seq])
    place = FIXED_NAMES.index(column) if column in FIXED_NAMES else FIXED_COUNT + MOVING_NAMES.index(column)
    row[place] = value
    core.tables.invocations[who.seq] = tuple(row)


def spoil_journal(core: Core, who: Invocation, entry: int, **columns: Any) -> None:
    rows = core.tables.journal[who.seq]
    rows[entry, 0] = Row(**(rows[entry, 0]._asdict() | columns))


def reason(one: Invocation) -> str:
    return one.problem.reason if one.problem is not None else ""


@pytest.mark.parametrize("column", [*FIXED_NAMES[3:], *MOVING_NAMES])
def test_any_damaged_column_pauses_it_or_changes_nothing(column: str) -> None:
    core = Core()
    bad, good = core.submit(submission(1)), core.submit(submission(2))
    spoil(core, bad, column, "nonsense")
    core.crash()
    turn = core.settle(Recover(bad.seq), Recover(good.seq))
    found = core.invocation(bad.id)
    if column in ("expires_at", "journal_until"):  # they follow from others
        assert found.status is Status.RUNNING
    else:
        assert (found.status, reason(found)) == (Status.PAUSED, Reason.DAMAGED)
        assert bad.seq not in started(turn)
    assert core.invocation(good.id).status is Status.RUNNING


def test_where_only_its_standing_is_damaged_a_resume_goes_on_from_the_journal() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one))
    spoil(core, one, "failures", "many")
    core.crash()
    core.settle(Recover(one.seq))
    assert replies(core.settle(Resume(one.id, token=1))) == [(1, "paused")]
    again = core.invocation(one.id)
    assert (again.status, again.attempt, again.last_entry) == (Status.RUNNING, 2, 1)


def test_one_that_lost_its_place_in_the_queue_gets_the_last_one_when_it_is_resumed() -> None:
    core = Core()
    one, two = core.submit(submission(1, key="k")), core.submit(submission(2, key="k"))
    spoil(core, one, "queued", "first")
    core.crash()
    assert started(core.settle(Recover(one.seq))) == [two.seq]
    assert started(core.settle(Resume(one.id))) == []
    assert core.invocation(one.id).status is Status.PENDING
    assert started(core.settle(Kill(two.id))) == [one.seq]


def test_of_one_whose_journal_is_damaged_nothing_is_asked_but_its_end() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(awakeable(one))
    spoil_journal(core, one, 1, kind="dance")
    core.crash()
    core.settle(Recover(one.seq))
    asked: list[Command] = [
        Cancel(one.id, 1), Resume(one.id, 2), SendSignal(one.id, "s", EMPTY, 3), CompleteEntry(one.id, 1, EMPTY, 4),
    ]  # fmt: skip
    turn = core.settle(*asked)
    assert [reply for _, reply in replies(turn)] == ["damaged"] * 4
    assert turn.writes.journal == []
    assert replies(core.settle(Kill(one.id, token=5))) == [(5, "done")]


def test_a_result_that_is_damaged_is_never_told_and_its_handler_never_runs_again() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(step(one))
    core.settle(Kill(one.id))
    spoil(core, one, "output", b"another")
    core.crash()
    core.settle(Resume(one.id))
    for _ in range(2):  # found, and as it was stored then
        core.crash()
        found = core.invocation(one.id)
        assert (found.status, found.damaged, found.outcome) == (Status.PAUSED, True, None)
        assert replies(core.settle(Resume(one.id, token=1))) == [(1, "damaged")]


def test_an_outcome_that_is_addressed_to_another_entry_completes_nothing() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(sleep(one, core.now + 5000))
    core.settle(call(one, 7))
    for entry, ref in ((1, id_of(7)), (2, id_of(8)), (1, "promise/S/1/k/p")):
        assert core.settle(Notify(one.seq, entry, EMPTY, ref)).writes.journal == []
    assert core.invocation(one.id).open.keys() == {1, 2}
    assert core.invocation(one.id).open[1].kind is Kind.SLEEP


def test_the_attempt_that_found_it_is_over_and_any_other_is_not() -> None:
    core = Core()
    one = core.submit(submission(1))
    core.settle(NoteDamage(one.seq, damage("the journal is damaged"), one.attempt + 1))
    assert core.invocation(one.id).status is Status.RUNNING
    core.settle(NoteDamage(one.seq, damage("the journal is damaged"), one.attempt))
    assert (core.invocation(one.id).status, reason(core.invocation(one.id))) == (Status.PAUSED, Reason.DAMAGED)
