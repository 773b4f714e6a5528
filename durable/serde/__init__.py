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

from durable.serde.annotations import reader, serde_for, writer
from durable.serde.depth import MAX_DEPTH, MAX_DEPTH_PYDANTIC
from durable.serde.documents import BYTES_MARK
from durable.serde.doors import check_data, decoded, encoded, outward, readable, stable
from durable.serde.refusals import named, reason_of
from durable.serde.serde import Serde
from durable.serde.untyped import ANY, ANY_READER, unmarked

__all__ = [
    "ANY",
    "ANY_READER",
    "BYTES_MARK",
    "MAX_DEPTH",
    "MAX_DEPTH_PYDANTIC",
    "Serde",
    "check_data",
    "decoded",
    "encoded",
    "named",
    "outward",
    "readable",
    "reader",
    "reason_of",
    "serde_for",
    "stable",
    "unmarked",
    "writer",
]
