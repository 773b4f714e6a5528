"""Why `asyncio.gather`, `shield`, `wait` and others take a durable future as it is: asyncio knows it as a future.

Of anything else that can be awaited they make a task, and a wide `gather` makes ten thousand of them, which all begin
in the same round of the event loop. asyncio knows a future by its methods, so a durable future has them. A callback
that is added is a flow of the handler that waits for the outcome and does nothing else. It goes on in the same rounds
of the event loop as a task that awaits the future, so a journal is replayed in the same order either way.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

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


class Listening(Protocol):
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
    """What has the attempt that futures belong to."""

    @property
    def listener(self) -> Listening:
        """The attempt."""
        ...


#: How far a callback is: its flow is yet to begin; waits; was woken; and has told asyncio, or is about to.
Stage = Literal["new", "waits", "woken", "told"]


class DoneCallback:
    """A function that asyncio wants called when a durable future is done, and the flow that waits for that."""

    __slots__ = ("added_by", "context", "earlier", "error", "function", "future", "stage")

    def __init__(self, future: "AsyncioFuture[Any]", function: Callable[[Any], object], context: Context) -> None:
        self.future = future
        self.function: Callable[[Any], object] | None = function
        self.context = context
        #: The task that added it.
        self.added_by: asyncio.Task[Any] | None = None
        #: The callback that was added to the same future before.
        self.earlier: DoneCallback | None = None
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
        if self.function is not None:
            self.future.listener.loop.call_soon(self.function, self.future, context=self.context)
        del self.function, self.future, self.context  # which may refer to this


class AsyncioFuture(Generic[T_co]):
    """The methods by which asyncio knows a future. They tell what callbacks were told, and nobody else needs them."""

    __slots__ = ("_attempt", "_callback")
    #: By this asyncio knows a future.
    _asyncio_future_blocking: ClassVar[bool] = False
    _attempt: Listens
    #: The one that was added last.
    _callback: DoneCallback | None

    @property
    def listener(self) -> Listening:
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
        """Call `function` with this future once it is done. `asyncio.gather` and others do; a handler needs it never.

        Raises `WrongLoopError` in another thread.
        """
        one = DoneCallback(self, function, copy_context() if context is None else context)
        self.listener.listen(one)
        earlier = self._callback
        if earlier is not None:
            one.earlier = earlier
            if earlier.stage == "told":
                earlier.earlier = None
        self._callback = one

    def remove_done_callback(self, function: Callable[[Any], object], /) -> int:
        """Do not call it, unless it is about to be called already: how often it was to be."""
        removed = [one for one in self._added() if one.stage != "told" and one.function == function]
        kept = [one for one in self._added() if one not in removed]
        for one, earlier in zip(kept, [*kept[1:], None], strict=False):
            one.earlier = earlier
        self._callback = kept[0] if kept else None
        for one in removed:
            one.function = None
            self.listener.stop_listening(one)
        return len(removed)

    def done(self) -> bool:
        """Whether the callback that was added last was told of an outcome.

        A handler that polls this waits for ever: only one that waits gets outcomes.
        """
        return self._callback is not None and self._callback.stage == "told"

    def cancel(self, msg: Any = None) -> bool:
        """Tell callbacks that they wait in vain, as a cancelled task would. What was asked for goes on."""
        gave_up = [one.cancel(msg) for one in reversed(list(self._added()))]
        return any(gave_up)

    def cancelled(self) -> bool:
        """Whether that is what they were told."""
        told = self._told()
        return told is not None and isinstance(told.error, asyncio.CancelledError)

    def result(self) -> T_co:
        """The value, or the error is raised: that of its outcome, unless callbacks were told of another one.

        Raises `asyncio.InvalidStateError` where there is none yet.
        """
        told = self._told()
        if told is not None and told.error is not None:
            raise told.error
        if not self.completed:
            raise asyncio.InvalidStateError("it has no result yet: await it")
        return self.value()

    def exception(self) -> BaseException | None:
        """The error that `result` would raise, or None. Raises like `result` where it was cancelled, or has none."""
        told = self._told()
        if told is not None and told.error is not None and not isinstance(told.error, asyncio.CancelledError):
            return told.error
        try:
            self.result()
        except (asyncio.CancelledError, asyncio.InvalidStateError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a user's decoder may raise anything
            return error
        return None

    def _added(self) -> Iterator[DoneCallback]:
        """The callbacks: those that are not told yet, and the one that was told last; the last one added first."""
        one = self._callback
        while one is not None:
            yield one
            one = one.earlier

    def _told(self) -> DoneCallback | None:
        """The last of them that was told."""
        return next((one for one in self._added() if one.stage == "told"), None)

    @property
    def _cancel_message(self) -> Any:
        told = self._told()
        return next(iter(told.error.args), None) if told is not None and told.error is not None else None

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        return cancelled(self._cancel_message)


def cancelled(message: Any) -> asyncio.CancelledError:
    """As asyncio makes it."""
    return asyncio.CancelledError() if message is None else asyncio.CancelledError(message)
