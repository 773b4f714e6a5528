"""What was committed is acted upon: all of it, whatever one action does."""

import asyncio
from typing import Any, get_args

import pytest

from durable import Context, Engine, EngineFailedError, handler
from durable.core.effects import Action, Completed, Deliver
from durable.runtime.loop import Loop
from durable.testing import MemoryStore, VirtualClock, run


@handler(service="Adds")
async def add(ctx: Context, number: int) -> int:
    await ctx.sleep(1)
    return number + 1


def an_engine(*services: object, **options: Any) -> Engine:
    clock = VirtualClock(asyncio.get_running_loop())
    return Engine(services=[add, *services], store=MemoryStore(), clock=clock, **options)


def loop_of(engine: Engine) -> Loop:
    loop = engine._loop
    assert loop is not None
    return loop


def test_every_kind_of_action_has_a_deed() -> None:
    """A new one that nobody does anything about would be lost without a word."""

    async def story() -> None:
        async with an_engine() as engine:
            assert loop_of(engine).deeds.table.keys() == set(get_args(Action))

    run(story)


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, GeneratorExit])
def test_an_action_that_raises_does_not_keep_the_others_from_being_done(kind: type[BaseException]) -> None:
    """A bug of ours; the engine fails with it as its cause, after everything that was decided has been done."""

    async def story() -> None:
        async with an_engine() as engine:
            loop = loop_of(engine)
            done: list[Any] = []
            deliver, complete = loop.deeds.table[Deliver], loop.deeds.table[Completed]

            def first_raises(action: Any) -> None:
                done.append(action)
                if len(done) == 1:
                    raise kind("a bug")
                deliver(action)

            def counted(action: Any) -> None:
                done.append(action)
                complete(action)

            loop.deeds.table |= {Deliver: first_raises, Completed: counted}
            ends = await asyncio.gather(*(engine.call(add, number) for number in range(5)), return_exceptions=True)
            assert len([one for one in done if isinstance(one, Deliver)]) == 5, "all were due in the same turn"
            assert {type(end) for end in ends} == {EngineFailedError}
            assert engine.failure is not None
            assert isinstance(engine.failure.__cause__, kind)
            with pytest.raises(EngineFailedError):
                await engine.call(add, 1)

    with pytest.raises(EngineFailedError):
        run(story)


@pytest.mark.parametrize("how", [Engine.kill, Engine.pause])
def test_a_handler_whose_first_attempt_is_over_in_the_turn_that_began_it_does_not_begin(how: Any) -> None:
    """Not even its first lines, before it waits for anything: nobody's code runs after its kill."""
    ran: list[int] = []

    @handler(service="Counts")
    async def count(ctx: Context, number: int) -> int:
        ran.append(number)
        return await ctx.run(asyncio.sleep, 0, number)

    async def id_of(engine: Engine) -> str:
        async with engine:
            return (await engine.send(count, 1, idempotency_key="one", delay="1h")).id

    async def story() -> None:
        id = await id_of(an_engine(count))
        async with an_engine(count) as engine:
            handle, told = await asyncio.gather(engine.send(count, 1, idempotency_key="one"), how(engine, id))
            assert handle.id == id
            assert told in ("done", "accepted")
            await asyncio.sleep(1)
            assert ran == []
            if how is Engine.pause:
                await engine.resume(id)
                assert await handle.result() == 1
                assert ran == [1]

    run(story)
