"""Is what was read back what was written? Asked where a class of the user's decides what is written and what is read.

A field can be excluded, masked or private, a validator can change it again, a subclass can be stored as its base: the
handler would then go on with something else than it was given, and nobody would know.
"""

import datetime
import decimal
import functools
import uuid
from typing import Any, NamedTuple

import msgspec

_encode = msgspec.json.Encoder(order="sorted").encode
_MARKS = ("__pydantic_fields__", "__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")
#: What is equal if it is equal: nothing is hidden in it.
_PLAIN = frozenset({
    int, str, float, bool, bytes, bytearray, type(None), decimal.Decimal, uuid.UUID,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
})  # fmt: skip


def difference(value: Any, back: Any, path: str = "it") -> str | None:
    """Where `back` is not `value`, in words that tell no value; None where nothing is lost.

    A value that no annotation describes comes back as JSON has it: that is no difference.
    """
    if value is back:
        return None
    mine: Any = type(value)
    read: Any = type(back)
    if mine is read:
        if mine in _PLAIN and value == back:
            return None
        if mine is list or mine is tuple:
            if value == back and set(map(type, value)) <= _PLAIN:
                return None
            if len(value) == len(back):
                parts = enumerate(zip(value, back, strict=True))
                return _first(difference(part, other, f"{path}[{place}]") for place, (part, other) in parts)
        if mine is dict and value.keys() == back.keys():
            if value == back and set(map(type, value.values())) <= _PLAIN:
                return None
            return _first(difference(part, back[key], f"{path}[{key!r:.40}]") for key, part in value.items())
        layout = _layout(mine)
        if layout.record:
            return _of_records(value, back, layout, path)
    elif _layout(mine).record and _layout(read).record:
        return f"{path} is of the class `{mine.__qualname__}` and would come back as `{read.__qualname__}`"
    if is_secret(mine):
        return None if _equal(value, back) else f"{path} is a secret, which pydantic writes masked"
    if (mine is read and _same(mine.__eq__, object.__eq__)) or _alike(value, back):
        return None  # of what knows no equality nothing can be said
    return f"{path} would come back as another value"


def is_secret(kind: type) -> bool:
    """Whether it is written masked."""
    return hasattr(kind, "get_secret_value")


def _of_records(value: Any, back: Any, layout: "_Layout", path: str) -> str | None:
    if layout.struct and value == back:  # of the same class, and so is all in them
        return None
    theirs = _parts(back, layout)
    for name, part in _parts(value, layout).items():
        if name in layout.computed:
            continue
        if name not in theirs:
            return f"{path}.{name} would be lost"
        other = theirs[name]
        if part is other or (type(part) in _PLAIN and type(other) is type(part) and part == other):
            continue
        if (found := difference(part, other, f"{path}.{name}")) is not None:
            return found
    return None


class _Layout(NamedTuple):
    """Where a class keeps what it holds."""

    record: bool
    struct: bool
    pydantic: bool
    #: Attributes that are not in `__dict__`.
    slots: tuple[str, ...]
    #: What is computed and kept, and no part of it.
    computed: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _layout(kind: type) -> _Layout:
    slots: list[str] = list(getattr(kind, "__struct_fields__", ()))
    computed: set[str] = set()
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        slots += (own,) if isinstance(own, str) else own
        computed.update(name for name, one in base.__dict__.items() if isinstance(one, functools.cached_property))
    return _Layout(
        record=any(hasattr(kind, mark) for mark in _MARKS),
        struct=hasattr(kind, "__struct_fields__"),
        pydantic=hasattr(kind, "__pydantic_fields__"),
        slots=tuple(name for name in dict.fromkeys(slots) if not name.startswith("__")),
        computed=frozenset(computed),
    )


def _parts(value: Any, layout: _Layout) -> dict[str, Any]:
    """All that it holds, private parts too."""
    parts: dict[str, Any] = getattr(value, "__dict__", {})
    if layout.slots:
        parts = {**parts, **{name: getattr(value, name) for name in layout.slots if hasattr(value, name)}}
    if layout.pydantic:
        private, extra = getattr(value, "__pydantic_private__", None), getattr(value, "__pydantic_extra__", None)
        if private or extra:
            parts = {**parts, **(private or {}), **(extra or {})}
    return parts


def _same(one: object, other: object) -> bool:
    return one is other


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


def _equal(value: Any, back: Any) -> bool:
    try:
        return bool(value == back)
    except Exception:
        return False


def _alike(value: Any, back: Any) -> bool:
    """Whether JSON has the same for both."""
    if _equal(value, back):
        return True
    try:
        if isinstance(value, set | frozenset) and isinstance(back, list):
            return sorted(map(_encode, value)) == sorted(map(_encode, back))
        return _encode(value) == _encode(back)
    except Exception:
        return False
