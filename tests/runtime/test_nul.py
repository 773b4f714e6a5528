"""A NUL in a name is refused at every door; a file from before that was so is read, worked off and cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    DeclarationError,
    Engine,
    InvalidRequestError,
    InvocationCancelled,
    ObjectContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.runtime import attempt, operations, registry
from durable.testing import run
from tests.runtime.support import engine_on, settled

NUL = "a\0b"


class Account(VirtualObject):
    """One operation on a key, in its exclusive handler."""

    def __init__(self, does: Callable[[ObjectContext], Any] = lambda ctx: None) -> None:
        self.does = does

    @handler
    async def pay(self, ctx: ObjectContext, who: str = "") -> str:
        ctx.set("paid", who)
        result = self.does(ctx)
        if isinstance(result, Awaitable):
            await result
        return who


class Wedding(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> None: ...


Outside = Callable[[Engine], Awaitable[Any]]


async def _workflow(engine: Engine) -> None:
    engine.workflow(Wedding.run, NUL)


async def _idempotent(engine: Engine) -> None:
    engine.idempotent(Account.pay, NUL, key="k")


async def _idempotent_key(engine: Engine) -> None:
    engine.idempotent(Account.pay, "i", key=NUL)


OUTSIDE: dict[str, Outside] = {
    "a call's key": lambda engine: engine.call("Account/pay", "", key=NUL),
    "a send's key": lambda engine: engine.send("Account/pay", "", key=NUL),
    "a workflow's key": lambda engine: engine.send(Wedding.run, key=NUL),
    "an idempotency key": lambda engine: engine.call("Account/pay", "", key="k", idempotency_key=NUL),
    "a header's name": lambda engine: engine.call("Account/pay", "", key="k", headers={NUL: "v"}),
    "a header": lambda engine: engine.call("Account/pay", "", key="k", headers={"n": NUL}),
    "the key of a handle": _workflow,
    "the idempotency key of a handle": _idempotent,
    "the key of an idempotent handle": _idempotent_key,
    "a signal's name": lambda engine: engine.send_signal("inv_1" + "0" * 33, NUL),
    "a rejected signal's name": lambda engine: engine.reject_signal("inv_1" + "0" * 33, NUL, "no"),
    "a promise's key": lambda engine: engine.resolve_promise("Wedding", NUL, "p"),
    "a promise's name": lambda engine: engine.resolve_promise("Wedding", "k", NUL),
    "a rejected promise's name": lambda engine: engine.reject_promise("Wedding", "k", NUL, "no"),
    "a patched key": lambda engine: engine.patch_state("Account", NUL, {}),
    "a patched name": lambda engine: engine.patch_state("Account", "k", {NUL: 1}),
}


@pytest.mark.parametrize("ask", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_nul_from_outside_is_a_bad_request(tmp_path: Path, ask: Outside) -> None:
    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Account(), Wedding()) as engine:
            with pytest.raises(InvalidRequestError, match="has a NUL character") as refusal:
                await ask(engine)
            assert refusal.value.code == 400
            assert await engine.invocations() == []

    run(story)


async def step() -> None: ...


def unspeakable() -> Callable[[], Awaitable[None]]:
    async def named() -> None: ...

    named.__name__ = named.__qualname__ = NUL
    return named


INSIDE: dict[str, Callable[[ObjectContext], Any]] = {
    "a call's key": lambda ctx: ctx.call("Account/pay", "", key=NUL),
    "a send's key": lambda ctx: ctx.send("Account/pay", "", key=NUL),
    "an idempotency key": lambda ctx: ctx.call("Account/pay", "", key="other", idempotency_key=NUL),
    "a header": lambda ctx: ctx.send("Account/pay", "", key="other", headers={"n": NUL}),
    "a step's name": lambda ctx: ctx.with_options(name=NUL).run(step),
    "a step's own name": lambda ctx: ctx.run(unspeakable()),
    "a sleep's name": lambda ctx: ctx.sleep("1s", name=NUL),
    "a signal's name": lambda ctx: ctx.signal(NUL),
    "a sent signal's name": lambda ctx: ctx.send_signal(ctx.request.id, NUL),
    "a state's name that is written": lambda ctx: ctx.set(NUL, 1),
    "a state's name that is read": lambda ctx: ctx.get(NUL),
    "a state's name that is cleared": lambda ctx: ctx.clear(NUL),
}


@pytest.mark.parametrize("does", INSIDE.values(), ids=INSIDE.keys())
def test_a_nul_from_a_handler_is_refused_before_anything_is_recorded(
    tmp_path: Path, does: Callable[[ObjectContext], Any]
) -> None:
    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Account(does)) as engine:
            handle = await engine.send("Account/pay", "me", key="k")
            view = await settled(engine, handle.id)
            assert view.last_failure is not None
            assert (view.status, view.last_failure.type) == ("paused", "InvalidRequestError")
            assert "has a NUL character" in view.last_failure.message
            assert [entry.kind for entry in view.journal if entry.kind != "input"] == ["set"]
            assert len(await engine.invocations()) == 1

    run(story)


@pytest.mark.parametrize("how", ["await", "peek", "resolve", "reject"])
def test_a_promise_is_not_called_so(tmp_path: Path, how: str) -> None:
    class Engagement(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> None:
            promise = ctx.promise(NUL)
            asks: dict[str, Callable[[], Awaitable[object]]] = {
                "await": promise.future,
                "peek": promise.peek,
                "resolve": lambda: promise.resolve(1),
                "reject": lambda: promise.reject("no"),
            }
            await asks[how]()

    async def story() -> None:
        async with engine_on(tmp_path / "durable.db", Engagement()) as engine:
            handle = await engine.send(Engagement.run, key="k")
            view = await settled(engine, handle.id)
            assert view.last_failure is not None
            assert (view.status, view.last_failure.type) == ("paused", "InvalidRequestError")

    run(story)


@pytest.mark.parametrize("name", [NUL, "a/b", "\ud800", "x" * 70_000], ids=["NUL", "slash", "no Unicode", "too long"])
def test_services_and_handlers_are_not_called_so(tmp_path: Path, name: str) -> None:
    """A slash parts service and handler wherever a target is one text."""

    async def work(ctx: Context) -> None: ...

    class Odd(VirtualObject, name=name):
        @handler
        async def work(self, ctx: ObjectContext) -> None: ...

    for service in (handler(service=name)(work), handler(name=name, service="Plain")(work), Odd()):
        with pytest.raises(DeclarationError):
            Engine(tmp_path / "durable.db", services=[service])


# ---- a file from before ----


def test_what_an_older_file_has_with_a_nul_is_read_worked_off_and_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "durable.db"
    keys = [f"{NUL} finishes", f"{NUL} is cancelled", f"{NUL} is killed"]
    undone: list[str] = []

    async def undo(key: str) -> None:
        undone.append(key)

    class Old(VirtualObject):
        @handler
        async def work(self, ctx: ObjectContext) -> str:
            async with ctx.saga() as saga:
                ctx.set(NUL, "kept")
                saga.add_compensation(undo, ctx.key)
                ctx.send("Old/other", key=f"{ctx.key} sent", idempotency_key=NUL, headers={NUL: NUL})
                told: str = await ctx.call("Old/other", key=f"{ctx.key} called")
                await ctx.with_options(name=NUL).run(step)
                return told + await ctx.signal("go on", str)

        @handler
        async def other(self, ctx: ObjectContext) -> str:
            return "told "

    async def before() -> None:
        with monkeypatch.context() as patched:
            for module in (registry, operations, attempt):
                patched.setattr(module, "check_text", lambda what, text, *, recorded=False: None)
            async with engine_on(path, Old()) as engine:
                for key in keys:
                    await engine.send("Old/work", key=key)
                await asyncio.sleep(1)  # none of it takes any time, until they wait for the signal

    async def now() -> None:
        async with engine_on(path, Old()) as engine:
            finishes, cancelled, killed = [(await engine.invocations(key=key))[0] for key in keys]
            assert len(await engine.invocations()) == 9
            assert await engine.get_state("Old", keys[0]) == {NUL: "kept"}
            with pytest.raises(InvalidRequestError):
                await engine.call("Old/work", key=keys[0])

            await engine.send_signal(finishes.id, "go on", "on")
            assert await engine.attach(finishes.id) == "told on"
            await engine.cancel(cancelled.id)
            with pytest.raises(InvocationCancelled):
                await engine.attach(cancelled.id)
            await engine.kill(killed.id)
            assert {one.status for one in await engine.invocations()} == {"completed"}

    run(before)
    run(now)
    assert undone == [keys[1]]
