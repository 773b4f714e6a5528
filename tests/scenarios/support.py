"""The services that several scenarios share, and what scenarios ask of a simulation."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec

from durable import (
    Context,
    Engine,
    ObjectContext,
    Service,
    SharedObjectContext,
    TerminalError,
    VirtualObject,
    handler,
)
from durable.store.memory import MemoryStore
from durable.testing import Sim, VirtualClock


class Change(msgspec.Struct, frozen=True):
    """A counter before and after."""

    old: int
    new: int


class Counter(VirtualObject):
    """Counts."""

    @handler
    async def add(self, ctx: ObjectContext, value: int) -> Change:
        old = await ctx.get("count", int) or 0
        ctx.set("count", old + value)
        return Change(old, old + value)

    @handler
    async def add_then_fail(self, ctx: ObjectContext, value: int) -> None:
        old = await ctx.get("count", int) or 0
        ctx.set("count", old + value)
        raise TerminalError(ctx.key)

    @handler(shared=True)
    async def get(self, ctx: SharedObjectContext) -> int:
        return await ctx.get("count", int) or 0

    @handler
    async def reset(self, ctx: ObjectContext) -> None:
        ctx.clear("count")


class Holder(VirtualObject):
    """Holds an awakeable, whose id anybody can read meanwhile."""

    @handler
    async def hold(self, ctx: ObjectContext) -> str:
        awakeable = ctx.awakeable(str)
        ctx.set("id", awakeable.id)
        return await awakeable

    @handler(shared=True)
    async def id(self, ctx: SharedObjectContext) -> str | None:
        return await ctx.get("id", str)


class Echo(Service):
    """Answers."""

    @handler
    async def echo(self, ctx: Context, text: str) -> str:
        return text

    @handler
    async def uppercase(self, ctx: Context, text: str) -> str:
        return text.upper()

    @handler
    async def headers(self, ctx: Context) -> dict[str, str]:
        return dict(ctx.request.headers)


class Failure(msgspec.Struct, frozen=True):
    """How `Failing` is to fail."""

    message: str
    code: int = 500
    metadata: dict[str, str] = {}

    def error(self) -> TerminalError:
        return TerminalError(self.message, self.code, self.metadata)


class Failing(VirtualObject):
    """Fails terminally, by itself or in a step."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim

    @handler
    async def fail(self, ctx: ObjectContext, failure: Failure) -> None:
        raise failure.error()

    @handler
    async def fail_in_step(self, ctx: ObjectContext, failure: Failure) -> None:
        await ctx.run(self._fail, failure)

    async def _fail(self, failure: Failure) -> None:
        self._sim.effect("failing step")
        raise failure.error()


class List(VirtualObject):
    """Collects values in the order in which they arrive."""

    @handler
    async def append(self, ctx: ObjectContext, value: int) -> None:
        ctx.set("values", [*(await ctx.get("values", list[int]) or []), value])

    @handler(shared=True)
    async def get(self, ctx: SharedObjectContext) -> list[int]:
        return await ctx.get("values", list[int]) or []

    @handler
    async def clear(self, ctx: ObjectContext) -> list[int]:
        values = await ctx.get("values", list[int]) or []
        ctx.clear("values")
        return values


class To(msgspec.Struct, frozen=True):
    """What `Proxy` passes on, and to whom."""

    target: str
    arg: Any = None
    key: str | None = None
    idempotency_key: str | None = None
    headers: dict[str, str] = {}
    delay: str | None = None


class Proxy(Service):
    """Passes requests on."""

    @handler
    async def call(self, ctx: Context, to: To) -> Any:
        return await ctx.call(to.target, to.arg, key=to.key, idempotency_key=to.idempotency_key, headers=to.headers)

    @handler
    async def send(self, ctx: Context, to: To) -> str:
        sent = ctx.send(
            to.target,
            to.arg,
            key=to.key,
            idempotency_key=to.idempotency_key,
            headers=to.headers,
            delay=to.delay,
        )
        return sent.id


async def failure_of(waiting: Awaitable[object]) -> TerminalError:
    """The terminal error that something awaited ends with."""
    try:
        value = await waiting
    except TerminalError as error:
        return error
    raise AssertionError(f"expected a failure, got {value!r}")


async def state_of(sim: Sim, service: str, key: str, name: str) -> Any:
    """A state value, once it is set."""
    found: dict[str, Any] = {}

    async def is_set() -> bool:
        found.update(await sim.repeat(lambda engine: engine.get_state(service, key)))
        return name in found

    await sim.until(is_set)
    return found[name]


async def resolve(sim: Sim, awakeable: str, value: object) -> None:
    """Resolve an awakeable, again if a crash swallowed the answer."""
    await sim.repeat(lambda engine: engine.resolve_awakeable(awakeable, value))


async def send_signal(sim: Sim, id: str, name: str, value: object) -> None:
    """Send a signal, again if a crash swallowed the answer (one of the two is then left over)."""
    await sim.repeat(lambda engine: engine.send_signal(id, name, value))


def once(sim: Sim, *effects: str) -> None:
    """Each of these effects was executed, and not again but for an interruption."""
    for name in effects:
        executions = sim.effects[name]
        assert 1 <= executions <= 1 + sim.interruptions, (
            f"{name}: {executions} times, {sim.interruptions} interruptions"
        )


def engine_with(*services: object, **options: Any) -> Engine:
    """An engine in memory, in virtual time."""
    clock = VirtualClock(asyncio.get_running_loop())
    return Engine(services=services, store=MemoryStore(), clock=clock, **options)
