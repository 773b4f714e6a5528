"""The program whose power is cut: an engine that lives several times on one file, and does every kind of work.

    python -m tests.powerloss.workload FOLDER TRACE SEED SYNCHRONOUS VALUES [PLANT …]

under the shim. Each life is a fork of one process: it starts an engine, reads what there is, works, and is closed,
left in the middle, or killed, at any moment or inside a sync. Between two lives a backup may be restored. Where
VALUES are encoded, a codec encrypts them, each life with one key more than the one before, and encodes all of it
anew. TRACE has all changes to files and all marks.
"""

import asyncio
import json
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

import durable
from durable import (
    ConflictError,
    Context,
    Engine,
    Handle,
    NotFoundError,
    ObjectContext,
    OutputNotReadyError,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    gather,
    handler,
)
from durable.service import Handler
from tests.codec.support import keyed
from tests.powerloss import plants, trace
from tests.powerloss.oracle import Facts, Violation
from tests.powerloss.plants import DATABASE
from tests.powerloss.shim import Fault, Shim

#: How many jobs are under way at a time, and how many there are in all.
WINDOW = 5
JOBS = 44
QUICK = RetryPolicy(initial_interval=0.004, factor=1.5, max_interval=0.03, max_attempts=None)
BURST = 1000
KINDS = ("steps", "add", "family", "nap", "stamped", "approval", "late", "draw", "victim")
#: What is done one by one, until a sync is the last thing that is not done.
BURSTS = ("add", "draw", "draw", "victim")
Sync = Literal["FULL", "NORMAL"]
#: How values are stored.
Values = Literal["clear", "encoded"]
#: The keys of the codec, in the order in which it gets them: one for each life, and one for whoever survives.
KEYS = [f"k{number}" for number in range(1, 31)]
#: Is in no file where values are encoded: steps return it.
SECRET = b"x" * 64
Marker = Callable[..., None]


class Job(msgspec.Struct, frozen=True):
    """One job; all of it follows from the seed and its number."""

    number: int
    kind: str
    amount: int
    key: str


def plan(seed: int, number: int) -> Job:
    """The job of that number. From `BURST` on they are for bursts."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choice(KINDS if number < BURST else BURSTS)
    return Job(number, kind, chance.randint(1, 9), chance.choice("abc"))


def counts(jobs: Sequence[Job]) -> dict[str, int]:
    """The model: what counters must say once these jobs are done."""
    sums: dict[str, int] = {}
    for job in jobs:
        for key, amount in {"add": [(job.key, job.amount)], "late": [("f", job.amount)], "family": FAMILY}.get(
            job.kind, []
        ):
            sums[key] = sums.get(key, 0) + amount
    return sums


FAMILY = [("e", 1), ("a", 2)]


# ---- handlers ----


class World:
    """What handlers do beside the engine."""

    mark: Marker = staticmethod(lambda *_: None)
    serial = 0
    #: The awakeables that were published in this process.
    published: dict[int, "asyncio.Future[str]"]

    def awakeable(self, job: int) -> "asyncio.Future[str]":
        return self.published.setdefault(job, asyncio.get_running_loop().create_future())


world = World()


async def work(id: str, label: str, size: int) -> str:
    """A step: what happened outside cannot be taken back. No two executions give the same."""
    world.mark("ran", id, label)
    world.serial += 1
    await asyncio.sleep(0)
    return f"{label}/{os.getpid()}/{world.serial}/{time.monotonic_ns()}/" + "x" * size


async def publish(id: str, job: int, awakeable: str) -> str:
    world.mark("awakeable", job, awakeable)
    future = world.awakeable(job)
    if not future.done():
        future.set_result(awakeable)
    return await work(id, "publish", 0)


async def take(ctx: Context, label: str, size: int = 0) -> str:
    """Run a step and say that its result was seen."""
    token = await ctx.with_options(name=label).run(work, ctx.request.id, label, size)
    world.mark("saw", ctx.request.id, label, token[:60])
    return token[:60]


@handler(service="Work")
async def steps(ctx: Context, job: Job) -> list[str]:
    one = await take(ctx, "one", size=job.amount * 300)
    two, three = await asyncio.gather(take(ctx, "two"), take(ctx, "three", size=20_000 if job.amount == 9 else 10))
    return [one, two, three]


@handler(service="Work", inactivity_timeout=0)
async def nap(ctx: Context, job: Job) -> list[str]:
    before = await take(ctx, "before")
    await ctx.sleep(job.amount / 1000)
    return [before, await take(ctx, "after", size=2_000)]


@handler(service="Work")
async def family(ctx: Context, job: Job) -> list[str]:
    [(key, amount), (second, two)] = FAMILY
    ctx.send(Counter.add, amount, key=key)
    tokens, _ = await gather(ctx.call(steps, job), ctx.call(Counter.add, two, key=second))
    return [*tokens, await take(ctx, "mine")]


@handler(service="Work", inactivity_timeout=0.005)
async def stamped(ctx: Context, job: Job) -> str:
    awakeable = ctx.awakeable(str)
    await ctx.run(publish, ctx.request.id, job.number, awakeable.id)
    return await awakeable


@handler(service="Work")
async def draw(ctx: Context, job: Job) -> str:
    """What it returns comes again in no other attempt: only its outcome's commit can keep it."""
    world.serial += 1
    return f"{os.getpid()}/{world.serial}/{time.monotonic_ns()}"


@handler(service="Work")
async def victim(ctx: Context, job: Job) -> str:
    """Waits until it is killed."""
    return await ctx.awakeable(str)


class Counter(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> list[int]:
        old = await ctx.get("count", int) or 0
        ctx.set("count", old + amount)
        ctx.set("ballast", str(old) * 800)
        return [old, old + amount]


class Approval(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext, job: Job) -> str:
        await take(ctx, "ask")
        return await ctx.promise("answer", str)


SERVICES: list[object] = [steps, nap, family, stamped, draw, victim, Counter(), Approval()]
TARGETS: dict[str, Handler[Job, list[str]] | Handler[Job, str]] = {
    "steps": steps,
    "nap": nap,
    "family": family,
    "stamped": stamped,
    "draw": draw,
    "victim": victim,
}


def engine_on(folder: Path, synchronous: Sync = "FULL", values: Values = "clear", keys: int = len(KEYS)) -> Engine:
    """The engine of every life; where values are encoded, with so many keys."""
    return Engine(
        folder / DATABASE,
        services=SERVICES,
        synchronous=synchronous,
        retry=QUICK,
        inactivity_timeout=0.05,
        codec=keyed(*KEYS[:keys]) if values == "encoded" else None,
        control_socket=False,  # it is bound, not opened: a disk that is made up of calls knows nothing of it
    )


# ---- what clients do ----


async def submit(engine: Engine, job: Job) -> Handle[Any]:
    """Ask for a job; twice is once."""
    name = f"job-{job.number}"
    if job.kind == "approval":
        return await engine.send("Approval/run", job, key=name)
    if job.kind in ("add", "late"):
        delay = 0.008 if job.kind == "late" else None
        key = "f" if job.kind == "late" else job.key
        return await engine.send("Counter/add", job.amount, key=key, idempotency_key=name, delay=delay)
    return await engine.send(TARGETS[job.kind], job, idempotency_key=name)


def handle_of(engine: Engine, job: Job) -> Handle[Any]:
    """The handle of a job, whether it was accepted or not."""
    name = f"job-{job.number}"
    if job.kind == "approval":
        return engine.workflow("Approval/run", name)
    if job.kind in ("add", "late"):
        return engine.idempotent("Counter/add", name, key="f" if job.kind == "late" else job.key)
    return engine.idempotent(TARGETS[job.kind], name)


async def do(engine: Engine, job: Job, facts: Facts, mark: Marker) -> None:
    """Get a job done, and say all that was told of it."""
    mark("try", job.number)
    handle = await submit(engine, job)
    mark("accepted", job.number, handle.id)
    value = facts.completing.get(job.number) or f"answer {job.number}"
    if job.kind == "stamped":
        mark("completing", job.number, value)
        await complete(engine, job.number, facts.awakeables.get(job.number), value)
        mark("completed", job.number, value)
    elif job.kind == "approval":
        mark("completing", job.number, value)
        with suppress(ConflictError):
            await engine.resolve_promise("Approval", f"job-{job.number}", "answer", value)
        mark("completed", job.number, value)
    elif job.kind == "victim":
        with suppress(ConflictError):
            await engine.kill(handle.id)
    mark("told", job.number, await outcome(handle.result()))


async def outcome(telling: Awaitable[Any]) -> Any:
    """A result, or a failure, as JSON has it."""
    try:
        return await telling
    except TerminalError as error:
        return {"failed": error.code}


async def complete(engine: Engine, job: int, known: str | None, value: str) -> None:
    """Complete a job's awakeable: the one that was published, or that of a run that has begun since."""
    if known is not None:
        with suppress(NotFoundError):
            await engine.resolve_awakeable(known, value)
            return
    await engine.resolve_awakeable(await world.awakeable(job), value)


async def look(engine: Engine, jobs: Sequence[Job], mark: Marker) -> None:
    """Read everything there is, and change nothing."""
    for job in jobs:
        try:
            mark("told", job.number, await outcome(handle_of(engine, job).output()))
        except OutputNotReadyError:
            mark("there", job.number)
        except NotFoundError:
            mark("missing", job.number)
    for key in "abcef":
        mark("counted", key, (await engine.get_state("Counter", key)).get("count", 0))
    mark("option", durable_option(await engine.service("Counter")))


def durable_option(view: Any) -> int:
    """The option that `configure` sets, as it is."""
    text = str(view.abort_timeout)
    return int(text.removesuffix("s")) if text.endswith("s") and text[:-1].isdecimal() else 0


class Life:
    """One life of the engine in its own process."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        synchronous: Sync,
        values: Values,
        facts: Facts,
        shim: Shim,
        plant: plants.Plant,
        number: int,
    ) -> None:
        self.folder, self.seed, self.synchronous, self.facts = folder, seed, synchronous, facts
        self.values, self.keys = values, number + 1
        self.shim, self.mark, self.plant, self.number = shim, shim.mark, plant, number
        self.chance = random.Random(f"{seed}/life/{number}")
        self.todo = [plan(seed, number) for number in range(JOBS) if number not in facts.told]

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """A started engine, with the fault that is planted."""
        engine = engine_on(self.folder, self.synchronous, self.values, self.keys)
        self.shim.lie(self.plant.lie | self.plant.lie_at_start)
        async with engine:
            self.shim.lie(self.plant.lie)
            yield engine

    async def work(self, count: int | None = None) -> None:
        """Read, then do so many jobs (None: all), and what operators do meanwhile."""
        async with self.engine() as engine:
            await self.read(engine)
            jobs = iter([job for job in self.todo if job.number not in self.facts.purging][:count])
            await asyncio.gather(*[self.client(engine, jobs) for _ in range(WINDOW)], self.operate(engine))

    async def client(self, engine: Engine, jobs: Any) -> None:
        for job in jobs:
            await do(engine, job, self.facts, self.mark)

    async def operate(self, engine: Engine) -> None:
        """What people do beside the work."""
        option = max(self.facts.option_asked, self.facts.option) + 1
        mark = self.mark
        mark("setting", option)
        await engine.configure("Counter", abort_timeout=option)
        mark("set", option)
        await asyncio.sleep(self.chance.random() * 0.03)
        for job in [plan(self.seed, one) for one in sorted(self.facts.told)]:
            if job.kind == "steps" and job.number not in self.facts.purging and self.chance.random() < 0.3:
                mark("purging", job.number)
                await engine.purge(handle_of(engine, job).id)
                mark("purged", job.number)
        name = f"backup-{self.number}.db"
        mark("backing-up", name)
        await engine.backup(self.folder / name)
        mark("backed-up", name)
        if self.values == "encoded":
            await engine.encode_again()
            mark("encoded", KEYS[self.keys - 1])

    async def read(self, engine: Engine) -> None:
        await look(engine, [plan(self.seed, number) for number in sorted(self.facts.tried)], self.mark)

    async def only_read(self) -> None:
        async with self.engine() as engine:
            await self.read(engine)
            await asyncio.sleep(0.005)

    async def leave(self, seconds: float) -> None:
        """Closed in the middle of its work."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.work()

    async def killed(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.shim.kill)
        await self.work()

    async def killed_in_a_sync(self, nth: int) -> None:
        self.shim.arm(Fault.KILL_AT_SYNC, nth)
        await self.work()

    async def burst(self, nth: int) -> None:
        """One addition after the other, nothing else; killed while one of them is made durable."""
        self.shim.arm(Fault.KILL_AT_SYNC, nth)
        async with self.engine() as engine:
            await self.client(engine, (plan(self.seed, BURST * self.number + one) for one in range(1, 30)))

    def restore(self) -> None:
        """Put a backup in the place of the file."""
        name = self.chance.choice(sorted(self.facts.backups))
        self.mark("restoring", name)
        aside = durable.restore(self.folder / name, self.folder / DATABASE)
        assert aside is not None
        self.mark("commit", plants.digest_of(self.folder / DATABASE))  # what is there before the next one commits
        self.mark("restored", name, aside.name)


def lives(seed: int, restores: bool) -> list[str]:
    """What happens, life by life."""
    chance = random.Random(f"{seed}/lives")
    middle = ["leave", "kill", "sync", "work", "early"]
    chance.shuffle(middle)
    bursts = ["drain", *["burst", "read"] * 3]
    story = [*middle[:2], *bursts, *(["restore"] if restores else []), *middle[2:], *bursts, "work"]
    return ["work", *story]


def live(kind: str, life: Life) -> Coroutine[Any, Any, None]:
    """One life."""
    chance = life.chance
    match kind:
        case "work":
            return life.work(9)
        case "drain":
            return life.work(len(life.facts.tried - life.facts.told.keys()) + 2)
        case "leave":
            return life.leave(0.02 + chance.random() * 0.06)
        case "kill":
            return life.killed(0.02 + chance.random() * 0.06)
        case "sync":
            return life.killed_in_a_sync(chance.randint(4, 25))
        case "early":
            return life.killed_in_a_sync(chance.randint(1, 3))
        case "burst":
            return life.burst(chance.randint(2, 9))
        case "read":
            return life.only_read()
    raise AssertionError(kind)


def fork(live: Callable[[], None]) -> int:
    """Do it in a process of its own, and wait for how that ends."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        live()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    folder, notes, number_of_seed, mode, stored, *planted = sys.argv[1:]
    seed = int(number_of_seed)
    synchronous: Sync = "NORMAL" if mode == "NORMAL" else "FULL"
    values: Values = "encoded" if stored == "encoded" else "clear"
    logging.disable(logging.CRITICAL)
    shim = Shim()
    shim.start(Path(folder), Path(notes))
    plant = plants.of(planted)
    plants.instrument(plant, shim.mark if synchronous == "NORMAL" else None)
    world.mark = shim.mark
    facts = Facts()
    told = 0
    for number, kind in enumerate(lives(seed, not planted)):
        life = Life(Path(folder), seed, synchronous, values, facts, shim, plant, number)
        world.published = {}
        shim.mark("life", kind)
        status = fork(life.restore if kind == "restore" else partial(run, kind, life))
        ended_well = status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        assert ended_well or planted, f"life {number} ({kind}) of seed {seed} ended with {status}"
        found = trace.read(Path(notes))
        try:
            for note in found[told:]:
                if note.op is trace.Op.MARK:
                    facts.take(json.loads(note.first))
        except Violation as violation:  # and no power was cut
            sys.stdout.write(json.dumps({"life": kind, "broken": [str(violation)]}) + "\n")
            return
        told = len(found)
    shim.stop()


def run(kind: str, life: Life) -> None:
    asyncio.run(live(kind, life))


if __name__ == "__main__":
    main()
