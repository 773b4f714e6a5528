"""What is kept of a completed invocation, for how long, and how it is forgotten: by itself, or by an operator."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ConflictError,
    Context,
    Engine,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    ObjectContext,
    RetryPolicy,
    SharedObjectContext,
    SharedWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.effects import Writes
from durable.testing import MemoryStore, Sim, VirtualClock, check, run, simulate
from tests.runtime.support import engine_on
from tests.scenarios.controls import cancel, kill, once, sent
from tests.scenarios.keyed import Counter, open_gate, reaches
from tests.scenarios.support import failure_of

MINUTE, HOUR, DAY = 60, 3600, 86_400


async def kept(sim: Sim, id: str) -> str:
    """What there still is of a completed invocation: its journal, only its result, or nothing."""
    try:
        view = await sim.repeat(lambda engine: engine.describe(id))
    except NotFoundError:
        return "nothing"
    assert view.status == "completed"
    return "journal" if view.journal else "result"


def sweep_s(*retentions_s: int) -> int:
    """How long after a retention is over something may still be there: an hour, or the shortest of them, …"""
    return min(HOUR, max(MINUTE, min([second for second in retentions_s if second], default=HOUR)))


# ---- how long ----


class Thing(VirtualObject):
    @handler
    async def write(self, ctx: ObjectContext) -> str:
        await ctx.sleep("2d")
        return "written"

    @handler(shared=True)
    async def read(self, ctx: SharedObjectContext) -> str:
        await ctx.sleep("2d")
        return "read"


class Flow(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        await ctx.sleep("2d")
        return "run"

    @handler
    async def query(self, ctx: SharedWorkflowContext) -> str:
        await ctx.sleep("2d")
        return "queried"


@handler(service="Plain")
async def plain(ctx: Context) -> str:
    await ctx.sleep("2d")
    return "done"


#: Who is invoked, with which idempotency key; and which retention is the limit of the journal's.
CALLERS = [
    pytest.param("Plain/plain", None, None, "journal", id="service"),
    pytest.param("Plain/plain", None, "i", "idempotency", id="service with a key"),
    pytest.param("Thing/write", "k", None, "journal", id="exclusive"),
    pytest.param("Thing/write", "k", "i", "idempotency", id="exclusive with a key"),
    pytest.param("Thing/read", "k", None, "journal", id="shared"),
    pytest.param("Thing/read", "k", "i", "idempotency", id="shared with a key"),
    pytest.param("Flow/run", "k", None, "workflow", id="workflow"),
    pytest.param("Flow/query", "k", None, "journal", id="shared of a workflow"),
    pytest.param("Flow/query", "k", "i", "idempotency", id="shared of a workflow with a key"),
]


@pytest.mark.parametrize("limit_s", [0, 10 * MINUTE, 3 * HOUR], ids=lambda seconds: f"result {seconds} s")
@pytest.mark.parametrize("journal_s", [0, 10 * MINUTE, 3 * HOUR], ids=lambda seconds: f"journal {seconds} s")
@pytest.mark.parametrize(("target", "key", "idempotency_key", "limit"), CALLERS)
def test_journal_and_result_are_kept_for_their_retentions_counted_from_completion(
    target: str, key: str | None, idempotency_key: str | None, limit: str, journal_s: int, limit_s: int
) -> None:
    """The journal is kept no longer than the result; without a key, the result as long as the journal."""
    result_s = journal_s if limit == "journal" else limit_s
    journal_kept_s = min(journal_s, result_s)
    other_s = 30 * DAY
    options: dict[str, Any] = {
        "journal_retention": journal_s,
        "idempotency_retention": limit_s if limit == "idempotency" else other_s,
        "workflow_completion_retention": limit_s if limit == "workflow" else other_s,
    }
    late_s = sweep_s(journal_s, limit_s if limit != "journal" else 0)

    def allowed(age_s: int) -> set[str]:
        if age_s < journal_kept_s:
            return {"journal"}
        if age_s < result_s:
            return {"result", "journal"} if age_s < journal_kept_s + late_s and journal_kept_s else {"result"}
        return {"nothing", "result", "journal"} if age_s < result_s + late_s and result_s else {"nothing"}

    async def scenario(sim: Sim) -> None:
        handle = await sim.engine.send(target, key=key, idempotency_key=idempotency_key)
        result = await handle.result()
        assert result in ("written", "read", "run", "queried", "done")
        completed = asyncio.get_running_loop().time()
        for age_s in sorted(
            age for s in {1, journal_s, limit_s, HOUR} for age in (s - 1, s + late_s + 1) if age >= 0
        ):
            await asyncio.sleep(max(0, completed + age_s - asyncio.get_running_loop().time()))
            assert await kept(sim, handle.id) in allowed(age_s), f"{age_s} s after its completion"
            if age_s < result_s:
                assert await sim.engine.output(handle.id) == result
            else:
                with pytest.raises(NotFoundError):
                    await sim.engine.output(handle.id)
        assert not sim.tables.invocations
        assert not sim.tables.journal

    simulate(lambda sim: [plain, Thing(), Flow()], scenario, **options)


def test_a_day_after_its_completion_the_journal_of_a_sleeper_lists_what_it_did_and_no_more() -> None:
    """C-076: input, the sleep with its end, output; a day and an hour later nothing is left."""

    async def scenario(sim: Sim) -> list[Any]:
        handle = await sim.send("Plain/plain")
        await sim.result(handle.id)
        await asyncio.sleep(DAY - MINUTE)
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        shown = [(entry.entry, entry.kind, entry.result) for entry in view.journal]
        asked, slept, output = view.journal
        assert slept.completed_at is not None
        assert slept.completed_at - slept.recorded_at == 2 * DAY * 1000
        assert asked.recorded_at == view.created_at <= slept.recorded_at
        assert output.value == view.output == b'"done"'
        await asyncio.sleep(HOUR + 2 * MINUTE)
        return [view.status, view.completion_result, shown, await kept(sim, handle.id)]

    expected = [(0, "input", "done"), (1, "sleep", "success"), (2, "output", "success")]
    assert check(lambda sim: [plain], scenario) == ["completed", "success", expected, "nothing"]


@pytest.mark.parametrize("how", ["failure", "cancelled", "killed", "cancelled before it began"])
def test_what_failed_is_kept_like_what_succeeded(how: str) -> None:
    """I5: whoever asks within the retention is told the same."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Work")
        async def work(ctx: Context) -> None:
            if how == "failure":
                raise TerminalError("broken", 418, {"dice": "1"})
            await ctx.sleep("30d")

        return [work]

    async def scenario(sim: Sim) -> list[Any]:
        delay = "1d" if how == "cancelled before it began" else None
        handle = await sim.send("Work/work", delay=delay, idempotency_key="i")
        if how == "killed":
            await kill(sim, handle.id)
        elif how != "failure":
            await cancel(sim, handle.id)
        seen = []
        for _ in range(2):
            error = await failure_of(sim.result(handle.id))
            seen.append((error.code, error.message, error.metadata))
            await asyncio.sleep(2 * HOUR - MINUTE)
        await asyncio.sleep(HOUR)
        assert seen[0] == seen[1]
        again = await sim.send("Work/work", idempotency_key="i", delay="1d")
        assert again.accepted or sim.interruptions
        return [seen[0][0], await sim.status(again.id)]

    code = 418 if how == "failure" else 409
    expected = [code, "scheduled"]
    assert check(services, scenario, most=15, journal_retention="1h", idempotency_retention="2h") == expected


def test_a_workflow_of_which_nothing_is_kept_takes_its_state_and_promises_with_it_when_it_ends() -> None:
    """C-049, a retention of 0: its key is free at once; whoever waited for the result has it."""

    async def scenario(sim: Sim) -> list[Any]:
        seen: list[Any] = []
        for name in ("Ada", "Bob"):
            run = await sim.engine.send(Visit.run, key="w")
            assert run.accepted
            waiting = asyncio.create_task(run.result())
            await asyncio.sleep(1)
            await sim.engine.call(Visit.name, name, key="w")
            seen += [await waiting, await sim.engine.get_state("Visit", "w")]
        return [*seen, sim.tables.promises]

    result, _ = simulate(lambda sim: [Visit()], scenario, workflow_completion_retention=0)
    assert result == ["Ada's visit 1", {}, "Bob's visit 1", {}, {}]


def test_one_that_is_restarted_is_kept_as_long_as_the_old_one_was_to_be() -> None:
    """C-068: the retentions are copied, counted from its own completion, whatever is configured since."""

    async def scenario(sim: Sim) -> list[str]:
        old = await sim.engine.send(plain, idempotency_key="i")
        await old.result()
        await sim.engine.configure("Plain", journal_retention="1d", idempotency_retention="1d")
        await asyncio.sleep(30 * MINUTE)
        new = await sim.engine.restart_as_new(old.id)
        await new.result()
        assert await kept(sim, old.id) == "nothing"
        seen = []
        for minutes in (59, 62, 58, 62):
            await asyncio.sleep(minutes * MINUTE)
            seen.append(await kept(sim, new.id))
        return seen

    result, _ = simulate(lambda sim: [plain], scenario, journal_retention="1h", idempotency_retention="3h")
    assert result == ["journal", "result", "result", "nothing"]


def test_a_handler_gets_the_result_of_a_call_of_which_nothing_is_kept() -> None:
    """A retention of 0: the callee vanishes with its completion, and its caller has the result for good."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> str:
            sim.effect(name)
            return name

        @handler(service="Child", journal_retention=0)
        async def child(ctx: Context) -> str:
            return await ctx.run(act, "child")

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            first = await ctx.call(child)
            await ctx.sleep("1h")
            return [first, await ctx.call(child), await ctx.run(act, "parent")]

        return [child, parent]

    async def scenario(sim: Sim) -> list[Any]:
        handle = await sim.send("Parent/parent")
        await sim.until(lambda: sim.effects["child"] > 0)
        await asyncio.sleep(MINUTE)
        left = await sim.repeat(lambda engine: engine.invocations(service="Child"))
        await sim.restart(crash=True)
        result = await sim.result(handle.id)
        once(sim, "parent")
        return [left, result]

    assert check(services, scenario) == [[], ["child", "child", "parent"]]


# ---- by itself ----


@pytest.mark.parametrize("retention_s", [1, 30, MINUTE, 5 * MINUTE, 30 * MINUTE, HOUR, DAY])
def test_what_is_over_is_cleaned_up_by_itself_soon_after(retention_s: int) -> None:
    """Nobody has to ask: at most an hour later, or as long as the shortest retention is, but a minute at least."""

    async def scenario(sim: Sim) -> None:
        await asyncio.sleep(100)
        for _ in range(3):
            handle = await sim.engine.send(Counter.add, 1, key="k", idempotency_key="i")
            await handle.result()
            await asyncio.sleep(retention_s - 0.1)
            assert handle.id in sim.tables.ids
            await asyncio.sleep(sweep_s(retention_s) + 1)
            assert handle.id not in sim.tables.ids
        assert await sim.engine.get_state("Counter", "k") == {"count": 3}

    simulate(lambda sim: [Counter()], scenario, idempotency_retention=retention_s)


def test_each_invocation_has_its_own_retention_and_the_shortest_sets_the_pace() -> None:
    """Handler over class over engine; those that are kept longer are not touched."""

    class Notes(VirtualObject, idempotency_retention="5m"):
        @handler
        async def by_class(self, ctx: ObjectContext) -> None:
            ctx.set("n", 1)

        @handler(idempotency_retention="2h")
        async def by_handler(self, ctx: ObjectContext) -> None:
            ctx.set("n", 2)

    @handler(service="Notes2")
    async def by_engine(ctx: Context) -> None: ...

    async def scenario(sim: Sim) -> list[list[bool]]:
        targets = [("Notes/by_class", "k"), ("Notes/by_handler", "k"), ("Notes2/by_engine", None)]
        ids = []
        for target, key in targets:
            handle = await sim.send(target, key=key)
            await sim.result(handle.id)
            ids.append(handle.id)
        seen = []
        for seconds in (4 * MINUTE, 7 * MINUTE, 108 * MINUTE, 7 * MINUTE, DAY):
            await asyncio.sleep(seconds)
            seen.append([id in sim.tables.ids for id in ids])
        return seen

    assert check(lambda sim: [Notes(), by_engine], scenario, most=15) == [
        [True, True, True],
        [False, True, True],
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
def test_a_retention_is_counted_through_restarts(crash: bool) -> None:
    """It is durable: a new engine neither begins to count anew nor forgets to clean up."""

    async def scenario(sim: Sim) -> list[str]:
        handle = await sim.send("Plain/plain")
        await sim.result(handle.id)
        seen = []
        for minutes in (60, 59, 62, 56, 64):
            await asyncio.sleep(minutes * MINUTE)
            seen.append(await kept(sim, handle.id))
            await sim.restart(crash=crash)
        return seen

    seen = check(lambda sim: [plain], scenario, most=15, journal_retention="2h", idempotency_retention="4h")
    assert seen == ["journal", "journal", "result", "result", "nothing"]


def test_what_went_out_of_date_while_the_process_was_down_is_cleaned_up_at_the_next_start() -> None:
    """Journals and records; a key is free at once."""

    async def scenario(sim: Sim) -> list[Any]:
        async def add() -> Any:
            return await sim.call(Counter.add, 2, key="k", idempotency_key="i")

        added = [await add()]
        handle = await sim.send("Plain/plain")
        await sim.result(handle.id)
        await sim.engine.close()
        await asyncio.sleep(3 * HOUR)
        await sim.restart()
        added.append(await add())
        await asyncio.sleep(1)
        seen = await kept(sim, handle.id)
        return [*added, seen]

    services = [Counter(), plain]
    seen, _ = simulate(lambda sim: services, scenario, journal_retention="1h", idempotency_retention="2h")
    assert seen == [(0, 2), (2, 4), "nothing"]


def test_whoever_takes_over_a_key_whose_time_is_over_is_not_swept_away_with_it() -> None:
    """C-071, C-049: the same id names a new invocation before the clean-up came by; it lives its own time."""

    async def scenario(sim: Sim) -> list[Any]:
        async def use() -> list[Any]:
            added = await sim.call(Counter.add, 2, key="k", idempotency_key="i")
            run = await sim.repeat(lambda engine: engine.send(Visit.run, key="w"))
            await sim.call(Visit.name, "Ada", key="w")
            return [added, await sim.result(run.id)]

        await asyncio.sleep(10)
        seen = await use()
        await asyncio.sleep(5 * MINUTE + 1)
        seen += await use()
        await asyncio.sleep(5 * MINUTE - 5)
        seen.append(await sim.call(Counter.add, 2, key="k", idempotency_key="i"))
        seen.append(await sim.call(Visit.greet, key="w"))
        await asyncio.sleep(10 * MINUTE)
        return [*seen, await sim.call(Visit.greet, key="w")]

    services = [Counter(), Visit()]
    retentions: dict[str, Any] = {"idempotency_retention": "5m", "workflow_completion_retention": "5m"}
    assert check(lambda sim: services, scenario, most=15, **retentions) == [
        *[(0, 2), "Ada's visit 1"],
        *[(2, 4), "Ada's visit 1"],
        *[(2, 4), "Ada", "nobody"],
    ]


class Visit(Workflow):
    """Remembers who came, in its state and in a promise."""

    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        seen = await ctx.get("visits", int) or 0
        ctx.set("visits", seen + 1)
        return f"{await ctx.promise('name', str)}'s visit {seen + 1}"

    @handler
    async def name(self, ctx: SharedWorkflowContext, name: str) -> None:
        await ctx.promise("name", str).resolve(name)

    @handler
    async def greet(self, ctx: SharedWorkflowContext) -> str:
        return await ctx.promise("name", str).peek() or "nobody"


def test_expired_ones_are_forgotten_a_few_at_a_time() -> None:
    """No turn is held up by them: none takes more than 500, and what is asked meanwhile is answered."""

    class Watched(MemoryStore):
        purged: list[int] = []  # noqa: RUF012

        async def commit(self, writes: Writes) -> None:
            self.purged.append(len(writes.purged) + len(writes.journals_purged))
            await super().commit(writes)

    @handler(service="Small")
    async def small(ctx: Context) -> None: ...

    async def story() -> None:
        store, clock = Watched(), VirtualClock(asyncio.get_running_loop())
        async with Engine(services=[small], store=store, clock=clock, journal_retention="1h") as engine:
            handles = await asyncio.gather(*[engine.send(small) for _ in range(1200)])
            await asyncio.gather(*[handle.result() for handle in handles])
            while handles[0].id in store.tables.ids:
                await asyncio.sleep(MINUTE)
                await engine.call(small)
            await asyncio.sleep(1)
            assert not any(handle.id in store.tables.ids for handle in handles)
            assert max(store.purged) <= 500

    run(story)


# ---- changed at run time ----


def gated(sim: Sim) -> Iterable[object]:
    """Invocations that end when somebody says so; one handler insists on its own retention."""

    class Gate(VirtualObject):
        @handler
        async def wait(self, ctx: ObjectContext) -> str:
            await ctx.signal("open")
            return "through"

        @handler(idempotency_retention="2h", shared=True)
        async def insist(self, ctx: SharedObjectContext) -> str:
            await ctx.signal("open")
            return "through"

    class Path(Workflow):
        @handler
        async def run(self, ctx: WorkflowContext) -> str:
            await ctx.signal("open")
            return "through"

    return [Gate(), Path()]


@pytest.mark.parametrize("meanwhile", ["nothing", "restart", "crash"])
def test_configured_retentions_apply_to_what_is_accepted_from_then_on(meanwhile: str) -> None:
    """What was accepted before keeps its own, also where it completes later; what a handler says itself stays."""

    async def scenario(sim: Sim) -> list[list[bool]]:
        async def start(number: int) -> list[str]:
            return [
                (await sim.send("Gate/wait", key=f"k{number}")).id,
                (await sim.send("Gate/insist", key="k")).id,
                (await sim.repeat(lambda engine: engine.send("Path/run", key=f"w{number}"))).id,
            ]

        ids = await start(1)
        await sim.repeat(lambda engine: engine.configure("Gate", idempotency_retention="20m"))
        await sim.repeat(lambda engine: engine.configure("Path", workflow_completion_retention="3h"))
        if meanwhile != "nothing":
            await sim.restart(crash=meanwhile == "crash")
        ids += await start(2)
        for id in ids:
            await open_gate(sim, id)
            await sim.result(id)
        seen = []
        for seconds in (19 * MINUTE, 40 * MINUTE, HOUR, HOUR, 2 * HOUR):
            await asyncio.sleep(seconds)
            seen.append([await output_is_there(sim, id) for id in ids])
        return seen

    options: dict[str, Any] = {"idempotency_retention": "1h", "workflow_completion_retention": "1h"}
    assert check(gated, scenario, most=12, **options) == [
        [True, True, True, True, True, True],
        [True, True, True, False, True, True],
        [False, True, False, False, True, True],
        [False, False, False, False, False, True],
        [False, False, False, False, False, False],
    ]


async def output_is_there(sim: Sim, id: str) -> bool:
    """Whether its result can still be asked for."""
    try:
        await sim.repeat(lambda engine: engine.output(id))
    except NotFoundError:
        return False
    return True


def test_a_configured_journal_retention_is_capped_as_a_declared_one() -> None:
    """With an idempotency key, by the idempotency retention; without one it is how long the result is kept."""

    @handler(service="Small")
    async def small(ctx: Context) -> None:
        ctx.now()

    async def scenario(sim: Sim) -> list[list[str]]:
        handles = []
        for journal_retention in ("3h", 0):
            await sim.engine.configure("Small", journal_retention=journal_retention, idempotency_retention="1h")
            handles += [await sim.engine.send(small, idempotency_key=f"{journal_retention}")]
            handles += [await sim.engine.send(small)]
        await asyncio.sleep(0.1)
        seen = []
        for seconds in (59 * MINUTE, 62 * MINUTE, 58 * MINUTE, 62 * MINUTE):
            await asyncio.sleep(seconds)
            seen.append([await kept(sim, handle.id) for handle in handles])
        return seen

    assert simulate(lambda sim: [small], scenario)[0] == [
        ["journal", "journal", "result", "nothing"],
        ["nothing", "journal", "nothing", "nothing"],
        ["nothing", "journal", "nothing", "nothing"],
        ["nothing", "nothing", "nothing", "nothing"],
    ]


def test_a_retention_configured_to_be_short_soon_sets_the_pace() -> None:
    """The clean-up follows what holds now, an hour after the change at the latest."""

    async def scenario(sim: Sim) -> None:
        await sim.engine.configure("Counter", idempotency_retention="2m")
        await asyncio.sleep(HOUR)
        handle = await sim.engine.send(Counter.add, 1, key="k", idempotency_key="i")
        await handle.result()
        await asyncio.sleep(2 * MINUTE + sweep_s(2 * MINUTE) + 1)
        assert handle.id not in sim.tables.ids

    simulate(lambda sim: [Counter()], scenario)


# ---- purged by an operator ----


async def purge(sim: Sim, id: str, *, journal: bool = False) -> None:
    """Purge, again if a crash swallowed the answer: then it may be gone already."""
    interruptions = sim.interruptions
    try:
        await sim.repeat(lambda engine: engine.purge_journal(id) if journal else engine.purge(id))
    except NotFoundError:
        assert sim.interruptions > interruptions


def test_without_its_journal_an_invocation_still_has_its_result() -> None:
    """C-077: described with an empty journal, found by its key, attached to; it cannot be restarted any more."""

    def services(sim: Sim) -> Iterable[object]:
        async def act() -> str:
            sim.effect("act")
            return "acted"

        @handler(service="Work")
        async def work(ctx: Context) -> str:
            return await ctx.run(act)

        @handler(service="Reader")
        async def read(ctx: Context, id: str) -> str:
            return await ctx.attach(id, str)

        return [work, read]

    async def scenario(sim: Sim) -> list[Any]:
        handle = await sim.send("Work/work", idempotency_key="i")
        await sim.result(handle.id)
        before = await sim.repeat(lambda engine: engine.describe(handle.id))
        assert len(before.journal) == 3
        await purge(sim, handle.id, journal=True)
        await purge(sim, handle.id, journal=True)
        await sim.restart()
        view = await sim.repeat(lambda engine: engine.describe(handle.id))
        again = await sim.send("Work/work", idempotency_key="i")
        assert (again.id, again.accepted) == (handle.id, False)
        with pytest.raises(GoneError):
            await sim.repeat(lambda engine: engine.restart_as_new(handle.id))
        once(sim, "act")
        seen = [await sim.result(handle.id), await sim.result(again.id), await sim.call("Reader/read", handle.id)]
        return [*seen, view.journal, view.output, view.completion_result, view.completed_at == before.completed_at]

    acted = ["acted", "acted", "acted", (), b'"acted"', "success", True]
    assert check(services, scenario) == acted


def test_a_purged_invocation_is_gone_and_its_idempotency_key_is_free() -> None:
    """C-077: nothing is left; the same key is accepted as new and runs again."""

    async def scenario(sim: Sim) -> list[Any]:
        first = await sim.send(Counter.add, 2, key="k", idempotency_key="i")
        results = [await sim.result(first.id)]
        await purge(sim, first.id)
        for ask in (Engine.describe, Engine.output, Engine.attach, Engine.purge, Engine.purge_journal, Engine.cancel):
            with pytest.raises(NotFoundError):
                await sim.repeat(lambda engine, ask=ask: ask(engine, first.id))  # type: ignore[misc]
        assert await sim.repeat(lambda engine: engine.invocations()) == []
        assert (sim.tables.invocations, sim.tables.journal, sim.tables.ids) == ({}, {}, {})
        second = await sim.send(Counter.add, 2, key="k", idempotency_key="i")
        assert second.id == first.id
        assert second.accepted or sim.interruptions
        return [*results, await sim.result(second.id)]

    assert check(lambda sim: [Counter()], scenario) == [[0, 2], [2, 4]]


def test_a_purged_workflow_takes_its_state_and_its_promises_with_it() -> None:
    """C-049: the same key is accepted as new, and begins with nothing; another key is not concerned."""

    async def scenario(sim: Sim) -> list[Any]:
        async def visit(key: str, name: str) -> Any:
            run = await sim.repeat(lambda engine: engine.send(Visit.run, key=key))
            await sim.call(Visit.name, name, key=key)
            return run.id, await sim.result(run.id)

        id, first = await visit("w", "Ada")
        _, other = await visit("x", "Bob")
        await purge(sim, id)
        state = [await sim.repeat(lambda engine, key=key: engine.get_state("Visit", key)) for key in "wx"]  # type: ignore[misc]
        greeted = [await sim.call(Visit.greet, key=key) for key in "wx"]
        assert list(sim.tables.promises) == [("Visit", "x")]
        with pytest.raises(NotFoundError):
            await sim.repeat(lambda engine: engine.workflow(Visit.run, "w").output())
        again, second = await visit("w", "Cyd")
        assert again == id
        return [first, other, state, greeted, second]

    assert check(lambda sim: [Visit()], scenario, most=30) == [
        "Ada's visit 1",
        "Bob's visit 1",
        [{}, {"visits": 1}],
        ["nobody", "Bob"],
        "Cyd's visit 1",
    ]


def test_purging_the_journal_of_a_workflow_leaves_its_state_and_promises() -> None:
    """C-077: and so the key stays taken."""

    async def scenario(sim: Sim) -> list[Any]:
        run = await sim.repeat(lambda engine: engine.send(Visit.run, key="w"))
        await sim.call(Visit.name, "Ada", key="w")
        await sim.result(run.id)
        await purge(sim, run.id, journal=True)
        again = await sim.repeat(lambda engine: engine.send(Visit.run, key="w"))
        assert not again.accepted
        state = await sim.repeat(lambda engine: engine.get_state("Visit", "w"))
        return [await sim.result(again.id), state, await sim.call(Visit.greet, key="w"), await kept(sim, run.id)]

    expected = ["Ada's visit 1", {"visits": 1}, "Ada", "result"]
    assert check(lambda sim: [Visit()], scenario, most=30) == expected


def test_purging_shared_handlers_of_a_workflow_leaves_the_workflow_alone() -> None:
    """C-049: only its run owns state and promises."""

    async def scenario(sim: Sim) -> list[Any]:
        run = await sim.repeat(lambda engine: engine.send(Visit.run, key="w"))
        name = await sim.send(Visit.name, "Ada", key="w")
        await sim.result(name.id)
        await purge(sim, name.id)
        return [await sim.result(run.id), await sim.call(Visit.greet, key="w")]

    assert check(lambda sim: [Visit()], scenario, most=30) == ["Ada's visit 1", "Ada"]


def test_a_purge_does_not_touch_children_callers_and_who_has_the_result_already() -> None:
    """C-077: each invocation has a journal of its own."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> str:
            sim.effect(name)
            return name

        @handler(service="Child")
        async def child(ctx: Context, name: str) -> str:
            if name == "sent":
                await ctx.signal("open")
            return await ctx.run(act, name)

        @handler(service="Parent")
        async def parent(ctx: Context) -> str:
            called = await ctx.call(child, "called")
            ctx.send(child, "sent")
            await ctx.signal("open")
            return f"{called} and {await ctx.run(act, 'parent')}"

        return [child, parent]

    async def scenario(sim: Sim) -> list[str]:
        parent = await sim.send("Parent/parent")
        detached = await sent(sim, "Child", 1)
        called = await sent(sim, "Child")
        await purge(sim, called.id)
        await sim.restart(crash=True)
        await open_gate(sim, parent.id)
        result = await sim.result(parent.id)
        await purge(sim, parent.id)
        await open_gate(sim, detached.id)
        once(sim, "called", "parent")
        return [result, await sim.result(detached.id)]

    assert check(services, scenario, most=30) == ["called and parent", "sent"]


def test_only_what_is_completed_can_be_purged() -> None:
    """C-077: 409 in every other status, 404 for an unknown one, 400 for no id; and nothing is changed."""

    def services(sim: Sim) -> Iterable[object]:
        async def stay() -> None:
            await asyncio.sleep(60)

        @handler(service="Work")
        async def busy(ctx: Context) -> None:
            await ctx.run(stay)

        @handler(service="Work", inactivity_timeout=0)
        async def asleep(ctx: Context) -> None:
            await ctx.sleep("30d")

        @handler(service="Work", retry=RetryPolicy(initial_interval="30d", max_interval="30d"))
        async def backs_off(ctx: Context) -> None:
            raise RuntimeError

        @handler(service="Work", retry=RetryPolicy(max_attempts=1))
        async def is_paused(ctx: Context) -> None:
            raise RuntimeError

        class Room(VirtualObject):
            @handler
            async def stay(self, ctx: ObjectContext) -> None:
                await ctx.signal("leave")

        return [busy, asleep, backs_off, is_paused, Room()]

    async def scenario(sim: Sim) -> dict[str, list[int]]:
        handles = {
            "running": await sim.send("Work/busy"),
            "suspended": await sim.send("Work/asleep"),
            "backing-off": await sim.send("Work/backs_off"),
            "paused": await sim.send("Work/is_paused"),
            "scheduled": await sim.send("Work/asleep", delay="30d"),
        }
        await sim.send("Room/stay", key="k")
        handles["pending"] = await sim.send("Room/stay", key="k")
        codes: dict[str, list[int]] = {}
        for status, handle in handles.items():
            await reaches(sim, handle.id, status)
            before = await sim.engine.describe(handle.id)
            codes[status] = []
            for ask in (sim.engine.purge, sim.engine.purge_journal):
                with pytest.raises(ConflictError, match="not yet completed") as conflict:
                    await ask(handle.id)
                codes[status].append(conflict.value.code)
            assert await sim.engine.describe(handle.id) == before
        for name, id in (("unknown", handle.id[:-4] + "AAAA"), ("malformed", "inv_1nonsense")):
            codes[name] = []
            for ask in (sim.engine.purge, sim.engine.purge_journal):
                with pytest.raises((NotFoundError, InvalidRequestError)) as refused:
                    await ask(id)
                codes[name].append(refused.value.code)
        return codes

    statuses = ["running", "suspended", "backing-off", "paused", "scheduled", "pending"]
    expected = {status: [409, 409] for status in statuses} | {"unknown": [404, 404], "malformed": [400, 400]}
    assert simulate(services, scenario)[0] == expected


# ---- on a real file ----


def test_a_file_forgets_what_is_over_and_keeps_the_rest(tmp_path: Path) -> None:
    """The same on SQLite: journals, results, a workflow's state, purges, through a restart."""

    def engine() -> Engine:
        return engine_on(
            tmp_path / "durable.db",
            Counter(),
            Visit(),
            journal_retention="1h",
            idempotency_retention="2h",
            workflow_completion_retention="3h",
        )

    async def story() -> None:
        async with engine() as first:
            keyed = await first.send(Counter.add, 1, key="k", idempotency_key="i")
            plainly = await first.send(Counter.add, 1, key="k")
            purged = await first.send(Counter.add, 1, key="k", idempotency_key="j")
            visit = await first.send(Visit.run, key="w")
            await first.call(Visit.name, "Ada", key="w")
            ids = [handle.id for handle in (keyed, plainly, purged, visit)]
            for id in ids:
                await first.attach(id)
            await first.purge(purged.id)
            assert await first.call(Counter.add, 1, key="k", idempotency_key="j") == (3, 4)
            await first.purge(purged.id)
            await first.purge_journal(keyed.id)
            with pytest.raises(GoneError):
                await first.restart_as_new(keyed.id)
            assert await shown(first, ids) == ["result", "journal", "nothing", "journal"]
        async with engine() as second:
            assert await shown(second, ids) == ["result", "journal", "nothing", "journal"]
            await asyncio.sleep(HOUR - MINUTE)
            assert await shown(second, ids) == ["result", "journal", "nothing", "journal"]
            await asyncio.sleep(MINUTE + 1)
        async with engine() as third:
            await asyncio.sleep(1)
            assert await shown(third, ids) == ["result", "nothing", "nothing", "result"]
            await asyncio.sleep(2 * HOUR - MINUTE)
            assert await shown(third, ids) == ["nothing", "nothing", "nothing", "result"]
            assert await third.get_state("Visit", "w") == {"visits": 1}
            await asyncio.sleep(HOUR + MINUTE)
            assert await third.invocations() == []
            assert await third.get_state("Visit", "w") == {}
            assert await third.get_state("Counter", "k") == {"count": 4}
            assert await third.call(Visit.greet, key="w") == "nobody"

    async def shown(engine: Engine, ids: list[str]) -> list[str]:
        found = {view.id for view in await engine.invocations()}
        journals = [(await engine.describe(id)).journal if id in found else None for id in ids]
        return ["nothing" if one is None else "journal" if one else "result" for one in journals]

    run(story)
