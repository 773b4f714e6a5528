"""Whatever can be called has a name as a step, which is the same on each replay."""

import functools
import operator
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest

from durable import Context, handler
from durable.testing import Sim, simulate


class Plain:
    def __call__(self, number: int) -> int:
        return number + 1


class Asynchronous:
    async def __call__(self, number: int) -> int:
        return number + 1


class Proxy:
    """As `xmlrpc.client` has them: each attribute is another one."""

    def __getattr__(self, name: str) -> "Proxy":
        return Proxy()

    def __call__(self, *arguments: Any) -> int:
        return 7


class Refuses:
    """A proxy whose attributes cannot be asked for."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(name)

    def __call__(self, number: int) -> int:
        return number


class Methods:
    def bound(self, number: int) -> int:
        return number

    @staticmethod
    def static(number: int) -> int:
        return number

    @classmethod
    def of_class(cls, number: int) -> int:
        return number


def named(name: Any) -> Callable[[], int]:
    def function() -> int:
        return 1

    function.__name__ = "stays" if not isinstance(name, str) else name
    if not isinstance(name, str):
        mock = Mock(return_value=1)
        mock.__name__ = name
        return mock
    return function


CALLABLES: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "an object": (Plain(), (1,), "Plain"),
    "an async object": (Asynchronous(), (1,), "Asynchronous"),
    "a method": (Methods().bound, (1,), "bound"),
    "a static method": (Methods.static, (1,), "static"),
    "a class's": (Methods.of_class, (1,), "of_class"),
    "a partial": (functools.partial(Methods().bound, 1), (), "bound"),
    "a partial of a partial of an object": (functools.partial(functools.partial(Plain()), 1), (), "Plain"),
    "a methodcaller": (operator.methodcaller("upper"), ("a",), "methodcaller"),
    "a cache": (functools.lru_cache(Methods.static), (1,), "static"),
    "a lambda": (lambda: 1, (), "<lambda>"),
    "a builtin": (len, ("abc",), "len"),
    "a type": (int, ("3",), "int"),
    "a Mock": (Mock(return_value=5), (), "Mock"),
    "a MagicMock": (MagicMock(return_value=5), (), "MagicMock"),
    "an AsyncMock": (AsyncMock(return_value=5), (), "AsyncMock"),
    "a Mock of a function": (Mock(spec=Methods.static, return_value=5), (1,), "Mock"),
    "an autospec": (create_autospec(Methods.static, return_value=5), (1,), "static"),
    "a proxy": (Proxy(), (1,), "Proxy"),
    "a proxy's method": (Proxy().server.add, (1, 2), "Proxy"),
    "a partial of a proxy": (functools.partial(Proxy(), 1), (), "Proxy"),
    "a proxy that refuses": (Refuses(), (1,), "Refuses"),
    "an empty name": (named(""), (), "function"),
    "a name that is a number": (named(7), (), "Mock"),
}


@pytest.mark.parametrize("what", CALLABLES)
def test_a_step_is_called_as_its_function_or_as_the_class_of_what_has_no_name(what: str) -> None:
    fn, arguments, name = CALLABLES[what]

    @handler(service="Names")
    async def run(ctx: Context) -> Any:
        first = await ctx.run(fn, *arguments)
        await ctx.sleep(1)
        return first

    async def scenario(sim: Sim) -> str:
        handle = await sim.send("Names/run")
        await handle.result()
        return (await sim.engine.describe(handle.id)).journal[1].name

    assert simulate(lambda sim: [run], scenario)[0] == name
