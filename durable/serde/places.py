"""Where an annotation has dates with times, or times: in JSON, only the annotation tells them from text."""

import datetime
import decimal
import operator
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import inspect

from durable.serde import moments
from durable.serde.forms import ENCODER, from_text, is_model, plain
from durable.serde.model_moments import named
from durable.serde.roundtrip import nodes

#: Given what stands where a moment belongs, and of which type that is: what shall stand there instead.
Change = Callable[[Any, type], Any]

_MOMENTS: Final[dict[type, type]] = {
    inspect.DateTimeType: datetime.datetime,
    inspect.TimeType: datetime.time,
}


_UTC: Final = datetime.UTC


def places_of(node: Any) -> "Places | None":
    """The places in a type, one of `msgspec.inspect`; None where it has none."""
    return _places(node, {})


def _places(node: Any, known: "dict[int, Places | None]") -> "Places | None":
    if id(node) not in known:
        known[id(node)] = None
        if any(type(part) in _MOMENTS for part in nodes(node)):
            found = known[id(node)] = Places()  # it may be below itself
            for member in node.types if isinstance(node, inspect.UnionType) else (node,):
                found.take(member, lambda below: _places(below, known))
    return known[id(node)]


def with_moments(
    annotation: Any, node: Any, places: "Places", decode: Callable[[bytes], Any]
) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """What writes and reads a type with moments, given what reads it where all of them are as RFC 3339 has them."""
    kinds = {type(part) for part in nodes(node)}
    exact = inspect.DecimalType in kinds and inspect.AnyType not in kinds
    parse = msgspec.json.Decoder(float_hook=decimal.Decimal if exact else None).decode

    def write(value: Any) -> bytes:
        data = ENCODER.encode(value)
        if moments.may_be_in(data):
            tree = msgspec.to_builtins(value, builtin_types=moments.KINDS, enc_hook=plain)
            told = places.change(tree, _written)
            if told is not tree:
                return ENCODER.encode(told)
        return data

    def read(data: bytes) -> Any:
        if moments.brackets_in(data):
            tree = parse(data)
            told = places.change(tree, _read)
            if told is not tree:
                return msgspec.convert(told, annotation, dec_hook=from_text, str_keys=True)
        return decode(data)

    return write, read


def write_anywhere(value: Any) -> bytes:
    """Write what no annotation describes."""
    data = ENCODER.encode(value)
    if not moments.may_be_in(data):
        return data
    return ENCODER.encode(_anywhere(msgspec.to_builtins(value, builtin_types=moments.KINDS, enc_hook=_with_zones)))


def _with_zones(value: Any) -> Any:
    told = plain(value)
    return named(value.model_dump(by_alias=True, round_trip=True, warnings="none"), told) if is_model(value) else told


def _anywhere(value: Any) -> Any:
    """The same with the text of moments, where that is another than usual. What has none is the same object."""
    kind = type(value)
    if kind is dict:
        told = {_anywhere(key): _anywhere(part) for key, part in value.items()}
        same = all(map(operator.is_, told.values(), value.values())) and all(map(operator.is_, told, value))
        return value if same else told
    if kind is list or kind is tuple:
        return _unless_same(value, [_anywhere(part) for part in value])
    return moments.written(value) if kind in moments.KINDS else value


def _written(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        return value
    zone = value.tzinfo  # type: ignore[attr-defined]
    return value if (zone is None or zone is _UTC) and not value.fold else moments.written(value)  # type: ignore[attr-defined]


def _read(value: Any, kind: type) -> Any:
    return moments.read(value, kind) if isinstance(value, str) and value.endswith("]") else value


class Places:
    """Those of one type. A union has at most one member for what is text in JSON, and one for lists, and for objects
    one, or several with tags: so what is found says which member it is."""

    def __init__(self) -> None:
        self._moment: type | None = None
        self._keys: Places | None = None
        self._values: Places | None = None
        self._items: Places | None = None
        #: By tag: the places in fields, by name; or by position.
        self._fields: dict[Any, dict[Any, Places]] = {}
        self._tag_field: str | None = None
        #: Those of the only member that has fields.
        self._only: dict[Any, Places] | None = None

    def take(self, node: Any, below: "Callable[[Any], Places | None]") -> None:
        """Add one member of a union, or what is none."""
        if type(node) in _MOMENTS:
            self._moment = _MOMENTS[type(node)]
        elif isinstance(node, inspect.DictType):
            self._keys, self._values = below(node.key_type), below(node.value_type)
        elif isinstance(node, inspect.TupleType):
            self._fields[None] = _kept((at, below(item)) for at, item in enumerate(node.item_types))
        elif isinstance(node, inspect.StructType):
            first = int(node.array_like and node.tag is not None)
            self._tag_field = node.tag_field
            names = [at + first if node.array_like else one.encode_name for at, one in enumerate(node.fields)]
            parts = [below(one.type) for one in node.fields]
            self._fields[node.tag] = _kept(zip(names, parts, strict=True))
        elif isinstance(node, inspect.NamedTupleType):
            self._fields[None] = _kept((at, below(one.type)) for at, one in enumerate(node.fields))
        elif isinstance(node, inspect.DataclassType | inspect.TypedDictType):
            self._fields[None] = _kept((one.encode_name, below(one.type)) for one in node.fields)
        elif hasattr(node, "item_type"):
            self._items = below(node.item_type)
        self._only = next(iter(self._fields.values())) if len(self._fields) == 1 else None

    def change(self, value: Any, change: Change) -> Any:
        """The same, as JSON has it, with other moments. What has none to change is the same object."""
        kind = type(value)
        if kind is self._moment:
            return change(value, kind)
        if kind is dict:
            if self._keys is not None or self._values is not None:
                return self._of_dict(value, change)
            tagged = self._only or self._tagged(value.get(self._tag_field))
            return self._of_parts(value, tagged, change)
        if kind is list or kind is tuple:
            if self._items is not None:
                return _unless_same(value, [self._items.change(part, change) for part in value])
            return self._of_parts(value, self._only or self._tagged(value[0] if value else None), change)
        return value if self._moment is None else change(value, self._moment)

    def _of_dict(self, value: dict[Any, Any], change: Change) -> dict[Any, Any]:
        told = {
            key if self._keys is None else self._keys.change(key, change): (
                part if self._values is None else self._values.change(part, change)
            )
            for key, part in value.items()
        }
        same = all(map(operator.is_, told.values(), value.values())) and all(map(operator.is_, told, value))
        return value if same else told

    def _tagged(self, tag: Any) -> "dict[Any, Places]":
        return self._fields.get(tag, {}) if isinstance(tag, str | int) else {}

    def _of_parts(self, value: Any, places: "dict[Any, Places]", change: Change) -> Any:
        told: Any = None
        for name, place in places.items():
            if name in value if isinstance(value, dict) else name < len(value):
                part = value[name]
                changed = place.change(part, change)
                if changed is not part:
                    if told is None:
                        told = dict(value) if isinstance(value, dict) else list(value)
                    told[name] = changed
        return value if told is None else told


def _kept(pairs: "Iterable[tuple[Any, Places | None]]") -> "dict[Any, Places]":
    return {name: place for name, place in pairs if place is not None}


def _unless_same(value: Any, told: list[Any]) -> Any:
    return value if all(map(operator.is_, told, value)) else told
