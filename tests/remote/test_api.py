"""One story, told to an engine, over its socket and over HTTP: the same values, types and errors."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import durable
from durable import Applied, Client, ConflictError, DurableError, Engine, EngineApi, TerminalError, admin, ingress
from tests.remote.services import (
    Cart,
    Order,
    Receipt,
    SignUp,
    anything,
    buy,
    fail,
    greet,
    headers,
    nothing,
    reverse,
    services,
    sleep,
    until,
)

UNKNOWN = "inv_1" + "0" * 33
#: So that a value that is too large need not be large.
SMALL: Any = {
    "max_value_size": 100_000,
    "kafka_clusters": {"main": {"bootstrap.servers": "127.0.0.1:1", "sasl.password": "s3cret"}},  # nobody is there
}
ODD = "a/b %2F ü 日本 ?&#+"


@asynccontextmanager
async def reached(side: str, tmp_path: Path) -> AsyncIterator[EngineApi]:
    """An engine, or a client of one."""
    database = tmp_path / "app.db"
    async with AsyncExitStack() as others:
        standby = side.startswith("standby")
        if standby:
            await others.enter_async_context(Engine(database, services=services(), **SMALL))
        engine = await others.enter_async_context(Engine(database, services=services(), standby=standby, **SMALL))
        assert engine.role == ("standby" if standby else "holder")
        if side in ("engine", "standby"):
            yield engine
        elif side == "socket":
            async with durable.connect(database) as client:
                yield client
        else:
            invoking = ingress.create_app(engine, token="t", promises=True, signals=True)
            operating = admin.create_app(engine, token="t", backup_folder=tmp_path)
            app = Starlette(routes=[Mount("/ops", operating), Mount("/in", invoking)])
            async with served(app) as url, durable.connect(f"{url}/in", admin=f"{url}/ops", token="t") as client:
                yield client


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An app behind a port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", access_log=False))
    serving = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def told(asking: Awaitable[object]) -> object:
    """What came of it: a value, or an error as far as a program looks at it."""
    try:
        return await asking
    except TerminalError as error:
        return type(error), str(error), error.code, error.metadata
    except DurableError as error:
        return type(error), getattr(error, "code", None)


#: To a type checker, a handler whose input may be left out takes none.
named: Any = greet


async def invoking(api: EngineApi) -> list[object]:
    order = Order("o-1", {"apple": 2, "pear": 3})
    handle = await api.send(buy, order, idempotency_key="o-1")
    again = await api.send(buy, order, idempotency_key="o-1")
    late = await api.send(Cart.add, 1, key="late", delay="1h")
    return [
        await told(api.call(buy, order)),
        await told(api.call(reverse, b"\0\1\2")),
        await told(api.call(reverse, b"")),
        await told(api.call(anything, {"a": [1, None, "ü"]})),
        await told(api.call(anything, None)),
        await told(api.call("Shop/anything", "text")),
        await told(api.call("Shop/reverse", b"\0bytes")),
        await told(api.call(greet)),
        await told(api.call(named, "Ada")),
        await told(api.call("Shop/greet")),
        await told(api.call(nothing)),
        await told(api.call(Cart.add, 2, key="k")),
        await told(api.call("Cart/add", 2, key="k")),
        await told(api.call(Cart.add, 2, key=ODD)),
        await told(api.call(Cart.add, 2, key="")),
        await told(api.call(Cart.add, 2, key="k" * 60_000)),
        await told(handle.result()),
        (handle.id == again.id, handle.accepted, again.accepted),
        [one.input_differs for one in (handle, again, await api.send(buy, Order("o-2", {}), idempotency_key="o-1"))],
        await told(api.idempotent(buy, "o-1").result()),
        await told(api.attach(handle.id, Receipt)),
        await told(api.output(handle.id)),
        await told(late.output()),
        (await late.describe()).status,
        await told(api.call(fail, 418)),
        await told(api.call(fail, 418)),
        await told(api.call(fail, 404)),
        await told(api.call("Shop/none")),
        await told(api.call("None/none", key="k")),
        await told(api.call("Shop")),
        await told(api.call(buy, cast(Order, "no order"))),
        await told(api.call("Shop/buy", "no order")),
        await told(api.call(Cart.add, 2)),
        await told(api.call(named, "Ada", key="k")),
        await told(api.call(nothing, idempotency_key="n\0")),
        await told(api.call(cast(Any, nothing), 1)),
        await told(api.call(anything, object())),
        await told(api.call(named, "x" * 200_000)),
        await told(api.send(greet, delay="soon")),
        await told(api.attach(UNKNOWN)),
        await told(api.output(UNKNOWN)),
        await told(api.idempotent(buy, "none").result()),
    ]


async def steering(api: EngineApi) -> list[object]:
    handle = await api.send(sleep, 3600)
    await until(lambda: _status(api, handle.id), "running")
    found: list[object] = [
        await told(api.purge(handle.id)),
        await told(api.restart_as_new(handle.id)),
        await told(api.resume(handle.id)),
        await told(api.cancel(handle.id, dry_run=True)),
        await told(api.pause(handle.id)),
    ]
    await until(lambda: _status(api, handle.id), "paused")
    found += [
        await told(api.pause(handle.id)),
        len(await api.resume_all(service="Shop")),
        await told(api.resume_all(reason="no reason")),
        await told(api.cancel(handle.id)),
        await told(handle.result()),
        await told(api.cancel(handle.id)),
        await told(api.pause(handle.id)),
        await told(api.restart_as_new(handle.id, from_entry=99)),
    ]
    again = await api.restart_as_new(handle.id)
    found += [
        again.id != handle.id,
        (await api.restart_as_new(handle.id, idempotency_key="k")).id
        == (await api.restart_as_new(handle.id, idempotency_key="k")).id
        != again.id,
        [await told(api.kill(again.id, idempotency_key=key)) for key in ("k", "k", "l")],
        await told(again.cancel(kill=True, idempotency_key="k")),
        await told(again.result()),
        await told(api.purge_journal(handle.id)),
        await told(api.restart_as_new(handle.id)),
        [await told(api.purge(handle.id, idempotency_key=key)) for key in ("k", "k", "l")],
        await told(api.cancel(handle.id, idempotency_key="n\0")),
        await told(api.describe(handle.id)),
        await told(api.describe("inv_")),
        await told(api.kill(UNKNOWN)),
    ]
    return found


async def _status(api: EngineApi, id: str) -> str:
    status = (await api.describe(id)).status
    return "running" if status == "suspended" else status


async def completing(api: EngineApi) -> list[object]:
    found: list[object] = []
    for number, value in enumerate(({"a": 1}, None, "ü")):
        key = f"k{number}"
        asking = await api.send(Cart.ask, key=key)
        await until(lambda key=key: _has_id(api, key), True)
        id = (await api.get_state("Cart", key))["id"]
        assert await api.resolve_awakeable(id, value) is Applied.DONE
        assert await api.reject_awakeable(id, "too late") is Applied.UNCHANGED
        found.append(await told(api.resolve_awakeable(id, value, idempotency_key="theirs")))
        found.append(await told(asking.result()))
    asking = await api.send(Cart.ask, key="r")
    await until(lambda: _has_id(api, "r"), True)
    id = (await api.get_state("Cart", "r"))["id"]
    keys = ("mine", "mine", "theirs")
    found += [await told(api.reject_awakeable(id, "no ü", 418, idempotency_key=key)) for key in keys]
    found.append(await told(asking.result()))
    found.append(await told(api.resolve_awakeable("sign_")))
    found.append(await told(api.resolve_awakeable("sign_1" + "0" * 33 + "1")))
    waiting = await api.send(Cart.signalled, key="s")
    assert await api.send_signal(waiting.id, "go", [1]) is Applied.DONE
    found.append(await told(waiting.result()))
    assert await api.send_signal(waiting.id, "go") is Applied.UNCHANGED
    assert await api.reject_signal(waiting.id, "go", "too late") is Applied.UNCHANGED
    with pytest.raises(ConflictError, match="has ended, so nobody would see the signal 'go'"):
        await api.send_signal(waiting.id, "go", idempotency_key="mine")
    waiting = await api.send(Cart.signalled, key="s")
    await api.reject_signal(waiting.id, "go", "stop", 409)
    found.append(await told(waiting.result()))
    found.append(await told(api.send_signal(UNKNOWN, "go")))
    listening = await api.send(Cart.listening, key="s")
    for number, key in enumerate(("one", "one", "two", "two")):
        await api.send_signal(listening.id, "go", number, idempotency_key=key)
    found.append(await told(listening.result()))
    for own in (*keys, None):
        settled = api.resolve_promise("SignUp", "keyed", "confirmed", "yes", idempotency_key=own)
        found.append(await told(settled))
    run = await api.send(SignUp.run, "Ada", key=ODD)
    found.append(await told(api.call(SignUp.status, key=ODD)))
    found.append(run.accepted)
    await api.resolve_promise("SignUp", ODD, "confirmed", "today")
    found.append(await told(api.workflow(SignUp.run, ODD).result()))
    found.append(await told(run.result()))
    found.append(await told(api.resolve_promise("SignUp", ODD, "confirmed", "today")))
    found.append(await told(api.reject_promise("Nope", "k", "confirmed", "no")))
    found.append((await told(api.call(SignUp.run, "Ada", key=ODD)))[2])  # type: ignore[index]
    await api.reject_promise("SignUp", "no", "confirmed", "never", 410)
    found.append(await told(api.call("SignUp/run", "Ada", key="no")))
    return found


async def _has_id(api: EngineApi, key: str) -> bool:
    return "id" in await api.get_state("Cart", key)


async def reading(api: EngineApi) -> list[object]:
    for number in range(5):
        await api.call(Cart.add, 1, key=f"k{number}", idempotency_key=f"i{number}", headers={"trace": "1"})
    listed = await api.invocations(limit=3)
    rest = await api.invocations(limit=100, before=listed[-1])
    page = await api.page(limit=2, counts=True, status=["completed", "paused"])
    described = await api.describe(listed[0].id)
    version = (await api.get_state("Cart", "k1")).version
    found: list[object] = [
        [one.key for one in (*listed, *rest)],
        (len(page.invocations), page.counts, page.counts_complete, page.next is not None),
        [one.key for one in (await api.page(limit=100, cursor=page.next)).invocations],
        await api.count_invocations(service="Cart", created_after=listed[-1].created_at - 3_600_000),
        await told(api.invocations(status="none")),
        await told(api.page(cursor="x")),
        (described.input, described.output, described.headers.get("trace"), described.idempotency_key),
        [(one.kind, one.name, one.value, one.result) for one in described.journal],
        [one.kind for one in (await api.journal(described.id, limit=2)).entries],
        (described.created_at <= (described.completed_at or 0), described.target, described.attempt),
        [(one.name, one.ty, one.journal_retention) for one in await api.services()],
        [one.input_json_schema for one in (await api.service("Shop")).handlers],
        await told(api.service("None")),
        await api.deadlocks(),
        await told(api.patch_state("Cart", "k1", {"count": 7, "raw": b"\0"}, expected_version=version)),
        await told(api.patch_state("Cart", "k1", {}, expected_version=version)),
        await told(api.get_state("Cart", "k1")),
        (await api.get_state("Cart", "k1")).version,
        await told(api.patch_state("Cart", "k1", {"count": object()})),
        await told(api.get_state("Shop", "k")),
        await told(api.patch_state("None", "k", {})),
        await told(api.configure("Cart", journal_retention="2h", public=True)),
        (await api.service("Cart")).journal_retention,
        await told(api.configure("Cart", journal_retention=None)),
        (await api.service("Cart")).journal_retention,
        await told(api.configure("Cart", journal_retention="long")),
        await told(api.configure("None", public=True)),
    ]
    return found


async def subscribing(api: EngineApi) -> list[object]:
    source, options = "kafka://main/topic", {"auto.offset.reset": "earliest"}
    view = await api.subscribe(source, greet, options)
    other = await api.subscribe(source, "service://Cart/add", again=True)
    third = await api.subscribe(source, Cart.add, again=True)
    unknown = "sub_1" + "0" * 22
    found: list[object] = [
        (view.source, view.sink, view.options["auto.offset.reset"], view.options["group.id"] == view.id),
        (await api.subscribe(source, "service://Shop/greet", options)).id == view.id,
        (await api.subscribe(source, greet, {**options, "max.poll.records": "7"})).id == view.id,
        (await api.subscription(view.id)).options["max.poll.records"],
        await told(api.subscribe(source, Cart.add, options)),
        [one.id for one in await api.subscriptions()] == [view.id, other.id, third.id],
        [one.sink for one in await api.subscriptions(source=source, sink="service://Cart/add")],
        await told(api.subscriptions(source="kafka://main/none")),
        (await api.subscription(view.id)).created_at == view.created_at,
        await told(api.pause_subscription(view.id)),
        (await api.subscription(view.id)).state,
        await told(api.resume_subscription(view.id, position="latest")),
        await told(api.resume_subscription(view.id, position=cast(Any, "middle"))),
        (await api.subscription(view.id)).state != "paused",
        await told(api.unsubscribe(view.id)),
        len(await api.subscriptions()),
    ]
    for wrong in (view.id, unknown, "sub_", 7):
        id = cast(str, wrong)
        found.append(await told(api.subscription(id)))
        found.append(await told(api.unsubscribe(id)))
        found.append(await told(api.pause_subscription(id)))
        found.append(await told(api.resume_subscription(id)))
    for bad_source, bad_sink, bad in (
        ("kafka:/topic", "service://Shop/greet", None),
        ("kafka://main/a b", "service://Shop/greet", None),
        (source, "service://Shop/none", None),
        ("kafka://none/topic", "service://Shop/greet", None),
        (source, "service://Shop/greet", {"none": "1"}),
        (source, "service://Shop/greet", {"sasl.password": "s3cret"}),
        (source, "service://Shop/greet", {"client.id": 7}),
        (source, "service://Shop/greet", "client.id"),
        (7, "service://Shop/greet", None),
    ):
        found.append(await told(api.subscribe(cast(str, bad_source), bad_sink, cast(Any, bad))))
    once = [await api.subscribe(source, greet, again=True, idempotency_key=key) for key in ("one", "one", "two")]
    found += [once[0].id == once[1].id, once[1].id == once[2].id, len(await api.subscriptions())]
    [*_, last] = await api.subscriptions()
    found += [await told(api.unsubscribe(last.id, idempotency_key=key)) for key in ("k", "k", "l")]
    for key in ("k", "k", "l"):
        adding = api.add_kafka_cluster("once", {"bootstrap.servers": "127.0.0.1:2"}, idempotency_key=key)
        found.append((await told(adding)).__class__.__name__)
    found += [await told(api.remove_kafka_cluster("once", idempotency_key=key)) for key in ("k", "k", "l")]
    added = await api.add_kafka_cluster("more", {"bootstrap.servers": "127.0.0.1:2"})
    return [
        *found,
        (added.name, added.properties, added.from_code, added.subscriptions),
        [(one.name, one.properties, one.from_code) for one in await api.kafka_clusters()],
        (await api.kafka_cluster("main")).subscriptions == tuple(sorted([other.id, third.id])),
        (await api.change_kafka_cluster("more", {"bootstrap.servers": "127.0.0.1:3"})).properties,
        await told(api.add_kafka_cluster("more", {"bootstrap.servers": "127.0.0.1:2"})),
        await told(api.add_kafka_cluster("no/name", {"bootstrap.servers": "127.0.0.1:2"})),
        await told(api.add_kafka_cluster("none", {"none": "1"})),
        await told(api.change_kafka_cluster("main", {"bootstrap.servers": "127.0.0.1:2"})),
        await told(api.change_kafka_cluster("none", {"bootstrap.servers": "127.0.0.1:2"})),
        await told(api.kafka_cluster("none")),
        await told(api.remove_kafka_cluster("main")),
        await told(api.remove_kafka_cluster("more", force=True)),
        await told(api.remove_kafka_cluster("more")),
    ]


#: A client of the socket, one over HTTP; an engine on standby, and a client over HTTP of one.
SIDES = ("socket", "http", "standby", "standby http")
STORIES = {
    "invoking": invoking,
    "steering": steering,
    "completing": completing,
    "reading": reading,
    "subscribing": subscribing,
}


@pytest.mark.parametrize("story", STORIES)
async def test_every_side_tells_the_same(tmp_path: Path, story: str) -> None:
    heard = {}
    for side in ("engine", *SIDES):
        (tmp_path / side).mkdir()
        async with reached(side, tmp_path / side) as api:
            heard[side] = await STORIES[story](api)
    for side in SIDES:
        for number, (here, there) in enumerate(zip(heard["engine"], heard[side], strict=True)):
            assert there == here, f"{side}, {number}"


async def test_headers_arrive_as_they_are_given(tmp_path: Path) -> None:
    """Over the socket: any text, and nothing of HTTP's own. Over HTTP: what HTTP has room for."""
    given = {"Trace": "1", "größe": "ü\n", "content-length": "many"}
    async with reached("socket", tmp_path) as api:
        assert await api.call(headers, headers=given) == given
        assert await api.call(greet, idempotency_key="ü" * 10_000) == "Hello nobody"
    (tmp_path / "http").mkdir()
    async with reached("http", tmp_path / "http") as api:
        assert (await api.call(headers, headers={"x-trace": "1"}))["x-trace"] == "1"
        for refused in (given, {"content-length": "1"}, {"a": "ü"}):
            with pytest.raises(durable.InvalidRequestError, match="cannot be sent over HTTP"):
                await api.call(headers, headers=refused)
        with pytest.raises(durable.InvalidRequestError, match="printable ASCII"):
            await api.call(greet, idempotency_key="ü")


async def test_who_owns_the_file_may_do_more(tmp_path: Path) -> None:
    async with reached("socket", tmp_path) as api:
        assert await api.call("Shop/secret") == "secret"
        asking = await api.send(Cart.ask, key="k")
        await until(lambda: _has_id(api, "k"), True)
        await api.resolve_awakeable((await api.get_state("Cart", "k"))["id"], b"\0bytes")
        assert await asking.result() == b"\0bytes"  # over HTTP, nobody knows how a handler wants its bytes
        await api.backup(tmp_path / "copy.db")
        assert (tmp_path / "copy.db").stat().st_size


def test_both_fulfil_the_protocol_with_the_same_signatures() -> None:
    """The types are checked by mypy, where `reached` gives either; here names, defaults and kinds are."""
    wanted = {name: one for name, one in inspect.getmembers(EngineApi, inspect.isfunction) if name[0] != "_"}
    assert len(wanted) > 30
    for kind in (Engine, Client):
        for name, method in wanted.items():
            here, there = inspect.signature(method), inspect.signature(getattr(kind, name))
            plain = [(one.name, one.kind, one.default) for one in here.parameters.values()]
            assert [(one.name, one.kind, one.default) for one in there.parameters.values()] == plain, name
