"""Kill: the whole call tree at once, without running any of its code; what was only sent is spared."""

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
    VirtualObject,
    handler,
)
from durable.testing import Sim, check
from tests.scenarios.controls import KILLED, kill, sent, told, unfinished
from tests.scenarios.keyed import reaches
from tests.scenarios.support import failure_of


class Singleton(VirtualObject):
    """Calls itself on its own key, for ever; would compensate if it were let."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def recursive(self, ctx: ObjectContext) -> None:
        async with ctx.saga() as saga:
            saga.add_compensation(self._undo)
            ctx.set("entered", True)
            await ctx.call(Singleton.recursive, key=ctx.key)

    async def _undo(self) -> None:
        self.sim.effect("undone")

    @handler
    async def is_free(self, ctx: ObjectContext) -> bool:
        return True


@pytest.mark.parametrize("how", ["kill", "cancel with kill", "through a handle"])
def test_a_killed_tree_disappears_and_its_key_is_free(how: str) -> None:
    """C-061: Runner → Singleton, blocked calling itself; no compensation runs, the key takes a new call."""

    def services(sim: Sim) -> Iterable[object]:
        async def undo() -> None:
            sim.effect("undone")

        @handler(service="Runner")
        async def run(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo)
                await ctx.call(Singleton.recursive, key="k")

        return [run, Singleton(sim)]

    async def scenario(sim: Sim) -> list[Any]:
        runner = await sim.send("Runner/run")
        await sent(sim, "Singleton", 1)
        await asyncio.sleep(60)
        crashes = sim.log.crashes
        try:
            match how:
                case "kill":
                    answer = await sim.repeat(lambda engine: engine.kill(runner.id))
                case "cancel with kill":
                    answer = await sim.repeat(lambda engine: engine.cancel(runner.id, kill=True))
                case _:
                    answer = await sim.repeat(lambda engine: engine.invocation(runner.id).cancel(kill=True))
            assert answer is Applied.DONE
        except ConflictError:
            assert sim.log.crashes > crashes, "only a crash may swallow the answer"
        assert await unfinished(sim) == []
        error = await failure_of(sim.result(runner.id))
        free = await sim.call(Singleton.is_free, key="k")
        await asyncio.sleep(86_000)
        assert not sim.effects, "none of its code runs after a kill"
        state = await sim.repeat(lambda engine: engine.get_state("Singleton", "k"))
        return [told(error), free, state]

    assert check(services, scenario) == [KILLED, True, {"entered": True}]


def test_a_killed_pending_one_leaves_the_queue_and_its_caller_hears_of_it() -> None:
    """C-062: the caller gets 409 killed; the key's holder is not affected; who is behind moves up."""

    def services(sim: Sim) -> Iterable[object]:
        async def enter() -> None:
            sim.effect("entered")

        class Room(VirtualObject):
            @handler
            async def stay(self, ctx: ObjectContext) -> str:
                return await ctx.signal("leave", str)

            @handler
            async def visit(self, ctx: ObjectContext) -> None:
                await ctx.run(enter)

        @handler(service="Visitor")
        async def visitor(ctx: Context) -> list[Any]:
            failure = await failure_of(ctx.call(Room.visit, key="k"))
            await ctx.sleep("1s")
            return list(told(failure))

        return [Room(), visitor]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        holder = await sim.send("Room/stay", key="k")
        caller = await sim.send("Visitor/visitor")
        visit = await sent(sim, "Room", 1)
        behind = await sim.send("Room/stay", key="k")
        await reaches(sim, visit.id, "pending")
        assert await kill(sim, visit.id) in (Applied.DONE, None)
        heard = await sim.result(caller.id)
        assert await unfinished(sim) == ["Room/k/stay", "Room/k/stay"]
        for guest, farewell in ((holder, "first"), (behind, "second")):
            await sim.repeat(
                lambda engine, id=guest.id, farewell=farewell: engine.send_signal(id, "leave", farewell)  # type: ignore[misc]
            )
            assert await sim.result(guest.id) == farewell
        assert not sim.effects
        return heard[0], heard[1], heard[2]

    assert check(services, scenario) == KILLED


def test_the_answer_says_what_a_kill_did() -> None:
    """C-063: done whatever its status is; 409 for a completed one, 404 for an unknown, 400 for no id."""

    def services(sim: Sim) -> Iterable[object]:
        async def stay() -> None:
            await asyncio.sleep(3600)
            sim.effect("went on")

        @handler(service="Work")
        async def work(ctx: Context) -> None:
            await ctx.run(stay)

        @handler(service="Sleep", inactivity_timeout=0)
        async def asleep(ctx: Context) -> None:
            await ctx.sleep("1h")
            sim.effect("went on")

        class Room(VirtualObject):
            @handler
            async def stay(self, ctx: ObjectContext) -> None:
                await ctx.awakeable()

        def failing(service: str, policy: RetryPolicy) -> object:
            @handler(service=service, retry=policy)
            async def fail(ctx: Context) -> None:
                sim.effect(f"{service} tried")
                raise RuntimeError("always")

            return fail

        back_off = failing("BackOff", RetryPolicy(initial_interval="1h", max_interval="1h"))
        pause = failing("Pause", RetryPolicy(max_attempts=1, on_max_attempts="pause"))
        return [work, asleep, Room(), back_off, pause]

    async def scenario(sim: Sim) -> dict[str, object]:
        answers: dict[str, object] = {}

        async def ask(target: str, status: str, **options: Any) -> str:
            handle = await sim.send(target, **options)
            await reaches(sim, handle.id, status)
            attached = asyncio.create_task(failure_of(sim.result(handle.id)))
            await asyncio.sleep(1)
            answers[status] = await kill(sim, handle.id) or Applied.DONE
            assert told(await attached) == KILLED
            view = await sim.repeat(lambda engine: engine.describe(handle.id))
            assert (view.status, view.completion_result) == ("completed", "failure")
            return str(handle.id)

        await ask("Work/work", "scheduled", delay="1h")
        await sim.send("Room/stay", key="k")
        await ask("Room/stay", "pending", key="k")
        await ask("Work/work", "running")
        await ask("Sleep/asleep", "suspended")
        await ask("BackOff/fail", "backing-off")
        completed = await ask("Pause/fail", "paused")

        tries = dict(sim.effects)
        assert set(tries) == {"BackOff tried", "Pause tried"}
        await asyncio.sleep(7200)
        assert sim.effects == tries, "none of their code runs after a kill"

        async def code(id: str) -> int:
            try:
                await sim.repeat(lambda engine: engine.kill(id))
            except (ConflictError, NotFoundError, InvalidRequestError) as error:
                return error.code
            raise AssertionError("killed")

        answers["unknown"] = await code(completed[:-4] + "AAAA")
        answers["malformed"] = await code("inv_1nonsense")
        handle = await sim.send("Work/work", delay="1h")
        await kill(sim, handle.id)
        answers["completed"] = await code(handle.id)
        return answers

    assert check(services, scenario) == {
        **dict.fromkeys(("scheduled", "pending", "running", "suspended", "backing-off", "paused"), Applied.DONE),
        "completed": 409,
        "unknown": 404,
        "malformed": 400,
    }
