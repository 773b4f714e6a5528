"""An observer hears of everything, in order, and disturbs nothing."""

import asyncio
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from durable import Context, Engine, EngineFailedError, RetryPolicy, TerminalError, UsageError, handler
from durable.core.effects import Failed, Then
from durable.core.invocation import Invocation, Submission
from durable.core.journal import Kind, Outcome
from durable.runtime.observer import EVENTS, Observer
from durable.testing import MemoryStore, Tables, VirtualClock, run
from durable.testing.faults import around

tries: Counter[str] = Counter()


async def once_more(name: str) -> str:
    tries[name] += 1
    if tries[name] == 1:
        raise ConnectionError("first try")
    return name


@handler(service="S", inactivity_timeout=0)
async def work(ctx: Context, name: str) -> str:
    text = await ctx.run(once_more, name)
    await ctx.sleep("1h")
    return text


@handler(service="S")
async def parent(ctx: Context) -> str:
    ctx.send("S/child", "sent")
    return str(await ctx.call("S/child", "called"))


@handler(service="S")
async def child(ctx: Context, name: str) -> str:
    if name == "bad":
        raise TerminalError("bad", code=400)
    return name


@handler(service="S", retry=RetryPolicy(max_attempts=2))
async def never(ctx: Context, what: str) -> None:
    if what == "terminal step":
        with suppress(TerminalError):
            step = ctx.with_options(retry=RetryPolicy(max_attempts=1))
            await step.run(once_more, what)
        return
    raise ConnectionError("never")


@handler(service="S", retry=RetryPolicy(max_attempts=2, on_max_attempts="kill"))
async def killed(ctx: Context) -> None:
    raise ConnectionError("never")


class Recorder(Observer):
    """Writes down all that it hears, in short."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def engine_started(self) -> None:
        self.heard.append(("engine started",))

    def engine_stopped(self) -> None:
        self.heard.append(("engine stopped",))

    def engine_failed(self, error: BaseException) -> None:
        self.heard.append(("engine failed", type(error).__name__))

    def invocation_asked(self, submission: Submission) -> None:
        self.heard.append(("asked", submission.target))

    def invocation_accepted(self, submission: Submission, created_at: int) -> None:
        self.heard.append(("accepted", submission.target))

    def invocation_dismissed(self, submission: Submission) -> None:
        self.heard.append(("dismissed", submission.target))

    def invocation_paused(self, submission: Submission) -> None:
        self.heard.append(("paused", submission.target))

    def invocation_ended(self, invocation: Invocation, outcome: Outcome) -> None:
        self.heard.append(("ended", invocation.submission.target, outcome.ok))

    def attempt_started(self, submission: Submission, attempt: int) -> None:
        self.heard.append(("started", submission.target, attempt))

    def attempt_ended(self, submission: Submission, attempt: int, how: str, error: BaseException | None) -> None:
        self.heard.append((how, submission.target, attempt, type(error).__name__))

    def attempt_lost(self, submission: Submission, attempt: int) -> None:
        self.heard.append(("lost", submission.target, attempt))

    def attempt_failed(self, failed: Failed) -> None:
        self.heard.append(("then", failed.invocation.submission.target, failed.attempt, failed.then))

    def entry_made(self, submission: Submission, attempt: int, entry: int, kind: Kind, name: str) -> None:
        self.heard.append(("entry", entry, kind, name))

    def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
        self.heard.append(("step", attempt, entry, name))

    def step_ended(
        self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
    ) -> None:
        self.heard.append(("step ended", attempt, entry, name, type(error).__name__))


def an_engine(observer: Any, **options: Any) -> Engine:
    clock = VirtualClock(asyncio.get_running_loop())
    options = {"store": MemoryStore()} | options
    retry = RetryPolicy(initial_interval="1s")
    services = [work, parent, child, never, killed]
    return Engine(services=services, clock=clock, retry=retry, observer=observer, **options)


def test_it_hears_of_an_invocation_from_its_beginning_to_its_end() -> None:
    tries.clear()
    recorder = Recorder()

    async def story() -> None:
        async with an_engine(recorder) as engine:
            assert await engine.call(work, "x") == "x"

    run(story)
    assert recorder.heard == [
        ("engine started",),
        ("asked", "S/work"),
        ("accepted", "S/work"),
        ("started", "S/work", 1),
        ("step", 1, 1, "once_more"),
        ("step ended", 1, 1, "once_more", "ConnectionError"),
        ("failed", "S/work", 1, "ConnectionError"),
        ("then", "S/work", 1, Then.RETRY),
        ("started", "S/work", 2),
        ("step", 2, 1, "once_more"),
        ("step ended", 2, 1, "once_more", "NoneType"),
        ("entry", 2, Kind.SLEEP, ""),
        ("suspended", "S/work", 2, "NoneType"),
        ("started", "S/work", 3),
        ("finished", "S/work", 3, "NoneType"),
        ("ended", "S/work", True),
        ("engine stopped",),
    ], "a replay makes no entry and runs no step"


def heard_of(story: Any) -> list[tuple[Any, ...]]:
    """What is heard of the invocations of a story."""
    tries.clear()
    recorder = Recorder()

    async def main() -> None:
        async with an_engine(recorder) as engine:
            await story(engine)

    run(main)
    assert (recorder.heard[0], recorder.heard[-1]) == (("engine started",), ("engine stopped",))
    return recorder.heard[1:-1]


def test_it_hears_of_calls_and_sends() -> None:
    async def story(engine: Engine) -> None:
        assert await engine.call(parent) == "called"

    heard = heard_of(story)
    made = [what for what in heard if what[0] in ("asked", "entry", "accepted")]
    assert made == [
        ("asked", "S/parent"),
        ("accepted", "S/parent"),
        ("asked", "S/child"),
        ("entry", 1, Kind.SEND, "S/child"),
        ("asked", "S/child"),
        ("entry", 2, Kind.CALL, "S/child"),
        ("accepted", "S/child"),
        ("accepted", "S/child"),
    ]


def test_it_hears_what_becomes_of_a_failure() -> None:
    async def story(engine: Engine) -> None:
        with suppress(TerminalError):
            await engine.call(killed)
        await engine.send(never, "paused")
        await asyncio.sleep(60)
        await engine.call(never, "terminal step")

    heard = heard_of(story)
    assert [what for what in heard if what[0] in ("then", "paused", "ended")] == [
        ("then", "S/killed", 1, Then.RETRY),
        ("then", "S/killed", 2, Then.END),
        ("ended", "S/killed", False),
        ("then", "S/never", 1, Then.RETRY),
        ("then", "S/never", 2, Then.PAUSE),
        ("paused", "S/never"),
        ("then", "S/never", 1, Then.GO_ON),
        ("ended", "S/never", True),
    ]


def test_it_hears_of_those_that_were_there_already() -> None:
    async def story(engine: Engine) -> None:
        await gather_calls(engine)
        await engine.send(child, "x", idempotency_key="one")

    async def gather_calls(engine: Engine) -> None:
        await asyncio.gather(*(engine.call(child, "x", idempotency_key="one") for _ in range(3)))

    count = Counter(what[0] for what in heard_of(story) if len(what) == 2)
    assert count == {"asked": 4, "accepted": 1, "dismissed": 3}


def test_it_hears_of_a_restart_and_of_a_kill() -> None:
    async def story(engine: Engine) -> None:
        with suppress(TerminalError):
            await engine.call(child, "bad", idempotency_key="bad")
        id = engine.idempotent(child, "bad").id
        with suppress(TerminalError):
            await (await engine.restart_as_new(id)).result()
        await engine.restart_as_new(id, dry_run=True)
        await engine.kill((await engine.send(work, "y")).id)

    heard = heard_of(story)
    assert Counter(what for what in heard if what[0] in ("asked", "accepted", "ended")) == {
        ("asked", "S/child"): 2,
        ("accepted", "S/child"): 2,
        ("ended", "S/child", False): 2,
        ("asked", "S/work"): 1,
        ("accepted", "S/work"): 1,
        ("ended", "S/work", False): 1,
    }


@pytest.mark.parametrize("crash", [True, False])
def test_it_hears_after_a_crash_which_attempts_nobody_told_it_the_end_of(crash: bool) -> None:
    recorder, tables = Recorder(), Tables()

    @handler(service="S", inactivity_timeout="1d")
    async def waits(ctx: Context) -> None:
        await ctx.sleep("1h")

    def an_engine() -> Engine:
        clock = VirtualClock(asyncio.get_running_loop())
        return Engine(services=[waits], clock=clock, observer=recorder, store=MemoryStore(tables))

    async def story() -> None:
        engine = await an_engine().start()
        handle = await engine.send(waits)
        await asyncio.sleep(1)
        if crash:
            engine.abandon()
        else:
            await engine.close()
        recorder.heard.clear()
        async with an_engine() as engine:
            await engine.attach(handle.id)

    run(story)
    told = [("lost", "S/waits", 1)] if crash else []
    assert recorder.heard[1 : 2 + len(told)] == [*told, ("started", "S/waits", 2)]


def test_what_it_puts_into_headers_is_stored_with_the_invocation() -> None:
    class Marks(Observer):
        def invocation_asked(self, submission: Submission) -> None:
            submission.headers["mark"] = submission.target

    seen: list[str] = []

    @handler(service="H")
    async def looks(ctx: Context) -> None:
        seen.append(ctx.request.headers["mark"])
        if ctx.request.idempotency_key is None:
            await ctx.call("H/looks", idempotency_key="once")

    async def story() -> None:
        store, clock = MemoryStore(), VirtualClock(asyncio.get_running_loop())
        engine = Engine(services=[looks], store=store, clock=clock, observer=Marks())
        async with engine:
            handle = await engine.send(looks)
            await handle.result()
            await (await engine.restart_as_new(handle.id)).result()

    run(story)
    assert seen == ["H/looks"] * 3, "the restarted one joins its call"


def test_what_it_sets_in_context_variables_holds_in_the_handler_and_its_steps() -> None:
    where: ContextVar[str] = ContextVar("where", default="nowhere")

    class Places(Observer):
        def attempt_started(self, submission: Submission, attempt: int) -> None:
            where.set(f"attempt {attempt}")

        def step_started(self, submission: Submission, attempt: int, entry: int, name: str) -> None:
            self.token = where.set(f"step {name}")

        def step_ended(
            self, submission: Submission, attempt: int, entry: int, name: str, error: BaseException | None
        ) -> None:
            where.reset(self.token)

    seen: list[str] = []

    def plain() -> None:
        seen.append(where.get())

    async def beside() -> None:
        seen.append(where.get())

    @handler(service="C", inactivity_timeout=0)
    async def asks(ctx: Context) -> None:
        seen.append(where.get())
        await ctx.run(plain)
        seen.append(where.get())
        step = ctx.run(beside)
        await ctx.sleep(1)
        await step
        seen.append(where.get())

    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[asks], store=MemoryStore(), clock=clock, observer=Places()) as engine:
            await engine.call(asks)

    run(story)
    assert seen == ["attempt 1", "step plain", "attempt 1", "step beside", "attempt 2", "attempt 2", "attempt 2"]


def test_several_hear_the_same() -> None:
    tries.clear()
    one, other = Recorder(), Recorder()

    async def story() -> None:
        async with an_engine([one, Observer(), other]) as engine:
            await engine.call(work, "x")

    run(story)
    assert one.heard == other.heard != []


@pytest.mark.parametrize("nonsense", [1, "observer", [1], Recorder, [Recorder]])
def test_what_is_no_observer_is_refused(nonsense: Any) -> None:
    with pytest.raises(UsageError, match="Observer"):
        Engine(store=MemoryStore(), observer=nonsense)


def test_it_hears_of_every_turn_and_of_the_failure() -> None:
    turns: list[tuple[int, int, float]] = []
    commits = 0

    class Counts(Recorder):
        def turn_committed(self, commands: int, rows: int, seconds: float) -> None:
            turns.append((commands, rows, seconds))

    counts = Counts()

    async def fail(name: str, method: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal commits
        commits += 1
        if commits == 4:
            raise OSError("no disk")
        await asyncio.sleep(0.25)
        await method(*arguments)

    def faulty(name: str, method: Any, arguments: tuple[Any, ...]) -> Any:
        return fail(name, method, arguments) if name == "commit" else method(*arguments)

    async def story() -> None:
        engine = await an_engine(counts, store=around(MemoryStore(), faulty)).start()
        with pytest.raises(EngineFailedError):
            await asyncio.gather(*(engine.call(work, str(number)) for number in range(10)))
        await engine.close()

    run(story)
    assert sum(commands for commands, _, _ in turns) >= 10
    assert max(commands for commands, _, _ in turns) >= 10, "what came together is one turn"
    assert all(rows >= 10 and seconds == 0.25 for commands, rows, seconds in turns if commands >= 10)
    assert counts.heard[-2:] == [("engine failed", "EngineFailedError"), ("engine stopped",)]


class Nonsense(BaseException):
    pass


@pytest.mark.parametrize("kind", [RuntimeError, Nonsense, asyncio.CancelledError])
def test_one_that_always_raises_harms_nobody(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    asked: Counter[str] = Counter()

    class Raises(Observer):
        def __getattribute__(self, name: str) -> Any:
            if name in EVENTS:
                asked[name] += 1
                raise kind
            return super().__getattribute__(name)

    for event in EVENTS:
        setattr(Raises, event, lambda self, *about: None)

    tries.clear()
    recorder = Recorder()

    async def story() -> None:
        async with an_engine([Raises(), recorder]) as engine:
            assert await engine.call(work, "x") == "x"
            await engine.send(child, "x", idempotency_key="one")
            await engine.send(child, "x", idempotency_key="one")
            await engine.pause((await engine.send(work, "y")).id)
            assert engine.failure is None

    run(story)
    assert asked.keys() == set(EVENTS) - {
        *("attempt_lost", "engine_failed", "request_started", "request_ended", "record_offered")
    }
    assert len([record for record in caplog.records if "observer" in record.getMessage()]) == 1
    assert ("finished", "S/work", 3, "NoneType") in recorder.heard, "the other hears all the same"
