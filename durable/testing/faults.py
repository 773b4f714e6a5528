"""A function between the engine and its store: every call passes through it, and it may change what happens."""

from collections.abc import Callable
from typing import Any, cast

from durable.store import Store

#: Gets the name of the method, the method, and the arguments of a call, and returns what the call is to return.
Around = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


def around(store: Store, do: Around) -> Store:
    """The same store, with every method called through `do`.

    def count(name, method, arguments):
        calls[name] += 1
        return method(*arguments)

    Engine(store=around(MemoryStore(), count), services=[...])
    """
    return cast(Store, _Around(store, do))


class _Around:
    def __init__(self, store: Store, do: Around) -> None:
        self._store = store
        self._do = do

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._store, name)
        if not callable(member):
            return member

        def call(*arguments: Any) -> Any:
            return self._do(name, member, arguments)

        self.__dict__[name] = call  # the next one is found at once
        return call
