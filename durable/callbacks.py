"""Why `asyncio.gather`, `shield`, `wait` and others take a durable future as it is: asyncio knows it as a future.

Of anything else that can be awaited they make a task, and a wide `gather` makes ten thousand of them, which all begin
in the same round of the event loop. asyncio knows a future by its methods, so a durable future has them. A callback
that is added is a flow of the handler that waits for the outcome and does nothing else. It goes on in the same rounds
of the event loop as a task that awaits the future, so a journal is replayed in the same order either way.
"""

import asyncio
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from durable.errors import InvocationCancelled

T_co = TypeVar("T_co", covariant=True)


class Waker(Protocol):
    """What is set when a flow that waits may go on: a future of the event loop, or a `DoneCallback`."""

    def done(self) -> bool:
        """Whether it was set."""
        ...

    def set_result(self, result: None, /) -> None:
        """What the flow waits for is here."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Raise this in the flow."""
        ...

    def exception(self) -> BaseException | None:
        """What was set; with that, it counts as seen."""
        ...


class Listener(Protocol):
    """What callbacks need of their attempt."""

    loop: asyncio.AbstractEventLoop

    def listen(self, one: "DoneCallback") -> None:
        """A flow begins that waits for the outcome of `one.future`, and then calls `one.function`."""
        ...

    def woken(self, one: "DoneCallback") -> None:
        """Its flow goes on."""
        ...

    def stop_listening(self, one: "DoneCallback") -> None:
        """It is not to be called."""
        ...


class Listens(Protocol):
    """What a future is made with: it knows the attempt."""

    @property
    def listener(self) -> Listener:
        """The attempt."""
        ...


#: How far a callback is: its flow is yet to begin; waits; was woken; and is about to be told, or was.
Stage = Literal["new", "waits", "woken", "told"]


class DoneCallback:
    """A function that asyncio wants called when a durable future is done, and the flow that waits for that."""

    __slots__ = ("added_by", "context", "error", "function", "future", "stage")

    def __init__(self, future: "AsyncioFuture[Any]", function: Callable[[Any], object], context: Context) -> None:
        self.future = future
        self.function: Callable[[Any], object] | None = function
        self.context = context
        #: The task that added it.
        self.added_by: asyncio.Task[Any] | None = None
        #: What it is told instead of the future's own outcome.
        self.error: BaseException | None = None
        self.stage: Stage = "new"

    def done(self) -> bool:
        """See `Waker`."""
        return self.stage != "waits"

    def set_result(self, result: None, /) -> None:
        """See `Waker`."""
        self._wake()

    def set_exception(self, exception: BaseException, /) -> None:
        """See `Waker`."""
        self.error = exception
        self._wake()

    def exception(self) -> BaseException | None:
        """See `Waker`."""
        return self.error

    def cancel(self, message: Any) -> bool:
        """Its flow gives up, if it still waits."""
        if self.stage not in ("new", "waits") or self.error is not None:
            return False
        self.error = cancelled(message)
        if self.stage == "waits":
            self._wake()
        return True

    def _wake(self) -> None:
        self.stage = "woken"
        attempt = self.future.listener
        attempt.loop.call_soon(attempt.woken, self, context=self.context)

    def tell(self) -> None:
        """Have the function called in the next round of the event loop."""
        self.stage = "told"
        self.future.listener.loop.call_soon(self._call, context=self.context)

    def _call(self) -> None:
        future, function = self.future, self.function
        if function is not None:
            future.told(self)
        del self.future, self.function, self.context  # which may refer to this
        if function is not None:
            function(future)

    def found_by(self) -> Iterator[Any]:
        """Who removes or cancels it has its function, or is the `gather` that it is of."""
        if isinstance(self.function, Hashable):
            yield self.function
        yield from (held for held in held_by(self.function) if type(held) is _Gathering)


class Callbacks:
    """Those of one future where there are several: one is found without a look at the others."""

    __slots__ = ("_by", "_unsorted", "added")

    def __init__(self, first: DoneCallback) -> None:
        #: In the order in which they were added.
        self.added: dict[DoneCallback, None] = {first: None}
        self._unsorted = {first: None}
        #: See `DoneCallback.found_by`. They are sorted when somebody asks.
        self._by: dict[Any, dict[DoneCallback, None]] = {}

    def add(self, one: DoneCallback) -> None:
        """It is the last one."""
        self.added[one] = self._unsorted[one] = None

    def remove(self, one: DoneCallback) -> None:
        """It is told, or not to be called."""
        del self.added[one]
        if one in self._unsorted:
            del self._unsorted[one]
            return
        for key in one.found_by():
            found = self._by.get(key, {})
            found.pop(one, None)
            if not found:
                self._by.pop(key, None)

    def of(self, key: Any) -> list[DoneCallback]:
        """Those that are found by this."""
        for one in self._unsorted:
            for each in one.found_by():
                self._by.setdefault(each, {})[one] = None
        self._unsorted.clear()
        return list(self._by.get(key, ()))


class AsyncioFuture(Generic[T_co]):
    """The methods by which asyncio knows a future. They say what its callbacks were told last, for those to read.

    That may differ from the outcome: one flow gives up, or is told of a cancel, while another one still waits.
    """

    __slots__ = ("_attempt", "_to_tell", "_told")
    #: By this asyncio knows a future.
    _asyncio_future_blocking: ClassVar[bool] = False
    _attempt: Listens
    #: Those that are not told yet: most futures have one at most.
    _to_tell: DoneCallback | Callbacks | None
    #: What the last one was told: the outcome, or an error in its place.
    _told: Literal["outcome"] | BaseException | None

    @property
    def listener(self) -> Listener:
        """The attempt it belongs to."""
        return self._attempt.listener

    @property
    def completed(self) -> bool:
        """Whether its outcome has arrived."""
        raise NotImplementedError

    def value(self) -> T_co:
        """The value of its outcome, or the recorded error is raised: a fresh one each time."""
        raise NotImplementedError

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of its handler."""
        return self.listener.loop

    def add_done_callback(self, function: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """Call `function` with this future once it is done: for `asyncio.gather` and its like; a handler just awaits.

        Raises `WrongLoopError` on another event loop, `NotInHandlerError` outside its handler, and `UsageError` in a
        step.
        """
        one = DoneCallback(self, function, copy_context() if context is None else context)
        self.listener.listen(one)
        added = self._to_tell
        if added is None:
            self._to_tell = one
        elif isinstance(added, Callbacks):
            added.add(one)
        else:
            self._to_tell = added = Callbacks(added)
            added.add(one)
        if self._told != "outcome":
            self._told = None

    def remove_done_callback(self, function: Callable[[Any], object], /) -> int:
        """Do not call it, unless it is about to be called already: how often it was to be."""
        found = self._added(function if isinstance(function, Hashable) else None)
        removed = [one for one in found if one.stage != "told" and one.function == function]
        for one in removed:
            self._forget(one)
            one.function = None
            self.listener.stop_listening(one)
        return len(removed)

    def told(self, one: DoneCallback) -> None:
        """This callback is told now."""
        self._forget(one)
        self._told = one.error or "outcome"

    def done(self) -> bool:
        """Whether its outcome has arrived, or a callback was told of something else.

        To poll it without a wait is in vain: only a handler that waits gets outcomes. `gather` and `shield` ask
        before they add a callback, and are told in the same round as if they had made a task.
        """
        return (self.completed or self._told is not None) and sys._getframe(1).f_code not in _ASK_FIRST

    def cancel(self, msg: Any = None) -> bool:
        """Tell callbacks that they wait in vain, as cancelled tasks would. What was asked for goes on."""
        caller = sys._getframe(1)
        gathering = caller.f_locals["self"] if caller.f_code is _GATHER_CANCELS else None
        gave_up = [one.cancel(msg) for one in self._added(gathering)]
        return any(gave_up)

    def cancelled(self) -> bool:
        """Whether that is what they were told."""
        return isinstance(self._told, asyncio.CancelledError)

    def result(self) -> T_co:
        """The value, or the error is raised. Raises `asyncio.InvalidStateError` where there is none yet."""
        error = self._error()
        if error is not None:
            try:
                raise error
            finally:
                del error  # which has this frame by now
        if not self.completed:
            raise asyncio.InvalidStateError("it has no result yet: await it")
        return self.value()

    def exception(self) -> BaseException | None:
        """The error that `result` would raise, or None. Raises like `result` where it was cancelled, or has none."""
        error = self._error()
        if error is not None and not isinstance(error, asyncio.CancelledError):
            return error
        try:
            self.result()
        except (asyncio.CancelledError, asyncio.InvalidStateError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a user's decoder may raise anything
            return error
        return None

    def _error(self) -> BaseException | None:
        """The error that the last one was told. What is kept must not get frames: they may hold this."""
        told = self._told
        if isinstance(told, InvocationCancelled):
            fresh = InvocationCancelled(told.message, told.code, told.metadata)
            fresh.__cause__ = told.__cause__
            return fresh
        return told if isinstance(told, BaseException) else None

    def _added(self, key: Any = None) -> Iterable[DoneCallback]:
        """The callbacks that are not told yet, in order; those that are found by `key`, if there is one."""
        added = self._to_tell
        if added is None:
            return ()
        if isinstance(added, Callbacks):
            return list(added.added) if key is None else added.of(key)
        return (added,) if key is None or key in added.found_by() else ()

    def _forget(self, one: DoneCallback) -> None:
        added = self._to_tell
        if isinstance(added, Callbacks):
            added.remove(one)
            if added.added:
                return
        self._to_tell = None

    @property
    def _cancel_message(self) -> Any:
        return next(iter(self._told.args), None) if isinstance(self._told, BaseException) else None

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        return cancelled(self._cancel_message)


def held_by(callback: Any) -> Iterator[Any]:
    """What a callback was made with."""
    if isinstance(callback, partial):
        yield from callback.args
        return
    for cell in getattr(callback, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty
            continue


#: Who asks first; and where `gather` cancels. (If that is elsewhere one day, all that wait for a future are meant.)
_ASK_FIRST = tuple(getattr(function, "__code__", None) for function in (asyncio.gather, asyncio.shield))
_Gathering = getattr(asyncio.tasks, "_GatheringFuture", None)
_GATHER_CANCELS = getattr(getattr(_Gathering, "cancel", None), "__code__", None)


def cancelled(message: Any) -> asyncio.CancelledError:
    """As asyncio makes it."""
    return asyncio.CancelledError() if message is None else asyncio.CancelledError(message)
