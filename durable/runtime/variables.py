"""Context variables: a step has a copy of them, so that what it changes never reaches its handler.

A replay does not run the step, and could not repeat the change. The copy is of the variables: an object that one of
them holds is shared, as always. Only decimal's contexts, which are made to be changed in place, are copied, too.
"""

import decimal
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def _of_decimals() -> ContextVar[Any]:
    decimal.getcontext()
    return next(variable for variable in copy_context() if isinstance(variable.get(), decimal.Context))


#: Where `decimal` keeps its context; unset where nobody has asked for it yet.
DECIMALS = Context().run(_of_decimals)


def own_decimals() -> None:
    """From now on `decimal.getcontext()` changes nothing outside of this context."""
    found = DECIMALS.get(None)
    if found is not None:
        decimal.setcontext(found.copy())


@coroutine
def within(context: Context, inner: Coroutine[Any, Any, T], waited: Any) -> Generator[Any, Any, T]:
    """Await a coroutine here, in this task, but in another context: it has begun there, and waits for `waited`."""
    run = context.run
    try:
        while True:
            try:
                yield waited  # a task sends nothing back
            except GeneratorExit:
                run(inner.close)
                raise
            except BaseException as error:
                waited = run(inner.throw, error)
            else:
                waited = run(inner.send, None)
    except StopIteration as end:
        value: T = end.value
        return value
