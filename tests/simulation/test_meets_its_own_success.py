"""What is asked from outside takes effect once and may be asked again: a crash in between fails no correct test."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import pytest

from durable import (
    Applied,
    ConflictError,
    Context,
    NotFoundError,
    ObjectContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.client import Handle
from durable.engine import Engine
from durable.testing import Sim, check, modes
from durable.testing.engines import SimulatedEngine


async def note() -> None: ...


@handler(service="Work")
async def long(ctx: Context) -> None:
    await ctx.run(note)
    await ctx.sleep("1 day")


@handler(service="Work")
async def stop(ctx: Context) -> str:
    await ctx.run(note)
    return str(await ctx.signal("go"))


@handler(service="Work")
async def short(ctx: Context) -> str:
    await ctx.run(note)
    return "done"


class Counter(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext) -> None:
        ctx.set("n", (await ctx.get("n", int) or 0) + 1)


class Approval(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        return str(await ctx.promise("answer"))


SERVICES = [long, stop, short, Counter(), Approval()]


class Driver(Protocol):
    """A `Sim`, or the engine of a test."""

    async def send(self, target: Any, /, *, key: str | None = None) -> Handle[Any]: ...

    async def ask(self, name: str, *args: Any, **options: Any) -> Any: ...


class OfSim:
    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    async def send(self, target: Any, /, *, key: str | None = None) -> Handle[Any]:
        return await self.sim.send(target, key=key)

    async def ask(self, name: str, *args: Any, **options: Any) -> Any:
        return await self.sim.repeat(lambda engine: getattr(engine, name)(*args, **options))


class OfEngine:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def send(self, target: Any, /, *, key: str | None = None) -> Handle[Any]:
        return await self.engine.send(target, key=key)

    async def ask(self, name: str, *args: Any, **options: Any) -> Any:
        return await getattr(self.engine, name)(*args, **options)


async def ended(handle: Handle[Any]) -> str:
    try:
        return str(await handle.result())
    except TerminalError as error:
        return type(error).__name__


async def cancels(driver: Driver) -> object:
    handle = await driver.send(long)
    await asyncio.sleep(1)
    return await handle.cancel(), await ended(handle)


async def cancels_at_once(driver: Driver) -> object:
    handle = await driver.send(long)
    await handle.cancel()
    return await ended(handle)


async def kills(driver: Driver) -> object:
    handle, other = await driver.send(long), await driver.send(long)
    await asyncio.sleep(1)
    return (
        await driver.ask("kill", handle.id),
        await other.cancel(kill=True),
        await ended(handle),
        await ended(other),
    )


async def pauses(driver: Driver) -> object:
    handle = await driver.send(stop)
    await asyncio.sleep(1)
    paused = await driver.ask("pause", handle.id)
    await asyncio.sleep(1)
    again = await driver.ask("pause", handle.id)
    resumed = await driver.ask("resume", handle.id)
    await driver.ask("send_signal", handle.id, "go", "on")
    return paused, again, resumed, await ended(handle)


async def purges(driver: Driver) -> object:
    handle = await driver.send(short)
    await handle.result()
    purged = await driver.ask("purge_journal", handle.id), await driver.ask("purge", handle.id)
    with pytest.raises(NotFoundError):
        await driver.ask("purge", handle.id)
    return purged


async def settles(driver: Driver) -> object:
    handle = await driver.send(Approval.run, key="a")
    await driver.ask("resolve_promise", "Approval", "a", "answer", "yes")
    with pytest.raises(ConflictError):
        await driver.ask("reject_promise", "Approval", "a", "answer", "no")
    return await ended(handle)


async def patches(driver: Driver) -> object:
    await (await driver.send(Counter.add, key="a")).result()
    version = (await driver.ask("get_state", "Counter", "a")).version
    await driver.ask("patch_state", "Counter", "a", {"n": 5}, expected_version=version)
    with pytest.raises(ConflictError):
        await driver.ask("patch_state", "Counter", "a", {"n": 6}, expected_version=version)
    return dict(await driver.ask("get_state", "Counter", "a"))


async def cancels_too_late(driver: Driver) -> object:
    handle = await driver.send(short)
    await handle.result()
    for name in ("cancel", "kill", "pause", "resume"):
        with pytest.raises(ConflictError):
            await driver.ask(name, handle.id)
    return "completed"


TESTS: dict[Callable[[Driver], Coroutine[Any, Any, object]], object] = {
    cancels: (Applied.ACCEPTED, "InvocationCancelled"),
    cancels_at_once: "InvocationCancelled",
    kills: (Applied.DONE, Applied.DONE, "InvocationKilled", "InvocationKilled"),
    pauses: (Applied.ACCEPTED, Applied.UNCHANGED, Applied.DONE, "on"),
    purges: (None, None),
    settles: "yes",
    patches: {"n": 5},
    cancels_too_late: "completed",
}


@pytest.mark.parametrize("test", TESTS)
def test_a_scenario_that_is_checked(test: Callable[[Driver], Coroutine[Any, Any, object]]) -> None:
    assert check(SERVICES, lambda sim: test(OfSim(sim))) == TESTS[test]


@pytest.mark.parametrize("test", TESTS)
def test_an_engine_that_dies_under_a_test(test: Callable[[Driver], Coroutine[Any, Any, object]]) -> None:
    async def main() -> None:
        undisturbed = SimulatedEngine(SERVICES)
        assert await undisturbed.run(test(OfEngine(undisturbed))) == TESTS[test]
        for mode in modes(undisturbed.commits.commits):
            engine = SimulatedEngine(SERVICES, mode=mode)
            assert await engine.run(test(OfEngine(engine))) == TESTS[test], mode.name

    asyncio.run(main())
