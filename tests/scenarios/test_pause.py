"""Pause: what runs may end and is recorded, then nothing happens until somebody resumes it; resume goes on."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from durable import (
    Applied,
    ConflictError,
    Context,
    Engine,
    InvalidRequestError,
    InvocationCancelled,
    InvocationView,
    NotFoundError,
    ObjectContext,
    RetryPolicy,
    SharedObjectContext,
    SharedWorkflowContext,
    TerminalError,
    TooEarlyError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    gather,
    handler,
)
from durable.testing import Sim, check, run, simulate
from tests.runtime.support import engine_on
from tests.scenarios.controls import CANCELLED, KILLED, cancel, kill, once, sent, told, waits
from tests.scenarios.keyed import assert_at_once, open_gate, reaches
from tests.scenarios.support import failure_of, resolve, state_of

DAY = 86_400
#: What happens to the engine while an invocation is paused.
MEANWHILE = pytest.mark.parametrize("meanwhile", ["nothing", "restart", "crash"])
Meanwhile = Literal["nothing", "restart", "crash"]


async def pause(sim: Sim, id: str) -> InvocationView:
    """Pause, again if a crash swallowed it or its answer, and wait until nothing of it runs any more."""
    await sim.repeat(lambda engine: engine.pause(id))

    await reaches(sim, id, "paused")
    return await sim.repeat(lambda engine: engine.describe(id))


async def resume(sim: Sim, id: str) -> Applied | None:
    """Resume; None where an interruption may have swallowed the answer, and it may have ended since."""
    try:
        answer = await sim.repeat(lambda engine: engine.resume(id))
    except ConflictError:
        assert sim.interruptions
        return None
    return None if sim.interruptions else answer


async def spend(sim: Sim, meanwhile: Meanwhile, seconds: float = DAY) -> None:
    """Let time pass, and perhaps another engine take over."""
    await asyncio.sleep(seconds / 2)
    if meanwhile != "nothing":
        await sim.restart(crash=meanwhile == "crash")
    await asyncio.sleep(seconds / 2)


def journal(view: InvocationView, *kinds: str) -> list[str]:
    """The results of an invocation's entries of some kinds."""
    return [f"{entry.name or entry.kind}: {entry.result}" for entry in view.journal if entry.kind in kinds]


# ---- by policy ----


def test_a_handler_that_always_fails_is_paused_after_ten_tries_and_resumed_once_it_is_mended() -> None:
    """C-064: exactly 10 executions; the last error is shown; the one who was waiting all the time gets the result."""

    def services(sim: Sim) -> Iterable[object]:
        policy = RetryPolicy(initial_interval="10ms", factor=1, max_attempts=10, on_max_attempts="pause")

        @handler(service="Flaky", retry=policy)
        async def work(ctx: Context) -> str:
            number = sim.effect("tries")
            if not sim.effects["mended"]:
                raise RuntimeError(f"try {number}")
            return "mended"

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Flaky/work")
        attached = asyncio.create_task(sim.result(handle.id))
        await reaches(sim, handle.id, "paused")
        tries = sim.effects["tries"]
        assert 10 <= tries <= 10 + sim.interruptions
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert (view.status, view.failures, view.due_at) == ("paused", 10, None)
        assert view.last_failure is not None
        assert view.last_failure.message == f"RuntimeError: try {tries}"
        await asyncio.sleep(DAY)
        assert sim.effects["tries"] == tries
        assert not attached.done()
        sim.effect("mended")
        assert await resume(sim, handle.id) in (Applied.DONE, None)
        return str(await attached)

    assert check(services, scenario) == "mended"


def test_a_resumed_one_has_its_tries_again_and_is_paused_again() -> None:
    """C-066: the budget is fresh: three tries, paused, three more."""

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> None:
            sim.effect("tries")
            raise RuntimeError("not yet")

        policy = RetryPolicy(initial_interval="100ms", factor=1, max_attempts=3)

        @handler(service="Flaky", retry=policy)
        async def work(ctx: Context) -> None:
            await ctx.run(fail)

        return [work]

    async def scenario(sim: Sim) -> list[int]:
        handle = await sim.send("Flaky/work")
        failures = []
        for number in (1, 2, 3):
            await reaches(sim, handle.id, "paused")
            assert number * 3 <= sim.effects["tries"] <= number * 3 + sim.interruptions
            failures.append((await sim.repeat(lambda engine: engine.describe(handle.id))).failures)
            if number < 3:
                tries = sim.effects["tries"]
                await resume(sim, handle.id)
                await sim.until(lambda tries=tries: sim.effects["tries"] > tries)  # type: ignore[misc]
        return failures

    assert check(services, scenario, most=6) == [3, 3, 3]


# ---- what pause and resume answer ----


def in_every_status(sim: Sim) -> Iterable[object]:
    """A handler for each status an invocation can be in."""

    async def stay() -> None:
        sim.effect("stayed")
        await asyncio.sleep(60)

    @handler(service="Stay")
    async def busy(ctx: Context) -> str:
        await ctx.run(stay)
        await ctx.signal("go on")
        return "done"

    @handler(service="Sleep", inactivity_timeout=0)
    async def asleep(ctx: Context) -> str:
        await ctx.signal("go on")
        return "done"

    def failing(service: str, policy: RetryPolicy) -> object:
        @handler(service=service, retry=policy)
        async def fail(ctx: Context) -> str:
            if not sim.effects["mended"]:
                raise RuntimeError("not yet")
            return "done"

        return fail

    class Room(VirtualObject):
        @handler
        async def stay(self, ctx: ObjectContext) -> str:
            await ctx.signal("open")
            return "done"

    back_off = failing("BackOff", RetryPolicy(initial_interval="1d", max_interval="1d"))
    by_policy = failing("Pause", RetryPolicy(max_attempts=1, on_max_attempts="pause"))
    return [busy, asleep, back_off, by_policy, Room()]


async def one_in_each_status(sim: Sim) -> dict[str, str]:
    """The ids of invocations, by status."""
    ids = {
        "scheduled": (await sim.send("Stay/busy", delay="7d")).id,
        "running": (await sim.send("Stay/busy")).id,
        "suspended": (await sim.send("Sleep/asleep")).id,
        "backing-off": (await sim.send("BackOff/fail")).id,
        "paused": (await sim.send("Pause/fail")).id,
        "holder": (await sim.send("Room/stay", key="k")).id,
        "pending": (await sim.send("Room/stay", key="k")).id,
        "completed": (await sim.send("Room/stay", key="other")).id,
    }
    await open_gate(sim, ids["completed"])
    for status, id in ids.items():
        if status != "holder":
            await reaches(sim, id, status)
    return ids


def test_the_answer_says_what_a_pause_did() -> None:
    """C-065: accepted, nothing to change, or an error: 409 where it has not begun or is over, 404, 400."""

    async def scenario(sim: Sim) -> dict[str, object]:
        ids = await one_in_each_status(sim)
        answers: dict[str, object] = {}
        for status in ("running", "suspended", "backing-off", "paused"):
            answers[status] = await sim.engine.pause(ids[status])
        for status in ("scheduled", "pending", "completed"):
            with pytest.raises(ConflictError, match="cannot pause") as conflict:
                await sim.engine.pause(ids[status])
            answers[status] = conflict.value.code
        for status in ("suspended", "backing-off", "paused"):
            assert await sim.status(ids[status]) == "paused"
            assert await sim.engine.pause(ids[status]) is Applied.UNCHANGED
        for status in ("scheduled", "pending", "completed"):
            assert await sim.status(ids[status]) == status

        assert await sim.status(ids["running"]) == "running", "its step runs for a minute"
        assert await sim.engine.pause(ids["running"]) is Applied.ACCEPTED
        await reaches(sim, ids["running"], "paused")
        assert await sim.engine.pause(ids["running"]) is Applied.UNCHANGED
        with pytest.raises(NotFoundError) as unknown:
            await sim.engine.pause(ids["paused"][:-4] + "AAAA")
        with pytest.raises(InvalidRequestError) as malformed:
            await sim.engine.pause("inv_1nonsense")
        return answers | {"unknown": unknown.value.code, "malformed": malformed.value.code}

    assert simulate(in_every_status, scenario)[0] == {
        "running": Applied.ACCEPTED,
        "suspended": Applied.ACCEPTED,
        "backing-off": Applied.ACCEPTED,
        "paused": Applied.UNCHANGED,
        "scheduled": 409,
        "pending": 409,
        "completed": 409,
        "unknown": 404,
        "malformed": 400,
    }


def test_the_answer_says_what_a_resume_did() -> None:
    """C-066: done, nothing to change, or an error: 425 before its turn has come, 409 when it is over, 404, 400."""

    async def scenario(sim: Sim) -> dict[str, object]:
        ids = await one_in_each_status(sim)
        sim.effect("mended")
        since_ms = sim.clock.now_ms()
        answers: dict[str, object] = {}
        for status in ("running", "suspended", "backing-off", "paused"):
            answers[status] = await sim.engine.resume(ids[status])
        for status in ("backing-off", "paused"):
            assert await sim.result(ids[status]) == "done"
        assert sim.clock.now_ms() == since_ms, "the retry happens at once"
        for status in ("scheduled", "pending"):
            with pytest.raises(TooEarlyError) as early:
                await sim.engine.resume(ids[status])
            answers[status] = early.value.code
            assert await sim.status(ids[status]) == status
        with pytest.raises(ConflictError) as conflict:
            await sim.engine.resume(ids["completed"])
        with pytest.raises(NotFoundError) as unknown:
            await sim.engine.resume(ids["paused"][:-4] + "AAAA")
        with pytest.raises(InvalidRequestError) as malformed:
            await sim.engine.resume("inv_1nonsense")
        answers |= {"completed": conflict.value.code, "unknown": unknown.value.code}
        answers["malformed"] = malformed.value.code

        await asyncio.sleep(120)
        assert sim.effects["stayed"] == 1, "what runs already was left alone"
        for status in ("running", "suspended"):
            await sim.engine.send_signal(ids[status], "go on")
            assert await sim.result(ids[status]) == "done"
        return answers

    assert simulate(in_every_status, scenario)[0] == {
        "running": Applied.UNCHANGED,
        "suspended": Applied.DONE,
        "backing-off": Applied.DONE,
        "paused": Applied.DONE,
        "scheduled": 425,
        "pending": 425,
        "completed": 409,
        "unknown": 404,
        "malformed": 400,
    }


# ---- what runs may end ----


def three_steps(sim: Sim) -> Iterable[object]:
    """Steps of a second each; anything registered would be undone by a saga that ends badly."""

    async def act(name: str) -> str:
        sim.effect(name)
        await asyncio.sleep(1)
        sim.effect(f"{name} ended")
        return name

    async def undo() -> None:
        sim.effect("undone")

    @handler(service="Work")
    async def work(ctx: Context) -> list[str]:
        async with ctx.saga() as saga:
            saga.add_compensation(undo)
            try:
                done = [await ctx.run(act, name) for name in ("first", "second", "third")]
                await ctx.sleep("1h")
                return done
            except TerminalError:
                sim.effect("told")
                raise

    return [work]


@MEANWHILE
def test_a_running_step_ends_and_is_recorded_and_nothing_follows_until_the_resume(meanwhile: Meanwhile) -> None:
    """Design 4.5, I2: the step's result is used after the resume; nothing is undone by being unloaded."""

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        view = await pause(sim, handle.id)
        assert journal(view, "run") == ["act: success", "act: success"] or sim.log.crashes
        assert view.last_failure is None
        assert (view.failures, view.due_at, view.timers) == (0, None, ())
        trace = list(sim.trace)
        await spend(sim, meanwhile)
        assert sim.trace == trace
        assert await sim.status(handle.id) == "paused"
        assert await resume(sim, handle.id) in (Applied.DONE, None)
        result: list[str] = await sim.result(handle.id)
        once(sim, "first", "second", "third", "third ended")
        assert sim.effects["third"] == 1 or sim.interruptions
        assert not sim.effects["undone"] + sim.effects["told"]
        return result

    assert check(three_steps, scenario, most=30) == ["first", "second", "third"]


def test_while_its_step_still_runs_a_paused_one_is_shown_as_pausing() -> None:
    """Design 4.5: the pause is durable and stands as soon as it is answered; it takes effect when the step ends."""

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Work/work")
        await asyncio.sleep(0.5)
        before = await sim.engine.describe(handle.id)
        assert await sim.engine.pause(handle.id) is Applied.ACCEPTED
        while_it_runs = await sim.engine.describe(handle.id)
        (listed,) = await sim.engine.invocations(status="running")
        await asyncio.sleep(1)
        after = await sim.engine.describe(handle.id)
        assert [view.pausing for view in (before, while_it_runs, listed, after)] == [False, True, True, False]
        assert [view.status for view in (before, while_it_runs, after)] == ["running", "running", "paused"]
        assert await sim.engine.resume(handle.id) is Applied.DONE
        resumed = await sim.engine.describe(handle.id)
        assert (resumed.status, resumed.pausing, resumed.attempt) == ("running", False, after.attempt + 1)
        assert await sim.result(handle.id) == ["first", "second", "third"]
        assert sim.trace == [f"{name}{how}" for name in ("first", "second", "third") for how in ("", " ended")]

    simulate(three_steps, scenario)


@pytest.mark.parametrize("interruptible", [False, True])
def test_steps_that_run_side_by_side_all_end_and_are_recorded(interruptible: bool) -> None:
    """Design 4.5: it is unloaded when the longest has ended; a pause interrupts no step, open to it or not."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(seconds: int) -> int:
            sim.effect(f"{seconds} s")
            await asyncio.sleep(seconds)
            return seconds

        async def add(one: int, other: int) -> int:
            sim.effect("added")
            return one + other

        @handler(service="Work")
        async def work(ctx: Context) -> int:
            step = ctx.with_options(interruptible=interruptible)
            return await ctx.run(add, *await gather(step.run(act, 1), step.run(act, 3)))

        return [work]

    async def scenario(sim: Sim) -> int:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["3 s"] > 0)
        since_ms = sim.clock.now_ms()
        view = await pause(sim, handle.id)
        assert sim.interruptions or 2900 < sim.clock.now_ms() - since_ms <= 3010
        recorded = ["act: success", "act: success"]
        if sim.log.restarts and sim.effects["added"]:  # the next engine was asked: there the handler had gone on
            recorded.append("add: success")
        assert journal(view, "run") == recorded or sim.log.crashes
        await asyncio.sleep(DAY / 2)
        assert sim.effects["added"] == len(recorded) - 2
        await resume(sim, handle.id)
        result: int = await sim.result(handle.id)
        once(sim, "1 s", "3 s", "added")
        return result

    assert check(services, scenario) == 4


@pytest.mark.parametrize("how", ["pause", "restart", "failure"])
@pytest.mark.parametrize("flows_by", ["task group", "gather"])
def test_steps_of_concurrent_flows_all_end_although_one_flow_would_go_on_sooner(flows_by: str, how: str) -> None:
    """I2: the flow whose step has ended waits; it is not told to end while the step of another one runs."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(seconds: int) -> int:
            sim.effect(f"{seconds} s")
            await asyncio.sleep(seconds)
            return seconds

        async def fail() -> None:
            await asyncio.sleep(0.5)
            if how == "failure" and sim.effect("failed") == 1:
                raise RuntimeError("not yet")

        @handler(service="Work")
        async def work(ctx: Context) -> list[int]:
            async def flow(seconds: int) -> int:
                await ctx.run(act, seconds)
                await ctx.sleep(1)
                return seconds

            failing = ctx.run(fail)
            if flows_by == "gather":
                found = [*await asyncio.gather(flow(1), flow(3))]
            else:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(flow(seconds)) for seconds in (1, 3)]
                found = [task.result() for task in tasks]
            await failing
            return found

        return [work]

    async def scenario(sim: Sim) -> list[int]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["3 s"] > 0)
        if how == "pause":
            await pause(sim, handle.id)
            await resume(sim, handle.id)
        elif how == "restart":
            await sim.restart()
        result: list[int] = await sim.result(handle.id)
        once(sim, "1 s", "3 s")
        return result

    assert check(services, scenario) == [1, 3]


def test_a_step_that_fails_while_it_is_being_paused_is_tried_again_after_the_resume_only() -> None:
    """C-067: there is no back-off to wait for, and no timer; the failure is shown."""

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> str:
            tries = sim.effect("tries")
            await asyncio.sleep(1)
            if not sim.effects["mended"]:
                raise RuntimeError("not yet")
            return f"try {min(tries, 2)}"

        @handler(service="Flaky", retry=RetryPolicy(initial_interval="1s"))
        async def work(ctx: Context) -> str:
            return await ctx.run(fail)

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Flaky/work")
        await sim.until(lambda: sim.effects["tries"] > 0)
        view = await pause(sim, handle.id)
        assert view.due_at is None
        assert sim.tables.timers == set()
        assert view.last_failure is not None or sim.interruptions
        tries = sim.effects["tries"]
        await asyncio.sleep(DAY)
        assert sim.effects["tries"] == tries
        assert sim.interruptions or tries == 1
        sim.effect("mended")
        since_ms = sim.clock.now_ms()
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        assert sim.interruptions or sim.clock.now_ms() - since_ms == 1000
        return result

    assert check(services, scenario) == "try 2"


def test_a_step_whose_own_policy_gives_up_while_it_is_being_paused_fails_after_the_resume() -> None:
    """Design 4.5: that it failed for good is its result; it is stored, and the handler sees it later."""

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> None:
            sim.effect("tries")
            await asyncio.sleep(1)
            raise RuntimeError("never")

        @handler(service="Work")
        async def work(ctx: Context) -> str:
            try:
                await ctx.with_options(retry=RetryPolicy(max_attempts=1)).run(fail)
            except TerminalError as error:
                sim.effect("told")
                return error.message
            return "no error"

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["tries"] > 0)
        await pause(sim, handle.id)
        await asyncio.sleep(DAY)
        assert not sim.effects["told"]
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        once(sim, "tries")
        return result

    assert check(services, scenario) == "RuntimeError: never"


def test_a_step_in_a_thread_ends_and_is_recorded() -> None:
    """Design 4.5: nothing can stop a thread, and a pause does not try."""

    def services(sim: Sim) -> Iterable[object]:
        def act() -> str:
            sim.effect("begun")
            time.sleep(0.1)
            sim.effect("ended")
            return "acted"

        @handler(service="Work")
        async def work(ctx: Context) -> str:
            result = await ctx.run(act)
            await ctx.sleep("1h")
            return result

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["begun"] > 0)
        view = await pause(sim, handle.id)
        assert journal(view, "run") == ["act: success"]
        await asyncio.sleep(DAY)
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        return result

    result, sim = simulate(services, scenario)
    assert (result, sim.trace) == ("acted", ["begun", "ended"])


def test_a_step_that_does_not_end_holds_a_pause_up_no_longer_than_the_abort_timeout() -> None:
    """C-084, design 4.5: its attempt has failed, which is shown, and it is paused instead of tried again."""

    def services(sim: Sim) -> Iterable[object]:
        async def hang() -> str:
            if sim.effect("tries") < 2:
                await asyncio.sleep(30 * DAY)
            return "ended"

        @handler(service="Work", inactivity_timeout="1m", abort_timeout="10m")
        async def work(ctx: Context) -> str:
            return await ctx.run(hang)

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["tries"] > 0)
        await sim.engine.pause(handle.id)
        await asyncio.sleep(12 * 60)
        view = await handle.describe()
        assert (view.status, view.due_at) == ("paused", None)
        assert view.last_failure is not None
        assert "abort timeout" in view.last_failure.message
        await asyncio.sleep(DAY)
        assert sim.effects["tries"] == 1
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        return result

    assert simulate(services, scenario)[0] == "ended"


def test_one_that_backs_off_is_paused_at_once_and_its_timer_starts_nothing() -> None:
    """C-067: not even when the retry would have been due; resumed, it is tried again at once."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Flaky", retry=RetryPolicy(initial_interval="1h", factor=1, max_interval="1h"))
        async def work(ctx: Context) -> str:
            sim.effect("tries")
            if not sim.effects["mended"]:
                raise RuntimeError("not yet")
            return "mended"

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Flaky/work")
        await reaches(sim, handle.id, "backing-off")
        await sim.repeat(lambda engine: engine.pause(handle.id))
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert (view.status, view.due_at) == ("paused", None)
        assert view.last_failure is not None
        assert sim.tables.timers == set()
        tries = sim.effects["tries"]
        await asyncio.sleep(DAY)
        assert sim.effects["tries"] == tries
        sim.effect("mended")
        since_ms = sim.clock.now_ms()
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        assert_at_once(sim, since_ms)
        return result

    assert check(services, scenario) == "mended"


def test_one_that_has_its_turn_but_no_place_yet_is_paused_before_it_begins() -> None:
    """C-065: `ready` counts as running."""

    async def scenario(sim: Sim) -> list[str]:
        busy = await sim.send("Work/work")
        await asyncio.sleep(0.5)
        waiting = await sim.send("Work/work")
        assert await sim.status(waiting.id) == "ready"
        assert await sim.engine.pause(waiting.id) is Applied.ACCEPTED
        await reaches(sim, waiting.id, "paused")
        assert await sim.result(busy.id) == ["first", "second", "third"]
        await asyncio.sleep(DAY)
        assert sim.effects["first"] == 1
        assert await sim.engine.resume(waiting.id) is Applied.DONE
        result: list[str] = await sim.result(waiting.id)
        assert (sim.effects["first"], sim.effects["third"]) == (2, 2)
        return result

    result, _ = simulate(three_steps, scenario, max_concurrent_invocations=1)
    assert result == ["first", "second", "third"]


def test_a_pause_that_was_accepted_survives_a_crash() -> None:
    """Design 4.5: the step that was running at the crash runs again, but only once it is resumed."""

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        await sim.repeat(lambda engine: engine.pause(handle.id))
        await sim.restart(crash=True)
        await reaches(sim, handle.id, "paused")
        assert not (await sim.repeat(lambda engine: engine.describe(handle.id))).pausing
        executions = sim.effects["second"]
        await asyncio.sleep(DAY)
        assert await sim.status(handle.id) == "paused"
        assert sim.effects["second"] == executions
        assert not sim.effects["third"]
        await resume(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        once(sim, "first", "second", "third")
        return result

    assert check(three_steps, scenario) == ["first", "second", "third"]
    _, sim = simulate(three_steps, scenario)
    assert (sim.effects["first"], sim.effects["second"], sim.effects["third"]) == (1, 2, 1)


# ---- what arrives while it is paused is stored ----


class Waiting(Workflow):
    """Waits for one thing, then does one more step."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def run(self, ctx: WorkflowContext, on: str) -> str:
        match on:
            case "sleep":
                await ctx.sleep("1h")
                value = "slept"
            case "awakeable":
                awakeable = ctx.awakeable(str)
                ctx.set("awakeable", awakeable.id)
                value = await awakeable
            case "signal":
                value = await ctx.signal("s", str)
            case "promise":
                value = await ctx.promise("p", str)
            case "call":
                value = await ctx.call("Child/child")
            case "failing call":
                try:
                    value = await ctx.call("Child/fail")
                except TerminalError as error:
                    value = error.message
            case _:
                value = await ctx.attach(ctx.send("Child/child").id, str)
        return await ctx.run(self._use, value)

    async def _use(self, value: str) -> str:
        self.sim.effect("used")
        return f"used {value}"

    @handler
    async def settle(self, ctx: SharedWorkflowContext) -> None:
        await ctx.promise("p", str).resolve("kept")


def with_child(sim: Sim) -> Iterable[object]:
    """A child that ends when its gate is opened."""

    @handler(service="Child")
    async def child(ctx: Context) -> str:
        await ctx.signal("open")
        return "called"

    @handler(service="Child")
    async def fail(ctx: Context) -> str:
        await ctx.signal("open")
        raise TerminalError("failed")

    return [Waiting(sim), child, fail]


async def let_it_come(sim: Sim, on: str, id: str) -> None:
    """Make what `Waiting` waits for happen."""
    match on:
        case "sleep":
            await asyncio.sleep(7200)
        case "awakeable":
            await resolve(sim, await state_of(sim, "Waiting", "w", "awakeable"), "resolved")
        case "signal":
            await sim.repeat(lambda engine: engine.send_signal(id, "s", "signalled"))
        case "promise":
            await sim.call(Waiting.settle, key="w")
        case _:
            child = await sent(sim, "Child")
            await open_gate(sim, child.id)
            await reaches(sim, child.id, "completed")


@pytest.mark.parametrize("meanwhile", ["nothing", "crash"])
@pytest.mark.parametrize(
    ("on", "kind", "used"),
    [
        ("sleep", "sleep", "used slept"),
        ("awakeable", "awakeable", "used resolved"),
        ("signal", "signal", "used signalled"),
        ("promise", "promise", "used kept"),
        ("call", "call", "used called"),
        ("failing call", "call", "used failed"),
        ("attach", "attach", "used called"),
    ],
    ids=lambda value: value if "used" not in value else "",
)
def test_what_arrives_while_it_is_paused_is_stored_and_used_after_the_resume(
    on: str, kind: str, used: str, meanwhile: Meanwhile
) -> None:
    """Design 4.5: due timers, completions and results wake nobody, and nobody has to wait for them again."""

    async def scenario(sim: Sim) -> str:
        handle = await sim.send(Waiting.run, on, key="w")
        await waits(sim, handle.id, kind)
        assert journal(await pause(sim, handle.id), kind) == [f"{_named(on)}: open"]
        await let_it_come(sim, on, handle.id)
        await spend(sim, meanwhile)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.status == "paused"
        assert journal(view, kind) == [f"{_named(on)}: {'failure' if on == 'failing call' else 'success'}"]
        assert not sim.effects
        since_ms = sim.clock.now_ms()
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        assert_at_once(sim, since_ms)
        once(sim, "used")
        return result

    assert check(lambda sim: with_child(sim), scenario, most=12) == used


def _named(on: str) -> str:
    """What the journal calls the entry that waits for it."""
    return {"signal": "s", "promise": "p", "call": "Child/child", "failing call": "Child/fail"}.get(on, on)


def test_what_comes_before_it_is_asked_for_is_stored_too() -> None:
    """Design 4.5: a signal that comes during the pause, for which the handler asks only after the resume."""

    def services(sim: Sim) -> Iterable[object]:
        async def act() -> None:
            sim.effect("act")
            await asyncio.sleep(1)

        @handler(service="Late")
        async def work(ctx: Context) -> list[str]:
            await ctx.run(act)
            return [await ctx.signal("s", str), await ctx.signal("t", str)]

        return [work]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Late/work")
        await sim.until(lambda: sim.effects["act"] > 0)
        await pause(sim, handle.id)
        await sim.repeat(lambda engine: engine.send_signal(handle.id, "t", "second"))
        await sim.repeat(lambda engine: engine.send_signal(handle.id, "s", "first"))
        await spend(sim, "restart")
        assert await sim.status(handle.id) == "paused"
        await resume(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        once(sim, "act")
        return result

    assert check(services, scenario) == ["first", "second"]


def test_of_several_that_arrived_while_it_was_paused_the_first_wins() -> None:
    """Design 4.5: a race between timers and signals is decided by who came first, not by who is asked first."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Race")
        async def race(ctx: Context) -> tuple[bool, str]:
            signal, late = ctx.signal("s", str), ctx.signal("late", str)
            try:
                return True, await signal.with_timeout("1h")
            except TimeoutError:
                return False, await late

        return [race]

    async def scenario(sim: Sim, signal_first: bool) -> tuple[bool, str]:
        handle = await sim.send("Race/race")
        await waits(sim, handle.id, "signal", 2)
        await pause(sim, handle.id)
        if signal_first:
            await sim.repeat(lambda engine: engine.send_signal(handle.id, "s", "in time"))
        await asyncio.sleep(7200)
        await sim.repeat(lambda engine: engine.send_signal(handle.id, "s", "too late"))
        await sim.repeat(lambda engine: engine.send_signal(handle.id, "late", "late"))
        await resume(sim, handle.id)
        return tuple(await sim.result(handle.id))

    assert check(services, lambda sim: scenario(sim, True), most=20) == (True, "in time")
    assert check(services, lambda sim: scenario(sim, False), most=20) == (False, "late")


# ---- cancel and kill ----


@MEANWHILE
def test_a_cancel_resumes_a_paused_one_which_sees_it_and_compensates(meanwhile: Meanwhile) -> None:
    """Design 4.2: it ends as cancelled by itself, nobody has to resume it."""

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        await pause(sim, handle.id)
        await spend(sim, meanwhile)
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        once(sim, "first", "second", "undone")
        assert sim.effects["told"]
        assert not sim.effects["third"]
        return told(error)

    assert check(three_steps, scenario, most=30) == CANCELLED


def test_a_cancel_of_a_paused_caller_ends_its_call_first() -> None:
    """Design 4.1, 4.2: leaf first; the caller stays paused until the child has ended."""

    async def scenario(sim: Sim) -> tuple[list[str], tuple[str, str, int]]:
        handle = await sim.send("Parent/parent")
        child = await sent(sim, "Patient")
        await waits(sim, child.id, "sleep")
        await pause(sim, handle.id)
        await cancel(sim, handle.id)
        await sim.until(lambda: sim.effects["child told"] > 0)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert sim.interruptions or (view.status == "paused" and view.cancelling)
        error = await failure_of(sim.result(handle.id))
        return list(dict.fromkeys(sim.trace)), told(error)

    assert check(family, scenario) == (["child told", "child undone", "parent told"], CANCELLED)


def test_a_cancel_of_a_caller_resumes_its_paused_child() -> None:
    """Design 4.1: the cancel reaches every open call, paused or not."""

    async def scenario(sim: Sim) -> tuple[list[str], tuple[str, str, int]]:
        handle = await sim.send("Parent/parent")
        child = await sent(sim, "Patient")
        await waits(sim, child.id, "sleep")
        await pause(sim, child.id)
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        return list(dict.fromkeys(sim.trace)), told(error)

    assert check(family, scenario) == (["child told", "child undone", "parent told"], CANCELLED)


def family(sim: Sim) -> Iterable[object]:
    """A parent that calls a child; both say what they are told, and the child takes its time to clean up."""

    async def note(what: str) -> None:
        sim.effect(what)

    @handler(service="Patient")
    async def child(ctx: Context) -> str:
        try:
            await ctx.sleep("30d")
        except InvocationCancelled:
            await ctx.run(note, "child told")
            await ctx.sleep("1h")
            await ctx.run(note, "child undone")
            raise
        return "slept"

    @handler(service="Parent")
    async def parent(ctx: Context) -> str:
        try:
            return f"my child {await ctx.call('Patient/child')}"
        except InvocationCancelled:
            await ctx.run(note, "parent told")
            raise

    return [child, parent]


@pytest.mark.parametrize("which", ["the caller", "the child", "both"])
def test_a_killed_tree_of_which_some_are_paused_ends_at_once(which: str) -> None:
    """Design 4.3: no code runs, and nobody is left behind."""

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Parent/parent")
        child = await sent(sim, "Patient")
        await waits(sim, child.id, "sleep")
        if which != "the child":
            await pause(sim, handle.id)
        if which != "the caller":
            await pause(sim, child.id)
        since_ms = sim.clock.now_ms()
        await kill(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        assert_at_once(sim, since_ms)
        assert told(await failure_of(sim.result(child.id))) == KILLED
        await asyncio.sleep(DAY)
        assert not sim.effects
        return told(error)

    assert check(family, scenario) == KILLED


# ---- a change of mind while the step still runs ----


@pytest.mark.parametrize("times", [1, 3])
def test_resumed_while_its_step_still_runs_it_goes_on_by_itself(times: int) -> None:
    """C-066, I2: the step does not run twice, and it need not be resumed again; however often the mind changes."""

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        for _ in range(times):
            await sim.repeat(lambda engine: engine.pause(handle.id))
            answer = await resume(sim, handle.id)
            assert answer is Applied.UNCHANGED or sim.interruptions
        result: list[str] = await sim.result(handle.id)
        once(sim, "first", "second", "third")
        return result

    assert check(three_steps, scenario, most=30) == ["first", "second", "third"]
    _, sim = simulate(three_steps, scenario)
    assert sim.trace == [f"{name}{how}" for name in ("first", "second", "third") for how in ("", " ended")]


def test_resumed_and_paused_again_while_its_step_still_runs_it_is_paused() -> None:
    """I2: the last word counts."""

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        await sim.repeat(lambda engine: engine.pause(handle.id))
        await resume(sim, handle.id)
        await pause(sim, handle.id)
        trace = list(sim.trace)
        assert sim.interruptions or trace[-1] == "second ended"
        await asyncio.sleep(DAY)
        assert await sim.status(handle.id) == "paused"
        assert sim.trace == trace
        await resume(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        once(sim, "first", "second", "third")
        return result

    assert check(three_steps, scenario) == ["first", "second", "third"]


def test_cancelled_while_its_step_still_runs_it_ends_by_itself() -> None:
    """Design 4.1, 4.2, I2: the step ends and is not repeated, the handler is told, and compensates."""

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        await sim.repeat(lambda engine: engine.pause(handle.id))
        await cancel(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        once(sim, "first", "second", "undone")
        assert not sim.effects["third"]
        return told(error)

    assert check(three_steps, scenario) == CANCELLED
    _, sim = simulate(three_steps, scenario)
    assert [name for name in sim.trace if name != "told"] == [
        "first", "first ended", "second", "second ended", "undone",
    ]  # fmt: skip


def test_cancelled_while_a_step_runs_that_is_open_to_it_that_ends_at_once() -> None:
    """Design 4.1: the pause lets the step run, the cancel does not; one exception, and it is not repeated."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(seconds: int) -> None:
            sim.effect(f"{seconds} s")
            await asyncio.sleep(seconds)
            sim.effect("ended")

        @handler(service="Work")
        async def work(ctx: Context) -> list[str]:
            seen = []
            for seconds in (600, 1):
                try:
                    await ctx.with_options(interruptible=True).run(act, seconds)
                except InvocationCancelled:
                    seen.append(f"{seconds} s cancelled")
            return seen

        return [work]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["600 s"] > 0)
        await sim.repeat(lambda engine: engine.pause(handle.id))
        since_ms = sim.clock.now_ms()
        await cancel(sim, handle.id)
        result: list[str] = await sim.result(handle.id)
        assert sim.clock.now_ms() - since_ms < 60_000
        once(sim, "1 s", "ended")
        assert 1 <= sim.effects["600 s"] <= 1 + sim.interruptions  # a clean end does not wait for so long a step
        return result

    assert check(services, scenario) == ["600 s cancelled"]


@pytest.mark.parametrize("how", ["cancel, pause", "pause, cancel", "cancel, restart"])
def test_a_step_that_was_stopped_by_a_cancel_is_not_begun_again_by_the_next_attempt(how: str) -> None:
    """Design 4.1, I2: also where concurrent flows came before it, and the cancel waits for the step beside it."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str, seconds: float) -> None:
            sim.effect(name)
            await asyncio.sleep(seconds)

        @handler(service="Work")
        async def work(ctx: Context) -> str:
            try:
                await asyncio.gather(*[ctx.run(act, name, 0.1) for name in ("f", "g")])
                await asyncio.gather(*[flow(ctx, name) for name in ("h", "i")])
                open_to_it = ctx.with_options(interruptible=True).run(act, "open to it", 600)
                await gather(ctx.run(act, "other", 1), open_to_it)
            except InvocationCancelled:
                return "cancelled"
            return "not cancelled"

        async def flow(ctx: Context, name: str) -> None:
            await ctx.run(act, name, 0.1)

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["open to it"] > 0)
        for what in how.split(", "):
            if what == "cancel":
                await cancel(sim, handle.id)
            elif what == "restart":
                await sim.restart()
            else:
                with suppress(ConflictError):
                    await sim.repeat(lambda engine: engine.pause(handle.id))
        await reaches(sim, handle.id, "paused", "completed")
        with suppress(ConflictError):
            await sim.repeat(lambda engine: engine.resume(handle.id))
        result: str = await sim.result(handle.id)
        once(sim, "f", "g", "h", "i", "other", "open to it")
        return result

    assert check(services, scenario, most=20) == "cancelled"


def test_a_step_that_the_handler_itself_gives_up_while_it_is_being_paused_does_not_run_again() -> None:
    """I2: one flow is told of a cancel, so the task group stops the step of the other, in the moment of the pause."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> None:
            sim.effect(name)
            await asyncio.sleep(1)

        @handler(service="Work")
        async def work(ctx: Context) -> None:
            async def flow(name: str) -> None:
                await ctx.run(act, name)

            await ctx.sleep(1)
            async with asyncio.TaskGroup() as group:
                for name in ("one", "other"):
                    group.create_task(flow(name))

        return [work]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Work/work")
        await waits(sim, handle.id, "sleep")
        await pause(sim, handle.id)
        await asyncio.sleep(2)
        await cancel(sim, handle.id)
        with suppress(ConflictError):
            await sim.repeat(lambda engine: engine.pause(handle.id))
        await reaches(sim, handle.id, "paused", "completed")
        with suppress(ConflictError):
            await sim.repeat(lambda engine: engine.resume(handle.id))
        error = await failure_of(sim.result(handle.id))
        assert sim.effects["one"] + sim.effects["other"] <= 1 + sim.log.crashes
        return told(error)

    assert check(services, scenario) == CANCELLED


def test_paused_while_a_cancel_waits_for_its_step_it_is_told_after_the_resume() -> None:
    """Design 4.2: a pause after the cancel holds it back, and loses nothing of it."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(seconds: int) -> None:
            sim.effect(f"{seconds} s")
            await asyncio.sleep(seconds)

        async def undo() -> None:
            sim.effect("undone")

        @handler(service="Work")
        async def work(ctx: Context) -> None:
            async with ctx.saga() as saga:
                saga.add_compensation(undo)
                await gather(ctx.run(act, 1), ctx.run(act, 3))
                await ctx.sleep("30d")

        return [work]

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["3 s"] > 0)
        await sim.repeat(lambda engine: engine.cancel(handle.id))
        try:
            await sim.repeat(lambda engine: engine.pause(handle.id))
        except ConflictError:
            assert sim.interruptions
        await reaches(sim, handle.id, "paused", "completed")
        if await sim.status(handle.id) == "paused":
            trace = list(sim.trace)
            assert sim.interruptions or "undone" not in trace
            await asyncio.sleep(DAY)
            assert sim.trace == trace
            await resume(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        once(sim, "undone")
        return told(error)

    assert check(services, scenario) == CANCELLED


def test_killed_while_its_step_still_runs_it_is_over_at_once() -> None:
    """Design 4.3: the step's end changes nothing any more."""

    async def scenario(sim: Sim) -> tuple[str, str, int]:
        handle = await sim.send("Work/work")
        await sim.until(lambda: sim.effects["second"] > 0)
        await sim.repeat(lambda engine: engine.pause(handle.id))
        await kill(sim, handle.id)
        error = await failure_of(sim.result(handle.id))
        await asyncio.sleep(DAY / 2)
        assert await sim.status(handle.id) == "completed"
        assert not sim.effects["third"] + sim.effects["told"] + sim.effects["undone"]
        return told(error)

    assert check(three_steps, scenario) == KILLED


# ---- others ----


class Room(VirtualObject):
    """Says who is in it."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def stay(self, ctx: ObjectContext, name: str) -> str:
        ctx.set("guest", name)
        await ctx.signal("leave")
        ctx.clear("guest")
        await ctx.run(self._left, name)
        return name

    async def _left(self, name: str) -> None:
        self.sim.effect(f"{name} left")

    @handler(shared=True)
    async def guest(self, ctx: SharedObjectContext) -> str | None:
        return await ctx.get("guest", str)


@MEANWHILE
def test_a_paused_holder_of_a_key_keeps_it(meanwhile: Meanwhile) -> None:
    """I4: who waits for the key waits on, in order; shared handlers and other keys are not concerned."""

    async def scenario(sim: Sim) -> list[Any]:
        first = await sim.send(Room.stay, "Ada", key="k")
        await waits(sim, first.id, "signal")
        second = await sim.send(Room.stay, "Bob", key="k")
        third = await sim.send(Room.stay, "Cyd", key="k")
        await pause(sim, first.id)
        await spend(sim, meanwhile)
        statuses = [await sim.status(one.id) for one in (first, second, third)]
        guests = [await sim.call(Room.guest, key="k"), await sim.call(Room.guest, key="other")]
        for one in (third, second, first):
            await sim.repeat(lambda engine, id=one.id: engine.send_signal(id, "leave"))  # type: ignore[misc]
        await asyncio.sleep(DAY)
        assert not sim.effects
        await resume(sim, first.id)
        names = [await sim.result(one.id) for one in (first, second, third)]
        once(sim, "Ada left", "Bob left", "Cyd left")
        return [statuses, guests, names, list(dict.fromkeys(sim.trace))]

    assert check(lambda sim: [Room(sim)], scenario, most=30) == [
        ["paused", "pending", "pending"],
        ["Ada", None],
        ["Ada", "Bob", "Cyd"],
        ["Ada left", "Bob left", "Cyd left"],
    ]


def test_a_killed_one_that_was_paused_frees_its_key() -> None:
    """Design 4.3: the next in the queue starts, and state stays."""

    async def scenario(sim: Sim) -> tuple[str | None, str]:
        first = await sim.send(Room.stay, "Ada", key="k")
        await waits(sim, first.id, "signal")
        second = await sim.send(Room.stay, "Bob", key="k")
        await pause(sim, first.id)
        guest = await sim.call(Room.guest, key="k")
        await kill(sim, first.id)
        await sim.repeat(lambda engine: engine.send_signal(second.id, "leave"))
        result: str = await sim.result(second.id)
        assert not sim.effects["Ada left"]
        return guest, result

    assert check(lambda sim: [Room(sim)], scenario) == ("Ada", "Bob")


def test_a_paused_caller_does_not_hold_up_its_children() -> None:
    """Pause is not recursive: the call and the send run to their ends."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> None:
            sim.effect(name)

        @handler(service="Child")
        async def child(ctx: Context, name: str) -> str:
            await ctx.sleep("1h")
            await ctx.run(act, name)
            return name

        @handler(service="Parent")
        async def parent(ctx: Context) -> str:
            ctx.send(child, "sent")
            return f"{await ctx.call(child, 'called')} and resumed"

        return [child, parent]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Parent/parent")
        await waits(sim, handle.id, "call")
        await pause(sim, handle.id)
        await asyncio.sleep(DAY)
        children = await sim.repeat(lambda engine: engine.invocations(service="Child"))
        assert [view.status for view in children] == ["completed", "completed"]
        once(sim, "sent", "called")
        assert await sim.status(handle.id) == "paused"
        await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        return result

    assert check(services, scenario) == "called and resumed"


def test_a_paused_child_lets_its_caller_wait_and_go_on_later() -> None:
    """Pause is not recursive: the caller is not paused, and gets the result when it comes."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Parent")
        async def parent(ctx: Context) -> str:
            first = await ctx.call("Child/child")
            return f"{first} and went on"

        return [parent, *with_child(sim)]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Parent/parent")
        child = await sent(sim, "Child")
        await waits(sim, child.id, "signal")
        await pause(sim, child.id)
        await open_gate(sim, child.id)
        await asyncio.sleep(DAY)
        assert await sim.status(child.id) == "paused"
        assert await sim.status(handle.id) in ("running", "ready", "suspended")
        await resume(sim, child.id)
        result: str = await sim.result(handle.id)
        return result

    assert check(services, scenario) == "called and went on"


# ---- handlers that do not want to hear of it ----


@pytest.mark.parametrize("how", ["pause", "restart", "pause and restart"])
@pytest.mark.parametrize("on", ["sleep", "step", "code"])
def test_a_handler_that_swallows_everything_cannot_make_up_a_result(on: str, how: str) -> None:
    """R-26: what it returns after it was told to end is not looked at; the next attempt does it properly."""

    def services(sim: Sim) -> Iterable[object]:
        async def act() -> str:
            sim.effect("act")
            await asyncio.sleep(1)
            return "act"

        @handler(service="Stubborn")
        async def work(ctx: Context) -> str:
            try:
                if on == "sleep":
                    await ctx.sleep("1h")
                elif on == "step":
                    await ctx.run(act)
                    await ctx.run(act)
                else:
                    sim.effect("code")
                    await asyncio.sleep(0 if sim.effects["mended"] else 3600)
            except BaseException:
                return "made up"
            return "done"

        return [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Stubborn/work")
        if on == "sleep":
            await waits(sim, handle.id, "sleep")
        else:
            await sim.until(lambda: sim.effects["act"] + sim.effects["code"] > 0)
        if "pause" in how:
            await pause(sim, handle.id)
        sim.effect("mended")
        if "restart" in how:
            await sim.restart()
        if "pause" in how:
            await asyncio.sleep(7200)
            assert await sim.status(handle.id) == "paused"
            await resume(sim, handle.id)
        result: str = await sim.result(handle.id)
        assert sim.effects["act"] <= 2 + sim.log.crashes
        return result

    assert check(services, scenario, most=12) == "done"


# ---- at any moment ----


def day_out(sim: Sim) -> Iterable[object]:
    """A bit of everything, some of it side by side."""

    async def act(name: str, seconds: float = 0) -> str:
        sim.effect(name)
        await asyncio.sleep(seconds)
        return name

    class Purse(VirtualObject):
        @handler
        async def pay(self, ctx: ObjectContext, amount: int) -> int:
            paid = (await ctx.get("paid", int) or 0) + amount
            ctx.set("paid", paid)
            await ctx.run(act, f"pay {amount}", 0.3)
            return paid

    @handler(service="Day")
    async def out(ctx: Context) -> list[Any]:
        seen: list[Any] = [await ctx.run(act, "wake up")]
        seen += await gather(ctx.run(act, "tea", 0.5), ctx.run(act, "toast", 0.2), ctx.call(Purse.pay, 1, key="p"))
        await ctx.sleep(0.4)
        ctx.send(Purse.pay, 2, key="p")
        try:
            await ctx.signal("never").with_timeout(0.3)
        except TimeoutError:
            seen.append(await ctx.call(Purse.pay, 4, key="p"))
        seen.append(await ctx.run(act, "home", 0.1))
        return seen

    return [out, Purse()]


ALL_DAY = ["wake up", "tea", "toast", 1, 7, "home"]
EFFECTS = {"wake up", "tea", "toast", "pay 1", "pay 2", "pay 4", "home"}


async def changes_its_mind(sim: Sim, id: str) -> bool:
    """Pause it, and resume it once nothing of it runs; whether it was still there to be paused."""
    try:
        await sim.engine.pause(id)
    except ConflictError:
        return False
    while (status := await sim.status(id)) != "paused":
        if status == "completed":
            return False
        await asyncio.sleep(0.01)
    assert await sim.engine.resume(id) is Applied.DONE
    return True


@pytest.mark.parametrize("inactivity_timeout", ["1m", 0], ids=["waits in memory", "suspended at once"])
def test_a_pause_at_any_moment_costs_nothing_but_time(inactivity_timeout: str | int) -> None:
    """I2: whenever it is paused and resumed, the result is the same and every step is executed exactly once."""

    async def scenario(sim: Sim, seconds: float, rounds: int) -> bool:
        handle = await sim.send("Day/out")
        await asyncio.sleep(seconds)
        for _ in range(rounds):
            await asyncio.sleep(0)
        paused = await changes_its_mind(sim, handle.id)
        assert await sim.result(handle.id) == ALL_DAY
        await asyncio.sleep(10)
        assert dict(sim.effects) == dict.fromkeys(EFFECTS, 1)
        return paused

    def at(seconds: float, rounds: int) -> bool:
        found: bool = simulate(
            day_out, lambda sim: scenario(sim, seconds, rounds), inactivity_timeout=inactivity_timeout
        )[0]
        return found

    assert sum(at(tenth / 10, rounds) for tenth in range(20) for rounds in range(0, 30, 3)) > 100


@pytest.mark.parametrize("every", [0.05, 0.15, 0.35])
def test_paused_and_resumed_again_and_again_it_still_comes_to_its_end(every: float) -> None:
    """I2, I7: also where a child is paused as often, and the engine is replaced in between."""

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("Day/out")

        async def disturb() -> None:
            while True:
                await asyncio.sleep(every)
                for view in await sim.repeat(lambda engine: engine.invocations(status=("running", "suspended"))):
                    try:
                        await pause(sim, view.id)
                        await resume(sim, view.id)
                    except (ConflictError, AssertionError):
                        assert await sim.status(view.id) == "completed"

        disturbing = asyncio.create_task(disturb())
        result = await sim.result(handle.id)
        disturbing.cancel()
        await asyncio.sleep(10)
        for view in await sim.repeat(lambda engine: engine.invocations(status="paused")):
            await resume(sim, view.id)
        await asyncio.sleep(10)
        once(sim, *EFFECTS)
        return result

    assert check(day_out, scenario, most=10) == ALL_DAY
    _, sim = simulate(day_out, scenario)
    assert dict(sim.effects) == dict.fromkeys(EFFECTS, 1)


# ---- on a real file ----


def test_a_file_keeps_what_is_paused_and_what_arrived_for_it(tmp_path: Path) -> None:
    """The same on SQLite: a pause that was accepted when the process ended, and one that had taken effect."""

    class Desk(VirtualObject):
        @handler
        async def work(self, ctx: ObjectContext, seconds: int) -> list[str]:
            await ctx.run(asyncio.sleep, seconds)
            ctx.set("at", "work")
            return [await ctx.signal("s", str), await ctx.signal("t", str)]

    def engine() -> Engine:
        return engine_on(tmp_path / "durable.db", Desk(), shutdown_timeout="1s")

    async def story() -> None:
        async with engine() as first:
            short = await first.send(Desk.work, 0, key="short")
            long = await first.send(Desk.work, 600, key="long")
            await asyncio.sleep(1)
            await first.pause(short.id)
            await first.pause(long.id)
            await first.send_signal(short.id, "t", "t")
            assert (await first.describe(long.id)).pausing
        async with engine() as second:
            await asyncio.sleep(1)
            views = [await second.describe(one.id) for one in (short, long)]
            assert [view.status for view in views] == ["paused", "paused"]
            await second.send_signal(short.id, "s", "s")
            await second.send_signal(long.id, "s", "s")
        async with engine() as third:
            assert await third.resume(short.id) is Applied.DONE
            assert await third.attach(short.id) == ["s", "t"]
            assert await third.get_state("Desk", "long") == {}
            assert await third.resume(long.id) is Applied.DONE
            await third.send_signal(long.id, "t", "t")
            assert await third.attach(long.id) == ["s", "t"]

    run(story)
