"""Random turns: commands that an engine could make, of attempts that run, with entries that come next."""

import random

import msgspec

from durable.core.commands import (
    AttachTo,
    AwaitPromise,
    AwaitSignal,
    Cancel,
    Command,
    CompleteEntry,
    CompletePromise,
    Cool,
    Crash,
    Expire,
    Kill,
    OpenEntry,
    Pause,
    Purge,
    Record,
    Recover,
    Recovered,
    Restart,
    Resume,
    SendSignal,
    SetState,
    SettlePromise,
    Submit,
    TimerFired,
    Unloaded,
)
from durable.core.effects import Need, Unload
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import Kind
from durable.core.limits import TINY, Limits
from durable.core.once import Once
from durable.core.retry import RetryPolicy
from durable.core.topics import promise_topic
from durable.core.turn import Turn
from durable.core.waiting import Group
from durable.core.world import World
from tests.core.support import (
    NO,
    ONE,
    Core,
    at_once,
    awakeable,
    call,
    ends,
    fail,
    finish,
    id_of,
    opened,
    runs,
    sleep,
    step,
    submission,
    suspend,
)

#: How many turns a test takes.
TURNS = 40
#: Numbers of submissions that are made twice, with an idempotency key.
CLAIMED = range(1, 4)
POLICIES = [RetryPolicy("1s", max_attempts=2), RetryPolicy(max_attempts=1, on_max_attempts="kill")]


class Driver:
    """Makes commands that an engine could make: of attempts that run, with entries that come next."""

    def __init__(self, seed: int, *, slots: int = 0) -> None:
        self.random = random.Random(seed)
        self.core = Core(slots or self.random.choice([1, 2, 1000]), self.random.choice([Limits(), TINY]))
        self.numbers = 10
        #: Attempts that were told to start nothing new.
        self.closing: set[tuple[int, int]] = set()
        #: How many of its cancels a handler has seen.
        self.saw: dict[int, int] = {}

    def fresh(self) -> int:
        self.numbers += 1
        return self.numbers

    def commands(self) -> list[Command]:
        """One turn's: of each invocation at most one, so that every entry number is the next one."""
        self.core.now += self.random.choice([0, 0, 1, 700])
        commands = [self.perhaps_once(self.outside()) for _ in range(self.random.randint(0, 2))]
        running = [one for one in self.core.world.invocations.values() if one.status is Status.RUNNING]
        self.random.shuffle(running)
        kept = list(self.core.world.warm)
        if kept and self.random.random() < 0.1:
            one = self.core.world.invocations[self.random.choice(kept)]
            commands.append(Cool(one.seq, one.attempt))
        commands += [self.of_attempt(one) for one in running[:3]]
        due = [timer for timer in sorted(self.core.tables.timers) if timer[0] <= self.core.now]
        commands += [TimerFired(*timer) for timer in due]
        self.random.shuffle(commands)
        if self.random.random() < 0.3:
            expired = at_once(self.core.store.expired(self.core.now, 3))
            commands += [Expire(one.seq, one.workflow, one.journal_only) for one in expired]
        return commands

    def settle(self, commands: list[Command]) -> Turn:
        """One turn, of which attempts hear what they have to know to go on."""
        turn = self.core.settle(*commands)
        self.closing |= {(action.seq, action.attempt) for action in turn.actions if isinstance(action, Unload)}
        return turn

    def crash(self) -> list[Command]:
        """Another process takes over: what it asks for first, and somebody may come before that."""
        self.core = cold(self.core)
        self.closing.clear()
        world = self.core.world
        world.running.clear()
        for seq in list(world.warm):
            world.forget(seq)
        world.suspects, world.on_trial = {}, 0
        for one in world.invocations.values():
            one.started = one.cancelled = False
        crash = self.random.choice([None, Crash(), Crash(self.random.choice(POLICIES))])
        commands: list[Command] = [Recover(one.seq, crash=crash) for one in world.invocations.values()]
        commands += [self.perhaps_once(self.outside()) for _ in range(self.random.randint(0, 2))]
        self.random.shuffle(commands)
        world.recovering = True
        return [*commands, Recovered()]

    def draw(self, **weights: int) -> str:
        """One of the names, as often as its weight says."""
        return self.random.choices(list(weights), list(weights.values()))[0]

    def anybody(self, *, ended: bool = False) -> str:
        """An invocation; rather one that has ended, or one that has not."""
        ids = sorted(self.core.tables.ids)
        rather = [id for id in ids if (self.core.invocation(id).status is Status.COMPLETED) is ended]
        return self.random.choice(rather if rather and self.random.random() < 0.7 else ids or [id_of(999)])

    def outside(self) -> Command:
        pick = self.random.choice
        match self.draw(
            submit=4, claimed=1, workflow=1, scheduled=1, awakeable=2, signal=1, promise=1,
            cancel=4, kill=1, pause=3, resume=3, restart=3, purge=1,
        ):  # fmt: skip
            case "submit":
                key, journal_ms = pick(["k", "l", None, None]), pick([0, 900, 2000])
                asked = submission(self.fresh(), key=key, retention_ms=pick([0, 2000]), journal_ms=journal_ms)
                return Submit(asked, token=1)
            case "claimed":
                number = pick(CLAIMED)
                return Submit(submission(number, idempotency_key=f"i{number}", retention_ms=1500), token=1)
            case "workflow":
                flavor = pick([Flavor.SHARED, Flavor.WORKFLOW])
                number = self.fresh() if flavor is Flavor.SHARED else 4
                return Submit(submission(number, key="k", flavor=flavor, retention_ms=900), token=1)
            case "scheduled":
                due_at = self.core.now + pick([1, 800])
                return Submit(submission(self.fresh(), key=pick("kl"), due_at=due_at), token=1)
            case "awakeable":
                return CompleteEntry(self.anybody(), self.random.randint(1, 6), pick([ONE, NO]), token=1)
            case "signal":
                return SendSignal(self.anybody(), pick("st"), ONE, token=1)
            case "promise":
                return SettlePromise("W", pick("kl"), pick("pq"), ONE, token=1)
            case "cancel":
                return Cancel(self.anybody(), token=1)
            case "kill":
                return Kill(self.anybody(), token=1)
            case "pause":
                return Pause(self.anybody(), token=1)
            case "resume":
                return Resume(self.anybody(), token=1)
            case "restart":
                return Restart(self.anybody(ended=True), id_of(self.fresh()), self.random.randint(0, 5), token=1)
            case _:
                return Purge(self.anybody(ended=True), pick([True, False]), token=1)

    def perhaps_once(self, command: Command) -> Command:
        """The same with an idempotency key, one of few: it may have been asked before."""
        if isinstance(command, Submit) or self.random.random() < 0.5:
            return command
        key = Once(self.random.choice("xy"), self.random.choice([b"", b"1"]))
        return msgspec.structs.replace(command, once=key)

    def of_attempt(self, who: Invocation) -> Command:
        """What its handler asks for next. Of the cancels that came it may not have seen the last ones yet."""
        cancels = self.saw[who.seq] = self.random.randint(self.saw.get(who.seq, 0), who.cancels)
        command = self.asks(who, cancels)
        if not isinstance(command, OpenEntry | Record):
            return command
        rows = self.core.tables.journal.get(who.seq, {}).values()
        told = [row.entry for row in sorted(rows, key=lambda row: row.ordinal or 0) if row.ordinal is not None]
        unseen = [place for place, entry in enumerate(told) if not entry][cancels:]
        return msgspec.structs.replace(command, seen=unseen[0] if unseen else len(told))

    def asks(self, who: Invocation, cancels: int) -> Command:
        pick = self.random.choice
        steps = [entry for entry, waits in who.open.items() if waits.kind is Kind.RUN]
        others = [entry for entry, waits in who.open.items() if waits.kind is not Kind.RUN]
        if (who.seq, who.attempt) in self.closing:
            verb = self.draw(unloaded=1) if not steps else self.draw(unloaded=1, end=4, fail=1)
        else:
            verb = self.draw(
                step=1, run=4, end=4 * bool(steps), sleep=1, call=5, join=1, workflow=1, awakeable=2, signal=1,
                promise=1, settle=1, attach=1, set=who.submission.key is not None, fail=2,
                suspend=3 * bool(others and not steps), finish=4,
            )  # fmt: skip
        match verb:
            case "unloaded":
                return Unloaded(who.seq, who.attempt)
            case "step":
                return step(who)
            case "run":
                return runs(who, interruptible=pick([True, False, False]))
            case "end":
                return ends(who, pick(steps), pick([ONE, NO]))
            case "sleep":
                return sleep(who, self.core.now + pick([0, 1, 700]))
            case "call":
                kept_ms = pick([0, 1500])
                return call(who, self.fresh(), key=pick([None, "k", "l"]), retention_ms=kept_ms, cancels=cancels)
            case "join":
                number = pick(CLAIMED)
                return call(who, number, idempotency_key=f"i{number}", retention_ms=1500, cancels=cancels)
            case "workflow":
                return call(who, 4, key="k", flavor=Flavor.WORKFLOW, retention_ms=900)
            case "awakeable":
                return awakeable(who)
            case "signal":
                return opened(who, Kind.SIGNAL, AwaitSignal(), pick("st"))
            case "promise":
                key, name = pick("kl"), pick("pq")
                return opened(who, Kind.PROMISE, AwaitPromise("W", key), name, promise_topic("W", key, name))
            case "settle":
                return opened(who, Kind.COMPLETE_PROMISE, CompletePromise("W", pick("kl"), ONE), pick("pq"))
            case "attach":
                other = self.anybody()
                return opened(who, Kind.ATTACH, AttachTo(other), "", other)
            case "set":
                written = pick([("a", b"1"), ("b", b"1"), ("a", None), (None, None)])
                return opened(who, Kind.SET, SetState("O", who.submission.key or "", *written), written[0] or "")
            case "fail" if steps:
                own = pick([*POLICIES, None])
                policy, entry = pick(POLICIES), pick(steps)
                return fail(who, policy, entry=entry, step_policy=own, step_open=True, failure=NO, cancels=cancels)
            case "fail":
                return fail(who, pick(POLICIES), failure=NO, cancels=cancels)
            case "suspend":
                chosen = tuple(self.random.sample(others, self.random.randint(1, len(others))))
                waiting = Group(pick(["any", "all"]), chosen, pick([True, False]))
                return suspend(who, waiting, who.notified - pick([0, 0, 0, 1]), weight=pick([0, 1, 1, 3]))
            case _:
                return finish(who, pick([ONE, NO]))


def cold(core: Core) -> Core:
    """The same core in a process that has just read everything from its tables."""
    other = Core(core.world.slots, core.world.limits)
    other.now = core.now
    other.tables = other.store.tables = core.tables.copy()
    old = core.world
    other.world = World(old.next_ordinal, old.next_seq, slots=old.slots, limits=old.limits, ready=core.somebody_waits)
    other.world.ordinals_reserved = old.ordinals_reserved
    other.world.running = set(old.running)
    other.world.warm, other.world.warmth = dict(old.warm), old.warmth
    other.world.suspects, other.world.on_trial = dict(old.suspects), old.on_trial
    running = [one for one in core.world.invocations.values() if one.status is Status.RUNNING]
    keys = {(one.submission.service, one.submission.key) for one in running if one.submission.key is not None}
    need = Need(seqs={one.seq for one in running} | old.warm.keys(), keys=keys)
    other.world.admit(need, at_once(other.store.load(need)))
    for one in running:  # what is not stored: a new process is a new attempt
        again = other.world.invocations[one.seq]
        again.notified, again.cancelled, again.started = one.notified, one.cancelled, one.started
    return other
