"""C-096: what is asked from outside with an idempotency key takes effect once, wherever the process dies."""

import asyncio

import pytest

from durable import (
    ConflictError,
    Context,
    Engine,
    InvocationCancelled,
    TerminalError,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.invocation import Submission
from durable.runtime.observer import Observer
from durable.testing import Sim, check


@handler(service="Work")
async def listen(ctx: Context) -> list[str]:
    return [await ctx.signal("go", str) for _ in range(3)]


@handler(service="Work")
async def ask(ctx: Context) -> str:
    return await ctx.awakeable(str)


@handler(service="Work")
async def stubborn(ctx: Context) -> int:
    """Counts how often it is cancelled."""
    cancels = 0
    for _ in range(3):
        try:
            await ctx.sleep("1h")
        except InvocationCancelled:
            cancels += 1
    return cancels


@handler(service="Work", on_key_reuse="refuse")
async def strict(ctx: Context) -> str:
    return await ctx.signal("go", str)


class Approval(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        return await ctx.promise("answer", str)


SERVICES = [listen, ask, stubborn, strict, Approval()]


async def awakeable_of(sim: Sim, id: str) -> str:
    """The id of the awakeable that it waits for."""
    found: list[str] = []

    async def waits() -> bool:
        found[:] = [one.detail for one in (await sim.describe(id)).journal if one.kind == "awakeable" and one.detail]
        return bool(found)

    await sim.until(waits)
    return found[0]


def test_each_signal_of_a_key_is_handed_over_once() -> None:
    async def scenario(sim: Sim) -> object:
        handle = await sim.send(listen)

        async def go(value: str) -> None:
            await sim.repeat(lambda engine: engine.send_signal(handle.id, "go", value, idempotency_key=value))

        for value in ("a", "b", "a", "c"):
            await go(value)
        return await handle.result()

    assert check(SERVICES, scenario) == ["a", "b", "c"]


def test_what_is_asked_twice_in_one_breath_is_meant_twice() -> None:
    """The simulation gives each request a key of its own, and the same one when a crash has it asked again."""

    async def scenario(sim: Sim) -> object:
        handle = await sim.send(listen)

        async def both(engine: Engine) -> None:
            await engine.send_signal(handle.id, "go", "a")
            await engine.send_signal(handle.id, "go", "a")

        await sim.repeat(both)
        await sim.repeat(lambda engine: engine.reject_signal(handle.id, "go", "no", 418))
        with pytest.raises(TerminalError, match="no"):
            await handle.result()
        return [row.kind for row in (await handle.describe()).journal].count("signal")

    assert check(SERVICES, scenario) == 3


def test_a_cancel_that_is_asked_again_is_one_cancel() -> None:
    async def scenario(sim: Sim) -> object:
        handle = await sim.send(stubborn)
        await asyncio.sleep(1)
        await sim.repeat(lambda engine: engine.cancel(handle.id))
        await asyncio.sleep(1)
        await handle.cancel(idempotency_key="mine")
        await handle.cancel(idempotency_key="mine")
        return await handle.result()

    assert check(SERVICES, scenario) == 2


def test_a_restart_that_is_asked_again_is_one_restart() -> None:
    async def scenario(sim: Sim) -> object:
        handle = await sim.send(listen)
        await handle.cancel(kill=True)
        again = await sim.repeat(lambda engine: engine.restart_as_new(handle.id))
        same = await sim.repeat(lambda engine: engine.restart_as_new(handle.id, idempotency_key="k"))
        assert (
            same.id == (await sim.repeat(lambda e: e.restart_as_new(handle.id, idempotency_key="k"))).id != again.id
        )
        counts: dict[str, int] = await sim.repeat(lambda engine: engine.count_invocations(service="Work"))
        return sum(counts.values())

    assert check(SERVICES, scenario) == 3


def test_who_completes_something_with_a_key_can_tell_its_own_success() -> None:
    async def scenario(sim: Sim) -> object:
        asked = await sim.send(ask)
        id = await awakeable_of(sim, asked.id)
        run = await sim.send(Approval.run, key="a")

        async def resolve(value: str, key: str | None) -> None:
            await sim.repeat(lambda engine: engine.resolve_awakeable(id, value, idempotency_key=key))

        async def reject(key: str) -> None:
            await sim.repeat(
                lambda engine: engine.reject_promise("Approval", "a", "answer", key, idempotency_key=key)
            )

        for _ in range(2):
            await resolve("yes", "mine")
            await reject("mine")
        for key in ("theirs", "others"):
            with pytest.raises(ConflictError):
                await resolve("no", key)
            with pytest.raises(ConflictError):
                await reject(key)
        await resolve("ignored, as it has no key", None)
        with pytest.raises(TerminalError, match="mine"):
            await run.result()
        return await asked.result()

    assert check(SERVICES, scenario) == "yes"


def test_a_key_that_comes_with_another_value_is_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with Engine(":memory:", services=SERVICES) as engine:
            first, other = await engine.send(listen), await engine.send(strict)
            for value in ({"b", "a"}, {"a", "b"}):
                await engine.send_signal(first.id, "set", value, idempotency_key="k")
            assert not caplog.records
            await engine.send_signal(first.id, "set", "else", idempotency_key="k")
            await engine.reject_signal(first.id, "set", "else", idempotency_key="k")
            [line, _] = [one.getMessage() for one in caplog.records]
            assert "'k'" in line
            assert first.id in line
            await engine.send_signal(other.id, "go", "a", idempotency_key="k")
            with pytest.raises(ConflictError, match="'k'"):
                await engine.send_signal(other.id, "go", "b", idempotency_key="k")
            assert await other.result() == "a"

    asyncio.run(story())


class Followed(Observer):
    """What became of each invocation that was asked for."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def invocation_asked(self, submission: Submission) -> None:
        self.told.append(("asked", submission.restarted_from is not None))

    def invocation_accepted(self, submission: Submission, created_at: int) -> None:
        self.told.append(("accepted", submission.restarted_from is not None))

    def invocation_dismissed(self, submission: Submission) -> None:
        self.told.append(("dismissed", submission.restarted_from is not None))


def test_an_observer_is_told_that_a_repeated_restart_makes_nothing() -> None:
    async def story() -> None:
        followed = Followed()
        async with Engine(":memory:", services=SERVICES, observer=followed) as engine:
            handle = await engine.send(listen)
            await handle.cancel(kill=True)
            ids = {(await engine.restart_as_new(handle.id, idempotency_key="k")).id for _ in range(2)}
            assert len(ids) == 1
        restarts = [what for what, restarted in followed.told if restarted]
        assert restarts == ["asked", "accepted", "asked", "dismissed"]

    asyncio.run(story())
