"""Restart as new: a completed invocation done again, from its input or over the first entries of its journal."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from durable import (
    Applied,
    ConflictError,
    Context,
    DurableFuture,
    Engine,
    GoneError,
    InvalidRequestError,
    InvocationCancelled,
    InvocationView,
    NotFoundError,
    ObjectContext,
    RetryPolicy,
    SharedObjectContext,
    SharedWorkflowContext,
    TerminalError,
    TooEarlyError,
    UnsupportedError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    as_completed,
    gather,
    handler,
    select,
)
from durable.store.rows import invocation_of
from durable.testing import Mode, Sim, check, run, simulate
from tests.runtime.support import engine_on
from tests.scenarios.controls import CANCELLED, cancel, kill, once, sent, told, waits
from tests.scenarios.keyed import open_gate, reaches
from tests.scenarios.support import failure_of, resolve

UNINTERRUPTED = [
    Mode("default"),
    Mode("always-suspend", always_suspend=True),
    Mode("minimal memory", minimal=True),
]


async def restart(sim: Sim, id: str, from_entry: int = 0) -> str:
    """Restart, once: where a crash swallowed the answer, look whether the new one is there; returns its id."""
    before = restarted(sim, id)

    async def ask() -> str:
        if restarted(sim, id) != before:
            return restarted(sim, id)[-1]
        return (await sim.engine.restart_as_new(id, from_entry=from_entry)).id

    return await sim.repeat(lambda _: ask())


def restarted(sim: Sim, id: str) -> list[str]:
    """What was started from an invocation, oldest first."""
    stored = [invocation_of(row) for _, row in sorted(sim.tables.invocations.items())]
    return [one.id for one in stored if one.submission.restarted_from == id]


async def view_of(sim: Sim, id: str) -> InvocationView:
    """An invocation with its journal."""
    return await sim.repeat(lambda engine: engine.describe(id))


async def ended(sim: Sim, id: str) -> Any:
    """How it ended: its result, or the code of its failure."""
    try:
        return await sim.result(id)
    except TerminalError as error:
        return error.code


def executed(sim: Sim, times: int, *effects: str) -> None:
    """Each was executed so often, and once more per crash at most."""
    for name in effects:
        executions = sim.effects[name]
        assert times <= executions <= times + sim.log.crashes, f"{name}: {executions} times, not {times}"


# ---- from the start ----


def orders(sim: Sim) -> Iterable[object]:
    """An order that can end in any way, as long as nothing is mended."""

    async def act(name: str) -> str:
        sim.effect(name)
        return name

    @handler(service="Orders")
    async def order(ctx: Context, kind: str) -> list[str]:
        done = [await ctx.run(act, "reserve")]
        if not sim.effects["mended"]:
            if kind == "fails":
                raise TerminalError("sold out", 410)
            if kind == "waits":
                await ctx.sleep("30d")
        return [*done, await ctx.run(act, "ship"), kind, ctx.request.headers["x-customer"]]

    return [order]


@pytest.mark.parametrize("how", ["success", "failure", "cancelled", "killed", "cancelled before it began"])
def test_however_it_ended_it_is_done_again_with_the_same_input_and_headers(how: str) -> None:
    """C-068: a new id, from the beginning; both are listed as completed; the old one is as it was."""

    async def scenario(sim: Sim) -> tuple[Any, Any]:
        kind = {"success": "succeeds", "failure": "fails"}.get(how, "waits")
        delay = "1d" if how == "cancelled before it began" else None
        old = await sim.send("Orders/order", kind, headers={"x-customer": "Ada"}, delay=delay)
        if how == "killed":
            await waits(sim, old.id, "sleep")
            await kill(sim, old.id)
        elif how == "cancelled":
            await waits(sim, old.id, "sleep")
            await cancel(sim, old.id)
        elif delay is not None:
            await cancel(sim, old.id)
        first = await ended(sim, old.id)
        before = await view_of(sim, old.id)
        sim.effect("mended")

        started_ms = sim.clock.now_ms()
        new = await restart(sim, old.id)
        second = await ended(sim, new)
        assert sim.clock.now_ms() - started_ms < 60_000, "a delay is not repeated"
        view = await view_of(sim, new)
        assert new != old.id
        assert (view.restarted_from, before.restarted_from) == (old.id, None)
        assert (view.target, view.headers, view.input) == (before.target, before.headers, before.input)
        assert (view.idempotency_key, view.caller_id) == (None, None)
        assert await view_of(sim, old.id) == before
        assert await ended(sim, old.id) == first
        listed = await sim.repeat(lambda engine: engine.invocations(service="Orders"))
        assert [(one.id, one.status) for one in listed] == [(new, "completed"), (old.id, "completed")]
        executed(sim, 1 if how == "cancelled before it began" else 2, "reserve")
        executed(sim, 2 if how == "success" else 1, "ship")
        if how != "cancelled before it began":
            assert await ended(sim, await restart(sim, old.id, 1)) == second
            executed(sim, 2, "reserve")
        return first, second

    first = {"success": ["reserve", "ship", "succeeds", "Ada"], "failure": 410}.get(how, 409)
    kind = {"success": "succeeds", "failure": "fails"}.get(how, "waits")
    assert check(orders, scenario, most=20) == (first, ["reserve", "ship", kind, "Ada"])


def test_a_second_restart_starts_a_second_one() -> None:
    """C-068: it is repeatable; each is an invocation of its own, and can be restarted itself."""

    async def scenario(sim: Sim) -> list[Any]:
        old = await sim.send("Orders/order", "fails", headers={"x-customer": "Ada"})
        results = [await ended(sim, old.id)]
        ids = [old.id, await restart(sim, old.id)]
        results.append(await ended(sim, ids[1]))
        sim.effect("mended")
        ids += [await restart(sim, old.id), await restart(sim, ids[1])]
        results += [await ended(sim, id) for id in ids[2:]]
        origins = [(await view_of(sim, id)).restarted_from for id in ids]
        assert origins == [None, old.id, old.id, ids[1]]
        assert len(set(ids)) == 4
        return results

    done = ["reserve", "ship", "fails", "Ada"]
    assert check(orders, scenario, most=20) == [410, 410, done, done]


def test_its_idempotency_key_stays_with_the_old_one() -> None:
    """C-068: whoever asks with the key gets the first result, before and after."""

    async def scenario(sim: Sim) -> list[Any]:
        async def ask() -> Any:
            return await sim.send("Orders/order", "fails", headers={"x-customer": "Ada"}, idempotency_key="order 1")

        old = await ask()
        await ended(sim, old.id)
        sim.effect("mended")
        new = await restart(sim, old.id)
        result = await ended(sim, new)
        again = await ask()
        assert (again.id, again.accepted) == (old.id, False)
        return [result, await ended(sim, again.id)]

    assert check(orders, scenario) == [["reserve", "ship", "fails", "Ada"], 410]


def test_whoever_called_the_old_one_hears_nothing_of_the_new_one() -> None:
    """C-068: the caller has its answer, and goes on from there, once."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Child")
        async def child(ctx: Context) -> str:
            await ctx.signal("open")
            if not sim.effects["mended"]:
                raise TerminalError("broken")
            return "mended"

        async def note() -> None:
            sim.effect("noted")

        @handler(service="Parent")
        async def parent(ctx: Context) -> str:
            try:
                return await ctx.call(child)
            except TerminalError as error:
                await ctx.run(note)
                await ctx.sleep("1h")
                return f"my child is {error.message}"

        return [child, parent]

    async def scenario(sim: Sim) -> tuple[str, str]:
        parent = await sim.send("Parent/parent")
        child = await sent(sim, "Child")
        await open_gate(sim, child.id)
        await sim.until(lambda: sim.effects["noted"] > 0)
        sim.effect("mended")
        new = await restart(sim, child.id)
        await open_gate(sim, new)
        result = await sim.result(new)
        view = await view_of(sim, new)
        assert (view.caller_id, view.caller_target) == (None, None)
        answer = await sim.result(parent.id)
        once(sim, "noted")
        return result, answer

    assert check(services, scenario) == ("mended", "my child is broken")


# ---- what cannot be restarted ----


class Visit(Workflow):
    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        return "visited"

    @handler
    async def guest(self, ctx: SharedWorkflowContext) -> str:
        return "nobody"


def test_the_error_says_why_it_cannot_be_done_again() -> None:
    """C-070: 404, 409, 425, 410, 422, 400; and nothing is started."""

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

        @handler(service="Work")
        async def ends(ctx: Context) -> None:
            await ctx.sleep(1)
            await gather(ctx.sleep(1), ctx.sleep(2))
            _ = ctx.signal("nobody waits for it")
            await ctx.sleep(1)

        class Room(VirtualObject):
            @handler
            async def stay(self, ctx: ObjectContext) -> None:
                await ctx.signal("leave")

        return [busy, asleep, backs_off, is_paused, ends, Room(), Visit()]

    async def scenario(sim: Sim) -> dict[str, tuple[type[Exception], int]]:
        engine, answers = sim.engine, {}

        async def ask(name: str, id: str, from_entry: Any = 0, match: str | None = None) -> None:
            before = len(await engine.invocations())
            with pytest.raises(Exception, match=match) as refusal:
                await engine.restart_as_new(id, from_entry=from_entry)
            answers[name] = type(refusal.value), getattr(refusal.value, "code", 0)
            assert len(await engine.invocations()) == before

        in_flight = {
            "running": await sim.send("Work/busy"),
            "suspended": await sim.send("Work/asleep"),
            "backing-off": await sim.send("Work/backs_off"),
            "paused": await sim.send("Work/is_paused"),
            "scheduled": await sim.send("Work/ends", delay="30d"),
        }
        await sim.send("Room/stay", key="k")
        in_flight["pending"] = await sim.send("Room/stay", key="k")
        for status, handle in in_flight.items():
            await reaches(sim, handle.id, status)
            await ask(status, handle.id)

        whole, gone = await sim.send("Work/ends"), await sim.send("Work/ends")
        await sim.result(whole.id)
        await sim.result(gone.id)
        await engine.purge_journal(gone.id)
        await ask("journal gone", gone.id, match="journal")
        await ask("journal gone, from an entry", gone.id, 1, match="journal")
        await ask("beyond the journal", whole.id, 7, match="no entry 7")
        await ask("far beyond", whole.id, 2**31)
        await ask("an entry without outcome", whole.id, 4, match="entry 4 ")
        await ask("an entry without outcome before it", whole.id, 5, match="entry 4 ")
        for number in (-1, True, 1.5, "1", 2**63):
            await ask(f"{number!r}", whole.id, number)
        await ask("unknown", whole.id[:-4] + "AAAA")
        await ask("malformed", "inv_1nonsense")

        run = await engine.send(Visit.run, key="w")
        await run.result()
        await ask("workflow", run.id)
        query = await engine.send(Visit.guest, key="w")
        await query.result()
        await ask("handler of a workflow", query.id)
        return answers

    conflict, early = (ConflictError, 409), (TooEarlyError, 425)
    invalid, unsupported = (InvalidRequestError, 400), (UnsupportedError, 422)
    assert simulate(services, scenario)[0] == {
        "running": conflict,
        "suspended": conflict,
        "backing-off": conflict,
        "paused": conflict,
        "scheduled": early,
        "pending": early,
        "journal gone": (GoneError, 410),
        "journal gone, from an entry": (GoneError, 410),
        "beyond the journal": invalid,
        "far beyond": invalid,
        "an entry without outcome": invalid,
        "an entry without outcome before it": invalid,
        "-1": invalid,
        "True": invalid,
        "1.5": invalid,
        "'1'": invalid,
        "9223372036854775808": invalid,
        "unknown": (NotFoundError, 404),
        "malformed": invalid,
        "workflow": unsupported,
        "handler of a workflow": unsupported,
    }


# ---- over a prefix of the journal ----


def test_a_kept_step_returns_what_it_returned_though_it_would_now_return_something_else() -> None:
    """C-069: entry 1 said "old"; kept, it says so again, and is not executed; not kept, it says "new"."""

    def services(sim: Sim) -> Iterable[object]:
        async def look() -> str:
            sim.effect("look")
            return "new" if sim.effects["changed"] else "old"

        @handler(service="Looks")
        async def look_twice(ctx: Context) -> list[str]:
            return [await ctx.run(look), await ctx.run(look)]

        return [look_twice]

    async def scenario(sim: Sim) -> list[list[str]]:
        old = await sim.send("Looks/look_twice")
        seen = [await sim.result(old.id)]
        sim.effect("changed")
        for from_entry in (0, 1, 2):
            new = await restart(sim, old.id, from_entry)
            seen.append(await sim.result(new))
            assert len((await view_of(sim, new)).journal) == 4, "input, two steps, output"
        executed(sim, 2 + 2 + 1, "look")
        return seen

    assert check(services, scenario, most=25) == [["old", "old"], ["new", "new"], ["old", "new"], ["old", "old"]]


def a_bit_of_everything(sim: Sim) -> Iterable[object]:
    """Programs whose result does not depend on when they run; each step, call and send notes its own execution."""

    async def act(name: str, seconds: float = 0) -> str:
        sim.effect(name)
        await asyncio.sleep(seconds)
        return name

    async def refuse(name: str) -> None:
        sim.effect(name)
        raise TerminalError(f"{name} is refused", 418, {"dice": "1"})

    def step(ctx: Context, name: str, seconds: float = 0) -> DurableFuture[str]:
        return ctx.with_options(name=name).run(act, name, seconds)

    @handler(service="Child")
    async def child(ctx: Context, name: str) -> str:
        return await step(ctx, name, 0.1)

    class Thing(VirtualObject):
        @handler
        async def sequence(self, ctx: ObjectContext) -> list[Any]:
            seen: list[Any] = [await step(ctx, "a")]
            ctx.set("letter", "b")
            await ctx.sleep(1)
            seen += [await ctx.get("letter", str), await ctx.call(child, "c"), ctx.now().year]
            sent = ctx.send(child, "d")
            ctx.clear("letter")
            seen += [await ctx.state_keys(), await step(ctx, "e"), await sent.attach()]
            try:
                await ctx.with_options(name="f").run(refuse, "f")
            except TerminalError as error:
                seen += [error.message, error.code, error.metadata, await step(ctx, "g")]
            return seen

        @handler
        async def combined(self, ctx: ObjectContext) -> list[Any]:
            seen: list[Any] = [*await gather(step(ctx, "a", 0.3), ctx.call(child, "b"), step(ctx, "c"))]
            seen += list(await select(fast=step(ctx, "d"), slow=ctx.sleep(2)))
            seen.append(await step(ctx, "e", 0.2).with_timeout(1))
            seen += sorted([await one async for one in as_completed(step(ctx, "f", 0.2), step(ctx, "g", 0.1))])
            await ctx.sleep(3)
            try:
                await ctx.signal("never").with_timeout(1)
            except TimeoutError:
                seen.append(await step(ctx, "h"))
            return seen

        @handler
        async def flows(self, ctx: ObjectContext) -> list[Any]:
            async def flow(names: str, seconds: float) -> list[str]:
                seen = []
                for name in names:
                    seen.append(await step(ctx, name, seconds))
                    await ctx.sleep(seconds)
                return seen

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(flow("abc", 0.3)), group.create_task(flow("def", 0.2))]
            seen = [task.result() for task in tasks]
            return [*seen, *await asyncio.gather(flow("gh", 0.1), flow("ij", 0))]

    return [child, Thing()]


@pytest.mark.parametrize(
    "mode",
    [
        *UNINTERRUPTED,
        Mode("crash after every 4th commit", every=4, how="after"),
        Mode("restart at every 3rd commit", every=3, how="restart"),
    ],
    ids=lambda mode: mode.name,
)
@pytest.mark.parametrize(("program", "callees"), [("sequence", "cd"), ("combined", "b"), ("flows", "")])
def test_restarted_from_any_entry_without_a_change_it_gives_the_same_result(
    program: str, callees: str, mode: Mode
) -> None:
    """C-069, I2: what is kept is not executed, calls and sends included; what comes after it is, once."""

    async def scenario(sim: Sim) -> list[int]:
        old = await sim.send(f"Thing/{program}", key="k")
        result = await sim.result(old.id)
        await asyncio.sleep(10)
        entries = (await view_of(sim, old.id)).journal[1:-1]
        opened = [entry.entry for entry in entries if entry.result == "open"]
        names = iter(callees)
        effects = {
            entry.entry: entry.name if entry.kind == "run" else next(names)
            for entry in entries
            if entry.kind in ("run", "call", "send")
        }
        refused = []
        for kept in range(len(entries) + 1):
            if opened and kept >= opened[0]:
                with pytest.raises(InvalidRequestError, match=f"entry {opened[0]} "):
                    await restart(sim, old.id, kept)
                refused.append(kept)
                continue
            before, crashes = sim.effects.copy(), sim.log.crashes
            new = await restart(sim, old.id, kept)
            assert await sim.result(new) == result
            await asyncio.sleep(10)
            for entry, effect in effects.items():
                times = sim.effects[effect] - before[effect]
                if entry <= kept:
                    assert times == 0, f"{effect} is kept with the first {kept} entries"
                else:
                    assert 1 <= times <= 1 + sim.log.crashes - crashes, f"{effect}: {times} times"
        return refused

    refused, _ = simulate(a_bit_of_everything, scenario, mode)
    assert len(refused) == (3 if program == "combined" else 0)


def a_trip(sim: Sim) -> Iterable[object]:
    """Steps, calls and waits in concurrent flows, with something to undo."""

    async def act(name: str, seconds: float = 0) -> str:
        sim.effect(name)
        await asyncio.sleep(seconds)
        return name

    @handler(service="Child")
    async def child(ctx: Context) -> str:
        return await ctx.run(act, "child", 0.3)

    @handler(service="Trip")
    async def book(ctx: Context) -> list[str]:
        async def flow(name: str) -> list[str]:
            first = await ctx.run(act, name, 0.2)
            await ctx.sleep(0.15)
            return [first, await ctx.run(act, f"{name} again", 0.1)]

        async with ctx.saga() as saga:
            saga.add_compensation(act, "undo", 0.2)
            booked = [await ctx.run(act, "search")]
            async with asyncio.TaskGroup() as group:
                flows = [group.create_task(flow(name)) for name in ("flight", "hotel")]
            booked += [name for one in flows for name in one.result()]
            open_to_it = ctx.with_options(interruptible=True).run(act, "car", 0.4)
            booked += await gather(ctx.run(act, "tickets", 0.5), open_to_it, ctx.call(child))
            ctx.send(child)
            try:
                await ctx.signal("never").with_timeout(0.3)
            except TimeoutError:
                booked.append(await ctx.run(act, "mail", 0.1))
            return booked

    return [child, book]


BOOKED = ["search", "flight", "flight again", "hotel", "hotel again", "tickets", "car", "child", "mail"]


@pytest.mark.parametrize("inactivity_timeout", ["1m", 0], ids=["waits in memory", "suspended at once"])
def test_whatever_befell_the_old_one_every_prefix_of_it_replays(inactivity_timeout: str | int) -> None:
    """C-069, R-37: 40 random lives with pauses, cancels, restarts and crashes; no prefix is ever a mismatch."""
    restarts: Counter[str] = Counter()

    async def disturb(sim: Sim, id: str, random: Random) -> None:
        await asyncio.sleep(random.choice([0, 0.05, 0.1, 0.2]))
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        with suppress(ConflictError):
            match random.choice(["pause", "pause", "resume", "resume", "cancel", "restart", "crash"]):
                case "pause":
                    await sim.repeat(lambda engine: engine.pause(id))
                case "resume":
                    await sim.repeat(lambda engine: engine.resume(id))
                case "cancel":
                    await sim.repeat(lambda engine: engine.cancel(id))
                case how:
                    await sim.restart(crash=how == "crash")

    async def scenario(sim: Sim, random: Random) -> None:
        old = await sim.send("Trip/book")
        for _ in range(random.randrange(1, 12)):
            await disturb(sim, old.id, random)
        while (view := await view_of(sim, old.id)).status != "completed":
            with suppress(ConflictError):
                await sim.repeat(lambda engine: engine.resume(old.id))
            await asyncio.sleep(5)
        for kept in range(max(entry.entry for entry in view.journal)):
            try:
                new = await restart(sim, old.id, kept)
            except InvalidRequestError:
                restarts["refused"] += 1
                break
            await asyncio.sleep(10)
            assert await sim.status(new) == "completed", f"{kept} kept: {(await view_of(sim, new)).last_failure}"
            result = await ended(sim, new)
            assert result == BOOKED or (kept and result == 409 == await ended(sim, old.id))
            restarts["booked" if result == BOOKED else "cancelled"] += 1

    def live(seed: int) -> None:
        try:
            simulate(a_trip, lambda sim: scenario(sim, Random(seed)), inactivity_timeout=inactivity_timeout)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise

    for seed in range(40):
        live(seed)
    assert min(restarts["booked"], restarts["cancelled"], restarts["refused"]) > 10, f"I10: {restarts}"


def numbers(sim: Sim) -> Iterable[object]:
    """A handler that draws random numbers before and after its step."""

    async def act() -> None:
        sim.effect("act")

    @handler(service="Dice")
    async def roll(ctx: Context) -> list[str]:
        before = [str(ctx.uuid()), str(ctx.random().random()), str(ctx.now())]
        await ctx.run(act)
        return [*before, str(ctx.random().random()), str(ctx.uuid())]

    return [roll]


def test_random_numbers_and_times_repeat_over_a_kept_prefix_and_only_there() -> None:
    """C-009, C-069: what was drawn before the kept entries went into them; a restart from the start draws anew."""

    async def scenario(sim: Sim) -> list[bool]:
        first = await sim.send("Dice/roll")
        drawn = {first.id: await sim.result(first.id)}

        async def again(id: str, from_entry: int) -> str:
            await asyncio.sleep(1)
            new = await restart(sim, id, from_entry)
            drawn[new] = await sim.result(new)
            return new

        kept = await again(first.id, 2)
        kept_again = await again(kept, 1)
        afresh = await again(first.id, 0)
        afresh_of_kept = await again(kept, 0)
        afresh_kept = await again(afresh, 1)
        for one, other in ((first.id, afresh), (first.id, afresh_of_kept), (afresh, afresh_of_kept)):
            assert not set(drawn[one]) & set(drawn[other])
        return [
            drawn[first.id][:3] == drawn[kept][:3] == drawn[kept_again][:3],
            drawn[afresh][:3] == drawn[afresh_kept][:3],
        ]

    assert check(numbers, scenario, most=25) == [True, True]


def test_calls_and_sends_of_a_kept_prefix_are_not_made_again() -> None:
    """C-069: the callees keep their ids, run once each, a delayed one too; a later attach finds the old one."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> None:
            sim.effect(name)

        @handler(service="Child")
        async def child(ctx: Context, name: str) -> str:
            await ctx.run(act, name)
            return f"{name} {sim.effects['changed']}"

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            call = ctx.call(child, "called")
            called = await call
            sent = ctx.send(child, "sent")
            late = ctx.send(child, "late", delay="1h")
            keyed = await ctx.call(child, "keyed", idempotency_key="k")
            await ctx.run(act, "parent")
            return [called, keyed, await sent.attach(), call.id, sent.id, late.id]

        return [child, parent]

    async def scenario(sim: Sim) -> list[str]:
        old = await sim.send("Parent/parent")
        first = await sim.result(old.id)
        sim.effect("changed")
        new = await restart(sim, old.id, 4)
        second: list[str] = await sim.result(new)
        await asyncio.sleep(7200)
        assert second == first
        children = await sim.repeat(lambda engine: engine.invocations(service="Child"))
        assert len(children) == 4
        assert {view.caller_id for view in children} == {old.id}
        executed(sim, 1, "called", "sent", "late", "keyed")
        executed(sim, 2, "parent")
        third = await sim.result(await restart(sim, old.id, 3))
        assert third == first, "made again, the keyed call finds who answered it"
        executed(sim, 1, "called", "sent", "late", "keyed")
        return second[:3]

    assert check(services, scenario, most=25) == ["called 0", "keyed 0", "sent 0"]


class Basket(VirtualObject):
    """Writes, prices, then reads."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def fill(self, ctx: ObjectContext) -> list[Any]:
        ctx.set("fruit", "apple")
        ctx.clear("nut")
        before = await ctx.get("count", int)
        await ctx.run(self._price)
        seen: list[Any] = [await ctx.get("fruit", str), await ctx.get("nut", str), await ctx.get("count", int)]
        seen += [before, await ctx.state_keys()]
        ctx.set("total", 7)
        return seen

    async def _price(self) -> None:
        self.sim.effect("price")

    @handler(shared=True)
    async def look(self, ctx: SharedObjectContext) -> list[str]:
        return await ctx.state_keys()


def test_state_written_in_a_kept_prefix_is_visible_and_not_written_again() -> None:
    """C-069: the handler goes on with what it wrote and read; what others have written since stays in the store."""

    async def scenario(sim: Sim) -> list[Any]:
        await sim.repeat(
            lambda engine: engine.patch_state("Basket", "k", {"nut": "walnut", "count": 1}, idempotency_key="first")
        )
        old = await sim.send(Basket.fill, key="k")
        seen = [await sim.result(old.id)]
        await sim.repeat(
            lambda engine: engine.patch_state(
                "Basket", "k", {"fruit": "pear", "nut": "hazel", "count": 2}, idempotency_key="second"
            )
        )
        new = await restart(sim, old.id, 4)
        seen.append(await sim.result(new))
        executed(sim, 1, "price")
        return [*seen, await sim.repeat(lambda engine: engine.get_state("Basket", "k"))]

    assert check(lambda sim: [Basket(sim)], scenario, most=25) == [
        ["apple", None, 1, 1, ["count", "fruit"]],
        ["apple", None, 2, 1, ["count", "fruit"]],
        {"fruit": "pear", "nut": "hazel", "count": 2, "total": 7},
    ]


def test_restarted_from_the_start_it_writes_its_state_again() -> None:
    """C-068: an ordinary invocation, on the state as it is now."""

    async def scenario(sim: Sim) -> list[Any]:
        old = await sim.send(Basket.fill, key="k")
        await sim.result(old.id)
        await sim.repeat(
            lambda engine: engine.patch_state("Basket", "k", {"fruit": "pear", "count": 5}, idempotency_key="once")
        )
        new = await restart(sim, old.id)
        return [await sim.result(new), await sim.repeat(lambda engine: engine.get_state("Basket", "k"))]

    assert check(lambda sim: [Basket(sim)], scenario, most=25) == [
        ["apple", None, 5, 5, ["count", "fruit"]],
        {"fruit": "apple", "count": 5, "total": 7},
    ]


@pytest.mark.parametrize("from_entry", [1, 2])
def test_an_awakeable_of_a_kept_prefix_keeps_its_id_and_its_value(from_entry: int) -> None:
    """C-069: what was passed on stays true; one that is made after the prefix has an id of its own."""

    def services(sim: Sim) -> Iterable[object]:
        async def publish(id: str) -> str:
            sim.effect("published")
            return id

        @handler(service="Asks")
        async def ask(ctx: Context) -> list[str]:
            first = ctx.awakeable(str)
            published = await ctx.run(publish, first.id)
            answer = await first
            second = ctx.awakeable(str)
            await ctx.run(publish, second.id)
            return [first.id, published, answer, second.id, await second]

        return [ask]

    async def scenario(sim: Sim) -> list[str]:
        async def awakeable(id: str, entry: int) -> str:
            await waits(sim, id, "awakeable")
            value = (await view_of(sim, id)).journal[entry].value or b""
            return value.decode().strip('"')

        old = await sim.send("Asks/ask")
        await resolve(sim, await awakeable(old.id, 2), "first answer")
        await sim.until(lambda: sim.effects["published"] > 1)
        await resolve(sim, await awakeable(old.id, 4), "second answer")
        before = await sim.result(old.id)

        new = await restart(sim, old.id, from_entry)
        await sim.until(lambda: sim.effects["published"] > 3 - (from_entry == 2))
        id = await awakeable(new, 4)
        await resolve(sim, before[0], "too late")
        await resolve(sim, before[3], "to the old one")
        await asyncio.sleep(60)
        assert await sim.status(new) != "completed"
        await resolve(sim, id, "third answer")
        after = await sim.result(new)
        assert after[:2] == before[:2] == [before[0], before[0]]
        assert id not in before
        return [before[2], before[4], after[2], after[4]]

    answers = ["first answer", "second answer", "first answer", "third answer"]
    assert check(services, scenario, most=20) == answers


@pytest.mark.parametrize("mode", UNINTERRUPTED, ids=lambda mode: mode.name)
def test_a_cancel_inside_a_kept_prefix_is_raised_again_at_the_same_place(mode: Mode) -> None:
    """C-069: what followed it is kept too; a cancel that came after the prefix is not repeated."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str, seconds: int = 0) -> str:
            sim.effect(name)
            await asyncio.sleep(seconds)
            return name

        @handler(service="Trip")
        async def book(ctx: Context) -> list[str]:
            done = [await ctx.run(act, "flight", 2)]
            try:
                done.append(await ctx.run(act, "hotel"))
            except InvocationCancelled:
                done.append(await ctx.run(act, "undo flight"))
            done.append(await ctx.run(act, "mail"))
            return done

        return [book]

    async def scenario(sim: Sim) -> dict[int, list[str]]:
        old = await sim.send("Trip/book")
        await sim.until(lambda: sim.effects["flight"] > 0)
        await cancel(sim, old.id)
        results = {-1: await sim.result(old.id)}
        assert not sim.effects["hotel"]
        for from_entry in (3, 2, 1, 0):
            new = await restart(sim, old.id, from_entry)
            results[from_entry] = await sim.result(new)
        executed(sim, 1, "undo flight")
        executed(sim, 2, "flight", "hotel")
        executed(sim, 4, "mail")
        return results

    undone, booked = ["flight", "undo flight", "mail"], ["flight", "hotel", "mail"]
    expected = {-1: undone, 3: undone, 2: undone, 1: booked, 0: booked}
    assert simulate(services, scenario, mode)[0] == expected


@pytest.mark.parametrize("mode", UNINTERRUPTED, ids=lambda mode: mode.name)
@pytest.mark.parametrize("what", ["sleep", "interruptible step"])
def test_what_a_cancel_interrupted_inside_a_kept_prefix_is_interrupted_again(what: str, mode: Mode) -> None:
    """C-069: by the cancel, once; not by its outcome, which came later (a timer goes on although nobody waits)."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str, seconds: float = 0) -> str:
            sim.effect(name)
            await asyncio.sleep(seconds)
            return name

        @handler(service="Trip")
        async def book(ctx: Context) -> list[str]:
            try:
                if what == "sleep":
                    await ctx.sleep("1h")
                else:
                    await ctx.with_options(interruptible=True).run(act, "hotel", 3600)
                done = ["hotel"]
            except InvocationCancelled:
                done = [await ctx.run(act, "undo")]
            await ctx.sleep("2h")
            return [*done, await ctx.run(act, "mail")]

        return [book]

    async def scenario(sim: Sim) -> list[list[str]]:
        old = await sim.send("Trip/book")
        await asyncio.sleep(60)
        await cancel(sim, old.id)
        results = [await sim.result(old.id)]
        for from_entry in (4, 3, 2):
            new = await restart(sim, old.id, from_entry)
            results.append(await sim.result(new))
        executed(sim, 1, "undo")
        executed(sim, 3, "mail")
        return results

    assert simulate(services, scenario, mode)[0] == [["undo", "mail"]] * 4


def test_a_cancelled_call_inside_a_kept_prefix_fails_again() -> None:
    """C-069, design 4.1: one exception, as it was; the child is not called again."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> None:
            sim.effect(name)

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            await ctx.run(act, "child")
            await ctx.sleep("30d")

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            seen = []
            for _ in range(2):
                try:
                    await ctx.call(child)
                except InvocationCancelled as error:
                    seen.append(f"{type(error).__name__} {error.code}")
                    await ctx.run(act, "noted")
            return seen

        return [child, parent]

    async def scenario(sim: Sim) -> list[list[str]]:
        old = await sim.send("Parent/parent")
        for number in (0, 1):
            await waits(sim, (await sent(sim, "Child", number)).id, "sleep")
            await cancel(sim, old.id)
            await sim.until(lambda number=number: sim.effects["noted"] > number)  # type: ignore[misc]
        results = [await sim.result(old.id)]
        for from_entry in (4, 3):
            new = await restart(sim, old.id, from_entry)
            results.append(await sim.result(new))
        new = await restart(sim, old.id, 2)
        await waits(sim, (await sent(sim, "Child", 2)).id, "sleep")
        assert (await view_of(sim, new)).journal[-1].kind == "call"
        await cancel(sim, new)
        results.append(await sim.result(new))
        executed(sim, 3, "child")
        return results

    assert check(services, scenario, most=20) == [["InvocationCancelled 409"] * 2] * 4


@pytest.mark.parametrize("mode", UNINTERRUPTED, ids=lambda mode: mode.name)
def test_a_step_given_up_by_a_cancel_is_no_prefix_without_that_cancel(mode: Mode) -> None:
    """C-069: it has no outcome of its own; so either the cancel is kept with it, or it cannot be kept."""

    def services(sim: Sim) -> Iterable[object]:
        async def fail() -> None:
            sim.effect("tries")
            raise RuntimeError("not yet")

        @handler(service="Child")
        async def child(ctx: Context) -> None:
            await ctx.sleep("30d")

        @handler(service="Work", retry=RetryPolicy(initial_interval="30d", max_interval="30d"))
        async def work(ctx: Context) -> None:
            await gather(ctx.run(fail), ctx.call(child))

        return [child, work]

    async def scenario(sim: Sim) -> list[tuple[str, str, int]]:
        old = await sim.send("Work/work")
        await reaches(sim, old.id, "backing-off")
        await cancel(sim, old.id)
        results = [told(await failure_of(sim.result(old.id)))]
        for from_entry in (2, 1):
            with suppress(InvalidRequestError):
                results.append(told(await failure_of(sim.result(await restart(sim, old.id, from_entry)))))
        assert sim.effects["tries"] == 1
        return results

    results, _ = simulate(services, scenario, mode)
    assert set(results) == {CANCELLED}


def test_a_signal_of_a_kept_prefix_is_kept_and_no_other() -> None:
    """C-069: what it took is its own; what came later, or was never taken, has to come again."""

    def services(sim: Sim) -> Iterable[object]:
        @handler(service="Listens")
        async def listen(ctx: Context) -> list[str]:
            return [await ctx.signal("s", str), await ctx.signal("s", str)]

        return [listen]

    async def scenario(sim: Sim) -> list[list[str]]:
        async def say(id: str, text: str) -> None:
            await waits(sim, id, "signal")
            await sim.repeat(lambda engine: engine.send_signal(id, "s", text))

        old = await sim.send("Listens/listen")
        await say(old.id, "one")
        await sim.until(lambda: heard(sim, old.id, 2))
        await say(old.id, "two")
        results = [await sim.result(old.id)]
        new = await restart(sim, old.id, 1)
        await sim.until(lambda: heard(sim, new, 2))
        await asyncio.sleep(60)
        assert await sim.status(new) != "completed"
        await say(new, "three")
        return [*results, await sim.result(new)]

    async def heard(sim: Sim, id: str, entries: int) -> bool:
        return len((await sim.engine.describe(id)).journal) > entries

    results, _ = simulate(services, scenario)
    assert results == [["one", "two"], ["one", "three"]]


def test_a_step_after_the_kept_prefix_is_retried_over_it() -> None:
    """C-069: the prefix belongs to the new one as if it had done it; its failures are its own."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> str:
            number = sim.effect(name)
            if name == "flaky" and number < 4:
                raise RuntimeError("not yet")
            return name

        policy = RetryPolicy(initial_interval="1s", max_attempts=2, on_max_attempts="kill")

        @handler(service="Work", retry=policy)
        async def work(ctx: Context) -> list[str]:
            return [await ctx.run(act, "before"), await ctx.run(act, "flaky")]

        return [work]

    async def scenario(sim: Sim) -> Any:
        old = await sim.send("Work/work")
        assert await ended(sim, old.id) == 500
        new = await restart(sim, old.id, 1)
        result = await ended(sim, new)
        assert (await view_of(sim, old.id)).failures == 2
        assert sim.effects["before"] == 1 or sim.interruptions
        return result

    result, sim = simulate(services, scenario)
    assert (result, sim.effects["flaky"]) == (["before", "flaky"], 4)


def test_code_that_changed_within_the_prefix_is_found_out_and_executes_nothing() -> None:
    """R-37, C-069: the new one is paused with a mismatch; it can be killed, and restarted from before the change."""

    def services(sim: Sim) -> Iterable[object]:
        async def reserve() -> str:
            sim.effect("reserve")
            return "reserved"

        async def charge() -> str:
            sim.effect("charge")
            return "charged"

        async def ship() -> str:
            sim.effect("ship")
            return "shipped"

        @handler(service="Work", retry=RetryPolicy(max_attempts=1))
        async def work(ctx: Context) -> list[str]:
            steps = [reserve, ship, charge] if sim.effects["changed"] else [reserve, charge, ship]
            return [await ctx.run(step) for step in steps]

        return [work]

    async def scenario(sim: Sim) -> list[str]:
        old = await sim.send("Work/work")
        await sim.result(old.id)
        sim.effect("changed")
        sim.code_changes()
        executions = sim.effects.copy()
        broken = await restart(sim, old.id, 2)
        await reaches(sim, broken, "paused")
        problem = (await view_of(sim, broken)).last_failure
        assert problem is not None
        assert problem.type == "JournalMismatchError"
        assert "entry 2: the journal has `run charge`, the code asked for `run ship`" in problem.message
        assert sim.effects == executions
        await kill(sim, broken)
        new = await restart(sim, old.id, 1)
        result: list[str] = await sim.result(new)
        executed(sim, 1, "reserve")
        return result

    assert check(services, scenario, most=20) == ["reserved", "shipped", "charged"]


# ---- the old one and the new one ----


@pytest.mark.parametrize("how", ["purge", "purge_journal"])
def test_the_new_one_does_not_need_the_old_one_any_more(how: str) -> None:
    """C-069, C-077: its prefix is its own, also after a crash; nothing of it is left when the old one goes."""

    def services(sim: Sim) -> Iterable[object]:
        async def act() -> int:
            return min(sim.effect("act"), 2)

        @handler(service="Work")
        async def work(ctx: Context) -> list[int]:
            first = await ctx.run(act)
            await ctx.signal("open")
            return [first, await ctx.run(act)]

        return [work]

    async def scenario(sim: Sim) -> list[int]:
        old = await sim.send("Work/work")
        await open_gate(sim, old.id)
        await sim.result(old.id)
        new = await restart(sim, old.id, 1)
        await waits(sim, new, "signal")
        purge = "purge_journal" if how == "purge_journal" else "purge"
        try:
            await sim.repeat(lambda engine: getattr(engine, purge)(old.id))
        except NotFoundError:
            assert sim.interruptions
        await sim.restart(crash=True)
        assert (await view_of(sim, new)).restarted_from == old.id
        await open_gate(sim, new)
        result: list[int] = await sim.result(new)
        return [result[0] <= 2, result[1] == 2]

    assert check(services, scenario, most=20) == [True, True]


class Room(VirtualObject):
    """Whoever is in it leaves when the gate is open."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim

    @handler
    async def stay(self, ctx: ObjectContext, name: str) -> str:
        await ctx.run(self._enter, name)
        await ctx.signal("open")
        return name

    async def _enter(self, name: str) -> None:
        self.sim.effect(f"{name} entered")


@pytest.mark.parametrize("from_entry", [0, 1])
@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
def test_on_an_exclusive_object_the_new_one_waits_for_its_key(from_entry: int, crash: bool) -> None:
    """C-068, I4: it goes to the end of the queue, with the prefix it keeps, and through a restart of the engine."""

    async def scenario(sim: Sim) -> tuple[list[str], list[str]]:
        old = await sim.send(Room.stay, "Ada", key="k")
        await open_gate(sim, old.id)
        await sim.result(old.id)
        ids = [(await sim.send(Room.stay, name, key="k")).id for name in ("Bob", "Cyd")]
        ids.append(await restart(sim, old.id, from_entry))
        ids.append((await sim.send(Room.stay, "Dan", key="k")).id)
        await waits(sim, ids[0], "signal")
        assert [await sim.status(id) for id in ids[1:]] == ["pending"] * 3
        await sim.restart(crash=crash)
        assert [await sim.status(id) for id in ids[1:]] == ["pending"] * 3
        results = []
        for id in ids:
            await open_gate(sim, id)
            results.append(await sim.result(id))
        entered = [name for name in sim.trace if name != "Ada entered"]
        executed(sim, 2 - from_entry, "Ada entered")
        return results, list(dict.fromkeys(entered))

    expected = ["Bob", "Cyd", "Ada", "Dan"], ["Bob entered", "Cyd entered", "Dan entered"]
    assert check(lambda sim: [Room(sim)], scenario, most=15) == expected


@pytest.mark.parametrize("from_entry", [0, 1])
def test_a_restarted_one_is_cancelled_and_killed_like_any_other(from_entry: int) -> None:
    """Design 4.2, 4.3: pending, running, and what became of them can be restarted again."""

    async def scenario(sim: Sim) -> list[Any]:
        old = await sim.send(Room.stay, "Ada", key="k")
        await open_gate(sim, old.id)
        await sim.result(old.id)
        running = await restart(sim, old.id, from_entry)
        pending = await restart(sim, old.id, from_entry)
        await waits(sim, running, "signal")
        assert await sim.status(pending) == "pending"
        assert await cancel(sim, pending) in (Applied.DONE, None)
        codes = [await ended(sim, pending)]
        await kill(sim, running)
        codes.append(await ended(sim, running))
        again = await restart(sim, running, from_entry)
        await open_gate(sim, again)
        result = await ended(sim, again)
        return [*codes, result]

    assert check(lambda sim: [Room(sim)], scenario, most=20) == [409, 409, "Ada"]


def test_one_that_was_cancelled_while_it_waited_for_its_key_is_restarted_with_all_it_was_to_keep() -> None:
    """C-069: its prefix is in its journal although it never ran."""

    async def scenario(sim: Sim) -> str:
        old = await sim.send(Room.stay, "Ada", key="k")
        await open_gate(sim, old.id)
        await sim.result(old.id)
        holder = await sim.send(Room.stay, "Bob", key="k")
        await waits(sim, holder.id, "signal")
        pending = await restart(sim, old.id, 1)
        await cancel(sim, pending)
        assert await ended(sim, pending) == 409
        again = await restart(sim, pending, 1)
        await open_gate(sim, holder.id)
        await open_gate(sim, again)
        result: str = await sim.result(again)
        executed(sim, 1, "Ada entered")
        return result

    assert check(lambda sim: [Room(sim)], scenario, most=20) == "Ada"


def test_an_outcome_that_came_after_the_prefix_is_kept_with_its_entry() -> None:
    """C-069: a kept call that ended late, when others had been asked for: its result is at hand at once."""

    def services(sim: Sim) -> Iterable[object]:
        async def act(name: str) -> str:
            sim.effect(name)
            return name

        @handler(service="Child")
        async def child(ctx: Context) -> str:
            await ctx.sleep("1h")
            return await ctx.run(act, "child")

        @handler(service="Parent")
        async def parent(ctx: Context) -> list[str]:
            call, timer = ctx.call(child), ctx.sleep("2h")
            done = [await ctx.run(act, "meanwhile")]
            done.append(await call)
            await timer
            return [*done, await ctx.run(act, "after")]

        return [child, parent]

    async def scenario(sim: Sim) -> list[str]:
        old = await sim.send("Parent/parent")
        before = await sim.result(old.id)
        since_ms = sim.clock.now_ms()
        new = await restart(sim, old.id, 2)
        after: list[str] = await sim.result(new)
        assert sim.interruptions or sim.clock.now_ms() == since_ms
        assert before == after
        executed(sim, 1, "child")
        executed(sim, 2, "meanwhile", "after")
        return after

    assert check(services, scenario, most=25) == ["meanwhile", "child", "after"]


# ---- on a real file ----


def test_a_file_holds_the_prefix_of_one_that_waits_for_its_key(tmp_path: Path) -> None:
    """The same on SQLite, through engines that follow each other: results, a cancel, an awakeable, random numbers."""
    executions: list[str] = []

    async def act(what: str, seconds: float = 0) -> str:
        executions.append(what)
        await asyncio.sleep(seconds)
        return what

    class Desk(VirtualObject):
        @handler
        async def work(self, ctx: ObjectContext) -> list[str]:
            awakeable = ctx.awakeable(str)
            ctx.set("awakeable", awakeable.id)
            seen = [awakeable.id, str(ctx.uuid()), await ctx.run(act, "begin", 1)]
            try:
                await ctx.run(act, "go on")
            except InvocationCancelled:
                seen.append(await ctx.run(act, "cancelled"))
            seen.append(await awakeable)
            return [*seen, await ctx.run(act, "end")]

        @handler
        async def hold(self, ctx: ObjectContext) -> None:
            await ctx.sleep(10)

    def engine() -> Engine:
        return engine_on(tmp_path / "durable.db", Desk())

    async def story() -> None:
        async with engine() as first:
            old = await first.send(Desk.work, key="k", headers={"x-desk": "1"})
            await asyncio.sleep(0.5)
            await first.cancel(old.id)
            await first.resolve_awakeable((await first.get_state("Desk", "k"))["awakeable"], "resolved")
            before = await old.result()
            assert before[2:] == ["begin", "cancelled", "resolved", "end"]
            await first.send(Desk.hold, key="k")
            new = await first.restart_as_new(old.id, from_entry=4)
            assert (await new.describe()).status == "pending"
        async with engine() as second:
            view = await second.describe(new.id)
            assert (view.status, view.restarted_from, view.headers) == ("pending", old.id, {"x-desk": "1"})
            await second.purge(old.id)
            with pytest.raises(NotFoundError):
                await second.restart_as_new(old.id)
        async with engine() as third:
            assert await third.attach(new.id) == before
            again = await third.restart_as_new(new.id, from_entry=4)
            assert await again.result() == before
        assert executions == ["begin", "cancelled", "end", "end", "end"]

    run(story)
