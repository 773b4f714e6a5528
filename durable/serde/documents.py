"""JSON documents: written, checked, and read by annotation."""

import math
import typing
from collections.abc import Callable
from typing import Any, Final, TypeVar

from durable.serde.depth import MAX_DEPTH, is_deeper
from durable.serde.refusals import decode_error, encode_error, reason_of
from durable.serde.roundtrip import difference
from durable.serde.serde import Serde

#: What stands before bytes that were written without an annotation. (No JSON text begins with a NUL.) It is long, so
#: that whoever reads them as `bytes` can tell it from the beginning of what was written as such.
BYTES_MARK: Final = b"\0bytes\0"


#: Of these, JSON has all there is.
_PLAIN: Final = (str, int, float, bool)


def json_serde(
    annotation: Any,
    write: Callable[[Any], bytes],
    read: Callable[[bytes], Any],
    schema: Callable[[], dict[str, Any] | None],
    plain: Callable[[Any], Any],
    depth_max: int = MAX_DEPTH,
    *,
    records: bool = True,
    any_reader: bool = False,
    usual: Callable[[Any], bytes] | None = None,
) -> Serde[Any]:
    """`plain` gives the same value in dicts and lists.

    What would come back as something else is refused. Without `records`, values that are equal have the same in
    them. With `any_reader`, whoever reads it may say its type. `usual` writes what strangers can read, where `write`
    says more.
    """
    too_deep = f"it is nested deeper than {depth_max} levels of lists and objects: flatten it"
    exact = annotation if annotation in _PLAIN else None
    short = 2 * depth_max  # no document of so many bytes is nested deeper
    takes_bytes = bytes in typing.get_args(annotation)  # as a member of a union

    def encode(value: Any) -> bytes:
        try:
            data = write(value)
        except Exception as exc:
            raise encode_error(annotation, value, reason_of(exc)) from exc
        if b"null" in data and (where := _not_finite(plain(value))) is not None:
            raise encode_error(annotation, value, f"{where}, and JSON has neither NaN nor infinity")
        if len(data) > short and is_deeper(data, depth_max):
            raise encode_error(annotation, value, too_deep)
        if type(value) is not exact:
            check(value, data)
        return data

    def check(value: Any, data: bytes) -> None:
        try:
            back = read(data)
        except Exception as exc:
            if not records:
                return  # whoever reads it says so, as of any other value
            raise encode_error(annotation, value, f"it could not be read back, {reason_of(exc)}") from exc
        if not records and _equal(value, back):
            return
        found = difference(value, back, any_reader=any_reader)
        if annotation is TypeVar and value != back:
            found = "a TypeVar does not say what to read it as"
        if found is not None:
            raise encode_error(annotation, value, found)

    def decode(data: bytes) -> Any:
        if len(data) > short and is_deeper(data, depth_max):
            raise decode_error(annotation, too_deep)
        if takes_bytes and data.startswith(BYTES_MARK):
            return data[len(BYTES_MARK) :]
        try:
            return read(data)
        except Exception as exc:
            raise decode_error(annotation, reason_of(exc)) from exc

    def outward(data: bytes) -> bytes:
        return data if usual is None else usual(read(data))

    return Serde(encode, decode, "application/json", schema, outward=None if usual is None else outward)


def _equal(value: Any, back: Any) -> bool:
    try:
        return bool(value == back)
    except Exception:  # whatever a class of the user's says
        return False


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
