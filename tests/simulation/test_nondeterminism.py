"""R-37: a handler whose code no longer does what its journal says is stopped before it does anything more.

The handler is a list of operations, one entry each. It runs up to a wait, the process dies, and the next one has
other code: the attempt fails with both entries named and is paused at once; the old code goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from durable import (
    Context,
    DurableFuture,
    InvocationView,
    ObjectContext,
    RetryPolicy,
    Service,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    handler,
)
from durable.core.ids import awakeable_id, invocation_id
from durable.testing import Mode, Sim, simulate

ONE, OTHER = invocation_id(1, 1), invocation_id(2, 2)


class Back(Service):
    @handler
    async def work(self, ctx: Context, amount: int) -> int:
        return amount

    @handler
    async def rest(self, ctx: Context, amount: int) -> int:
        return amount

    @handler
    async def note(self, ctx: Context, tags: set[int]) -> int:
        return len(tags)


class Shelf(VirtualObject):
    @handler
    async def add(self, ctx: ObjectContext, amount: int) -> int:
        return amount


class Desk(Workflow):
    """Executes whatever operations its code consists of at the moment."""

    def __init__(self, sim: Sim, code: "list[Operation]") -> None:
        self.sim = sim
        self.code = code
        self.kept: Awaitable[Any]

    @handler
    async def run(self, ctx: WorkflowContext) -> str:
        for operation in self.code:
            value = operation(self, ctx)
            if value is not None:
                await value
        return "served"

    async def charge(self) -> None:
        self.sim.effect("charge")

    async def refund(self) -> None:
        self.sim.effect("refund")

    async def finish(self) -> None:
        self.sim.effect("finish")


#: One entry of the journal: what it returns is awaited, None is not.
Operation = Callable[[Desk, WorkflowContext], Awaitable[Any] | None]


def step(name: str) -> Operation:
    return lambda desk, ctx: ctx.run(getattr(desk, name))


def named(name: str, fn: str) -> Operation:
    return lambda desk, ctx: ctx.with_options(name=name).run(getattr(desk, fn))


def get(name: str) -> Operation:
    return lambda desk, ctx: ctx.get(name, int)


def put(name: str, value: Any) -> Operation:
    return lambda desk, ctx: ctx.set(name, value)


def clear(name: str) -> Operation:
    return lambda desk, ctx: ctx.clear(name)


def sleep(seconds: float) -> Operation:
    return lambda desk, ctx: ctx.sleep(seconds)


def call(target: str, amount: Any, **options: Any) -> Operation:
    return lambda desk, ctx: ctx.call(target, amount, **options)


def send(target: str, amount: Any, **options: Any) -> Operation:
    def operation(desk: Desk, ctx: WorkflowContext) -> None:
        ctx.send(target, amount, **options)

    return operation


def left(operation: Operation) -> Operation:
    """The same, not awaited: on purpose."""

    def leave(desk: Desk, ctx: WorkflowContext) -> None:
        future = operation(desk, ctx)
        assert isinstance(future, DurableFuture)
        future.made = None

    return leave


def signal(name: str) -> Operation:
    return left(lambda desk, ctx: ctx.signal(name))


def complete(id: str, value: Any = 1) -> Operation:
    return lambda desk, ctx: ctx.resolve_awakeable(id, value)


def tell(id: str, name: str, value: Any = 1) -> Operation:
    return lambda desk, ctx: ctx.send_signal(id, name, value)


def cancel(id: str) -> Operation:
    return lambda desk, ctx: ctx.cancel(id)


def attach(id: str) -> Operation:
    return left(lambda desk, ctx: ctx.attach(id))


def output(id: str) -> Operation:
    return left(lambda desk, ctx: ctx.output(id))


def promise(name: str) -> Operation:
    return left(lambda desk, ctx: ctx.promise(name, int).future())


def peek(name: str) -> Operation:
    return lambda desk, ctx: ctx.promise(name, int).peek()


def resolve(name: str, value: Any = 1) -> Operation:
    return lambda desk, ctx: ctx.promise(name).resolve(value)


def flows(*operations: Operation) -> Operation:
    return lambda desk, ctx: asyncio.gather(*(waited(operation, desk, ctx) for operation in operations))


async def waited(operation: Operation, desk: Desk, ctx: WorkflowContext) -> None:
    value = operation(desk, ctx)
    if value is not None:
        await value


def now(desk: Desk, ctx: WorkflowContext) -> None:
    ctx.now()


def keys(desk: Desk, ctx: WorkflowContext) -> Awaitable[Any]:
    return ctx.state_keys()


def clear_all(desk: Desk, ctx: WorkflowContext) -> None:
    ctx.clear_all()


def gate(desk: Desk, ctx: WorkflowContext) -> Awaitable[Any]:
    return ctx.awakeable()


def keep(desk: Desk, ctx: WorkflowContext) -> None:
    desk.kept = ctx.awakeable()


def kept(desk: Desk, ctx: WorkflowContext) -> Awaitable[Any]:
    return desk.kept


def fail(desk: Desk, ctx: WorkflowContext) -> None:
    raise TerminalError("the new code refuses")


AWAKEABLE, ANOTHER = awakeable_id(ONE, 1), awakeable_id(ONE, 2)
#: By name, in order: the n-th is entry n.
CODE: dict[str, Operation] = {
    "get": get("count"),
    "set": put("count", 12),
    "step": step("charge"),
    "sleep": sleep(1),
    "call": call("Back/work", 512),
    "keyed": call("Shelf/add", 3, key="k"),
    "claimed": call("Back/work", 4, idempotency_key="i"),
    "send": send("Back/work", 6),
    "clear": clear("old"),
    "now": now,
    "keys": keys,
    "awakeable": keep,
    "signal": signal("go"),
    "beside": left(named("beside", "charge")),
    "complete": complete(AWAKEABLE),
    "tell": tell(ONE, "s"),
    "cancel": cancel(ONE),
    "attach": attach(ONE),
    "output": output(ONE),
    "promise": promise("p"),
    "peek": peek("p"),
    "resolve": resolve("q"),
    "gate": gate,
    "finish": step("finish"),
}
ENTRY = {name: number for number, name in enumerate(CODE, 1)}


def instead(name: str, operation: Operation) -> list[Operation]:
    return [*(CODE | {name: operation}).values()]


def without(name: str) -> list[Operation]:
    return [operation for other, operation in CODE.items() if other != name]


def before(name: str, *extra: Operation) -> list[Operation]:
    code = [*CODE.values()]
    at = ENTRY[name] - 1
    return [*code[:at], *extra, *code[at:]]


def swapped(name: str, other: str) -> list[Operation]:
    return [*(CODE | {name: CODE[other], other: CODE[name]}).values()]


def up_to(name: str, *then: Operation) -> list[Operation]:
    return [*[*CODE.values()][: ENTRY[name] - 1], *then]


def swallowing(name: str, operation: Operation) -> list[Operation]:
    """Whatever goes wrong from there on is ignored by the handler."""

    def swallow(inner: Operation) -> Operation:
        async def run(desk: Desk, ctx: WorkflowContext) -> None:
            with suppress(Exception):
                await waited(inner, desk, ctx)

        return run

    return [swallow(inner) for inner in instead(name, operation)]


#: What was changed, the code since then, the entry at which it shows, what that is, and what the code asks for.
MUTATIONS: dict[str, tuple[list[Operation], str, str, str]] = {
    # another kind
    "keys for get": (instead("get", keys), "get", "get count", "state-keys"),
    "clear for set": (instead("set", clear("count")), "set", "set count", "clear count"),
    "sleep for step": (instead("step", sleep(1)), "step", "run charge", "sleep"),
    "step for sleep": (instead("sleep", step("charge")), "sleep", "sleep", "run charge"),
    "now for sleep": (instead("sleep", now), "sleep", "sleep", "now"),
    "send for call": (instead("call", send("Back/work", 512)), "call", "call Back/work", "send Back/work"),
    "call for send": (instead("send", call("Back/work", 6)), "send", "send Back/work", "call Back/work"),
    "clear all for clear": (instead("clear", clear_all), "clear", "clear old", "clear-all"),
    "set for clear": (instead("clear", put("old", 1)), "clear", "clear old", "set old"),
    "get for now": (instead("now", get("count")), "now", "now", "get count"),
    "get for keys": (instead("keys", get("count")), "keys", "state-keys", "get count"),
    "signal for awakeable": (instead("awakeable", signal("go")), "awakeable", "awakeable", "signal go"),
    "awakeable for signal": (instead("signal", left(gate)), "signal", "signal go", "awakeable"),
    "signal for completing": (instead("complete", tell(ONE, "s")), "complete", "complete-awakeable", "send-signal s"),
    "signal for cancel": (instead("cancel", tell(ONE, "s")), "cancel", "cancel", "send-signal s"),
    "output for attach": (instead("attach", output(ONE)), "attach", "attach", "output"),
    "peek for promise": (instead("promise", peek("p")), "promise", "promise p", "peek-promise p"),
    "promise for peek": (instead("peek", promise("p")), "peek", "peek-promise p", "promise p"),
    "peek for resolving": (instead("resolve", peek("q")), "resolve", "complete-promise q", "peek-promise q"),
    # another name
    "get another": (instead("get", get("total")), "get", "get count", "get total"),
    "set another": (instead("set", put("total", 12)), "set", "set count", "set total"),
    "clear another": (instead("clear", clear("older")), "clear", "clear old", "clear older"),
    "another function": (instead("step", step("refund")), "step", "run charge", "run refund"),
    "a step renamed": (instead("step", named("pay", "charge")), "step", "run charge", "run pay"),
    "a step beside renamed": (instead("beside", left(named("b", "charge"))), "beside", "run beside", "run b"),
    "another signal": (instead("signal", signal("stop")), "signal", "signal go", "signal stop"),
    "tell another signal": (instead("tell", tell(ONE, "t")), "tell", "send-signal s", "send-signal t"),
    "another promise": (instead("promise", promise("r")), "promise", "promise p", "promise r"),
    "peek at another": (instead("peek", peek("r")), "peek", "peek-promise p", "peek-promise r"),
    "resolve another": (instead("resolve", resolve("r")), "resolve", "complete-promise q", "complete-promise r"),
    # another target or key
    "another handler": (instead("call", call("Back/rest", 512)), "call", "call Back/work", "call Back/rest"),
    "another service": (instead("keyed", call("Back/work", 3)), "keyed", "call Shelf/k/add", "call Back/work"),
    "another key": (instead("keyed", call("Shelf/add", 3, key="l")), "keyed", "call Shelf/k/add", "call Shelf/l/add"),
    "send elsewhere": (instead("send", send("Back/rest", 6)), "send", "send Back/work", "send Back/rest"),
    "another idempotency key": (
        instead("claimed", call("Back/work", 4, idempotency_key="j")),
        *("claimed", "call Back/work", "call Back/work with another argument"),
    ),
    "complete another": (
        instead("complete", complete(ANOTHER)),
        "complete",
        "complete-awakeable",
        "complete-awakeable",
    ),
    "tell another": (
        instead("tell", tell(OTHER, "s")),
        "tell",
        "send-signal s",
        "send-signal s with another argument",
    ),
    "cancel another": (instead("cancel", cancel(OTHER)), "cancel", "cancel", "cancel with another argument"),
    "attach to another": (instead("attach", attach(OTHER)), "attach", "attach", "attach with another argument"),
    "output of another": (instead("output", output(OTHER)), "output", "output", "output with another argument"),
    # another payload
    "set another value": (instead("set", put("count", 13)), "set", "set count", "set count with another argument"),
    "call with more": (instead("call", call("Back/work", 7)), "call", "call Back/work", "with another argument"),
    "call with its digits mixed": (
        instead("call", call("Back/work", 215)),
        "call",
        "call Back/work",
        "another argument",
    ),
    "send something else": (instead("send", send("Back/work", 7)), "send", "send Back/work", "with another argument"),
    "complete otherwise": (instead("complete", complete(AWAKEABLE, 2)), "complete", "complete-awakeable", "argument"),
    "tell otherwise": (instead("tell", tell(ONE, "s", 2)), "tell", "send-signal s", "with another argument"),
    "resolve otherwise": (instead("resolve", resolve("q", 2)), "resolve", "complete-promise q", "another argument"),
    # another order
    "steps swapped": (swapped("step", "beside"), "step", "run charge", "run beside"),
    "reads swapped": (swapped("now", "keys"), "now", "now", "state-keys"),
    "calls swapped": (swapped("call", "keyed"), "call", "call Back/work", "call Shelf/k/add"),
    "the first two at once, swapped": (
        [flows(CODE["set"], CODE["get"]), *[*CODE.values()][2:]],
        *("get", "get count", "set count"),
    ),
    # missing
    "the first is missing": (without("get"), "get", "get count", "set count"),
    "a step is missing": (without("step"), "step", "run charge", "sleep"),
    "the last is missing": (without("resolve"), "resolve", "complete-promise q", "awakeable"),
    "the wait is missing": (without("gate"), "gate", "awakeable", "run finish"),
    # too much
    "a step comes first": (before("get", step("refund")), "get", "get count", "run refund"),
    "a step is made twice": (before("sleep", step("charge")), "sleep", "sleep", "run charge"),
    "a read before the wait": (before("gate", now), "gate", "awakeable", "now"),
    # another end
    "returns at once": (up_to("get"), "get", "get count", "nothing: the handler ended"),
    "returns halfway": (up_to("send"), "send", "send Back/work", "nothing: the handler ended"),
    "returns before the wait": (up_to("gate"), "gate", "awakeable", "nothing: the handler ended"),
    "fails halfway": (up_to("send", fail), "send", "send Back/work", "nothing: the handler ended"),
    "waits halfway": (
        up_to("beside", kept),
        *("beside", "run beside", "nothing: the handler waits for something else"),
    ),
    # an error that the handler swallows
    "a mismatch is swallowed": (swallowing("step", step("refund")), "step", "run charge", "run refund"),
}


def services_of(code: list[Operation]) -> Callable[[Sim], list[object]]:
    return lambda sim: [Back(), Shelf(), Desk(sim, code)]


def content(sim: Sim, seq: int) -> tuple[Any, ...]:
    """All that the handler could have changed."""
    tables = sim.tables.copy()
    return list(sim.trace), sorted(tables.invocations), tables.journal[seq], tables.state, tables.promises


async def start(sim: Sim) -> InvocationView:
    """The handler has come to its wait, and everything it set in motion has settled."""
    handle = await sim.send(Desk.run, key="d")
    await asyncio.sleep(30)
    view = await sim.engine.describe(handle.id)
    assert view.journal[-1].entry == ENTRY["gate"]
    assert view.last_failure is None
    return view


async def complete_with(sim: Sim, id: str) -> Any:
    await sim.engine.resolve_awakeable(awakeable_id(id, ENTRY["gate"]))
    return await sim.result(id)


@pytest.mark.parametrize(
    "mode", [Mode("default"), Mode("always-suspend", always_suspend=True)], ids=lambda mode: mode.name
)
@pytest.mark.parametrize("what", MUTATIONS)
def test_changed_code_is_stopped_paused_and_goes_on_when_it_is_restored(what: str, mode: Mode) -> None:
    changed, name, recorded, asked = MUTATIONS[what]
    code = [*CODE.values()]

    async def scenario(sim: Sim) -> None:
        began = await start(sim)
        before_it = content(sim, began.seq)
        code[:] = changed
        await sim.restart(crash=True)
        if mode.always_suspend or (await sim.engine.describe(began.id)).status == "suspended":
            await sim.engine.resume(began.id)
        await sim.until(lambda: paused(sim, began.id), within=600)
        view = await sim.engine.describe(began.id)
        assert view.last_failure is not None
        message = view.last_failure.message
        assert view.last_failure.type == "JournalMismatchError"
        assert f"entry {ENTRY[name]}: the journal has `{recorded}`, the code asked for `" in message
        assert asked in message.split("asked for")[1]
        assert (view.failures, view.last_failure.reason) == (1, "journal-mismatch")
        assert content(sim, began.seq) == before_it, "nothing more was executed"

        code[:] = CODE.values()
        await sim.engine.resume(began.id)
        assert await complete_with(sim, began.id) == "served"
        assert sim.effects == {"charge": 2, "finish": 1}

    simulate(services_of(code), scenario, mode, retry=RetryPolicy("10ms", max_attempts=3))


async def paused(sim: Sim, id: str) -> bool:
    return await sim.status(id) == "paused"


#: What was written, and what stands there now: the journal says nothing about the difference.
HARMLESS: dict[str, tuple[list[Operation], list[Operation]]] = {
    "another duration": ([sleep(1), gate], [sleep(9), gate]),
    "another function of the same name": ([step("charge"), gate], [named("charge", "refund"), gate]),
    "a set written in another order": ([put("tags", {0, 8}), gate], [put("tags", {8, 0}), gate]),
    "a set passed in another order": ([call("Back/note", {0, 8}), gate], [call("Back/note", {8, 0}), gate]),
    "more after what was recorded": ([gate], [gate, sleep(1), step("finish"), put("count", 1)]),
    "less after what was recorded": ([gate, step("charge"), now], [gate]),
    "awaited later": ([named("s", "charge"), now, gate], [left(named("s", "charge")), now, gate]),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_a_change_that_the_journal_does_not_see_goes_on(what: str) -> None:
    was, changed = HARMLESS[what]
    code = [*was]

    async def scenario(sim: Sim) -> None:
        handle = await sim.send(Desk.run, key="d")
        await asyncio.sleep(30)
        code[:] = changed
        await sim.restart(crash=True)
        number = was.index(gate) + 1
        await sim.repeat(lambda engine: engine.resolve_awakeable(awakeable_id(handle.id, number)))
        assert await asyncio.wait_for(sim.result(handle.id), 60) == "served"
        assert (await sim.engine.describe(handle.id)).last_failure is None

    simulate(services_of(code), scenario)


def test_the_two_sets_are_really_written_in_another_order() -> None:
    assert list({0, 8}) != list({8, 0})


@pytest.mark.parametrize("abort_timeout", ["10m", 0])
def test_a_handler_that_waits_before_all_that_is_recorded_is_told_so_and_not_that_it_does_not_yield(
    abort_timeout: str | int,
) -> None:
    def services(sim: Sim) -> list[object]:
        once = RetryPolicy("10ms", max_attempts=2, on_max_attempts="pause")

        @handler(service="S", retry=once, inactivity_timeout="100ms", abort_timeout=abort_timeout)
        async def waits(ctx: Context) -> str:
            answer = ctx.awakeable(str)
            if sim.effect("tries") == 1:
                await ctx.run(str, "recorded")
                raise RuntimeError("as planned")
            return await answer

        return [waits]

    async def scenario(sim: Sim) -> str:
        sent = await sim.send("S/waits")
        await sim.until(lambda: sim.effects["tries"] == 2)
        await asyncio.sleep(0.2)
        problem = (await sim.engine.describe(sent.id)).last_failure
        await sim.engine.kill(sent.id)
        return problem.type if problem is not None else ""

    assert simulate(services, scenario)[0] == "JournalMismatchError"


# ---- a flow that breaks while its handler waits for another one ----


async def waits_and(ctx: Context, other: Callable[[], Awaitable[object]]) -> str:
    """It waits for the first of two flows for ever, and hears nothing of the second."""
    first, second = asyncio.ensure_future(wait_for_a_word(ctx)), asyncio.ensure_future(other())
    try:
        return await first
    finally:
        second.cancel()
        await asyncio.wait([second])


async def wait_for_a_word(ctx: Context) -> str:
    return await ctx.signal("word", str)


def test_it_is_told_at_once_when_the_code_of_another_flow_has_changed() -> None:
    changed: list[str] = []

    @handler(service="S")
    async def run(ctx: Context) -> str:
        async def second() -> None:
            if changed:
                await ctx.signal("another", str)
            await ctx.sleep("1h")
            await ctx.sleep("1h")

        return await waits_and(ctx, second)

    async def scenario(sim: Sim) -> None:
        handle = await sim.send(run)
        await asyncio.sleep(60)
        changed.append("yes")
        await sim.restart(crash=True)
        await sim.until(lambda: paused(sim, handle.id), within=1)
        view = await handle.describe()
        assert view.last_failure is not None and view.last_failure.reason == "journal-mismatch"
        changed.clear()
        await sim.engine.resume(handle.id)
        await sim.engine.send_signal(handle.id, "word", "said")
        assert await handle.result() == "said"

    simulate([run], scenario, inactivity_timeout="1 day")


def test_it_is_told_at_once_when_another_flow_reads_the_clock_in_strict_mode() -> None:
    @handler(service="S")
    async def run(ctx: Context) -> str:
        async def second() -> None:
            await asyncio.sleep(1)
            time.time()

        return await waits_and(ctx, second)

    async def scenario(sim: Sim) -> None:
        handle = await sim.send(run)
        await sim.until(lambda: paused(sim, handle.id), within=10)
        view = await handle.describe()
        assert view.last_failure is not None and view.last_failure.reason == "misuse"

    simulate([run], scenario, strict=True)
