"""Targets that are not there yet, and targets that are not for everybody."""

import pytest

from durable import Context, InvalidRequestError, Service, handler
from durable.testing import Sim, check
from tests.scenarios.keyed import assert_ran


def test_a_call_to_a_handler_that_is_not_deployed_yet_succeeds_once_it_is() -> None:
    """C-032: it is paused naming what is missing; once that is deployed and it is resumed, the callee runs once."""

    def services(sim: Sim) -> list[object]:
        async def greeting(name: str) -> str:
            sim.effect("greeting")
            return f"Hello, {name}!"

        @handler(service="Late")
        async def greet(ctx: Context, name: str) -> str:
            return await ctx.run(greeting, name)

        @handler(service="Early")
        async def ask(ctx: Context, name: str) -> str:
            return str(await ctx.call("Late/greet", name))

        return [ask, greet] if sim.effects["deployed"] else [ask]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Early/ask", "Ada")

        async def failed() -> bool:
            view = await sim.engine.describe(handle.id)
            return view.last_failure is not None and view.status == "paused"

        await sim.until(failed)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.last_failure is not None
        assert "Late/greet" in view.last_failure.message
        sim.effect("deployed")
        await sim.restart()
        await sim.repeat(lambda engine: engine.resume_all(reason="handler-gone"))
        result = await sim.result(handle.id)
        assert_ran(sim, "greeting")
        return str(result)

    assert check(services, scenario) == "Hello, Ada!"


def test_an_invocation_whose_handler_was_taken_out_waits_until_it_is_back() -> None:
    """C-032: the same where the missing handler is the invocation's own."""

    def services(sim: Sim) -> list[object]:
        async def effect() -> None:
            sim.effect("effect")

        @handler(service="Late")
        async def work(ctx: Context) -> str:
            await ctx.run(effect)
            return "done"

        return [] if sim.effects["taken out"] > sim.effects["put back"] else [work]

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Late/work", delay="1s")
        sim.effect("taken out")
        await sim.restart()

        async def failed() -> bool:
            return (await sim.engine.describe(handle.id)).status == "paused"

        await sim.until(failed)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert view.last_failure is not None
        assert "Late/work" in view.last_failure.message
        sim.effect("put back")
        await sim.restart()
        await sim.repeat(lambda engine: engine.resume_all(reason="handler-gone"))
        result = await sim.result(handle.id)
        assert_ran(sim, "effect")
        return str(result)

    assert check(services, scenario) == "done"


class Ledger(Service, public=False):
    @handler
    async def book(self, ctx: Context, amount: int) -> str:
        return f"booked {amount}"


def test_a_private_service_is_called_by_handlers_only_until_it_is_made_public() -> None:
    """C-033: 400 from outside; fine through another handler; fine from outside once it is public."""

    def services(sim: Sim) -> list[object]:
        @handler(service="Front")
        async def order(ctx: Context, amount: int) -> str:
            return await ctx.call(Ledger.book, amount)

        return [Ledger(), order]

    async def scenario(sim: Sim) -> list[str]:
        for ask in (sim.call, sim.send):
            with pytest.raises(InvalidRequestError, match="Ledger/book") as refusal:
                await ask(Ledger.book, 1)
            assert refusal.value.code == 400
        results = [await sim.call("Front/order", 2)]
        await sim.repeat(lambda engine: engine.configure("Ledger", public=True))
        results.append(await sim.call(Ledger.book, 3))
        await sim.restart()
        results.append(await sim.call(Ledger.book, 4))
        await sim.repeat(lambda engine: engine.configure("Ledger", public=False))
        with pytest.raises(InvalidRequestError):
            await sim.call(Ledger.book, 5)
        return results

    assert check(services, scenario) == ["booked 2", "booked 3", "booked 4"]
