"""Is what was read back what was written? Asked where a class of the user's, or nobody, decides what is read.

A field can be excluded, masked or private, a validator can change it again, a subclass can be stored as its base, a
date can be stored where only text is read: the handler would then go on with something else than it was given, and
nobody would know.
"""

import datetime
import decimal
import functools
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from durable.serde.forms import model_fields, plain

#: A value, what was read back of it, and where it is.
_Pair = tuple[Any, Any, str]

_encode = msgspec.json.Encoder(order="sorted", enc_hook=plain).encode
_MARKS = ("__pydantic_core_schema__", "__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")
#: What is equal if it is equal: nothing is hidden in it.
_PLAIN = frozenset({
    int, str, float, bool, bytes, bytearray, type(None), decimal.Decimal, uuid.UUID,
    datetime.date, datetime.timedelta,
})  # fmt: skip
#: What JSON has.
_IN_JSON = (str, int, float, type(None))
_ARRAYS = (list, tuple, set, frozenset)
_MOMENTS = (datetime.datetime, datetime.time)


def difference(value: Any, back: Any, path: str = "it", *, any_reader: bool = False) -> str | None:
    """Where `back` is not `value`, in words that tell no value; None where nothing is lost.

    What no annotation describes comes back in the containers that JSON has, lists and dicts: that is no difference,
    as long as what they hold is the same. With `any_reader`, whoever reads it may say its type: only what nobody
    could read back is a difference. What is not written may hold its parent, or a chain of any length: each pair is
    compared once, without recursion.
    """
    todo: list[_Pair] = [(value, back, path)]
    seen: set[tuple[int, int]] = set()
    for value, back, path in todo:  # which grows
        if value is back or (pair := (id(value), id(back))) in seen:
            continue
        if (parts := _pairs(value, back, path)) is None:
            parts = _converted(value, back, path, any_reader)
        if isinstance(parts, str):
            return parts
        if parts:
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
            return [(part, back[key], f"{path}[{_shown(key)}]") for key, part in value.items()]
        layout = _layout(mine)
        if layout.record:
            return _of_records(value, back, layout, path)
    elif _layout(mine).record and _layout(read).record:
        return f"{path} is of the class `{mine.__qualname__}` and would come back as `{read.__qualname__}`"
    return None


def _converted(value: Any, back: Any, path: str, any_reader: bool) -> "list[_Pair] | str":
    """The parts to compare of what came back as something else, or what is lost."""
    kind: Any = type(value)
    if is_secret(kind):
        return [] if _equal(value, back) else f"{path} is a secret, which pydantic writes masked"
    if isinstance(value, dict) and isinstance(back, dict):
        return _of_keys(value, back, path, any_reader)
    if isinstance(value, _ARRAYS) and isinstance(back, list) and len(value) == len(back):
        both = enumerate(zip(value, back, strict=True))  # a set is written in the order that it has
        return [(part, other, f"{path}[{place}]") for place, (part, other) in both]
    if isinstance(back, dict | list) and _layout(kind).record:
        return _of_untyped(value, back, path)
    if kind is type(back) and kind in _MOMENTS:
        return _of_moments(value, back, path)
    if (kind is type(back) and _same(kind.__eq__, object.__eq__)) or _equal(value, back):
        return []  # of what knows no equality nothing can be said
    if isinstance(value, _IN_JSON) and not isinstance(back, (*_IN_JSON, *_ARRAYS, dict)):
        return []  # it was given as JSON has it, and comes back as what the annotation says
    if isinstance(value, (*_IN_JSON, *_ARRAYS, dict)):
        return [] if _alike(value, back) else f"{path} would come back as another value"
    if any_reader:
        return []
    return f"{path} is of the type `{kind.__qualname__}` and would come back as a `{type(back).__qualname__}`"


def _of_keys(value: dict[Any, Any], back: dict[Any, Any], path: str, any_reader: bool) -> "list[_Pair] | str":
    for key in value:
        if key in back:
            continue
        if isinstance(key, str) and len(value) > len(back):
            return f"{path}[{_shown(key)}] would be lost"
        if not any_reader and not isinstance(key, str):
            return f"{path} has a key of the type `{type(key).__qualname__}`, which would come back as a `str`"
    if len(value) != len(back):
        return f"{path} has keys that are the same in JSON"
    both = zip(value.items(), back.values(), strict=True)
    return [(part, other, f"{path}[{_shown(key)}]") for (key, part), other in both]


def _of_untyped(value: Any, back: Any, path: str) -> "list[_Pair] | str":
    """A record that comes back as what JSON has for it."""
    kind: Any = type(value)
    if hasattr(kind, "__pydantic_serializer__") and hasattr(value, "model_dump"):
        for name, one in model_fields(kind).items():
            if one.exclude and not _is_default(getattr(value, name, None), one):
                return f"{path}.{name} would be lost"
        return [(value.model_dump(by_alias=True, round_trip=True, warnings="none"), back, path)]
    fields = getattr(kind, "__struct_fields__", ())
    if isinstance(back, list):
        return [
            (getattr(value, name), other, f"{path}.{name}")
            for name, other in zip(fields, back[len(back) - len(fields) :], strict=True)
        ]
    written = dict(zip(fields, getattr(kind, "__struct_encode_fields__", ()), strict=True))
    omits = bool(fields) and kind.__struct_config__.omit_defaults
    layout, pairs = _layout(kind), []
    for name, part in _parts(value, layout).items():
        if (key := written.get(name, name)) in back:
            pairs.append((part, back[key], f"{path}.{name}"))
        elif name not in layout.computed and part is not msgspec.UNSET and not (omits and name in written):
            return f"{path}.{name} would be lost"
    return pairs


def _is_default(value: Any, field: Any) -> bool:
    try:
        return _equal(value, field.get_default(call_default_factory=True))
    except Exception:  # it follows from other fields
        return False


def _of_moments(value: Any, back: Any, path: str) -> "list[_Pair] | str":
    """Of two that may be equal: `==` looks neither at names of time zones nor at `fold`."""
    zone, other = (one.tzinfo.key if isinstance(one.tzinfo, ZoneInfo) else None for one in (value, back))
    if zone != other:
        return f"{path} would come back without its time zone, {zone}"
    if value.fold != back.fold:
        return f"{path} would come back without its `fold`"
    same = value.replace(tzinfo=None) == back.replace(tzinfo=None) and value.utcoffset() == back.utcoffset()
    return [] if same else f"{path} would come back as another value"


def _shown(key: Any) -> str:
    try:
        return f"{key!r:.40}"
    except Exception:  # of a class of the user's
        return f"({type(key).__qualname__})"


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
        pydantic=hasattr(kind, "__pydantic_core_schema__"),
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
