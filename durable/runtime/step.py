"""One step: what `ctx.run` wants executed, and how its function is called."""

import functools
import inspect
from collections.abc import Callable, Set
from contextvars import Context
from inspect import CO_COROUTINE
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import msgspec

from durable.operations import StepOptions
from durable.runtime.current import InStep
from durable.serde import serde_for
from durable.serde.scalars import scalars_of
from durable.signature import return_annotation


class Callee(NamedTuple):
    """What its function says of a step."""

    #: The name it is recorded under, unless `with_options(name=)` gives one.
    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    #: Results of which types need neither: see `serde.scalars`.
    scalars: Set[type]
    #: Whether it is an async function, which is awaited as it is.
    is_async: bool


class Step(msgspec.Struct, eq=False):
    """What one `ctx.run` wants executed."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    options: StepOptions
    callee: Callee
    #: How many outcomes the handler had seen when it asked.
    seen: int
    #: The context variables of the flow that asked: a copy, so that what the step changes stays with it.
    context: Context
    #: Whether a command row says that it is running.
    recorded: bool = False
    started: bool = False
    #: Whether its task has come to its first line.
    begun: bool = False
    #: Whether a cancel has stopped it.
    interrupted: bool = False
    #: Whether it was held back, and need be no longer: see `Steps.holds`.
    released: bool = False


#: What is known of functions without an annotation, or with a plain one, by the id of their code; beside it what that
#: follows from, as functions of one code may differ.
_known: dict[int, tuple[CodeType, str, Any, Callee]] = {}
_KNOWN_MAX = 4096


def callee_of(fn: Callable[..., Any]) -> Callee:
    """Look at a function. Raises `SerializationError` where its annotation is none."""
    if type(fn) is not FunctionType:
        return _look_at(fn, is_async=False)
    code = fn.__code__
    returns = fn.__annotations__.get("return", _known)
    known = _known.get(id(code))
    if known is not None and known[0] is code and known[1] is fn.__name__ and known[2] is returns:
        return known[3]
    callee = _look_at(fn, is_async=bool(code.co_flags & CO_COROUTINE))
    if returns is _known or isinstance(returns, type):
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        _known[id(code)] = code, fn.__name__, returns, callee
    return callee


def _look_at(fn: Callable[..., Any], *, is_async: bool) -> Callee:
    serde = serde_for(return_annotation(fn))
    return Callee(_name_of(fn), serde.encode, serde.decode, scalars_of(serde), is_async)


def _name_of(fn: Callable[..., Any]) -> str:
    """Its function's name, or that of its class: a mock, or a proxy that answers to anything, has none of its own."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name = fn.__name__
    except Exception:  # whatever a proxy raises
        name = None
    return name if type(name) is str and name else type(fn).__name__


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
