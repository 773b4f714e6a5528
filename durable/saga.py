"""Undoing what a handler has done so far, in reverse order."""

from asyncio import CancelledError
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Protocol

from durable.core.duration import Duration
from durable.core.retry import RetryPolicy
from durable.errors import AttemptEnded, InvocationCancelled, TerminalError, UsageError
from durable.outcomes import terminal_in

P = ParamSpec("P")


class Runs(Protocol):
    """What a saga needs of the attempt it belongs to."""

    @property
    def ending(self) -> bool:
        """Whether the attempt is over, or about to be: then a cancelled task says nothing about the handler."""
        ...

    def options(
        self, name: str | None, retry: RetryPolicy | None, timeout: Duration | None, interruptible: bool
    ) -> Any:
        """Validated step options."""
        ...

    def run(
        self,
        options: Any,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        announced: bool = False,
    ) -> Any:
        """Execute and record a step."""
        ...


class Compensation(NamedTuple):
    """One step that undoes something."""

    options: Any
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Saga:
    """Compensations, which run as journaled steps if a terminal error or a cancellation ends the block.

    An exception raised `from` a terminal error counts as one. A cancellation is an `InvocationCancelled`; or the
    handler's own task group cancels the flow that the block is in. An error that will be retried runs no
    compensation.

    Register a compensation *before* the step it undoes, so that it runs even if the outcome of the step is unknown.
    Every compensation is tried, in reverse order:

    - if it raises an ordinary exception, it is retried by its policy, like any step;
    - if it fails for good (a `TerminalError`, or its own policy is exhausted), it leaves a note on the error that
      ended the block, and the others go on; that error is raised in the end, whatever happened;
    - if another cancel comes, the compensation that is waiting for its retry is given up, and no other.
    """

    def __init__(self, steps: Runs) -> None:
        self._steps = steps
        self._compensations: list[Compensation] = []
        self._entered = False

    def add_compensation(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `fn(*args, **kwargs)` as a step if the block fails. Raises `UsageError` outside the block.

        A compensation is a step, so it cannot use the context. To have a handler undo something, use `engine.send` in
        `fn`, with an idempotency key (such as the invocation's id and what is undone); `engine.call` would wait for a
        second slot. Or use `ctx.call` in an `except (TerminalError, InvocationCancelled):` block.
        """
        self.with_options().add_compensation(fn, *args, **kwargs)

    def with_options(
        self, *, name: str | None = None, retry: RetryPolicy | None = None, timeout: Duration | None = None
    ) -> "SagaStep":
        """`add_compensation` with a name, its own retry policy, or a time limit for each execution."""
        return SagaStep(self._add, self._steps.options(name, retry, timeout, False))

    def _add(self, compensation: Compensation) -> None:
        if not self._entered:
            raise UsageError("add_compensation() belongs inside `async with ctx.saga() as saga:`")
        self._compensations.append(compensation)

    async def __aenter__(self) -> "Saga":
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        if error is None or not (isinstance(error, CancelledError) or _ends(error)):
            return
        if isinstance(error, CancelledError) and self._steps.ending:
            raise AttemptEnded  # the next attempt decides: what this handler ends with means nothing
        for compensation in reversed(self._compensations):
            try:
                await self._end(self._begin(compensation, error))
            except TerminalError as failure:
                name = getattr(compensation.fn, "__name__", compensation.fn)
                error.add_note(f"compensation {name!s} failed: {failure}")

    def _begin(self, compensation: Compensation, error: BaseException) -> Any:
        """The step. It is announced, so that a replay can tell whether a cancel met it or came before it."""
        while True:
            try:
                return self._steps.run(*compensation, announced=True)
            except InvocationCancelled:  # it came while the one before was running: nothing waits that it could end
                error.add_note("cancelled again while it was unwinding")

    async def _end(self, step: Any) -> None:
        """A task group that gives this flow up meanwhile does not keep it from undoing."""
        while True:
            try:
                await step
                return
            except CancelledError:
                if self._steps.ending:
                    raise AttemptEnded from None


class SagaStep:
    """What `saga.with_options(...)` returns: `add_compensation` with these options."""

    def __init__(self, add: Callable[[Compensation], None], options: Any) -> None:
        self._add = add
        self._options = options

    def add_compensation(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """See `Saga.add_compensation`."""
        self._add(Compensation(self._options, fn, args, kwargs))


def _ends(error: BaseException) -> bool:
    """Whether the invocation ends with it, so that nothing more will be done."""
    try:
        return terminal_in(error) is not None
    except BaseException:  # nothing can be said of it: it is retried
        return False
