"""Engines for the tests of an application: everything in memory, and with their own time.

The pytest plug-in gives them to tests as fixtures (`pytest_durable.py`); you can also make them without it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import ExitStack
from contextvars import Context, copy_context
from functools import wraps
from typing import Any, Self, TypeVar

from durable import log
from durable.client import Handle
from durable.core.invocation import Flavor
from durable.core.limits import TINY
from durable.engine import Engine
from durable.engine.forwarding import FORWARDED
from durable.errors import EngineFailedError, UsageError
from durable.runtime.forgotten import NOTES
from durable.runtime.observer import observers_of
from durable.store.memory import MemoryStore, Tables
from durable.testing.again import KEYED, once, outlive
from durable.testing.checkers import check_tables
from durable.testing.clocks import ClockByHand, MovableClock, VirtualClock
from durable.testing.crashes import CommitLog, Faults, SimulatedCrash
from durable.testing.faults import around
from durable.testing.findings import Findings
from durable.testing.modes import UNDISTURBED, Mode
from durable.testing.virtual import ForgottenAwait, virtual

T = TypeVar("T")
#: How often one thing is asked, while the engine dies under it.
REPEATS = 1000
#: How long the end of a test waits for what its app still does.
SETTLE_S = 2.0


class InMemoryEngine(Engine):
    """An engine in memory whose event loop has a time of its own while it runs."""

    clock: MovableClock

    def __init__(self, services: Iterable[object], clock: MovableClock, mode: Mode, options: dict[str, Any]) -> None:
        self.mode = mode
        self.clock = clock
        self.tables = Tables()
        self.commits = CommitLog()
        #: What is wrong with handlers, as far as it was seen.
        self.findings = Findings(self.tables, lambda: self.interruptions)
        self.forgotten: list[str] = []
        self._raised = False
        #: What the engine had to say, where it dies by plan.
        self.said: log.Kept = []
        self._faults = Faults(mode, self.commits, self._ask_restart, self.tables)
        store = around(around(MemoryStore(self.tables), self._fault), self.findings.around)
        if mode.always_suspend:
            options["inactivity_timeout"] = 0
        if mode.minimal:
            options |= {"limits": TINY, "max_concurrent_invocations": 1}
        options["observer"] = [*observers_of(options.get("observer")), self.findings]
        super().__init__(services=services, store=store, clock=clock, **options)
        self._by_hand = isinstance(clock, ClockByHand)
        self._time = ExitStack()
        self._time_of: asyncio.AbstractEventLoop | None = None

    @property
    def interruptions(self) -> int:
        """How many more times than once a step may have run: one for each crash and each restart."""
        return self.commits.crashes + self.commits.restarts

    def _fault(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return self._faults(name, method, arguments)

    def _ask_restart(self) -> None:
        raise NotImplementedError

    # ---- time ----

    def enter_time(self) -> None:
        """Give the event loop that runs here this engine's time. Raises `UsageError` where it cannot have one."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "no event loop of asyncio runs here: durable needs one. With anyio's plug-in, define the fixture "
                'anyio_backend, returning "asyncio"'
            ) from None
        if self._time_of is not loop:
            self.leave_time()
            time = self._time.enter_context(virtual(loop, by_hand=self._by_hand))
            self._time_of = loop
            self.clock.follow(loop, time)
            time.on_stuck = self._stuck
            time.only_chores = lambda: self.findings.only_chores(loop)
            self._time.callback(self.clock.leave)

    def leave_time(self) -> None:
        """Give it back."""
        self._time_of = None
        self._time.close()

    def _stuck(self, error: Exception) -> bool:
        return self.findings.on_stuck(error)

    # ---- life ----

    async def start(self) -> Self:
        """See `Engine.start`."""
        self.enter_time()
        context = copy_context()
        context.run(NOTES.set, self.forgotten)
        if self.mode != UNDISTURBED:
            context.run(log.keep, self.said)
        await asyncio.get_running_loop().create_task(super().start(), context=context)
        return self

    def wrong(self) -> Exception | None:
        """The first thing that is wrong, or None."""
        if self.findings.stuck is not None:
            return self.findings.stuck
        if self.findings.wrong:
            return next(iter(self.findings.wrong.values()))
        return ForgottenAwait("; ".join(dict.fromkeys(self.forgotten))) if self.forgotten else None

    def check(self) -> None:
        """Raise what is wrong with handlers, once."""
        error = self.wrong()
        if error is not None and not self._raised:
            self._raised = True
            raise error

    def end(self) -> None:
        """Let go of everything, needing no event loop, and check what is stored."""
        if self._life is not None:
            self._life.abandon()
        self.leave_time()
        InMemoryEngine.check(self)
        check_tables(self.tables)


class AppEngine(InMemoryEngine):
    """An engine for an application that starts it itself, in its lifespan, perhaps in another thread.

    Time passes as it does; `engine.clock.advance("2 days")` moves it, from the thread of the test.
    """

    clock: ClockByHand

    def __init__(self, services: Iterable[object] = (), **options: Any) -> None:
        super().__init__(services, ClockByHand(), UNDISTURBED, options)

    def check(self) -> None:
        """The same, once the engine, in its own thread, has done what it has to do by now."""
        self.clock.settle(SETTLE_S)
        super().check()

    async def close(self) -> None:
        """See `Engine.close`."""
        try:
            await super().close()
        finally:
            self.leave_time()


class SimulatedEngine(InMemoryEngine):
    """An engine for asynchronous tests, which starts when it is first asked for something.

    Time passes when there is nothing else to do on the event loop, so waiting takes no time, in handlers and in the
    test; where sockets are open it passes as it does. In a mode with crashes the engine dies and starts again, and
    what it is asked is asked again, with an idempotency key, as a careful client would: the test need not know.
    """

    clock: VirtualClock

    def __init__(self, services: Iterable[object] = (), *, mode: Mode = UNDISTURBED, **options: Any) -> None:
        super().__init__(services, VirtualClock(), mode, options)
        self.findings.on_failed = self._crashed
        self._replacing: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._ended = False
        self._numbers = 0
        self._context: Context | None = None
        #: The task of the test, which is told where nothing can go on.
        self._test: asyncio.Task[Any] | None = None
        self._why: Exception | None = None
        self.findings.on_finding = self._something_is_wrong

    # ---- the test ----

    async def run(self, test: Coroutine[Any, Any, T]) -> T:
        """Await a test that uses this engine, close it, and check everything."""
        self.enter_time()
        self._test = asyncio.current_task()
        try:
            result = await test
        except asyncio.CancelledError:
            if self._why is None or self._test is None:
                raise
            self._test.uncancel()
            raise self._why from None
        finally:
            self._test = None
            await self.stop()
        self.check()
        return result

    def _tell(self, why: Exception) -> bool:
        if self._test is None or self._why is not None:
            return False
        self._why = why
        self._raised = True
        self._test.cancel()
        return True

    def _something_is_wrong(self) -> None:
        if (error := self.wrong()) is not None:
            self._tell(error)

    def _stuck(self, error: Exception) -> bool:
        super()._stuck(error)
        return self._tell(error)

    # ---- life ----

    async def stop(self) -> None:
        """Close it for the time being, and give the event loop its own time back. Asked again, it starts again."""
        while self._replacing is not None:
            await asyncio.wait([self._replacing])
        self._ended = True
        try:
            if self._life is not None:
                await Engine.close(self)
        finally:
            self._ended = False
            self.leave_time()

    async def ready(self) -> None:
        """Start it where it does not run, and wait for the next one where it has died."""
        if self._replacing is not None:
            await asyncio.wait([self._replacing])
            return
        if self._life is not None and not self._life.ends and self._life.failure is None:
            return
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._begin_again())
            self._starting.add_done_callback(self._has_started)
        await asyncio.shield(self._starting)

    def _has_started(self, starting: object) -> None:
        self._starting = None

    async def _begin_again(self) -> None:
        self._context = copy_context()
        while True:
            self.tables.in_use = False
            self._faults = Faults(self.mode, self.commits, self._ask_restart, self.tables)
            try:
                await self.start()
                return
            except (EngineFailedError, SimulatedCrash):
                if self.mode == UNDISTURBED:
                    raise

    def _crashed(self) -> None:
        if self.mode != UNDISTURBED:
            self._schedule(clean=False)

    def _ask_restart(self) -> None:
        self._schedule(clean=True)

    def _schedule(self, *, clean: bool) -> None:
        if self._replacing is None and self._starting is None and not self._ended:
            self._replacing = asyncio.get_running_loop().create_task(
                self._replace(clean=clean), context=None if self._context is None else self._context.copy()
            )

    async def _replace(self, *, clean: bool) -> None:
        if clean:
            await Engine.close(self)
        else:
            Engine.abandon(self)
            for _ in range(10):
                await asyncio.sleep(0)
        try:
            await self._begin_again()
        finally:
            self._replacing = None

    # ---- what it is asked ----

    async def outlive(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and again where the engine dies meanwhile."""
        return await outlive(self.ready, ask, REPEATS, dies=self.mode != UNDISTURBED)

    def key(self, options: dict[str, Any], target: Any) -> dict[str, Any]:
        """The same options with an idempotency key, where the engine may die and the target has no key of its own."""
        undisturbed = self.mode == UNDISTURBED or options.get("idempotency_key") is not None
        if undisturbed or self._registry.find(target).flavor is Flavor.WORKFLOW:
            return options
        self._numbers += 1
        return {**options, "idempotency_key": f"durable-engine-{self._numbers}"}


def _outliving(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def ask(self: SimulatedEngine, *args: Any, **options: Any) -> Any:
        return await self.outlive(lambda: method(self, *args, **options))

    return ask


async def _send(self: SimulatedEngine, target: Any, *args: Any, **options: Any) -> Handle[Any]:
    keyed = self.key(options, target)
    return await self.outlive(lambda: Engine.send(self, target, *args, **keyed))


async def _call(self: SimulatedEngine, target: Any, *args: Any, **options: Any) -> Any:
    if self.mode == UNDISTURBED:
        return await self.outlive(lambda: Engine.call(self, target, *args, **options))
    interruptions = self.interruptions
    handle = await _send(self, target, *args, **options)
    workflow = self._registry.find(target).flavor is Flavor.WORKFLOW
    if workflow and not handle.accepted and interruptions == self.interruptions:
        return await self.outlive(
            lambda: Engine.call(self, target, *args, **options)
        )  # which says that it ran before
    return await handle.result()


for _name in FORWARDED:
    _method = getattr(Engine, _name)
    if asyncio.iscoroutinefunction(_method):
        _own = once(_name) if _name in KEYED else _method
        _ask = {"call": _call, "send": _send}.get(_name) or _outliving(_own)
        setattr(SimulatedEngine, _name, wraps(_method)(_ask))
