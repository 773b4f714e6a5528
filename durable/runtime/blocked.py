"""Whoever blocks the event loop is named in the log.

While one callback runs no other does, so only a thread can see it: it asks the event loop to answer, and where no
answer comes it looks at what the loop's thread is running. There is one such thread for an event loop, shared by its
engines; it exists from the first attempt on, and sleeps while no attempt is in memory.
"""

import asyncio
import os
import sys
import threading
import time
from asyncio.events import Handle
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from types import FrameType
from typing import Any, ClassVar, NamedTuple

from durable import log
from durable.runtime.attempt import Attempt
from durable.runtime.clock import Clock, SystemClock
from durable.runtime.current import CURRENT, InStep
from durable.runtime.steps import Steps

#: How often the event loop is asked to answer: what blocks it is found at most that much too late.
PERIOD_S = 0.25
#: For how long it must have been blocked: less is what importing a module or decoding a large value takes, and what
#: makes no one wait noticeably.
LIMIT_S = 0.5
#: How often it is looked at while it does not answer: so exactly is known who ran for how long.
LOOK_AGAIN_S = 0.05
#: A block that lasts this long may never end: it is reported while it lasts.
ENDLESS_S = 60.0
#: How often, at most, an event loop is called busy where nobody in particular blocks it.
BUSY_AGAIN_S = 60.0
#: How long the thread may take to end, if somebody's log handler holds it up.
PATIENCE_S = 1.0

WAY_OUT = "nothing else could run. Await an async function there, or give ctx.run a plain one: that runs in a thread"


class Blocked:
    """One engine's share in the lookout over its event loop. Does nothing where time is not the system's."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        busy: Callable[[], object],
        stalled: Callable[[float], None],
    ) -> None:
        #: Whether there is any handler that could block. Called in the thread.
        self.busy = busy
        #: Told on the event loop that it stood still for some seconds, before anything that became due meanwhile.
        self.stalled = stalled
        self._loop = loop
        self._wanted = isinstance(clock, SystemClock)
        self._lookout: _Lookout | None = None

    def begin(self) -> None:
        """A handler is about to run."""
        if self._lookout is not None:
            self._lookout.wake()
        elif self._wanted:
            self._lookout = _Lookout.over(self._loop)
            self._lookout.join(self)

    def close(self) -> None:
        """No handler will run any more. The last engine of an event loop takes the thread with it."""
        self._wanted = False
        if self._lookout is not None:
            self._lookout.leave(self)
            self._lookout = None


class Sight(NamedTuple):
    """What the event loop was seen running."""

    task: "asyncio.Task[Any] | None"
    #: An attempt; `InStep` for a task that some step started; None for what is no handler's.
    owner: object
    #: Where in whose code, or empty: the loop was between two callbacks.
    place: str

    def __str__(self) -> str:
        if isinstance(self.owner, Attempt):
            return f"{self.owner.target} {self.owner.submission.id}"
        if self.task is not None:
            coro = self.task.get_coro()
            return f"the task of {getattr(coro, '__qualname__', coro)}"
        return "a callback"


class _Runner:
    """One that was seen running, once or again and again."""

    def __init__(self, sight: Sight, since: float, unseen: float) -> None:
        self.sight = sight
        #: For how long, at most, it may have run before.
        self.unseen = unseen
        self.since = since
        self.until = since
        self.named = False

    @property
    def lasted(self) -> float:
        """For how long at least."""
        return self.until - self.since

    @property
    def about(self) -> float:
        """For how long probably."""
        return self.lasted + self.unseen / 2


class _Lookout:
    """The thread, and the engines it works for."""

    _all: ClassVar["dict[asyncio.AbstractEventLoop, _Lookout]"] = {}

    @classmethod
    def over(cls, loop: asyncio.AbstractEventLoop) -> "_Lookout":
        """The one over an event loop. To be called on it."""
        lookout = cls._all.get(loop)
        if lookout is None:
            lookout = cls._all[loop] = cls(loop)
        return lookout

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="durable-blocked", daemon=True)
        self._engines: tuple[Blocked, ...] = ()
        #: Set while the thread is parked and has to go on; set once it has to end.
        self._wake, self._end = threading.Event(), threading.Event()
        self._parked = False
        #: When it was told to go on, and how long the process had worked until then.
        self._woken: tuple[float, float] | None = None
        #: When the event loop answered what it was asked last.
        self._answered_at: float | None = None
        self._busy_again_at = 0.0

    # ---- on the event loop ----

    def join(self, engine: Blocked) -> None:
        """Work for this engine too."""
        self._engines += (engine,)
        if self._thread.ident is None:
            try:
                self._thread.start()
            except RuntimeError as error:  # an engine can do without
                log.invocation.warning("handlers that block the event loop will not be named: %s", error)
        self.wake()

    def leave(self, engine: Blocked) -> None:
        """Work for this engine no more."""
        self._engines = tuple(other for other in self._engines if other is not engine)
        if not self._engines:
            self._all.pop(self._loop, None)
            self._end.set()
            self._wake.set()
            if self._thread.is_alive():
                self._thread.join(PATIENCE_S)

    def wake(self) -> None:
        """There is something to look at again."""
        if self._parked:
            self._parked = False
            self._woken = time.monotonic(), time.process_time()
            self._wake.set()

    def _answer(self, since: float) -> None:
        self._answered_at = now = time.monotonic()
        if now - since > PERIOD_S:
            for engine in self._engines:
                engine.stalled(now - since + PERIOD_S)  # it began at most a period before the question

    # ---- in the thread ----

    def _watch(self) -> None:
        try:
            self._watch_over()
        except Exception as error:  # it looks at tasks and frames of other people's
            log.invocation.warning(
                "handlers that block the event loop are not named any more: %s", type(error).__qualname__
            )

    def _watch_over(self) -> None:
        while not self._end.is_set():
            if self._busy():
                since, worked = time.monotonic(), time.process_time()
                if not self._ask(since):
                    return
                self._end.wait(PERIOD_S)
            elif woken := self._park():
                since, worked = woken
            else:
                continue
            now = time.monotonic()
            if now - since > PERIOD_S + LIMIT_S:
                self._stood_still(since, now, time.process_time() - worked)
            if self._answered_at is None:
                self._attend(max(since, now - PERIOD_S))

    def _busy(self) -> bool:
        return any(engine.busy() for engine in self._engines)

    def _park(self) -> tuple[float, float] | None:
        """Wait until a handler is about to run; returns what `wake` noted."""
        self._wake.clear()
        self._woken = None
        self._parked = True
        if not self._busy() and not self._end.is_set():  # whoever begins from here on sees that it is parked
            self._wake.wait()
        self._parked = False
        self._answered_at = time.monotonic()  # it woke this thread
        return self._woken

    def _ask(self, since: float) -> bool:
        """Have the event loop answer. False where it is closed."""
        self._answered_at = None
        try:
            self._loop.call_soon_threadsafe(self._answer, since)
        except RuntimeError:
            return False
        return True

    def _stood_still(self, since: float, now: float, worked: float) -> None:
        """This thread could not run either: the process was stopped, or somebody kept the GIL, if it worked."""
        sight = self._look()
        if self._answered_at is not None:
            self._ask(since)  # it answered before
        if worked < LIMIT_S:
            return
        if isinstance(sight.owner, Attempt):
            log.invocation.warning(
                "%s: while it was at %s the whole process stood still for %.1f s, probably in a C function that "
                "keeps the GIL; give such a function to a process of its own",
                sight,
                sight.place,
                now - since,
                about=sight.owner.about,
            )
        else:
            log.invocation.warning(
                "the whole process stood still for %.1f s%s: probably some C function kept the GIL",
                now - since,
                _at(sight),
            )

    def _attend(self, since: float) -> None:
        """The event loop does not answer: look at it until it does, and name who ran for too long."""
        began, found = since, False
        runner = longest = _Runner(self._look(), since, PERIOD_S)
        while not self._end.wait(PERIOD_S if runner.named else LOOK_AGAIN_S) and self._answered_at is None:
            if not self._loop.is_running():
                self._wait_until_it_runs()
                return
            sight, now = self._look(), time.monotonic()
            if sight.task is not runner.sight.task or sight.owner is not runner.sight.owner:
                found = self._accuse(runner) or found
                runner = _Runner(sight, now, LOOK_AGAIN_S)
            runner.until = now
            longest = max(longest, runner, key=lambda one: one.lasted)
            if runner.lasted > ENDLESS_S and not runner.named:
                found = self._accuse(runner, " and still does")
        ended = self._answered_at or time.monotonic()
        runner.until = ended
        if not self._accuse(runner) and not found and ended - began > LIMIT_S:
            self._call_busy(max(longest, runner, key=lambda one: one.lasted), ended - began)

    def _wait_until_it_runs(self) -> None:
        """Nothing blocks it: it was left, and perhaps somebody runs it again."""
        while self._answered_at is None and not self._loop.is_closed() and not self._end.wait(PERIOD_S):
            pass

    def _look(self) -> Sight:
        task = asyncio.current_task(self._loop)
        frames = list(_frames(sys._current_frames().get(self._watched)))
        inner = _inside(frames, task)
        return Sight(task, _owner(frames, inner, task), _place(inner))

    def _accuse(self, runner: _Runner, and_now: str = "") -> bool:
        """Name it, once, if it ran for too long; returns whether it did."""
        if runner.lasted < LIMIT_S:
            return False
        if runner.named:
            return True
        runner.named = True
        sight = runner.sight
        if isinstance(sight.owner, Attempt):
            log.invocation.warning(
                "%s: the handler blocked the event loop for about %.1f s%s, at %s: %s",
                sight,
                runner.about,
                and_now,
                sight.place,
                WAY_OUT,
                about=sight.owner.about,
            )
        else:
            log.invocation.warning(
                "the event loop was blocked for about %.1f s%s by %s: %s%s",
                runner.about,
                and_now,
                "what a step has started" if isinstance(sight.owner, InStep) else "something that is no handler",
                sight,
                _at(sight),
            )
        return True

    def _call_busy(self, longest: _Runner, seconds: float) -> None:
        """None of those that ran did so for long."""
        now = time.monotonic()
        if now < self._busy_again_at:
            return
        self._busy_again_at = now + BUSY_AGAIN_S
        log.invocation.warning(
            "the event loop was busy for %.1f s with many things in a row; the longest that was seen: %s%s",
            seconds,
            longest.sight,
            _at(longest.sight),
        )


# ---- looking at another thread's stack ----

_RUN = Attempt._run.__code__
_EXECUTE = Steps.execute.__code__
#: asyncio's event loop runs every callback and every step of a task in this frame. Others (uvloop) have none.
_CALLBACK = Handle._run.__code__
_STANDARD = os.path.dirname(os.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _inside(frames: Sequence[FrameType], task: "asyncio.Task[Any] | None") -> Sequence[FrameType]:
    """Without those of the event loop and of whoever runs it; nothing where it only waits."""
    outermost = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    for place, frame in enumerate(frames):
        if frame is outermost:
            return frames[: place + 1]
        if frame.f_code is _CALLBACK:
            return frames[:place]
    return ()


def _owner(frames: Sequence[FrameType], inner: Sequence[FrameType], task: "asyncio.Task[Any] | None") -> object:
    """Whose handler, or step, or task of either this is."""
    context: Context | None
    for frame in frames:  # one that has returned meanwhile has no locals any more
        if frame.f_code is _RUN:
            return frame.f_locals.get("self")
        if frame.f_code is _EXECUTE:
            return getattr(frame.f_locals.get("self"), "_owner", None)
        if frame.f_code is _CALLBACK:
            context = getattr(frame.f_locals.get("self"), "_context", None)
            break
    else:
        context = getattr(task, "get_context", lambda: None)()  # from Python 3.12 on
    if context is None or not inner or inner[-1].f_code.co_filename.startswith(_OURS):
        return None  # what is ours has the context of whichever handler asked first: that says nothing
    return context.get(CURRENT)


def _place(inner: Sequence[FrameType]) -> str:
    """The innermost line in the user's own code; where there is none, in a library's, or anybody's."""
    for good in (_is_own, _is_no_standard, bool):
        for frame in inner:
            code = frame.f_code
            if good(code.co_filename):
                return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
    return ""


def _is_no_standard(path: str) -> bool:
    if path.startswith(("<frozen", _OURS)):
        return False
    return not path.startswith(_STANDARD) or "site-packages" in path


def _is_own(path: str) -> bool:
    return _is_no_standard(path) and "site-packages" not in path and "dist-packages" not in path


def _at(sight: Sight) -> str:
    return f", at {sight.place}" if sight.place else ""
