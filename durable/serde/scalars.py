"""Scalars that need no Serde: numbers and texts of most steps, on the hot path."""

from collections.abc import Set
from typing import Any, Final

import msgspec

from durable.serde.untyped import ANY

_write: Final = msgspec.json.Encoder().encode
_OF: Final[dict[Any, Set[type]]] = {Any: {int, str, bool}, int: {int}, str: {str}, bool: {bool}}
_NONE: Final[Set[type]] = frozenset()


def write(value: Any) -> bytes:
    """Write one as its Serde does. Raises `SerializationError`."""
    try:
        return _write(value)
    except Exception:
        return ANY.encode(value)  # which says what is wrong


def scalars_of(annotation: Any) -> Set[type]:
    """Return the types whose values (not those of subclasses) an annotation's Serde reads back as they were."""
    return _OF.get(annotation, _NONE) if annotation is Any or type(annotation) is type else _NONE
