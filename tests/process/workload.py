"""The program that test_kill kills: every kind of work, and a line outside the database for everything it does.

    python -m tests.process.workload DATABASE EFFECTS ACKS SEED [LIMIT | WHAT:COUNT]

It submits job 0, 1, 2 … (`plan` tells what each is) under the idempotency keys job-0, job-1, … and goes on where the
lines in ACKS end. With LIMIT it stops before that job, waits until nothing is unfinished, and leaves in good order.
With WHAT:COUNT it kills itself the moment it has written that many lines of that kind: a timer seldom hits the
fraction of a millisecond between a promise and a commit that comes too late.

EFFECTS has a line for what really happened, `what invocation label attempt pid ms rest`: a step began, failed, ended
with a token; the handler saw a token, woke, or knows who won a race; an exclusive handler's body was opened and shut.
ACKS has `ack job id pid`, and what every observer was told: `returned|attached|called|output job id ok|failed value`.
"""

import asyncio
import itertools
import logging
import os
import random
import signal
import stat
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from durable import (
    Context,
    DurableFuture,
    DurableTimeoutError,
    Engine,
    Handle,
    InvocationCancelled,
    ObjectContext,
    RetryPolicy,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    as_completed,
    gather,
    handler,
    select,
)
from durable.service import Handler

#: How many jobs are under way at a time.
WINDOW = 16
QUICK = RetryPolicy(initial_interval=0.004, factor=1.5, max_interval=0.03, max_attempts=None)
THREE_TIMES = RetryPolicy(initial_interval=0.003, factor=1.0, max_attempts=3)
KINDS = ("steps", "beside", "nap", "family", "add", "approval", "stamped", "shaky", "order", "regret", "race")
#: The tokens of steps: handler -> what its result tells of them.
Tokens = dict[str, str]


class Job(msgspec.Struct, frozen=True):
    """One job; everything about it follows from the seed and its number."""

    number: int
    kind: str
    amount: int
    key: str
    #: The handler must not start earlier, in ms since the epoch.
    not_before: int = 0


class Change(msgspec.Struct, frozen=True):
    """A counter before and after."""

    old: int
    new: int


class Late(msgspec.Struct, frozen=True):
    """What is added, and when at the earliest."""

    amount: int
    not_before: int


# ---- the model: what must have happened once these jobs are done ----


def plan(seed: int, number: int) -> Job:
    """The job of that number."""
    chance = random.Random(f"{seed}/{number}")
    return Job(number, chance.choice(KINDS), chance.randint(1, 9), chance.choice("abcd"))


def adds_of(job: Job) -> list[tuple[str, int]]:
    """What it adds to which counters."""
    if job.kind == "add":
        return [(job.key, job.amount)]
    if job.kind == "family":
        return [(job.key, job.amount), ("e", 1), ("a", 2), ("b", 2), ("f", 3)]
    if job.kind == "race":
        return [("g", 1), ("g", 2), ("g", 3)]
    return []


def handlers_of(job: Job) -> list[str]:
    """The handlers of all invocations it leads to."""
    more = {
        "family": ["steps", "add", "add", "add", "add", "add_late"],
        "approval": ["approve", "answer"],
        "stamped": ["stamp"],
        "regret": ["victim"],
        "race": ["steps", "add", "add", "add"],
    }
    return [{"approval": "run"}.get(job.kind, job.kind), *more.get(job.kind, [])]


# ---- lines outside the database ----


class Lines:
    """A file that one write per line is appended to."""

    _descriptor = -1
    #: After how many more lines of which kind to die.
    fatal = ""
    fuse = 0

    def open(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, what: str, *fields: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, (what, *fields))) + "\n").encode())
        if what == self.fatal:
            self.fuse -= 1
            if not self.fuse:
                os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        os.close(self._descriptor)


effects = Lines()
acks = Lines()
_serial = itertools.count()


def now_ms() -> int:
    return int(time.time() * 1000)


def stamp(what: str, id: str, label: str, attempt: int, rest: object = "-") -> None:
    effects.write(what, id, label, attempt, os.getpid(), now_ms(), rest)


# ---- steps ----


async def work(id: str, label: str, attempt: int, odds: int) -> str:
    stamp("begin", id, label, attempt)
    await asyncio.sleep(random.uniform(0.0, 0.004))
    return worked(id, label, attempt, odds)


def work_in_thread(id: str, label: str, attempt: int, odds: int) -> str:
    stamp("begin", id, label, attempt)
    time.sleep(random.uniform(0.0, 0.004))
    return worked(id, label, attempt, odds)


def worked(id: str, label: str, attempt: int, odds: int) -> str:
    """Fail in `odds` of 100 attempts, or give a token that no other execution gives."""
    if zlib.crc32(f"{id}/{label}/{attempt}".encode()) % 100 < odds:
        stamp("fail", id, label, attempt)
        raise ConnectionError(f"{label} failed")
    token = f"{label}/{os.getpid()}/{next(_serial)}"
    stamp("end", id, label, attempt, token)
    return token


async def undo_room(id: str, attempt: int) -> str:
    return await work(id, "undo_room", attempt, 0)


async def undo_card(id: str, attempt: int) -> str:
    return await work(id, "undo_card", attempt, 0)


def step(ctx: Context, label: str, *, odds: int = 0, retry: RetryPolicy | None = None) -> DurableFuture[str]:
    """A step named `label`, once in a while in a thread."""
    named = ctx.with_options(name=label, retry=retry)
    if label.endswith("_sync"):
        return named.run(work_in_thread, ctx.request.id, label, ctx.request.attempt, odds)
    return named.run(work, ctx.request.id, label, ctx.request.attempt, odds)


def saw(ctx: Context, label: str, token: str) -> str:
    """From here on the handler knows the token: the step must never run again."""
    stamp("saw", ctx.request.id, label, ctx.request.attempt, token)
    return token


def won(ctx: Context, label: str, what: str) -> None:
    """Every attempt must come to the same end."""
    stamp("won", ctx.request.id, label, ctx.request.attempt, what)


async def take(ctx: Context, label: str, *, odds: int = 0, retry: RetryPolicy | None = None) -> str:
    return saw(ctx, label, await step(ctx, label, odds=odds, retry=retry))


async def rest(ctx: Context, label: str, seconds: float) -> None:
    await ctx.sleep(seconds, name=label)
    stamp("woke", ctx.request.id, label, ctx.request.attempt)


# ---- handlers ----


@handler
async def steps(ctx: Context, job: Job) -> Tokens:
    if job.not_before:
        stamp("woke", ctx.request.id, "start", ctx.request.attempt, job.not_before)
    one = await take(ctx, "one")
    two = await take(ctx, "two_sync")
    three = await take(ctx, "three")
    return {"one": one, "two_sync": two, "three": three}


@handler
async def beside(ctx: Context, job: Job) -> Tokens:
    """Concurrent steps, concurrent durable operations, concurrent flows of several steps."""
    found = await asyncio.gather(step(ctx, "a"), step(ctx, "b_sync"), step(ctx, "c"))
    for label, token in zip(("a", "b_sync", "c"), found, strict=True):
        saw(ctx, label, token)
    d, _, e = await gather(step(ctx, "d"), ctx.sleep(0.006, name="beside"), step(ctx, "e"))
    saw(ctx, "d", d)
    saw(ctx, "e", e)

    async def flow(name: str) -> None:
        await take(ctx, f"{name}1")
        await take(ctx, f"{name}2")

    await asyncio.gather(flow("x"), flow("y"))
    return {"a": found[0], "b_sync": found[1], "c": found[2], "d": d, "e": e}


@handler(inactivity_timeout=0)
async def nap(ctx: Context, job: Job) -> Tokens:
    """Suspended whenever it waits."""
    before = await take(ctx, "before")
    await rest(ctx, "short", job.amount / 1000)
    between = await take(ctx, "between", odds=10)
    await rest(ctx, "long", job.amount / 100)
    after = await take(ctx, "after")
    return {"before": before, "between": between, "after": after}


@handler
async def family(ctx: Context, job: Job) -> Tokens:
    """Calls and sends, alone and together, with and without delay."""
    tokens = await ctx.call(steps, job)
    added = await ctx.call(Counter.add, job.amount, key=job.key)
    ctx.send(Counter.add, 1, key="e")
    ctx.send(Counter.add_late, Late(3, int(ctx.now().timestamp() * 1000) + 30), key="f", delay=0.03)
    mine = await take(ctx, "mine", odds=10)
    await gather(ctx.call(Counter.add, 2, key="a"), ctx.call(Counter.add, 2, key="b"))
    return {"mine": mine, "steps": tokens["three"], "new": str(added.new)}


@handler
async def race(ctx: Context, job: Job) -> Tokens:
    """Lets the journal decide who wins; and flows that do different things."""
    fast, slow = step(ctx, "fast"), step(ctx, "slow_sync")
    winner, _ = await select(fast=fast, nap=ctx.sleep(0.002, name="nap"))
    won(ctx, "select", winner)
    order = [await future async for future in as_completed(slow, fast)]
    won(ctx, "order", "+".join(order))
    try:
        await ctx.call(steps, job).with_timeout(0.012)
        won(ctx, "timeout", "in time")
    except DurableTimeoutError:
        won(ctx, "timeout", "too late")

    async def flow(name: str, amount: int) -> None:
        await take(ctx, f"{name}1")
        await rest(ctx, f"{name}2", amount / 500)
        await ctx.call(Counter.add, amount, key="g")
        await take(ctx, f"{name}3_sync", odds=10)

    await asyncio.gather(flow("p", 1), flow("q", 2), flow("r", 3))
    return {"fast": await fast, "slow_sync": await slow}


class Counter(VirtualObject):
    """Counts by reading and writing."""

    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> Change:
        with body(ctx):
            old = await ctx.get("count", int) or 0
            if amount % 3 == 0:
                await take(ctx, "think", odds=10)
            ctx.set("count", old + amount)
            return Change(old, old + amount)

    @handler
    async def add_late(self, ctx: ObjectContext, late: Late) -> Change:
        with body(ctx):
            stamp("woke", ctx.request.id, "start", ctx.request.attempt, late.not_before)
            old = await ctx.get("count", int) or 0
            ctx.set("count", old + late.amount)
            await rest(ctx, "holding", 0.002)
            return Change(old, old + late.amount)


@contextmanager
def body(ctx: ObjectContext) -> Iterator[None]:
    """The body of an exclusive handler."""
    stamp("open", ctx.request.id, ctx.key, ctx.request.attempt)
    try:
        yield
    finally:
        stamp("shut", ctx.request.id, ctx.key, ctx.request.attempt)


class Approval(Workflow):
    """Waits for a promise that another handler resolves."""

    @handler
    async def run(self, ctx: WorkflowContext, job: Job) -> Tokens:
        asked = await take(ctx, "ask")
        ctx.set("asked", asked)
        ctx.send(approve, ctx.key, delay=0.01 if job.amount % 2 else None)
        answer: str = await ctx.promise("answer", str)
        told = await take(ctx, "tell")
        return {"ask": asked, "tell": told, "answer": answer}

    @handler
    async def answer(self, ctx: SharedWorkflowContext, text: str) -> str:
        await ctx.promise("answer", str).resolve(text)
        return await ctx.get("asked", str) or ""


@handler
async def approve(ctx: Context, key: str) -> Tokens:
    token = await take(ctx, "read", odds=20)
    asked = await ctx.call(Approval.answer, f"yes, {key}", key=key)
    return {"read": token, "asked": asked}


@handler
async def stamped(ctx: Context, job: Job) -> str:
    """Waits for an awakeable that another handler resolves."""
    awakeable = ctx.awakeable(str)
    ctx.send(stamp_it, awakeable.id)
    return await awakeable


@handler(name="stamp")
async def stamp_it(ctx: Context, id: str) -> Tokens:
    token = await take(ctx, "press", odds=20)
    ctx.resolve_awakeable(id, f"stamp of {id}")
    return {"press": token}


@handler
async def shaky(ctx: Context, job: Job) -> Tokens:
    """Steps that fail: under the handler's policy, under their own, and once too often."""
    maybe = await take(ctx, "maybe", odds=40)
    again = await take(ctx, "again_sync", odds=40, retry=QUICK)
    try:
        await take(ctx, "never", odds=100, retry=THREE_TIMES)
    except TerminalError as error:
        return {"maybe": maybe, "again_sync": again, "error": error.message}
    return {}


@handler
async def order(ctx: Context, job: Job) -> Tokens:
    """A saga; with an odd amount it is declined and undone."""
    async with ctx.saga() as saga:
        saga.add_compensation(undo_room, ctx.request.id, ctx.request.attempt)
        room = await take(ctx, "room")
        saga.add_compensation(undo_card, ctx.request.id, ctx.request.attempt)
        card = await take(ctx, "card", odds=10)
        if job.amount % 2:
            raise TerminalError(f"declined {job.number}", 402)
    return {"room": room, "card": card}


@handler(inactivity_timeout=10)
async def regret(ctx: Context, job: Job) -> str:
    """Sleeps awake, often through several kills, then cancels what it has sent, which undoes itself."""
    sent = ctx.send(victim, job)
    await rest(ctx, "doubt", job.amount / 12)
    ctx.cancel(sent.id)
    try:
        await sent.attach()
    except InvocationCancelled:
        return "cancelled"
    return "too late"


@handler
async def victim(ctx: Context, job: Job) -> Tokens:
    async with ctx.saga() as saga:
        saga.add_compensation(undo_room, ctx.request.id, ctx.request.attempt)
        room = await take(ctx, "room")
        await rest(ctx, "forever", 3600)
    return {"room": room}


SERVICES = [
    steps, beside, nap, family, Counter(), Approval(), approve, stamped, stamp_it, shaky, order, regret, victim, race,
]  # fmt: skip
TARGETS: dict[str, Handler[Job, Tokens] | Handler[Job, str]] = {
    "steps": steps, "beside": beside, "nap": nap, "family": family, "stamped": stamped, "shaky": shaky,
    "order": order, "regret": regret, "race": race,
}  # fmt: skip


# ---- the client ----


async def submit(engine: Engine, job: Job) -> Handle[object]:
    """Submit a job in one of the ways there are; doing it twice is doing it once."""
    name = f"job-{job.number}"
    if job.kind == "approval":
        return await engine.send("Approval/run", job, key=name)
    if job.kind == "add":
        return await engine.send("Counter/add", job.amount, key=job.key, idempotency_key=name)
    target = f"{TARGETS[job.kind].service_name}/{TARGETS[job.kind].name}"
    if job.kind == "steps" and job.amount < 4:
        late = msgspec.structs.replace(job, not_before=now_ms() + 25)
        return await engine.send(target, late, idempotency_key=name, delay=0.025)
    return await engine.send(target, job, idempotency_key=name)


async def see(engine: Engine, job: Job, known: bool) -> None:
    """Get the job done, and note all that was promised and told."""
    handle = await submit(engine, job)
    if not known:
        acks.write("ack", job.number, handle.id, os.getpid())
    for observer in ("returned", "attached", "called", "output"):
        try:
            told = await ask(engine, job, handle, observer)
            seen = f"ok {msgspec.json.encode(told).decode()}"
        except TerminalError as error:
            failure = {"message": error.message, "code": error.code}
            seen = f"failed {msgspec.json.encode(failure).decode()}"
        acks.write(observer, job.number, handle.id, seen)


async def ask(engine: Engine, job: Job, handle: Handle[object], observer: str) -> object:
    """The outcome, in the ways there are to learn it."""
    if observer == "attached":
        return await engine.attach(handle.id)
    if observer == "called" and job.kind == "add":
        return await engine.call(Counter.add, job.amount, key=job.key, idempotency_key=f"job-{job.number}")
    return await (handle.output() if observer == "output" else handle.result())


async def client(engine: Engine, jobs: Iterator[Job], known: set[int]) -> None:
    for job in jobs:
        await see(engine, job, job.number in known)


def read_acks(path: str) -> tuple[set[int], set[int]]:
    """The jobs that were acknowledged, and those whose outcome every observer has seen."""
    known: set[int] = set()
    done: set[int] = set()
    if os.path.exists(path):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                what, number, _ = line.split(" ", 2)
                (known if what == "ack" else done if what == "output" else set()).add(int(number))
    return known, done


def leave_with_parent() -> None:
    """When the test is gone, its end of the pipe is closed."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        asyncio.get_running_loop().add_reader(0, os._exit, 1)


async def main(database: str, seed: int, known: set[int], done: set[int], limit: int | None) -> None:
    numbers = itertools.count() if limit is None else range(limit)
    jobs = (plan(seed, number) for number in numbers if number not in done)
    leave_with_parent()
    async with Engine(database, services=SERVICES, retry=QUICK, inactivity_timeout=0.025) as engine:
        os.write(1, b"READY\n")
        await asyncio.gather(*[client(engine, jobs, known) for _ in range(WINDOW)])
        while await engine.invocations(status=UNFINISHED, limit=1):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    if len(asyncio.all_tasks()) > 1:
        sys.stderr.write(f"I9 violated: tasks are left: {asyncio.all_tasks()}\n")


UNFINISHED = ("scheduled", "pending", "ready", "running", "backing-off", "suspended", "paused")


def run() -> None:
    logging.getLogger("durable").setLevel(logging.ERROR)  # steps fail by design
    database, effects_path, acks_path, seed, *rest = sys.argv[1:]
    limit = int(rest[0]) if rest and rest[0].isdecimal() else None
    if rest and limit is None:
        what, count = rest[0].split(":")
        effects.fatal = acks.fatal = what
        effects.fuse = acks.fuse = int(count)
    known, done = read_acks(acks_path)
    effects.open(effects_path)
    acks.open(acks_path)
    asyncio.run(main(database, int(seed), known, done, limit))
    deadline = time.monotonic() + 2
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)  # anyio's workers have been told to end
    if threading.active_count() > 1:
        sys.stderr.write(f"I9 violated: threads are left: {threading.enumerate()}\n")
    effects.close()
    acks.close()


if __name__ == "__main__":
    run()
