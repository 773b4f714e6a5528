"""A loop that runs nothing: what is asked of it is settled and committed, and that is all.

It has no slots, so whoever's turn comes waits for one, in the file, until an engine starts. No timer fires, nothing
that ran before is gone on with or charged with a crash, nothing is swept.
"""

from durable.errors import KeyMissingError
from durable.runtime.loop import Loop
from durable.store import check_in_clear


class RestingLoop(Loop):
    """Over a store whose engine is stopped."""

    async def start(self) -> None:
        """Open the store."""
        opened = await self.store.open()
        try:
            check_in_clear(opened.keys, self._name)
        except KeyMissingError:
            self._over = True
            await self.store.close()
            raise
        self._begin_with(opened, slots=0)
        self.revisions = {service: revision for service, (revision, _) in opened.declared.items()}
        self.timers.close()
        self.deadlocks.close()
        self._begin_keeping()
