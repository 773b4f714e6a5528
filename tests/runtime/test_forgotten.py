"""A forgotten `await`: the log says which line it is, and a test fails of it."""

import asyncio
import linecache
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    Service,
    TerminalError,
    Workflow,
    WorkflowContext,
    gather,
    handler,
    select,
    wait_completed,
)
from durable.testing import ForgottenAwait, MemoryStore, Mode, Sim, VirtualClock, check, run, simulate

UNDISTURBED = Mode("undisturbed")
Handle = Callable[[Context], Coroutine[Any, Any, Any]]


async def charge(amount: int = 1) -> int:
    return amount


async def fail() -> None:
    raise TerminalError("as planned")


@handler(service="Shop")
async def other(ctx: Context) -> str:
    await ctx.sleep("1s")
    return "other"


def forgotten(handle: Handle, mode: Mode = UNDISTURBED) -> list[str]:
    """What is said to be forgotten, and the line that is named, when this handler has ended."""
    target = handler(service="Shop", name="buy")(handle)

    async def scenario(sim: Sim) -> None:
        try:
            await sim.call("Shop/buy")
        except TerminalError:
            await asyncio.sleep(0.1)

    try:
        simulate(lambda sim: [other, target], scenario, mode)
    except ForgottenAwait as error:
        return [f"{operation} in: {line_at(place)}" for operation, place in NAMED.findall(str(error))]
    return []


NAMED = re.compile(r"never awaited (\S+(?: \S+)*?) at (\S+?)(?:, \d+ times)?: did you forget")


def line_at(place: str) -> str:
    file, _, line = place.rpartition(":")
    return linecache.getline(file, int(line)).strip()


def test_the_log_names_the_line_and_what_may_be_lost(caplog: pytest.LogCaptureFixture) -> None:
    @handler(service="Shop")
    async def buy(ctx: Context) -> str:
        ctx.run(charge, 7)
        return "bought"

    async def story() -> None:
        async with Engine(services=[buy], store=MemoryStore()) as engine:
            assert await engine.call(buy) == "bought"
            await asyncio.sleep(0.05)

    asyncio.run(story())
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.match(r"Shop/buy inv_1\w+: the handler ended and never awaited ctx\.run\(charge\) at ", warning)
    line = buy.fn.__code__.co_firstlineno + 2
    assert f"{__file__}:{line}: did you forget `await`? The step may not have run" in warning


def test_whatever_is_thrown_away_where_it_is_made_was_forgotten() -> None:
    async def buy(ctx: Context) -> None:
        ctx.run(charge)
        ctx.with_options(name="named").run(charge)
        ctx.sleep("1s")
        ctx.call(other)
        ctx.signal("paid")
        ctx.awakeable()
        ctx.attach(ctx.request.id)
        ctx.run(charge).with_timeout("1s")
        gather(ctx.run(charge), ctx.sleep("1s"))
        select(charged=ctx.run(charge))
        wait_completed(ctx.run(charge))
        ctx.send(other).attach()

    assert forgotten(buy) == [
        "ctx.run(charge) in: ctx.run(charge)",
        'ctx.run(named) in: ctx.with_options(name="named").run(charge)',
        'ctx.sleep(…) in: ctx.sleep("1s")',
        "ctx.call(Shop/other) in: ctx.call(other)",
        "ctx.signal('paid') in: ctx.signal(\"paid\")",
        "ctx.awakeable() in: ctx.awakeable()",
        "ctx.attach(…) in: ctx.attach(ctx.request.id)",
        'with_timeout(…) in: ctx.run(charge).with_timeout("1s")',
        'gather(…) in: gather(ctx.run(charge), ctx.sleep("1s"))',
        "select(…) in: select(charged=ctx.run(charge))",
    ]  # ten places are named, no more


def test_promises_and_state_too() -> None:
    class Deal(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> None:
            ctx.promise("agreed", bool)
            ctx.promise("agreed", bool).peek()
            ctx.get("price", int)
            ctx.state_keys()
            ctx.set("price", 1)
            ctx.promise("agreed", bool).resolve(True)  # that is done, awaited or not

    with pytest.raises(ForgottenAwait) as error:
        simulate(lambda sim: [Deal()], lambda sim: sim.call("Deal/run", key="1"))
    assert [line_at(place) for _, place in NAMED.findall(str(error.value))] == [
        'ctx.promise("agreed", bool)',
        'ctx.promise("agreed", bool).peek()',
        'ctx.get("price", int)',
        "ctx.state_keys()",
    ]


def test_steps_and_calls_that_are_kept_and_never_awaited_were_forgotten_if_all_went_well() -> None:
    def begun(ctx: Context) -> Any:
        return ctx.run(charge, 1)

    async def buy(ctx: Context) -> None:
        charged = ctx.run(charge, 2)
        asyncio.gather(ctx.run(charge, 3)).add_done_callback(lambda done: done.exception())
        begun(ctx)
        both = gather(ctx.call(other), ctx.sleep("1s"))
        signal, slept = ctx.signal("nobody needs it"), ctx.sleep("1s")
        assert [charged, both, signal, slept]

    assert [one.partition(" in: ")[2] for one in forgotten(buy)] == [
        "charged = ctx.run(charge, 2)",
        "asyncio.gather(ctx.run(charge, 3)).add_done_callback(lambda done: done.exception())",
        "return ctx.run(charge, 1)",
        'both = gather(ctx.call(other), ctx.sleep("1s"))',
    ]


def test_it_counts_also_where_the_step_ran_and_was_recorded() -> None:
    """Whether it had the time to is chance."""

    async def buy(ctx: Context) -> None:
        ctx.run(charge)
        await ctx.sleep("1s")

    assert forgotten(buy) == ["ctx.run(charge) in: ctx.run(charge)"]


async def losers(ctx: Context) -> None:
    charged, call = ctx.run(charge), ctx.call(other)
    await ctx.sleep("1ms").with_timeout("1h")
    await select(charged=charged, call=call, late=ctx.sleep("1h"))


async def given_up(ctx: Context) -> None:
    async def slow(call: Any) -> None:
        late = ctx.run(charge)
        await ctx.sleep("1h")
        await gather(late, call)

    async def fails() -> None:
        await ctx.run(fail)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(slow(ctx.call(other)))
            group.create_task(fails())
    except* TerminalError:
        pass
    left = asyncio.create_task(slow(ctx.call(other)))
    left.add_done_callback(lambda done: done.cancelled() or done.exception())
    await ctx.sleep("1ms")


async def skipped(ctx: Context) -> str:
    charged = ctx.run(charge)
    try:
        await ctx.run(fail)
    except TerminalError:
        return "not charged"
    return str(await charged)


async def too_late(ctx: Context) -> str:
    charged = ctx.run(charge)
    try:
        await ctx.awakeable().with_timeout("1s")
    except TimeoutError:
        return "too late"
    return str(await charged)


async def failed(ctx: Context) -> None:
    charged = ctx.run(charge)
    if ctx.request.attempt:
        raise TerminalError("sold out")
    await charged


async def left_on_purpose(ctx: Context) -> str:
    ctx.send(other)
    ctx.send(other, delay="1h").cancel()
    return ctx.call(other).id


async def flows(ctx: Context) -> None:
    await asyncio.gather(ctx.run(charge), ctx.sleep(1), asyncio.ensure_future(ctx.run(charge)))
    for number in range(100):
        await gather(*[ctx.run(charge, number) for number in range(number % 5 + 1)])
    async with ctx.saga() as saga:
        saga.add_compensation(charge, 1)


@pytest.mark.parametrize("handle", [losers, given_up, skipped, too_late, failed, left_on_purpose, flows])
def test_what_is_left_behind_for_a_reason_is_not_forgotten(handle: Handle) -> None:
    assert forgotten(handle) == []
    assert forgotten(handle, Mode("suspended", always_suspend=True)) == []


def test_a_handler_that_fails_forgot_what_it_threw_away() -> None:
    async def buy(ctx: Context) -> None:
        kept = ctx.run(charge, 1)
        ctx.run(charge, 2)
        raise TerminalError(f"sold out before {kept}")

    assert forgotten(buy) == ["ctx.run(charge) in: ctx.run(charge, 2)"]


@pytest.mark.parametrize(
    "mode", [Mode("undisturbed"), Mode("suspended", always_suspend=True)], ids=lambda one: one.name
)
def test_it_is_said_once_however_often_the_handler_is_replayed(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    async def buy(ctx: Context) -> None:
        for number in range(3):
            ctx.sleep("1h")
            await ctx.run(charge, number)
            await ctx.sleep("1s")

    assert forgotten(buy, mode) == ['ctx.sleep(…) in: ctx.sleep("1h")']
    [warning] = [record.getMessage() for record in caplog.records if "forget" in record.getMessage()]
    assert ", 3 times: did you forget" in warning


def test_a_checked_scenario_fails_of_it() -> None:
    class Shop(Service):
        @handler
        async def buy(self, ctx: Context) -> str:
            ctx.run(charge)
            return "bought"

    with pytest.raises(ForgottenAwait, match=r"Shop/buy: the handler ended and never awaited ctx\.run\(charge\) at "):
        check(lambda sim: [Shop()], lambda sim: sim.call("Shop/buy"))

    async def story() -> str:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[Shop()], store=MemoryStore(), clock=clock) as engine:
            bought: str = await engine.call("Shop/buy")
            return bought

    with pytest.raises(ForgottenAwait, match="did you forget `await`"):
        run(story)


@pytest.mark.parametrize("several", [False, True], ids=["a future", "in a list"])
def test_a_future_is_no_result(several: bool) -> None:
    @handler(service="Shop")
    async def buy(ctx: Context) -> Any:
        return [ctx.run(charge)] if several else ctx.run(charge)

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Shop/buy")
        await sim.until(lambda: is_paused(sim, handle.id))
        failure = (await sim.engine.describe(handle.id)).last_failure
        assert failure is not None
        return failure.message

    assert "did you forget `await`?" in simulate(lambda sim: [buy], scenario)[0]


async def is_paused(sim: Sim, id: str) -> bool:
    return await sim.status(id) == "paused"
