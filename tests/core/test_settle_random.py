"""Random turns: nobody ever waits for what is there already, and what is in memory changes no decision."""

import copy
import random
from typing import Any

import pytest

from durable.core.commands import (
    AttachTo,
    AwaitPromise,
    AwaitSignal,
    Cancel,
    Command,
    CompleteEntry,
    CompletePromise,
    Expire,
    Finished,
    Kill,
    Record,
    Recover,
    Resume,
    SendSignal,
    SetState,
    SettlePromise,
    Submit,
    TimerFired,
)
from durable.core.effects import Action, Failed, Need, StartAttempt
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import Kind
from durable.core.retry import RetryPolicy
from durable.core.turn import Turn, output_topic, promise_topic
from durable.core.waiting import Group, entries
from durable.core.world import World
from durable.testing.checkers import check_tables
from tests.core.support import (
    NO,
    ONE,
    Core,
    at_once,
    awakeable,
    call,
    fail,
    finish,
    id_of,
    opened,
    sleep,
    step,
    submission,
    suspend,
)

#: Numbers of submissions that are made twice, with an idempotency key.
CLAIMED = range(1, 4)
POLICIES = [RetryPolicy("1s", max_attempts=2), RetryPolicy(max_attempts=1, on_max_attempts="kill")]


class Driver:
    """Makes commands that an engine could make: of attempts that run, with entries that come next."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.core = Core()
        self.numbers = 10

    def fresh(self) -> int:
        self.numbers += 1
        return self.numbers

    def commands(self) -> list[Command]:
        """One turn's: of each invocation at most one, so that every entry number is the next one."""
        self.core.now += self.random.choice([0, 0, 1, 700])
        commands = [self.outside() for _ in range(self.random.randint(0, 2))]
        running = [one for one in self.core.world.invocations.values() if one.status is Status.RUNNING]
        self.random.shuffle(running)
        commands += [self.of_attempt(one) for one in running[:3]]
        due = [timer for timer in sorted(self.core.tables.timers) if timer[0] <= self.core.now]
        commands += [TimerFired(*timer) for timer in due]
        self.random.shuffle(commands)
        return commands

    def anybody(self) -> str:
        ids = sorted(self.core.tables.ids)
        return self.random.choice(ids) if ids else id_of(999)

    def outside(self) -> Command:
        pick = self.random.choice
        match self.random.randrange(12):
            case 0 | 1 | 2:
                return Submit(submission(self.fresh(), key=pick("kl"), retention_ms=pick([0, 2000])), token=1)
            case 3:
                return Submit(submission(pick(CLAIMED), idempotency_key="i", retention_ms=1500), token=1)
            case 4:
                flavor = pick([Flavor.SHARED, Flavor.WORKFLOW])
                number = self.fresh() if flavor is Flavor.SHARED else 4
                return Submit(submission(number, key="k", flavor=flavor, retention_ms=900), token=1)
            case 5:
                return Submit(
                    submission(self.fresh(), key=pick("kl"), due_at=self.core.now + pick([1, 800])), token=1
                )
            case 6:
                return CompleteEntry(self.anybody(), self.random.randint(1, 6), pick([ONE, NO]), token=1)
            case 7:
                return SendSignal(self.anybody(), pick("st"), ONE, token=1)
            case 8:
                return SettlePromise("W", pick("kl"), pick("pq"), ONE, token=1)
            case 9:
                return Cancel(self.anybody(), token=1) if pick([True, False]) else Kill(self.anybody(), token=1)
            case 10:
                return Resume(self.anybody(), token=1)
            case _:
                return Expire(self.random.randint(1, 20))

    def of_attempt(self, who: Invocation) -> Command:
        pick = self.random.choice
        running_steps = [entry for entry, waits in who.open.items() if waits.kind is Kind.RUN]
        open_entries = [entry for entry, waits in who.open.items() if waits.kind is not Kind.RUN]
        match self.random.randrange(18):
            case 0:
                return step(who)
            case 1:
                return Record(who.seq, who.attempt, who.last_entry + 1, Kind.RUN, "slow", 0)
            case 2 | 3 if running_steps:
                return Finished(who.seq, who.attempt, pick(running_steps), "slow", pick([ONE, NO]))
            case 4:
                return sleep(who, self.core.now + pick([0, 1, 700]))
            case 5 | 6:
                return call(who, self.fresh(), key=pick([None, "k", "l"]), retention_ms=pick([0, 1500]))
            case 7:
                return call(who, pick(CLAIMED), idempotency_key="i", retention_ms=1500)
            case 8:
                return call(who, 4, key="k", flavor=Flavor.WORKFLOW, retention_ms=900)
            case 9:
                return awakeable(who)
            case 10:
                return opened(who, Kind.SIGNAL, AwaitSignal(), pick("st"))
            case 11:
                key, name = pick("kl"), pick("pq")
                return opened(who, Kind.PROMISE, AwaitPromise("W", key), name, promise_topic("W", key, name))
            case 12:
                return opened(who, Kind.COMPLETE_PROMISE, CompletePromise("W", pick("kl"), ONE), pick("pq"))
            case 13:
                other = self.anybody()
                return opened(who, Kind.ATTACH, AttachTo(other), "", other)
            case 14 if who.submission.key is not None:
                written = pick([("a", b"1"), ("b", b"1"), ("a", None), (None, None)])
                return opened(who, Kind.SET, SetState("O", who.submission.key, *written), written[0] or "")
            case 15:
                return fail(who, pick(POLICIES), failure=NO)
            case 16 if open_entries and not running_steps:
                chosen = tuple(self.random.sample(open_entries, self.random.randint(1, len(open_entries))))
                return suspend(who, Group(pick(["any", "all"]), chosen, pick([True, False])))
            case _:
                return finish(who, pick([ONE, NO]))


def check_nobody_waits_in_vain(core: Core) -> None:
    """Whatever an open entry waits for is still to come, and who it comes from knows."""
    invocations = {id: core.invocation(id) for id in core.tables.ids}
    for one in invocations.values():
        if one.status is Status.COMPLETED:
            continue
        calls = 0
        for entry, waits in one.open.items():
            listens = (one.seq, entry) in core.tables.listeners.get(str(waits.ref), set())
            match waits.kind:
                case Kind.SLEEP:
                    assert (waits.ref, one.seq, entry) in core.tables.timers
                case Kind.CALL:
                    calls += 1
                    callee = invocations[str(waits.ref)]
                    caller = callee.submission.caller
                    joined = (one.seq, entry) in core.tables.listeners.get(output_topic(callee.id), set())
                    assert callee.status is not Status.COMPLETED
                    assert (caller is not None and (caller.seq, caller.entry) == (one.seq, entry)) or joined
                    assert not joined or callee.listened
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
        assert not one.cancelling or calls, "a cancel waits for calls that have all ended"
        if one.status is Status.SUSPENDED:
            assert one.waiting is not None
            assert set(entries(one.waiting)) <= one.open.keys(), "it sleeps through what it waits for"


def cold(core: Core) -> Core:
    """The same core in a process that has just read everything from its tables."""
    other = Core()
    other.now = core.now
    other.tables = other.store.tables = core.tables.copy()
    other.world = World(core.world.next_ordinal, core.world.next_seq)
    other.world.ordinals_reserved = core.world.ordinals_reserved
    running = [one for one in core.world.invocations.values() if one.status is Status.RUNNING]
    keys = {(one.submission.service, one.submission.key) for one in running if one.submission.key is not None}
    need = Need(seqs={one.seq for one in running}, keys=keys)
    other.world.admit(need, at_once(other.store.load(need)))
    for one in running:
        other.world.invocations[one.seq].notified = one.notified  # not stored: a new process is a new attempt
    return other


def content(core: Core) -> dict[str, Any]:
    """The tables without what is empty."""
    tables = core.tables
    kept = {name: getattr(tables, name) for name in tables.__struct_fields__}
    for name in ("journal", "state", "promises", "listeners", "signals"):
        kept[name] = {key: rows for key, rows in kept[name].items() if rows}
    return kept


def decided(turn: Turn) -> list[Action]:
    """A turn's actions, without completions that came too early for entries that were no awakeables."""
    for action in turn.actions:
        if isinstance(action, StartAttempt | Failed):
            one = action.invocation
            one.early = {entry: outcome for entry, outcome in one.early.items() if entry > one.last_entry}
    return turn.actions


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.timeout(5)
def test_random_turns_leave_nobody_waiting_in_vain(seed: int) -> None:
    driver = Driver(seed)
    core = driver.core
    for turn in range(40):
        commands = driver.commands()
        if turn % 13 == 12:
            core = driver.core = cold(core)
            commands += [Recover(one.seq) for one in core.world.invocations.values()]
        core.settle(*commands)
        check_tables(core.tables)
        check_nobody_waits_in_vain(core)


@pytest.mark.parametrize("seed", range(100, 108))
def test_a_core_that_has_just_read_its_tables_decides_as_one_that_remembers(seed: int) -> None:
    driver = Driver(seed)
    for _ in range(40):
        commands = driver.commands()
        other = cold(driver.core)
        warm_turn = driver.core.settle(*commands)
        cold_turn = other.settle(*copy.deepcopy(commands))
        assert decided(cold_turn) == decided(warm_turn)
        assert content(other) == content(driver.core)


@pytest.mark.parametrize("seed", range(200, 204))
def test_the_same_commands_give_the_same_turns(seed: int) -> None:
    one, other = Driver(seed), Driver(seed)
    for _ in range(40):
        turn, again = one.core.settle(*one.commands()), other.core.settle(*other.commands())
        assert turn.actions == again.actions
        assert turn.writes == again.writes
        assert content(one.core) == content(other.core)


@pytest.mark.parametrize("seed", range(300, 308))
def test_commands_do_the_same_in_one_turn_as_in_turns_of_their_own(seed: int) -> None:
    driver = Driver(seed)
    for _ in range(40):
        commands = driver.commands()
        other = cold(driver.core)
        for command in copy.deepcopy(commands):
            other.settle(command)
        driver.core.settle(*commands)
        assert content(other) == content(driver.core)
