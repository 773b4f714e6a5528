"""A walk over a journal: what is asked for again is known, still waited for, new, or a mismatch."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.core.journal import CANCELLED, COMMAND, COMPLETION, EMPTY, Failure, Kind, Outcome, Row
from durable.core.replay import Replay, stuck
from durable.errors import JournalMismatchError

LATER = 10**6


def command(
    entry: int,
    kind: Kind = Kind.RUN,
    name: str = "step",
    *,
    seen: int = 0,
    ordinal: int | None = None,
    value: bytes | None = None,
) -> Row:
    return Row(1, entry, COMMAND, kind, name, None, seen, ordinal, None if ordinal is None else True, value, 0)


def completion(entry: int, ordinal: int | None, value: bytes = b"", ok: bool = True) -> Row:
    return Row(1, entry, COMPLETION, Kind.RUN, None, None, 0, ordinal, ok, value, 0)


def cancel(ordinal: int) -> Row:
    return Row(1, 0, ordinal, Kind.CANCEL, None, None, 0, ordinal, CANCELLED.ok, CANCELLED.value, 0)


# ---- known, waiting, new ----


def test_in_an_empty_journal_everything_is_new() -> None:
    replay = Replay([], LATER)
    assert replay.last == 0
    assert replay.match(1, Kind.RUN, "step", None) is None
    assert replay.next_arrival(1) is None
    assert not replay.outcomes_left


def test_a_recorded_step_is_known_and_its_outcome_comes_when_it_is_asked_for() -> None:
    replay = Replay([command(1, ordinal=20, value=b"7")], LATER)
    assert replay.next_arrival(0) is None
    assert replay.match(1, Kind.RUN, "step", None) is not None
    assert replay.has_outcome(1)
    assert replay.next_arrival(1) == (1, Outcome(True, b"7"))
    assert not replay.has_outcome(1)
    assert replay.next_arrival(1) is None


def test_an_entry_without_an_outcome_is_still_waited_for() -> None:
    replay = Replay([command(1, Kind.SLEEP, "")], LATER)
    assert replay.match(1, Kind.SLEEP, "", None) is not None
    assert not replay.has_outcome(1)
    assert not replay.outcomes_left
    replay.check_end(1)


def test_what_comes_after_the_last_entry_is_new() -> None:
    replay = Replay([command(1, ordinal=20), command(2, seen=1, ordinal=21)], LATER)
    assert replay.last == 2
    assert replay.match(3, Kind.SLEEP, "whatever", b"whatever") is None


def test_outcomes_from_the_attempts_start_on_are_delivered_by_the_engine_and_not_by_the_replay() -> None:
    replay = Replay([command(1), command(2), completion(1, 20), completion(2, 30)], until=30)
    assert replay.next_arrival(2) == (1, EMPTY)
    assert replay.next_arrival(2) is None
    assert not replay.has_outcome(2)


def test_an_awakeable_completed_before_it_was_recorded_is_no_arrival() -> None:
    replay = Replay([completion(3, None, b'"early"')], LATER)
    assert not replay.outcomes_left
    assert replay.last == 0


def test_a_failure_is_delivered_as_one() -> None:
    failure = Failure("no", 418).outcome()
    replay = Replay([command(1), completion(1, 20, failure.value, ok=False)], LATER)
    assert replay.next_arrival(1) == (1, failure)


# ---- the order of outcomes ----


def test_outcomes_come_in_recorded_order_and_not_in_the_order_of_entries() -> None:
    rows = [command(1), command(2), command(3), completion(1, 22), completion(2, 23), completion(3, 21)]
    replay = Replay(rows, LATER)
    assert [replay.next_arrival(3) for _ in range(3)] == [(3, EMPTY), (1, EMPTY), (2, EMPTY)]


def test_an_outcome_waits_for_what_was_asked_before_the_handler_had_seen_it() -> None:
    rows = [command(1), command(2), command(3, seen=0), command(4, seen=1), completion(1, 20), completion(2, 21)]
    replay = Replay(rows, LATER)
    assert replay.next_arrival(2) is None, "entry 3 was asked for before any outcome was seen"
    assert replay.next_arrival(3) == (1, EMPTY)
    assert replay.next_arrival(3) is None, "entry 4 was asked for before the second outcome was seen"
    assert replay.next_arrival(4) == (2, EMPTY)


def test_an_outcome_does_not_wait_for_what_was_asked_after_it_had_been_seen() -> None:
    replay = Replay([command(1), completion(1, 20), command(2, seen=1)], LATER)
    assert replay.next_arrival(1) == (1, EMPTY)


def test_an_outcome_that_came_before_its_entry_was_asked_for_waits_for_it() -> None:
    replay = Replay([command(1), command(2, Kind.SIGNAL, "s", seen=0), completion(2, 20), completion(1, 21)], LATER)
    assert replay.next_arrival(1) is None
    assert replay.next_arrival(2) == (2, EMPTY)


def test_a_cancel_comes_back_between_the_same_operations() -> None:
    rows = [command(1), cancel(20), command(2, seen=1), cancel(21), command(3, seen=2)]
    replay = Replay(rows, LATER)
    assert replay.last == 3
    assert replay.next_arrival(0) is None
    assert replay.next_arrival(1) == (0, CANCELLED)
    assert replay.next_arrival(1) is None
    assert replay.next_arrival(2) == (0, CANCELLED)


@dataclass(frozen=True)
class Asked:
    entry: int


@dataclass(frozen=True)
class Arrived:
    entry: int


@st.composite
def histories(draw: st.DrawFn) -> list[Asked | Arrived]:
    """What one attempt of some handler did and saw, in order."""
    history: list[Asked | Arrived] = []
    asked, open_entries = 0, set[int]()
    for choice in draw(st.lists(st.integers(0, 9), max_size=40)):
        if choice < 5 or (choice < 9 and not open_entries):
            asked += 1
            open_entries.add(asked)
            history.append(Asked(asked))
        elif choice == 9:
            history.append(Arrived(0))
        else:
            entry = draw(st.sampled_from(sorted(open_entries)))
            open_entries.remove(entry)
            history.append(Arrived(entry))
    return history


def journal_of(history: list[Asked | Arrived]) -> list[Row]:
    """The rows such an attempt leaves: an outcome that comes next after its command is in the command's row."""
    rows: list[Row] = []
    seen = 0
    for at, event in enumerate(history):
        ordinal = 100 + at
        if isinstance(event, Asked):
            inline = history[at + 1 : at + 2] == [Arrived(event.entry)]
            rows.append(command(event.entry, seen=seen, ordinal=ordinal + 1 if inline else None))
        else:
            seen += 1
            if event.entry == 0:
                rows.append(cancel(ordinal))
            elif rows[-1].entry != event.entry or rows[-1].ordinal is None:
                rows.append(completion(event.entry, ordinal))
    return sorted(rows)


@given(histories())
def test_a_replay_repeats_what_was_recorded_event_by_event(history: list[Asked | Arrived]) -> None:
    replay = Replay(journal_of(history), LATER)
    asked = 0
    for event in history:
        if isinstance(event, Asked):
            assert replay.next_arrival(asked) is None, "an outcome may not overtake a command that had not seen it"
            asked += 1
            assert replay.match(asked, Kind.RUN, "step", None) is not None
        else:
            arrival = replay.next_arrival(asked)
            assert arrival is not None, "an outcome may not come later than it did"
            assert arrival[0] == event.entry
    assert not replay.outcomes_left
    replay.check_end(asked)


@given(histories())
def test_every_outcome_comes_once_all_is_asked_for(history: list[Asked | Arrived]) -> None:
    replay = Replay(journal_of(history), LATER)
    arrived = []
    while (arrival := replay.next_arrival(replay.last)) is not None:
        arrived.append(arrival[0])
    assert arrived == [event.entry for event in history if isinstance(event, Arrived)]


@given(histories(), st.integers(0, 45))
def test_a_journal_that_was_cut_short_by_a_crash_replays_its_beginning(
    history: list[Asked | Arrived], length: int
) -> None:
    beginning = history[:length]
    replay = Replay(journal_of(beginning), LATER)
    asked = sum(isinstance(event, Asked) for event in beginning)
    assert replay.last == asked
    assert replay.match(asked + 1, Kind.CALL, "anything", b"x") is None
    for event in beginning:
        if isinstance(event, Arrived):
            arrival = replay.next_arrival(asked)
            assert arrival is not None
            assert arrival[0] == event.entry
    assert not replay.outcomes_left


# ---- mismatches ----


@pytest.mark.parametrize(
    ("kind", "name", "fingerprint"),
    [
        pytest.param(Kind.SEND, "Shop/pay", b"12345678", id="another kind"),
        pytest.param(Kind.CALL, "Shop/refund", b"12345678", id="another name"),
        pytest.param(Kind.CALL, "Shop/k/pay", b"12345678", id="with a key"),
        pytest.param(Kind.CALL, "", b"12345678", id="no name"),
        pytest.param(Kind.CALL, "Shop/pay", b"87654321", id="another argument"),
    ],
)
def test_what_differs_from_the_journal_is_refused(kind: Kind, name: str, fingerprint: bytes) -> None:
    replay = Replay([command(1, Kind.CALL, "Shop/pay", value=b"12345678")], LATER)
    with pytest.raises(JournalMismatchError, match="entry 1: the journal has `call Shop/pay`, the code asked for"):
        replay.match(1, kind, name, fingerprint)


def test_the_error_names_both_entries_and_the_way_out() -> None:
    replay = Replay([command(1, Kind.RUN, "charge")], LATER)
    with pytest.raises(JournalMismatchError) as caught:
        replay.match(1, Kind.SLEEP, "", None)
    message = str(caught.value)
    assert "the journal has `run charge`, the code asked for `sleep`" in message
    assert "Nothing was executed after this point" in message
    assert "resume" in message


def test_the_error_tells_that_only_the_argument_differs() -> None:
    replay = Replay([command(1, Kind.SET, "total", value=b"1")], LATER)
    with pytest.raises(JournalMismatchError, match="asked for `set total with another argument`"):
        replay.match(1, Kind.SET, "total", b"2")


def test_a_fingerprint_is_compared_only_where_there_is_one() -> None:
    replay = Replay([command(1, Kind.RUN, "charge", ordinal=20, value=b"result")], LATER)
    assert replay.match(1, Kind.RUN, "charge", None) is not None


def test_a_nameless_entry_matches_an_empty_name() -> None:
    row = command(1, Kind.NOW)._replace(name=None)
    assert Replay([row], LATER).match(1, Kind.NOW, "", None) == row


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_handler_that_ends_early_is_told_what_it_left_out(asked: int) -> None:
    replay = Replay([command(1, name="a"), command(2, name="b"), command(3, name="c")], LATER)
    left_out = "abc"[asked]
    with pytest.raises(JournalMismatchError, match=f"entry {asked + 1}: the journal has `run {left_out}`"):
        replay.check_end(asked)


def test_a_handler_that_ends_where_its_journal_does_or_later_is_right() -> None:
    replay = Replay([command(1), command(2)], LATER)
    replay.check_end(2)
    replay.check_end(3)


def test_a_handler_that_waits_before_it_has_come_so_far_is_told_what_it_does_not_come_to() -> None:
    replay = Replay([command(1), command(2, Kind.CALL, "Shop/pay")], LATER)
    error = stuck(replay, 1)
    assert "entry 2: the journal has `call Shop/pay`" in str(error)
    assert "waits for something else" in str(error)


def test_a_handler_that_asked_for_all_and_misses_an_outcome_is_stuck_too() -> None:
    error = stuck(Replay([command(1)], LATER), 1)
    assert "entry 2: the journal has `an outcome`" in str(error)


def test_a_journal_with_a_hole_is_no_journal_of_this_code() -> None:
    """Nothing is new before the end of what is recorded: it would be executed in the middle of a replay."""
    replay = Replay([command(1, ordinal=20), command(3, ordinal=21)], LATER)
    assert replay.match(1, Kind.RUN, "step", None) is not None
    with pytest.raises(JournalMismatchError, match="entry 2: the journal has `no row, though it has later ones`"):
        replay.match(2, Kind.RUN, "step", None)
    assert replay.match(4, Kind.RUN, "step", None) is None, "behind the end everything is new"
