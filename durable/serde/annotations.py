"""The Serde of an annotation."""

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec

from durable.errors import SerializationError
from durable.serde.documents import BYTES_MARK, json_serde
from durable.serde.forms import ENCODER, builtins, from_text, is_read, schema_of
from durable.serde.hints import below
from durable.serde.models import mentions_pydantic, pydantic_serde
from durable.serde.places import places_of, with_moments
from durable.serde.refusals import WAY_OUT, name_of, reason_of
from durable.serde.roundtrip import nodes
from durable.serde.serde import Serde
from durable.serde.untyped import ANY, ANY_READER, GENERIC, NONE, RAW


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
    if serde.content_type == "application/json" or serde is NONE or serde in RAW.values():
        return serde.decode
    return lambda data: serde.decode(data.removeprefix(BYTES_MARK))


def writer(annotation: Any) -> Serde[Any]:
    """What writes a value whose reader may know more of its type than its writer does. Raises as `serde_for`."""
    serde = serde_for(annotation)
    return ANY_READER if serde is ANY else serde


def _order_of(annotation: Any) -> tuple[Any, ...]:
    """Tells `A | B` from `B | A`, which are equal, at any depth: the first member that fits is read."""
    return tuple((part, _order_of(part)) for part in typing.get_args(annotation))


@functools.lru_cache(maxsize=1024)
def _cached(annotation: Any, order: tuple[Any, ...]) -> Serde[Any]:
    return _build(annotation)


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
                return GENERIC
            annotation = target = target.__bound__ or typing.Union[target.__constraints__]  # noqa: UP007
        elif target is typing.LiteralString:
            annotation = target = str
        elif isinstance(target, typing.NewType):
            target = target.__supertype__
        elif type(target).__name__ == "TypeAliasType":
            annotation = target = target.__value__
        else:
            break
    if target is Any or target is object or target is inspect.Parameter.empty:
        return ANY
    if target is None or target in (types.NoneType, typing.NoReturn, typing.Never):
        return NONE
    if target is bytes or target is bytearray:
        return RAW[target]
    try:
        if any(isinstance(part, Serde) for part in below(annotation)):
            raise TypeError("a Serde inside of something is not asked: annotate the whole value with one")
        if "pydantic" in sys.modules and mentions_pydantic(annotation, {}):
            return pydantic_serde(annotation)
        return _msgspec(annotation)
    except RecursionError as exc:
        raise SerializationError(
            f"cannot store {name_of(annotation)}: it is a type alias that contains itself: use Any, or a record"
        ) from exc
    except Exception as exc:
        raise SerializationError(f"cannot store {name_of(annotation)}: {reason_of(exc)}; {WAY_OUT}") from exc


def _msgspec(annotation: Any) -> Serde[Any]:
    info = msgspec.inspect.type_info(annotation)
    records = False
    for node in nodes(info):
        if isinstance(node, msgspec.inspect.CustomType) and not is_read(node.cls):
            raise TypeError(f"no JSON form is known for {name_of(node.cls)}")
        records = records or isinstance(node, _RECORDS)
    write: Callable[[Any], bytes] = ENCODER.encode
    read: Callable[[bytes], Any] = msgspec.json.Decoder(annotation, dec_hook=from_text).decode
    if (places := places_of(info)) is not None:
        write, read = with_moments(annotation, info, places, read)
    schema = functools.partial(msgspec.json.schema, annotation, schema_hook=schema_of)
    return json_serde(
        annotation, write, read, schema, builtins,
        records=records, usual=None if places is None else ENCODER.encode,
    )  # fmt: skip


_RECORDS: Final = (msgspec.inspect.StructType, msgspec.inspect.DataclassType)
