"""What the client library calls, and what it says: imported only where it is there.

It tells its log why it cannot reach a broker, and raises an error that does not; it says the same many times a
second, and shows passwords at DEBUG. So what it says for a subscription is heard by that one's reader alone.
"""

import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.abc import AbstractTokenProvider

from durable.log import Overheard

Hear = Callable[[str, BaseException | None], None]
#: Whom a line of the library is about: its tasks have the context of the task that began them.
_hearing: ContextVar[Hear | None] = ContextVar("durable_kafka_hearing", default=None)


def listen(hear: Hear) -> None:
    """Have `hear` told what the library says, from now on, in this task and those that it begins."""
    _hearing.set(hear)


def _take(line: str, error: BaseException | None) -> bool:
    hear = _hearing.get()
    if hear is None:
        return False  # of another consumer than ours
    if line:
        hear(line, error)
    return True


_PARTS = ("consumer", "fetcher", "group_coordinator", "subscription_state")
_overheard = Overheard(
    ["aiokafka", "aiokafka.cluster", "aiokafka.conn", *(f"aiokafka.consumer.{part}" for part in _PARTS)], _take
)


class Rebalanced(ConsumerRebalanceListener):  # type: ignore[misc]
    """Tells that partitions are shared anew."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell = tell

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """They may belong to somebody else from now on."""
        self._tell(False)

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """They are ours."""
        self._tell(True)


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, call: Callable[[str], Any], config: str) -> None:
        self._call = call
        self._config = config

    async def token(self) -> str:
        """A token that is valid now."""
        given = self._call(self._config)
        if inspect.isawaitable(given):
            given = await given
        return str(given[0] if isinstance(given, tuple) else given)


def token_provider(call: Callable[[str], Any], config: str) -> AbstractTokenProvider:
    """Tokens from a function that gives one, or one with the moment of its end, or awaits either."""
    return _Tokens(call, config)
