"""What the client library calls: imported only where it is there."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.abc import AbstractTokenProvider


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
