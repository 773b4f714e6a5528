"""Random interleavings of cancel, kill, pause, resume, restart and purge with the progress of a tree of handlers.

A seed draws programs, the controls with the moments at which they come, and what else disturbs the engine. In the end
everything that is paused is resumed until nothing is left; then I1 to I9 must hold, and what a control promises.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import pytest

import durable
from durable import (
    ConflictError,
    Context,
    DurableFuture,
    DurableTimeoutError,
    Engine,
    GoneError,
    InvocationKilled,
    NotFoundError,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedWorkflowContext,
    TerminalError,
    TooEarlyError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.effects import Writes
from durable.core.invocation import Flavor, Invocation, Status
from durable.core.journal import CANCELLED, COMMAND, COMPLETION, DETACHED, GIVEN_UP, KILLED, Kind, Outcome, Row
from durable.runtime.registry import Registry
from durable.service import Settings
from durable.store.memory import MemoryStore, Tables
from durable.store.rows import invocation_of
from durable.testing import Fault, Mode, Sim, run, simulation
from durable.testing.checkers import check_commit, check_tables
from durable.views.invocations import InvocationView
from tests.simulation.test_random_programs import Verifier, replay

#: Layers of objects: a call goes to the layer below, so that nothing can wait for itself.
LAYERS = 3
KEYS = ["a", "b"]
FOREVER = RetryPolicy("10ms", 2.0, "500ms", max_attempts=None)
#: After the last control everything must be over within so many virtual seconds.
PATIENCE_S = 60.0

Instruction = list[Any]


def often(**weights: int) -> list[str]:
    return list(Counter(weights).elements())


INSTRUCTIONS = often(wait=5, inc=3, gather=2, select=1, timeout=1, left=1, send=2, flows=2, saga=2, attempt=1)
FUTURES = often(
    quick=2, slow=2, flaky=2, limited=1, fails=1, interruptible=1, sleep=3, awakeable=1, promise=1, call=5, attach=1
)
STEPS = {"quick", "slow", "flaky", "limited", "fails", "interruptible"}
TARGETS = often(Plain=2, Strict=1, Patient=1, Flow=1, Object=5)
ACTIONS = often(cancel=5, ask=1, kill=3, pause=6, resume=4, restart=2, purge=1, purge_journal=1)


class Root(NamedTuple):
    """One invocation to begin with."""

    target: str
    key: str | None
    program: list[Instruction]


class Control(NamedTuple):
    """Something an operator does: after so many more notes in the book, and so many rounds of the event loop."""

    notes: int
    rounds: int
    action: str
    #: Which member of the tree, counted round.
    pick: int


class Case(NamedTuple):
    """All that one seed draws; what is printed here can be run again."""

    roots: list[Root]
    controls: list[Control]
    mode: Mode = Mode("undisturbed")


# ---- drawing a case ----


class Maker:
    """Draws programs; every instruction that needs a name of its own gets a number."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.numbers = 0
        self.room = 14

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def program(self, target: str, layer: int, size: int) -> list[Instruction]:
        return [self.instruction(target, layer, size) for _ in range(self.draw.randint(1, size))]

    def instruction(self, target: str, layer: int, size: int) -> Instruction:
        pick = self.draw.choice
        kind = pick(INSTRUCTIONS)
        smaller = max(1, size - 1)
        match kind:
            case "inc" if target.startswith("Object"):
                return [kind]
            case "gather" | "select":
                return [kind, [self.future(target, layer, size) for _ in range(pick([2, 3]))]]
            case "timeout":
                return [kind, self.future(target, layer, size), pick([0, 5, 40])]
            case "left" | "send" if layer < LAYERS and self.room:
                return [kind, *self.below(layer, size), pick([None, 0, 15, 300])]
            case "flows" if size > 1:
                return [kind, pick(["gather", "group"]), [self.program(target, layer, smaller) for _ in range(2)]]
            case "saga":
                body = self.program(target, layer, size)
                return [kind, self.number(), pick(["quick", "slow", "flaky", "fails"]), body]
            case "attempt":
                swallow = pick([True, False])
                return [kind, self.program(target, layer, smaller), self.program(target, layer, 1), swallow]
        return ["wait", self.future(target, layer, size)]

    def future(self, target: str, layer: int, size: int) -> Instruction:
        pick = self.draw.choice
        kind = pick(FUTURES)
        if kind in ("call", "attach") and layer < LAYERS and self.room:
            return [kind, *self.below(layer, size)]
        if kind == "sleep":
            return [kind, self.number(), pick([0, 1, 10, 100])]
        if kind == "awakeable" or (kind == "promise" and target == "Flow"):
            return [kind, self.number(), pick([None, 0, 15])]
        return [kind if kind in STEPS else "slow", self.number()]

    def below(self, layer: int, size: int) -> Instruction:
        self.room -= 1
        target = self.draw.choice(TARGETS)
        key = {"Object": self.draw.choice(KEYS), "Flow": f"flow-{self.number()}"}.get(target)
        name = f"{target}{layer}" if target == "Object" else target
        return [f"{name}/run", key, self.program(target, layer + 1, max(1, size - 1))]


def case_of(seed: int) -> Case:
    draw = random.Random(seed)
    maker = Maker(draw)
    roots = [Root(*maker.below(0, 5)) for _ in range(draw.choice([1, 2, 2]))]
    controls = [
        Control(draw.choice([0, 0, 1, 2, 4, 7]), draw.randint(0, 10), draw.choice(ACTIONS), draw.randrange(100))
        for _ in range(draw.randint(2, 12))
    ]
    hows: list[Literal["before", "after", "restart"]] = ["before", "after", "restart"]
    mode = Mode(
        f"random {seed}",
        always_suspend=draw.random() < 0.3,
        minimal=draw.random() < 0.2,
        faults=tuple(Fault(draw.randint(2, 60), draw.choice(hows)) for _ in range(draw.choice([0, 0, 1, 3]))),
        every=draw.choice([0, 0, 0, 0, 5, 9]),
        how=draw.choice(hows),
    )
    return Case(roots, controls, mode)


# ---- what happened, as the outside saw it ----


class Note(NamedTuple):
    """Something a handler or a step did; crashes lose none of them."""

    what: Literal["enter", "leave", "begin", "ended", "failed", "saw", "armed", "rang", "guarded", "unwinds"]
    id: str
    number: int
    at: float
    #: How many crashes there had been when the engine was started in which it happened.
    crashes: int


class Book:
    """The notes of one case, and what was asked of the engine."""

    def __init__(self) -> None:
        self.sim: Sim
        self.notes: list[Note] = []
        self.news = asyncio.Event()
        #: Who was to be cancelled or killed, by an operator.
        self.asked: dict[str, set[str]] = {"cancel": set(), "kill": set()}
        #: Whoever was killed when a kill was acknowledged: the number of notes then, and the time.
        self.dead: dict[str, tuple[int, float]] = {}
        #: What is purged, or may be.
        self.archive: dict[str, tuple[Invocation, list[Row]]] = {}
        #: What the store should not have been told to write.
        self.violations: list[AssertionError] = []
        #: The places of exclusive invocations in their keys' queues.
        self.queued: dict[str, int] = {}
        #: Increments that were committed, by object.
        self.increments: Counter[tuple[str, str]] = Counter()
        #: How often each thing really happened.
        self.real: Counter[str] = Counter()

    def note(self, note: Note) -> None:
        self.notes.append(note)
        self.news.set()

    def bury(self, id: str) -> None:
        """A kill is acknowledged: from now on whoever was killed with it is dead."""
        now, tree = asyncio.get_running_loop().time(), {id}
        for _, row in sorted(self.sim.tables.invocations.items()):  # callers come before their calls
            invocation = invocation_of(row)
            caller = invocation.submission.caller
            if invocation.id in tree or (caller is not None and caller.waits and caller.id in tree):
                tree.add(invocation.id)
                if is_killed(invocation):
                    self.dead.setdefault(invocation.id, (len(self.notes), now))

    def times(self, what: str, id: str, number: int) -> int:
        return sum(note[:3] == (what, id, number) for note in self.notes)


class Watched(MemoryStore):
    """A store that checks every commit, and all it holds whenever an engine begins."""

    def __init__(self, tables: Tables, book: Book) -> None:
        super().__init__(tables)
        self.book = book

    async def open(self) -> Any:
        self.check(check_tables)
        return await super().open()

    def check(self, checker: Callable[..., None], *more: Any) -> None:
        """A failure is kept for the end: raised here it would be one more crash."""
        try:
            checker(self.tables, *more)
        except AssertionError as error:
            self.book.violations.append(error)

    async def commit(self, writes: Writes) -> None:
        self.check(check_commit, writes)
        self.check(check_kill, writes)
        for one in [*writes.created.values(), *writes.changed.values()]:
            if one.queued is not None:
                self.book.queued[one.id] = one.queued
        for row in writes.journal:
            if row.kind == Kind.SET and row.invocation not in writes.created:
                submission = invocation_of(self.tables.invocations[row.invocation]).submission
                self.book.increments[submission.service, submission.key or ""] += 1
        await super().commit(writes)


def check_kill(tables: Tables, writes: Writes) -> None:
    """A transaction that kills leaves no call of the killed ones."""
    killed = {seq for seq, one in writes.changed.items() if one.outcome == KILLED}
    for seq, row in tables.invocations.items() if killed else ():
        invocation = writes.changed.get(seq) or invocation_of(row)
        caller = invocation.submission.caller
        if caller is not None and caller.waits and caller.seq in killed:
            assert invocation.status is Status.COMPLETED, f"{caller.id} is killed, its call {invocation.id} runs"


# ---- running programs ----

#: In a flow of `asyncio.gather`: it is left behind where another one fails, and nobody waits until it has unwound.
IN_GATHER = ContextVar("in_gather", default=False)


class Run:
    """One handler that executes one program."""

    def __init__(self, ctx: Context, member: "Member") -> None:
        self.ctx = ctx
        self.book = member.book
        self.crashes = member.crashes
        #: What an object had counted before, and how often this handler has.
        self.counter = 0
        self.increments = 0

    def note(self, what: Any, number: int = 0, later: float = 0.0) -> None:
        at = asyncio.get_running_loop().time() + later
        self.book.note(Note(what, self.ctx.request.id, number, at, self.crashes))

    async def execute(self, program: list[Instruction]) -> None:
        for name, *arguments in program:
            await getattr(self, name)(*arguments)

    async def inc(self) -> None:
        assert isinstance(self.ctx, ObjectContext)
        self.increments += 1
        self.ctx.set("counter", self.counter + self.increments)

    async def wait(self, what: Instruction) -> None:
        await self.future(what)
        self.saw(what)

    async def gather(self, what: list[Instruction]) -> None:
        await durable.gather(*map(self.future, what))
        for one in what:
            self.saw(one)

    async def select(self, what: list[Instruction]) -> None:
        name, _ = await durable.select(**{str(at): self.future(one) for at, one in enumerate(what)})
        self.saw(what[int(name)])

    async def timeout(self, what: Instruction, ms: int) -> None:
        with suppress(DurableTimeoutError):
            await self.future(what).with_timeout(ms / 1000)
            self.saw(what)

    async def left(self, target: str, key: str | None, program: list[Instruction], delay: int | None) -> None:
        _ = self.ctx.call(target, program, key=key).id

    async def send(self, target: str, key: str | None, program: list[Instruction], delay: int | None) -> None:
        self.ctx.send(target, program, key=key, delay=seconds(delay))

    async def flows(self, how: str, several: list[list[Instruction]]) -> None:
        if how == "gather":
            before = IN_GATHER.set(True)  # in the tasks, which begin with a copy of the context
            gathered = asyncio.gather(*map(self.execute, several))
            IN_GATHER.reset(before)
            await gathered
            return
        try:
            async with asyncio.TaskGroup() as group:
                for program in several:
                    group.create_task(self.execute(program))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def attempt(self, program: list[Instruction], otherwise: list[Instruction], swallow: bool) -> None:
        try:
            await self.execute(program)
        except TerminalError:
            await self.execute(otherwise)
            if not swallow:
                raise

    async def saga(self, number: int, how: str, program: list[Instruction]) -> None:
        async with self.ctx.saga() as saga:
            try:
                for at, instruction in enumerate(program):
                    undo = -(number * 100 + at)
                    if not IN_GATHER.get():
                        self.note("guarded", undo)
                    saga.with_options(name=f"{how}{undo}").add_compensation(self.step, how, undo)
                    await self.execute([instruction])
            except (TerminalError, asyncio.CancelledError) as error:
                ending = isinstance(error, asyncio.CancelledError) and self.ctx._operations.ending
                if not IN_GATHER.get() and not ending:  # a flow that its group gives up undoes as well
                    self.note("unwinds", number)
                raise

    def future(self, what: Instruction) -> DurableFuture[Any]:
        ctx = self.ctx
        match what:
            case ["sleep", number, ms]:
                self.note("armed", number, ms / 1000)
                return ctx.sleep(ms / 1000)
            case ["call", target, key, program]:
                return ctx.call(target, program, key=key)
            case ["attach", target, key, program]:
                return ctx.send(target, program, key=key).attach()
            case ["awakeable", _, delay]:
                awakeable = ctx.awakeable(int)
                ctx.send(Helper.resolve, awakeable.id, delay=seconds(delay))
                return awakeable
            case ["promise", number, delay]:
                assert isinstance(ctx, WorkflowContext)
                ctx.send(Flow.open, f"p{number}", key=ctx.key, delay=seconds(delay))
                return ctx.promise(f"p{number}", int).future()
            case [kind, number]:
                retry = RetryPolicy("10ms", max_attempts=2) if kind == "limited" else None
                options = ctx.with_options(name=f"{kind}{number}", retry=retry, interruptible=kind == "interruptible")
                return options.run(self.step, kind, number)
        raise AssertionError(what)

    def saw(self, what: Instruction) -> None:
        """The handler goes on with the value of this."""
        if what[0] == "sleep":
            self.note("rang", what[1])
        elif what[0] in STEPS:
            self.note("saw", what[1])

    async def step(self, kind: str, number: int) -> int:
        self.note("begin", number)
        times = self.book.times("begin", self.ctx.request.id, number)
        if kind in ("slow", "interruptible"):
            await asyncio.sleep(0.03)
        for _ in range(abs(number) % 3):
            await asyncio.sleep(0)
        if kind == "fails":
            raise TerminalError(f"step {number} fails")
        if kind in ("flaky", "limited") and random.Random(number * 1000 + times).random() < 0.5:
            self.note("failed", number)
            raise RuntimeError("as planned")
        self.note("ended", number)
        return number


def seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


async def act(ctx: Context, member: "Member", program: list[Instruction]) -> int:
    this = Run(ctx, member)
    this.note("enter")
    try:
        if isinstance(ctx, ObjectContext):
            this.counter = await ctx.get("counter", int) or 0
        await this.execute(program)
    except InvocationKilled:
        raise TerminalError(
            "a call was killed"
        ) from None  # so that KILLED is the outcome of a kill, and of nothing else
    finally:
        this.note("leave")
    return this.increments


class Helper(Service):
    """Whoever awaits something waits for these: nobody cancels them."""

    @handler
    async def resolve(self, ctx: Context, id: str) -> None:
        ctx.resolve_awakeable(id, 1)

    @handler
    async def cancel(self, ctx: Context, id: str) -> None:
        ctx.cancel(id)


class Member:
    """One for each engine."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.crashes = book.sim.log.crashes


class Plain(Member, Service):
    @handler
    async def run(self, ctx: Context, program: list[Instruction]) -> int:
        return await act(ctx, self, program)


class Strict(Plain, retry=RetryPolicy("10ms", max_attempts=2, on_max_attempts="kill")): ...


class Patient(Plain, retry=RetryPolicy("10ms", max_attempts=2, on_max_attempts="pause")): ...


class Flow(Member, Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, program: list[Instruction]) -> int:
        return await act(ctx, self, program)

    @handler
    async def open(self, ctx: SharedWorkflowContext, name: str) -> None:
        with suppress(TerminalError):
            await ctx.promise(name, int).resolve(1)


class Layer(Member, VirtualObject):
    @handler
    async def run(self, ctx: ObjectContext, program: list[Instruction]) -> int:
        return await act(ctx, self, program)


class Object0(Layer): ...


class Object1(Layer): ...


class Object2(Layer): ...


def services(book: Book) -> list[object]:
    members = (Plain, Strict, Patient, Flow, Object0, Object1, Object2)
    return [Helper(), *(member(book) for member in members)]


# ---- controls ----


def is_member(invocation: Invocation) -> bool:
    """Not a helper, without which others wait for ever."""
    return invocation.submission.handler == "run"


async def control(sim: Sim, book: Book, what: Control) -> None:
    """Do it to some member of the tree; it may have ended meanwhile, or not have begun."""
    ended = what.action in ("restart", "purge", "purge_journal")
    members: list[Invocation] = [
        one for row in sim.tables.invocations.values() if is_member(one := invocation_of(row))
    ]
    members = [one for one in members if (one.status is Status.COMPLETED) == ended] or ([] if ended else members)
    if not members:
        return
    victim = members[what.pick % len(members)]
    id, repeat = victim.id, sim.repeat
    with suppress(ConflictError, TooEarlyError, NotFoundError, GoneError):
        match what.action:
            case "cancel" | "ask":
                book.asked["cancel"].add(id)
                if what.action == "cancel":
                    await repeat(lambda engine: engine.cancel(id))
                else:
                    await sim.send(Helper.cancel, id)
            case "kill":
                book.asked["kill"].add(id)
                await repeat(lambda engine: engine.kill(id))
                book.bury(id)
            case "pause":
                await repeat(lambda engine: engine.pause(id))
            case "resume":
                await repeat(lambda engine: engine.resume(id))
            case "restart":
                if victim.submission.flavor is not Flavor.WORKFLOW and victim.journal_kept:
                    await restart(sim, victim, what.pick)
            case "purge" | "purge_journal":
                book.archive.setdefault(id, (victim, journal(sim.tables, victim.seq)))
                await repeat(lambda engine: getattr(engine, what.action)(id))
        book.real[what.action] += 1


async def restart(sim: Sim, victim: Invocation, pick: int) -> None:
    """From some entry before the first that has no outcome; an object reads its state again.

    Asked for once: each time gives another invocation, and a crash at every n-th commit might swallow every answer.
    """
    rows = journal(sim.tables, victim.seq)
    told = [row for row in rows if row.ordinal and row.value not in (GIVEN_UP.value, CANCELLED.value)]
    written = [row for row in rows if row.part == COMMAND and (row.ok or row.kind in DETACHED)]
    known = {row.entry for row in [*told, *written]}
    last = next(entry for entry in range(len(known) + 2) if entry + 1 not in known)
    from_entry = 0 if victim.submission.key is not None else pick % (last + 1)
    tries = iter([True])

    async def once(engine: Engine) -> None:
        if next(tries, False):
            await engine.restart_as_new(victim.id, from_entry=from_entry)

    await sim.repeat(once)


def journal(tables: Tables, seq: int) -> list[Row]:
    return [row for _, row in sorted(tables.journal.get(seq, {}).items())]


def is_killed(invocation: Invocation) -> bool:
    return invocation.outcome == KILLED


async def drive(sim: Sim, book: Book, case: Case) -> None:
    """Start the roots, let the controls come, then resume what is paused until nothing is left."""
    for number, root in enumerate(case.roots):
        once = None if root.target == "Flow/run" else f"root {number}"
        await sim.send(root.target, root.program, key=root.key, idempotency_key=once)
    asking = []
    for what in case.controls:
        await moment(book, what)
        asking.append(asyncio.create_task(control(sim, book, what)))
    await asyncio.gather(*asking)
    await nothing_moves_what_is_paused(sim, book)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while left := await unfinished(sim):
        assert asyncio.get_running_loop().time() < deadline, f"I7 violated: these still wait: {left}"
        for view in left:
            if view.status == "paused":
                with suppress(ConflictError):
                    await sim.repeat(lambda engine, id=view.id: engine.resume(id))  # type: ignore[misc]
        await asyncio.sleep(0.2)


async def moment(book: Book, what: Control) -> None:
    """After so many more notes (if there are any for a while), and so many rounds of the event loop."""
    count = len(book.notes) + what.notes
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while len(book.notes) < count:
                book.news.clear()
                await book.news.wait()
    for _ in range(what.rounds):
        await asyncio.sleep(0)


async def unfinished(sim: Sim) -> list[InvocationView]:
    statuses = [*(status for status in Status if status is not Status.COMPLETED), "ready"]
    return await sim.repeat(lambda engine: engine.invocations(status=statuses, limit=1000))


async def nothing_moves_what_is_paused(sim: Sim, book: Book) -> None:
    """Pause: once all is quiet, whatever happens elsewhere."""
    await asyncio.sleep(0.1)
    paused = {view.id for view in await unfinished(sim) if view.status == "paused"}
    count = len(book.notes)
    await asyncio.sleep(1)
    book.real["paused"] += len(paused)
    still = {view.id for view in await unfinished(sim) if view.status == "paused"}
    moved = [note for note in book.notes[count:] if note.id in paused & still]
    assert not moved, f"these were paused: {moved}"


# ---- what must hold ----


def check_steps(book: Book) -> None:
    """I2: a step runs again only after a crash or its own failure, and never once its value was seen."""
    begun: dict[tuple[str, int], int] = {}
    seen: set[tuple[str, int]] = set()
    for note in book.notes:
        step = (note.id, note.number)
        if note.what == "saw":
            seen.add(step)
        elif note.what == "failed":
            begun.pop(step)
        elif note.what == "begin":
            assert step not in seen, f"I2 violated: {note} runs again, and its value was seen"
            again = begun.get(step) == note.crashes
            assert not again, f"I2 violated: {note} runs again, and nothing crashed"
            begun[step] = note.crashes


def check_keys(book: Book, invocations: dict[str, Invocation]) -> None:
    """I4: on a key one after the other, in the order in which they were accepted."""
    inside: dict[tuple[str, str], Note] = {}
    gone: set[str] = set()
    for note in book.notes:
        invocation = invocations[note.id]
        key = (invocation.submission.service, invocation.submission.key or "")
        if invocation.submission.flavor is not Flavor.EXCLUSIVE or note.what not in ("enter", "leave", "begin"):
            continue
        holder = inside.get(key)
        if note.what == "leave":
            if holder is not None and holder.id == note.id:
                inside[key] = note
        elif holder is None or holder.id == note.id:
            assert note.id not in gone, f"I4 violated: {note} comes after others on {key}"
            inside[key] = note
        else:
            left = holder.what == "leave" or is_killed(invocations[holder.id]) or holder.crashes < note.crashes
            assert left, f"I4 violated: {note} comes while {holder} is inside {key}"
            in_order = book.queued[holder.id] < book.queued[note.id]
            assert in_order, f"I4 violated: {note} was accepted before {holder}, and comes after it"
            assert note.id not in gone, f"I4 violated: {note} comes after others on {key}"
            gone.add(holder.id)
            inside[key] = note


def check_dead(book: Book) -> None:
    """Kill: once it is acknowledged none of them begins a step, and a moment later none of their steps is left."""
    for place, note in enumerate(book.notes):
        count, at = book.dead.get(note.id, (len(book.notes), note.at))
        assert note.what != "begin" or place < count, f"{note} begins, and was killed"
        assert note.what != "ended" or note.at <= at, f"{note} ends, and was killed"


def check_timers(book: Book, invocations: dict[str, Invocation]) -> None:
    """I6: nobody sleeps too short."""
    due: dict[tuple[str, int], float] = {}
    for note in book.notes:
        if invocations[note.id].submission.seed is not None:  # it begins with what another has slept
            continue
        if note.what == "armed":
            due.setdefault((note.id, note.number), note.at)
        elif note.what == "rang":
            assert note.at >= due[note.id, note.number] - 0.001, f"I6 violated: {note} is early"


def check_sagas(book: Book, invocations: dict[str, Invocation]) -> None:
    """What a handler was to undo is undone, the last first; what it was not is not."""
    guarded: dict[tuple[str, int], list[int]] = {}
    unwound: dict[tuple[str, int], list[int]] = {}
    undone: dict[str, list[int]] = {}
    for note in book.notes:
        if note.what == "guarded":
            number, place = divmod(-note.number, 100)
            guarded.setdefault((note.id, number), [])[place:] = [note.number]
        elif note.what == "unwinds":
            unwound[note.id, note.number] = list(guarded[note.id, note.number])
        elif note.what == "begin" and note.number < 0 and note.number not in undone.setdefault(note.id, []):
            undone[note.id].append(note.number)
    for (id, saga), all_of_it in guarded.items():
        expected = unwound.get((id, saga), [])[::-1]
        numbers = {*all_of_it, *expected}  # a later attempt may have been killed before it came so far again
        found = [number for number in undone.get(id, []) if number in numbers]
        one = invocations[id]
        if one.submission.seed is None:  # another may begin with a journal in which it was undone
            assert found == expected[: len(found)], f"{id}: undid {found} instead of {expected}"
            assert found == expected or one.problem is not None or is_killed(one), f"{id}: undid only {found}"


def check_tree(book: Book, invocations: dict[str, Invocation], rows: dict[str, list[Row]]) -> None:
    """I3, I5: each call and send is one invocation, how a call ended is what was told; sends are spared."""
    for one in invocations.values():
        entries = {(row.entry, row.part): row for row in rows[one.id]}
        for row in rows[one.id]:
            if row.part == COMMAND and row.kind in (Kind.CALL, Kind.SEND):
                told = entries.get((row.entry, COMPLETION), row if row.ordinal is not None else None)
                child = invocations.get(row.detail or "")
                never_made = told is not None and told.value == GIVEN_UP.value
                assert child is not None or never_made, f"I3 violated: {row} of {one.id} was lost"
                if child is not None and told is not None and not was_started_before(child, one, row):
                    assert Outcome(bool(told.ok), told.value or b"") == child.outcome, f"I5 violated: {row}, {told}"
        above, caller = one, one.submission.caller
        chain = {one.id}
        while caller is not None and caller.waits:
            above = invocations[caller.id]
            chain.add(above.id)
            caller = above.submission.caller
        if is_killed(one):
            assert chain & book.asked["kill"], f"{one.id} was killed, and nobody asked for it"
        if one.submission.seed is None and any(row.entry == 0 for row in rows[one.id]):
            assert chain & book.asked["cancel"], f"{one.id} was cancelled, and nobody asked for it"
        if one.outcome is not None and one.outcome.ok and is_member(one):
            counted = sum(row.kind == Kind.SET for row in rows[one.id])
            assert int(one.outcome.value) == counted, f"I3 violated: {one.id} counted {one.outcome}, not {counted}"


def was_started_before(child: Invocation, one: Invocation, row: Row) -> bool:
    """Whether a call found its workflow started: by what its caller does again, for instance."""
    caller = child.submission.caller
    first = caller is not None and (caller.id, caller.entry) == (one.id, row.entry)
    return child.submission.flavor is Flavor.WORKFLOW and not first


async def check_observers(sim: Sim, book: Book) -> None:
    """I3, I5: whoever asks gets the outcome that is stored, and the counters are what was written."""
    for row in sim.tables.invocations.values():
        one = invocation_of(row)
        outcome = one.outcome
        assert outcome is not None
        view = await sim.engine.describe(one.id)
        assert (view.status, view.output) == ("completed", outcome.value)
        assert view.completion_result == ("success" if outcome.ok else "failure")
        assert await sim.engine.outcome(one.id) == await sim.engine.outcome_now(one.id) == outcome
    for (service, key), state in sim.tables.state.items():
        assert int(state.get("counter", b"0")) == book.increments[service, key], (
            f"I3 violated: {service}/{key} {state}"
        )


async def check_replays(sim: Sim, book: Book, invocations: dict[str, Invocation]) -> None:
    """Every journal that a handler has come to the end of leads to the same outcome again."""
    host = Verifier(Registry(services(book), Settings(retry=FOREVER)))
    for one in invocations.values():
        by_its_handler = one.attempt and one.problem is None and not is_killed(one)
        if by_its_handler and one.id not in book.archive and one.seq in sim.tables.journal:
            assert one.outcome is not None
            try:
                await replay(host, sim.tables, one, to_the_end=one.outcome.ok)
            except BaseException as error:
                error.add_note(f"in the replay of {one}: {journal(sim.tables, one.seq)}")
                raise


def check_log(records: list[logging.LogRecord]) -> None:
    """I9: no surprises, no error that nobody awaited, no task that was forgotten; steps fail only as planned."""
    for record in records:
        message = record.getMessage()
        planned = (
            "as planned",
            "SimulatedCrash",
            "went on after its attempt",
            "the process ended without a clean close",
        )
        assert record.name.startswith("durable.") and any(words in message for words in planned), message


# ---- a case as a whole ----


@contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile."""
    records: list[logging.LogRecord] = []
    listener = logging.Handler()
    with patch.object(logging.getLogger(), "handlers", [listener]), patch.object(listener, "emit", records.append):
        yield records


def check_case(case: Case) -> Counter[str]:
    """Run it and check it; returns how often each thing really happened."""
    with logged() as records:
        real = run(lambda: play(case))
    check_log(records)
    return real


async def play(case: Case) -> Counter[str]:
    book = Book()
    book.sim = sim = Sim(lambda sim: services(book), case.mode, {"retry": FOREVER})
    surprises: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: surprises.append(context))
    with patch.object(simulation, "MemoryStore", lambda tables: Watched(tables, book)):
        await sim.start()
        try:
            await drive(sim, book, case)
            await check_observers(sim, book)
        finally:
            await sim.stop()
    for violation in book.violations:
        raise violation
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"I9 violated: {left}"
    assert not surprises, f"I9 violated: {surprises}"
    stored = [invocation_of(row) for row in sim.tables.invocations.values()]
    kept = {one.id: (one, journal(sim.tables, one.seq)) for one in stored}
    again = {one.id for one, _ in book.archive.values() if one.id in kept and kept[one.id][0].seq != one.seq}
    book.notes = [note for note in book.notes if note.id not in again]  # workflows, purged and run again
    kept |= {id: purged for id, purged in book.archive.items() if id not in again}
    invocations = {id: one for id, (one, _) in kept.items()}
    check_steps(book)
    check_keys(book, invocations)
    check_dead(book)
    check_timers(book, invocations)
    check_sagas(book, invocations)
    check_tree(book, invocations, {id: rows for id, (_, rows) in kept.items()})
    await check_replays(sim, book, invocations)
    book.real["completed"] = len(kept)
    book.real["killed"] = sum(map(is_killed, invocations.values()))
    book.real["told"] = sum(row.entry == 0 for _, rows in kept.values() for row in rows)
    book.real["crashes"], book.real["restarts"] = sim.log.crashes, sim.log.restarts
    return book.real


def check_seed(seed: int) -> Counter[str]:
    return check_case(case_of(seed))


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_random_controls_at_random_moments_break_no_promise(first: int) -> None:
    """I1 to I10."""
    real: Counter[str] = Counter()
    for seed in range(first, first + 100):
        try:
            real += check_seed(seed)
        except BaseException as error:
            error.add_note(f"to rerun: check_seed({seed}) of {__file__}; that is check_case({case_of(seed)})")
            raise
    for what in ("completed", "told", "killed", "paused", "resume", "restart", "purge", "crashes", "restarts"):
        assert real[what] >= 5, f"I10 violated: {real}"


def case(program: list[Instruction], *controls: Control, **mode: Any) -> Case:
    return Case([Root("Plain/run", None, program)], list(controls), Mode("found", **mode))


def at_once(action: str, rounds: int = 0, notes: int = 0) -> Control:
    return Control(notes, rounds, action, 0)


def step(kind: str, number: int) -> Instruction:
    return ["wait", [kind, number]]


def sleep(number: int, ms: int) -> Instruction:
    return ["wait", ["sleep", number, ms]]


def call(*program: Instruction) -> Instruction:
    return ["call", "Plain/run", None, list(program)]


def send(delay: int, *program: Instruction) -> Instruction:
    return ["send", "Plain/run", None, list(program), delay]


def attach(*program: Instruction) -> Instruction:
    return ["attach", "Plain/run", None, list(program)]


def group(*several: list[Instruction], how: str = "group") -> Instruction:
    return ["flows", how, list(several)]


#: Cases that failed once, made as small as they go.
FOUND: dict[str, Case] = {
    "a step in a flow of its own went on after the kill": case(
        [group([step("slow", 2)], [step("quick", 5)], how="gather")], at_once("kill")
    ),
    "a handler that had ended in time was said to be left behind": case(
        [["gather", [call(), ["call", "Object1/run", "a", [group([step("limited", 33)])]]]]],
        minimal=True,
        every=5,
        how="restart",
    ),
    "a compensation was cut off by the group of its flow": case(
        [group([sleep(2, 10)], [["saga", 14, "quick", [step("quick", 7), sleep(13, 10)]]])], at_once("cancel")
    ),
    "a shutdown did not wait for a step when its handler had ended": case(
        [step("slow", 10), ["timeout", ["slow", 16], 0], ["left", "Plain/run", None, [], 300]],
        faults=(Fault(3, "restart"),),
    ),
    "a replay began what a cancel had kept from beginning": case(
        [group([step("quick", 2)], [["send", "Plain/run", None, [], 300]]), ["timeout", ["quick", 12], 0]],
        at_once("cancel", rounds=1),
    ),
    "handlers inherited each other's context": case(
        [
            ["select", [attach(group([["wait", call(step("slow", 31))]], how="gather")), ["quick", 33]]],
            ["saga", 43, "slow", [step("quick", 34), sleep(35, 1), step("fails", 36)]],
        ],
        minimal=True,
    ),
    "an interruptible step ran again after a cancel and a pause": case(
        [group([["wait", ["awakeable", 8, None]]], [step("interruptible", 13)], how="gather")],
        at_once("pause"),
        at_once("cancel"),
    ),
    "an interruptible step ran again after it was unloaded": case(
        [["send", "Plain/run", None, [group([["wait", call()]], [step("interruptible", 7)])], 15]],
        at_once("cancel", notes=3),
        minimal=True,
    ),
    "paused in a replay it was never unloaded": case(
        [group([step("slow", 7)], [sleep(14, 0), step("flaky", 15), step("flaky", 16)])],
        at_once("pause", notes=11),
        faults=(Fault(4, "before"),),
    ),
    "sibling flows were told everything at once in a replay": case(
        [group([step("slow", 29)], [group([step("fails", 30)], [step("slow", 33)], how="gather")])]
    ),
    "a workflow was run again while the first one's calls were remembered": Case(
        [
            Root("Flow/run", "flow-1", [["wait", call()]]),
            Root("Plain/run", None, [sleep(3, 100), ["wait", ["call", "Flow/run", "flow-1", [["wait", call()]]]]]),
        ],
        [at_once("purge", notes=5, rounds=6)],
    ),
    "a saga was skipped by a pause, and the handler completed": case(
        [group([step("fails", 47)], [["saga", 51, "slow", [step("slow", 50)]]])], at_once("pause")
    ),
    "a compensation was given up for the cancel that it was for": case(
        [group([step("interruptible", 2)], [["saga", 27, "quick", [step("slow", 15)]]])], at_once("cancel")
    ),
    "a compensation was given up where a step had failed": case(
        [["saga", 20, "quick", [group([step("fails", 8)], [["gather", [["quick", 19]]]])]]], at_once("cancel")
    ),
    "a cancel came too late for what a replay asked": case(
        [
            step("quick", 2),
            ["saga", 23, "slow", [group(
                [step("quick", 5)],
                [["attempt", [step("fails", 6)], [["wait", call()]], False]],
            )]],
        ],
        at_once("cancel"),
    ),
    "recovery parked what ran": case(
        [["gather", [["fails", 43], call(group([step("slow", 45)], [send(15, step("quick", 47))]))]]],
        at_once("cancel", rounds=7),
        Control(2, 5, "pause", 1),
        every=5,
        how="restart",
    ),
    "a handler was unloaded while a flow of it was on its way to a step": case(
        [group(
            [["wait", call(sleep(1, 10))]],
            [group([group([group([group([group([step("slow", 2)])])])])])],
            how="gather",
        )],
        always_suspend=True,
    ),
    "a handler that only waited kept its slot": case(
        [["select", [["flaky", 3], call()]], group([["wait", attach()]])],
        always_suspend=True,
        minimal=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_a_case_that_failed_once_is_right_now(name: str) -> None:
    check_case(FOUND[name])
