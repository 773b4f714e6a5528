"""After a start: whoever had a slot when the engine stopped gets its next attempt.

After a crash each of them is charged for it, and those come last that were in one before: they are started one at a
time (`core/lifecycle/slots.py`), so that the one that kills its process is found and its neighbours are let be.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from durable.core.commands import Command, Crash, Recover, Recovered
from durable.core.effects import Need
from durable.core.retry import RetryPolicy
from durable.core.turn import SUSPECT
from durable.runtime.registry import Registry
from durable.store import CommitRefused, Store


class Charge(msgspec.Struct, frozen=True):
    """Who may have killed the process: the only suspect that was running, or the only invocation at all."""

    seq: int = 0
    policy: RetryPolicy | None = None


class Recovery:
    """Asks about all that had a slot, a batch a turn."""

    def __init__(
        self,
        store: Store,
        new: int,
        batch: int,
        submit: Callable[[Command], None],
        ask: Callable[[Callable[[int], Command]], Awaitable[Any]],
    ) -> None:
        self._store = store
        #: Those from this number on were accepted by this process.
        self._new = new
        self._batch = batch
        self._submit = submit
        self._ask = ask
        #: None after a clean close.
        self._charge: Charge | None = None

    async def look(self, registry: Registry, defaults: RetryPolicy) -> None:
        """After a crash, before anything runs: was somebody alone?"""
        suspects: list[int] = []
        count, last = 0, 0
        async for page in self._pages():
            count, last = count + len(page), page[-1][0]
            suspects += [seq for seq, crashes in page if crashes >= SUSPECT]
        alone = suspects[0] if len(suspects) == 1 else last if count == 1 else 0
        policy = None
        for one in (await self._store.load(Need(seqs={alone}))).invocations if alone else ():
            handler = registry.get(one.submission.service, one.submission.handler)
            policy = defaults if handler is None else handler.policy
        self._charge = Charge(alone, policy)

    async def run(self) -> None:
        """In batches, so that nobody new waits for a hundred thousand old ones."""
        last: list[int] = []
        async for page in self._pages():
            suspicious = {seq for seq, crashes in page if self._charge is not None and crashes + 1 >= SUSPECT}
            last += sorted(suspicious)
            await self._recover(seq for seq, _ in page if seq not in suspicious)
        for start in range(0, len(last), self._batch):
            await self._recover(last[start : start + self._batch])
        await self._ask(Recovered)

    async def _pages(self) -> AsyncIterator[list[tuple[int, int]]]:
        after = 0
        while page := [one for one in await self._store.running(after, self._batch) if one[0] < self._new]:
            after = page[-1][0]
            yield page

    async def _recover(self, seqs: Iterable[int]) -> None:
        commands = [partial(Recover, seq, crash=self._crash(seq)) for seq in seqs]
        for make in commands[:-1]:
            self._submit(make())
        if commands:
            with suppress(CommitRefused):  # it was logged; the next start looks at it again
                await self._ask(commands[-1])

    def _crash(self, seq: int) -> Crash | None:
        charge = self._charge
        return None if charge is None else Crash(charge.policy if seq == charge.seq else None)
