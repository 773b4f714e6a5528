"""Failures that are tried again: how often, how long apart, who decides, and what happens at the end of the tries.

Exact waits are measured in the modes without interruptions; a crash may lose a failure that was not committed yet,
and then the next try comes at once.
"""

import asyncio
from itertools import pairwise
from typing import Any, Literal

import pytest

from durable import Context, RetryableError, RetryPolicy, Service, TerminalError, handler
from durable.testing import Mode, Sim, check, simulate
from tests.scenarios.keyed import assert_ran, reaches

UNINTERRUPTED = pytest.mark.parametrize(
    "mode",
    [Mode("default"), Mode("always-suspend", always_suspend=True), Mode("minimal memory", minimal=True)],
    ids=lambda mode: mode.name,
)
DOUBLING = RetryPolicy(
    initial_interval="50ms", factor=2, max_interval="400ms", max_attempts=7, on_max_attempts="kill"
)


def gaps(times: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_a_handler_that_fails_three_times_succeeds_on_the_fourth_try() -> None:
    """C-078: an ordinary exception is retried by default; the result is 4."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Flaky")
        async def work(ctx: Context) -> int:
            number = sim.effect("tries")
            if number < 4:
                raise RuntimeError(f"try {number}")
            return number

        return [work]

    async def scenario(sim: Sim) -> str:
        result = await sim.call("Flaky/work")
        assert_ran(sim, "tries", 4)
        assert result == sim.effects["tries"]
        return "succeeded"

    assert check(services, scenario) == "succeeded"
    simulated, sim = simulate(services, scenario)
    assert (simulated, sim.effects["tries"]) == ("succeeded", 4)


def test_a_step_that_fails_twice_succeeds_within_its_own_policy() -> None:
    """C-079: the handler sees only the third execution; steps before it are not repeated."""

    def services(sim: Sim) -> list[object]:
        async def before() -> None:
            sim.effect("before")

        async def flaky() -> int:
            number = sim.effect("flaky")
            if number < 3:
                raise RuntimeError(f"try {number}")
            return number

        @handler(service="Flaky", retry=RetryPolicy(max_attempts=1))
        async def work(ctx: Context) -> int:
            await ctx.run(before)
            return await ctx.with_options(retry=RetryPolicy(max_attempts=5)).run(flaky)

        return [work]

    async def scenario(sim: Sim) -> bool:
        result = await sim.call("Flaky/work")
        assert_ran(sim, "before")
        assert_ran(sim, "flaky", 3)
        return bool(3 <= result <= sim.effects["flaky"])

    assert check(services, scenario) is True


@pytest.mark.parametrize("max_attempts", [3, 1])
def test_a_step_that_always_fails_raises_a_terminal_error_after_its_last_try(max_attempts: int) -> None:
    """C-079: exactly so many executions; the handler catches it and goes on, on every replay."""

    def services(sim: Sim) -> list[object]:
        async def hopeless() -> None:
            sim.effect("hopeless")
            raise RuntimeError("always")

        async def instead() -> str:
            sim.effect("instead")
            return "done without"

        @handler(service="Flaky")
        async def work(ctx: Context) -> tuple[str, str]:
            try:
                await ctx.with_options(retry=RetryPolicy(max_attempts=max_attempts)).run(hopeless)
            except TerminalError as error:
                await ctx.sleep("1s")
                return error.message, await ctx.run(instead)
            return "no error", ""

        return [work]

    async def scenario(sim: Sim) -> tuple[str, str]:
        message, result = await sim.call("Flaky/work")
        assert_ran(sim, "hopeless", max_attempts)
        assert_ran(sim, "instead")
        return message, result

    message, result = check(services, scenario)
    assert "always" in message
    assert result == "done without"


def test_two_steps_with_policies_of_their_own_count_apart() -> None:
    """C-079: what one uses up is not missing to the other, nor to the invocation."""

    def services(sim: Sim) -> list[object]:
        async def flaky(name: str) -> str:
            if sim.effect(name) < 3:
                raise RuntimeError(name)
            return name

        @handler(service="Flaky", retry=RetryPolicy(max_attempts=1, on_max_attempts="kill"))
        async def work(ctx: Context) -> list[str]:
            patient = ctx.with_options(retry=RetryPolicy(max_attempts=3))
            return [await patient.run(flaky, "first"), await patient.run(flaky, "second")]

        return [work]

    async def scenario(sim: Sim) -> list[str]:
        result: list[str] = await sim.call("Flaky/work")
        assert_ran(sim, "first", 3)
        assert_ran(sim, "second", 3)
        return result

    assert check(services, scenario) == ["first", "second"]


@UNINTERRUPTED
def test_a_handlers_waits_double_up_to_the_ceiling_and_none_follows_the_last_try(mode: Mode) -> None:
    """C-080: 50, 100, 200, 400, 400, 400 ms; the failure is known the moment the last try has failed."""
    tries: list[int] = []

    def services(sim: Sim) -> list[object]:
        @handler(service="Flaky", retry=DOUBLING)
        async def work(ctx: Context) -> None:
            tries.append(sim.clock.now_ms())
            raise RuntimeError("again")

        return [work]

    async def scenario(sim: Sim) -> int:
        with pytest.raises(TerminalError, match="again"):
            await sim.call("Flaky/work")
        return sim.clock.now_ms()

    failed_at, _ = simulate(services, scenario, mode)
    assert gaps(tries) == [50, 100, 200, 400, 400, 400]
    assert failed_at == tries[-1]


@UNINTERRUPTED
def test_a_steps_waits_double_up_to_the_ceiling_and_none_follows_the_last_try(mode: Mode) -> None:
    """C-080: the same for a step with a policy of its own, whatever the handler's policy is."""
    tries: list[int] = []

    def services(sim: Sim) -> list[object]:
        async def flaky() -> None:
            tries.append(sim.clock.now_ms())
            raise RuntimeError("again")

        @handler(service="Flaky", retry=RetryPolicy(initial_interval="1h", max_interval="2h"))
        async def work(ctx: Context) -> int:
            with pytest.raises(TerminalError, match="again"):
                await ctx.with_options(retry=DOUBLING).run(flaky)
            return sim.clock.now_ms()

        return [work]

    async def scenario(sim: Sim) -> int:
        return int(await sim.call("Flaky/work"))

    failed_at, _ = simulate(services, scenario, mode)
    assert gaps(tries) == [50, 100, 200, 400, 400, 400]
    assert failed_at == tries[-1]


@UNINTERRUPTED
def test_journaled_progress_starts_the_back_off_anew(mode: Mode) -> None:
    """C-080: design 4.4: the second step's failures wait as if the first had never failed."""
    tries: list[int] = []

    def services(sim: Sim) -> list[object]:
        async def flaky(name: str) -> str:
            tries.append(sim.clock.now_ms())
            if sim.effect(name) < 4:
                raise RuntimeError(name)
            return name

        @handler(service="Flaky", retry=RetryPolicy(initial_interval="50ms", max_attempts=4, on_max_attempts="kill"))
        async def work(ctx: Context) -> list[str]:
            return [await ctx.run(flaky, "first"), await ctx.run(flaky, "second")]

        return [work]

    async def scenario(sim: Sim) -> list[str]:
        result: list[str] = await sim.call("Flaky/work")
        return result

    result, _ = simulate(services, scenario, mode)
    assert result == ["first", "second"]
    assert gaps(tries) == [50, 100, 200, 0, 50, 100, 200]


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_the_engine_is_down_while_a_retry_is_due_and_the_wait_is_not_begun_anew(crash: bool) -> None:
    """C-080: the moment of the retry is stored; a restart neither shortens nor extends it."""
    tries: list[int] = []

    def services(sim: Sim) -> list[object]:
        @handler(service="Flaky", retry=RetryPolicy(initial_interval="10m", max_interval="10m"))
        async def work(ctx: Context) -> None:
            tries.append(sim.clock.now_ms())
            if len(tries) < 3:
                raise RuntimeError("again")

        return [work]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send("Flaky/work")
        for _ in range(2):
            await reaches(sim, handle.id, "backing-off")
            await asyncio.sleep(240)
            await sim.restart(crash=crash)
            await asyncio.sleep(420)
        await sim.result(handle.id)

    simulate(services, scenario)
    assert gaps(tries) == [600_000, 600_000]


def failing(sim: Sim, policy: RetryPolicy) -> list[object]:
    @handler(service="Failing", retry=policy)
    async def work(ctx: Context) -> None:
        raise RuntimeError(f"try {sim.effect('tries')}")

    return [work]


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_when_tries_run_out_kill_completes_with_the_last_error(max_attempts: int) -> None:
    """C-081: the first try counts; the caller gets the error of the last one, and there is no further one."""

    async def scenario(sim: Sim) -> tuple[str, int]:
        handle = await sim.send("Failing/work")
        with pytest.raises(TerminalError) as failure:
            await sim.result(handle.id)
        assert_ran(sim, "tries", max_attempts)
        assert f"try {sim.effects['tries']}" in failure.value.message
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.completion_result == "failure"
        await asyncio.sleep(7200)
        assert_ran(sim, "tries", max_attempts)
        return view.status, failure.value.code

    policy = RetryPolicy(max_attempts=max_attempts, on_max_attempts="kill")
    assert check(lambda sim: failing(sim, policy), scenario) == ("completed", 500)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_when_tries_run_out_pause_keeps_the_invocation_with_its_last_error(max_attempts: int) -> None:
    """C-081: the first try counts; it is paused, through restarts, and nothing is tried any more."""

    async def scenario(sim: Sim) -> tuple[str, int]:
        handle = await sim.send("Failing/work")
        await reaches(sim, handle.id, "paused")
        await sim.restart()
        await asyncio.sleep(7200)
        assert_ran(sim, "tries", max_attempts)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.last_failure is not None
        assert f"try {sim.effects['tries']}" in view.last_failure.message
        return view.status, view.failures

    policy = RetryPolicy(max_attempts=max_attempts, on_max_attempts="pause")
    assert check(lambda sim: failing(sim, policy), scenario) == ("paused", max_attempts)


def test_the_nearest_retry_policy_wins_field_by_field() -> None:
    """C-081: handler over service over engine; what one leaves open is decided further out."""

    def services(sim: Sim) -> list[object]:
        class Plain(Service):
            @handler
            async def by_engine(self, ctx: Context) -> None:
                raise RuntimeError(f"try {sim.effect('by engine')}")

        class Strict(Service, retry=RetryPolicy(max_attempts=3, initial_interval="7s")):
            @handler
            async def by_service(self, ctx: Context) -> None:
                sim.effect(f"by service at {sim.clock.now_ms()}")
                raise RuntimeError(f"try {sim.effect('by service')}")

            @handler(retry=RetryPolicy(max_attempts=2))
            async def by_handler(self, ctx: Context) -> None:
                sim.effect(f"by handler at {sim.clock.now_ms()}")
                raise RuntimeError(f"try {sim.effect('by handler')}")

        return [Plain(), Strict()]

    def waits(sim: Sim, name: str) -> list[int]:
        return gaps([int(note.split()[-1]) for note in sim.trace if note.startswith(f"{name} at")])

    async def scenario(sim: Sim) -> list[int]:
        codes = []
        for target in ("Plain/by_engine", "Strict/by_service", "Strict/by_handler"):
            with pytest.raises(TerminalError, match="try") as failure:
                await sim.call(target)
            codes.append(failure.value.code)
        assert_ran(sim, "by engine", 4)
        assert_ran(sim, "by service", 3)
        assert_ran(sim, "by handler", 2)
        if not sim.interruptions:
            assert waits(sim, "by service") == [7000, 14_000]
            assert waits(sim, "by handler") == [7000]
        return codes

    of_engine = RetryPolicy(max_attempts=4, initial_interval="10ms", on_max_attempts="kill")
    assert check(services, scenario, most=25, retry=of_engine) == [500, 500, 500]


Where = Literal["handler", "step", "step with a policy"]


def retry_after(sim: Sim, where: Where, policy: RetryPolicy, tries: list[int]) -> list[object]:
    """Fails in the handler or in a step, always asking to be tried again after 100 ms."""

    async def fail() -> str:
        tries.append(sim.clock.now_ms())
        if sim.effect("tries") < 4:
            raise RetryableError("busy", retry_after="100ms")
        return "done"

    @handler(service="Busy", retry=policy)
    async def work(ctx: Context) -> str:
        match where:
            case "handler":
                return await fail()
            case "step":
                return await ctx.run(fail)
            case _:
                return await ctx.with_options(retry=policy).run(fail)

    return [work]


WHERE = pytest.mark.parametrize("where", ["handler", "step", "step with a policy"])


@WHERE
def test_an_error_that_names_its_own_delay_is_retried_after_that(where: Where) -> None:
    """C-082: every 100 ms, while the policy's interval is one hour."""
    tries: list[int] = []
    policy = RetryPolicy(initial_interval="1h", max_interval="1h")

    async def scenario(sim: Sim) -> str:
        since_ms = sim.clock.now_ms()
        result = await sim.call("Busy/work")
        assert sim.clock.now_ms() - since_ms < 3_600_000
        assert_ran(sim, "tries", 4)
        return str(result)

    result, _ = simulate(lambda sim: retry_after(sim, where, policy, tries), scenario)
    assert result == "done"
    assert gaps(tries) == [100, 100, 100]
    assert check(lambda sim: retry_after(sim, where, policy, []), scenario) == "done"


@WHERE
def test_an_error_that_names_its_own_delay_counts_as_a_try(where: Where) -> None:
    """C-082: design 4.4: after three of them the policy's budget is used up."""

    async def scenario(sim: Sim) -> str:
        with pytest.raises(TerminalError, match="busy"):
            await sim.call("Busy/work")
        assert_ran(sim, "tries", 3)
        return "given up"

    def services(sim: Sim) -> list[object]:
        policy = RetryPolicy(initial_interval="1h", max_attempts=3, on_max_attempts="kill")
        return retry_after(sim, where, policy, [])

    result, sim = simulate(services, scenario)
    assert (result, sim.effects["tries"]) == ("given up", 3)


def test_a_delay_may_be_given_in_any_form_of_a_duration() -> None:
    """C-082: seconds, text, timedelta-like; a bad one falls back to the policy and does not lose the failure."""
    tries: list[int] = []
    delays: list[Any] = [2, "3s", "PT4S", 0, "soon"]

    def services(sim: Sim) -> list[object]:
        @handler(service="Busy", retry=RetryPolicy(initial_interval="5m", factor=1, max_interval="5m"))
        async def work(ctx: Context) -> str:
            tries.append(sim.clock.now_ms())
            if len(tries) <= len(delays):
                raise RetryableError("busy", retry_after=delays[len(tries) - 1])
            return "done"

        return [work]

    async def scenario(sim: Sim) -> str:
        return str(await sim.call("Busy/work"))

    assert simulate(services, scenario)[0] == "done"
    assert gaps(tries) == [2000, 3000, 4000, 0, 300_000]


def wrapped(error: Exception, how: str) -> Exception:
    """The error as code that catches and adds to it raises it."""
    try:
        try:
            raise error
        except Exception as caught:
            if how == "in a group":
                raise ValueError("outer") from ExceptionGroup("several", [caught])
            if how == "twice":
                try:
                    raise KeyError("inner") from caught
                except KeyError as inner:
                    raise ValueError("outer") from inner
            if how == "without from":
                raise ValueError("outer")  # noqa: B904
            raise ValueError("outer") from caught
    except ValueError as outer:
        return outer


@WHERE
@pytest.mark.parametrize("how", ["once", "twice", "in a group"])
def test_what_is_raised_from_a_terminal_error_is_terminal(where: Where, how: str) -> None:
    """Python's way to add to an error does not change what it means; the caller gets the terminal one."""

    def services(sim: Sim) -> list[object]:
        def fail() -> None:
            sim.effect("tries")
            raise wrapped(TerminalError("sold out", 410, {"sku": "a"}), how)

        @handler(service="Shop", retry=RetryPolicy(initial_interval="1h"))
        async def buy(ctx: Context) -> None:
            if where == "handler":
                fail()
            await (ctx if where == "step" else ctx.with_options(retry=RetryPolicy(max_attempts=9))).run(fail)

        return [buy]

    async def scenario(sim: Sim) -> str:
        with pytest.raises(TerminalError) as caught:
            await sim.call("Shop/buy")
        assert (caught.value.message, caught.value.code, caught.value.metadata) == ("sold out", 410, {"sku": "a"})
        assert_ran(sim, "tries", 1)
        return "given up"

    assert check(services, scenario, most=20) == "given up"


@pytest.mark.parametrize("how", ["once", "twice"])
def test_what_is_raised_from_an_error_that_names_its_own_delay_is_retried_after_that(how: str) -> None:
    tries: list[int] = []

    def services(sim: Sim) -> list[object]:
        @handler(service="Busy", retry=RetryPolicy(initial_interval="1h", max_interval="1h"))
        async def work(ctx: Context) -> int:
            tries.append(sim.clock.now_ms())
            if len(tries) < 3:
                raise wrapped(RetryableError("busy", retry_after="100ms"), how)
            return len(tries)

        return [work]

    async def scenario(sim: Sim) -> int:
        return int(await sim.call("Busy/work"))

    assert simulate(services, scenario)[0] == 3
    assert gaps(tries) == [100, 100]


def test_an_error_that_only_happened_meanwhile_changes_nothing() -> None:
    """Without `from`, the error is one of its own: it is retried."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Shop", retry=RetryPolicy(initial_interval="10ms"))
        async def buy(ctx: Context) -> str:
            if sim.effect("tries") == 1:
                raise wrapped(TerminalError("sold out"), "without from")
            return "bought"

        return [buy]

    async def scenario(sim: Sim) -> str:
        return str(await sim.call("Shop/buy"))

    assert simulate(services, scenario)[0] == "bought"
