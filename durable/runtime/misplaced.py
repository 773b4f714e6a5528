"""`engine.call()` and `engine.send()` in a handler, where `ctx.call()` and `ctx.send()` are meant."""

from durable import log
from durable.errors import UsageError
from durable.runtime.attempt import Attempt
from durable.runtime.current import CURRENT
from durable.service import Handler


class Misplaced:
    """Says so once for each handler; where the engine is strict it is an error."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._told: set[tuple[str, str]] = set()

    def asks(self, how: str, target: object) -> None:
        """Somebody invokes through the engine. Raises `UsageError` for a handler of a strict one."""
        here = CURRENT.get()
        if not isinstance(here, Attempt):
            return
        handler = here.handler
        name = f"{handler.service}/{handler.name}"
        asked = f"{target.service_name}/{target.name}" if isinstance(target, Handler) else str(target)
        text = (
            f"{name}: engine.{how}({asked}) in a handler is in no journal, and done again on each attempt: use "
            f"ctx.{how}(), or in a step engine.{how}(..., idempotency_key=...)"
        )
        if self._strict:
            raise UsageError(text)
        if (name, how) not in self._told:
            self._told.add((name, how))
            log.engine.warning("%s", text)
