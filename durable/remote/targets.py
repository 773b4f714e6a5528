"""What a client invokes: a decorated handler, whose types it knows, or a name, for which values are plain JSON."""

from functools import lru_cache
from typing import Any

import msgspec

from durable.core.invocation import Flavor
from durable.errors import InvalidRequestError
from durable.runtime.registry import check_text
from durable.serde import ANY, ANY_READER, Serde, decoded, encoded, serde_for, unmarked
from durable.service import Handler
from durable.signature import REQUIRED

#: What the engine stores at most is told by the engine; this only keeps a request from being absurd.
_VALUE_SIZE_MAX = 2**30
_BYTES = "application/octet-stream"


class Target(msgspec.Struct, frozen=True, eq=False):
    """One handler, as far as it is known here."""

    service: str
    name: str
    input: Serde[Any]
    output: Serde[Any]
    #: None where only the name is known.
    flavor: Flavor | None = None
    has_input: bool = True
    default: Any = REQUIRED

    def __str__(self) -> str:
        """As targets are written."""
        return f"{self.service}/{self.name}"

    def body(self, arg: Any) -> tuple[str, bytes]:
        """Content type and body of an argument. Raises `SerializationError`, `InvalidRequestError`."""
        if arg is None and (self.flavor is None or not self.has_input or self.default is not REQUIRED):
            return "", b""
        if not self.has_input:
            raise InvalidRequestError(f"{self} takes no argument, but was given one of type {type(arg).__name__}")
        door = f"the argument of {self}"
        data = encoded(self.input, arg, door, _VALUE_SIZE_MAX)
        if self.flavor is not None:
            decoded(self.input.decode, data, door)  # encoding does not check types
        if self.input in (ANY, ANY_READER) and (raw := unmarked(data)) is not None:
            return _BYTES, raw
        return self.input.content_type, data

    def check_key(self, key: str | None) -> None:
        """Whether there is a key where one is needed. Raises `InvalidRequestError`."""
        if key is not None:
            check_text("key", key)
        if self.flavor is not None and self.flavor is not Flavor.SERVICE and key is None:
            raise InvalidRequestError(f"{self} runs on a key: pass key=...")
        if self.flavor is Flavor.SERVICE and key is not None:
            raise InvalidRequestError(f"{self} belongs to a plain service: it has no key")


def target_of(target: Handler[Any, Any] | str) -> Target:
    """What is named. Raises `InvalidRequestError`."""
    if isinstance(target, Handler):
        return _typed(_Key(target))
    service, slash, name = target.partition("/") if isinstance(target, str) else ("", "", "")
    if not slash or not service or not name or "/" in name:
        raise InvalidRequestError(
            f"a target is a function decorated with @handler or 'service/handler', not {target!r}"
        )
    return Target(service, name, ANY_READER, ANY)


class _Key:
    """A handler, equal to itself however often it is looked up on its class."""

    def __init__(self, handler: Handler[Any, Any]) -> None:
        self.handler = handler
        self._same = (handler.fn, handler.owner, handler.service_name, handler.name)

    def __hash__(self) -> int:
        return hash(self._same)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._same == other._same


@lru_cache(maxsize=1024)
def _typed(key: _Key) -> Target:
    handler = key.handler
    signature = handler.signature()
    return Target(
        handler.service_name,
        handler.name,
        serde_for(signature.input),
        serde_for(signature.output),
        handler.flavor,
        signature.has_input,
        signature.default,
    )
