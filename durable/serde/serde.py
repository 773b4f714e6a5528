"""What a Serde is: how values of one type are written and read."""

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Serde(msgspec.Struct, Generic[T], frozen=True, eq=False):
    """How values of one type are written and read.

    To store a type in your own format, make a Serde from two functions and put it into the annotation:
    `Annotated[T, my_serde]`. Both functions should raise `SerializationError` for what they cannot convert.
    """

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    #: The content type that is sent and expected over HTTP; empty if there is nothing to send.
    content_type: str = "application/octet-stream"
    #: Computes the JSON schema when somebody asks for it.
    json_schema: Callable[[], dict[str, Any] | None] = lambda: None
    #: Whether the same value gives the same bytes each time. With False (for encryption with a nonce, or bytes with a
    #: time in them), a replay compares everything except these bytes: it cannot find that a handler now passes on
    #: another value.
    stable: bool = True
    #: Makes what strangers can read of what is stored, where that is not the same.
    outward: Callable[[bytes], bytes] | None = None

    def schema(self) -> dict[str, Any] | None:
        """Return the JSON schema, a document that refers to nothing outside of it, or None where there is none."""
        text = _schema_text(self)
        return None if text is None else msgspec.json.decode(text)

    def description(self) -> str:
        """Return what is written in a few words: "JSON string", "JSON 'Order'", a content type, or "none"."""
        if not self.content_type:
            return "none"
        schema = self.schema() or {}
        named = schema.get("$defs", {}).get(schema.get("$ref", "").rpartition("/")[2], schema)
        if isinstance(title := named.get("title"), str):
            return f"JSON '{title}'"
        if isinstance(kind := named.get("type"), str):
            return f"JSON {kind}"
        return self.content_type


@functools.lru_cache(maxsize=1024)
def _schema_text(serde: Serde[Any]) -> bytes | None:
    """A schema as JSON: computed once, and nobody can change what others get."""
    try:
        schema = serde.json_schema()
        return msgspec.json.encode(schema) if isinstance(schema, dict) else None
    except Exception:  # it can be stored, but JSON schema has no words for it
        return None
