"""The client for code that blocks: in any thread, beside event loops, and in forked children."""

import asyncio
import inspect
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import durable
from durable import Client, Engine, SyncClient, TerminalError
from tests.remote.process import EngineProcess, double, started
from tests.remote.services import Cart, Order, Receipt, SignUp, buy, fail, services, sleep


async def test_threads_ask_while_the_engine_runs_on_this_loop(tmp_path: Path) -> None:
    database = tmp_path / "app.db"

    def story(client: SyncClient, key: str) -> list[int]:
        return [client.call(Cart.add, number, key=key) for number in range(1, 6)]

    def script() -> None:
        with durable.connect_sync(database) as client:
            order = Order("o", {"a": 1})
            assert client.call(buy, order) == Receipt(order, 1.0)
            handle = client.send(buy, order, idempotency_key="o")
            assert handle.result() == Receipt(order, 1.0)
            assert (handle.accepted, client.send(buy, order, idempotency_key="o").accepted) == (True, False)
            assert client.idempotent(buy, "o").output() == client.attach(handle.id, Receipt) == Receipt(order, 1.0)
            with pytest.raises(TerminalError, match="sold out"):
                client.call(fail, 418)
            with ThreadPoolExecutor(8) as pool:
                told = list(pool.map(lambda key: story(client, str(key)), range(8)))
            assert told == [[1, 3, 6, 10, 15]] * 8
            assert client.get_state("Cart", "3") == {"count": 15}
            client.patch_state("Cart", "3", {"count": 1})
            slow = client.send(sleep, 3600)
            with pytest.raises(TimeoutError):
                slow.result(timeout="50ms")
            assert slow.cancel() in (durable.Applied.ACCEPTED, durable.Applied.DONE)
            with pytest.raises(durable.InvocationCancelled):
                slow.result()
            assert slow.describe().completion_result == "failure"
            run = client.send(SignUp.run, "Ada", key="k")
            client.resolve_promise("SignUp", "k", "confirmed", "yes")
            assert client.workflow(SignUp.run, "k").result() == run.result() == "Ada yes"
            assert [one.name for one in client.services()] == ["Cart", "Shop", "SignUp"]
        client.close()
        assert client.call(Cart.add, 0, key="1") == 15
        client.close()

    async with Engine(database, services=services()):
        await asyncio.to_thread(script)
    assert not [one for one in threading.enumerate() if one.name == "durable-client"]


async def test_it_never_waits_for_the_loop_that_it_holds_up(tmp_path: Path) -> None:
    """Neither with a new connection nor with one that a thread has opened."""
    database = tmp_path / "app.db"
    async with Engine(database, services=services()):
        client = durable.connect_sync(database)
        with pytest.raises(durable.UsageError, match="would wait for itself"):
            client.call(Cart.add, 1, key="k")
        assert await asyncio.to_thread(client.call, Cart.add, 1, key="k") == 1
        with pytest.raises(durable.UsageError, match="would wait for itself"):
            client.call(Cart.add, 1, key="k")
        await asyncio.to_thread(client.close)


@pytest.mark.process
async def test_beside_a_loop_and_in_forked_children_it_asks_another_process(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    async with started(database):
        client = durable.connect_sync(database)
        assert client.call(double, 1) == 2  # as in a notebook, whose loop runs
        reader, writer = os.pipe()
        children = []
        for number in range(2):
            child = os.fork()
            if not child:
                told = b"failed\n"
                try:
                    told = b"%d\n" % client.call(double, 10 + number)
                finally:
                    os.write(writer, told)
                    os._exit(0)
            children.append(child)
        assert client.call(double, 2) == 4
        for child in children:
            await asyncio.to_thread(os.waitpid, child, 0)
        assert sorted(os.read(reader, 100).split()) == [b"20", b"22"]
        os.close(reader)
        os.close(writer)
        assert client.call(double, 3) == 6
        client.close()


@pytest.mark.process
def test_it_waits_for_the_next_engine(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path / "app.db")
    engine.start()
    with durable.connect_sync(tmp_path / "app.db") as client, ThreadPoolExecutor(1) as pool:
        calling = pool.submit(client.call, double, 21)
        engine.end()
        engine.start()
        assert calling.result() == 42
    engine.end()
    with pytest.raises(durable.EngineUnreachableError, match="no engine is running"), client:
        pass


def test_it_has_every_method_of_the_client() -> None:
    wanted = {name for name, _ in inspect.getmembers(durable.EngineApi, inspect.isfunction) if name[0] != "_"}
    assert len(wanted) > 30
    for name in wanted:
        here, there = (str(inspect.signature(getattr(kind, name))) for kind in (SyncClient, Client))
        assert here.replace("remote.sync.SyncHandle", "client.Handle") == there, name
