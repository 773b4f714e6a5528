"""R-12: what cannot work is refused by an error that says what to do instead, and nobody else notices."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from durable import (
    Context,
    DurableError,
    Engine,
    InvocationCancelled,
    ObjectContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    gather,
    handler,
)
from durable.testing import run
from tests.runtime.support import (
    SOON,
    UNKNOWN,
    Ending,
    Neighbour,
    Poison,
    Table,
    a_circle,
    a_tower,
    check_ending,
    complaints,
    echo,
    engine_on,
    nothing_at_all,
    settled,
    swallowed,
    wrong,
)

table = Table()


# ---- operations with bad arguments ----


@table.stops("UsageError")
async def a_step_that_is_a_number(ctx: Context) -> None:
    await ctx.run(wrong(42))


@table.stops("UsageError")
async def a_step_that_is_none(ctx: Context) -> None:
    await ctx.run(wrong(None))


@table.pauses("TypeError")
async def a_step_with_wrong_arguments(ctx: Context) -> None:
    await ctx.run(wrong(nothing_at_all), 1, 2, 3)


@table.pauses("TypeError")
async def a_partial_step_with_wrong_arguments(ctx: Context) -> None:
    await ctx.run(functools.partial(wrong(nothing_at_all), 1))


@table.stops()
async def a_step_name_that_is_no_unicode(ctx: Context) -> None:
    await ctx.with_options(name="\ud800").run(nothing_at_all)


@table.stops()
async def a_step_name_that_is_no_text(ctx: Context) -> None:
    await ctx.with_options(name=wrong(b"x")).run(nothing_at_all)


@table.stops()
async def a_step_policy_that_is_none(ctx: Context) -> None:
    await ctx.with_options(retry=wrong("often")).run(nothing_at_all)


@table.stops()
async def a_step_timeout_that_is_none(ctx: Context) -> None:
    await ctx.with_options(timeout="soon").run(nothing_at_all)


@table.stops()
async def a_sleep_name_that_is_no_unicode(ctx: Context) -> None:
    await ctx.sleep(0.01, name="\ud800")


@table.stops()
async def a_sleep_for_ever(ctx: Context) -> None:
    await ctx.sleep(10**400)


@table.stops()
async def a_sleep_of_nan(ctx: Context) -> None:
    await ctx.sleep(float("nan"))


@table.stops()
async def a_sleep_of_words(ctx: Context) -> None:
    await ctx.sleep("a while")


@table.stops()
async def a_sleep_of_no_duration(ctx: Context) -> None:
    await ctx.sleep(wrong(object()))


@table.gives(None)
async def a_sleep_of_less_than_nothing(ctx: Context) -> None:
    await ctx.sleep(-1)


@table.stops()
async def a_signal_that_is_no_unicode(ctx: Context) -> None:
    await ctx.signal("\ud800").with_timeout(1)


@table.stops()
async def sending_a_signal_that_is_no_unicode(ctx: Context) -> None:
    ctx.send_signal(ctx.request.id, "\ud800")
    await ctx.sleep(0.01)


@table.stops()
async def a_signal_failure_that_is_no_unicode(ctx: Context) -> None:
    ctx.reject_signal(ctx.request.id, "\udfff", "\ud800")
    await ctx.sleep(0.01)


@table.ends(500, "?")
async def an_awakeable_rejected_with_no_unicode(ctx: Context) -> None:
    awakeable = ctx.awakeable()
    ctx.reject_awakeable(awakeable.id, "\ud800")
    await awakeable


@table.ends(400, "not an awakeable id")
async def resolving_what_is_no_awakeable(ctx: Context) -> None:
    ctx.resolve_awakeable("\ud800")


@table.gives(None)
async def resolving_an_awakeable_that_does_not_exist(ctx: Context) -> None:
    ctx.resolve_awakeable("sign_1" + "0" * 33 + "1")
    await ctx.sleep(0.01)


@table.ends(404)
async def attaching_to_what_does_not_exist(ctx: Context) -> None:
    await ctx.attach("inv_1" + "0" * 33)


@table.ends(400, "not an invocation id")
async def attaching_to_what_cannot_exist(ctx: Context) -> None:
    await ctx.attach("\ud800")


@table.ends(400, "not an invocation id")
async def cancelling_what_cannot_exist(ctx: Context) -> None:
    ctx.cancel("no id")


@table.gives("called itself")
async def cancelling_oneself_and_carrying_on(ctx: Context) -> str:
    ctx.cancel(ctx.request.id)
    with suppress(InvocationCancelled):
        await ctx.sleep(1000)
    return "called itself"


@table.stops("NotFoundError", text="No/where", reason="handler-gone")
async def a_call_of_an_unknown_handler(ctx: Context) -> None:
    await ctx.call("No/where")


@table.stops("InvalidRequestError")
async def a_call_of_nothing_in_particular(ctx: Context) -> None:
    await ctx.call("nothing")


@table.stops("InvalidRequestError")
async def a_call_of_a_plain_function(ctx: Context) -> None:
    await ctx.call(wrong(nothing_at_all))


@table.stops("InvalidRequestError")
async def a_call_with_a_key_that_is_no_unicode(ctx: Context) -> None:
    await ctx.call("Keyed/take", key="\ud800")


@table.stops("InvalidRequestError")
async def a_call_with_an_idempotency_key_that_is_no_unicode(ctx: Context) -> None:
    await ctx.call("Neighbour/live", idempotency_key="\ud800")


@table.stops("InvalidRequestError")
async def a_call_with_headers_that_are_no_unicode(ctx: Context) -> None:
    await ctx.call("Neighbour/live", headers={"a": "\ud800"})


@table.stops("InvalidRequestError")
async def a_call_with_headers_that_are_no_text(ctx: Context) -> None:
    await ctx.call("Neighbour/live", headers=wrong({"a": 1}))


@table.stops("InvalidRequestError")
async def a_send_with_headers_that_are_no_text(ctx: Context) -> None:
    ctx.send("Neighbour/live", headers=wrong({1: object()}))
    await ctx.sleep(0.01)


@table.stops()
async def a_send_with_a_delay_that_is_none(ctx: Context) -> None:
    ctx.send("Neighbour/live", delay="soon")
    await ctx.sleep(0.01)


@table.stops()
async def a_send_with_a_delay_beyond_all_time(ctx: Context) -> None:
    ctx.send("Neighbour/live", delay=10**400)
    await ctx.sleep(0.01)


@table.stops("UsageError")
async def gathering_nothing(ctx: Context) -> None:
    await gather(*[])


@table.stops("UsageError", text="ctx.run")
async def gathering_ordinary_awaitables(ctx: Context) -> None:
    ordinary: Any = asyncio.get_running_loop().create_future()
    await gather(ctx.awakeable(), ordinary)


# ---- constructs that cannot be replayed ----


@table.stops("UsageError", text="with_timeout")
async def asyncio_timeout_around_a_durable_wait(ctx: Context) -> None:
    async with asyncio.timeout(0.05):
        await ctx.sleep(1000)


@table.stops("UsageError", text="with_timeout")
async def wait_for_around_a_durable_wait(ctx: Context) -> None:
    await asyncio.wait_for(ctx.sleep(1000), 0.05)


@table.stops("UsageError", text="with_timeout")
async def wait_for_around_a_call(ctx: Context) -> None:
    await asyncio.wait_for(ctx.awakeable(), 0.05)


@table.stops("UsageError", text="with_timeout")
async def asyncio_timeout_around_a_step(ctx: Context) -> None:
    async with asyncio.timeout(0.05):
        await ctx.run(asyncio.sleep, 1000)


@table.stops("UsageError", text="with_timeout")
async def wait_for_around_a_step(ctx: Context) -> None:
    await asyncio.wait_for(ctx.run(asyncio.sleep, 1000), 0.05)


@table.stops("UsageError", text="with_timeout")
async def asyncio_timeout_around_a_gathering(ctx: Context) -> None:
    async with asyncio.timeout(0.05):
        await gather(ctx.sleep(1000), ctx.sleep(2000))


@table.stops("UsageError", text="with_timeout")
async def asyncio_timeout_around_asyncio_gather(ctx: Context) -> None:
    async with asyncio.timeout(0.05):
        await asyncio.gather(ctx.sleep(1000), ctx.sleep(2000))


@table.stops("UsageError", text="with_timeout")
async def anyio_move_on_after_around_a_durable_wait(ctx: Context) -> None:
    with anyio.move_on_after(0.05):
        await ctx.sleep(1000)


@table.stops("UsageError", text="with_timeout")
async def anyio_fail_after_around_a_durable_wait(ctx: Context) -> None:
    with anyio.fail_after(0.05):
        await ctx.sleep(1000)


@table.stops("UsageError", text="with_timeout")
async def anyio_move_on_after_around_a_step(ctx: Context) -> None:
    with anyio.move_on_after(0.05):
        await ctx.run(asyncio.sleep, 1000)


@table.stops("UsageError", text="with_timeout")
async def asyncio_timeout_around_a_durable_wait_with_the_error_swallowed(ctx: Context) -> str:
    with suppress(Exception):
        async with asyncio.timeout(0.05):
            await ctx.sleep(1000)
    await ctx.run(nothing_at_all)
    return "as if nothing had happened"


@table.stops("UsageError", text="with_timeout")
async def asyncio_wait_with_a_timeout_on_durable_futures(ctx: Context) -> None:
    futures: Any = {ctx.sleep(1), ctx.sleep(1000)}
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED, timeout=100)


@table.gives("inside")
async def a_timeout_inside_a_step_is_the_steps_own_affair(ctx: Context) -> str:
    async def step() -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.sleep(1000)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(1000), 0.05)
        with anyio.move_on_after(0.05):
            await anyio.sleep(1000)
        return "inside"

    return await ctx.run(step)


@table.stops("UsageError", text="with_timeout")
async def a_timeout_that_would_not_run_out(ctx: Context) -> None:
    async with asyncio.timeout(1000):
        await ctx.sleep(0.05)


@table.pauses("TimeoutError")
async def a_step_beyond_its_time_limit(ctx: Context) -> None:
    await ctx.with_options(timeout="50ms").run(asyncio.sleep, 1000)


@table.pauses("CancelledError")
async def a_handler_that_cancels_its_own_task(ctx: Context) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await ctx.sleep(1000)


@table.pauses("CancelledError")
async def a_step_that_cancels_its_own_task(ctx: Context) -> None:
    async def step() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1000)

    await ctx.run(step)


# ---- steps that use the context ----


@table.stops("UsageError", "NotInHandlerError", text="step")
async def a_step_in_a_step(ctx: Context) -> None:
    async def outer() -> None:
        await ctx.run(nothing_at_all)

    await ctx.run(outer)


@table.stops("UsageError", "NotInHandlerError", text="step")
async def a_sleep_in_a_step(ctx: Context) -> None:
    async def outer() -> None:
        await ctx.sleep(0.01)

    await ctx.run(outer)


@table.stops("UsageError", "NotInHandlerError", text="step")
async def a_send_in_a_step(ctx: Context) -> None:
    async def outer() -> None:
        ctx.send("Neighbour/live")

    await ctx.run(outer)


@table.stops("UsageError", "NotInHandlerError", text="step")
async def a_send_in_a_thread(ctx: Context) -> None:
    def outer() -> None:
        ctx.send("Neighbour/live")

    await ctx.run(outer)


@table.stops("UsageError", "NotInHandlerError", "WrongLoopError")
async def a_step_in_a_thread_of_the_handlers_own(ctx: Context) -> None:
    await asyncio.to_thread(lambda: ctx.run(nothing_at_all))


@pytest.mark.parametrize(("poison", "ending"), table.rows)
def test_a_poison_has_its_documented_end_and_disturbs_nobody(
    tmp_path: Path, poison: Poison, ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    class Keyed(VirtualObject):
        @handler
        async def take(self, ctx: ObjectContext) -> None: ...

    async def story() -> None:
        view, told = await swallowed(tmp_path / "durable.db", poison, Keyed(), tries=tries)
        check_ending(view, told, ending, tries)

    run(story)
    assert complaints(caplog) == []


# ---- state ----


class Stateful(VirtualObject):
    """One bad operation on the state of a key."""

    def __init__(self, poison: Callable[[ObjectContext], Awaitable[Any]]) -> None:
        self.poison = poison

    @handler
    async def take(self, ctx: ObjectContext) -> Any:
        return await self.poison(ctx)


async def a_state_name_that_is_no_unicode(ctx: ObjectContext) -> None:
    ctx.set("\ud800", 1)
    await ctx.sleep(0.01)


async def a_state_name_that_is_no_text(ctx: ObjectContext) -> None:
    ctx.set(wrong(7), 1)
    await ctx.sleep(0.01)


async def reading_a_state_name_that_is_no_unicode(ctx: ObjectContext) -> None:
    await ctx.get("\ud800")
    await ctx.sleep(0.01)


async def clearing_a_state_name_that_is_no_unicode(ctx: ObjectContext) -> None:
    ctx.clear("\ud800")
    await ctx.sleep(0.01)


async def a_state_value_that_cannot_be_written(ctx: ObjectContext) -> None:
    ctx.set("n", object())


async def a_state_value_of_another_type(ctx: ObjectContext) -> None:
    ctx.set("n", "text")
    await ctx.get("n", int)


async def a_call_of_itself_on_its_own_key(ctx: ObjectContext) -> None:
    """It would wait for ever: the exception is what ends the test's patience, not the engine's."""
    await ctx.call("Stateful/take", key=ctx.key).with_timeout(1)


@pytest.mark.parametrize(
    ("poison", "status"),
    [
        (a_state_name_that_is_no_unicode, "paused"),
        (a_state_name_that_is_no_text, "paused"),
        (reading_a_state_name_that_is_no_unicode, "paused"),
        (clearing_a_state_name_that_is_no_unicode, "paused"),
        (a_state_value_that_cannot_be_written, "paused"),
        (a_state_value_of_another_type, "paused"),
        (a_call_of_itself_on_its_own_key, "completed"),
    ],
    ids=lambda one: getattr(one, "__name__", one).replace("_", " "),
)
def test_a_bad_operation_on_state_stays_with_its_key(
    tmp_path: Path, poison: Callable[[ObjectContext], Awaitable[Any]], status: str
) -> None:
    async def story() -> None:
        neighbour = Neighbour()
        async with engine_on(tmp_path / "durable.db", Stateful(poison), neighbour.live) as engine:
            beside = await engine.send(neighbour.live)
            poisoned = await engine.send(Stateful.take, key="bad")
            assert (await settled(engine, poisoned.id)).status == status
            await neighbour.undisturbed(engine, beside.id)
            assert set(await engine.get_state("Stateful", "bad")) <= {"n"}
            await engine.kill(poisoned.id) if status == "paused" else None
            assert engine.failure is None

    run(story)


class Named(Workflow):
    """A promise by a name that is none."""

    @handler
    async def run(self, ctx: WorkflowContext, how: str) -> None:
        promise = ctx.promise("\ud800")
        match how:
            case "await":
                await promise.with_timeout(1)
            case "peek":
                await promise.peek()
            case "resolve":
                await promise.resolve(1)
            case "reject":
                await promise.reject("\ud800")


@pytest.mark.parametrize("how", ["await", "peek", "resolve", "reject"])
def test_a_promise_name_that_is_no_unicode_is_refused(tmp_path: Path, how: str) -> None:
    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Named(), Neighbour().live) as engine:
            poisoned = await engine.send(Named.run, how, key="k")
            assert (await settled(engine, poisoned.id)).status == "paused"
            assert await engine.call("Neighbour/live") == [0, 1, 2, 3, 4]

    run(story)


# ---- from outside ----

Ask = Callable[[Engine], Awaitable[Any]]

REFUSED: dict[str, Ask] = {
    "a key that is no unicode": lambda engine: engine.call("Stateful/take", key="\ud800"),
    "a key that is too long": lambda engine: engine.call("Stateful/take", key="k" * 65_537),
    "a key that is no text": lambda engine: engine.call("Stateful/take", key=wrong(7)),
    "no key": lambda engine: engine.call("Stateful/take"),
    "a key too many": lambda engine: engine.call("Neighbour/live", key="k"),
    "an argument too many": lambda engine: engine.call("Neighbour/live", 1),
    "an argument that cannot be written": lambda engine: engine.call("Echo/echo", object()),
    "an argument that is no unicode": lambda engine: engine.call("Echo/echo", "\ud800"),
    "an argument of another type": lambda engine: engine.call("Echo/number", "text"),
    "an argument of 300 levels": lambda engine: engine.call("Echo/echo", a_tower(300)),
    "an argument of 100000 levels": lambda engine: engine.call("Echo/echo", a_tower(100_000)),
    "an argument that holds itself": lambda engine: engine.call("Echo/echo", a_circle()),
    "an idempotency key that is no unicode": lambda engine: engine.call("Neighbour/live", idempotency_key="\ud800"),
    "an idempotency key that is no text": lambda engine: engine.call(
        "Neighbour/live",
        idempotency_key=wrong(b"x"),
    ),
    "a header that is no unicode": lambda engine: engine.call("Neighbour/live", headers={"\ud800": ""}),
    "a header that is no text": lambda engine: engine.call("Neighbour/live", headers=wrong({"a": None})),
    "a delay in words": lambda engine: engine.send("Neighbour/live", delay="soon"),
    "a delay beyond all time": lambda engine: engine.send("Neighbour/live", delay=10**400),
    "a delay of no type": lambda engine: engine.send("Neighbour/live", delay=wrong(object())),
    "a target that is none": lambda engine: engine.call(wrong(7)),
    "a target without a handler": lambda engine: engine.call("Neighbour"),
    "a target that is unknown": lambda engine: engine.call("No/where"),
    "a target that is no unicode": lambda engine: engine.call("\ud800/\ud800"),
    "an id that is none": lambda engine: engine.attach("x"),
    "an id that is no unicode": lambda engine: engine.attach("\ud800" * 38),
    "an id that is no text": lambda engine: engine.attach(wrong(7)),
    "an id that is unknown": lambda engine: engine.attach(UNKNOWN),
    "describing what is unknown": lambda engine: engine.describe(UNKNOWN),
    "cancelling what is unknown": lambda engine: engine.cancel(UNKNOWN),
    "killing what is unknown": lambda engine: engine.kill(UNKNOWN),
    "resuming what is unknown": lambda engine: engine.resume(UNKNOWN),
    "an awakeable that is none": lambda engine: engine.resolve_awakeable("\ud800"),
    "an awakeable that is unknown": lambda engine: engine.resolve_awakeable("sign_1" + "0" * 33 + "1"),
    "an awakeable of an entry beyond all entries": lambda engine: engine.resolve_awakeable(
        "sign_1" + "0" * 33 + "zzzzzz"
    ),
    "a value for an awakeable that cannot be written": lambda engine: engine.resolve_awakeable(
        "sign_1" + "0" * 33 + "1", object()
    ),
    "a signal to the unknown": lambda engine: engine.send_signal(UNKNOWN, "s"),
    "a promise of the unknown": lambda engine: engine.resolve_promise("No", "k", "p"),
    "a promise's key that is no unicode": lambda engine: engine.resolve_promise("Named", "\ud800", "p"),
    "a promise's name that is no unicode": lambda engine: engine.resolve_promise("Named", "k", "\ud800"),
    "state of the unknown": lambda engine: engine.get_state("No", "k"),
    "state of a key that is no unicode": lambda engine: engine.get_state("Stateful", "\ud800"),
    "state of a key that is no text": lambda engine: engine.get_state("Stateful", wrong(7)),
    "a patch of a key that is no unicode": lambda engine: engine.patch_state("Stateful", "\ud800", {}),
    "a patch with a name that is no unicode": lambda engine: engine.patch_state("Stateful", "k", {"\ud800": 1}),
    "a patch that cannot be written": lambda engine: engine.patch_state("Stateful", "k", {"n": object()}),
    "an option that is unknown": lambda engine: engine.configure("Stateful", **wrong({"colour": "blue"})),
    "an option in words": lambda engine: engine.configure("Stateful", inactivity_timeout="soon"),
    "an option of an unknown service": lambda engine: engine.configure("No", public=True),
    "an option of no type": lambda engine: engine.configure("Stateful", public=wrong(object())),
    "a listing of a key that is no unicode": lambda engine: engine.invocations(key="\ud800"),
    "a listing of a service that is no unicode": lambda engine: engine.invocations(service="\ud800"),
    "a listing of an unknown status": lambda engine: engine.invocations(status="sleepy"),
    "a listing of more than there are numbers": lambda engine: engine.invocations(limit=2**70),
    "a listing of less than nothing": lambda engine: engine.invocations(limit=-1),
    "a listing before what is no invocation": lambda engine: engine.invocations(before=wrong(2**70)),
    "a listing of no number": lambda engine: engine.invocations(limit=wrong("10")),
}


async def _workflow_handle(engine: Engine) -> None:
    await engine.workflow("Named/run", "\ud800").result()


async def _idempotent_handle(engine: Engine) -> None:
    await engine.idempotent("Neighbour/live", "\ud800").result()


REFUSED["a workflow's key that is no unicode"] = _workflow_handle
REFUSED["the handle of an idempotency key that is no unicode"] = _idempotent_handle


@handler(service="Echo")
async def number(ctx: Context, value: int) -> int:
    return value


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_request_is_refused_and_the_engine_goes_on(
    tmp_path: Path, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """With an error of ours, which says what is wrong; nothing is stored."""

    async def story() -> None:
        services = (Neighbour().live, echo, number, Named(), Stateful(a_state_value_of_another_type))
        async with engine_on(tmp_path / "durable.db", *services) as engine:
            with pytest.raises(DurableError) as caught:
                await asyncio.wait_for(ask(engine), SOON)
            assert str(caught.value)
            assert engine.failure is None
            assert await engine.invocations() == []
            assert await engine.call(echo, "still here") == "still here"

    run(story)
    assert complaints(caplog) == []


REFUSED_OF_A_RUNNING_ONE: dict[str, Callable[[Engine, str], Awaitable[Any]]] = {
    "a signal that is no unicode": lambda engine, id: engine.send_signal(id, "\ud800"),
    "a signal that is no text": lambda engine, id: engine.send_signal(id, wrong(7)),
    "a signal's value that cannot be written": lambda engine, id: engine.send_signal(id, "s", object()),
    "a signal's failure that is no unicode": lambda engine, id: engine.reject_signal(id, "\udfff", "\ud800"),
    "an awakeable of an entry beyond all entries": lambda engine, id: engine.resolve_awakeable(
        f"sign_1{id[5:]}zzzzzz"
    ),
}


@pytest.mark.parametrize("ask", REFUSED_OF_A_RUNNING_ONE.values(), ids=REFUSED_OF_A_RUNNING_ONE.keys())
def test_a_bad_message_to_a_running_invocation_does_not_stop_the_engine(
    tmp_path: Path, ask: Callable[[Engine, str], Awaitable[Any]]
) -> None:
    """Refused, or accepted without any effect on others."""

    async def story() -> None:
        neighbour = Neighbour()
        async with engine_on(tmp_path / "durable.db", neighbour.live, echo) as engine:
            beside = await engine.send(neighbour.live)
            with suppress(DurableError):
                await asyncio.wait_for(ask(engine, beside.id), SOON)
            await neighbour.undisturbed(engine, beside.id)
            assert engine.failure is None
            assert await engine.call(echo, "still here") == "still here"

    run(story)
