"""Values to bytes and back, by annotation.

The engine journals only bytes. A handler always sees `decode(encode(value))`, live as well as on replay, so
what a conversion loses is lost at once and not only after a crash.

    annotation                              stored as
    bytes, bytearray                        the bytes themselves; constraints in `Annotated` are not checked
    None, Never                             nothing; `null` is read as well
    Struct, dataclass, TypedDict, attrs,    JSON, read back into the annotated type
      enum, datetime, builtins, unions, ...
    pydantic models, what contains them     JSON by pydantic, by alias and without computed fields
    Annotated[T, Serde(...)]                whatever that Serde writes
    Any, object, or no annotation           JSON, read back untyped: objects become dicts, tuples and sets
                                            become lists, dates become strings; top-level bytes stay bytes

A subclass of `str`, `int`, `float`, a date, ... is written as what it is a subclass of. A pydantic model without an
annotation is written as pydantic does, and comes back as a dict.

JSON has limits. NaN and infinity are refused. Bytes inside a larger value are base64, which only an annotation turns
back. An integer has at most 4300 digits; nothing is nested deeper than `MAX_DEPTH` (pydantic: `MAX_DEPTH_PYDANTIC`).
A pydantic `SecretStr` is written masked.
"""

import datetime
import decimal
import fractions
import functools
import inspect
import ipaddress
import math
import pathlib
import sys
import types
import typing
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from itertools import accumulate, takewhile
from typing import Annotated, Any, Final, Generic, TypeVar, cast

import msgspec

from durable.errors import DurableError, SerializationError, ValueTooLargeError
from durable.roundtrip import difference, nodes

__all__ = [
    "ANY",
    "BYTES_MARK",
    "MAX_DEPTH",
    "MAX_DEPTH_PYDANTIC",
    "Serde",
    "check_data",
    "decoded",
    "encoded",
    "named",
    "reader",
    "serde_for",
    "stable",
    "unmarked",
]

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


def _plain(value: Any) -> Any:
    """What is written for a value that msgspec does not know: a subclass as its base, a model as pydantic has it."""
    for base, convert in _BASES.items():
        if isinstance(value, base):
            return convert(value)
    if isinstance(value, _AS_TEXT):
        return str(value)
    if hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True, round_trip=True, warnings="error")
    raise TypeError(f"no JSON form is known for {_name(type(value))}")


#: What is written as its text, and read back from that.
_AS_TEXT: Final = (
    pathlib.PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    fractions.Fraction,
    zoneinfo.ZoneInfo,
)


def _from_text(kind: type, value: Any) -> Any:
    """Read what `_AS_TEXT` has."""
    if kind is object or not isinstance(value, str) or not issubclass(kind, _AS_TEXT):
        return value
    return kind(value)


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
_encode_stable = msgspec.json.Encoder(order="deterministic", enc_hook=_plain).encode

#: What stands before bytes that were written without an annotation. (No JSON text begins with a NUL.) It is long, so
#: that whoever reads them as `bytes` can tell it from the beginning of what was written as such.
BYTES_MARK: Final = b"\0bytes\0"

#: Levels of arrays and objects in one JSON document, in both directions.
MAX_DEPTH: Final = 200

#: The same for pydantic, which needs about 6 KiB of stack a level: this fits into a thread that has 256 KiB.
MAX_DEPTH_PYDANTIC: Final = 32

#: The first pydantic that can be told to refuse a value of another type than the annotation's.
PYDANTIC_MIN: Final = (2, 7)

WAY_OUT: Final = (
    "use builtins, a msgspec Struct, dataclass, TypedDict, attrs or pydantic model, "
    "or Annotated[T, Serde(encode=..., decode=...)]"
)


class Serde(msgspec.Struct, Generic[T], frozen=True, eq=False):
    """How values of one type are written and read.

    Make one from two functions and put it into an annotation, `Annotated[T, my_serde]`, to store a type in a
    format of your own. Both functions should raise `SerializationError` for what they cannot convert.
    """

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    #: Sent and expected over HTTP; empty when there is nothing to send.
    content_type: str = "application/octet-stream"
    #: Computes the JSON schema when someone asks for it.
    json_schema: Callable[[], dict[str, Any] | None] = lambda: None
    #: Whether the same value gives the same bytes each time. With False (encryption with a nonce, a time in it) a
    #: replay compares everything but these bytes: that a handler passes on another value now is not found.
    stable: bool = True

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


def serde_for(annotation: Any) -> Serde[Any]:
    """Return the Serde of an annotation.

    Raises `SerializationError` for a type that cannot be stored: here, and not when a value arrives.
    """
    try:
        return _cached(annotation, () if isinstance(annotation, type) else _order_of(annotation))
    except TypeError:  # unhashable, such as Annotated[int, []]
        return _build(annotation)


def reader(annotation: Any) -> Callable[[bytes], Any]:
    """What reads a value that may have been written where its type was not known. Raises as `serde_for`."""
    serde = serde_for(annotation)
    if serde.content_type == "application/json" or serde is _NONE or serde in _RAW.values():
        return serde.decode
    return lambda data: serde.decode(data.removeprefix(BYTES_MARK))


def _order_of(annotation: Any) -> tuple[Any, ...]:
    """Tells `A | B` from `B | A`, which are equal, at any depth: the first member that fits is read."""
    return tuple((part, _order_of(part)) for part in typing.get_args(annotation))


@functools.lru_cache(maxsize=1024)
def _schema_text(serde: Serde[Any]) -> bytes | None:
    """A schema as JSON: computed once, and nobody can change what others get."""
    try:
        schema = serde.json_schema()
        return msgspec.json.encode(schema) if isinstance(schema, dict) else None
    except Exception:  # it can be stored, but JSON schema has no words for it
        return None


def stable(value: Any, data: bytes, serde: Serde[Any] | None = None) -> bytes:
    """Bytes that stand for `value` in every process, given how it was encoded: sets and dicts are sorted.

    A set is otherwise written in the order of its hashes, which every process seeds anew. Nothing stands for what a
    serializer writes that is not stable.
    """
    if serde is not None and not serde.stable:
        return b""
    try:
        return _encode_stable(value)
    except Exception:  # pydantic, or a serializer of the user's: as they write it
        return data


def encoded(serde: Serde[Any], value: Any, door: str, limit: int) -> bytes:
    """The stored form of what goes in at `door`, whatever a serializer of the user's does.

    Raises `SerializationError`, and `ValueTooLargeError` above `limit` bytes.
    """
    try:
        data = serde.encode(value)
    except DurableError as exc:
        raise named(exc, door) from exc.__cause__
    except Exception as exc:
        raise SerializationError(f"cannot write {door}: its serializer failed with {reason_of(exc)}") from exc
    check_data(data, door, limit)
    return data


def check_data(data: object, door: str, limit: int) -> None:
    """Whether a serializer gave what can be stored at `door`. Raises as `encoded`."""
    if not isinstance(data, bytes):
        raise SerializationError(f"cannot write {door}: its serializer gave a {type(data).__name__}, not bytes")
    if len(data) > limit:
        raise ValueTooLargeError(door, len(data), limit)


def decoded(decode: Callable[[bytes], T], data: bytes, what: str) -> T:
    """Its value, whatever a serializer of the user's does. Raises `SerializationError`."""
    try:
        return decode(data)
    except DurableError as exc:
        raise named(exc, what) from exc.__cause__
    except Exception as exc:
        raise SerializationError(f"cannot read {what}: its serializer failed with {reason_of(exc)}") from exc


def named(error: E, what: str) -> E:
    """The error, saying whose value it is, where it is what a Serde raises."""
    if type(error) is not SerializationError:
        return error
    told, meant = SerializationError(f"{what}: {error}"), cast(SerializationError, error)
    told.reason, told.__cause__ = meant.reason, meant.__cause__
    return cast(E, told.with_traceback(meant.__traceback__))


def _build(annotation: Any) -> Serde[Any]:
    target = annotation
    while True:  # down to the type that is stored
        if typing.get_origin(target) is Annotated:
            for extra in target.__metadata__:
                if isinstance(extra, Serde):
                    return extra
            target = target.__origin__
        elif isinstance(target, TypeVar):
            if not target.__bound__ and not target.__constraints__:
                return _GENERIC
            annotation = target = target.__bound__ or typing.Union[target.__constraints__]  # noqa: UP007
        elif target is typing.LiteralString:
            annotation = target = str
        elif isinstance(target, typing.NewType):
            target = target.__supertype__
        elif type(target).__name__ == "TypeAliasType":
            target = target.__value__
        else:
            break
    if target is Any or target is object or target is inspect.Parameter.empty:
        return ANY
    if target is None or target in (types.NoneType, typing.NoReturn, typing.Never):
        return _NONE
    if target is bytes or target is bytearray:
        return _RAW[target]
    try:
        if "pydantic" in sys.modules and _mentions_pydantic(annotation, set()):
            return _pydantic(annotation)
        return _msgspec(annotation)
    except Exception as exc:
        raise SerializationError(f"cannot store {_name(annotation)}: {reason_of(exc)}; {WAY_OUT}") from exc


@functools.lru_cache(maxsize=1024)
def _cached(annotation: Any, order: tuple[Any, ...]) -> Serde[Any]:
    return _build(annotation)


def _msgspec(annotation: Any) -> Serde[Any]:
    info = msgspec.inspect.type_info(annotation)
    records = False
    for node in nodes(info):
        if isinstance(node, msgspec.inspect.CustomType) and not _is_read(node.cls):
            raise TypeError(f"no JSON form is known for {_name(node.cls)}")
        records = records or isinstance(node, _RECORDS)
    decode = msgspec.json.Decoder(annotation, dec_hook=_from_text).decode
    schema = functools.partial(msgspec.json.schema, annotation, schema_hook=_schema_of)
    return _json(annotation, _ENCODER.encode, decode, schema, _builtins, faithful=records)


_RECORDS: Final = (msgspec.inspect.StructType, msgspec.inspect.DataclassType)


def _is_read(kind: type) -> bool:
    """Whether msgspec, or `_from_text`, reads this type, which it does not know."""
    return kind is object or (isinstance(kind, type) and issubclass(kind, _AS_TEXT))  # every value is an object


def _schema_of(kind: type) -> dict[str, Any]:
    """For what is read from text; and for `object`, for which an empty schema would be taken for none."""
    return {"type": "string"} if kind is not object else {"description": "any value"}


def _mentions_pydantic(annotation: Any, seen: set[int]) -> bool:
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    annotation = getattr(annotation, "__value__", annotation)  # of a `type` alias
    if hasattr(annotation, "__pydantic_core_schema__"):
        return True
    if type(annotation).__module__.startswith(("pydantic.", "annotated_types")):  # Field() in an Annotated
        return True
    parts = list(typing.get_args(annotation))
    origin = typing.get_origin(annotation) or annotation
    if is_dataclass(origin) or typing.is_typeddict(origin) or hasattr(origin, "_fields"):
        with suppress(Exception):  # a name that does not resolve is reported by msgspec
            parts += typing.get_type_hints(origin, include_extras=True).values()
    return any(_mentions_pydantic(part, seen) for part in parts)


def _pydantic(annotation: Any) -> Serde[Any]:
    import pydantic

    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < PYDANTIC_MIN:
        raise TypeError(
            f"pydantic {pydantic.VERSION} is too old, {'.'.join(map(str, PYDANTIC_MIN))} or newer is needed"
        )
    adapter = pydantic.TypeAdapter[Any](annotation)
    # round_trip leaves out computed fields, which a model with extra="forbid" would not take back;
    # without "error", a value of another type is written with a warning that no one reads
    write = functools.partial(adapter.dump_json, by_alias=True, round_trip=True, warnings="error")
    schema = functools.partial(_pydantic_schema, adapter)
    plain = functools.partial(adapter.dump_python, by_alias=True, round_trip=True, warnings="none")
    return _json(annotation, write, adapter.validate_json, schema, plain, MAX_DEPTH_PYDANTIC, faithful=True)


def _pydantic_schema(adapter: Any) -> dict[str, Any] | None:
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        """Leaves out, without a warning, a default that JSON has no form for."""

        ignored_warning_kinds = GenerateJsonSchema.ignored_warning_kinds | {"non-serializable-default"}

    schema: dict[str, Any] = adapter.json_schema(schema_generator=Quiet)
    return schema


def _json(
    annotation: Any,
    write: Callable[[Any], bytes],
    read: Callable[[bytes], Any],
    schema: Callable[[], dict[str, Any] | None],
    plain: Callable[[Any], Any],
    depth_max: int = MAX_DEPTH,
    *,
    faithful: bool = False,
) -> Serde[Any]:
    """`plain` gives the same value in dicts and lists.

    `faithful`: what would come back as something else is refused.
    """
    short = 2 * depth_max  # no document of so many bytes is nested deeper
    takes_bytes = bytes in typing.get_args(annotation)  # as a member of a union

    def encode(value: Any) -> bytes:
        try:
            data = write(value)
        except Exception as exc:
            raise _encode_error(annotation, value, reason_of(exc)) from exc
        if b"null" in data and (where := _not_finite(plain(value))) is not None:
            raise _encode_error(annotation, value, f"{where}, and JSON has neither NaN nor infinity")
        if len(data) > short:
            _check_depth(data, depth_max)
        if faithful:
            check(value, data)
        return data

    def check(value: Any, data: bytes) -> None:
        try:
            back = read(data)
        except Exception as exc:
            raise _encode_error(annotation, value, f"it could not be read back, {reason_of(exc)}") from exc
        found = difference(value, back)
        if annotation is TypeVar and value != back:
            found = "a TypeVar does not say what to read it as"
        if found is not None:
            raise _encode_error(annotation, value, found)

    def decode(data: bytes) -> Any:
        if len(data) > short:
            _check_depth(data, depth_max)
        if takes_bytes and data.startswith(BYTES_MARK):
            return data[len(BYTES_MARK) :]
        try:
            return read(data)
        except Exception as exc:
            raise _decode_error(annotation, reason_of(exc)) from exc

    return Serde(encode, decode, "application/json", schema)


def _raw(kind: type) -> Serde[Any]:
    """Bytes as they are; where they were written without an annotation, they are read without the mark."""

    def encode(value: Any) -> bytes:
        if not isinstance(value, _BYTES):
            raise _encode_error(kind, value, "it is not bytes")
        data = bytes(value)
        return BYTES_MARK + data if data.startswith(BYTES_MARK) else data

    def decode(data: bytes) -> Any:
        return kind(data.removeprefix(BYTES_MARK))

    return Serde(encode, decode)


def unmarked(data: bytes) -> bytes | None:
    """The bytes that were written without an annotation; None for what is JSON."""
    if data[:1] != b"\0":
        return None
    return data[len(BYTES_MARK) if data.startswith(BYTES_MARK) else 1 :]  # earlier versions wrote the NUL alone


def _encode_none(value: Any) -> bytes:
    if value is not None:
        raise _encode_error(None, value, "the annotation promises None")
    return b""


def _decode_none(data: bytes) -> None:
    if data not in (b"", b"null"):
        raise _decode_error(None, f"expected nothing, got {len(data)} bytes")


def _encode_any(value: Any) -> bytes:
    if isinstance(value, _BYTES):
        return BYTES_MARK + value
    return _UNTYPED.encode(value)


def _decode_any(data: bytes) -> Any:
    if not data:
        return None
    found = unmarked(data)
    return _UNTYPED.decode(data) if found is None else found


def _builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=_plain)


def _not_finite(value: Any, path: str = "it") -> str | None:
    """Where a value has what would be written as null: "it['items'][3] is nan"; None where nothing is."""
    todo = [(value, path)]
    while todo:
        value, path = todo.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return f"{path} is {value!r}"
        elif isinstance(value, dict):
            todo.extend((part, f"{path}[{key!r:.40}]") for key, part in value.items())
        elif isinstance(value, list | tuple | set | frozenset):
            todo.extend((part, f"{path}[{place}]") for place, part in enumerate(value))
    return None


_BYTES: Final = (bytes, bytearray, memoryview)
_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)
_RAW: Final = {kind: _raw(kind) for kind in (bytes, bytearray)}
_NONE: Final[Serde[Any]] = Serde(_encode_none, _decode_none, "", lambda: {"type": "null"})
_GENERIC: Final = _json(
    TypeVar, msgspec.json.Encoder().encode, msgspec.json.Decoder().decode, dict, _builtins, faithful=True
)
_UNTYPED: Final = _json(Any, _ENCODER.encode, msgspec.json.Decoder().decode, dict, _builtins)

#: For values without an annotation. Bytes are marked; an empty input is None.
ANY: Final[Serde[Any]] = Serde(_encode_any, _decode_any, "application/json", dict)


_TO_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEP: Final = bytes(set(range(256)) - set(b'[{]}"'))


def _check_depth(data: bytes, limit: int) -> None:
    """Refuse what a parser without a limit of its own could overflow a small stack with.

    Everything here is linear and runs in C: a cheap bound first, then the brackets alone, outside of strings.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # An opening bracket is +1, a closing one -1. Two quotes without a bracket between them cancel out.
    steps = data.translate(_TO_STEPS, _NO_STEP).replace(b'""', b"")
    if b'"' in steps:
        steps = _outside_quotes(steps)
    levels, before = limit, len(steps) + 1
    while levels and len(steps) < before:  # peel off innermost pairs: little is left of an ordinary document
        before = len(steps) * 7 // 8
        steps = steps.replace(b"\x01\xff", b"")
        levels -= 1
        if len(steps) <= levels:
            return
    depths = takewhile((-1).__lt__, accumulate(memoryview(steps).cast("b")))
    if any(map(levels.__lt__, depths)):
        raise SerializationError(f"JSON nested deeper than {limit} levels: flatten the value")


def _outside_quotes(steps: bytes) -> bytes:
    kept, inside = [], 0
    for start in range(0, len(steps), 65536):  # in pieces, or the parts would need many times the memory
        parts = steps[start : start + 65536].split(b'"')
        kept.append(b"".join(parts[inside::2]))
        inside = (inside + len(parts) - 1) % 2
    return b"".join(kept)


def _encode_error(annotation: Any, value: Any, reason: str) -> SerializationError:
    declared = "without an annotation" if annotation is Any else f"annotated as {_name(annotation)}"
    found = f"a value of type {_name(type(value))}"
    if _never_awaited(value):
        return SerializationError(f"cannot write {found} {declared}: did you forget `await`? It is no value yet")
    return SerializationError(f"cannot write {found} {declared}: {reason}; convert it first, or {WAY_OUT}")


def _never_awaited(value: Any) -> bool:
    """Whether it is, or contains, what somebody has to await first."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return any(hasattr(type(one), "__await__") for one in (value, *inside))


def _decode_error(annotation: Any, reason: str) -> SerializationError:
    if "Expected `float" in reason and "got `null`" in reason:
        reason += " (NaN and infinity are written as null: JSON has neither)"
    return SerializationError(f"cannot read {'JSON' if annotation is Any else _name(annotation)}: {reason}")


def reason_of(exc: Exception) -> str:
    """What an exception says, in a line."""
    try:
        text = str(exc).encode("utf-8", "backslashreplace").decode()
    except Exception:
        text = "(its message cannot be shown)"
    return f"{type(exc).__name__}: {text[:1000]}"


def _name(annotation: Any) -> str:
    return f"`{annotation.__qualname__ if isinstance(annotation, type) else annotation}`"
