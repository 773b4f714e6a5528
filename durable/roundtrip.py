"""Is what was read back what was written? Asked where a class of the user's decides what is written and what is read.

A field can be excluded, masked or private, a validator can change it again, a subclass can be stored as its base: the
handler would then go on with something else than it was given, and nobody would know.
"""

import functools
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="deterministic").encode
_MARKS = ("__pydantic_fields__", "__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")


def difference(value: Any, back: Any, path: str = "it") -> str | None:
    """Where `back` is not `value`, in words that tell no value; None where nothing is lost.

    A value that no annotation describes comes back as JSON has it: that is no difference.
    """
    if value is back:
        return None
    mine, read = type(value), type(back)
    if hasattr(mine, "get_secret_value") and not _equal(value, back):
        return f"{path} is a secret, which pydantic writes masked"
    if mine is read and hasattr(mine, "__struct_fields__") and _equal(value, back):
        return None  # Structs are equal if they are of the same class, and all in them is
    if mine is not read:
        if _is_record(mine) and _is_record(read):
            return f"{path} is of the class `{mine.__qualname__}` and would come back as `{read.__qualname__}`"
        return None if _alike(value, back) else f"{path} would come back as another value"
    if _is_record(mine):
        theirs = _parts(back)
        for name, part in _parts(value).items():
            if name not in theirs:
                return f"{path}.{name} would be lost"
            if (found := difference(part, theirs[name], f"{path}.{name}")) is not None:
                return found
        return None
    if issubclass(mine, dict) and value.keys() == back.keys():
        return _first(difference(part, back[key], f"{path}[{key!r:.40}]") for key, part in value.items())
    if issubclass(mine, list | tuple) and len(value) == len(back):
        return _first(
            difference(part, other, f"{path}[{place}]")
            for place, (part, other) in enumerate(zip(value, back, strict=True))
        )
    if _same(mine.__eq__, object.__eq__) or _equal(value, back) or _alike(value, back):
        return None  # of what knows no equality nothing can be said
    return f"{path} would come back as another value"


def _same(one: object, other: object) -> bool:
    return one is other


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


def _is_record(kind: type) -> bool:
    return any(hasattr(kind, mark) for mark in _MARKS)


def _parts(value: Any) -> dict[str, Any]:
    """All that it holds, private parts too; what it has computed and keeps is no part of it."""
    kind = type(value)
    parts = dict(getattr(value, "__dict__", {}))
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and not name.startswith("__pydantic") and hasattr(value, name):
                parts[name] = getattr(value, name)
    for name in getattr(kind, "__struct_fields__", ()):
        parts[name] = getattr(value, name)
    if hasattr(kind, "__pydantic_fields__"):
        parts |= getattr(value, "__pydantic_private__", None) or {}
        parts |= getattr(value, "__pydantic_extra__", None) or {}
    return {
        name: part
        for name, part in parts.items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }


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
