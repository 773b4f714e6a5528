"""After a start: whoever had a slot when the engine stopped gets its next attempt.

After a crash each of them is charged for it, and those come last that were in one before: they are tried one half
after the other (`core/trials.py`), so that the one that kills its process is found and its neighbours are let be.
Where some were on trial, of the suspects only they are charged.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from durable.core.commands import Command, Crash, Recover, Recovered
from durable.core.effects import Need
from durable.core.retry import RetryPolicy
from durable.core.trials import SUSPECT, Blame, blame
from durable.runtime.registry import Registry
from durable.store import CommitRefused, Store


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
        self._blame: Blame | None = None
        #: Of the only one that it can have been.
        self._policy: RetryPolicy | None = None

    async def look(self, registry: Registry, defaults: RetryPolicy) -> None:
        """After a crash, before anything runs: who may have been the cause?"""
        ran = [one async for page in self._pages() for one in page]
        self._blame = blame(ran)
        alone = self._blame.alone
        for one in (await self._store.load(Need(seqs={alone}))).invocations if alone else ():
            handler = registry.get(one.submission.service, one.submission.handler)
            self._policy = defaults if handler is None else handler.policy

    async def run(self) -> None:
        """In batches, so that nobody new waits for a hundred thousand old ones."""
        last: list[int] = []
        async for page in self._pages():
            suspicious = {seq for seq, crashes, _ in page if self._blame is not None and crashes + 1 >= SUSPECT}
            last += sorted(suspicious)
            await self._recover(seq for seq, _, _ in page if seq not in suspicious)
        for start in range(0, len(last), self._batch):
            await self._recover(last[start : start + self._batch])
        await self._ask(Recovered)

    async def _pages(self) -> AsyncIterator[list[tuple[int, int, int]]]:
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
        if self._blame is None or seq in self._blame.spared:
            return None
        return Crash(self._policy if seq == self._blame.alone else None)
