"""How an engine that is being closed uses its time: steps end, handlers return, what they handed in is committed.

A fifth of the time is kept for handlers that do not return as soon as they are ended.
"""

import asyncio
from typing import Any, Protocol

from durable.runtime.roster import Roster

#: How long a commit may take that is under way when the time to shut down is over.
LAST_COMMIT_S = 1.0


class Host(Protocol):
    """What this needs of the engine's loop."""

    roster: Roster
    failure: BaseException | None

    @property
    def queued(self) -> int:
        """How many commands wait to be settled."""
        ...

    def busy(self) -> "list[asyncio.Future[Any]]":
        """What a turn that is under way waits for."""
        ...

    def time(self) -> float:
        """By the clock of its event loop."""
        ...


async def wind_down(host: Host, grace_s: float) -> None:
    """Let running steps end, then end the attempts, and commit what they handed in: within `grace_s` seconds.

    What has not returned by then is logged. A commit may still be under way: see `Host.busy`.
    """
    deadline = host.time() + grace_s
    await _drain(host, deadline - grace_s / 5)
    host.roster.end_all()
    await _drain(host, deadline)
    host.roster.bury()
    await _commit_rest(host, max(deadline, host.time() + LAST_COMMIT_S))


async def _drain(host: Host, deadline: float) -> None:
    """Wait until every coroutine of a handler has returned and nothing is left to commit."""
    while host.time() < deadline:
        waits = [*host.roster.tasks(), *host.busy()]
        if not waits:
            if not host.queued or host.failure is not None:
                return
            await asyncio.sleep(0)
            continue
        await asyncio.wait(waits, timeout=deadline - host.time(), return_when=asyncio.FIRST_COMPLETED)


async def _commit_rest(host: Host, deadline: float) -> None:
    """What was handed in becomes durable."""
    while (host.queued and host.failure is None) or host.busy():
        left = deadline - host.time()
        if left <= 0:
            return
        if busy := host.busy():
            await asyncio.wait(busy, timeout=left)
        else:
            await asyncio.sleep(0)
