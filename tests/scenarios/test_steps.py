"""C-001 to C-012: steps run once, and a replay sees what the first run saw."""

import asyncio
import gc
import os
import random
from collections.abc import Iterable
from typing import Any

import pytest

from durable import Context, InvocationView, OutputNotReadyError, Service, TerminalError, handler
from durable.testing import Sim, check
from tests.scenarios.support import Echo, Failing, Failure, Holder, failure_of, once, resolve, state_of


def test_three_steps_run_once_each_and_fill_the_journal() -> None:
    """C-001: three counted steps, their sum, and a journal of input, three results and output."""

    def services(sim: Sim) -> Iterable[object]:
        async def number(value: int) -> int:
            sim.effect(f"step {value}")
            return value

        @handler(service="Sum")
        async def add_up(ctx: Context) -> int:
            first = await ctx.run(number, 1)
            second = await ctx.run(number, 20)
            third = await ctx.run(number, 300)
            return first + second + third

        return [add_up]

    async def scenario(sim: Sim) -> int:
        handle = await sim.send("Sum/add_up")
        total: int = await sim.result(handle.id)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert [(entry.entry, entry.kind, entry.name, entry.result, entry.value) for entry in view.journal] == [
            (0, "input", "", "done", b""),
            (1, "run", "number", "success", b"1"),
            (2, "run", "number", "success", b"20"),
            (3, "run", "number", "success", b"300"),
            (4, "output", "", "success", b"321"),
        ]
        once(sim, "step 1", "step 20", "step 300")
        # one step runs at a time, so an interruption repeats one of them at most
        assert sim.effects.total() <= 3 + sim.interruptions
        return total

    assert check(services, scenario) == 321


@pytest.mark.parametrize("crash", [True, False], ids=["killed", "stopped"])
def test_steps_whose_results_were_seen_never_run_again_after_a_kill(crash: bool) -> None:
    """C-002: killed while the third step runs, the first two are not repeated; the third may be."""

    def services(sim: Sim) -> Iterable[object]:
        async def number(value: int) -> int:
            sim.effect(f"step {value}")
            return value

        async def slow_number(value: int) -> int:
            sim.effect(f"step {value}")
            await sim.until(lambda: sim.effects["gate"] > 0)
            return value

        @handler(service="Sum")
        async def add_up(ctx: Context) -> int:
            first = await ctx.run(number, 1)
            second = await ctx.run(number, 20)
            third = await ctx.run(slow_number, 300)
            return first + second + third

        return [add_up]

    async def scenario(sim: Sim) -> int:
        handle = await sim.send("Sum/add_up")
        await sim.until(lambda: sim.effects["step 300"] > 0)
        seen = sim.effects["step 1"], sim.effects["step 20"]
        await sim.restart(crash=crash)
        await asyncio.sleep(1)
        sim.effect("gate")
        total: int = await sim.result(handle.id)
        assert (sim.effects["step 1"], sim.effects["step 20"]) == seen
        stops = 0 if crash else 1  # the scenario's own crash is among the interruptions, its own clean stop is not
        assert 1 <= sim.effects["step 300"] <= 1 + stops + sim.interruptions
        return total

    assert check(services, scenario) == 321


def test_a_steps_terminal_error_reaches_every_caller_without_another_execution() -> None:
    """C-003: a step fails terminally; a second attach after a restart gets the same error from the journal."""

    def services(sim: Sim) -> Iterable[object]:
        return [Failing(sim)]

    async def scenario(sim: Sim) -> tuple[str, int]:
        handle = await sim.send("Failing/fail_in_step", Failure("failed side effect"), key="k")
        error = await failure_of(sim.result(handle.id))
        assert type(error) is TerminalError
        once(sim, "failing step")
        executions = sim.effects["failing step"]

        await sim.restart()
        again = await failure_of(sim.result(handle.id))
        assert (type(again), again.message, again.code, again.metadata) == (
            TerminalError,
            error.message,
            error.code,
            error.metadata,
        )
        assert sim.effects["failing step"] == executions
        return error.message, error.code

    message, code = check(services, scenario)
    assert "failed side effect" in message
    assert code == 500


def test_a_caught_terminal_error_is_raised_again_on_replay_and_its_compensation_is_not_repeated() -> None:
    """C-004: a handler catches a step's error and undoes; the replay catches an equal one and undoes nothing."""

    def services(sim: Sim) -> Iterable[object]:
        async def reserve() -> None:
            sim.effect("reserve")
            raise TerminalError("sold out", 410, {"seat": "12A"})

        async def undo() -> None:
            sim.effect("undo")

        @handler(service="Trip")
        async def book(ctx: Context) -> str:
            try:
                await ctx.run(reserve)
            except TerminalError as error:
                sim.effect(f"caught {type(error).__name__} {error.message} {error.code} {error.metadata}")
                await ctx.run(undo)
            sim.effect("undone")
            await ctx.sleep("10s")
            return "undone"

        return [book]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Trip/book")
        await sim.until(lambda: sim.effects["undone"] > 0)
        once(sim, "reserve", "undo")
        executions = sim.effects["reserve"], sim.effects["undo"]

        await sim.restart()
        result: str = await sim.result(handle.id)
        assert (sim.effects["reserve"], sim.effects["undo"]) == executions
        assert sim.effects["undone"] >= 2, "there was no replay"
        caught = {name for name in sim.effects if name.startswith("caught")}
        assert caught == {"caught TerminalError sold out 410 {'seat': '12A'}"}
        return result

    assert check(services, scenario) == "undone"


class Nothings(Service):
    """Handlers that return what is easily mistaken for nothing."""

    @handler
    async def none(self, ctx: Context) -> int | None:
        return None

    @handler
    async def text(self, ctx: Context) -> str:
        return ""

    @handler
    async def list(self, ctx: Context) -> "list[int]":
        return []

    @handler
    async def zero(self, ctx: Context) -> int:
        return 0

    @handler
    async def false(self, ctx: Context) -> bool:
        return False

    @handler
    async def bytes(self, ctx: Context) -> "bytes":
        return b""


NOTHINGS: dict[str, object] = {"none": None, "text": "", "list": [], "zero": 0, "false": False, "bytes": b""}
TYPES: dict[str, Any] = {
    "none": int | None,
    "text": str,
    "list": list[int],
    "zero": int,
    "false": bool,
    "bytes": bytes,
}


def test_what_is_easily_mistaken_for_nothing_comes_back_equal_from_a_handler() -> None:
    """C-005: None, "", [], 0, False and b"" returned by handlers, before and after a restart."""

    def services(sim: Sim) -> Iterable[object]:
        return [Nothings()]

    async def scenario(sim: Sim) -> dict[str, object]:
        handles = {name: await sim.send(f"Nothings/{name}") for name in NOTHINGS}

        async def result(name: str) -> object:
            id, annotation = handles[name].id, TYPES[name]
            return await sim.repeat(lambda engine: engine.attach(id, annotation))

        live = {name: await result(name) for name in NOTHINGS}
        await sim.restart()
        after = {name: await result(name) for name in NOTHINGS}
        for name, expected in NOTHINGS.items():
            for value in (live[name], after[name]):
                assert value == expected
                assert type(value) is type(expected)
        return live

    assert check(services, scenario, most=20) == NOTHINGS


def test_what_is_easily_mistaken_for_nothing_comes_back_equal_from_a_step() -> None:
    """C-005: steps that return such values give them live and on replay, of the same type."""

    def services(sim: Sim) -> Iterable[object]:
        async def none() -> int | None:
            return None

        async def text() -> str:
            return ""

        async def numbers() -> list[int]:
            return []

        async def zero() -> int:
            return 0

        async def false() -> bool:
            return False

        async def data() -> bytes:
            return b""

        @handler(service="Steps")
        async def take(ctx: Context) -> bool:
            values: list[object] = [
                await ctx.run(none),
                await ctx.run(text),
                await ctx.run(numbers),
                await ctx.run(zero),
                await ctx.run(false),
                await ctx.run(data),
            ]
            sim.effect(f"saw {[(type(value).__name__, value) for value in values]}")
            await ctx.sleep("1s")
            return values == list(NOTHINGS.values())

        return [take]

    async def scenario(sim: Sim) -> bool:
        handle = await sim.send("Steps/take")
        await sim.until(lambda: bool(sim.effects))
        await sim.restart()
        equal: bool = await sim.result(handle.id)
        expected = [(type(value).__name__, value) for value in NOTHINGS.values()]
        assert set(sim.effects) == {f"saw {expected}"}
        assert sim.effects.total() >= 2, "there was no replay"
        return equal

    assert check(services, scenario)


def test_a_result_of_none_differs_from_no_result() -> None:
    """C-005: while the handler runs its output is not ready; once it returned None, the output is None."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Later")
        async def nothing(ctx: Context) -> None:
            await ctx.sleep("1m")

        return [nothing]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Later/nothing")
        with pytest.raises(OutputNotReadyError):
            await sim.repeat(lambda engine: engine.output(handle.id))
        await sim.result(handle.id)
        assert await sim.repeat(lambda engine: engine.output(handle.id)) is None

    check(services, scenario)


def test_bytes_stay_bytes() -> None:
    """C-006: a hundred random bytes go in and come out unwrapped."""
    data = random.Random(6).randbytes(100)

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Raw")
        async def echo(ctx: Context, body: bytes) -> bytes:
            assert ctx.request.body == body
            return body

        return [echo]

    async def scenario(sim: Sim) -> bytes:
        result: bytes = await sim.call("Raw/echo", data)
        view = await sim.repeat(lambda engine: engine.invocations(service="Raw"))
        stored = await sim.repeat(lambda engine: engine.describe(view[0].id))
        assert stored.input == stored.output == data
        return result

    assert check(services, scenario) == data


def test_a_step_whose_result_cannot_be_written_fails_its_attempt_and_nothing_else() -> None:
    """C-007: a step returns a generator; the failure names the step, pauses its invocation and harms nobody."""

    def services(sim: Sim) -> Iterable[object]:
        async def collect() -> Any:
            sim.effect("collect")
            numbers = (number for number in range(3))
            return numbers if sim.effects["fixed"] == 0 else list(numbers)

        @handler(service="Numbers")
        async def report(ctx: Context) -> list[int]:
            return [number * 10 for number in await ctx.run(collect)]

        return [report, Echo()]

    async def scenario(sim: Sim) -> list[int]:
        handle = await sim.send("Numbers/report")
        seen: list[InvocationView] = []

        async def paused() -> bool:
            seen.append(await sim.repeat(lambda engine: engine.describe(handle.id)))
            return seen[-1].status == "paused"

        await sim.until(paused)
        assert sim.effects["collect"] <= 1 + sim.interruptions, "it does not run again by itself"
        problem = seen[-1].last_failure
        assert problem is not None
        assert (problem.name, problem.type) == ("collect", "SerializationError")
        assert "generator" in problem.message
        assert all(entry.result == "open" for entry in seen[-1].journal if entry.kind == "run")
        assert await sim.call("Echo/echo", "still here") == "still here"

        sim.effect("fixed")
        await sim.repeat(lambda engine: engine.resume_all(reason="result-not-storable"))
        result: list[int] = await sim.result(handle.id)
        assert sim.effects["collect"] >= 2
        return result

    assert check(services, scenario) == [0, 10, 20]


def test_two_steps_run_at_once_and_are_awaited_in_reverse() -> None:
    """C-008: each step waits for the other to have started; the results go to the right variables."""

    def services(sim: Sim) -> Iterable[object]:
        async def step(name: str, other: str) -> str:
            sim.effect(name)
            await sim.until(lambda: sim.effects[other] > 0)
            return f"result of {name}"

        @handler(service="Pair")
        async def reverse(ctx: Context) -> list[str]:
            first = ctx.run(step, "first", "second")
            second = ctx.run(step, "second", "first")
            of_second = await second
            of_first = await first
            sim.effect(f"paired {of_first}, {of_second}")
            await ctx.sleep("1s")
            return [of_first, of_second]

        return [reverse]

    async def scenario(sim: Sim) -> list[str]:
        result: list[str] = await sim.call("Pair/reverse")
        once(sim, "first", "second")
        paired = [name for name in sim.effects if name.startswith("paired")]
        assert paired == ["paired result of first, result of second"]
        return result

    assert check(services, scenario) == ["result of first", "result of second"]


def test_random_numbers_are_the_invocations_own_on_every_replay() -> None:
    """C-009: numbers and UUIDs drawn before and after a sleep are equal on replay, and differ by invocation."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Dice")
        async def roll(ctx: Context) -> list[str]:
            drawn = [str(ctx.random().random()) for _ in range(3)]
            drawn.append(str(ctx.uuid()))
            sim.effect(f"before {ctx.request.id} {drawn}")
            await ctx.sleep("1s")
            drawn += [str(ctx.random().random()) for _ in range(3)]
            drawn.append(str(ctx.uuid()))
            sim.effect(f"after {ctx.request.id} {drawn}")
            await ctx.sleep("1s")
            return drawn

        return [roll]

    async def scenario(sim: Sim) -> None:
        handles = [await sim.send("Dice/roll") for _ in range(2)]
        await sim.until(lambda: len(sim.effects) >= 2)
        await sim.restart()
        results: list[list[str]] = [await sim.result(handle.id) for handle in handles]
        for handle, drawn in zip(handles, results, strict=True):
            saw = {name for name in sim.effects if handle.id in name}
            assert saw == {f"before {handle.id} {drawn[:4]}", f"after {handle.id} {drawn}"}
            assert len(set(drawn)) == 8
        assert set(results[0]).isdisjoint(results[1])

    check(services, scenario)


def test_a_result_that_is_awaited_twice_is_the_same_and_recorded_once() -> None:
    """C-010: two awaits of one awakeable and of one step, one after the other and at the same time."""

    def services(sim: Sim) -> Iterable[object]:
        async def step() -> str:
            sim.effect("step")
            return "ran"

        class Twice(Holder):
            @handler
            async def both(self, ctx: Any) -> list[str]:
                awakeable, ran = ctx.awakeable(str), ctx.run(step)
                ctx.set("id", awakeable.id)

                async def wait() -> str:
                    return str(await awakeable)

                together = await asyncio.gather(wait(), wait())
                return [*together, await awakeable, await ran, await ran]

        return [Twice()]

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Twice/both", key="k")
        id = await state_of(sim, "Twice", "k", "id")
        await resolve(sim, id, "come")
        result: list[str] = await sim.result(handle.id)
        once(sim, "step")
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        kinds = [(entry.kind, entry.result) for entry in view.journal]
        assert sorted(kinds[1:-1]) == [("awakeable", "success"), ("run", "success"), ("set", "success")]
        return result

    assert check(services, scenario) == ["come", "come", "come", "ran", "ran"]


@pytest.mark.parametrize("linger", ["0s", "10s"], ids=["caller ends first", "callee ends first"])
def test_a_call_that_is_never_awaited_runs_on_and_warns_of_nothing(
    linger: str, caplog: pytest.LogCaptureFixture
) -> None:
    """C-011: nobody awaits two callees, one of which fails; both complete, and so does the caller."""

    def services(sim: Sim) -> Iterable[object]:
        async def work(name: str) -> None:
            sim.effect(name)

        @handler(service="Slow")
        async def fail(ctx: Context) -> None:
            await ctx.sleep("1s")
            await ctx.run(work, "failing")
            raise TerminalError("nobody listens")

        @handler(service="Slow")
        async def succeed(ctx: Context) -> str:
            await ctx.sleep("1s")
            await ctx.run(work, "succeeding")
            return "done"

        @handler(service="Hasty")
        async def start(ctx: Context) -> list[str]:
            ids = [ctx.call(fail).id, ctx.call(succeed).id]
            await ctx.sleep(linger)
            return ids

        return [fail, succeed, start]

    async def scenario(sim: Sim) -> tuple[str, str]:
        failing, succeeding = await sim.call("Hasty/start")
        error = await failure_of(sim.result(failing))
        done: str = await sim.result(succeeding)
        once(sim, "failing", "succeeding")
        return error.message, done

    assert check(services, scenario) == ("nobody listens", "done")
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_what_a_step_read_from_the_environment_outlives_a_change_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """C-012: a variable read in a step keeps its first value through a restart with another one."""

    def services(sim: Sim) -> Iterable[object]:
        def read() -> str:
            return os.environ["GREETING"]

        @handler(service="Environment")
        async def greet(ctx: Context) -> str:
            greeting = await ctx.run(read)
            sim.effect("read")
            await ctx.sleep("10s")
            return greeting

        return [greet]

    async def scenario(sim: Sim) -> str:
        monkeypatch.setenv("GREETING", "hello")
        handle = await sim.send("Environment/greet")
        await sim.until(lambda: sim.effects["read"] > 0)
        monkeypatch.setenv("GREETING", "goodbye")
        await sim.restart()
        result: str = await sim.result(handle.id)
        assert sim.effects["read"] >= 2, "there was no replay"
        return result

    assert check(services, scenario) == "hello"
