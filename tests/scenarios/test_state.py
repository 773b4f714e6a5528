"""The state of virtual objects: kept per key, changed once, whatever happens to the engine."""

import asyncio
from typing import Any

import pytest

from durable import NotFoundError, ObjectContext, SharedObjectContext, TerminalError, VirtualObject, handler
from durable.testing import Sim, check
from tests.scenarios.keyed import Counter, assert_ran, open_gate


def test_a_counter_counts_and_keys_do_not_affect_each_other() -> None:
    """C-034: 0 to 1, 1 to 3; another key begins at 0."""

    async def scenario(sim: Sim) -> list[tuple[int, int]]:
        return [
            await sim.call(Counter.add, 1, key="a"),
            await sim.call(Counter.add, 2, key="a"),
            await sim.call(Counter.add, 5, key="b"),
            await sim.call(Counter.add, 1, key="a"),
        ]

    assert check(lambda sim: [Counter()], scenario) == [(0, 1), (1, 3), (0, 5), (3, 4)]


class Map(VirtualObject):
    @handler
    async def put(self, ctx: ObjectContext, entry: tuple[str, str]) -> None:
        ctx.set(*entry)

    @handler
    async def clear(self, ctx: ObjectContext) -> tuple[list[str], list[str]]:
        """The names there were, and the names there are afterwards."""
        names = await ctx.state_keys()
        ctx.clear_all()
        return names, await ctx.state_keys()

    @handler(shared=True)
    async def get(self, ctx: SharedObjectContext, name: str) -> str | None:
        return await ctx.get(name, str)

    @handler
    async def forget(self, ctx: ObjectContext, name: str) -> str | None:
        ctx.clear(name)
        return await ctx.get(name, str)


def test_clearing_all_state_of_a_key_leaves_other_keys_alone() -> None:
    """C-035: the names are listed, everything is gone, the other object keeps its entry."""

    async def scenario(sim: Sim) -> list[Any]:
        await sim.call(Map.put, ("red", "1"), key="mine")
        await sim.call(Map.put, ("blue", "2"), key="mine")
        await sim.call(Map.put, ("red", "3"), key="yours")
        return [
            await sim.call(Map.clear, key="mine"),
            await sim.call(Map.get, "red", key="mine"),
            await sim.call(Map.get, "blue", key="mine"),
            await sim.call(Map.get, "red", key="yours"),
            await sim.repeat(lambda engine: engine.get_state("Map", "mine")),
        ]

    cleared: tuple[list[str], list[str]] = (["blue", "red"], [])
    assert check(lambda sim: [Map()], scenario) == [cleared, None, None, "3", {}]


def test_clearing_one_value_leaves_the_others() -> None:
    """C-035: the same for a single name."""

    async def scenario(sim: Sim) -> list[Any]:
        await sim.call(Map.put, ("red", "1"), key="mine")
        await sim.call(Map.put, ("blue", "2"), key="mine")
        return [
            await sim.call(Map.forget, "red", key="mine"),
            await sim.repeat(lambda engine: engine.get_state("Map", "mine")),
        ]

    assert check(lambda sim: [Map()], scenario) == [None, {"blue": "2"}]


class Draft(VirtualObject):
    @handler
    async def rewrite(self, ctx: ObjectContext) -> list[list[str]]:
        """What the handler itself sees between its writes, none of which it waits for."""
        seen = [await ctx.state_keys()]
        ctx.set("first", 1)
        ctx.set("second", 2)
        seen.append(await ctx.state_keys())
        ctx.clear_all()
        seen.append(await ctx.state_keys())
        ctx.set("second", 3)
        ctx.set("third", 4)
        ctx.clear("third")
        seen.append(await ctx.state_keys())
        return seen


def test_writes_and_clears_of_one_handler_take_effect_in_their_order() -> None:
    """C-035: what was written before clear all is gone, what was written after it stays."""

    async def scenario(sim: Sim) -> tuple[list[list[list[str]]], dict[str, Any]]:
        seen = [await sim.call(Draft.rewrite, key="a") for _ in range(2)]
        return seen, await sim.repeat(lambda engine: engine.get_state("Draft", "a"))

    first = [[], ["first", "second"], [], ["second"]]
    second = [["second"], ["first", "second"], [], ["second"]]
    assert check(lambda sim: [Draft()], scenario) == ([first, second], {"second": 3})


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_state_outlives_the_engine(crash: bool) -> None:
    """C-036: add one, stop or kill the engine, add two: 1 to 3."""

    async def scenario(sim: Sim) -> tuple[int, int]:
        await sim.call(Counter.add, 1, key="a")
        await sim.restart(crash=crash)
        result: tuple[int, int] = await sim.call(Counter.add, 2, key="a")
        return result

    assert check(lambda sim: [Counter()], scenario) == (1, 3)


class Account(VirtualObject):
    """Fails in different ways after it wrote."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def write_then_fail(self, ctx: ObjectContext, value: str) -> None:
        ctx.set("value", value)
        raise TerminalError("written all the same", 418)

    @handler
    async def add_with_two_failures(self, ctx: ObjectContext) -> int:
        count = (await ctx.get("count", int) or 0) + 1
        ctx.set("count", count)
        if self.sim.effect("tries") <= 2:
            raise RuntimeError("not yet")
        return count


def test_what_was_written_before_a_terminal_error_stays() -> None:
    """C-037: the failed invocation's value is read by the next one."""

    async def scenario(sim: Sim) -> dict[str, Any]:
        with pytest.raises(TerminalError, match="written all the same") as failure:
            await sim.call(Account.write_then_fail, "kept", key="a")
        assert failure.value.code == 418
        return await sim.repeat(lambda engine: engine.get_state("Account", "a"))

    assert check(lambda sim: [Account(sim)], scenario) == {"value": "kept"}


def test_an_increment_that_is_retried_counts_once() -> None:
    """C-038: read, add one, write, fail twice: it rose by one."""

    async def scenario(sim: Sim) -> tuple[int, dict[str, Any]]:
        count = await sim.call(Account.add_with_two_failures, key="a")
        assert_ran(sim, "tries", 3)
        return count, await sim.repeat(lambda engine: engine.get_state("Account", "a"))

    assert check(lambda sim: [Account(sim)], scenario) == (1, {"count": 1})


async def patched(sim: Sim, service: str, key: str, state: dict[str, Any]) -> None:
    """Patch as a careful client does: if the engine stopped before it answered, look before patching again."""

    async def done() -> bool:
        if await sim.engine.get_state(service, key) != state:
            await sim.engine.patch_state(service, key, state)
        return True

    await sim.until(done)


def test_patched_state_replaces_all_there_was() -> None:
    """C-039: the next read returns the new value; names that are not in the patch are gone."""

    async def scenario(sim: Sim) -> list[Any]:
        await sim.call(Map.put, ("state", "original"), key="a")
        await sim.call(Map.put, ("other", "original"), key="a")
        await sim.call(Map.put, ("state", "untouched"), key="b")
        await patched(sim, "Map", "a", {"state": "patched"})
        await sim.restart()
        with pytest.raises(NotFoundError):
            await sim.repeat(lambda engine: engine.patch_state("Nothing", "a", {}))
        return [
            await sim.call(Map.get, "state", key="a"),
            await sim.call(Map.get, "other", key="a"),
            await sim.repeat(lambda engine: engine.get_state("Map", "a")),
            await sim.repeat(lambda engine: engine.get_state("Map", "b")),
        ]

    expected = ["patched", None, {"state": "patched"}, {"state": "untouched"}]
    assert check(lambda sim: [Map()], scenario) == expected


class Gated(VirtualObject):
    @handler
    async def write(self, ctx: ObjectContext, value: str) -> str | None:
        ctx.set("value", "half done")
        await ctx.signal("open")
        found = await ctx.get("value", str)
        ctx.set("value", value)
        return found


def test_a_patch_waits_for_the_handler_that_holds_the_key() -> None:
    """C-039: the running handler sees its own state to its end; the patch comes after it."""

    async def scenario(sim: Sim) -> tuple[str, dict[str, Any]]:
        handle = await sim.send(Gated.write, "written", key="a")

        async def began() -> bool:
            return await sim.engine.get_state("Gated", "a") == {"value": "half done"}

        await sim.until(began)
        patch = asyncio.create_task(patched(sim, "Gated", "a", {"value": "patched"}))
        await asyncio.sleep(1)
        assert not patch.done()
        assert await sim.repeat(lambda engine: engine.get_state("Gated", "a")) == {"value": "half done"}
        await open_gate(sim, handle.id)
        found = await sim.result(handle.id)
        await patch
        return found, await sim.repeat(lambda engine: engine.get_state("Gated", "a"))

    assert check(lambda sim: [Gated()], scenario) == ("half done", {"value": "patched"})


class Entries(VirtualObject):
    @handler
    async def append(self, ctx: ObjectContext, entry: int) -> None:
        ctx.set("entries", [*(await ctx.get("entries", list[int]) or []), entry])

    @handler
    async def take(self, ctx: ObjectContext) -> list[int]:
        entries = await ctx.get("entries", list[int]) or []
        ctx.clear("entries")
        return entries


def test_interleaved_appends_to_two_lists_stay_apart_and_in_order() -> None:
    """C-040: each list has its own numbers only, as they were sent."""

    async def scenario(sim: Sim) -> tuple[list[int], list[int]]:
        for number in range(1, 7):
            await sim.send(Entries.append, number, key="odd" if number % 2 else "even")
        return await sim.call(Entries.take, key="odd"), await sim.call(Entries.take, key="even")

    assert check(lambda sim: [Entries()], scenario, most=25) == ([1, 3, 5], [2, 4, 6])
