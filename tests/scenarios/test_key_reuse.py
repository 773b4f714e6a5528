"""C-094: an idempotency key that comes with another input gets the first one's result, and it is said, or refused."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import ConflictError, Context, Engine, Service, connect, connect_sync, handler
from durable.ingress import create_app


class Bank(Service):
    def __init__(self) -> None:
        self.done: list[Any] = []

    @handler
    async def pay(self, ctx: Context, amounts: set[str]) -> int:
        self.done.append(amounts)
        return len(amounts)

    @handler(on_key_reuse="refuse")
    async def once(self, ctx: Context, amount: int) -> int:
        self.done.append(amount)
        return amount


MANY = {str(number) for number in range(50)}


def test_the_answer_is_the_first_ones_and_the_log_and_the_handle_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        bank = Bank()
        async with Engine(":memory:", services=[bank]) as engine:
            first = await engine.send(Bank.pay, MANY, idempotency_key="k")
            again = await engine.send(Bank.pay, set(MANY), idempotency_key="k")
            assert (first.input_differs, again.input_differs, again.accepted) == (False, False, False)
            assert await engine.call(Bank.pay, MANY, idempotency_key="k") == 50
            assert "another input" not in caplog.text
            other = await engine.send(Bank.pay, {"1"}, idempotency_key="k")
            assert (other.id, other.accepted, other.input_differs) == (first.id, False, True)
            assert await other.result() == await engine.call(Bank.pay, {"2"}, idempotency_key="k") == 50
            assert len(bank.done) == 1
            [line, _] = [one.getMessage() for one in caplog.records if "another input" in one.getMessage()]
            assert first.id in line
            assert "'k'" in line

    asyncio.run(story())


@pytest.mark.parametrize("by", ["engine", "client", "http"])
def test_a_handler_that_refuses_it_answers_409_naming_both(by: str, tmp_path: Path) -> None:
    async def story() -> None:
        bank = Bank()
        async with Engine(tmp_path / "db", services=[bank]) as engine, connect(tmp_path / "db") as client:
            first = await engine.send(Bank.once, 1, idempotency_key="k")
            api: Any = client if by == "client" else engine
            if by == "http":
                web = httpx.AsyncClient(
                    transport=httpx.ASGITransport(create_app(engine)), base_url="http://localhost"
                )
                async with web:
                    once = {"idempotency-key": "k"}
                    assert (await web.post("/Bank/once", json=1, headers=once)).json() == 1
                    answer = await web.post("/Bank/once", json=2, headers=once)
                    assert answer.status_code == 409
                    assert first.id in answer.json()["message"]
            else:
                assert await api.call(Bank.once, 1, idempotency_key="k") == 1
                for ask in (api.call, api.send):
                    with pytest.raises(ConflictError, match=first.id):
                        await ask(Bank.once, 2, idempotency_key="k")
            assert bank.done == [1]

    asyncio.run(story())


def test_clients_and_http_are_told_of_another_input_too(tmp_path: Path) -> None:
    async def story() -> None:
        async with Engine(tmp_path / "db", services=[Bank()]) as engine, connect(tmp_path / "db") as client:
            first = await client.send(Bank.pay, MANY, idempotency_key="k")
            again = await client.send(Bank.pay, set(MANY), idempotency_key="k")
            other = await client.send(Bank.pay, {"1"}, idempotency_key="k")
            assert [one.input_differs for one in (first, again, other)] == [False, False, True]
            blocking = connect_sync(tmp_path / "db")
            theirs = await asyncio.to_thread(lambda: blocking.send(Bank.pay, {"2"}, idempotency_key="k"))
            assert (theirs.id, theirs.accepted, theirs.input_differs) == (first.id, False, True)
            await asyncio.to_thread(blocking.close)
            transport = httpx.ASGITransport(create_app(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
                for path in ("/Bank/pay", "/Bank/pay/send"):
                    for amounts, differs in ((sorted(MANY), None), (["3"], "true")):
                        answer = await web.post(path, json=amounts, headers={"idempotency-key": "k"})
                        assert answer.headers.get("idempotency-input-differs") == differs
                        assert answer.headers["x-restate-id"] == first.id

    asyncio.run(story())


def test_the_engine_says_it_for_all_and_nonsense_is_refused() -> None:
    async def story() -> None:
        async with Engine(":memory:", services=[Bank()], on_key_reuse="refuse") as engine:
            await engine.call(Bank.pay, {"1"}, idempotency_key="k")
            with pytest.raises(ConflictError):
                await engine.call(Bank.pay, {"2"}, idempotency_key="k")

    asyncio.run(story())
    with pytest.raises(Exception, match="on_key_reuse must be 'answer' or 'refuse'"):
        Engine(":memory:", services=[], on_key_reuse="never")  # type: ignore[arg-type]
