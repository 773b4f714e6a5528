"""C-094: an idempotency key that comes with another input gets the first one's result, and it is said, or refused."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import ConflictError, Context, Engine, Service, TerminalError, connect, connect_sync, handler
from durable.ingress import create_app
from durable.testing import Sim, check


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


class Clerk(Service):
    """Pays by way of a handler."""

    @handler
    async def calls(self, ctx: Context, asked: tuple[str, int]) -> str:
        target, amount = asked
        arg: Any = amount if target == "once" else {str(amount), "all"}
        try:
            return str(await ctx.call(f"Bank/{target}", arg, idempotency_key="k"))
        except TerminalError as error:
            return f"{error.code}: {error.message}"

    @handler
    async def sends(self, ctx: Context, asked: tuple[str, int]) -> str:
        target, amount = asked
        sent = ctx.send(f"Bank/{target}", amount if target == "once" else {str(amount), "all"}, idempotency_key="k")
        await ctx.sleep(1)
        return sent.id


@pytest.mark.parametrize("target", ["pay", "once"])
def test_a_handler_that_uses_a_key_again_for_something_else_is_answered_as_others_are(target: str) -> None:
    """Whatever happens meanwhile: what it was told is recorded."""
    banks: list[Bank] = []

    def services(sim: Sim) -> list[object]:
        banks.append(Bank())
        return [banks[-1], Clerk()]

    async def scenario(sim: Sim) -> None:
        first = await sim.call("Clerk/calls", (target, 1))
        assert await sim.call("Clerk/calls", (target, 1)) == first
        other = await sim.call("Clerk/calls", (target, 2))
        if target == "once":
            assert other.startswith("409: the idempotency key 'k' of Bank/once belongs to inv_1")
        else:
            assert other == first
        sent = await sim.call("Clerk/sends", (target, 3))
        assert sent == await sim.call("Clerk/sends", (target, 1))

    check(services, scenario)
    assert all(len({str(one) for one in bank.done}) <= 1 for bank in banks)


@pytest.mark.parametrize(("target", "answer"), [("pay", "the answer is the first one's"), ("once", "it is refused")])
def test_the_log_says_it_of_handlers_too(target: str, answer: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with Engine(":memory:", services=[Bank(), Clerk()]) as engine:
            for how in ("calls", "sends"):
                caplog.clear()
                for amount in (1, 1, 2):
                    assert not [one for one in caplog.records if "another input" in one.getMessage()]
                    await engine.call(f"Clerk/{how}", (target, amount))
                [line] = [one.getMessage() for one in caplog.records if "another input" in one.getMessage()]
                assert line.endswith(f"this one is not executed, {answer}")

    asyncio.run(story())
