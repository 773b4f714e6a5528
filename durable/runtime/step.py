"""One step: what `ctx.run` wants executed, and how its function is called."""

import functools
import inspect
from collections.abc import Callable
from contextvars import copy_context
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any

from durable.operations import StepOptions
from durable.runtime.current import InStep
from durable.serde import serde_for
from durable.signature import return_annotation


class Step:
    """What one `ctx.run` wants executed."""

    __slots__ = (
        "args",
        "begun",
        "context",
        "decode",
        "direct",
        "encode",
        "fn",
        "interrupted",
        "kwargs",
        "name",
        "options",
        "recorded",
        "seen",
        "started",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str,
        options: StepOptions,
        seen: int,
    ) -> None:
        serde = serde_for(return_annotation(fn))
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.name = name
        self.options = options
        #: How many outcomes the handler had seen when it asked.
        self.seen = seen
        #: The context variables of the flow that asked: a copy, so that what the step changes stays with it.
        self.context = copy_context()
        #: An async function without a time limit is awaited as it is: the hot path.
        self.direct = (
            type(fn) is FunctionType and bool(fn.__code__.co_flags & CO_COROUTINE) and options.timeout_ms is None
        )
        self.encode = serde.encode
        self.decode = serde.decode
        #: Whether a command row says that it is running.
        self.recorded = False
        self.started = False
        #: Whether its task has come to its first line.
        self.begun = False
        #: Whether a cancel has stopped it.
        self.interrupted = False


async def call_step(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], here: InStep) -> Any:
    """An async function here, a sync one in a worker thread."""
    if _is_async(fn):
        return await fn(*args, **kwargs)

    def in_thread() -> Any:
        here.in_thread = True
        try:
            return fn(*args, **kwargs)
        finally:
            here.in_thread = False

    value = await here.lending.threads.run(in_thread, here.__str__)
    return await value if inspect.isawaitable(value) else value


def _is_async(fn: Callable[..., Any]) -> bool:
    try:
        return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
    except Exception:  # whatever a proxy raises that is asked for an attribute
        return False


def step_name(fn: Callable[..., Any]) -> str:
    """The name a step is recorded under, unless `with_options(name=)` gives one.

    Its function's, or that of its class: a mock, or a proxy that answers to any attribute, has no name of its own.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = fn.__name__
    except Exception:  # whatever a proxy raises
        name = None
    return name if type(name) is str and name else type(fn).__name__
