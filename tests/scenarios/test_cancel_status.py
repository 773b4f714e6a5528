"""What a cancel does, and answers, in every status: what was not started ends at once, what is in flight is told."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from durable import (
    Applied,
    ConflictError,
    Context,
    InvalidRequestError,
    NotFoundError,
    ObjectContext,
    RetryPolicy,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.testing import Sim, check, simulate
from tests.scenarios.controls import CANCELLED, WHOEVER_ASKS, Asker, Canceller, cancel, once, order, told, waits
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of

# ---- what was not started ends at once ----


def noting(sim: Sim) -> Iterable[object]:
    """A handler that says that it ran; one for a key that somebody may hold."""

    async def start() -> None:
        sim.effect("started")

    @handler(service="Work")
    async def work(ctx: Context) -> None:
        await ctx.run(start)

    class Room(VirtualObject):
        @handler
        async def stay(self, ctx: ObjectContext) -> str:
            await ctx.signal("open")
            return "stayed"

        @handler
        async def enter(self, ctx: ObjectContext) -> None:
            await ctx.run(start)

    return [work, Room(), Canceller()]


@WHOEVER_ASKS
def test_a_scheduled_one_ends_at_once_and_never_starts(asker: Asker) -> None:
    """C-057: an attached client gets 409 cancelled; the timer is gone."""

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Work/work", delay="1h")
        attached = asyncio.create_task(failure_of(sim.result(handle.id)))
        await asyncio.sleep(1)
        since_ms = sim.clock.now_ms()
        assert await cancel(sim, handle.id, asker) in (Applied.DONE, None)
        error = await attached
        assert sim.clock.now_ms() - since_ms < 1000
        assert sim.tables.timers == set()
        await asyncio.sleep(7200)
        assert not sim.effects
        return told(error)

    assert check(noting, scenario) == CANCELLED


@WHOEVER_ASKS
def test_a_pending_one_leaves_its_queue_and_never_starts(asker: Asker) -> None:
    """Design 4.2: it ends at once, whoever holds the key goes on, and who is behind it moves up."""

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], str, str]:
        holder = await sim.send("Room/stay", key="k")
        waiting = await sim.send("Room/enter", key="k")
        behind = await sim.send("Room/stay", key="k")
        attached = asyncio.create_task(failure_of(sim.result(waiting.id)))
        assert await sim.status(waiting.id) == "pending"
        assert await cancel(sim, waiting.id, asker) in (Applied.DONE, None)
        error = await attached
        for one in (holder, behind):
            assert await sim.status(one.id) != "completed"
            await sim.repeat(lambda engine, id=one.id: engine.send_signal(id, "open"))  # type: ignore[misc]
        results = await sim.result(holder.id), await sim.result(behind.id)
        assert not sim.effects
        return told(error), *results

    assert check(noting, scenario) == (CANCELLED, "stayed", "stayed")


@pytest.mark.parametrize("how", ["scheduled", "pending"])
def test_what_ended_before_it_started_is_remembered_for_its_retention(how: str) -> None:
    """Design 4.2: described, attached to and found by its key as cancelled; forgotten a day later."""

    async def scenario(sim: Sim) -> list[object]:
        if how == "scheduled":
            target, key, delay = "Work/work", None, "1h"
        else:
            target, key, delay = "Room/enter", "k", None
            await sim.send("Room/stay", key="k")
        handle = await sim.send(target, key=key, delay=delay, idempotency_key="only once")
        await cancel(sim, handle.id)
        await sim.restart()
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        attached = await failure_of(sim.result(handle.id))
        again = await sim.send(target, key=key, delay=delay, idempotency_key="only once")
        assert again.id == handle.id
        assert not again.accepted
        resubmitted = await failure_of(sim.result(again.id))

        await asyncio.sleep(3 * 86_400)
        with pytest.raises(NotFoundError):
            await sim.result(handle.id)
        assert not sim.effects
        return [view.status, view.completion_result, told(attached), told(resubmitted)]

    assert check(noting, scenario) == ["completed", "failure", CANCELLED, CANCELLED]


# ---- what is in flight is told ----


def test_the_answer_says_what_a_cancel_did() -> None:
    """C-058: done at once, accepted, or an error: 409 for a completed one, 404 for an unknown, 400 for no id."""

    def services(sim: Sim) -> Iterable[object]:
        async def stay() -> None:
            await asyncio.sleep(60)

        @handler(service="Stay")
        async def busy(ctx: Context) -> None:
            await ctx.run(stay)
            await ctx.sleep("1d")

        @handler(service="Sleep", inactivity_timeout=0)
        async def asleep(ctx: Context) -> None:
            await ctx.sleep("1d")

        def failing(service: str, policy: RetryPolicy) -> object:
            @handler(service=service, retry=policy)
            async def fail(ctx: Context) -> None:
                if not sim.effects["mended"]:
                    raise RuntimeError("not yet")
                await ctx.sleep("1d")

            return fail

        back_off = failing("BackOff", RetryPolicy(initial_interval="1d", max_interval="1d"))
        pause = failing("Pause", RetryPolicy(max_attempts=1, on_max_attempts="pause"))
        return [busy, asleep, back_off, pause, *noting(sim)]

    async def scenario(sim: Sim) -> dict[str, object]:
        answers: dict[str, object] = {}

        async def ask(name: str, target: str, status: str, **options: Any) -> str:
            handle = await sim.send(target, **options)
            await reaches(sim, handle.id, status)
            sim.effects["mended"] += status in ("backing-off", "paused")
            answers[name] = await sim.repeat(lambda engine: engine.cancel(handle.id))
            assert told(await failure_of(sim.result(handle.id))) == CANCELLED
            sim.effects["mended"] = 0
            return str(handle.id)

        await ask("scheduled", "Work/work", "scheduled", delay="1h")
        await sim.send("Room/stay", key="k")
        await ask("pending", "Room/enter", "pending", key="k")
        await ask("running", "Stay/busy", "running")
        await ask("suspended", "Sleep/asleep", "suspended")
        await ask("backing-off", "BackOff/fail", "backing-off")
        completed = await ask("paused", "Pause/fail", "paused")

        with pytest.raises(ConflictError) as conflict:
            await sim.engine.cancel(completed)
        with pytest.raises(NotFoundError) as unknown:
            await sim.engine.cancel(completed[:-4] + "AAAA")
        with pytest.raises(InvalidRequestError) as malformed:
            await sim.engine.cancel("inv_1nonsense")
        answers |= {"completed": conflict.value.code, "unknown": unknown.value.code}
        answers["malformed"] = malformed.value.code
        return answers

    assert simulate(services, scenario)[0] == {
        "scheduled": Applied.DONE,
        "pending": Applied.DONE,
        "running": Applied.ACCEPTED,
        "suspended": Applied.ACCEPTED,
        "backing-off": Applied.ACCEPTED,
        "paused": Applied.ACCEPTED,
        "completed": 409,
        "unknown": 404,
        "malformed": 400,
    }


def test_a_handler_that_cancels_what_is_completed_or_unknown_is_left_alone() -> None:
    """C-058: `ctx.cancel` says nothing of it; a malformed id is refused."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Careless")
        async def cancel_all(ctx: Context, ids: list[str]) -> str:
            for id in ids:
                ctx.cancel(id)
            try:
                ctx.cancel("nonsense")
            except TerminalError as error:
                await ctx.sleep("1s")
                return f"refused: {error.code}"
            return "accepted"

        return [cancel_all, *noting(sim)]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Work/work")
        await sim.result(handle.id)
        result: str = await sim.call("Careless/cancel_all", [handle.id, handle.id[:-4] + "AAAA"])
        assert await sim.result(handle.id) is None
        return result

    assert check(services, scenario) == "refused: 400"


@WHOEVER_ASKS
@pytest.mark.parametrize("on", ["sleep", "call", "awakeable"])
def test_one_that_was_paused_by_hand_is_resumed_and_told(on: str, asker: Asker) -> None:
    """Design 4.2: at once; what it waits for is interrupted as if it had not been paused."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo(who: str) -> None:
            sim.effect(f"{who} undone")

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "child")
                await ctx.awakeable()

        @handler(service="Parent")
        async def parent(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo, "parent")
                match on:
                    case "sleep":
                        await ctx.sleep("1000d")
                    case "call":
                        await ctx.call(child)
                    case _:
                        await ctx.awakeable()

        return [child, parent, Canceller()]

    async def scenario(sim: Sim) -> tuple[tuple[str, str, int], list[str]]:
        handle = await sim.send("Parent/parent")
        await waits(sim, handle.id, on)
        await sim.repeat(lambda engine: engine.pause(handle.id))
        await reaches(sim, handle.id, "paused")
        await asyncio.sleep(3600)
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id, asker)
        error = await failure_of(sim.result(handle.id))
        assert sim.clock.now_ms() - since_ms < 60_000
        once(sim, *order(sim))
        return told(error), order(sim)

    undone = ["child undone", "parent undone"] if on == "call" else ["parent undone"]
    assert check(services, scenario) == (CANCELLED, undone)
