"""A failure that only other code can cure pauses at once, with its reason; its advice works when it is followed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest

from durable import (
    Context,
    InvalidRequestError,
    InvocationCancelled,
    ObjectContext,
    RetryPolicy,
    SerializationError,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.core.reasons import CANCEL_WAITS
from durable.core.replay import mismatch
from durable.serde import Serde
from durable.testing import run
from tests.runtime.support import engine_on, settled, wrong

#: It would end the invocation at the first failure.
KILLS = RetryPolicy(max_attempts=1, on_max_attempts="kill")


class Deployment(NamedTuple):
    """The same handler, in code that works, in code that does not, and what its effects are counted in."""

    works: Callable[[list[str]], Any]
    broken: Callable[[list[str]], Any]
    reason: str
    result: Any
    #: Effects of code that works, then broken, then works again.
    effects: list[str]


def job(result: Any = int, input: Any = int, extra: str = "", names: Any = str) -> Callable[[list[str]], Any]:
    """A handler with a step, a wait and an end."""

    def make(effects: list[str]) -> Any:
        def charge() -> Any:
            effects.append("charge")
            return 7

        def other() -> None:
            effects.append("other")

        charge.__annotations__["return"] = result

        async def run(ctx: Context, value: Any) -> Any:
            if extra == "before":
                await ctx.run(other)
            seen = await ctx.run(charge)
            await ctx.sleep("10s")
            match extra:
                case "result":
                    return object()
                case "send":
                    ctx.send("Job/run", object())
                case "misuse":
                    await ctx.run(wrong(42))
                case "gone":
                    await ctx.call("No/where")
            return seen

        run.__annotations__["value"] = input
        return handler(service="Job")(run)

    return make


def nothing(effects: list[str]) -> Any:
    @handler(service="Other")
    async def run(ctx: Context) -> None: ...

    return run


DEPLOYMENTS = {
    "a step whose result cannot be stored": Deployment(job(), job(result=str), "value-not-readable", 7, ["charge"]),
    "a handler whose result cannot be stored": Deployment(
        job(), job(extra="result"), "result-not-storable", 7, ["charge"]
    ),
    "an argument that cannot be stored": Deployment(job(), job(extra="send"), "value-not-storable", 7, ["charge"]),
    "an input that cannot be read": Deployment(job(), job(input=list[str]), "input-not-readable", 7, ["charge"]),
    "a handler that is gone": Deployment(job(), nothing, "handler-gone", 7, ["charge"]),
    "a handler it calls that is gone": Deployment(job(), job(extra="gone"), "handler-gone", 7, ["charge"]),
    "another order of steps": Deployment(job(), job(extra="before"), "journal-mismatch", 7, ["charge"]),
    "a step that is no function": Deployment(job(), job(extra="misuse"), "misuse", 7, ["charge"]),
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_it_pauses_at_the_first_try_and_works_again_when_the_code_is_mended_and_it_is_resumed(
    tmp_path: Path, name: str
) -> None:
    works, broken, reason, result, expected = DEPLOYMENTS[name]
    effects: list[str] = []

    async def story() -> None:
        path = tmp_path / "durable.db"
        async with engine_on(path, works(effects), retry=KILLS) as engine:
            handle = await engine.send("Job/run", 1)
            await asyncio.sleep(5)
        async with engine_on(path, broken(effects), retry=KILLS) as engine:
            view = await settled(engine, handle.id)
            assert (view.status, view.attempt) == ("paused", 2)
            assert view.last_failure is not None
            assert view.last_failure.reason == reason
            assert "resume" in view.advice
            [listed] = await engine.invocations(status="paused")
            assert (listed.advice, listed.last_failure) == (view.advice, view.last_failure)
            assert [(one.kind, one.name) for one in view.waits_for][:1] == [("resume", reason)]
            await asyncio.sleep(3600)
            assert (await engine.describe(handle.id)).attempt == 2, "nothing is tried again"
            await engine.resume(handle.id)
            assert (await settled(engine, handle.id)).attempt == 3, "a resume tries once"
            assert effects == expected
        async with engine_on(path, works(effects), retry=KILLS) as engine:
            assert await engine.resume_all(reason=reason) == [handle.id]
            assert await engine.attach(handle.id) == result
        assert effects == expected

    run(story)


def test_a_step_whose_result_cannot_be_stored_runs_once_a_resume(tmp_path: Path) -> None:
    """Whatever its policy says: an effect is never repeated because its result could not be kept."""
    effects: list[str] = []

    def charge() -> Any:
        effects.append("charge")
        return object()

    @handler(service="Job")
    async def plain(ctx: Context) -> None:
        await ctx.run(charge)

    @handler(service="Job")
    async def with_policy(ctx: Context) -> None:
        left = ctx.with_options(retry=RetryPolicy(max_attempts=9, initial_interval=0)).run(charge)
        await ctx.run(asyncio.sleep, 0.1)
        await left

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", plain, with_policy) as engine:
            for count, target in ((1, plain), (3, with_policy)):
                handle = await engine.send(target)
                view = await settled(engine, handle.id)
                assert view.last_failure is not None
                assert (view.last_failure.reason, view.last_failure.name) == ("result-not-storable", "charge")
                assert "runs again" in view.advice
                assert len(effects) == count
                await engine.resume(handle.id)
                await settled(engine, handle.id)
                assert len(effects) == count + 1

    run(story)


def test_a_users_serializer_may_do_what_it_likes(tmp_path: Path) -> None:
    class Odd:
        pass

    def fails(value: Any) -> Any:
        raise KeyError("no")

    def no_bytes(value: Any) -> Any:
        return "text"

    @handler(service="Odd")
    async def writes(ctx: Context, how: str) -> None:
        serde = Serde(encode={"fails": fails, "no bytes": no_bytes}.get(how, lambda value: b"odd"), decode=fails)

        def make() -> Any:
            return Odd()

        make.__annotations__["return"] = Annotated[Odd, serde]
        await ctx.run(make)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", writes) as engine:
            for how in ("fails", "no bytes", "cannot be read back"):
                view = await settled(engine, (await engine.send(writes, how)).id)
                assert view.last_failure is not None
                assert (view.last_failure.reason, view.attempt) == ("result-not-storable", 1)

    run(story)


def test_state_that_does_not_fit_pauses_its_key_and_nobody_else(tmp_path: Path) -> None:
    class Count(VirtualObject):
        @handler
        async def add(self, ctx: ObjectContext) -> int:
            count = (await ctx.get("count", int) or 0) + 1
            ctx.set("count", count)
            return count

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Count()) as engine:
            await engine.patch_state("Count", "bad", {"count": "many"})
            view = await settled(engine, (await engine.send(Count.add, key="bad")).id)
            assert view.last_failure is not None
            assert (view.last_failure.reason, view.attempt) == ("value-not-readable", 1)
            assert await engine.call(Count.add, key="good") == 1

    run(story)


# ---- the advice of a mismatch, followed to the letter ----


def test_after_a_mismatch_it_is_killed_and_then_restarted_as_new(tmp_path: Path) -> None:
    effects: list[str] = []
    text = str(mismatch(1, "a", "b"))
    assert "kill it, and then restart it as new" in text

    async def story() -> None:
        path = tmp_path / "durable.db"
        async with engine_on(path, job()(effects)) as engine:
            handle = await engine.send("Job/run", 1)
            await asyncio.sleep(5)
        async with engine_on(path, job(extra="before")(effects)) as engine:
            view = await settled(engine, handle.id)
            assert view.last_failure is not None
            assert view.last_failure.message.endswith(view.advice)
            await engine.kill(handle.id)
            again = await engine.restart_as_new(handle.id)
            assert await again.result() == 7
        assert effects == ["charge", "other", "charge"]

    run(story)


# ---- a cancel ----


def trip(version: int, effects: list[str]) -> Any:
    @handler(service="Trip")
    async def book(ctx: Context) -> None:
        if version == 2:
            await ctx.run(effects.append, "new")
        async with ctx.saga() as saga:
            saga.add_compensation(effects.append, "refund")
            await ctx.run(effects.append, "charge")
            await ctx.awakeable()

    return book


@pytest.mark.parametrize("reason", ["journal-mismatch", "handler-gone"])
def test_a_cancel_waits_for_code_that_can_run_says_so_and_then_compensates(tmp_path: Path, reason: str) -> None:
    effects: list[str] = []
    broken = trip(2, effects) if reason == "journal-mismatch" else nothing(effects)

    async def story() -> None:
        path = tmp_path / "durable.db"
        async with engine_on(path, trip(1, effects)) as engine:
            handle = await engine.send("Trip/book")
            await asyncio.sleep(5)
        async with engine_on(path, broken) as engine:
            await engine.resume_all()
            await engine.resume(handle.id)
            view = await settled(engine, handle.id)
            assert CANCEL_WAITS not in view.advice
            await engine.cancel(handle.id)
            view = await settled(engine, handle.id)
            assert view.last_failure is not None
            assert view.last_failure.reason == reason
            assert CANCEL_WAITS in view.advice
            attempt = view.attempt
            await asyncio.sleep(3600)
            assert (await engine.describe(handle.id)).attempt == attempt, "paused again at once, and not tried again"
            assert effects == ["charge"]
        async with engine_on(path, trip(1, effects)) as engine:
            await engine.resume(handle.id)
            with pytest.raises(InvocationCancelled):
                await engine.attach(handle.id)
            assert effects == ["charge", "refund"]

    run(story)


def test_a_cancel_of_a_step_whose_result_cannot_be_stored_compensates_and_does_not_repeat_it(tmp_path: Path) -> None:
    effects: list[str] = []

    def charge() -> Any:
        effects.append("charge")
        return object()

    @handler(service="Trip")
    async def book(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.add_compensation(effects.append, "refund")
            await ctx.run(charge)

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", book) as engine:
            handle = await engine.send(book)
            await settled(engine, handle.id)
            await engine.cancel(handle.id)
            with pytest.raises(InvocationCancelled):
                await engine.attach(handle.id)
            assert effects == ["charge", "refund"]

    run(story)


# ---- resuming many ----


def test_resume_all_resumes_those_of_a_reason_and_a_service(tmp_path: Path) -> None:
    broken = True

    class A(VirtualObject):
        @handler
        async def fails(self, ctx: ObjectContext, how: str) -> str:
            if broken and how == "value":
                ctx.set("x", object())
            if broken and how == "error":
                raise ValueError
            return how

    class B(A):
        pass

    async def story() -> None:
        nonlocal broken
        async with engine_on(tmp_path / "durable.db", A(), B(), retry=RetryPolicy(max_attempts=1)) as engine:
            sent: dict[tuple[str, str], list[str]] = {}
            for service in ("A", "B"):
                for how in ("value", "error"):
                    for number in range(130):  # more than a batch
                        handle = await engine.send(f"{service}/fails", how, key=str(number) + how)
                        sent.setdefault((service, how), []).append(handle.id)
            await asyncio.sleep(1)
            paused = await engine.invocations(status="paused", limit=1000)
            assert len(paused) == 520
            of_reason = await engine.invocations(reason="value-not-storable", limit=1000)
            assert {one.id for one in of_reason} == {*sent["A", "value"], *sent["B", "value"]}
            broken = False
            first = await engine.resume_all(reason="value-not-storable", service="A")
            assert sorted(first) == sorted(sent["A", "value"])
            assert await engine.resume_all(reason="journal-mismatch") == []
            second = await engine.resume_all(service="B")
            assert sorted(second) == sorted(sent["B", "value"] + sent["B", "error"])
            assert sorted(await engine.resume_all()) == sorted(sent["A", "error"])
            assert await engine.resume_all() == []
            await asyncio.sleep(1)
            assert await engine.invocations(status="paused") == []

    run(story)


@pytest.mark.parametrize("reason", ["", "nonsense", 7, ["handler-gone"]])
def test_a_reason_that_is_none_is_refused_by_name(tmp_path: Path, reason: Any) -> None:
    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", nothing([])) as engine:
            for ask in (engine.resume_all, engine.invocations):
                with pytest.raises(InvalidRequestError, match=r"reason must be one of .*, damaged, .*not"):
                    await ask(reason=reason)

    run(story)


# ---- what a handler can catch ----


def test_a_handler_can_catch_what_would_pause_it_and_go_another_way(tmp_path: Path) -> None:
    @handler(service="Job")
    async def careful(ctx: Context) -> str:
        try:
            ctx.send_signal(ctx.request.id, "s", object())
        except SerializationError:
            return await ctx.run(lambda: "another way")
        return "never"

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", careful) as engine:
            assert await engine.call(careful) == "another way"

    run(story)


@pytest.mark.parametrize("id", ["nonsense", "", "inv_1", 7, None, b"inv"])
def test_a_malformed_id_is_data_and_ends_the_handler_wherever_it_is_passed(tmp_path: Path, id: Any) -> None:
    """As an unknown one does: whoever sent it gets the error, and no operator has to look."""

    @handler(service="Ids")
    async def uses(ctx: Context, how: str) -> None:
        match how:
            case "attach":
                await ctx.attach(id)
            case "output":
                await ctx.output(id)
            case "cancel":
                ctx.cancel(id)
            case "signal":
                ctx.send_signal(id, "s")
            case "reject signal":
                ctx.reject_signal(id, "s", "no")
            case "resolve":
                ctx.resolve_awakeable(id)
            case "reject":
                ctx.reject_awakeable(id, "no")

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", uses) as engine:
            for how in ("attach", "output", "cancel", "signal", "reject signal", "resolve", "reject"):
                with pytest.raises(TerminalError) as caught:
                    await engine.call(uses, how)
                assert caught.value.code == 400
                assert repr(id) in caught.value.message

    run(story)
