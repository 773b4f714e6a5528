"""What a function's annotations say: of a handler what it takes and gives, of a step what it gives.

Only the annotations that are needed are evaluated: the others may name what only type checkers see.
"""

import functools
import inspect
import types
import typing
import weakref
from abc import ABCMeta
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from durable.errors import SerializationError
from durable.serde import reason_of

#: `Signature.default` of an input that has none.
REQUIRED: Final[Any] = inspect.Parameter.empty

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature(msgspec.Struct, frozen=True):
    """What a handler takes and gives. Without an input, `input` is None, whose Serde accepts only nothing."""

    input: Any
    output: Any
    has_input: bool
    #: `REQUIRED`, or what the handler gets when the caller sends nothing.
    default: Any = REQUIRED
    #: Of its last parameter that is left out: of a handler, its context. Any where none exists at run time.
    context: Any = Any


def signature_of(fn: Callable[..., Any], *, skip: int) -> Signature:
    """Read a handler's annotations, leaving out its first `skip` parameters (self, the context).

    Only the annotations that are needed are evaluated. Raises `TypeError` for a shape no handler can have,
    and `SerializationError` for an annotation whose name does not exist at run time.
    """
    signature = inspect.signature(fn)
    parameters = signature.parameters.values()
    taken = [p for p in parameters if p.kind is not p.KEYWORD_ONLY or p.default is REQUIRED]
    if not skip <= len(taken) <= skip + 1 or any(p.kind not in _POSITIONAL for p in taken):
        names = ", ".join(signature.parameters)
        raise TypeError(
            f"handler {_where(fn)}({names}) must take {'self and a context' if skip == 2 else 'a context'}, then at "
            "most one input, all by position: put several inputs into one msgspec Struct or dataclass"
        )
    output = _awaited(fn, _resolve(fn, signature.return_annotation))
    context = Any
    with suppress(SerializationError):
        context = _resolve(fn, taken[skip - 1].annotation)
    if len(taken) == skip:
        return Signature(None, output, has_input=False, context=context)
    given = taken[skip]
    return Signature(_resolve(fn, given.annotation), output, True, given.default, context)


def return_annotation(fn: Callable[..., Any]) -> Any:
    """Return what a step function gives, awaited if need be: its annotation, or Any. A class gives itself."""
    function = fn if type(fn) is types.FunctionType else _function(fn)
    if type(function) is not types.FunctionType:
        return Any if function is None else function
    raw = function.__annotations__.get("return", REQUIRED)
    if isinstance(raw, type) and not isinstance(raw, ABCMeta):
        return Any if raw is REQUIRED else raw
    annotation = _returns.get(function)
    if annotation is None:
        annotation = _returns[function] = _awaited(function, _resolve(function, raw))
    return _self_of(fn) if annotation is typing.Self else annotation


def _self_of(fn: Any) -> Any:
    """What `Self` means: the class of the object, or the class, that the method is bound to."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = getattr(fn, "__self__", None)
    if owner is None:
        return Any
    return owner if isinstance(owner, type) else type(owner)


#: Weak, because a handler may define its steps anew in each call.
_returns: Final[weakref.WeakKeyDictionary[Callable[..., Any], Any]] = weakref.WeakKeyDictionary()


def _function(fn: Any) -> Any:
    """The function whose annotations speak for a callable, the class if it is one, or None."""
    with suppress(Exception):  # a proxy that answers to any attribute seems to be wrapped without an end
        fn = inspect.unwrap(fn)
    kind = type(fn)  # not its __class__: a mock claims to be what it stands for
    if issubclass(kind, functools.partial):
        return _function(fn.func)
    if kind is types.MethodType:
        return _function(fn.__func__)
    if kind is types.FunctionType or issubclass(kind, type):
        return fn
    call = inspect.unwrap(type(fn).__call__)
    return call if type(call) is types.FunctionType else None


def _awaited(fn: Callable[..., Any], annotation: Any) -> Any:
    """The X of a plain `def` that returns Awaitable[X]; `async def` says X itself."""
    origin = typing.get_origin(annotation) or annotation
    if not isinstance(origin, type) or not issubclass(origin, Awaitable) or inspect.iscoroutinefunction(fn):
        return annotation
    return (typing.get_args(annotation) or (Any,))[-1]


def _resolve(fn: Callable[..., Any], raw: Any) -> Any:
    """Evaluate one annotation; the others of the function may name what only type checkers see."""
    if raw is REQUIRED:
        return Any
    if type(raw) is type:  # most are plain classes, which stand for themselves
        return raw
    target = inspect.unwrap(fn)
    local = {parameter.__name__: parameter for parameter in getattr(target, "__type_params__", ())}
    holder: Any = types.FunctionType((lambda: None).__code__, {})
    holder.__annotations__ = {"it": raw}
    scope = getattr(target, "__globals__", {})
    try:
        return typing.get_type_hints(holder, scope, local, include_extras=True)["it"]
    except NameError as exc:
        raise SerializationError(
            f"the annotation {raw!r} of {_where(fn)} names {exc.name!r}, which does not exist at run time: "
            "define or import it at module level, outside of `if TYPE_CHECKING`"
        ) from exc
    except Exception as exc:
        raise SerializationError(f"the annotation {raw!r} of {_where(fn)} is wrong: {reason_of(exc)}") from exc


def _where(fn: Any) -> str:
    return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', None) or type(fn).__qualname__}"
