"""Undoing, in reverse order, what a handler has done so far."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol

from durable.errors import TerminalError, UsageError

P = ParamSpec("P")


class Runs(Protocol):
    """What a saga needs of a context."""

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Execute and record a step."""
        ...


class Saga:
    """Compensations, run as journaled steps when the block ends in a terminal error or a cancellation.

    Register a compensation *before* the step it undoes: then it is undone even if the step's outcome is unknown.
    An error that will be retried runs no compensation. Every compensation runs, in reverse order, even if one of
    them fails terminally; the error that ended the block is raised afterwards.
    """

    def __init__(self, context: Runs) -> None:
        self._context = context
        self._compensations: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._entered = False

    def add_compensation(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have `fn(*args, **kwargs)` run as a step if the block fails. Raises `UsageError` outside the block."""
        if not self._entered:
            raise UsageError("add_compensation() belongs inside `async with ctx.saga() as saga:`")
        self._compensations.append((fn, args, kwargs))

    async def __aenter__(self) -> "Saga":
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        if error is None or not _is_terminal(error):
            return
        for fn, args, kwargs in reversed(self._compensations):
            try:
                await self._context.run(fn, *args, **kwargs)
            except TerminalError as failure:
                error.add_note(f"compensation {getattr(fn, '__name__', fn)!s} failed: {failure}")


def _is_terminal(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_terminal(one) for one in error.exceptions)
    return isinstance(error, TerminalError)
