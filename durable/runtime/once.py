"""What is asked from outside with an idempotency key: what stands for it, and what is said of a key used twice."""

from contextlib import suppress
from typing import Any

import msgspec

from durable import log
from durable.core.effects import Reply
from durable.core.ids import fingerprint
from durable.core.journal import Outcome
from durable.core.once import Once
from durable.errors import ConflictError
from durable.runtime.registry import Registry, check_idempotency_key
from durable.serde import stable, unmarked


def asked_once(idempotency_key: str | None, *asked: bytes) -> Once | None:
    """What makes a command take effect once, where it has a key; `asked` is what else it is asked with.

    Raises `InvalidRequestError`.
    """
    if idempotency_key is None:
        return None
    check_idempotency_key(idempotency_key)
    return Once(idempotency_key, fingerprint(*asked))


def told_once(idempotency_key: str | None, outcome: Outcome, value: Any = msgspec.UNSET) -> Once | None:
    """The same of an outcome that is handed over; its value is compared as JSON, or as given: sets have any order."""
    data = outcome.value
    if idempotency_key is not None and outcome.ok and unmarked(data) is None:
        with suppress(msgspec.MsgspecError):  # what is no JSON is compared as it is
            data = stable(msgspec.json.decode(data) if value is msgspec.UNSET else value, data)
    return asked_once(idempotency_key, b"%d" % outcome.ok, data)


def told_again(reply: Reply, once: Once | None, what: str, registry: Registry, handler: tuple[str, str]) -> None:
    """Say that a key was used before for something else, if it was.

    Raises `ConflictError` where the handler (that of the invocation it was asked of, if there is one) refuses that.
    """
    if once is None or not reply.differs:
        return
    service, name = handler if reply.found is None else (reply.found.service, reply.found.handler)
    said = f"the idempotency key {once.key!r} was used before to {what}, with something else"
    if registry.on_key_reuse(service, name) == "refuse":
        raise ConflictError(f"{said}: that has taken effect, this has not; use another key")
    log.invocation.warning("%s; this one is not done, the answer is the first one's", said)
