"""Only an unknown outcome is unknown: a turn that the store refused has changed nothing, and everybody goes on."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Context,
    Engine,
    InvocationCancelled,
    ObjectContext,
    SharedObjectContext,
    StorageError,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    gather,
    handler,
)
from durable.core.commands import Finish, Record
from durable.core.effects import Writes
from durable.core.journal import Kind
from durable.store import CommitRefused
from durable.store.memory import MemoryStore, Tables
from durable.testing import Sim, VirtualClock, run, simulate
from durable.testing.checkers import check_tables
from durable.testing.modes import refused
from tests.runtime.support import engine_on, settled

# ---- each commit of a scenario refused once: nobody notices ----


def a_bit_of_everything(sim: Sim) -> list[object]:
    async def work(name: str) -> str:
        await asyncio.sleep(0.01)
        assert sim.effect(name) == 1, f"{name} ran twice"
        return name

    class Account(VirtualObject):
        @handler
        async def add(self, ctx: ObjectContext, amount: int) -> int:
            total = (await ctx.get("total", int) or 0) + amount
            ctx.set("total", total)
            await ctx.run(work, f"add {amount}")
            return total

        @handler(shared=True)
        async def total(self, ctx: SharedObjectContext) -> int:
            return await ctx.get("total", int) or 0

    class Approval(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            await ctx.run(work, "asked")
            return str(await ctx.promise("decision", str))

    @handler(service="S")
    async def child(ctx: Context, name: str) -> str:
        first = await ctx.run(work, f"{name} 1")
        await ctx.sleep("2m")  # longer than the inactivity timeout
        second = await ctx.run(work, f"{name} 2")
        return f"{first}, {second}"

    @handler(service="S")
    async def parent(ctx: Context) -> list[Any]:
        both = await gather(ctx.call(child, "a"), ctx.call(child, "b"))
        sums = await gather(*[ctx.call(Account.add, amount, key="k") for amount in (1, 2, 3)])
        awakeable = ctx.awakeable(str)
        ctx.resolve_awakeable(awakeable.id, "woken")
        one, two = ctx.run(work, "beside 1"), ctx.run(work, "beside 2")
        return [*both, *sums, await awakeable, await two, await one]

    @handler(service="S")
    async def unlucky(ctx: Context) -> str:
        async with ctx.saga() as saga:
            saga.add_compensation(work, "undo")
            await ctx.run(work, "do")
            await ctx.call(child, "c")
            await ctx.awakeable()
        return "never"

    return [Account(), Approval(), child, parent, unlucky]


async def all_of_it(sim: Sim) -> list[Any]:
    unlucky = await sim.send("S/unlucky")
    approval = await sim.repeat(lambda engine: engine.send("Approval/run", key="w"))
    everything = await sim.call("S/parent")
    await sim.repeat(lambda engine: engine.resolve_promise("Approval", "w", "decision", "yes"))

    await asyncio.sleep(600)  # until it waits for its awakeable, unloaded
    await sim.repeat(lambda engine: engine.cancel(unlucky.id))
    with pytest.raises(InvocationCancelled):
        await sim.result(unlucky.id)
    total = await sim.call("Account/total", key="k")
    assert sim.effects["undo"] == 1
    return [*everything, await sim.result(approval.id), total]


async def controls(sim: Sim) -> list[Any]:
    """Pause, resume, kill and restart around commits."""
    held = await sim.send("S/child", "p")
    await sim.until(lambda: sim.effects["p 1"] == 1)
    await sim.repeat(lambda engine: engine.pause(held.id))

    async def paused() -> bool:
        return await sim.status(held.id) == "paused"

    await sim.until(paused)
    await sim.repeat(lambda engine: engine.resume(held.id))
    first = await sim.result(held.id)
    dead = await sim.send("S/child", "k")
    await sim.until(lambda: sim.effects["k 1"] == 1)
    await sim.repeat(lambda engine: engine.kill(dead.id))
    with pytest.raises(TerminalError):
        await sim.result(dead.id)
    again = await sim.repeat(lambda engine: engine.restart_as_new(held.id, from_entry=3))
    return [first, await sim.result(again.id)]


@pytest.mark.parametrize("scenario", [all_of_it, controls])
@pytest.mark.parametrize("options", [{}, {"inactivity_timeout": 0}], ids=["in memory", "always unloaded"])
def test_whichever_commit_is_refused_nobody_notices_and_no_step_runs_twice(
    scenario: Callable[[Sim], Any], options: dict[str, Any]
) -> None:
    expected, baseline = simulate(a_bit_of_everything, scenario, **options)
    assert baseline.log.commits > 10
    for commit in range(1, baseline.log.commits + 1):
        mode = refused(commit)
        try:
            result, sim = simulate(a_bit_of_everything, scenario, mode, **options)
            assert result == expected
            assert sim.engine.failure is None
            assert sim.log.crashes == 0
        except BaseException as error:
            error.add_note(f"in mode {mode.name!r}")
            raise


# ---- the culprit alone fails ----


def an_engine(**options: Any) -> Engine:
    """On virtual time."""
    return Engine(clock=VirtualClock(asyncio.get_running_loop()), **options)


class Picky(MemoryStore):
    """Refuses, again and again, whatever has a certain thing in it."""

    def __init__(self, tables: Tables, bad: Callable[[Writes], bool]) -> None:
        super().__init__(tables)
        self.bad = bad
        self.refused = 0

    async def commit(self, writes: Writes) -> None:
        if self.bad(writes):
            self.refused += 1
            raise CommitRefused("it holds what this store does not take; nothing of it was written")
        await super().commit(writes)


def test_the_step_that_is_refused_again_pauses_its_invocation_and_the_others_of_its_turn_go_on() -> None:
    executions: list[int] = []

    @handler(service="S")
    async def numbers(ctx: Context, number: int) -> int:
        async def work() -> int:
            executions.append(number)
            return number

        await ctx.run(work)
        await ctx.sleep(1)
        return await ctx.run(lambda: number)

    def bad(writes: Writes) -> bool:
        return any(row.kind == Kind.RUN and row.value == b"13" for row in writes.journal)

    async def story() -> None:
        tables = Tables()
        store = Picky(tables, bad)
        async with an_engine(services=[numbers], store=store) as engine:
            handles = [await engine.send(numbers, number) for number in range(10, 16)]
            for number, handle in enumerate(handles, 10):
                if number != 13:
                    assert await handle.result() == number
            unlucky = handles[3]
            view = await settled(engine, unlucky.id)
            assert view.last_failure is not None
            assert view.last_failure.reason == "commit-refused"
            assert "does not take" in view.last_failure.message
            assert sorted(executions) == list(range(10, 16)), "nobody's step ran twice"
            assert store.refused == 2
            store.bad = lambda writes: False
            assert await engine.resume_all(reason="commit-refused") == [unlucky.id]
            assert await unlucky.result() == 13
        check_tables(tables)

    run(story)


def test_who_asked_for_what_is_refused_is_told_and_the_others_are_answered() -> None:
    @handler(service="S")
    async def echo(ctx: Context, value: str) -> str:
        return value

    def bad(writes: Writes) -> bool:
        return any(new.submission.input == b'"bad"' for new in writes.created.values())

    async def story() -> None:
        tables = Tables()
        async with an_engine(services=[echo], store=Picky(tables, bad)) as engine:
            asked = [engine.call(echo, value) for value in ("a", "bad", "b", "c")]
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert [one for one in told if isinstance(one, str)] == ["a", "b", "c"]
            assert isinstance(told[1], StorageError)
            assert "nothing of it was written" in str(told[1])
            assert len(await engine.invocations()) == 3
            assert engine.failure is None
        check_tables(tables)

    run(story)


@pytest.mark.parametrize("kind", [Record, Finish])
def test_one_that_cannot_even_be_paused_stays_as_it_is_until_the_next_start(kind: type) -> None:
    @handler(service="S")
    async def one(ctx: Context) -> str:
        return await ctx.run(lambda: "done") if kind is Record else "done"

    def bad(writes: Writes) -> bool:
        return bool(writes.journal or writes.changed)

    async def story() -> None:
        tables = Tables()
        async with an_engine(services=[one], store=Picky(tables, bad)) as engine:
            handle = await engine.send(one)
            await asyncio.sleep(5)
            assert engine.failure is None
        async with an_engine(services=[one], store=MemoryStore(tables)) as engine:
            assert await engine.attach(handle.id) == "done"
        check_tables(tables)

    run(story)


def test_a_timer_whose_turn_is_refused_fires_again() -> None:
    blocked = True

    @handler(service="S", inactivity_timeout=0)
    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(10)
        return "woken"

    def bad(writes: Writes) -> bool:
        return blocked and bool(writes.timers_removed)

    async def story() -> None:
        nonlocal blocked
        tables = Tables()
        async with an_engine(services=[sleeper], store=Picky(tables, bad)) as engine:
            handle = await engine.send(sleeper)
            await asyncio.sleep(30)
            blocked = False
            assert await asyncio.wait_for(handle.result(), 600) == "woken"

    run(story)


# ---- on a real file: a foreign row is in the way ----


def test_a_foreign_row_with_the_next_number_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"

    @handler(service="S")
    async def echo(ctx: Context, value: int) -> int:
        return await ctx.run(lambda: value)

    async def story() -> None:
        async with engine_on(path, echo) as engine:
            assert await engine.call(echo, 1) == 1
            with sqlite3.connect(path) as database:
                columns = [row[1] for row in database.execute("PRAGMA table_info(_invocations)")]
                others = ", ".join(name for name in columns if name not in ("seq", "id"))
                foreign = f"SELECT seq + 1, 'foreign', {others} FROM _invocations"
                database.execute(f"INSERT INTO _invocations (seq, id, {others}) {foreign}")
            database.close()
            told = await asyncio.gather(*(engine.call(echo, number) for number in range(2, 6)))
            assert told == [2, 3, 4, 5]
            assert engine.failure is None

    run(story)


def test_a_trigger_that_refuses_one_key_stops_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"

    class Keep(VirtualObject):
        @handler
        async def put(self, ctx: ObjectContext, value: int) -> int:
            before = await ctx.get("it", int) or 0
            ctx.set("it", value)
            return before

    async def story() -> None:
        async with engine_on(path, Keep()) as engine:
            with sqlite3.connect(path) as database:
                database.execute(
                    "CREATE TRIGGER guard BEFORE INSERT ON _state WHEN NEW.key = 'bad'"
                    " BEGIN SELECT RAISE(ABORT, 'no such key here'); END"
                )
            database.close()
            handles = [await engine.send(Keep.put, 1, key=key) for key in ("a", "bad", "b")]
            assert [await handles[0].result(), await handles[2].result()] == [0, 0]
            view = await settled(engine, handles[1].id)
            assert view.last_failure is not None
            assert view.last_failure.reason == "commit-refused"
            assert "no such key here" in view.last_failure.message
            assert await engine.get_state("Keep", "bad") == {}
            with sqlite3.connect(path) as database:
                database.execute("DROP TRIGGER guard")
            database.close()
            await engine.resume(handles[1].id)
            assert await handles[1].result() == 0
            assert await engine.get_state("Keep", "bad") == {"it": 1}

    run(story)
