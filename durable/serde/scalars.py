"""Scalars that need no Serde: numbers and texts of most steps and handlers, on the hot path."""

from collections.abc import Set
from typing import Any, Final

import msgspec

from durable.serde.annotations import serde_for
from durable.serde.serde import Serde
from durable.serde.untyped import ANY

_write: Final = msgspec.json.Encoder().encode
_OF: Final[dict[Serde[Any], Set[type]]] = {
    ANY: {int, str, bool},
    **{serde_for(one): {one} for one in (int, str, bool)},
}
_NONE: Final[Set[type]] = frozenset()


def scalars_of(serde: Serde[Any]) -> Set[type]:
    """The types whose values (not of subclasses) a Serde writes as `write` does, and reads back as they were."""
    return _OF.get(serde, _NONE)


def write(value: Any) -> bytes | None:
    """The bytes of one; None where it cannot be written: its Serde says why."""
    try:
        return _write(value)
    except Exception:
        return None
