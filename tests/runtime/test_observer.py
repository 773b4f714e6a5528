"""An observer hears of everything, in order, and disturbs nothing."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from durable import Context, Engine, EngineFailedError, RetryPolicy, handler
from durable.runtime.observer import EVENTS, Observer
from durable.testing import MemoryStore, VirtualClock, run
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


class Recorder(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def attempt_started(self, id: str, target: str, attempt: int) -> None:
        self.heard.append(("started", target, attempt))

    def attempt_ended(self, id: str, target: str, attempt: int, how: str) -> None:
        self.heard.append((how, target, attempt))

    def step_started(self, id: str, entry: int, name: str) -> None:
        self.heard.append(("step", entry, name))

    def step_ended(self, id: str, entry: int, name: str, error: BaseException | None) -> None:
        self.heard.append(("step ended", entry, name, type(error).__name__))

    def engine_failed(self, error: BaseException) -> None:
        self.heard.append(("failed", type(error).__name__))


def an_engine(observer: Observer, **options: Any) -> Engine:
    clock = VirtualClock(asyncio.get_running_loop())
    options = {"store": MemoryStore()} | options
    retry = RetryPolicy(initial_interval="1s")
    return Engine(services=[work], clock=clock, retry=retry, observer=observer, **options)


def test_it_hears_of_attempts_and_their_steps() -> None:
    tries.clear()
    recorder = Recorder()

    async def story() -> None:
        async with an_engine(recorder) as engine:
            assert await engine.call(work, "x") == "x"
            await engine.kill((await engine.send(work, "y")).id)

    run(story)
    assert recorder.heard[:10] == [
        ("started", "S/work", 1),
        ("step", 1, "once_more"),
        ("step ended", 1, "once_more", "ConnectionError"),
        ("failed", "S/work", 1),
        ("started", "S/work", 2),
        ("step", 1, "once_more"),
        ("step ended", 1, "once_more", "NoneType"),
        ("suspended", "S/work", 2),
        ("started", "S/work", 3),
        ("finished", "S/work", 3),
    ]


def test_it_hears_of_every_turn_and_of_the_failure() -> None:
    commands: list[int] = []
    commits = 0

    class Counts(Recorder):
        def turn_committed(self, commands_: int) -> None:
            commands.append(commands_)

    counts = Counts()

    def fail(name: str, method: Any, arguments: tuple[Any, ...]) -> Any:
        nonlocal commits
        commits += name == "commit"
        if name == "commit" and commits == 4:
            raise OSError("no disk")
        return method(*arguments)

    async def story() -> None:
        engine = await an_engine(counts, store=around(MemoryStore(), fail)).start()
        with pytest.raises(EngineFailedError):
            await asyncio.gather(*(engine.call(work, str(number)) for number in range(10)))
        await engine.close()

    run(story)
    assert sum(commands) >= 10
    assert max(commands) >= 10, "what came together is one turn"
    assert counts.heard[-1] == ("failed", "EngineFailedError")


class Nonsense(BaseException):
    pass


@pytest.mark.parametrize("kind", [RuntimeError, Nonsense, asyncio.CancelledError])
def test_one_that_always_raises_harms_nobody(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    tries.clear()
    asked: Counter[str] = Counter()

    class Raises:
        def __getattr__(self, name: str) -> Any:
            asked[name] += 1
            raise kind

    async def story() -> None:
        observer: Any = Raises()
        async with an_engine(observer) as engine:
            assert await engine.call(work, "x") == "x"
            assert engine.failure is None

    run(story)
    assert asked.keys() == set(EVENTS) - {"engine_failed"}
    assert len([record for record in caplog.records if "observer" in record.getMessage()]) == 1
