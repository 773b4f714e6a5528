"""Is what was read back what was written? Asked where a class of the user's decides what is written and what is read.

A field can be excluded, masked or private, a validator can change it again, a subclass can be stored as its base: the
handler would then go on with something else than it was given, and nobody would know.
"""

import datetime
import decimal
import functools
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

#: A value, what was read back of it, and where it is.
_Pair = tuple[Any, Any, str]

_encode = msgspec.json.Encoder(order="sorted").encode
_MARKS = ("__pydantic_fields__", "__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")
#: What is equal if it is equal: nothing is hidden in it.
_PLAIN = frozenset({
    int, str, float, bool, bytes, bytearray, type(None), decimal.Decimal, uuid.UUID,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
})  # fmt: skip


def difference(value: Any, back: Any, path: str = "it") -> str | None:
    """Where `back` is not `value`, in words that tell no value; None where nothing is lost.

    A value that no annotation describes comes back as JSON has it: that is no difference. What is not written may
    hold its parent, or a chain of any length: each pair is compared once, without recursion.
    """
    todo: list[_Pair] = [(value, back, path)]
    seen: set[tuple[int, int]] = set()
    for value, back, path in todo:  # which grows
        if value is back or (pair := (id(value), id(back))) in seen:
            continue
        if (parts := _pairs(value, back, path)) is None:
            if (found := _unlike(value, back, path)) is not None:
                return found
        elif isinstance(parts, str):
            return parts
        elif parts:
            seen.add(pair)
            todo += parts
    return None


def _pairs(value: Any, back: Any, path: str) -> "list[_Pair] | str | None":
    """The parts to compare, or what is lost; None where both have no parts of the same names."""
    mine: Any = type(value)
    read: Any = type(back)
    if mine is read:
        if mine in _PLAIN and value == back:
            return []
        if mine is list or mine is tuple:
            if set(map(type, value)) <= _PLAIN and value == back:
                return []
            if len(value) == len(back):
                both = enumerate(zip(value, back, strict=True))
                return [(part, other, f"{path}[{place}]") for place, (part, other) in both]
        if mine is dict and value.keys() == back.keys():
            if set(map(type, value.values())) <= _PLAIN and value == back:
                return []
            return [(part, back[key], f"{path}[{key!r:.40}]") for key, part in value.items()]
        layout = _layout(mine)
        if layout.record:
            return _of_records(value, back, layout, path)
    elif _layout(mine).record and _layout(read).record:
        return f"{path} is of the class `{mine.__qualname__}` and would come back as `{read.__qualname__}`"
    return None


def _unlike(value: Any, back: Any, path: str) -> str | None:
    """Where two values without parts differ."""
    if is_secret(type(value)):
        return None if _equal(value, back) else f"{path} is a secret, which pydantic writes masked"
    if (type(value) is type(back) and _same(type(value).__eq__, object.__eq__)) or _alike(value, back):
        return None  # of what knows no equality nothing can be said
    return f"{path} would come back as another value"


def is_secret(kind: type) -> bool:
    """Whether it is written masked."""
    return hasattr(kind, "get_secret_value")


def _of_records(value: Any, back: Any, layout: "_Layout", path: str) -> "list[_Pair] | str":
    if layout.structs and value == back:
        return []
    theirs = _parts(back, layout)
    pairs: list[_Pair] = []
    for name, part in _parts(value, layout).items():
        if name in layout.computed:
            continue
        if name not in theirs:
            return f"{path}.{name} would be lost"
        other = theirs[name]
        if part is other or (type(part) in _PLAIN and type(other) is type(part) and part == other):
            continue
        pairs.append((part, other, f"{path}.{name}"))
    return pairs


class _Layout(NamedTuple):
    """Where a class keeps what it holds."""

    record: bool
    #: Whether what is in it is in fields of Structs alone, which their `==` compares.
    structs: bool
    pydantic: bool
    #: Whether it has a `__dict__`.
    open: bool
    #: Attributes that are not in `__dict__`, and what reads them.
    slots: tuple[tuple[str, Callable[[Any], Any]], ...]
    #: What is computed and kept, and no part of it.
    computed: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _layout(kind: type) -> _Layout:
    slots: dict[str, Callable[[Any], Any]] = {}
    computed: set[str] = set()
    for base in kind.__mro__:
        computed.update(name for name, one in base.__dict__.items() if isinstance(one, functools.cached_property))
        attributes = base.__dict__.get("__attrs_attrs__")
        names = None if attributes is None else {one.name for one in attributes}
        for name, one in base.__dict__.items():
            if not isinstance(one, types.MemberDescriptorType) or one.__objclass__ is not base or name[:2] == "__":
                continue
            if names is not None and name not in names:  # attrs keeps there what a cached property computed
                computed.add(name)
            slots.setdefault(name, one.__get__)
    return _Layout(
        record=any(hasattr(kind, mark) for mark in _MARKS),
        structs=hasattr(kind, "__struct_fields__") and _only_structs(kind),
        pydantic=hasattr(kind, "__pydantic_fields__"),
        open=kind.__dictoffset__ != 0,
        slots=tuple((name, read) for name, read in slots.items() if name not in computed),
        computed=frozenset(computed),
    )


def _only_structs(kind: type) -> bool:
    try:
        found = list(nodes(msgspec.inspect.type_info(kind)))
    except Exception:  # a name that does not resolve
        return False
    return not any(
        one.cls.__dictoffset__ if isinstance(one, msgspec.inspect.StructType) else isinstance(one, _OTHERS)
        for one in found
    )


#: What can hold more than `==` sees.
_OTHERS: Final = (msgspec.inspect.DataclassType, msgspec.inspect.AnyType, msgspec.inspect.CustomType)


def nodes(node: Any) -> Iterator[Any]:
    """All types below `node`, which is one of `msgspec.inspect`."""
    todo, seen = [node], set()
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, msgspec.inspect.CustomType):
            continue
        if isinstance(node, tuple):
            todo.extend(node)
        elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
            seen.add(id(node))  # types may be recursive
            todo.extend(getattr(node, name) for name in node.__struct_fields__ if name != "default")


def _parts(value: Any, layout: _Layout) -> dict[str, Any]:
    """All that it holds, private parts too. It runs nothing of its class: no property, no `__getattr__`."""
    parts: dict[str, Any] = object.__getattribute__(value, "__dict__") if layout.open else {}
    if layout.slots:
        parts = dict(parts)
        for name, read in layout.slots:
            try:
                parts[name] = read(value)
            except AttributeError:  # it was never set
                continue
    if layout.pydantic:
        private, extra = _held(value, "__pydantic_private__"), _held(value, "__pydantic_extra__")
        if private or extra:
            parts = {**parts, **(private or {}), **(extra or {})}
    return parts


def _held(value: Any, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


def _same(one: object, other: object) -> bool:
    return one is other


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
