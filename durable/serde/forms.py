"""The JSON form of values that msgspec does not know: of a subclass, a path, a model without an annotation."""

import datetime
import decimal
import functools
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from durable.serde.refusals import name_of


def plain(value: Any) -> Any:
    """What is written for a value that msgspec does not know: a subclass as its base, a model as pydantic has it."""
    if isinstance(value, bool):
        raise TypeError("a key that is a `bool` has no text of its own")
    for base, convert in _BASES.items():
        if isinstance(value, base):
            return convert(value)
    if isinstance(value, _as_text()):
        return str(value)
    if is_model(value):
        return value.model_dump(mode="json", by_alias=True, round_trip=True, warnings="error")
    kind: Any = type(value)
    if hasattr(kind, "__get_pydantic_core_schema__") or kind.__module__.startswith("pydantic_core"):
        return _pydantic_type(kind).dump_python(value, mode="json", warnings="error")
    raise TypeError(f"no JSON form is known for {name_of(type(value))}")


@functools.lru_cache(maxsize=64)
def _pydantic_type(kind: type) -> Any:
    """What writes one of its types that is no model: a URL, a path."""
    import pydantic

    return pydantic.TypeAdapter(kind)


def is_model(value: Any) -> bool:
    """Whether it is one of pydantic's."""
    return hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump")


def model_fields(kind: Any) -> dict[str, Any]:
    """The fields of a model or dataclass of pydantic's."""
    fields = getattr(kind, "__pydantic_fields__", None)  # since 2.10, of models
    return dict(getattr(kind, "model_fields", None) or {} if fields is None else fields)


#: What is written as its text, and read back from that. Nobody has a value of a module that nobody has imported.
_AS_TEXT: Final = (
    ("pathlib", "PurePath"),
    ("ipaddress", "IPv4Address"),
    ("ipaddress", "IPv6Address"),
    ("ipaddress", "IPv4Network"),
    ("ipaddress", "IPv6Network"),
    ("ipaddress", "IPv4Interface"),
    ("ipaddress", "IPv6Interface"),
    ("fractions", "Fraction"),
    ("zoneinfo", "ZoneInfo"),
)


def _as_text() -> tuple[type[Any], ...]:
    return tuple([getattr(sys.modules[module], name) for module, name in _AS_TEXT if module in sys.modules])


def from_text(kind: type, value: Any) -> Any:
    """Read what `_AS_TEXT` has."""
    if kind is object or not isinstance(value, str) or not issubclass(kind, _as_text()):
        return value
    return kind(value)


def is_read(kind: type) -> bool:
    """Whether msgspec, or `from_text`, reads this type, which it does not know."""
    return kind is object or (isinstance(kind, type) and issubclass(kind, _as_text()))  # every value is an object


def schema_of(kind: type) -> dict[str, Any]:
    """For what is read from text; and for `object`, for which an empty schema would be taken for none."""
    return {"type": "string"} if kind is not object else {"description": "any value"}


#: How the value of a subclass becomes one of the class itself, whatever the subclass overrides.
_BASES: Final[dict[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes(memoryview(value)),
    datetime.datetime: lambda value: datetime.datetime.combine(
        datetime.date(value.year, value.month, value.day), value.timetz()
    ),
    datetime.date: lambda value: datetime.date(value.year, value.month, value.day),
    datetime.time: lambda value: datetime.time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    ),
    datetime.timedelta: lambda value: datetime.timedelta(value.days, value.seconds, value.microseconds),
    decimal.Decimal: decimal.Decimal,
}

ENCODER: Final = msgspec.json.Encoder(enc_hook=plain)

encode_stable = msgspec.json.Encoder(order="deterministic", enc_hook=plain).encode


def builtins(value: Any) -> Any:
    """The same value, as the dicts, lists and plain values that are written."""
    return msgspec.to_builtins(value, enc_hook=plain)
