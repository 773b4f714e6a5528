"""Random turns: nobody ever waits for what is there already, and what is in memory changes no decision."""

import copy
from typing import Any

import pytest

from durable.core.effects import Action, Completed, Failed, MayDeadlock, Paused, StartAttempt
from durable.core.invocation import Invocation, Status
from durable.core.journal import COMMAND, COMPLETION, Kind, Outcome
from durable.core.turn import Turn
from durable.testing.checkers import check_tables
from tests.core.driver import TURNS, Driver, cold
from tests.core.support import Core


def check_nobody_waits_in_vain(core: Core) -> None:
    """Whatever an open entry waits for is still to come, and who it comes from knows."""
    invocations = {id: core.invocation(id) for id in core.tables.ids}
    for one in invocations.values():
        if one.status is Status.COMPLETED:
            assert one.journal_kept or one.seq not in core.tables.journal
            continue
        for entry, waits in one.open.items():
            listens = (one.seq, entry) in core.tables.listeners.get(str(waits.ref), set())
            match waits.kind:
                case Kind.SLEEP:
                    assert (waits.ref, one.seq, entry) in core.tables.timers
                case Kind.CALL if entry not in one.kept:
                    callee = invocations[str(waits.ref)]
                    caller = callee.submission.caller
                    assert callee.status is not Status.COMPLETED
                    assert caller is not None
                    assert (caller.seq, caller.entry) == (one.seq, entry)
                case Kind.ATTACH:
                    other = invocations[str(waits.ref).removeprefix("output/")]
                    assert listens
                    assert other.listened
                    assert other.status is not Status.COMPLETED
                case Kind.PROMISE:
                    _, service, _, key, name = str(waits.ref).split("/")
                    assert listens
                    assert name not in core.object(service, key).promises
                case Kind.SIGNAL:
                    kept = core.tables.signals.get(one.seq, {}).values()
                    assert waits.ref not in {signal.name for signal in kept}
        assert not one.cancelling or leaves(one), "a cancel waits for calls and steps that have all ended"
        assert not one.kept or one.cancelling, "an outcome is held back for a cancel that has been told"
        assert one.kept.keys() <= one.open.keys()
        assert not one.pausing or one.status in (Status.RUNNING, Status.PAUSED)
        assert one.cancels == sum(not entry for entry, _ in core.tables.journal.get(one.seq, {}))
        if one.status is Status.SUSPENDED:
            assert one.waiting is not None
            assert set(one.waiting.entries()) <= one.open.keys(), "it sleeps through what it waits for"
        if one.status in (Status.SUSPENDED, Status.PAUSED):
            assert (one.due_at, [timer for timer in core.tables.timers if timer[1:] == (one.seq, 0)]) == (None, [])


def leaves(one: Invocation) -> list[int]:
    """What an accepted cancel waits for: calls that have not ended, steps that ran when it came and still do."""
    return [
        entry
        for entry, waits in one.open.items()
        if (waits.kind is Kind.CALL and entry not in one.kept)
        or (waits.kind is Kind.RUN and waits.ref is None and entry < one.cancelling and one.status is Status.RUNNING)
    ]


class Cancels:
    """What was open before a turn: where that turn tells a cancel, none of it is left, and failures come after."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.before: dict[int, Invocation] = {}
        for id in core.tables.ids:
            one = copy.deepcopy(core.invocation(id))
            if one.status is not Status.COMPLETED:
                self.before[one.seq] = one

    def check(self, turn: Turn) -> None:
        """Call it right after the turn."""
        told = {row.invocation for row in turn.writes.journal if row.kind == Kind.CANCEL}
        for one in self.before.values():
            after = self.core.invocation(one.id) if self.core.exists(one.id) else None
            if after is None or after.seq != one.seq or after.attempt != one.attempt:
                continue
            cancelling, one.cancelling = one.cancelling, one.cancelling or one.last_entry + 1
            if one.seq in told:
                left = set(leaves(one)) & after.open.keys()
                assert not left, f"the cancel of {one.seq} was told before {left} had ended"
            elif cancelling and after.status is not Status.COMPLETED:
                self.check_kept(one, after, turn)

    def check_kept(self, one: Invocation, after: Invocation, turn: Turn) -> None:
        """While a cancel is under way nothing tells the handler that a call has failed."""
        calls = {entry for entry, waits in one.open.items() if waits.kind is Kind.CALL}
        for row in turn.writes.journal:
            if (row.invocation, row.part, row.ok) == (one.seq, COMPLETION, False) and row.entry in calls:
                assert row.ordinal is None, f"the failure of {row.entry} of {one.seq} came before its cancel"
                assert row.entry in after.kept


def check_restarts(core: Core, turn: Turn) -> None:
    """A copied journal tells first what the old one had told its handler when that asked for the last entry."""
    for new in turn.writes.created.values():
        old = core.tables.ids.get(new.submission.restarted_from or "", 0)
        if new.last_entry and old in core.tables.journal and new.seq in core.tables.journal:
            seen = core.tables.journal[new.seq][new.last_entry, COMMAND].seen
            before, copied = told(core, old)[:seen], told(core, new.seq)
            assert copied[:seen] == before
            assert 0 not in dict(copied[seen:]), "a cancel that the handler had not seen then"
            assert core.invocation(new.id).open == {}


def told(core: Core, seq: int) -> list[tuple[int, bytes | None]]:
    """The outcomes in a journal, as they reach the handler."""
    rows = [row for row in core.tables.journal[seq].values() if row.ordinal is not None]
    return [(row.entry, row.value) for row in sorted(rows, key=lambda row: row.ordinal or 0)]


def content(core: Core) -> dict[str, Any]:
    """The tables without what is empty."""
    tables = core.tables
    kept = {name: getattr(tables, name) for name in tables.__struct_fields__ if name != "clean"}
    for name in ("journal", "state", "promises", "listeners", "signals"):
        kept[name] = {key: rows for key, rows in kept[name].items() if rows}
    return kept


def decided(turn: Turn) -> list[Action | tuple[int, Outcome | None]]:
    """A turn's actions, without what depends on memory and changes nothing.

    That is a look for circles (whoever is not in memory is looked at by somebody else), completions that came
    too early for entries that were no awakeables, and what the journal still knows of one that has ended
    or is paused.
    """
    for action in turn.actions:
        if isinstance(action, StartAttempt | Failed):
            one = action.invocation
            one.early = {entry: outcome for entry, outcome in one.early.items() if entry > one.last_entry}
    return [
        (action.invocation.seq, action.invocation.outcome) if isinstance(action, Completed | Paused) else action
        for action in turn.actions
        if not isinstance(action, MayDeadlock)
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.timeout(5)
def test_random_turns_leave_nobody_waiting_in_vain(seed: int) -> None:
    driver = Driver(seed)
    for number in range(TURNS):
        commands = driver.crash() if number % 13 == 12 else driver.commands()
        before = Cancels(driver.core)
        turn = driver.settle(commands)
        before.check(turn)
        check_restarts(driver.core, turn)
        check_tables(driver.core.tables)
        check_nobody_waits_in_vain(driver.core)


@pytest.mark.parametrize("seed", range(100, 108))
def test_a_core_that_has_just_read_its_tables_decides_as_one_that_remembers(seed: int) -> None:
    driver = Driver(seed)
    for _ in range(TURNS):
        commands = driver.commands()
        other = cold(driver.core)
        warm_turn = driver.settle(commands)
        cold_turn = other.settle(*copy.deepcopy(commands))
        assert decided(cold_turn) == decided(warm_turn)
        assert content(other) == content(driver.core)


@pytest.mark.parametrize("seed", range(200, 204))
def test_the_same_commands_give_the_same_turns(seed: int) -> None:
    one, other = Driver(seed), Driver(seed)
    for _ in range(TURNS):
        turn, again = one.settle(one.commands()), other.settle(other.commands())
        assert turn.actions == again.actions
        assert turn.writes == again.writes
        assert content(one.core) == content(other.core)


@pytest.mark.parametrize("seed", range(300, 308))
def test_commands_do_the_same_in_one_turn_as_in_turns_of_their_own(seed: int) -> None:
    driver = Driver(seed, slots=1000)  # who waits for a slot until the end of a turn takes a place in between
    for _ in range(TURNS):
        commands = driver.commands()
        other = cold(driver.core)
        for command in copy.deepcopy(commands):
            other.settle(command)
        driver.settle(commands)
        assert content(other) == content(driver.core)
