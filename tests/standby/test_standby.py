"""Several engines on one file, in one process: one holds it, the others ask it, and one of them takes over."""

import asyncio
import inspect
import os
import shutil
import socket
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import durable
from durable import (
    Context,
    Engine,
    EngineFailedError,
    EngineNotRunningError,
    EngineUnreachableError,
    ForkedEngineError,
    InvalidRequestError,
    NotFoundError,
    ObjectContext,
    Role,
    TerminalError,
    UsageError,
    VirtualObject,
    WrongLoopError,
    admin,
    handler,
    ingress,
)
from durable.engine import roles
from durable.engine.roles import FAILED_S
from durable.store.sqlite import SqliteStore
from durable.testing.faults import around

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants another client underneath
    from starlette.testclient import TestClient

steps: Counter[str] = Counter()


async def note(what: str) -> str:
    steps[what] += 1
    return what


@handler(service="Work")
async def work(ctx: Context, name: str) -> str:
    await ctx.run(note, name)
    await ctx.sleep(0.3)
    return f"{name} done"


@handler(service="Work")
async def wait(ctx: Context) -> str:
    return await ctx.signal("go", str)


@handler(service="Work")
async def twice(ctx: Context) -> list[str]:
    return [await ctx.signal("go", str), await ctx.signal("go", str)]


@handler(service="Work")
async def data(ctx: Context) -> bytes:
    return b"\0as it is"


@handler(service="Work", public=False)
async def secret(ctx: Context) -> str:
    return "secret"


@handler(service="Work")
async def newer(ctx: Context) -> str:
    return "new"


class Cart(VirtualObject):
    @handler
    async def hold(self, ctx: ObjectContext) -> int:
        await ctx.signal("go")
        return len(await ctx.state_keys())


SERVICES = [work, wait, twice, data, secret, Cart()]


def standing_by(path: Path, **options: Any) -> Engine:
    return Engine(path, **{"services": SERVICES, "synchronous": "NORMAL", "standby": True, **options})


@asynccontextmanager
async def three(path: Path) -> AsyncIterator[tuple[Engine, Engine, Engine]]:
    """Started one after the other, so that the first one is the holder."""
    async with AsyncExitStack() as running:
        first, second, third = [await running.enter_async_context(standing_by(path)) for _ in range(3)]
        assert (first.role, second.role, third.role) == (Role.HOLDER, Role.STANDBY, Role.STANDBY)
        yield first, second, third


async def until(happened: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


async def holder_of(*engines: Engine) -> Engine:
    """The one that holds the file, as soon as there is one."""
    await until(lambda: Role.HOLDER in [engine.role for engine in engines])
    return next(engine for engine in engines if engine.role is Role.HOLDER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    steps.clear()
    return tmp_path / "app.db"


@pytest.mark.parametrize("end", ["close", "abandon"])
async def test_who_waits_gets_its_result_from_the_next_holder(
    path: Path, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Through a standby that stays one, and in the one that takes over."""
    caplog.set_level("INFO", "durable")
    async with three(path) as (first, second, third):
        calls = [asyncio.ensure_future(one.call(work, f"{i}")) for i, one in enumerate((second, third))]
        handle = await second.send(work, "sent", idempotency_key="s")
        results = [asyncio.ensure_future(one.attach(handle.id)) for one in (second, third)]
        await until(lambda: len(steps) == 3)
        await first.close() if end == "close" else first.abandon()
        began = time.monotonic()
        holder = await holder_of(second, third)
        assert time.monotonic() - began < 30
        assert await asyncio.gather(*calls, *results) == ["0 done", "1 done", "sent done", "sent done"]
        assert await handle.result() == "sent done"
        assert time.monotonic() - began < 30
        assert not (await third.send(work, "sent", idempotency_key="s")).accepted
        most = 1 if end == "close" else 2  # a step that is not yet committed at a crash runs again
        assert len(steps) == 3 and max(steps.values()) <= most
        assert await holder.count_invocations() == await second.count_invocations() == {"completed": 3}
        assert first.role is None
        assert "has taken over as the holder" in caplog.text


async def test_three_race_for_the_file_one_gets_it_and_a_closed_standby_changes_nothing(path: Path) -> None:
    engines = [standing_by(path) for _ in range(4)]
    await asyncio.gather(*(engine.start() for engine in engines))
    while engines:
        assert sorted(str(engine.role) for engine in engines) == ["holder"] + ["standby"] * (len(engines) - 1)
        holder = await holder_of(*engines)
        for engine in [one for one in engines if one is not holder][:1]:
            await engine.close()
            assert engine.role is None
            with pytest.raises(EngineNotRunningError):
                await engine.call(work, "no")
            assert await holder.call(data) == b"\0as it is"
            await engine.start()
        engines.remove(holder)
        await holder.close()
        if engines:
            await holder_of(*engines)
            await until(lambda: None not in [engine.role for engine in engines])
            assert {await engine.call(data) for engine in engines} == {b"\0as it is"}


async def test_handles_made_before_in_either_role_are_good_after(path: Path) -> None:
    early = standing_by(path)
    keyed = early.idempotent(data, "k")  # before it is started
    async with standing_by(path) as other:
        id = (await other.send(data, idempotency_key="k")).id
        await early.start()
        assert early.role is Role.STANDBY
        named, found = early.idempotent(data, "k"), early.invocation(id, bytes)
        assert await named.result() == await found.result() == await keyed.result() == b"\0as it is"
        assert keyed.id == named.id == id
    assert await holder_of(early) is early
    held = early.idempotent(data, "k")
    assert {await one.output() for one in (keyed, named, found, held)} == {b"\0as it is"}
    await early.close()
    async with standing_by(path), early:  # now the other way round
        assert early.role is Role.STANDBY
        assert {await one.result() for one in (keyed, named, found, held)} == {b"\0as it is"}


async def test_it_does_as_the_engine_does(path: Path) -> None:
    async with three(path) as (first, second, _):
        for engine in (first, second):
            with pytest.raises(InvalidRequestError, match="not public"):
                await engine.call(secret)
            with pytest.raises(NotFoundError, match="has no handler Work/other"):
                await engine.call("Work/other")
            assert engine.path == str(path)
            engine.check_running()
        await first.configure("Work", public=False)
        with pytest.raises(InvalidRequestError, match="not public"):
            await second.call(data)
        for name in ("call", "describe", "outcome"):  # as frameworks ask, which run other functions in threads
            assert inspect.iscoroutinefunction(getattr(Engine, name))
        with pytest.raises(EngineNotRunningError, match="already started"):
            await second.start()
        with pytest.raises(WrongLoopError):
            await asyncio.to_thread(lambda: asyncio.run(second.call(data)))
    with pytest.raises(EngineNotRunningError):
        await second.call(data)


async def test_what_may_have_happened_is_not_done_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is told apart by its id, a signal by its key."""
    from tests.remote.test_restart import Cut

    cut = Cut(monkeypatch)
    async with three(path) as (_, second, third):
        handle = await third.send(twice)
        cut.left = 1
        assert await second.call(work, "one") == "one done"
        assert steps["one"] == 1
        for value in ("now", "then"):
            cut.left = 1
            await second.send_signal(handle.id, "go", value)
        assert await handle.result() == ["now", "then"]


async def test_what_it_cannot_stand_by_for_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="in memory has none"):
        Engine(":memory:", standby=True)
    with pytest.raises(UsageError, match="needs the control socket"):
        Engine(path, standby=True, control_socket=False)
    monkeypatch.setattr("durable.engine.follower.can_answer", lambda: False)
    with pytest.raises(UsageError, match="needs the extra 'http'"):
        Engine(path, standby=True)


async def test_a_holder_that_nobody_can_ask_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roles, "NAMED_AFTER_S", 0.1)
    monkeypatch.setattr(roles, "START_S", 0.3)
    async with Engine(path, services=SERVICES, control_socket=False):
        standby = standing_by(path)
        with pytest.raises(EngineUnreachableError, match="no control socket where the extra 'http' is missing"):
            await standby.start()
        assert caplog.text.count("without a holder that answers") == 1
        assert standby.role is None
        monkeypatch.setattr(roles, "START_S", 60)
        starting = asyncio.ensure_future(standby.start())
        await asyncio.sleep(0.1)
        await standby.close()
        with pytest.raises(EngineNotRunningError, match="closed while it started"):
            await starting
        starting = asyncio.ensure_future(standby.start())
        await asyncio.sleep(0.1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert standby.role is None
    async with standby:
        assert standby.role is Role.HOLDER


async def test_a_holder_that_does_not_answer_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is stopped, or its event loop held up."""
    monkeypatch.setattr(roles, "START_S", 0.2)
    monkeypatch.setattr("durable.engine.follower.OPEN_S", 0.1)
    async with Engine(path, services=SERVICES, control_socket=False):
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(f"{path}.sock")
            deaf.listen()
            with pytest.raises(EngineUnreachableError, match=r"does not answer within 0\.1 s"):
                await standing_by(path).start()


async def test_a_process_without_descriptors_goes_on_trying(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "START_S", 0.2)

    async def full(*args: Any) -> None:
        raise OSError(24, "Too many open files")

    async with standing_by(path), standing_by(path) as standby:
        with monkeypatch.context() as patched:
            patched.setattr("durable.remote.wire.Session._dial_socket", full)
            with pytest.raises(EngineUnreachableError, match="Too many open files"):
                await standing_by(path).start()
        assert await standby.call(data) == b"\0as it is"


async def test_a_holder_that_runs_other_code_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with standing_by(path, services=[data, newer]):
        monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
        async with standing_by(path) as standby:
            assert await standby.call(data) == b"\0as it is"
            with pytest.raises(NotFoundError, match="handler 'work' was not found"):
                await standby.call(work, "no")  # the holder's code is what runs
    assert "it lacks Cart/hold, Work/secret, Work/twice, Work/wait, Work/work" in caplog.text
    assert "it also has Work/newer" in caplog.text


async def test_a_file_that_is_not_the_one_is_not_taken_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is a new one made in its place."""
    first, second = standing_by(path), standing_by(path)
    await first.start()
    await second.start()
    await first.call(data)
    elsewhere = path.with_name("elsewhere.db")
    os.rename(path, elsewhere)
    first.abandon()
    await until(lambda: "is not taken over" in caplog.text)
    assert path.name not in os.listdir(path.parent)
    shutil.copy(elsewhere, path)
    await asyncio.sleep(1.1 * FAILED_S)
    assert str(second.role) == "standby"
    os.rename(elsewhere, path)
    assert await holder_of(second) is second
    assert await second.count_invocations() == {"completed": 1}
    assert caplog.text.count("is not taken over") == 1
    await second.close()


async def test_a_holder_that_fails_lets_the_next_one_go_on(path: Path) -> None:
    broken = False

    def disk(name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if broken and name == "commit":
            raise EngineFailedError("no disk")
        return method(*arguments)

    store = around(SqliteStore(path, synchronous="NORMAL"), disk)
    failing = Engine(store=store, services=SERVICES, standby=True)
    async with failing, standing_by(path) as second:
        assert (failing.role, second.role) == (Role.HOLDER, Role.STANDBY)
        calling = asyncio.ensure_future(second.call(work, "one"))
        await until(lambda: steps["one"])
        broken = True
        with pytest.raises(EngineFailedError, match="no disk"):
            await failing.call(data)
        assert await holder_of(second) is second
        assert await calling == "one done"
        assert await failing.call(data) == b"\0as it is"  # through the one that took over
        assert failing.failure is None
        assert str(failing.role) == "standby"
        broken = False
        await second.close()
        assert await holder_of(failing) is failing


def test_one_engine_of_a_module_serves_one_event_loop_after_the_other(path: Path) -> None:
    """As holder and on standby in turn; also where an event loop ends without a close."""
    engine, other = standing_by(path), standing_by(path)

    async def begin(*engines: Engine) -> None:
        for one in engines:
            await one.start()

    async def once() -> None:
        async with other, engine:
            assert str(engine.role) == "standby"
            assert await engine.call(data) == b"\0as it is"
        async with engine:
            assert str(engine.role) == "holder"

    asyncio.run(once())
    asyncio.run(begin(other, engine))  # left behind
    assert engine.role is other.role is None
    asyncio.run(once())

    async def call(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await engine.call(data))

    app = Starlette(routes=[Route("/", call)], lifespan=engine.lifespan)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").content == b"\0as it is"


async def test_a_forked_child_is_told_and_disturbs_nobody(path: Path) -> None:
    async with three(path) as (_, second, third):
        calling = asyncio.ensure_future(second.call(work, "one"))
        await until(lambda: steps["one"])
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there are threads
            child = os.fork()
        if not child:
            told = b"nothing"
            try:
                second.invocation("inv_1" + "0" * 33).describe().send(None)
            except ForkedEngineError:
                told = b"told"
            finally:
                os.write(writer, told)
                os._exit(0)
        assert await asyncio.to_thread(os.read, reader, 100) == b"told"
        await asyncio.to_thread(os.waitpid, child, 0)
        os.close(reader)
        os.close(writer)
        assert await calling == "one done"
        assert await third.call(data) == b"\0as it is"


async def test_an_ingress_on_standby_answers_across_a_take_over(path: Path) -> None:
    """And refuses by itself what it must not pass on."""
    from tests.remote.test_api import served

    async with three(path) as (first, second, third):
        app = ingress.create_app(second)
        async with served(app) as url, durable.connect(url) as client:
            calls = [
                asyncio.ensure_future(client.call(work, f"{number}", idempotency_key=f"{number}"))
                for number in range(10)
            ]
            await until(lambda: len(steps) == 10)
            first.abandon()
            await holder_of(second, third)
            assert await asyncio.gather(*calls) == [f"{number} done" for number in range(10)]
            handle = await client.send(wait)
            for refused in (
                client.call(secret),
                client.send_signal(handle.id, "go", "now"),
                client.resolve_promise("Work", "k", "p"),
            ):
                with pytest.raises(durable.RequestError):
                    await refused
            assert (await third.cancel(handle.id)) is durable.Applied.ACCEPTED
            with pytest.raises(TerminalError):
                await handle.result()
    assert len(steps) == 10 and max(steps.values()) <= 2


async def test_who_completes_through_a_standby_is_told_the_same(path: Path) -> None:
    async with three(path) as (_, second, third):
        handle = await second.send(wait)
        assert await second.send_signal(handle.id, "go", "now") is durable.Applied.DONE
        assert await handle.result() == "now"
        assert await second.send_signal(handle.id, "go", "late") is durable.Applied.UNCHANGED
        with pytest.raises(durable.ConflictError, match="has ended"):
            await third.send_signal(handle.id, "go", "late", idempotency_key="mine")
        transport = httpx.ASGITransport(ingress.create_app(second, signals=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as ask:
            for key, status in (({}, 202), ({"idempotency-key": "mine"}, 409)):
                answer = await ask.post(f"/restate/signals/{handle.id}/go/resolve", json="late", headers=key)
                assert answer.status_code == status
            rejected = await third.send(wait)
            for code, status in (("700", 400), ("418", 202)):
                answer = await ask.post(f"/restate/signals/{rejected.id}/go/reject?code={code}", content="no")
                assert answer.status_code == status
            with pytest.raises(TerminalError) as ended:
                await rejected.result()
            assert (ended.value.code, ended.value.message) == (418, "no")


async def test_an_admin_app_on_standby_steers_what_the_holder_runs(path: Path) -> None:
    async with three(path) as (_, second, third):
        transport = httpx.ASGITransport(admin.create_app(second))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as ask:
            holding = await third.send(Cart.hold, key="k")
            seven, eight = {"key": "k", "state": {"n": "Nw=="}}, {"object_key": "k", "new_state": {"n": [56]}}
            state = "/services/Cart/state"
            assert (await ask.put(f"{state}?wait=false", json=seven)).status_code == 202
            assert (await ask.post(state, json=eight)).status_code == 202  # both are durable, behind who has the key
            assert await second.get_state("Cart", "k") == {}
            putting = asyncio.ensure_future(ask.put(state, json=seven))
            await second.send_signal(holding.id, "go")
            assert (await holding.result(), (await putting).status_code) == (0, 200)
            shown = (await ask.get(state, params={"key": "k"})).json()
            assert shown["state"] == {"n": "Nw=="}
            stale = await ask.post(state, json=eight | {"version": "0" * len(shown["version"])})
            assert stale.status_code == 409
            waiting = await third.send(wait)
            assert (await ask.patch(f"/invocations/{waiting.id}/kill")).status_code == 200
            rows = await ask.post(
                "/query", json={"query": "SELECT id FROM sys_invocation WHERE status = 'completed'"}
            )
            assert waiting.id in rows.text
            assert (await ask.get("/health")).status_code == 200
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as ask:
        assert (await ask.get("/health")).status_code == 503
