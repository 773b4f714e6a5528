"""Run a scenario to its end in many ways: with a crash at every commit, suspended at every await, restarted …

A scenario is an async function over a `Sim`. It talks to the engine through the `Sim`, which repeats what a crash
swallowed as a careful client would: with the same idempotency key. So the same scenario must give the same result
however often the engine dies under it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextvars import copy_context
from typing import Any, Literal, TypeVar

import msgspec

from durable.client import value_of
from durable.core.invocation import Flavor, Status
from durable.core.limits import TINY
from durable.engine import Engine
from durable.engine.raw import Raw
from durable.errors import EngineFailedError, EngineNotRunningError, NotFoundError
from durable.runtime.observer import Observer, observers_of
from durable.runtime.registry import Registered
from durable.serde import serde_for
from durable.service import Handler
from durable.store import CommitRefused
from durable.store.memory import MemoryStore, Tables
from durable.testing.checkers import check_tables, stored
from durable.testing.faults import around
from durable.testing.virtual import SimulationStuck, VirtualClock, run

T = TypeVar("T")


#: How often one thing is asked at most: far more often than a scenario meets crashes. What may not be idempotent adds
#: work each time, so it is given up sooner.
REPEATS, REPEATS_IDEMPOTENT = 300, 10_000


class SimulatedCrash(Exception):
    """The process died here."""


How = Literal["before", "after", "restart", "refused"]


class Fault(msgspec.Struct, frozen=True):
    """What happens at the n-th commit (counted from 1 over the whole scenario)."""

    commit: int
    #: `before`: the commit is lost; `after`: it is durable and nothing was told; `restart`: a clean shutdown follows;
    #: `refused`: the store says for certain that it wrote nothing, and lives on.
    how: How


class Mode(msgspec.Struct, frozen=True):
    """One way to run a scenario."""

    name: str
    #: Every await of something unresolved unloads the handler.
    always_suspend: bool = False
    faults: tuple[Fault, ...] = ()
    #: One handler at a time, and every boundary that hides behind a large number is crossed (`TINY`).
    minimal: bool = False
    #: Faults that come again and again: the commits between two of them.
    every: int = 0
    how: How = "after"


class CommitLog(msgspec.Struct):
    """What happened to the commits of one scenario, over all its engines."""

    commits: int = 0
    crashes: int = 0
    restarts: int = 0


class Faults:
    """What happens to the calls of one engine's store: it dies, or asks for a restart, at given commits."""

    def __init__(self, mode: Mode, log: CommitLog, on_restart: Callable[[], None]) -> None:
        self._mode = mode
        self._log = log
        self._on_restart = on_restart
        self._dead = False

    def __call__(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """See `durable.testing.faults.around`. A dead process can do nothing but let its file go."""
        if name in ("open", "close", "abandon"):
            return method(*arguments)
        if name == "commit":
            return self._commit(method, arguments)
        return self._alive(method, arguments)

    async def _alive(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self._check()
        return await method(*arguments)

    async def _commit(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._check()
        self._log.commits += 1
        how = self._fault()
        if how == "before":
            self._die()
        if how == "refused":
            raise CommitRefused(f"commit {self._log.commits} is refused by the simulation; nothing was written")
        await method(*arguments)
        if how == "after":
            self._die()
        if how == "restart":
            self._log.restarts += 1
            self._on_restart()

    def _fault(self) -> str | None:
        for fault in self._mode.faults:
            if fault.commit == self._log.commits:
                return fault.how
        every = self._mode.every
        return self._mode.how if every and self._log.commits % every == 0 else None

    def _die(self) -> None:
        self._dead = True
        self._log.crashes += 1
        raise SimulatedCrash(f"at commit {self._log.commits}")

    def _check(self) -> None:
        if self._dead:
            raise SimulatedCrash("the process is dead")


class _Undertaker(Observer):
    """Has an engine that failed replaced by the next one."""

    def __init__(self, replace: Callable[[], None]) -> None:
        self._replace = replace

    def engine_failed(self, error: BaseException) -> None:
        self._replace()


class Sim:
    """What a scenario talks to: the current engine, and a record of what its steps did outside.

    Any engine may be dying at any moment. So call handlers with `call` and `send`, and reach everything else of an
    engine with `repeat`: `await sim.repeat(lambda engine: engine.get_state("Stock", "lamp"))`. What is asked may then
    happen more than once.
    """

    def __init__(self, services: Callable[["Sim"], Iterable[object]], mode: Mode, options: dict[str, Any]) -> None:
        self.mode = mode
        self.tables = Tables()
        self.log = CommitLog()
        #: Executions of steps that called `effect`, by name: they are outside the store, and survive every crash.
        self.effects: Counter[str] = Counter()
        #: The same in order.
        self.trace: list[str] = []
        self.engine: Engine
        self._services = services
        self._options = options
        self._up = asyncio.Event()
        self._stopping = False
        self._numbers: Counter[str] = Counter()
        self._restarting: asyncio.Task[None] | None = None
        #: What the first engine began with: a later one is started by whatever made the one before die.
        self._context = copy_context()
        #: The loop's clock.
        self.clock = VirtualClock(asyncio.get_running_loop())

    # ---- for steps ----

    def effect(self, name: str) -> int:
        """Note one execution; returns how many there have been."""
        self.effects[name] += 1
        self.trace.append(name)
        return self.effects[name]

    @property
    def interruptions(self) -> int:
        """How many more times than once a step may have run: one for each crash and each restart."""
        return self.log.crashes + self.log.restarts

    # ---- for the driver ----

    async def call(self, target: Any, arg: Any = None, *, key: str | None = None, **options: Any) -> Any:
        """`engine.call`, repeated with the same idempotency key until it is answered."""
        handle = await self.send(target, arg, key=key, **options)
        return await self.result(handle.id, self._handler(target).output.decode)

    async def send(self, target: Any, arg: Any = None, *, key: str | None = None, **options: Any) -> Any:
        """`engine.send`, repeated until it is acknowledged."""
        workflow = self._handler(target).flavor is Flavor.WORKFLOW  # whose key is its idempotency key
        if "idempotency_key" not in options and not workflow:
            self._numbers["sent"] += 1
            options["idempotency_key"] = f"sim-{self._numbers['sent']}"
        return await self._repeat(lambda engine: engine.send(target, arg, key=key, **options))

    def _handler(self, target: Any) -> Registered:
        service, _, name = str(target).partition("/")
        if isinstance(target, Handler):
            service, name = target.service_name, target.name
        handler = Raw(self.engine).handler(service, name)
        if handler is None:
            raise NotFoundError(f"the engine of this simulation has no handler {service}/{name}")
        return handler

    async def result(self, id: str, decode: Callable[[bytes], Any] | None = None) -> Any:
        """An invocation's result, through crashes."""
        outcome = await self._repeat(lambda engine: engine.outcome(id))
        return value_of(outcome, decode or serde_for(Any).decode, f"the result of invocation {id}")

    async def repeat(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """`await ask(engine)` with the current engine, again with the next one if that engine was dying.

        Raises `AssertionError` after `REPEATS` times.
        """
        return await self._repeat(ask, REPEATS)

    async def _repeat(self, ask: Callable[[Engine], Awaitable[T]], most: int = REPEATS_IDEMPOTENT) -> T:
        for _ in range(most):
            await self._up.wait()
            try:
                return await ask(self.engine)
            except (EngineFailedError, EngineNotRunningError, SimulatedCrash):
                await asyncio.sleep(0.001)
        raise AssertionError(
            f"the engine died {most} times while it was asked the same, and never answered: what you repeat must "
            "be idempotent, or each time adds work that is done anew after each crash. Give an idempotency key, or "
            "use sim.send and sim.call, which do"
        )

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
                raise AssertionError(f"the condition did not come true within {within} s")
            await asyncio.sleep(0.01 if waited < 10 else waited / 100)

    async def status(self, id: str) -> str:
        """An invocation's status."""
        view = await self._repeat(lambda engine: engine.describe(id))
        return view.status

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
            store = around(MemoryStore(self.tables), Faults(self.mode, self.log, self._ask_restart))
            options: dict[str, Any] = dict(self._options)
            if self.mode.always_suspend:
                options["inactivity_timeout"] = 0
            if self.mode.minimal:
                options |= {"limits": TINY, "max_concurrent_invocations": 1}
            options["observer"] = [*observers_of(options.get("observer")), _Undertaker(self._crashed)]
            self.engine = Engine(services=self._services(self), store=store, clock=self.clock, **options)
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


Scenario = Callable[[Sim], Coroutine[Any, Any, Any]]
Services = Callable[[Sim], Iterable[object]]


def simulate(services: Services, scenario: Scenario, mode: Mode | None = None, **options: Any) -> tuple[Any, Sim]:
    """Run a scenario once; returns its result and the `Sim` as it was at the end.

    Raises `SimulationStuck` where it does not end, with a note for each invocation that is paused.
    """
    tables: list[Tables] = []

    async def main() -> tuple[Any, Sim]:
        sim = Sim(services, mode or Mode("default"), options)
        tables.append(sim.tables)
        await sim.start()
        try:
            result = await scenario(sim)
        finally:
            await sim.stop()
        return result, sim

    try:
        return run(main)
    except SimulationStuck as error:
        for one in tables:
            for note in _paused(one):
                error.add_note(note)
        raise


def _paused(tables: Tables) -> Iterator[str]:
    for invocation in stored(tables).values():
        if invocation.status is Status.PAUSED:
            why = invocation.problem.message if invocation.problem is not None else "asked for"
            yield f"{invocation.submission.target} {invocation.id} is paused: {why}"


def modes(commits: int, *, seed: int = 0, most: int = 60) -> list[Mode]:
    """Every way a scenario with so many commits is run: the modes M1 to M7 of `docs/architecture.md`.

    Where there are more than `most` commits, that many of them are drawn by `seed`.
    """
    chosen = list(range(1, commits + 1))
    if commits > most:
        chosen = sorted(random.Random(seed).sample(chosen, most))
    found = [Mode("always-suspend", always_suspend=True), Mode("minimal memory", minimal=True)]
    hows: tuple[How, ...] = ("before", "after", "restart")
    found += [Mode(f"{how} commit {commit}", faults=(Fault(commit, how),)) for commit in chosen for how in hows]
    found += [refused(commit) for commit in chosen[::3]]
    found += [
        Mode("restart at every 3rd commit", every=3, how="restart"),
        Mode("crash after every 4th commit", every=4, how="after"),
        Mode("always-suspend, crash after every 5th commit", always_suspend=True, every=5, how="after"),
        Mode("minimal memory, crash after every 6th commit", minimal=True, every=6, how="after"),
    ]
    return found


def refused(commit: int) -> Mode:
    """The store refuses one commit, and nothing of it was written: nobody notices."""
    return Mode(f"refused commit {commit}", faults=(Fault(commit, "refused"),))


def check(services: Services, scenario: Scenario, *, most: int = 60, seed: int = 0, **options: Any) -> Any:
    """Run a scenario in every mode; each must give the result of the undisturbed run, which is returned.

    The modes: suspended at every await; one handler in memory at a time; a crash before, a crash after and a clean
    restart at every commit (of more than `most` commits, that many are drawn by `seed`); commits that are refused;
    and mixtures of these. `options` are options of `Engine`. An error has a note that says in which mode it was
    raised and how to run that one alone. The engine logs every crash, even where the check passes; pytest shows that
    log only for tests that fail.
    """
    expected, baseline = simulate(services, scenario, **options)
    for mode in modes(baseline.log.commits, seed=seed, most=most):
        try:
            result, _ = simulate(services, scenario, mode, **options)
            assert result == expected, f"{result!r} instead of {expected!r}"
        except BaseException as error:
            error.add_note(f"in mode {mode.name!r}; to rerun: simulate(services, scenario, {mode!r}, **{options!r})")
            raise
    return expected
