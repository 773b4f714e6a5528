"""What readers need of the engine."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from durable.core.commands import Command
from durable.core.sources import GroupPartition, Position
from durable.core.world import World
from durable.runtime.observer import Observer


class Host(Protocol):
    """The part of the engine's loop that readers use."""

    world: World
    failure: BaseException | None
    #: How far partitions have been taken, as far as that is durable: what people and brokers are told.
    positions: dict[GroupPartition, Position]
    observer: Observer | None

    @property
    def queued(self) -> int:
        """How many commands wait to be settled."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether so many commands wait to be settled that no more are taken from outside."""
        ...

    def admitted(self) -> "asyncio.Future[None]":
        """Done when a turn has taken enough of what was submitted."""
        ...

    def ask(self, make: Callable[[int], Command]) -> "asyncio.Future[Any]":
        """Submit a command; done with the reply."""
        ...
