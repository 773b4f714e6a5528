"""Callbacks for the client library, and what it logs. Imported only if the library is installed.

The library logs why it cannot reach a broker, and raises an error that does not say it. It logs the same many times a
second, and passwords at DEBUG. So only the reader of a subscription hears what the library logs about it.
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
    """Pass everything that the library logs in this task, and in tasks begun by it, to `hear`."""
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
    """Reports that the group shares out its partitions again."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell = tell

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """The partitions may belong to another consumer from now on."""
        self._tell(False)

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """The partitions are ours."""
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
    """Gets tokens from a function that returns (or awaits) a token, or a token and the moment at which it expires."""
    return _Tokens(call, config)
