"""asyncio's own functions over durable futures: they take them as they are, live and in every replay."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context as NewContext
from contextvars import ContextVar
from typing import Any

import pytest

from durable import (
    Context,
    DurableFuture,
    InvocationCancelled,
    NotInHandlerError,
    RetryPolicy,
    TerminalError,
    UsageError,
    WrongLoopError,
    gather,
    handler,
)
from durable.core.limits import Limits
from durable.errors import AttemptEnded
from durable.testing import Sim, check, run
from tests.scenarios.controls import cancel, waits
from tests.scenarios.support import engine_with

Body = Callable[[Context], Awaitable[Any]]


async def work(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail(seconds: float) -> float:
    await asyncio.sleep(seconds)
    raise TerminalError(f"after {seconds}")


def handled(body: Body, **options: Any) -> Any:
    """What a handler with this body gives, in every mode."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def child(ctx: Context, seconds: float) -> float:
            await ctx.sleep(seconds)
            return seconds

        @handler(service="S", retry=RetryPolicy("10ms", max_attempts=None))
        async def parent(ctx: Context) -> Any:
            return await body(ctx)

        return [parent, child]

    return check(services, lambda sim: sim.call("S/parent"), most=20, **options)


def seen(one: "asyncio.Future[Any]") -> None:
    """Whoever awaits it may be gone when its attempt ends."""
    if not one.cancelled():
        one.exception()


def timers(ctx: Context) -> list[DurableFuture[Any]]:
    """They come in the same order in every mode; what is executed may take longer."""
    return [ctx.sleep(seconds) for seconds in (3, 1, 2, 4)]


def some(ctx: Context) -> list[DurableFuture[Any]]:
    return [ctx.run(work, 3), ctx.call("S/child", 1.0), ctx.run(work, 2), ctx.sleep(4)]


def test_gather_gives_values_in_the_order_of_its_arguments() -> None:
    async def body(ctx: Context) -> Any:
        again = ctx.run(work, 1)
        return [await asyncio.gather(*some(ctx)), await asyncio.gather(again, again), await asyncio.gather(again)]

    assert handled(body) == [[3, 1, 2, None], [1, 1], [1]]


def test_gather_raises_the_first_error_and_what_it_left_goes_on() -> None:
    async def body(ctx: Context) -> Any:
        slow, broken = ctx.run(work, 3), ctx.run(fail, 1)
        try:
            await asyncio.gather(slow, broken, ctx.sleep(2))
        except TerminalError as error:
            again = await asyncio.gather(broken, slow, return_exceptions=True)
            return [error.message, await slow, *map(str, again)]

    assert handled(body) == ["after 1", 3, "after 1", "3.0"]


def test_gather_gives_errors_among_the_values_where_it_is_asked_to() -> None:
    async def body(ctx: Context) -> Any:
        found = await asyncio.gather(ctx.run(fail, 2), ctx.run(work, 1), ctx.run(fail, 1), return_exceptions=True)
        return [str(one) for one in found]

    assert handled(body) == ["after 2", "1.0", "after 1"]


def test_gather_in_gather_beside_coroutines_and_combinations_of_ours() -> None:
    async def body(ctx: Context) -> Any:
        async def flow() -> float:
            return await ctx.run(work, await ctx.run(work, 1))

        inner = asyncio.gather(ctx.run(work, 2), flow())
        return await asyncio.gather(inner, gather(*some(ctx)), flow(), ctx.sleep(9).with_timeout(20))

    assert handled(body) == [[2, 1], [3, 1, 2, None], 1, None]


def test_wait_says_which_are_done_and_its_sets_have_one_order() -> None:
    async def body(ctx: Context) -> Any:
        futures: list[Any] = timers(ctx)  # asyncio.wait is annotated with futures of asyncio only
        done, left = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        first = [futures.index(one) for one in done]
        broken: Any = ctx.run(fail, 1)
        failed, left = await asyncio.wait({*left, broken}, return_when=asyncio.FIRST_EXCEPTION)
        done, none = await asyncio.wait([*left, *failed])
        for one in done:  # each entry is asked for in that order: another one is another journal
            await ctx.run(work, 0 if one is broken else futures.index(one))
        return [first, broken in failed, str(broken.exception()), len(done), len(none)]

    assert handled(body) == [[1], True, "after 1", 4, 0]


def test_as_completed_gives_them_as_they_come() -> None:
    async def body(ctx: Context) -> Any:
        in_order = [await one for one in asyncio.as_completed(timers(ctx))]
        return [*in_order, *sorted([await one for one in asyncio.as_completed(some(ctx))], key=str)]

    assert handled(body) == [None, None, None, None, 1, 2, 3, None]


def test_as_completed_gives_the_futures_themselves_to_an_async_for() -> None:
    """From Python 3.13 on. Before that, whoever awaits what it gives learns which came by asking them."""

    async def body(ctx: Context) -> Any:
        futures = timers(ctx)
        if sys.version_info >= (3, 13):
            return [futures.index(one) async for one in asyncio.as_completed(futures)]
        found: list[int] = []
        for each in asyncio.as_completed(futures):
            await each
            found += [place for place, one in enumerate(futures) if one.done() and place not in found]
        return found

    assert handled(body) == [1, 2, 0, 3]


def test_a_shield_keeps_nothing_back_and_what_is_behind_it_goes_on() -> None:
    async def body(ctx: Context) -> Any:
        slow: DurableFuture[Any] = ctx.sleep(3)
        shielded = asyncio.shield(slow)
        together = asyncio.gather(shielded, ctx.sleep(9))
        for one in (shielded, together):
            one.add_done_callback(seen)
        await ctx.sleep(1)
        together.cancel()
        with pytest.raises(asyncio.CancelledError):
            await together
        return [shielded.cancelled(), await asyncio.shield(slow), await slow]

    assert handled(body) == [True, None, None]


def test_of_two_gathers_over_the_same_future_one_gives_up_and_the_other_gets_its_outcome() -> None:
    async def body(ctx: Context) -> Any:
        shared: DurableFuture[Any] = ctx.sleep(3)
        kept, left = asyncio.gather(shared, ctx.sleep(2)), asyncio.gather(ctx.sleep(5), shared)
        for one in (kept, left):
            one.add_done_callback(seen)
        await ctx.sleep(1)
        left.cancel()
        try:
            await left
        except asyncio.CancelledError:
            return [await kept, await asyncio.gather(shared), await shared]

    assert handled(body) == [[None, None], [None], None]


@pytest.mark.parametrize("all_of_them", [True, False], ids=["errors among the values", "the first error"])
def test_a_cancel_is_told_to_all_that_wait_and_what_is_asked_for_after_it_is_done(all_of_them: bool) -> None:
    def services(sim: Sim) -> Iterable[object]:
        @handler(service="S")
        async def parent(ctx: Context) -> Any:
            futures = [ctx.awakeable(str), ctx.sleep("1d"), ctx.signal("never", str)]
            try:
                found = await asyncio.gather(*futures, return_exceptions=all_of_them)
            except InvocationCancelled as error:
                found = [error]
            return [
                *(type(one).__name__ for one in found),
                await ctx.run(work, 1),
                *await asyncio.gather(ctx.sleep(1)),
            ]

        return [parent]

    async def scenario(sim: Sim) -> Any:
        handle = await sim.send("S/parent")
        await waits(sim, handle.id, "sleep")
        await cancel(sim, handle.id)
        return await sim.result(handle.id)

    told = ["InvocationCancelled"] * (3 if all_of_them else 1)
    assert check(services, scenario, most=20) == [*told, 1, None]


def test_in_a_task_group_that_gives_up_what_was_asked_for_goes_on() -> None:
    async def body(ctx: Context) -> Any:
        slow = ctx.run(work, 3)

        async def waits() -> None:
            await asyncio.gather(slow, ctx.sleep(9))

        async def fails() -> None:
            await ctx.sleep(1)
            raise TerminalError("enough")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(fails())
        except ExceptionGroup as errors:
            return [len(errors.exceptions), await slow]

    assert handled(body) == [1, 3]


def test_done_says_what_has_come_by_the_last_wait() -> None:
    async def body(ctx: Context) -> Any:
        first, second, third = ctx.sleep(1), ctx.sleep(2), ctx.sleep(3)
        found = [[one.done() for one in (first, second, third)]]
        for one in (second, third):
            await one
            found.append([one.done() for one in (first, second, third)])
        return [*found, await asyncio.gather(first), await asyncio.shield(second)]

    assert handled(body) == [[False] * 3, [True, True, False], [True] * 3, [None], None]


def test_a_callback_of_ones_own_is_called_with_the_future_in_its_context() -> None:
    who = ContextVar("who", default="nobody")

    async def body(ctx: Context) -> Any:
        called: list[Any] = []
        future: Any = ctx.run(work, 1)

        def note(one: DurableFuture[Any]) -> None:
            if isinstance(one.exception(), AttemptEnded):
                return
            called.append([one is future, one.done(), one.cancelled(), one.result(), one.exception(), who.get()])

        def never(one: DurableFuture[Any]) -> None:
            called.append("never")

        assert future.get_loop() is asyncio.get_running_loop()
        assert asyncio.isfuture(future)
        assert asyncio.ensure_future(future) is future
        assert not future.done()
        with pytest.raises(asyncio.InvalidStateError, match="await it"):
            future.result()
        with pytest.raises(asyncio.InvalidStateError, match="await it"):
            future.exception()
        who.set("the one that added it")
        future.add_done_callback(note)
        future.add_done_callback(never)
        future.add_done_callback(never)
        who.set("somebody else")
        assert future.remove_done_callback(never) == 2
        assert future.remove_done_callback(never) == 0
        await ctx.sleep(2)
        future.add_done_callback(note)
        await ctx.sleep(1)
        assert not future.cancel()
        return called

    told = [True, True, False, 1, None]
    assert handled(body) == [[*told, "the one that added it"], [*told, "somebody else"]]


def test_a_callback_in_a_context_made_elsewhere_is_called_in_every_mode() -> None:
    """Nobody saw that it belongs to the handler: in a replay, the handler went on before its callback was told."""

    async def body(ctx: Context) -> Any:
        called: list[Any] = []
        future: Any = ctx.run(work, 1)

        def note(one: DurableFuture[Any]) -> None:
            if not isinstance(one.exception(), AttemptEnded):
                called.append(one.result())

        future.add_done_callback(note, context=NewContext())
        await ctx.sleep(3)
        return called

    assert handled(body) == [1]


def test_a_wide_gather_makes_no_tasks() -> None:
    """Ten thousand of them began in one round of the event loop, which stood still for 70 to 95 ms."""
    found: list[int] = []

    @handler(service="S")
    async def many(ctx: Context) -> float:
        before = len(asyncio.all_tasks())
        together = asyncio.gather(*(ctx.sleep(1) for _ in range(1000)))
        found.append(len(asyncio.all_tasks()) - before)
        return len(await together)

    async def story() -> None:
        async with engine_with(many) as engine:
            assert await engine.call(many) == 1000

    run(story)
    assert found == [0]


def test_only_its_own_handler_can_use_a_future_and_only_on_its_event_loop() -> None:
    given: list[DurableFuture[Any]] = []
    errors: list[str] = []

    def in_a_thread() -> None:
        with pytest.raises(WrongLoopError, match="its own event loop"):
            given[0].add_done_callback(print)

    async def step() -> None:
        with pytest.raises(Exception, match="a step cannot use the context"):
            await asyncio.gather(given[0])

    @handler(service="S")
    async def first(ctx: Context) -> None:
        given.append(ctx.sleep(10))
        await asyncio.to_thread(in_a_thread)
        await ctx.run(step)
        await given[0]

    @handler(service="S")
    async def other(ctx: Context) -> None:
        try:
            await asyncio.gather(*given)
        except NotInHandlerError as error:
            errors.append(str(error))

    async def story() -> None:
        async with engine_with(first, other) as engine:
            handle = await engine.send(first)
            await asyncio.sleep(1)
            await engine.call(other)
            await handle.result()

    run(story)
    assert "belongs to S/first" in errors[0]


def test_who_is_refused_changes_nothing_of_what_the_handler_reads() -> None:
    """A step that used a future of the handler left its error there, and the handler got it as the outcome."""

    async def body(ctx: Context) -> Any:
        timer: Any = ctx.sleep(1)
        done, _ = await asyncio.wait(
            [timer, asyncio.ensure_future(ctx.sleep(5))], return_when=asyncio.FIRST_COMPLETED
        )

        async def step() -> str:
            with pytest.raises(UsageError, match="a step cannot use the context"):
                await asyncio.wait([timer])
            return "refused"

        beside = asyncio.gather(ctx.sleep(9))
        beside.add_done_callback(seen)
        said = await ctx.run(step)
        await beside
        return [said, len(done), timer.exception(), timer.result()]

    assert handled(body) == ["refused", 1, None, None]


def test_a_future_of_an_event_loop_that_is_over_says_so() -> None:
    kept: list[Any] = []

    @handler(service="S")
    async def waits_for_long(ctx: Context) -> None:
        kept.append(ctx.sleep("1d"))
        await asyncio.gather(*kept)

    async def story() -> None:
        async with engine_with(waits_for_long) as engine:
            await engine.send(waits_for_long)
            await asyncio.sleep(1)

    async def after_it() -> None:
        with pytest.raises(WrongLoopError, match="its own event loop"):
            await asyncio.gather(*kept)

    run(story)
    asyncio.run(after_it())


def test_a_gather_of_more_steps_than_begin_at_once_in_every_mode() -> None:
    async def body(ctx: Context) -> Any:
        return await asyncio.gather(*(ctx.run(work, number % 3) for number in range(12)))

    assert handled(body, limits=Limits(begun=2)) == [number % 3 for number in range(12)]
