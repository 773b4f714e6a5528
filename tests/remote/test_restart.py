"""An engine that is killed, or ends, under many that wait for it: each gets its result, and nothing is done twice."""

import asyncio
import random
import signal
import socket
import sys
from pathlib import Path

import pytest

import durable
from durable import (
    Client,
    ConflictError,
    EngineUnreachableError,
    NotFoundError,
    OutcomeUnknownError,
    TerminalError,
)
from durable.remote.connections import Connection, Lost
from tests.remote.process import Once, collect, double, forgotten, listen, started, unmoved
from tests.remote.services import sleep

#: How an engine is ended, one after the other.
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
#: How many signals are sent meanwhile.
SIGNALS = 60


async def asked(client: Client, number: int) -> int:
    """One call, in one of several ways."""
    match number % 4:
        case 0:
            return await client.call(double, number)
        case 1:
            return await client.call(double, number, idempotency_key=f"k{number}")
        case 2:
            return await (await client.send(double, number)).result()
    return await client.call(Once.run, number, key=str(number))


async def tell(client: Client, id: str, number: int, chance: random.Random) -> None:
    """One signal, some time or other."""
    await asyncio.sleep(chance.uniform(0, 1))
    await client.send_signal(id, "go", number)


@pytest.mark.process
async def test_two_hundred_callers_get_their_results_from_whatever_engine_runs(tmp_path: Path) -> None:
    chance, database = random.Random(1), tmp_path / "app.db"
    async with started(database) as process, durable.connect(database) as client:
        collecting = await client.send(collect, SIGNALS)
        told = [asyncio.ensure_future(tell(client, collecting.id, number, chance)) for number in range(SIGNALS)]
        calls = [asyncio.ensure_future(asked(client, number)) for number in range(200)]
        for how in ENDS:
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            await asyncio.to_thread(process.end, how)
            await asyncio.to_thread(process.start)
        assert await asyncio.gather(*calls) == [2 * number for number in range(200)]
        await asyncio.gather(*told)
        assert sorted(await collecting.result()) == list(range(SIGNALS)), "each arrived, and none of them twice"
        assert await client.count_invocations() == {"completed": 201}


@pytest.mark.process
async def test_who_waits_is_told_when_the_engine_stays_away(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    async with started(database) as process, durable.connect(database, reconnect_for="300ms") as client:
        waiting = asyncio.ensure_future(client.call(double, 1))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(process.end)
        with pytest.raises(EngineUnreachableError, match="no engine is running on"):
            await waiting
        with pytest.raises(EngineUnreachableError):
            await client.describe("inv_1" + "0" * 33)


async def test_a_long_wait_does_not_use_up_the_time_to_reconnect(tmp_path: Path) -> None:
    engine = durable.Engine(tmp_path / "app.db", services=[sleep])
    async with engine, durable.connect(tmp_path / "app.db", reconnect_for="1s") as client:
        waiting = asyncio.ensure_future(client.call(sleep, 1.3))
        await asyncio.sleep(1.2)
        await engine.close()  # whoever waits gets a 503
        await engine.start()
        assert await waiting == "slept"


class Cut:
    """Connections that break once what they were asked has been answered, before anybody hears it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        #: Whether those of operators do, too.
        self.everything = False
        asking = Connection.ask

        async def ask(connection: Connection, request: object) -> object:
            answer = await asking(connection, request)  # type: ignore[arg-type]
            asked = self.everything or b"/restate/" in request.target  # type: ignore[attr-defined]
            if self.left and asked:
                self.left -= 1
                connection.close()
                raise Lost("cut", sent=True)
            return answer

        monkeypatch.setattr(Connection, "ask", ask)


async def test_what_was_accepted_and_not_heard_of_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Cut(monkeypatch)
    database = tmp_path / "app.db"
    async with (
        durable.Engine(database, services=[double, forgotten, Once()]) as engine,
        durable.connect(database) as client,
    ):
        cut.left = 3
        assert await client.call(double, 1) == 2
        cut.left = 1
        assert await client.call(double, 2, idempotency_key="k") == 4
        cut.left = 1
        handle = await client.send(double, 3)
        assert await handle.result() == 6
        assert await engine.count_invocations() == {"completed": 3}
        cut.left = 1  # its result is kept for nobody: that nobody has it says nothing
        with pytest.raises(OutcomeUnknownError, match="is not kept that long"):
            await client.call(forgotten, 4)
        cut.left = 2
        assert await client.call(Once.run, 5, key="k") == 10
        cut.left = 1
        with pytest.raises(TerminalError, match="already invoked"):  # by another call
            await client.call(Once.run, 5, key="k")
        cut.left = 1
        sent = await client.send(Once.run, 6, key="sent")
        assert (sent.accepted, await sent.result()) == (True, 12)
        cut.left = 1
        assert not (await client.send(Once.run, 6, key="sent")).accepted
        with pytest.raises(NotFoundError):
            await client.attach("inv_1" + "0" * 33)


async def test_what_took_effect_and_was_not_heard_of_takes_effect_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has an idempotency key of its own: nothing is done twice, and no retry meets its own success."""
    cut = Cut(monkeypatch)
    database = tmp_path / "app.db"
    clusters = {"main": {"bootstrap.servers": "127.0.0.1:1"}}
    async with (
        durable.Engine(database, services=[double, listen, unmoved, Once()], kafka_clusters=clusters) as engine,
        durable.connect(database) as client,
    ):
        listening = await client.send(listen)
        for value in "ab":
            cut.left = 2
            await client.send_signal(listening.id, "go", value)
        cut.left = 1
        await client.reject_signal(listening.id, "no", "no")
        assert await listening.result() == "ab"
        cut.left = 2
        await client.resolve_promise("Once", "k", "p", 1)
        with pytest.raises(ConflictError):  # by somebody else
            await client.reject_promise("Once", "k", "p", "no")
        cut.everything = True
        cut.left = 1
        again = await client.restart_as_new(listening.id)
        cut.left = 2
        assert await client.kill(again.id) == "done"
        with pytest.raises(ConflictError, match="already completed"):
            await client.kill(again.id)
        for purge in (client.purge_journal, client.purge):
            cut.left = 2
            await purge(again.id)
        with pytest.raises(NotFoundError):
            await client.purge(again.id)
        stubborn = await client.send(unmoved)
        cut.left = 2
        await client.cancel(stubborn.id)
        assert await stubborn.result() == 1
        assert await engine.count_invocations() == {"completed": 2}
        cut.left = 1
        made = await client.subscribe("kafka://main/topic", double, again=True)
        cut.left = 1
        await client.unsubscribe(made.id)
        cut.left = 1
        await client.add_kafka_cluster("more", {"bootstrap.servers": "127.0.0.1:1"})
        cut.left = 1
        await client.remove_kafka_cluster("more")
        assert [one.id for one in await client.subscriptions()] == []
        assert [one.name for one in await client.kafka_clusters()] == ["main"]


async def test_what_is_no_database_or_has_no_engine_is_named(tmp_path: Path) -> None:
    async def refused(where: object, **options: object) -> str:
        with pytest.raises(EngineUnreachableError) as told:
            async with durable.connect(where, **options):  # type: ignore[arg-type]
                pass
        assert isinstance(told.value, ConnectionError)
        return str(told.value)

    database = tmp_path / "app.db"
    assert await refused(database) == f"there is no file {database}"
    database.touch()
    assert "no engine is running on" in await refused(database)
    assert "no engine is running on" in await refused(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{database}.sock")
        other.listen()

        async def answer() -> None:
            loop = asyncio.get_running_loop()
            other.setblocking(False)
            connected, _ = await loop.sock_accept(other)
            await loop.sock_recv(connected, 10_000)
            await loop.sock_sendall(connected, b"SSH-2.0-OpenSSH_9.6\r\n")
            connected.close()

        speaking = asyncio.ensure_future(answer())
        assert "is no HTTP" in await refused(database)
        await speaking
    assert "nothing answers at http://127.0.0.1:9" in await refused("http://127.0.0.1:9")
    assert "nothing answers at http://nowhere.invalid" in await refused("http://nowhere.invalid")


async def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(durable.UsageError, match=r"pip install 'durable-engine\[http\]'"):
        await durable.connect(tmp_path / "app.db").open()


async def test_what_cannot_be_meant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, match in (
        (":memory:", "from its own process only"),
        ("sqlite:///app.db", "takes a path"),
        ("http://", "expected a URL"),
        ("http://a:b@c/", "expected a URL"),
        ("http://host:port/", "is not a URL"),
        (7, "is given by its path"),
    ):
        with pytest.raises(durable.UsageError, match=match):
            durable.connect(where)  # type: ignore[arg-type]
    with pytest.raises(durable.UsageError, match="go with a URL"):
        durable.connect(tmp_path / "app.db", token="t")
    with pytest.raises(durable.UsageError, match="name its admin API"):
        client = durable.connect("http://127.0.0.1:9")
        monkeypatch.setattr(client, "_loop", asyncio.get_running_loop())
        await client.services()
    with pytest.raises(durable.EngineNotRunningError, match="the client is not open"):
        await durable.connect(tmp_path / "app.db").services()
