"""Run a scenario to its end in many ways: with a crash at every commit, suspended at every await, restarted …

A scenario is an async function that gets a `Sim`. It talks to the engine through the `Sim`, which repeats what a
crash swallowed as a careful client would: with the same idempotency key. So a scenario must give the same result
however often the engine dies under it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextvars import copy_context
from inspect import isawaitable
from typing import Any, TypeVar

from durable.api import Invokes, typed_as
from durable.client import Applied, Handle
from durable.core.duration import Duration
from durable.core.invocation import Flavor
from durable.core.journal import Outcome
from durable.core.limits import TINY
from durable.engine import Engine
from durable.engine.raw import Raw
from durable.errors import EngineFailedError, EngineNotRunningError, NotFoundError, UsageError
from durable.runtime.observer import observers_of
from durable.runtime.registry import Registered
from durable.serde import serde_for
from durable.service import Handler
from durable.store.memory import MemoryStore, Tables
from durable.testing.again import RepeatedEngine, outlive
from durable.testing.checkers import check_tables
from durable.testing.clocks import VirtualClock
from durable.testing.crashes import CommitLog, Faults, SimulatedCrash
from durable.testing.faults import around
from durable.testing.findings import Findings
from durable.testing.modes import UNDISTURBED, Mode
from durable.testing.virtual import VirtualLoop, run
from durable.views.invocations import InvocationView

T = TypeVar("T")

#: How often one thing is asked at most: far more often than a scenario meets crashes. What may not be idempotent adds
#: work each time, so it is given up sooner.
REPEATS, REPEATS_IDEMPOTENT = 300, 10_000


class Sim:
    """What a scenario talks to: the current engine, and a record of what its steps did outside.

    The engine may die at any moment. So call handlers with `call` and `send`, and use `repeat` for everything else:
    `await sim.repeat(lambda engine: engine.get_state("Stock", "lamp"))`. What you ask there may happen more than
    once.
    """

    def __init__(self, services: "Services", mode: Mode, options: Mapping[str, Any]) -> None:
        self.mode = mode
        self.tables = Tables()
        self.log = CommitLog()
        #: Executions of steps that called `effect`, by name: they are outside the store, and survive every crash.
        self.effects: Counter[str] = Counter()
        #: The same in order.
        self.trace: list[str] = []
        self.engine: Engine
        loop = asyncio.get_running_loop()
        #: What is wrong with handlers, as far as it was seen.
        self.findings = Findings(self.tables, lambda: self.interruptions)
        self.findings.on_failed = self._crashed
        if isinstance(loop, VirtualLoop):
            loop.virtual.on_stuck = self.findings.on_stuck
            loop.virtual.only_chores = lambda: self.findings.only_chores(loop)
        self._services = services
        self._options = options
        self._up = asyncio.Event()
        self._stopping = False
        self._numbers: Counter[str] = Counter()
        self._restarting: asyncio.Task[None] | None = None
        #: What the first engine began with: a later one is started by whatever made the one before die.
        self._context = copy_context()
        #: The loop's clock.
        self.clock = VirtualClock(loop)

    # ---- for steps ----

    def effect(self, name: str) -> int:
        """Count one execution; returns how many there have been."""
        self.effects[name] += 1
        self.trace.append(name)
        return self.effects[name]

    def code_changes(self) -> None:
        """Say that from here on handlers do something else, as after a deployment.

        `check` then accepts a journal that they do not fit, because that is what the scenario is about.
        """
        self.findings.code_changes = True

    @property
    def interruptions(self) -> int:
        """How many more times than once a step may have run: one for each crash and each restart."""
        return self.log.crashes + self.log.restarts

    # ---- for the driver ----

    @typed_as(Invokes.call)
    async def call(
        self,
        target: Any,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """`engine.call`, repeated with the same idempotency key until it is answered."""
        handle = await self.send(target, arg, key=key, idempotency_key=idempotency_key, headers=headers)
        return await handle.result()

    @typed_as(Invokes.send)
    async def send(
        self,
        target: Any,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Handle[Any]:
        """`engine.send`, repeated until it is acknowledged. The handle also outlives crashes."""
        workflow = self._handler(target).flavor is Flavor.WORKFLOW  # whose key is its idempotency key
        if idempotency_key is None and not workflow:
            self._numbers["sent"] += 1
            idempotency_key = f"sim-{self._numbers['sent']}"
        handle: Handle[Any] = await self._repeat(
            lambda engine: engine.send(
                target, arg, key=key, delay=delay, idempotency_key=idempotency_key, headers=headers
            )
        )
        return handle.asked_of(self)

    def _handler(self, target: Any) -> Registered:
        service, _, name = str(target).partition("/")
        if isinstance(target, Handler):
            service, name = target.service_name, target.name
        handler = Raw(self.engine).handler(service, name)
        if handler is None:
            raise NotFoundError(f"the engine of this simulation has no handler {service}/{name}")
        return handler

    async def result(self, id: str) -> Any:
        """An invocation's result, through crashes."""
        return await Handle(self, id, serde_for(Any).decode).result()

    async def outcome(self, id: str) -> Outcome:
        """How an invocation ends, through crashes."""
        return await self._repeat(lambda engine: engine.outcome(id))

    async def outcome_now(self, id: str) -> Outcome | None:
        """How it has ended, if it has."""
        return await self._repeat(lambda engine: engine.outcome_now(id))

    async def cancel(self, id: str, *, kill: bool = False, idempotency_key: str | None = None) -> Applied:
        """`engine.cancel`, however often it is asked: once."""
        return await self.repeat(lambda engine: engine.cancel(id, kill=kill, idempotency_key=idempotency_key))

    async def describe(self, id: str) -> InvocationView:
        """`engine.describe`."""
        return await self._repeat(lambda engine: engine.describe(id))

    async def repeat(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """`await ask(engine)` with the current engine, again with the next one if that engine was dying.

        Methods of the engine that take an idempotency key have one: however often they are asked, they take effect
        once, and answer as they did the first time. Raises `AssertionError` after `REPEATS` times.
        """
        return await self._repeat(ask, REPEATS)

    async def _repeat(self, ask: Callable[[Engine], Awaitable[T]], most: int = REPEATS_IDEMPOTENT) -> T:
        return await outlive(self._up.wait, lambda: ask(self.engine), most)

    async def until(self, condition: Callable[[], Awaitable[bool] | bool], *, within: float = 3600.0) -> None:
        """Wait (in virtual time) until a condition holds: asked every 10 ms, after 10 s when 1 % more has passed."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            try:
                holds = condition()
                if holds if isinstance(holds, bool) else await holds:
                    return
            except (EngineFailedError, EngineNotRunningError, SimulatedCrash):
                pass
            waited = loop.time() - since
            if waited > within:
                error = AssertionError(f"the condition did not come true within {within} s")
                self.findings.on_stuck(error)
                raise error
            await asyncio.sleep(0.01 if waited < 10 else waited / 100)

    async def status(self, id: str) -> str:
        """An invocation's status."""
        return (await self.describe(id)).status

    async def restart(self, *, crash: bool = False) -> None:
        """Stop the engine, cleanly or not, and start the next one."""
        await self._up.wait()
        self._schedule(clean=not crash)  # one replacement at a time: the engine may also die while it closes
        if self._restarting is not None:
            await asyncio.wait([self._restarting])
        await self._up.wait()

    # ---- engines ----

    async def start(self) -> None:
        """The first engine."""
        await self._next()

    async def stop(self) -> None:
        """The last engine's end, and the check of what it leaves."""
        while self._restarting is not None:
            await asyncio.wait([self._restarting])
        self._stopping = True
        self._up.clear()
        await self.engine.close()
        check_tables(self.tables)

    async def _next(self) -> None:
        while True:
            self.tables.in_use = False
            faults = Faults(self.mode, self.log, self._ask_restart, self.tables)
            store = around(around(MemoryStore(self.tables), faults), self.findings.around)
            options: dict[str, Any] = dict(self._options)
            if self.mode.always_suspend:
                options["inactivity_timeout"] = 0
            if self.mode.minimal:
                options |= {"limits": TINY, "max_concurrent_invocations": 1}
            options["observer"] = [*observers_of(options.get("observer")), self.findings]
            self.engine = RepeatedEngine(services=self._new_services(), store=store, clock=self.clock, **options)
            try:
                await self.engine.start()
            except (EngineFailedError, SimulatedCrash):
                continue
            except EngineNotRunningError:  # closed meanwhile
                if self._stopping:
                    return
                raise
            self._up.set()
            return

    def _new_services(self) -> Iterable[object]:
        if isinstance(self._services, Handler):
            return [self._services]
        return self._services(self) if callable(self._services) else self._services

    def _crashed(self) -> None:
        self._schedule(clean=False)

    def _ask_restart(self) -> None:
        self._schedule(clean=True)

    def _schedule(self, *, clean: bool) -> None:
        self._up.clear()
        if self._restarting is None and not self._stopping:
            self._restarting = asyncio.get_running_loop().create_task(
                self._replace(clean=clean), context=self._context.copy()
            )

    async def _replace(self, *, clean: bool) -> None:
        self._up.clear()
        if clean:
            await self.engine.close()
        else:
            if self.engine.failure is None:
                self.log.crashes += 1
            self.engine.abandon()
            for _ in range(10):
                await asyncio.sleep(0)
        self._restarting = None
        await self._next()


Scenario = Callable[[Sim], Coroutine[Any, Any, T]]
#: What an engine gets, and how: made anew for each engine, as by a new process. (What was made before survives each
#: crash, with all that it has in memory.)
Services = Callable[[Sim], Iterable[object]] | Iterable[object] | Handler[Any, Any]


def simulate(services: Services, scenario: Scenario[T], mode: Mode = UNDISTURBED, **options: Any) -> tuple[T, Sim]:
    """Run a scenario once; returns its result and the `Sim` as it was at the end. `options` are those of `Engine`.

    Raises `SimulationStuck` if it does not end, with a note for each invocation that has not ended: what it waits
    for, and why its last attempt failed. Raises `ForgottenAwait`, as `run` does.
    """
    return _simulate(services, scenario, mode, options, strict=False)


def simulate_strictly(
    services: Services, scenario: Scenario[T], mode: Mode, options: Mapping[str, Any]
) -> tuple[T, Sim]:
    """The same, and raises whatever `Sim.findings` finds wrong, as soon as it is found."""
    return _simulate(services, scenario, mode, options, strict=True)


def _simulate(
    services: Services, scenario: Scenario[T], mode: Mode, options: Mapping[str, Any], *, strict: bool
) -> tuple[T, Sim]:
    async def main() -> tuple[T, Sim]:
        sim = Sim(services, mode, options)
        await sim.start()
        try:
            result = await _told(scenario(sim), sim.findings, strict=strict)
        finally:
            await sim.stop()
        return result, sim

    return run(main)


async def _told(scenario: Coroutine[Any, Any, T], findings: Findings, *, strict: bool) -> T:
    """The scenario's result, unless something is found that makes it pointless to go on."""

    def error() -> Exception | None:
        return findings.stuck or (next(iter(findings.wrong.values()), None) if strict else None)

    def found() -> None:
        if error() is not None:
            running.cancel()

    if not isawaitable(scenario):
        raise UsageError(f"a scenario is an async function that is called with the `Sim`; it returned {scenario!r}")
    running = asyncio.ensure_future(scenario)
    findings.on_finding = found
    try:
        result = await running
    except BaseException:
        if (why := error()) is not None:
            raise why from None
        raise
    if (why := error()) is not None:
        raise why
    if isinstance(result, Handle):
        raise UsageError("the scenario returned a handle, which differs each time: `return await handle.result()`")
    return result
