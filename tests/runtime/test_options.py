"""What cannot be an option of an engine, or of a request, is refused by name where it is given."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable import Engine, InvalidRequestError, UsageError
from durable.testing import MemoryStore, VirtualClock, run
from tests.runtime.support import echo, wrong

OPTIONS: dict[str, Any] = {
    "retry": [3, None, "70"],
    "services": [3, None, "echo", echo],
    "max_concurrent_invocations": [0, -1, "a", 1.5, True, None],
    "max_value_size": [0, "64MB", 2**40],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPTIONS.items() for value in values])
def test_an_engine_refuses_an_option_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        Engine(":memory:", **wrong({name: value}))


REQUESTS: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "headers": lambda engine: engine.send(echo, 1, headers=wrong(3)),
    "backup": lambda engine: engine.backup(wrong(3)),
    "status": lambda engine: engine.count_invocations(status=wrong(3)),
    "limit": lambda engine: engine.invocations(limit=wrong("ten")),
}


@pytest.mark.parametrize(("name", "ask"), REQUESTS.items(), ids=REQUESTS)
def test_a_running_engine_refuses_it_by_name(name: str, ask: Callable[[Engine], Awaitable[Any]]) -> None:
    async def story() -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        async with Engine(store=MemoryStore(), services=[echo], clock=clock) as engine:
            with pytest.raises(InvalidRequestError, match=name):
                await ask(engine)
            assert await engine.call(echo, "still here") == "still here"

    run(story)
