"""R-25: random programs over three layers of objects, disturbed in random ways; a model counts what must come out.

A program is a list of instructions. Calls only go to the layer below, so that nothing can wait for itself. Whatever
happens on the way, each counter must end where the model says, and every journal must replay to the same outcome.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Literal

import msgspec
import pytest

import durable
from durable import (
    ConflictError,
    Context,
    DurableFuture,
    DurableTimeoutError,
    Engine,
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
from durable.core.commands import Command, Finish, Finished
from durable.core.ids import IdSpan
from durable.core.invocation import Invocation, Status
from durable.core.journal import CANCELLED, KILLED, Kind
from durable.core.limits import Limits
from durable.runtime.alarms import Alarms
from durable.runtime.attempt import Attempt
from durable.runtime.lending import Lending
from durable.runtime.observer import Observer
from durable.runtime.registry import Registered, Registry
from durable.runtime.rest import Rest
from durable.runtime.steps import Steps
from durable.runtime.threads import Threads
from durable.service import Settings
from durable.store.memory import Tables
from durable.store.rows import invocation_of
from durable.testing import Fault, Mode, Sim, run, simulate

LAYERS = 3
KEYS = ["a", "b", "c"]
RETRY = RetryPolicy("10ms", 2.0, "1s", max_attempts=None)

#: ["inc"], ["wait", ["step", 7]], ["gather", [["sleep", 5], ["call", 1, "a", [...]]]], …
Instruction = list[Any]
#: What is drawn, and out of how much it is drawn.
INSTRUCTIONS = list(
    Counter(
        inc=2, set=1, get=1, clear=1, wait=3, gather=2, as_completed=1, select=2, timeout=2, wait_completed=1,
        left=1, send=2, flows=2,
    ).elements()
)  # fmt: skip
FUTURES = list(
    Counter(step=2, flaky=1, slow=1, fails=1, sleep=1, awakeable=1, signal=1, promise=1, call=3, attach=1).elements()
)


# ---- making programs ----


class Maker:
    """Draws programs; every instruction that needs a name of its own gets a number."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def program(self, layer: int, size: int, *, flows: bool = True) -> list[Instruction]:
        return [self.instruction(layer, size, flows) for _ in range(self.random.randint(1, size))]

    def instruction(self, layer: int, size: int, flows: bool) -> Instruction:
        pick = self.random.choice
        kind = pick(INSTRUCTIONS)
        match kind:
            case "set":
                return [kind, pick("xyz"), self.random.randrange(100)]
            case "get" | "clear":
                return [kind, pick("xyz")]
            case "wait":
                return [kind, self.future(layer, size)]
            case "gather" | "as_completed" | "select" | "wait_completed":
                return [kind, [self.future(layer, size) for _ in range(self.random.randint(1, 3))]]
            case "timeout":
                return [kind, self.future(layer, size), pick([0, 1, 20, 1000])]
            case "left" | "send" if layer < LAYERS - 1:
                return [kind, *self.below(layer, size), pick([None, 0, 15, 700])]
            case "flows" if flows:
                smaller = max(1, size - 1)
                several = [self.program(layer, smaller, flows=smaller > 2) for _ in range(pick([2, 3]))]
                return [kind, pick(["gather", "group"]), several]
        return ["inc"]

    def future(self, layer: int, size: int) -> Instruction:
        pick = self.random.choice
        kind = pick(FUTURES)
        if kind in ("call", "attach") and layer < LAYERS - 1:
            return [kind, *self.below(layer, size)]
        if kind in ("awakeable", "signal", "promise"):
            return [kind, self.number(), pick([None, 0, 15, 300])]
        if kind in ("sleep", "call", "attach"):
            return ["sleep", pick([0, 1, 10, 500])]
        return [kind, self.number()]

    def below(self, layer: int, size: int) -> Instruction:
        return [layer + 1, self.random.choice(KEYS), self.program(layer + 1, max(1, size - 1))]


def count(layer: int, key: str, program: list[Instruction], counters: Counter[tuple[int, str]]) -> None:
    """The model: every instruction takes effect once, whatever it waits for and whoever wins."""
    for name, *arguments in program:
        if name == "inc":
            counters[layer, key] += 1
        elif name in ("call", "attach", "left", "send"):
            count(arguments[0], arguments[1], arguments[2], counters)
        elif name in ("wait", "timeout"):
            count(layer, key, [arguments[0]], counters)
        elif name in ("gather", "as_completed", "select", "wait_completed"):
            count(layer, key, arguments[0], counters)
        elif name == "flows":
            for flow in arguments[1]:
                count(layer, key, flow, counters)


# ---- running them ----


class Run:
    """One handler that executes one program."""

    def __init__(self, ctx: ObjectContext, sim: Sim, calm: bool, counter: int) -> None:
        self.ctx = ctx
        self.sim = sim
        self.calm = calm
        self.counter = counter
        self.mine: dict[str, int | None] = {}
        #: All that it saw: a replay must see the same, in the same order.
        self.seen: list[Any] = []

    async def execute(self, program: list[Instruction]) -> None:
        for name, *arguments in program:
            await getattr(self, name)(*arguments)

    async def inc(self) -> None:
        self.counter += 1
        self.ctx.set("counter", self.counter)

    async def set(self, name: str, value: int) -> None:
        self.ctx.set(name, value)
        self.mine[name] = value

    async def clear(self, name: str) -> None:
        self.ctx.clear(name)
        self.mine[name] = None

    async def get(self, name: str) -> None:
        expected = self.mine.get(name, -1)
        value = await self.ctx.get(name, int)
        if expected not in (-1, value) and self.mine[name] == expected:
            raise TerminalError(f"state {name} is {value} and not {expected}")
        self.seen.append(value)

    async def left(self, layer: int, key: str, program: list[Instruction], delay: int | None) -> None:
        _ = self.ctx.call(f"Layer{layer}/execute", program, key=key).id

    async def send(self, layer: int, key: str, program: list[Instruction], delay: int | None) -> None:
        self.ctx.send(f"Layer{layer}/execute", program, key=key, delay=seconds(delay))

    async def wait(self, what: Instruction) -> None:
        try:
            self.seen.append(await self.future(what))
        except TerminalError as error:
            self.seen.append(error.message)

    async def gather(self, what: list[Instruction]) -> None:
        for result in await durable.gather(*map(self.future, what), return_exceptions=True):
            self.seen.append(str(result))

    async def as_completed(self, what: list[Instruction]) -> None:
        futures = [self.future(one) for one in what]
        async for future in durable.as_completed(*futures):
            self.seen.append(futures.index(future))

    async def wait_completed(self, what: list[Instruction]) -> None:
        futures = [self.future(one) for one in what]
        [done], pending = await durable.wait_completed(*futures)
        self.seen.append([futures.index(done), len(pending)])

    async def select(self, what: list[Instruction]) -> None:
        try:
            self.seen.append(await durable.select(**{f"f{at}": self.future(one) for at, one in enumerate(what)}))
        except TerminalError as error:
            self.seen.append(error.message)

    async def timeout(self, what: Instruction, ms: int) -> None:
        try:
            self.seen.append(await self.future(what).with_timeout(ms / 1000))
        except DurableTimeoutError:
            self.seen.append("timeout")
        except TerminalError as error:
            self.seen.append(error.message)

    async def flows(self, how: str, several: list[list[Instruction]]) -> None:
        if how == "gather":
            await asyncio.gather(*map(self.execute, several))
        else:
            async with asyncio.TaskGroup() as group:
                for program in several:
                    group.create_task(self.execute(program))

    def future(self, what: Instruction) -> DurableFuture[Any]:
        ctx = self.ctx
        match what:
            case ["step" | "flaky" | "slow" | "fails" as kind, number]:
                return ctx.with_options(name=f"{kind}-{number}").run(self.step, kind, number)
            case ["sleep", ms]:
                return ctx.sleep(ms / 1000)
            case ["call", layer, key, program]:
                return ctx.call(f"Layer{layer}/execute", program, key=key)
            case ["attach", layer, key, program]:
                return ctx.send(f"Layer{layer}/execute", program, key=key).attach()
            case ["awakeable", number, delay]:
                awakeable = ctx.awakeable(int)
                ctx.send(Helper.resolve, (awakeable.id, number), delay=seconds(delay))
                return awakeable
            case ["signal", number, delay]:
                ctx.send(Helper.signal, (ctx.request.id, f"s{number}", number), delay=seconds(delay))
                return ctx.signal(f"s{number}", int)
            case ["promise", number, delay]:
                gate = f"{ctx.request.id}-{number}"
                ctx.send(Gate.open, number, key=gate, delay=seconds(delay))
                return ctx.call(Gate.run, key=gate)
        raise AssertionError(what)

    async def step(self, kind: str, number: int) -> int:
        times = self.sim.effect(f"{self.ctx.request.id} {number}")
        if kind == "slow":
            await asyncio.sleep(0.03)
        if kind == "fails":
            raise TerminalError(f"step {number} fails")
        if kind == "flaky" and not self.calm and random.Random(number * 1000 + times).random() < 0.5:
            raise RuntimeError(f"step {number} fails for the {times}. time")
        return number


def seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


class Helper(Service):
    @handler
    async def resolve(self, ctx: Context, what: tuple[str, int]) -> None:
        ctx.resolve_awakeable(*what)

    @handler
    async def signal(self, ctx: Context, what: tuple[str, str, int]) -> None:
        ctx.send_signal(*what)


class Gate(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> int:
        return await ctx.promise("open", int)

    @handler
    async def open(self, ctx: SharedWorkflowContext, number: int) -> None:
        await ctx.promise("open", int).resolve(number)


class Layer(VirtualObject):
    def __init__(self, sim: Sim, calm: bool) -> None:
        self.sim = sim
        self.calm = calm

    @handler
    async def execute(self, ctx: ObjectContext, program: list[Instruction]) -> list[Any]:
        this = Run(ctx, self.sim, self.calm, await ctx.get("counter", int) or 0)
        await this.execute(program)
        return this.seen


class Layer0(Layer): ...


class Layer1(Layer): ...


class Layer2(Layer): ...


def services(sim: Sim, *, calm: bool = False) -> Iterable[object]:
    return [Helper(), Gate(), *(layer(sim, calm) for layer in (Layer0, Layer1, Layer2))]


# ---- checking ----


async def drive(
    sim: Sim, roots: list[tuple[str, list[Instruction]]], controls: int = 0, seed: int = 0
) -> Counter[tuple[int, str]]:
    """Start the programs, control some of them on the way, wait until nothing is left, and read the counters."""
    for number, (key, program) in enumerate(roots):
        await sim.send(Layer0.execute, program, key=key, idempotency_key=f"root-{number}")
    draw, may_pause = random.Random(seed), controls > 0
    unfinished = [*(status for status in Status if status is not Status.COMPLETED), "ready"]
    while left := await sim.repeat(lambda engine: engine.invocations(status=unfinished, limit=1000)):
        paused = [view for view in left if view.status == "paused"]
        assert may_pause or not paused, paused
        assert asyncio.get_running_loop().time() < 3600, f"after an hour these still wait: {left}"
        victims = [view for view in left if view.service.startswith("Layer")]  # others may wait for a helper
        if controls and victims:
            controls -= 1
            await asyncio.sleep(draw.choice([0, 0.001, 0.02, 0.2]))
            await control(sim, draw.choice(victims).id, draw.choice(CONTROLS))
        else:
            for view in paused:
                await control(sim, view.id, Engine.resume)
            await asyncio.sleep(0.5)
    counters: Counter[tuple[int, str]] = Counter()
    for layer in range(LAYERS):
        for key in KEYS:
            state = await sim.repeat(partial(Engine.get_state, service=f"Layer{layer}", key=key))
            counters[layer, key] = state.get("counter", 0)
    return +counters


CONTROLS = 4 * [Engine.cancel] + 2 * [Engine.kill] + 3 * [Engine.pause] + 2 * [Engine.resume]


async def control(sim: Sim, id: str, action: Callable[[Engine, str], Awaitable[Any]]) -> None:
    with suppress(ConflictError, TooEarlyError):  # it ended meanwhile, or has not begun
        await sim.repeat(lambda engine: action(engine, id))


class Verifier:
    """The runtime of an attempt that only replays: it keeps what the attempt hands in, and does nothing about it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.context = copy_context()
        self.observer: Observer | None = None
        self.limits = Limits()
        self.strict = False
        self.acting_since = 0.0
        self.commands: list[Command] = []
        #: Of the replay's event loop.
        self.rest: Rest
        self.alarms: Alarms
        self.lending: Lending

    def submit(self, command: Command) -> None:
        self.commands.append(command)

    def now_ms(self) -> int:
        return 0

    def find(self, target: Any) -> Registered:
        return self.registry.find(target)

    def id_span(self) -> IdSpan:
        return self.registry.id_span

    def left_behind(self, steps: Steps) -> None:
        asyncio.get_running_loop().call_soon(steps.start_left_over, context=self.context)

    def parked(self, attempt: Attempt) -> None:
        pass

    def cool(self, attempt: Attempt) -> None:
        """It is never kept."""

    def cut_off(self) -> bool:
        return False

    def in_turn(self, report: Callable[[], None]) -> None:
        report()

    def when_settled(self, then: Callable[[], None]) -> None:
        pass


async def replay(host: Verifier, tables: Tables, invocation: Invocation, *, to_the_end: bool) -> None:
    """A fresh attempt over a complete journal comes to the outcome that is kept, and asks for nothing new.

    (A handler that fails leaves its other flows where they are, and those may have gone on a little. And it may have
    failed when a cancel was recorded and not yet told: a replay may be told first.)
    """
    host.commands.clear()
    loop = asyncio.get_running_loop()
    host.rest = Rest(loop, host.context)
    host.alarms = Alarms(loop, host.context)
    host.lending = Lending(loop, host.submit, Threads(loop, 10, host.context))
    submission = invocation.submission
    registered = host.registry.find(f"{submission.service}/{submission.handler}")
    attempt = Attempt(host, invocation, 99, registered, None, asyncio.get_running_loop())
    attempt.start([row for _, row in sorted(tables.journal.get(invocation.seq, {}).items())], until=2**62)
    assert attempt.task is not None
    await asyncio.wait([attempt.task], timeout=60)
    if not attempt.task.done():
        attempt.end()
        await asyncio.wait([attempt.task], timeout=60)
        raise AssertionError(f"the replay waits for what its journal does not have: {host.commands}")
    *left_over, finish = host.commands
    assert isinstance(finish, Finish), finish
    assert not to_the_end or all(isinstance(command, Finished) for command in left_over), host.commands
    was_cancelled = any(row.entry == 0 for row in tables.journal.get(invocation.seq, {}).values())
    too_late = was_cancelled and not to_the_end and finish.outcome == CANCELLED
    assert too_late or finish.outcome == invocation.outcome, f"{finish.outcome} instead of {invocation.outcome}"


def verifier(sim: Sim) -> Verifier:
    return Verifier(Registry(services(sim, calm=True), Settings(retry=RETRY)))


def mode_of(seed: int, commits: int) -> Mode:
    """Some way to disturb a run of so many commits."""
    draw = random.Random(seed)
    hows: list[Literal["before", "after", "restart"]] = ["before", "after", "restart"]
    return Mode(
        f"random {seed}",
        always_suspend=draw.random() < 0.4,
        minimal=draw.random() < 0.3,
        faults=tuple(Fault(draw.randint(1, commits), draw.choice(hows)) for _ in range(draw.choice([0, 1, 2, 5]))),
        every=draw.choice([0, 0, 3, 4, 7]),
        how=draw.choice(hows),
    )


def draw_programs(seed: int, size: int) -> tuple[list[tuple[str, list[Instruction]]], Counter[tuple[int, str]]]:
    """Some programs to start with their keys, and what they must count."""
    maker = Maker(seed)
    roots = [(maker.random.choice(KEYS), maker.program(0, size)) for _ in range(maker.random.randint(1, 3))]
    return roots, model_of(roots)


def model_of(roots: list[tuple[str, list[Instruction]]]) -> Counter[tuple[int, str]]:
    counters: Counter[tuple[int, str]] = Counter()
    for key, program in roots:
        count(0, key, program, counters)
    return counters


def check_seed(seed: int, size: int = 4) -> None:
    """One draw of programs: undisturbed, then disturbed, then replayed."""
    check_programs(*draw_programs(seed, size), seed)


def check_programs(roots: list[tuple[str, list[Instruction]]], model: Counter[tuple[int, str]], seed: int) -> None:
    mode = Mode("undisturbed")
    for _ in range(2):
        sim = check_run(roots, model, mode)
        mode = mode_of(seed, sim.log.commits)


def check_run(
    roots: list[tuple[str, list[Instruction]]], model: Counter[tuple[int, str]], mode: Mode, **options: Any
) -> Sim:
    """One run: it counts right, and every journal replays."""
    counters, sim = simulate(services, partial(drive, roots=roots), mode, retry=RETRY, **options)
    assert counters == model, f"in mode {mode!r}: {counters} instead of {model}"
    host = verifier(sim)
    for row in sim.tables.invocations.values():
        invocation = invocation_of(row)
        assert invocation.outcome is not None
        assert invocation.outcome.ok, f"in mode {mode!r}: {invocation}"
        run(partial(replay, host, sim.tables, invocation, to_the_end=True))
    return sim


def check_seed_with_controls(seed: int, size: int = 4) -> None:
    """The same, while some are cancelled, killed, paused: each ends, nothing is done twice, every journal replays."""
    check_programs_with_controls(*draw_programs(seed, size), seed)


def check_programs_with_controls(
    roots: list[tuple[str, list[Instruction]]], model: Counter[tuple[int, str]], seed: int
) -> None:
    _, sim = simulate(services, partial(drive, roots=roots), retry=RETRY)
    for mode in (Mode("undisturbed"), mode_of(seed, sim.log.commits)):
        scenario = partial(drive, roots=roots, controls=seed % 7 + 1, seed=seed)
        counters, sim = simulate(services, scenario, mode, retry=RETRY)
        assert counters <= model, f"in mode {mode!r}: {counters} is more than {model}"
        assert counters == check_journals(sim), f"in mode {mode!r}: {counters} is not what the journals say"


def check_journals(sim: Sim) -> Counter[tuple[int, str]]:
    """Each journal replays, and has what its program must have done; returns the increments of all of them."""
    host, written = verifier(sim), Counter[tuple[int, str]]()
    for seq, row in sim.tables.invocations.items():
        invocation, journal = invocation_of(row), sim.tables.journal.get(seq, {}).values()
        submission, outcome = invocation.submission, invocation.outcome
        assert outcome is not None
        if submission.service.startswith("Layer"):
            layer, key = int(submission.service[-1]), submission.key or ""
            increments = sum(row.kind == Kind.SET and row.name == "counter" for row in journal)
            written[layer, key] += increments
            own: Counter[tuple[int, str]] = Counter()
            count(layer, key, list(without_calls(msgspec.json.decode(submission.input))), own)
            was_cancelled = any(row.entry == 0 for row in journal)
            assert increments == own[layer, key] or not outcome.ok or was_cancelled, f"{invocation}: {increments}"
            assert increments <= own[layer, key], f"{invocation}: {increments} instead of {own}"
        if invocation.attempt and outcome != KILLED:
            run(partial(replay, host, sim.tables, invocation, to_the_end=outcome.ok))
    return +written


def without_calls(program: list[Instruction]) -> Iterator[Instruction]:
    """What a handler does itself."""
    for name, *arguments in program:
        if name == "flows":
            yield [name, arguments[0], [list(without_calls(flow)) for flow in arguments[1]]]
        elif name == "inc":
            yield [name]


def check_log(records: list[logging.LogRecord]) -> None:
    """Nobody was surprised: attempts fail as planned, and no error was left that nobody awaited."""
    for record in records:
        message = record.getMessage()
        assert record.name.startswith("durable."), message
        assert "JournalMismatchError" not in message, message
        planned = "RuntimeError: step" in message or "the process ended without a clean close" in message
        assert " failed" not in message or planned, message


@pytest.mark.parametrize("seed", range(300))
def test_a_random_program_counts_right_however_it_is_disturbed_and_its_journals_replay(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        check_seed(seed)
        check_log(caplog.records)
    except BaseException as error:
        error.add_note(f"to rerun: pytest {__file__} -k 'disturbed and [{seed}]', or check_seed({seed}) in it")
        raise


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("seed", [194, 1135, *range(3000, 3006)])  # the first two once began the same again for ever
def test_a_random_program_comes_to_its_end_with_few_slots_and_a_restart_at_every_third_commit(
    seed: int, slots: int
) -> None:
    mode = Mode("restart at every 3rd commit", every=3, how="restart")
    check_run(*draw_programs(seed, 4), mode, max_concurrent_invocations=slots)


@pytest.mark.parametrize("seed", range(1000, 1200))
def test_a_random_program_that_is_controlled_ends_and_its_journals_replay(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        check_seed_with_controls(seed)
        check_log(caplog.records)
    except BaseException as error:
        error.add_note(
            f"to rerun: pytest {__file__} -k 'controlled and [{seed}]', or check_seed_with_controls({seed})"
        )
        raise


#: Programs that failed once, made as small as they go.
FOUND: dict[str, list[Instruction]] = {
    "an outcome came while another flow was still on its way": [
        ["flows", "gather", [[
            ["flows", "gather", [[]]],
            ["send", 1, "b", [], 0],
            ["flows", "gather", [
                [["wait", ["call", 1, "c", [["timeout", ["step", 33], 1000]]]], ["clear", "z"]],
                [["wait", ["step", 37]], ["flows", "gather", [[["get", "x"], ["inc"]]]]],
            ]],
        ]]],
    ],
    "a cancel came while a gathered step was being committed": [["gather", [["step", 1]]]],
    "a cancelled call had ended when the cancel was told": [
        ["wait", ["call", 1, "b", [["wait", ["promise", 1, 300]], ["wait", ["sleep", 1]]]]],
        ["gather", [["flaky", 11]]],
    ],
    "a select was made after its members had completed": [
        ["select", [["flaky", 19], ["call", 2, "b", [["wait", ["slow", 21]]]]]],
    ],
    "a time-out of zero, and a cancel": [["timeout", ["step", 6], 0]],
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_a_program_that_failed_once_is_right_now(name: str, caplog: pytest.LogCaptureFixture) -> None:
    roots = [("a", FOUND[name])]
    for seed in range(8):
        check_programs(roots, model_of(roots), seed)
        check_programs_with_controls(roots, model_of(roots), seed)
    check_log(caplog.records)
